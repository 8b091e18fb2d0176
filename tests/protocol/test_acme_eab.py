"""External account binding (RFC 8555 §7.3.4): an operator's key makes an account, once, and says what it may have."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from acmeserver.endpoint import AcmeEndpoint
from pki.clock import after
from pki.reasons import Rejection
from pki.sealing import Sealer
from pki.strict import base64url, from_base64url
from policy.principal import COMMAND_LINE
from storage.database import Conflict, Database, Step
from storage.open import open_database
from tests.helpers.acme_account import binding, change_key, external_keys, new_external_key, with_key
from tests.helpers.acme_client import BASE, AccountKey, AcmeClient, Reply
from tests.helpers.acme_world import AcmeWorld, acme_world, ready
from tests.helpers.clock import FakeClock
from tests.helpers.databases import second_node
from tests.helpers.issuance_simulator import der_of, make_csr

BOTH = ("tls-server", "short-lived")
ENDPOINTS = (
    AcmeEndpoint(name="none", profiles=BOTH, roles=frozenset({"acme"})),
    AcmeEndpoint(name="optional", profiles=BOTH, roles=frozenset({"acme"}), external_account="optional"),
    AcmeEndpoint(name="required", profiles=BOTH, roles=frozenset({"acme"}), external_account="required"),
)


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock, endpoints=ENDPOINTS) as world:
        yield world
        assert world.log.events == []


async def bound(world: AcmeWorld, clock: FakeClock, endpoint: str = "optional", **key: Any) -> tuple[AcmeClient, str]:
    """A new account that is bound to a new key, and the key's id."""
    made = await new_external_key(world.database, clock, endpoint=endpoint, **key)
    client = world.client(endpoint)
    reply = await client.register(externalAccountBinding=binding(client, made))
    assert reply.status == 201, reply.body
    return client, made.kid


# ------------------------------------------------------------------------------------------------ what it is for


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("endpoint", ["optional", "required"])
async def test_a_key_makes_an_account_that_shows_its_binding(
    world: AcmeWorld, clock: FakeClock, endpoint: str, alg: str
) -> None:
    made, client = await new_external_key(world.database, clock, endpoint=endpoint), world.client(endpoint)
    sent = binding(client, made, alg=alg)
    created = await client.register(externalAccountBinding=sent)
    assert (created.status, created.json["externalAccountBinding"]) == (201, sent)
    assert (await client.post(client.kid)).json["externalAccountBinding"] == sent
    assert (await client.order("a.example.com")).status == 201


async def test_where_it_is_required_nothing_goes_without(world: AcmeWorld) -> None:
    directory = await world.client().request("GET", "/acme/required/directory")
    assert directory.json["meta"]["externalAccountRequired"] is True
    refused = await world.client("required").register()
    assert (refused.status, refused.problem) == (403, "externalAccountRequired")
    assert "operator" in refused.json["detail"]


async def test_where_it_is_optional_both_ways_lead_in(world: AcmeWorld) -> None:
    directory = await world.client().request("GET", "/acme/optional/directory")
    assert "externalAccountRequired" not in directory.json.get("meta", {})
    client = await world.registered("optional")
    assert "externalAccountBinding" not in (await client.post(client.kid)).json
    assert (await client.order("a.example.com")).status == 201


async def test_an_endpoint_without_external_accounts_verifies_none_and_shows_none(world: AcmeWorld, clock: FakeClock) -> None:
    """§7.3.4: a CA that does not verify it MUST NOT reflect it."""
    made, client = await new_external_key(world.database, clock, endpoint="none"), world.client("none")
    created = await client.register(externalAccountBinding=binding(client, made))
    assert created.status == 201
    assert "externalAccountBinding" not in created.json
    ((key, accounts),) = await external_keys(world.database, clock).list()
    assert (key.used_at, accounts) == (None, 0)


async def test_a_key_that_this_server_cannot_open_is_an_outage_that_an_operator_mends(
    world: AcmeWorld, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    made = await new_external_key(world.database, clock)
    other = Sealer([bytes(32)])
    async with acme_world(world.database, clock, endpoints=ENDPOINTS, sealer=other) as misconfigured:
        client = misconfigured.client("optional")
        reply = await client.register(externalAccountBinding=binding(client, made))
        assert (reply.status, reply.problem) == (503, "serverInternal")
        assert reply.headers["Retry-After"].isdigit()
        assert misconfigured.log.events == []
        assert "not in secrets_key_file" in caplog.text


async def test_a_found_account_spends_no_key_and_wants_none(world: AcmeWorld, clock: FakeClock) -> None:
    client, _ = await bound(world, clock, "required")
    second = await new_external_key(world.database, clock, endpoint="required")
    found = await client.register(externalAccountBinding=binding(client, second))
    assert (found.status, found.location) == (200, client.kid)
    assert (await client.register(onlyReturnExisting=True)).status == 200
    assert [key.used_at for key, _ in await external_keys(world.database, clock).list() if key.kid == second.kid] == [None]


async def test_the_outer_key_may_be_written_otherwise_in_the_binding(world: AcmeWorld, clock: FakeClock) -> None:
    """Keys are the same when their thumbprints are; clients add members and change their order."""
    made, client = await new_external_key(world.database, clock), world.client("optional")
    written = orjson.dumps({"use": "sig", **dict(reversed(client.key.jwk.items()))}, option=orjson.OPT_INDENT_2)
    assert (await client.register(externalAccountBinding=binding(client, made, payload=written))).status == 201


# ------------------------------------------------------------------------------------------------ used once


async def test_a_key_for_one_account_makes_one(world: AcmeWorld, clock: FakeClock) -> None:
    made = await new_external_key(world.database, clock)
    first, second = world.client("optional"), world.client("optional")
    assert (await first.register(externalAccountBinding=binding(first, made))).status == 201
    refused = await second.register(externalAccountBinding=binding(second, made))
    assert (refused.status, refused.problem) == (403, "unauthorized")
    assert "has been used" in refused.json["detail"]


async def test_of_many_that_use_it_at_once_one_wins(world: AcmeWorld, clock: FakeClock, database_url: str) -> None:
    made = await new_external_key(world.database, clock)
    async with second_node(database_url) as database, acme_world(database, clock, endpoints=ENDPOINTS) as other:
        clients = [each.client("optional") for each in (world, other) * 4]
        replies = await asyncio.gather(*(each.register(externalAccountBinding=binding(each, made)) for each in clients))
    assert sorted(reply.status for reply in replies) == [201] + [403] * 7
    assert len(await world.database.fetch("SELECT id FROM acme_account")) == 1


async def test_one_client_that_registers_twice_at_once_gets_one_account(world: AcmeWorld, clock: FakeClock) -> None:
    made, client = await new_external_key(world.database, clock), world.client("optional")
    again = replace(client)
    replies = await asyncio.gather(*(each.register(externalAccountBinding=binding(each, made)) for each in (client, again)))
    assert sorted(reply.status for reply in replies) == [200, 201]
    assert replies[0].location == replies[1].location


async def test_a_reusable_key_makes_many(world: AcmeWorld, clock: FakeClock) -> None:
    made = await new_external_key(world.database, clock, reusable=True)
    for _ in range(3):
        client = world.client("optional")
        assert (await client.register(externalAccountBinding=binding(client, made))).status == 201
    ((_, accounts),) = await external_keys(world.database, clock).list()
    assert accounts == 3


async def test_a_refused_registration_spends_no_key(world: AcmeWorld, clock: FakeClock) -> None:
    made, client = await new_external_key(world.database, clock), world.client("optional")
    assert (await client.register(externalAccountBinding=binding(client, made), contact=["tel:+1"])).status == 400
    assert (await client.register(externalAccountBinding=binding(client, made))).status == 201


# ------------------------------------------------------------------------------------------------ refused


async def refused(world: AcmeWorld, client: AcmeClient, sent: object) -> Reply:
    reply = await client.register(externalAccountBinding=sent)
    assert reply.status in {400, 403}, reply.body
    assert await world.database.fetch("SELECT id FROM acme_account") == []
    return reply


WRONG_HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "alg none": ({"alg": "none"}, "badSignatureAlgorithm"),
    "a signature": ({"alg": "RS256"}, "badSignatureAlgorithm"),
    "an elliptic signature": ({"alg": "ES256"}, "badSignatureAlgorithm"),
    "HMAC with SHA-1": ({"alg": "HS1"}, "badSignatureAlgorithm"),
    "no alg": ({"alg": None}, "malformed"),
    "a nonce": ({"nonce": "AAAA"}, "malformed"),
    "an empty nonce": ({"nonce": ""}, "malformed"),
    "no kid": ({"kid": None}, "malformed"),
    "a kid that is no string": ({"kid": 7}, "malformed"),
    "a kid with U+0000": ({"kid": "\0"}, "unauthorized"),
    "jwk beside kid": ({"jwk": AccountKey().jwk}, "malformed"),
    "no url": ({"url": None}, "malformed"),
    "another url": ({"url": f"{BASE}/acme/optional/new-order"}, "unauthorized"),
    "the url of another endpoint": ({"url": f"{BASE}/acme/required/new-account"}, "unauthorized"),
    "a kid that there is not": ({"kid": "0123456789abcdef0123"}, "unauthorized"),
    "a critical parameter": ({"crit": ["x"], "x": 1}, "malformed"),
    "b64": ({"b64": False}, "malformed"),
}


@pytest.mark.parametrize(("header", "problem"), WRONG_HEADERS.values(), ids=WRONG_HEADERS)
async def test_a_header_that_is_wrong_binds_nothing(
    world: AcmeWorld, clock: FakeClock, header: dict[str, Any], problem: str
) -> None:
    made, client = await new_external_key(world.database, clock), world.client("optional")
    reply = await refused(world, client, binding(client, made, header=header))
    assert reply.problem == problem
    if problem == "badSignatureAlgorithm":
        assert reply.json["algorithms"] == ["HS256", "HS384", "HS512"]
    assert (await client.register(externalAccountBinding=binding(client, made))).status == 201  # the key is unspent


async def test_an_unknown_key_and_a_wrong_mac_are_one_answer(world: AcmeWorld, clock: FakeClock) -> None:
    made, client = await new_external_key(world.database, clock), world.client("optional")
    unknown = await refused(world, client, binding(client, made, header={"kid": "nosuch"}))
    wrong = await refused(world, client, binding(client, made, secret=b"x" * 64))
    empty = await refused(world, client, {**binding(client, made), "signature": ""})
    downgraded = await refused(world, client, {**binding(client, made, alg="HS512"), "signature": "AAAA"})
    assert unknown.json == wrong.json == empty.json == downgraded.json


async def test_a_mac_is_not_cut_to_what_was_sent(world: AcmeWorld, clock: FakeClock) -> None:
    made, client = await new_external_key(world.database, clock), world.client("optional")
    sent = binding(client, made)
    cut = base64url(from_base64url(sent["signature"])[:16])
    assert (await refused(world, client, {**sent, "signature": cut})).problem == "unauthorized"


async def test_a_binding_of_another_account_key_is_refused(world: AcmeWorld, clock: FakeClock) -> None:
    """Somebody who saw a binding cannot use it for a key of his own."""
    made, victim, thief = await new_external_key(world.database, clock), world.client("optional"), world.client("optional")
    reply = await refused(world, thief, binding(victim, made))
    assert reply.problem == "unauthorized"
    assert "another account key" in reply.json["detail"]
    swapped = {**binding(victim, made), "payload": binding(thief, made)["payload"]}
    assert (await refused(world, thief, swapped)).problem == "unauthorized"


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[]", b"null", b"\xff", b'{"kty": "oct", "k": "AAAA"}', b'"AAAA"', b'{"kty":"EC","kty":"EC"}'],
    ids=str,
)
async def test_a_payload_that_is_no_account_key_is_refused(world: AcmeWorld, clock: FakeClock, payload: bytes) -> None:
    made, client = await new_external_key(world.database, clock), world.client("optional")
    reply = await refused(world, client, binding(client, made, payload=payload))
    assert reply.problem in {"malformed", "badPublicKey"}


@pytest.mark.parametrize("sent", [7, "x", [], {}, {"protected": "e30", "payload": "", "signature": ""}, True], ids=str)
async def test_what_is_no_jws_is_malformed(world: AcmeWorld, sent: object) -> None:
    assert (await refused(world, world.client("optional"), sent)).problem == "malformed"


async def test_other_serializations_are_malformed(world: AcmeWorld, clock: FakeClock) -> None:
    made, client = await new_external_key(world.database, clock), world.client("optional")
    sent = binding(client, made)
    general = {"payload": sent["payload"], "signatures": [{"protected": sent["protected"], "signature": sent["signature"]}]}
    for wrong in (general, {**sent, "header": {}}, {**sent, "signature": sent["signature"] + "="}):
        assert (await refused(world, client, wrong)).problem == "malformed"


async def test_a_key_of_another_endpoint_is_unknown_here(world: AcmeWorld, clock: FakeClock) -> None:
    made, client = await new_external_key(world.database, clock, endpoint="required"), world.client("optional")
    assert (await refused(world, client, binding(client, made))).problem == "unauthorized"


async def test_an_expired_key_says_so(world: AcmeWorld, clock: FakeClock) -> None:
    made = await new_external_key(world.database, clock, expires_at=after(clock.micros(), timedelta(hours=1)))
    clock.advance(timedelta(hours=2))
    client = world.client("optional")
    reply = await refused(world, client, binding(client, made))
    assert (reply.problem, "has expired" in reply.json["detail"]) == ("unauthorized", True)


async def test_a_revoked_key_says_so(world: AcmeWorld, clock: FakeClock) -> None:
    made, client = await new_external_key(world.database, clock), world.client("optional")
    await external_keys(world.database, clock).revoke(made.kid, COMMAND_LINE)
    reply = await refused(world, client, binding(client, made))
    assert (reply.problem, "was revoked" in reply.json["detail"]) == ("unauthorized", True)
    with pytest.raises(Rejection, match="not revoked already"):
        await external_keys(world.database, clock).revoke(made.kid, COMMAND_LINE)


# ------------------------------------------------------------------------------------------------ what a binding gives


async def test_the_roles_of_the_key_take_the_place_of_the_endpoints(world: AcmeWorld, clock: FakeClock) -> None:
    client, kid = await bound(world, clock, roles=("web", "mail"))
    await client.order("a.example.com")
    (principal, _, _) = world.policy.asked[-1]
    assert principal.roles == {"web", "mail"}
    assert principal.attributes == (("external_account", kid),)
    plain, _ = await bound(world, clock)
    await plain.order("a.example.com")
    assert world.policy.asked[-1][0].roles == {"acme"}


async def test_the_pipeline_is_told_the_same(world: AcmeWorld, clock: FakeClock) -> None:
    client, kid = await bound(world, clock, roles=("web",))
    order = await ready(client, "a.example.com")
    assert (await client.finalize(order, der_of(make_csr("a.example.com")))).status == 200
    asked = world.issuance.requests[-1].principal
    assert asked.roles == {"web"}
    assert asked.attributes == (("external_account", kid),)


async def test_other_names_than_the_keys_are_refused_by_name(world: AcmeWorld, clock: FakeClock) -> None:
    client, _ = await bound(world, clock, names=("*.example.com", "10.0.0.0/8"))
    assert (await client.order("a.example.com")).status == 201
    refused = await client.order("a.example.com", "a.example.org", "a.b.example.com")
    assert (refused.status, refused.problem) == (400, "rejectedIdentifier")
    assert [part["identifier"]["value"] for part in refused.json["subproblems"]] == ["a.example.org", "a.b.example.com"]


async def test_other_profiles_than_the_keys_are_refused(world: AcmeWorld, clock: FakeClock) -> None:
    client, _ = await bound(world, clock, profiles=("short-lived",))
    assert (await client.order("a.example.com", profile="short-lived")).status == 201
    assert (await client.order("a.example.com", profile="tls-server")).problem == "unauthorized"


async def test_the_binding_stays_with_the_account_when_its_key_changes(world: AcmeWorld, clock: FakeClock) -> None:
    client, kid = await bound(world, clock, names=("*.example.com",))
    new = AccountKey()
    assert (await change_key(client, new)).json["externalAccountBinding"]
    renewed = with_key(client, new)
    assert (await renewed.order("a.example.org")).problem == "rejectedIdentifier"
    assert (await renewed.order("a.example.com")).status == 201
    assert dict(world.policy.asked[-1][0].attributes) == {"external_account": kid}


async def test_a_revoked_key_ends_what_it_gave(world: AcmeWorld, clock: FakeClock) -> None:
    client, kid = await bound(world, clock)
    order = await ready(client, "a.example.com")
    await external_keys(world.database, clock).revoke(kid, COMMAND_LINE)
    for reply in (
        await client.order("a.example.com"),
        await client.finalize(order, der_of(make_csr("a.example.com"))),
    ):
        assert (reply.status, reply.problem) == (403, "unauthorized")
        assert "revoked" in reply.json["detail"]
    assert (await client.post(order.location)).json["status"] == "ready"  # it may still look
    assert (await client.post(client.kid, {"status": "deactivated"})).status == 200  # and go


async def test_a_key_that_is_revoked_during_finalize_is_in_time(world: AcmeWorld, clock: FakeClock) -> None:
    """After the order was read and before it begins: the compare-and-set looks again."""
    client, kid = await bound(world, clock)
    order = await ready(client, "a.example.com")
    await external_keys(world.database, clock).revoke(kid, COMMAND_LINE)
    began = world.issuance.settler.began(order.location.rpartition("/")[2], now=clock.micros())
    with pytest.raises(Conflict):
        await world.database.write(*began)


async def test_an_expired_key_leaves_its_accounts_as_they_are(world: AcmeWorld, clock: FakeClock) -> None:
    """`--expires` is about new accounts: renewals go on."""
    client, _ = await bound(world, clock, expires_at=after(clock.micros(), timedelta(hours=1)))
    clock.advance(timedelta(hours=2))
    assert (await client.order("a.example.com")).status == 201


async def test_where_it_becomes_required_accounts_without_are_told_what_to_do(
    world: AcmeWorld, database_url: str, clock: FakeClock
) -> None:
    client = await world.registered("optional")
    order = await ready(client, "a.example.com")
    stricter = (replace(ENDPOINTS[1], external_account="required"),)
    async with second_node(database_url) as database, acme_world(database, clock, endpoints=stricter) as later:
        there = AcmeClient(later.http, key=client.key, endpoint="optional", kid=client.kid)
        assert (await there.order("a.example.com")).problem == "externalAccountRequired"
        assert (await there.finalize(order, der_of(make_csr("a.example.com")))).problem == "externalAccountRequired"


async def test_where_it_is_turned_off_bound_accounts_do_not_become_ordinary_ones(
    world: AcmeWorld, database_url: str, clock: FakeClock
) -> None:
    client, _ = await bound(world, clock, names=("*.example.com",))
    order = await client.order("a.example.com")
    assert order.json["status"] == "ready"  # the name is its own
    off = (replace(ENDPOINTS[1], external_account="none"),)
    async with second_node(database_url) as database, acme_world(database, clock, endpoints=off) as later:
        there = AcmeClient(later.http, key=client.key, endpoint="optional", kid=client.kid)
        refused = await there.order("evil.example.org")
        assert (refused.status, refused.problem) == (403, "unauthorized")
        assert (await there.finalize(order, der_of(make_csr("a.example.com")))).problem == "unauthorized"


# ------------------------------------------------------------------------------------------------ at rest


async def test_a_dump_of_the_database_does_not_yield_the_key(world: AcmeWorld, clock: FakeClock, tmp_path: Path) -> None:
    made = await new_external_key(world.database, clock)
    client = world.client("optional")
    await client.register(externalAccountBinding=binding(client, made))
    secret = from_base64url(made.hmac_key)
    (row,) = await world.database.fetch("SELECT * FROM acme_external_key")
    dumped = b"".join(value if isinstance(value, bytes) else str(value).encode() for value in row.values())
    for form in (secret, made.hmac_key.encode(), secret.hex().encode(), secret[:16], secret[-16:]):
        assert form not in dumped


async def test_not_even_the_files_of_an_embedded_database_do(clock: FakeClock, tmp_path: Path) -> None:
    database = await open_database(f"sqlite://{tmp_path}/dump.db", migrate=True)
    made = await new_external_key(database, clock)
    await database.close()
    secret = from_base64url(made.hmac_key)
    found = b"".join(path.read_bytes() for path in tmp_path.iterdir())  # noqa: ASYNC240  # nothing else runs in this loop
    assert made.kid.encode() in found
    assert secret[:16] not in found
    assert made.hmac_key.encode()[:16] not in found
    dump = "\n".join(sqlite3.connect(tmp_path / "dump.db").iterdump())
    assert secret.hex()[:32].upper() not in dump.upper()


async def test_a_sealed_key_that_was_moved_to_another_row_opens_nothing(world: AcmeWorld, clock: FakeClock) -> None:
    """Who can write in the database gives himself no key that he knows: the box is bound to its row."""
    own, other = [await new_external_key(world.database, clock, roles=(role,)) for role in ("small", "large")]
    move = "UPDATE acme_external_key SET secret = (SELECT secret FROM acme_external_key WHERE kid = $1) WHERE kid = $2"
    await world.database.write(Step(move, (own.kid, other.kid)))
    client = world.client("optional")
    forged = binding(client, replace(other, hmac_key=own.hmac_key))
    reply = await client.register(externalAccountBinding=forged)
    assert (reply.status, reply.problem) == (503, "serverInternal")  # the operator reads why in the log
    assert await world.database.fetch("SELECT id FROM acme_account") == []


async def test_no_answer_and_no_repr_shows_the_key(world: AcmeWorld, clock: FakeClock) -> None:
    made, client = await new_external_key(world.database, clock), world.client("optional")
    replies = [await client.register(externalAccountBinding=binding(client, made)), await client.post(client.kid)]
    shown = b"".join(reply.body for reply in replies) + repr(made).encode()
    shown += repr(await external_keys(world.database, clock).list()).encode()
    assert made.hmac_key.encode() not in shown
