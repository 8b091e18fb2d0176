"""keyChange (RFC 8555 §7.3.5): the new key can do everything afterwards, the old one nothing, on every node."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acmeserver.authentication import SignedBy
from acmeserver.endpoint import AcmeEndpoint, RenewalInfo
from acmeserver.resources import RESOURCES
from pki.strict import base64url
from storage.database import Database, Step
from tests.helpers.acme_account import change_key, inner_jws, with_key
from tests.helpers.acme_client import AccountKey, AcmeClient, integer, make_jws, to_json
from tests.helpers.acme_world import AcmeWorld, acme_world, issued, ready
from tests.helpers.clock import FakeClock
from tests.helpers.databases import second_node
from tests.helpers.issuance_simulator import der_of, make_csr

ENDPOINTS = (
    AcmeEndpoint(name="default", profiles=("tls-server",), pre_authorization=True, renewal_info=RenewalInfo()),
    AcmeEndpoint(name="other", profiles=("tls-server",)),
)


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock, endpoints=ENDPOINTS) as world:
        yield world
        assert world.log.events == []


@pytest.fixture
async def client(world: AcmeWorld) -> AcmeClient:
    return await world.registered()


@pytest.fixture
async def neighbour(world: AcmeWorld, database_url: str, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    """Another server on the same database."""
    async with second_node(database_url) as database, acme_world(database, clock, endpoints=ENDPOINTS) as other:
        yield other


async def thumbprints(world: AcmeWorld) -> list[str]:
    return [
        row["thumbprint"] for row in await world.database.fetch("SELECT thumbprint FROM acme_account ORDER BY created_at, id")
    ]


# ------------------------------------------------------------------------------------------------ what it is for


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(AccountKey(), id="P-256"),
        pytest.param(AccountKey(ec.generate_private_key(ec.SECP384R1())), id="P-384"),
        pytest.param(AccountKey(rsa.generate_private_key(65537, 2048)), id="RSA"),
        pytest.param(AccountKey(ed25519.Ed25519PrivateKey.generate()), id="Ed25519"),
    ],
)
async def test_the_account_is_the_same_by_its_new_key(world: AcmeWorld, new: AccountKey) -> None:
    client = world.client()
    await client.register(contact=["mailto:ops@example.com"])
    changed = await change_key(client, new)
    assert (changed.status, changed.location) == (200, client.kid)
    assert changed.json["contact"] == ["mailto:ops@example.com"]
    assert changed.headers["Replay-Nonce"]
    renewed = with_key(client, new)
    assert (await renewed.post(client.kid)).json == changed.json
    assert (await renewed.register(onlyReturnExisting=True)).location == client.kid
    assert (await client.post(client.kid)).status in REFUSED
    assert (await client.register(onlyReturnExisting=True)).problem == "accountDoesNotExist"


async def test_orders_and_authorizations_survive(world: AcmeWorld, client: AcmeClient) -> None:
    order, new = await ready(client, "a.example.com"), AccountKey()
    await change_key(client, new)
    renewed = with_key(client, new)
    final = await renewed.finalize(order, der_of(make_csr("a.example.com")))
    assert (final.status, final.json["status"]) == (200, "valid")
    assert (await renewed.post(final.json["certificate"])).status == 200


async def test_the_old_key_may_make_an_account_of_its_own(client: AcmeClient) -> None:
    await change_key(client, AccountKey())
    first = client.kid
    again = await client.register()
    assert again.status == 201
    assert again.location != first


async def test_a_key_may_be_an_accounts_at_each_endpoint(world: AcmeWorld, client: AcmeClient) -> None:
    other = await world.registered("other")
    assert (await change_key(client, other.key)).status == 200


async def test_there_and_back_again(client: AcmeClient) -> None:
    new = AccountKey()
    await change_key(client, new)
    assert (await change_key(with_key(client, new), client.key)).status == 200
    assert (await client.post(client.kid)).status == 200


# ------------------------------------------------------------------------------------------------ every node, every resource

# 403 where the node still has the old key in its memory, so that the signature verifies; 400 where it has the new one.
REFUSED = {403: "unauthorized", 400: "malformed"}

ORDER = {"identifiers": [{"type": "dns", "value": "n.example.com"}]}


async def requests_of(client: AcmeClient) -> dict[str, tuple[str, object]]:
    """For every resource that an account signs for: a request that this account may make."""
    order, _ = await issued(client, "a.example.com")
    open_order = await client.order("b.example.com")
    final = await client.post(order.location)
    parts = {
        "account": client.kid.rpartition("/")[2],
        "order": open_order.location.rpartition("/")[2],
        "authz": open_order.json["authorizations"][0].rpartition("/")[2],
        "cert": final.json["certificate"].rpartition("/")[2],
    }
    csr = base64url(der_of(make_csr("b.example.com")))
    payloads: dict[str, object] = {
        "new-order": ORDER,
        "new-authz": {"identifier": ORDER["identifiers"][0]},
        "order/finalize": {"csr": csr},
        "challenge": {},
        "revoke-cert": {"certificate": "AAAA"},
        "key-change": inner_jws(client, AccountKey()),
    }
    found: dict[str, tuple[str, object]] = {}
    for each in RESOURCES:
        if each.signed_by is SignedBy.KEY:
            continue
        first = each.path.partition("/")[0]
        ours = parts[{"challenge": "authz", "star-cert": "order"}.get(first, first)] if "{id" in each.path else ""
        path = each.path
        for member, value in {"id": ours, "kind": "http-01", "serial": parts["cert"], "chain": "1"}.items():
            path = re.sub(rf"\{{{member}:[^/]*\}}(?=/|$)", value, path)
        name = re.sub(r"\{[^/]*\}/?", "", each.path).rstrip("/")
        found[each.path] = (client.url(path), payloads.get(name, b""))
    return found


async def test_the_old_key_can_do_nothing_at_any_resource_of_any_node(world: AcmeWorld, neighbour: AcmeWorld) -> None:
    """Both nodes have the old key in their memory; each resource has to look at the row."""
    client = await world.registered()
    there = AcmeClient(neighbour.http, key=client.key, kid=client.kid)
    requests, new = await requests_of(client), AccountKey()
    assert (await there.post(client.kid)).status == 200
    assert (await change_key(client, new)).status == 200
    before = await world.database.fetch("SELECT id, status FROM acme_authorization ORDER BY id")
    for path, (url, payload) in requests.items():
        for one in (there, client):
            reply = await one.post(url, payload)
            assert reply.status in REFUSED, (path, reply.body)
            assert reply.problem == REFUSED[reply.status], (path, reply.body)
    assert await world.database.fetch("SELECT id, status FROM acme_authorization ORDER BY id") == before
    assert len(await world.database.fetch("SELECT id FROM acme_order")) == 2


async def test_the_new_key_is_known_at_once_where_the_old_one_is_remembered(world: AcmeWorld, neighbour: AcmeWorld) -> None:
    client, new = await world.registered(), AccountKey()
    there = AcmeClient(neighbour.http, key=client.key, kid=client.kid)
    assert (await there.post(client.kid)).status == 200
    await change_key(client, new)
    for one in (with_key(there, new), with_key(client, new)):
        assert (await one.post(client.kid)).status == 200
        assert (await one.order("a.example.com")).status == 201


# ------------------------------------------------------------------------------------------------ races


async def test_of_two_changes_at_once_one_wins(world: AcmeWorld, neighbour: AcmeWorld) -> None:
    client = await world.registered()
    there = AcmeClient(neighbour.http, key=client.key, kid=client.kid)
    keys = [AccountKey() for _ in range(6)]
    replies = await asyncio.gather(*(change_key((client, there)[at % 2], key) for at, key in enumerate(keys)))
    won = [at for at, reply in enumerate(replies) if reply.status == 200]
    assert len(won) == 1
    for reply in (reply for reply in replies if reply.status != 200):
        assert reply.status in {400, 403, 409}, reply.body  # by how far the winner was
        if reply.status == 409:
            assert reply.location == client.kid
    for at, key in enumerate(keys):
        assert (await with_key(client, key).post(client.kid)).status == (200 if at in won else 400), at
    assert (await client.post(client.kid)).status in REFUSED


async def test_of_two_accounts_that_want_one_key_one_gets_it(world: AcmeWorld, neighbour: AcmeWorld) -> None:
    here, new = await world.registered(), AccountKey()
    there = await neighbour.registered()
    replies = await asyncio.gather(change_key(here, new), change_key(there, new))
    assert sorted(reply.status for reply in replies) == [200, 409]
    winner, loser = (here, there) if replies[0].status == 200 else (there, here)
    lost = next(reply for reply in replies if reply.status == 409)
    assert lost.location == winner.kid
    assert (await loser.post(loser.kid)).status == 200  # as it was


async def test_a_registration_and_a_change_to_the_same_key_make_one_account_of_it(world: AcmeWorld, client: AcmeClient) -> None:
    new = AccountKey()
    stranger = AcmeClient(world.http, key=new)
    changed, registered = await asyncio.gather(change_key(client, new), stranger.register())
    assert (changed.status, registered.status) in {(200, 200), (409, 201)}
    if changed.status == 200:
        assert registered.location == client.kid
    else:
        assert changed.location == registered.location


async def test_a_validation_begun_with_the_old_key_settles_nothing(world: AcmeWorld, client: AcmeClient) -> None:
    """RFC 8555 §8.1: what was shown names a key that is no more the account's. The new key begins anew."""
    order, new = await client.order("a.example.com"), AccountKey()
    (url,) = order.json["authorizations"]
    challenge = (await client.post(url)).json["challenges"][0]["url"]
    world.http01.gate.clear()
    answer = asyncio.create_task(client.post(challenge, {}))
    await world.http01.started.wait()
    await change_key(client, new)
    world.http01.gate.set()
    assert (await answer).problem == "unauthorized"
    renewed = with_key(client, new)
    assert (await renewed.post(url)).json["status"] == "pending"
    assert (await renewed.post(challenge, {})).json["status"] == "valid"
    old, fresh = world.http01.calls
    assert old != fresh  # the key authorization


# ------------------------------------------------------------------------------------------------ refused


async def test_a_key_that_is_another_accounts_is_a_conflict_with_its_location(world: AcmeWorld, client: AcmeClient) -> None:
    other = await world.registered()
    reply = await change_key(client, other.key)
    assert (reply.status, reply.problem, reply.location) == (409, "malformed", other.kid)
    await other.post(other.kid, {"status": "deactivated"})
    reply = await change_key(client, other.key)
    assert (reply.status, reply.location) == (409, other.kid)
    assert (await client.post(client.kid)).status == 200


async def test_a_deactivated_account_changes_no_key(client: AcmeClient) -> None:
    await client.post(client.kid, {"status": "deactivated"})
    reply = await change_key(client, AccountKey())
    assert (reply.status, reply.problem) == (403, "unauthorized")


async def test_a_compromised_key_is_refused_for_new_and_for_old_accounts(world: AcmeWorld, client: AcmeClient) -> None:
    bad = AccountKey()
    spki = bad.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki)
    block = "INSERT INTO blocked_key (spki_sha256, reason, blocked_at) VALUES ($1, 'key-compromise', 1)"
    await world.database.write(Step(block, (digest.finalize().hex(),)))
    before = await thumbprints(world)
    assert (await change_key(client, bad)).problem == "badPublicKey"
    assert (await AcmeClient(world.http, key=bad).register()).problem == "badPublicKey"
    assert await thumbprints(world) == before


async def test_a_key_that_anybody_can_factor_is_refused(client: AcmeClient) -> None:
    """The signature cannot be made, so the key has to fall before it: what is checked is that it falls."""
    weak = {"kty": "RSA", "e": "AQAB", "n": integer(3 * ((1 << 2047) // 3 | 1))}
    reply = await client.post(client.url("key-change"), inner_jws(client, AccountKey(), header={"jwk": weak, "alg": "RS256"}))
    assert reply.status == 400
    assert (await client.post(client.kid)).status == 200


OTHER = AccountKey()
RSA = AccountKey(rsa.generate_private_key(65537, 2048))
PRIVATE = {**OTHER.jwk, "d": "AAAA"}

WRONG_HEADERS = {
    "a nonce inside": ({"nonce": "AAAA"}, "malformed"),
    "an empty nonce inside": ({"nonce": ""}, "malformed"),
    "kid beside jwk": ({"kid": "x"}, "malformed"),
    "kid in place of jwk": ({"kid": "x", "jwk": None}, "malformed"),
    "no key at all": ({"jwk": None}, "malformed"),
    "no url": ({"url": None}, "malformed"),
    "another url": ({"url": "https://ca.test:8443/acme/default/new-order"}, "malformed"),
    "the url of another endpoint": ({"url": "https://ca.test:8443/acme/other/key-change"}, "malformed"),
    "the url with a query": ({"url": "https://ca.test:8443/acme/default/key-change?x"}, "malformed"),
    "a url that is no string": ({"url": 7}, "malformed"),
    "alg none": ({"alg": "none"}, "badSignatureAlgorithm"),
    "a MAC": ({"alg": "HS256"}, "badSignatureAlgorithm"),
    "an alg that is not the key's": ({"alg": "ES384"}, "badSignatureAlgorithm"),
    "no alg": ({"alg": None}, "malformed"),
    "a critical parameter": ({"crit": ["x"], "x": 1}, "malformed"),
    "b64": ({"b64": False}, "malformed"),
    "a private key": ({"jwk": PRIVATE}, "badPublicKey"),
    "a symmetric key": ({"jwk": {"kty": "oct", "k": "AAAA"}}, "badPublicKey"),
    "a key that did not sign": ({"jwk": OTHER.jwk}, "malformed"),
    "a point off its curve": ({"jwk": {**OTHER.jwk, "y": OTHER.jwk["x"]}}, "badPublicKey"),
}


@pytest.mark.parametrize(("header", "problem"), WRONG_HEADERS.values(), ids=WRONG_HEADERS)
async def test_an_inner_header_that_is_wrong_changes_nothing(
    world: AcmeWorld, client: AcmeClient, header: dict[str, Any], problem: str
) -> None:
    before = await thumbprints(world)
    reply = await client.post(client.url("key-change"), inner_jws(client, AccountKey(), header=header))
    assert (reply.status, reply.problem) == (400, problem)
    assert await thumbprints(world) == before


WRONG_PAYLOADS: dict[str, dict[str, Any]] = {
    "no account": {"account": None},
    "an account that is no string": {"account": 7},
    "another account": {"account": "https://ca.test:8443/acme/default/account/AAAA"},
    "the account by another spelling": {"account": "https://ca.test:8443/acme/default/../default/account/AAAA"},
    "no old key": {"oldKey": None},
    "another old key": {"oldKey": OTHER.jwk},
    "an old key that is no key": {"oldKey": "AAAA"},
}


@pytest.mark.parametrize("payload", WRONG_PAYLOADS.values(), ids=WRONG_PAYLOADS)
async def test_an_inner_payload_that_is_wrong_changes_nothing(
    world: AcmeWorld, client: AcmeClient, payload: dict[str, Any]
) -> None:
    before = await thumbprints(world)
    reply = await client.post(client.url("key-change"), inner_jws(client, AccountKey(), payload=payload))
    assert reply.status == 400
    assert reply.problem in {"malformed", "badPublicKey"}
    assert await thumbprints(world) == before


async def test_the_old_key_may_be_written_with_more_members(client: AcmeClient) -> None:
    """Keys are the same when their thumbprints are."""
    written = {"use": "sig", "kid": "mine", **client.key.jwk}
    new = AccountKey()
    reply = await client.post(client.url("key-change"), inner_jws(client, new, payload={"oldKey": written}))
    assert reply.status == 200


async def test_the_new_key_has_to_be_another(client: AcmeClient) -> None:
    reply = await change_key(client, client.key)
    assert (reply.status, reply.problem) == (400, "malformed")


async def test_the_new_key_has_to_sign_itself(client: AcmeClient) -> None:
    """Else anybody could take over whoever will register with that key."""
    new = AccountKey()
    for signer in (client.key, AccountKey()):
        inner = inner_jws(client, new, signed_by=signer)
        assert (await client.post(client.url("key-change"), inner)).problem == "malformed"


async def test_somebody_elses_inner_jws_moves_nobodys_account(world: AcmeWorld, client: AcmeClient) -> None:
    """The thief has an inner JWS of the victim's new key, and signs the outer one for his own account."""
    thief, new = await world.registered(), AccountKey()
    reply = await thief.post(thief.url("key-change"), inner_jws(client, new))
    assert (reply.status, reply.problem) == (400, "malformed")
    reply = await thief.post(thief.url("key-change"), inner_jws(client, new), kid=client.kid)
    assert reply.status == 400
    assert (await client.post(client.kid)).status == 200


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[]", b"null", b"\xff", b'{"protected": "e30"}', b'{"protected":"e30","payload":"","signature":""}'],
    ids=str,
)
async def test_a_payload_that_is_no_jws_is_malformed(client: AcmeClient, payload: bytes) -> None:
    reply = await client.post(client.url("key-change"), payload)
    assert (reply.status, reply.problem) == (400, "malformed")


async def test_other_serializations_are_malformed(client: AcmeClient) -> None:
    inner = inner_jws(client, AccountKey())
    compact = ".".join((inner["protected"], inner["payload"], inner["signature"]))
    general = {"payload": inner["payload"], "signatures": [{"protected": inner["protected"], "signature": inner["signature"]}]}
    unprotected = {**inner, "header": {}}
    for wrong in (compact, general, unprotected, {**inner, "signature": inner["signature"] + "="}):
        assert (await client.post(client.url("key-change"), wrong)).problem == "malformed"


async def test_the_outer_jws_is_by_the_account_and_not_by_a_bare_key(client: AcmeClient) -> None:
    reply = await client.post(client.url("key-change"), inner_jws(client, AccountKey()), jwk=True)
    assert (reply.status, reply.problem) == (400, "malformed")


async def test_a_captured_request_cannot_be_sent_again(client: AcmeClient) -> None:
    new = AccountKey()
    url = client.url("key-change")
    jws = make_jws(client.key, await client.header(url), to_json(inner_jws(client, new)))
    assert (await client.send(url, jws)).status == 200
    assert (await client.send(url, jws)).status >= 400
