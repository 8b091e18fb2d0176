"""ACME orders on the wire: from newOrder to certificate and revocation, as real clients depend on it (RFC 8555 §7.4-7.6)."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from issuance.request import Pending, Rejected
from pki.reasons import Reason, Rejection, Unavailable
from pki.strict import base64url
from storage.database import Database
from tests.helpers.acme_client import BASE, AccountKey, AcmeClient, Reply
from tests.helpers.acme_world import AcmeWorld, acme_world, issued, ready
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr
from validation.outcome import FailureKind

INDEX = f'<{BASE}/acme/directory>;rel="index"'


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock) as world:
        yield world


@pytest.fixture
async def client(world: AcmeWorld) -> AcmeClient:
    return await world.registered()


# ------------------------------------------------------------------------------------------------ orders


async def test_an_order_shows_its_members_and_echoes_names_as_sent(client: AcmeClient) -> None:
    """lego compares type and value as they are."""
    order = await client.order("WWW.Example.com", "192.0.2.1", "2001:DB8::1")
    assert order.status == 201
    content = order.json
    assert [each["value"] for each in content["identifiers"]] == ["WWW.Example.com", "192.0.2.1", "2001:DB8::1"]
    assert set(content) == {"status", "expires", "identifiers", "authorizations", "finalize"}
    assert content["status"] == "pending"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", content["expires"])
    assert len(content["authorizations"]) == 3


async def test_names_that_are_the_same_are_ordered_once(client: AcmeClient) -> None:
    order = await client.order("a.example.com", "A.EXAMPLE.COM", "a.example.com")
    assert order.json["identifiers"] == [{"type": "dns", "value": "a.example.com"}]
    assert len(order.json["authorizations"]) == 1


async def test_an_authorization_shows_its_challenge_flat_with_type_url_status_token_first(client: AcmeClient) -> None:
    """acme.sh reads this with sed."""
    order = await client.order("a.example.com")
    url = order.json["authorizations"][0]
    authorization = await client.post(url)
    assert authorization.json["identifier"] == {"type": "dns", "value": "a.example.com"}
    (challenge,) = authorization.json["challenges"]
    assert list(challenge) == ["type", "url", "status", "token"]
    assert (challenge["type"], challenge["status"]) == ("http-01", "pending")
    assert re.fullmatch("[A-Za-z0-9_-]{43}", challenge["token"])
    assert "wildcard" not in authorization.json
    assert authorization.body.decode().index('"challenges":[{"type":"http-01","url":') > 0


async def test_a_wildcard_without_dns_01_is_refused_with_the_reason(client: AcmeClient) -> None:
    reply = await client.order("*.example.com")
    assert (reply.status, reply.problem) == (400, "rejectedIdentifier")
    assert "dns-01" in reply.json["detail"]
    assert "http-01" in reply.json["detail"]


async def test_a_wildcard_keeps_its_star_in_the_order_and_leaves_it_in_the_authorization(world: AcmeWorld) -> None:
    client = await world.registered("choice")
    order = await client.order("*.example.com", "example.com")
    assert [each["value"] for each in order.json["identifiers"]] == ["*.example.com", "example.com"]
    starred, base = [(await client.post(url)).json for url in order.json["authorizations"]]
    assert starred["identifier"] == base["identifier"] == {"type": "dns", "value": "example.com"}
    assert starred["wildcard"] is True
    assert "wildcard" not in base
    assert [each["type"] for each in starred["challenges"]] == ["dns-01"]
    assert [each["type"] for each in base["challenges"]] == ["http-01", "dns-01"]
    final = await ready(client, "*.example.com", "example.com")
    assert (await client.finalize(final, der_of(make_csr("example.com", "*.example.com")))).json["status"] == "valid"


async def test_each_bad_name_of_an_order_has_its_share_in_the_subproblems(client: AcmeClient) -> None:
    identifiers = [
        {"type": "dns", "value": "good.example.com"},
        {"type": "dns", "value": "bad_name.example.com"},
        {"type": "email", "value": "a@example.com"},
    ]
    reply = await client.post(client.url("new-order"), {"identifiers": identifiers})
    assert (reply.status, reply.problem) == (400, "compound")
    shares = reply.json["subproblems"]
    assert [share["identifier"] for share in shares] == identifiers[1:]
    kinds = [share["type"].rpartition(":")[2] for share in shares]
    assert kinds == ["rejectedIdentifier", "unsupportedIdentifier"]


@pytest.mark.parametrize("value", ["127.1", "2130706433", "0x7f.1", "a..b", "*.*.example.com", "a.example.com.", "-a.com", ""])
async def test_what_is_no_name_is_a_rejected_identifier(client: AcmeClient, value: str) -> None:
    reply = await client.post(client.url("new-order"), {"identifiers": [{"type": "dns", "value": value}]})
    assert (reply.status, reply.problem) == (400, "rejectedIdentifier")


async def test_policy_is_asked_before_anybody_proves_anything(world: AcmeWorld, client: AcmeClient) -> None:
    world.policy.refuse(Rejection(Reason.REJECTED_IDENTIFIER, "not here", suggestions=["ask for *.example.org"]))
    reply = await client.order("a.example.com")
    assert reply.problem == "rejectedIdentifier"
    assert reply.json["detail"] == "not here; ask for *.example.org"
    ((principal, profile, names),) = world.policy.asked
    assert (str(principal), profile, names) == (
        f"acme-account:{client.kid.rpartition('/')[2]}",
        "tls-server",
        ("a.example.com",),
    )
    assert principal.roles == {"acme"}


async def test_an_order_is_for_a_hundred_names_at_most(client: AcmeClient) -> None:
    names = [f"n{number}.example.com" for number in range(101)]
    assert (await client.order(*names)).problem == "malformed"
    order = await client.order(*names[:100])
    assert len(order.json["authorizations"]) == 100


async def test_an_order_may_name_one_of_the_profiles_of_its_endpoint(world: AcmeWorld) -> None:
    client = await world.registered("choice")
    order = await ready(client, "a.example.com", profile="short-lived")
    assert order.json["profile"] == "short-lived"
    await client.finalize(order, der_of(make_csr("a.example.com")))
    assert world.issuance.requests[0].profile == "short-lived"
    unknown = await client.order("a.example.com", profile="nope")
    assert (unknown.status, unknown.problem) == (400, "invalidProfile")


async def test_wanted_times_are_echoed_and_passed_on(world: AcmeWorld, client: AcmeClient) -> None:
    times = {"notBefore": "2026-12-01T00:00:00Z", "notAfter": "2026-12-08T02:00:00+02:00"}
    order = await ready(client, "a.example.com", **times)
    assert (order.json["notBefore"], order.json["notAfter"]) == ("2026-12-01T00:00:00Z", "2026-12-08T00:00:00Z")
    await client.finalize(order, der_of(make_csr("a.example.com")))
    request = world.issuance.requests[0]
    assert request.not_before is not None
    assert request.not_after is not None
    assert request.not_after - request.not_before == 7 * 86_400_000_000


# ------------------------------------------------------------------------------------------------ challenges


async def test_a_challenge_post_is_answered_with_the_final_state(world: AcmeWorld, client: AcmeClient) -> None:
    order = await client.order("a.example.com")
    authorization = await client.post(order.json["authorizations"][0])
    pending = authorization.json["challenges"][0]
    reply = await client.post(pending["url"], {})
    assert reply.json["status"] == "valid"
    assert reply.json["url"] == pending["url"]  # certbot insists
    assert "validated" in reply.json
    assert (await client.post(order.location)).json["status"] == "ready"
    ((name, key_authorization),) = world.http01.calls
    assert name == "a.example.com"
    assert key_authorization.startswith(f"{pending['token']}.")


async def test_reading_a_challenge_does_not_start_it(world: AcmeWorld, client: AcmeClient) -> None:
    order = await client.order("a.example.com")
    challenge = (await client.post(order.json["authorizations"][0])).json["challenges"][0]
    assert (await client.post(challenge["url"])).json == challenge
    assert world.http01.calls == []


async def test_a_legacy_key_authorization_in_the_answer_is_ignored(client: AcmeClient) -> None:
    order = await client.order("a.example.com")
    challenge = (await client.post(order.json["authorizations"][0])).json["challenges"][0]
    reply = await client.post(challenge["url"], {"keyAuthorization": "from.v1", "resource": "challenge"})
    assert reply.json["status"] == "valid"


async def test_posting_to_a_valid_challenge_again_is_no_error(world: AcmeWorld, client: AcmeClient) -> None:
    order = await ready(client, "a.example.com")
    challenge = (await client.post(order.json["authorizations"][0])).json["challenges"][0]
    again = await client.post(challenge["url"], {})
    assert (again.status, again.json["status"]) == (200, "valid")
    assert len(world.http01.calls) == 1


@pytest.mark.parametrize(
    ("kind", "problem"), [(FailureKind.CONNECTION, "connection"), (FailureKind.UNAUTHORIZED, "unauthorized")]
)
async def test_a_failed_challenge_ends_authorization_and_order_at_once_with_the_reason(
    world: AcmeWorld, client: AcmeClient, kind: FailureKind, problem: str
) -> None:
    """certbot and Caddy would wait for ever otherwise."""
    world.http01.failing["a.example.com"] = kind
    order = await client.order("a.example.com", "b.example.com")
    url = order.json["authorizations"][0]
    challenge = (await client.post(url)).json["challenges"][0]
    reply = await client.post(challenge["url"], {})
    assert reply.json["status"] == "invalid"
    assert list(reply.json)[-1] == "error"  # nested parts last
    authorization, after = await client.post(url), await client.post(order.location)
    assert authorization.json["status"] == after.json["status"] == "invalid"
    for error in (reply.json["error"], authorization.json["challenges"][0]["error"], after.json["error"]):
        assert error["type"] == f"urn:ietf:params:acme:error:{problem}"
        assert "a.example.com" in error["detail"]
    assert (await client.finalize(order, der_of(make_csr("a.example.com", "b.example.com")))).problem == "orderNotReady"


async def test_a_challenge_that_is_not_offered_is_not_there(client: AcmeClient) -> None:
    order = await client.order("a.example.com")
    challenge = (await client.post(order.json["authorizations"][0])).json["challenges"][0]["url"]
    for kind in ("dns-01", "tls-alpn-01", "nonsense"):
        assert (await client.post(challenge.replace("http-01", kind), {})).status == 404


async def test_an_authorization_can_be_given_up_and_takes_its_order_along(client: AcmeClient) -> None:
    order = await ready(client, "a.example.com")
    url = order.json["authorizations"][0]
    gone = await client.post(url, {"status": "deactivated"})
    assert (gone.status, gone.json["status"]) == (200, "deactivated")
    assert (await client.post(order.location)).json["status"] == "invalid"
    assert (await client.finalize(order, der_of(make_csr("a.example.com")))).problem == "orderNotReady"
    assert (await client.post(url, {"status": "deactivated"})).problem == "malformed"
    assert (await client.post(url, {"status": "valid"})).problem == "malformed"


# ------------------------------------------------------------------------------------------------ finalize


async def test_finalize_answers_with_the_valid_order_and_its_certificate(world: AcmeWorld, client: AcmeClient) -> None:
    order, final = await issued(client, "a.example.com", "b.example.com")
    assert final.status == 200
    assert final.json["status"] == "valid"
    assert final.json == (await client.post(order.location)).json
    (request,) = world.issuance.requests
    assert [(str(each.identifier), each.method) for each in request.evidence] == [  # type: ignore[union-attr]  # challenges, all of them
        ("a.example.com", "http-01"),
        ("b.example.com", "http-01"),
    ]


async def test_a_finalize_too_early_is_403_order_not_ready_with_the_order_in_the_detail(client: AcmeClient) -> None:
    order = await client.order("a.example.com")
    reply = await client.finalize(order, der_of(make_csr("a.example.com")))
    assert (reply.status, reply.problem) == (403, "orderNotReady")
    assert order.location in reply.json["detail"]


async def test_a_second_finalize_is_403_order_not_ready(world: AcmeWorld, client: AcmeClient) -> None:
    order, _ = await issued(client, "a.example.com")
    reply = await client.finalize(order, der_of(make_csr("a.example.com")))
    assert (reply.status, reply.problem) == (403, "orderNotReady")
    assert len(world.issuance.records) == 1


async def test_a_bad_csr_leaves_the_order_ready(world: AcmeWorld, client: AcmeClient) -> None:
    order = await ready(client, "a.example.com")
    account = client.key.key
    assert isinstance(account, ec.EllipticCurvePrivateKey)
    for csr, needle in (
        (b"garbage", ""),
        (der_of(make_csr("b.example.com")), "it lacks: a.example.com; it has besides: b.example.com"),
        (der_of(make_csr("a.example.com", "b.example.com")), "it has besides: b.example.com"),
        (der_of(make_csr("a.example.com", common_name="b.example.com")), "b.example.com"),
        (der_of(make_csr("a.example.com", common_name="router seven")), "router seven"),
        (der_of(make_csr("a.example.com", key=account)), "account's own key"),
    ):
        reply = await client.finalize(order, csr)
        assert (reply.status, reply.problem) == (400, "badCSR")
        assert needle in reply.json["detail"]
    assert world.issuance.requests == []
    assert (await client.post(order.location)).json["status"] == "ready"


async def test_names_may_come_in_any_order_and_case_and_partly_as_common_name(client: AcmeClient) -> None:
    order = await ready(client, "a.example.com", "b.example.com")
    csr = make_csr("B.example.com", common_name="A.EXAMPLE.com")
    assert (await client.finalize(order, der_of(csr))).json["status"] == "valid"


async def test_a_padded_csr_is_taken(client: AcmeClient) -> None:
    """Synology pads."""
    order = await ready(client, "a.example.com")
    key = ec.generate_private_key(ec.SECP256R1())
    padded = next(
        text
        for text in (
            base64url(der_of(make_csr("a.example.com", common_name=None, challenge="x" * n, key=key))) for n in range(1, 9)
        )
        if len(text) % 4
    )
    padded += "=" * (-len(padded) % 4)
    reply = await client.post(order.json["finalize"], {"csr": padded})
    assert reply.json["status"] == "valid", reply.body


async def test_a_pending_issuance_is_a_processing_order_with_retry_after(world: AcmeWorld, client: AcmeClient) -> None:
    order = await ready(client, "a.example.com")
    world.issuance.script.append(Pending("issuance", retry_after=30))
    reply = await client.finalize(order, der_of(make_csr("a.example.com")))
    assert (reply.status, reply.json["status"], reply.headers["Retry-After"]) == (200, "processing", "3")
    assert reply.location == order.location


async def test_a_refusal_before_the_intent_leaves_the_order_ready(world: AcmeWorld, client: AcmeClient) -> None:
    order = await ready(client, "a.example.com")
    world.issuance.script.append(Rejected(Rejection(Reason.CAA_FORBIDS, "CAA of example.com says no")))
    reply = await client.finalize(order, der_of(make_csr("a.example.com")))
    assert (reply.status, reply.problem, reply.json["detail"]) == (403, "caa", "CAA of example.com says no")
    assert (await client.post(order.location)).json["status"] == "ready"


async def test_a_failure_after_the_intent_makes_the_order_invalid_with_the_reason(world: AcmeWorld, client: AcmeClient) -> None:
    order = await ready(client, "a.example.com")
    world.issuance.fails_after_began.append(Rejection(Reason.INTERRUPTED, "the server stopped while it was signing"))
    await client.finalize(order, der_of(make_csr("a.example.com")))
    after = (await client.post(order.location)).json
    assert after["status"] == "invalid"
    assert after["error"]["detail"] == "the server stopped while it was signing"


async def test_an_outage_is_503_with_retry_after_and_the_order_stays_ready(world: AcmeWorld, client: AcmeClient) -> None:
    order = await ready(client, "a.example.com")
    world.issuance.script.append(Unavailable("signer", retry_after=7))
    reply = await client.finalize(order, der_of(make_csr("a.example.com")))
    assert (reply.status, reply.problem, reply.headers["Retry-After"]) == (503, "serverInternal", "7")
    assert "signer" not in reply.json["detail"]
    assert (await client.post(order.location)).json["status"] == "ready"


async def test_why_a_request_was_refused_is_in_the_log(client: AcmeClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="acmeserver.http"):
        await client.order("foo_bar.example.com")
    assert "refused: rejectedIdentifier: " in caplog.text
    assert "'foo_bar.example.com' is no name for a certificate" in caplog.text


async def test_a_bug_is_a_bare_500_and_a_line_in_the_log(world: AcmeWorld, client: AcmeClient) -> None:
    order = await ready(client, "a.example.com")
    world.issuance.script.append(RuntimeError("secret inside"))
    reply = await client.finalize(order, der_of(make_csr("a.example.com")))
    assert (reply.status, reply.problem) == (500, "serverInternal")
    assert b"secret" not in reply.body
    ((event, fields),) = world.log.events
    assert event == "acme.internal_error"
    assert str(fields["request_id"]) in reply.json["detail"]


# ------------------------------------------------------------------------------------------------ time


async def test_orders_and_authorizations_past_their_time_are_gone(
    client: AcmeClient, clock: FakeClock, world: AcmeWorld
) -> None:
    order = await ready(client, "a.example.com")
    clock.advance(world.server.served["default"].endpoint.order_lifetime)
    replies = [
        await client.post(order.location),
        await client.post(order.json["authorizations"][0]),
        await client.finalize(order, der_of(make_csr("a.example.com"))),
    ]
    assert {reply.status for reply in replies} == {404}


# ------------------------------------------------------------------------------------------------ revocation


async def revocation(client: AcmeClient, final: Reply) -> str:
    chain = (await client.post(final.json["certificate"])).body.decode()
    return chain.split("-----")[2].replace("\n", "").replace("+", "-").replace("/", "_").rstrip("=")


async def test_revocation_by_the_account_is_exactly_200_and_the_second_is_already_revoked(
    world: AcmeWorld, client: AcmeClient
) -> None:
    _, final = await issued(client, "a.example.com")
    certificate = await revocation(client, final)
    reply = await client.post(client.url("revoke-cert"), {"certificate": certificate, "reason": 4})
    assert (reply.status, reply.body) == (200, b"")
    (record,) = world.issuance.records.values()
    assert record.reason == 4
    again = await client.post(client.url("revoke-cert"), {"certificate": certificate})
    assert (again.status, again.problem) == (400, "alreadyRevoked")


async def test_revocation_by_the_certificates_own_key(world: AcmeWorld, client: AcmeClient) -> None:
    key = AccountKey()
    assert isinstance(key.key, ec.EllipticCurvePrivateKey)
    order = await ready(client, "a.example.com")
    final = await client.finalize(order, der_of(make_csr("a.example.com", key=key.key)))
    certificate = await revocation(client, final)
    stranger, holder = world.client(), AcmeClient(world.http, key=key)
    refused = await stranger.post(stranger.url("revoke-cert"), {"certificate": certificate}, jwk=True)
    assert (refused.status, refused.problem) == (403, "unauthorized")
    assert (await holder.post(holder.url("revoke-cert"), {"certificate": certificate, "reason": 1}, jwk=True)).status == 200


async def test_another_account_may_revoke_only_when_it_controls_all_the_names(world: AcmeWorld, client: AcmeClient) -> None:
    """RFC 8555 §7.6."""
    _, final = await issued(client, "a.example.com", "b.example.com")
    certificate = await revocation(client, final)
    other = await world.registered()
    await ready(other, "a.example.com")
    refused = await other.post(other.url("revoke-cert"), {"certificate": certificate})
    assert (refused.status, refused.problem) == (403, "unauthorized")
    await ready(other, "b.example.com")
    assert (await other.post(other.url("revoke-cert"), {"certificate": certificate})).status == 200


@pytest.mark.parametrize("reason", [2, 6, 7, 8, 10, 99, -1, True, "1"])
async def test_reasons_that_are_not_a_subscribers_are_refused(world: AcmeWorld, client: AcmeClient, reason: object) -> None:
    _, final = await issued(client, "a.example.com")
    certificate = await revocation(client, final)
    reply = await client.post(client.url("revoke-cert"), {"certificate": certificate, "reason": reason})
    assert (reply.status, reply.problem) == (400, "badRevocationReason")
    assert all(record.revoked_at is None for record in world.issuance.records.values())


async def test_a_certificate_of_another_ca_or_none_at_all_cannot_be_revoked(world: AcmeWorld, client: AcmeClient) -> None:
    foreign = await client.post(client.url("revoke-cert"), {"certificate": base64url(world.issuance.ca.der)})
    assert (foreign.status, foreign.problem) == (404, "malformed")
    garbage = await client.post(client.url("revoke-cert"), {"certificate": "AAAA"})
    assert (garbage.status, garbage.problem) == (400, "malformed")
