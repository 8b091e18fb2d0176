"""ACME on the wire: headers, bodies and types that real clients depend on (RFC 8555 §6, §7), one test for each."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from acmeserver.http import RESOURCES
from issuance.request import Pending, Rejected
from pki.reasons import Reason, Rejection, Unavailable
from pki.strict import base64url
from storage.database import Database
from tests.helpers.acme_client import BASE, JOSE, AccountKey, AcmeClient, Reply, make_jws, to_json
from tests.helpers.acme_world import AcmeWorld, acme_world
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


async def ready(client: AcmeClient, *names: str, **members: Any) -> Reply:
    order = await client.order(*names, **members)
    assert order.status == 201, order.body
    await client.authorize(order)
    return order


async def issued(client: AcmeClient, *names: str) -> tuple[Reply, Reply]:
    order = await ready(client, *names)
    return order, await client.finalize(order, der_of(make_csr(*names)))


# ------------------------------------------------------------------------------------------------ directory and nonces


@pytest.mark.parametrize("path", ["/acme/directory", "/acme/default/directory"])
async def test_the_directory_names_what_there_is_and_nothing_else(world: AcmeWorld, path: str) -> None:
    reply = await world.client().request("GET", path)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json == {
        "newNonce": f"{BASE}/acme/default/new-nonce",
        "newAccount": f"{BASE}/acme/default/new-account",
        "newOrder": f"{BASE}/acme/default/new-order",
        "revokeCert": f"{BASE}/acme/default/revoke-cert",
    }
    assert reply.links == ()  # "index" on everything but the directory


async def test_the_directory_of_an_endpoint_tells_its_terms(world: AcmeWorld) -> None:
    reply = await world.client().request("GET", "/acme/choice/directory")
    assert reply.json["meta"] == {
        "termsOfService": "https://ca.test/terms",
        "website": "https://ca.test",
        "caaIdentities": ["ca.test"],
    }


async def test_new_nonce_is_200_to_head_and_204_to_get_and_never_stored(world: AcmeWorld) -> None:
    for method, status in (("HEAD", 200), ("GET", 204)):
        reply = await world.client().request(method, "/acme/default/new-nonce")
        assert reply.status == status
        assert reply.headers["Cache-Control"] == "no-store"
        assert re.fullmatch("[A-Za-z0-9_-]+", reply.headers["Replay-Nonce"])  # certbot decodes it
        assert reply.links == (INDEX,)
        assert reply.body == b""


async def test_urls_come_from_the_configuration_whatever_the_client_says_its_host_is(world: AcmeWorld) -> None:
    forged = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http", "Forwarded": "host=evil"}
    directory = await world.client().request("GET", "/acme/directory", headers=forged)
    assert b"evil" not in directory.body
    client = world.client()
    url = client.url("new-account")
    reply = await client.send(url, make_jws(client.key, await client.header(url, jwk=True), b"{}"), headers=forged)
    assert reply.status == 201
    assert reply.location.startswith(f"{BASE}/acme/default/account/")


# ------------------------------------------------------------------------------------------------ headers of every answer


async def test_every_answer_to_a_post_has_a_fresh_nonce_and_an_index_link(world: AcmeWorld, client: AcmeClient) -> None:
    order, final = await issued(client, "a.example.com")
    authorization = await client.post(order.json["authorizations"][0])
    challenge = authorization.json["challenges"][0]["url"]
    replies = [
        order,
        final,
        authorization,
        await client.post(challenge),
        await client.post(challenge, {}),
        await client.post(order.location),
        await client.post(client.kid),
        await client.post(final.json["certificate"]),
        await client.post(order.json["finalize"], {"csr": "-"}),
        await client.post(client.url("nowhere")),
        await client.send(client.url("new-order"), b"garbage"),
        await client.post(client.url("new-order"), {"identifiers": "x"}),
        await client.request("POST", client.url("new-order"), body=b"{}"),
    ]
    nonces = [reply.headers["Replay-Nonce"] for reply in replies]
    assert len(set(nonces)) == len(nonces)
    for reply in replies:
        assert INDEX in reply.links
        assert reply.headers["Cache-Control"] == "no-store"


async def test_links_are_one_header_line_each_with_quotes(client: AcmeClient) -> None:
    """lego's and uacme's parsers need it so."""
    order = await client.order("a.example.com")
    authorization = await client.post(order.json["authorizations"][0])
    reply = await client.post(authorization.json["challenges"][0]["url"], {})
    up = f'<{order.json["authorizations"][0]}>;rel="up"'
    assert sorted(reply.links) == sorted([up, INDEX])


async def test_location_is_on_account_order_and_finalize_answers(world: AcmeWorld) -> None:
    client = world.client()
    created = await client.register()
    again = await client.register()
    assert (created.status, again.status) == (201, 200)
    assert created.location == again.location
    order, final = await issued(client, "a.example.com")
    read = await client.post(order.location)
    assert final.location == read.location == order.location


async def test_a_certificate_is_a_pem_chain_without_rel_up(world: AcmeWorld, client: AcmeClient) -> None:
    """acmez and mod_md would follow rel=up and append the chain a second time."""
    _, final = await issued(client, "a.example.com")
    reply = await client.post(final.json["certificate"])
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/pem-certificate-chain"
    assert reply.links == (INDEX,)
    assert reply.body.count(b"BEGIN CERTIFICATE") == 2
    assert reply.body.startswith(b"-----BEGIN CERTIFICATE-----\n")


async def test_json_is_application_json_and_errors_are_problem_json(client: AcmeClient) -> None:
    order = await client.order("a.example.com")
    assert order.headers["Content-Type"] == "application/json"
    bad = await client.order("not a name")
    assert bad.headers["Content-Type"] == "application/problem+json"
    assert bad.json["status"] == bad.status == 400


# ------------------------------------------------------------------------------------------------ accounts


async def test_an_account_keeps_its_contacts_and_consent(world: AcmeWorld) -> None:
    client = world.client()
    created = await client.register(contact=["mailto:ops@example.com"])
    expected = {"status": "valid", "contact": ["mailto:ops@example.com"], "termsOfServiceAgreed": True}
    assert created.json == expected
    assert (await client.post(client.kid)).json == expected
    assert (await client.post(client.kid, {})).json == expected  # both are reads


async def test_contacts_can_be_changed_and_taken_away(client: AcmeClient) -> None:
    changed = await client.post(client.kid, {"contact": ["mailto:new@example.com"]})
    assert changed.json["contact"] == ["mailto:new@example.com"]
    assert (await client.post(client.kid, {"contact": []})).json["contact"] == []
    assert (await client.post(client.kid)).json["contact"] == []


async def test_an_update_with_the_whole_account_in_it_changes_the_contacts_only(client: AcmeClient) -> None:
    """RFC 8555 §7.3.2: certbot sends back all that it knows."""
    whole = {"status": "valid", "contact": ["mailto:new@example.com"], "orders": "x", "termsOfServiceAgreed": False, "key": {}}
    reply = await client.post(client.kid, whole)
    assert reply.json == {"status": "valid", "contact": ["mailto:new@example.com"], "termsOfServiceAgreed": True}


@pytest.mark.parametrize(
    ("contact", "problem"),
    [
        ("tel:+15555", "unsupportedContact"),
        ("mailto:a@example.com,b@example.com", "invalidContact"),
        ("mailto:a@example.com?subject=x", "invalidContact"),
        ("mailto:", "invalidContact"),
        ("mailto:a b@example.com", "invalidContact"),
    ],
)
async def test_bad_contacts_are_refused_by_their_own_type(world: AcmeWorld, contact: str, problem: str) -> None:
    assert (await world.client().register(contact=[contact])).problem == problem


async def test_only_return_existing_finds_or_says_that_there_is_none(world: AcmeWorld) -> None:
    client = world.client()
    missing = await client.register(onlyReturnExisting=True)
    assert (missing.status, missing.problem) == (400, "accountDoesNotExist")
    created = await client.register()
    found = await client.register(onlyReturnExisting=True)
    assert (found.status, found.location) == (200, created.location)


async def test_an_endpoint_with_terms_wants_consent(world: AcmeWorld) -> None:
    client = world.client("choice")
    refused = await client.register(termsOfServiceAgreed=False)
    assert (refused.status, refused.problem) == (403, "userActionRequired")
    assert '<https://ca.test/terms>;rel="terms-of-service"' in refused.links
    assert (await client.register()).status == 201


async def test_a_deactivated_account_is_unauthorized_everywhere(world: AcmeWorld, client: AcmeClient) -> None:
    order = await ready(client, "a.example.com")
    gone = await client.post(client.kid, {"status": "deactivated"})
    assert (gone.status, gone.json["status"]) == (200, "deactivated")
    replies = [
        await client.post(client.kid),
        await client.order("b.example.com"),
        await client.post(order.location),
        await client.post(order.json["authorizations"][0]),
        await client.finalize(order, der_of(make_csr("a.example.com"))),
        await client.register(),
        await client.register(onlyReturnExisting=True),
    ]
    assert {(reply.status, reply.problem) for reply in replies} == {(403, "unauthorized")}
    assert world.issuance.requests == []


async def test_one_key_has_an_account_of_its_own_at_each_endpoint(world: AcmeWorld, client: AcmeClient) -> None:
    elsewhere = AcmeClient(world.http, key=client.key, endpoint="other", kid=client.kid)
    assert (await elsewhere.order("a.example.com")).problem == "accountDoesNotExist"  # a kid is good at its endpoint only
    assert (await elsewhere.register()).status == 201
    assert elsewhere.kid != client.kid


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
    assert [(str(each.identifier), each.method) for each in request.evidence] == [  # type: ignore[union-attr]
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


# ------------------------------------------------------------------------------------------------ JWS and HTTP strictness


async def test_a_nonce_is_good_once(client: AcmeClient) -> None:
    nonce = await client.nonce()
    assert (await client.post(client.kid, nonce=nonce)).status == 200
    replay = await client.post(client.kid, nonce=nonce)
    assert (replay.status, replay.problem) == (400, "badNonce")
    assert replay.json["detail"] == "JWS has an invalid anti-replay nonce"  # acme.sh looks for this text
    assert (await client.post(client.kid, nonce=replay.headers["Replay-Nonce"])).status == 200


async def test_a_bad_signature_does_not_spend_the_nonce(client: AcmeClient) -> None:
    nonce = await client.nonce()
    jws = make_jws(AccountKey(), await client.header(client.kid, nonce=nonce), b"")
    assert (await client.send(client.kid, jws)).problem == "malformed"
    assert (await client.post(client.kid, nonce=nonce)).status == 200


@pytest.mark.parametrize("nonce", ["AAAA", base64url(bytes(40)), "A" * 200])
async def test_nonces_that_are_not_ours_are_bad(client: AcmeClient, nonce: str) -> None:
    assert (await client.post(client.kid, nonce=nonce)).problem == "badNonce"


async def test_the_url_must_be_the_one_that_is_posted_to(client: AcmeClient) -> None:
    for url in (client.url("new-order"), client.kid + "/", client.kid + "?x", client.kid.replace("https", "http")):
        reply = await client.send(client.kid, make_jws(client.key, await client.header(url), b""))
        assert (reply.status, reply.problem) == (403, "unauthorized")


@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream", "text/plain", ""])
async def test_requests_have_the_jose_content_type(client: AcmeClient, content_type: str) -> None:
    jws = make_jws(client.key, await client.header(client.kid), b"")
    reply = await client.send(client.kid, jws, headers={"Content-Type": content_type})
    assert (reply.status, reply.problem) == (415, "malformed")


async def test_a_content_type_with_parameters_is_the_same_type(client: AcmeClient) -> None:
    jws = make_jws(client.key, await client.header(client.kid), b"")
    reply = await client.send(client.kid, jws, headers={"Content-Type": "application/jose+json; charset=utf-8"})
    assert reply.status == 200


async def test_a_request_with_a_replay_nonce_header_is_refused(client: AcmeClient) -> None:
    jws = make_jws(client.key, await client.header(client.kid), b"")
    assert (await client.send(client.kid, jws, headers={"Replay-Nonce": "x"})).problem == "malformed"


async def test_a_body_past_50000_octets_is_413(client: AcmeClient) -> None:
    reply = await client.send(client.kid, b"x" * 50_001)
    assert (reply.status, reply.problem) == (413, "malformed")


async def test_a_chunked_or_compressed_body_is_a_body(client: AcmeClient) -> None:
    body = to_json(make_jws(client.key, await client.header(client.kid), b""))

    async def chunks() -> AsyncIterator[bytes]:
        yield body[:10]
        yield body[10:]

    async with client.http.post(client.kid.removeprefix(BASE), data=chunks(), headers={"Content-Type": JOSE}) as response:
        assert response.status == 200
    body = to_json(make_jws(client.key, await client.header(client.kid), b""))
    reply = await client.send(client.kid, zlib.compress(body), headers={"Content-Encoding": "deflate"})
    assert reply.status == 200


async def test_a_compressed_body_counts_as_long_as_it_is_unpacked(client: AcmeClient) -> None:
    reply = await client.send(client.kid, zlib.compress(bytes(10_000_000)), headers={"Content-Encoding": "deflate"})
    assert (reply.status, reply.problem) == (413, "malformed")


async def test_a_compressed_body_that_is_not_what_it_says_is_400(client: AcmeClient) -> None:
    reply = await client.send(client.kid, b"not gzip", headers={"Content-Encoding": "gzip"})
    assert (reply.status, reply.problem) == (400, "malformed")


@pytest.mark.parametrize(
    "key",
    [
        AccountKey(ec.generate_private_key(ec.SECP256R1())),
        AccountKey(ec.generate_private_key(ec.SECP384R1())),
        AccountKey(ec.generate_private_key(ec.SECP521R1())),
        AccountKey(rsa.generate_private_key(65537, 2048)),
        AccountKey(ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=lambda key: str(key.alg),
)
async def test_accounts_of_every_kind_of_key(world: AcmeWorld, key: AccountKey) -> None:
    client = AcmeClient(world.http, key=key)
    assert (await client.register()).status == 201
    _, final = await issued(client, "a.example.com")
    assert final.json["status"] == "valid"


async def test_key_or_account_as_the_resource_wants_it(client: AcmeClient) -> None:
    assert (await client.post(client.url("new-account"), {})).problem == "malformed"  # kid
    order = await client.order("a.example.com")
    for url in (client.kid, client.url("new-order"), order.location, order.json["finalize"], order.json["authorizations"][0]):
        assert (await client.post(url, jwk=True)).problem == "malformed"


@pytest.mark.parametrize("kid", ["x", "", f"{BASE}/acme/default/account/", f"{BASE}/acme/default/account/nobody", "\x00"])
async def test_a_kid_that_is_no_account_is_account_does_not_exist(client: AcmeClient, kid: str) -> None:
    client.kid = kid
    reply = await client.post(client.url("new-order"), {})
    assert (reply.status, reply.problem) == (400, "accountDoesNotExist")


async def test_post_as_get_has_an_empty_payload(client: AcmeClient) -> None:
    order, final = await issued(client, "a.example.com")
    for url in (order.location, final.json["certificate"], order.json["authorizations"][0]):
        assert (await client.post(url, {})).problem == "malformed"


async def test_plain_get_of_what_needs_a_signature_is_405(client: AcmeClient) -> None:
    """RFC 8555 §6.3: for every resource of the table, and for every method."""
    concrete = [f"{client.url('')}{re.sub('{[^/]*}', 'ab', each.path)}" for each in RESOURCES]
    for url in concrete:
        for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH"):
            reply = await client.request(method, url)
            assert (reply.status, reply.headers["Allow"]) == (405, "POST")
        unsigned = await client.send(url, b"{}")
        assert (unsigned.status, unsigned.problem) == (400, "malformed")


@pytest.mark.parametrize(
    "path", ["nowhere", "", "order/", "order/a%2Fb", "order/a;x", "directory/", "account/%00", "Directory"]
)
async def test_unknown_paths_are_404_problems(world: AcmeWorld, path: str) -> None:
    reply = await world.client().request("POST", world.client().url(path))
    assert (reply.status, reply.problem) == (404, "malformed")


async def test_an_unknown_endpoint_is_404(world: AcmeWorld) -> None:
    for path in ("directory", "new-nonce", "new-order"):
        reply = await world.client("nowhere").request("GET", world.client("nowhere").url(path))
        assert (reply.status, reply.problem) == (404, "malformed")
