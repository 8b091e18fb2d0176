"""What somebody with an account tries at the extensions: rights that outlive what they came from, and ways around a check."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from acmeserver.endpoint import AcmeEndpoint
from pki.strict import base64url
from policy.principal import COMMAND_LINE
from policy.rules import Policy
from storage.database import Conflict, Database, Step
from storage.open import open_database
from tests.helpers.acme_account import binding, change_key, external_keys, new_external_key, with_key
from tests.helpers.acme_client import BASE, AccountKey, AcmeClient, Reply, make_jws, to_json
from tests.helpers.acme_real import RealAcme, real_acme
from tests.helpers.acme_world import ENDPOINTS, acme_world
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr
from tests.helpers.profiles import profile

ENDPOINT = AcmeEndpoint(
    name="default",
    profiles=("tls-server",),
    challenges=("http-01", "dns-01"),
    external_account="optional",
    pre_authorization=True,
    authorization_reuse=timedelta(days=5),
    roles=frozenset({"acme"}),
)
ALL = (Policy("all", frozenset({"acme"}), frozenset({"tls-server"}), ("*",)),)


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[RealAcme]:
    async with real_acme(database, clock, endpoints=(ENDPOINT,), profiles=(profile(),), policies=ALL) as world:
        yield world
    assert world.log.events == []


async def certificate_of(client: AcmeClient, name: str) -> str:
    order = await client.order(name)
    await client.authorize(order)
    final = await client.finalize(order, der_of(make_csr(name)))
    pem = (await client.post(final.json["certificate"])).body.decode().split("-----")[2]
    return pem.replace("\n", "").replace("+", "-").replace("/", "_").rstrip("=")


async def revoke(client: AcmeClient, certificate: str) -> Reply:
    return await client.post(client.url("revoke-cert"), {"certificate": certificate})


async def test_names_that_a_revoked_external_key_gave_revoke_nobodys_certificate(
    world: RealAcme, database: Database, clock: FakeClock
) -> None:
    """RFC 8555 §7.6 lets an account revoke that holds authorizations for all names; these it holds by the key alone."""
    certificate = await certificate_of(await world.registered(), "a.example.com")
    key = await new_external_key(database, clock, endpoint="default", names=("*.example.com",), reusable=True)
    thief = world.client()
    assert (await thief.register(externalAccountBinding=binding(thief, key))).status == 201
    assert (await thief.order("a.example.com")).json["status"] == "ready"
    await external_keys(database, clock).revoke(key.kid, COMMAND_LINE)
    reply = await revoke(thief, certificate)
    assert (reply.status, reply.problem) == (403, "unauthorized")


async def test_a_challenge_that_the_endpoint_offers_no_more_is_not_begun(database: Database, clock: FakeClock) -> None:
    """The operator takes http-01 away; a pending authorization from before must not be a way to use it still."""
    both = replace(ENDPOINTS[0], challenges=("http-01", "dns-01"))
    async with acme_world(database, clock, endpoints=(both,)) as before:
        client = await before.registered()
        order = await client.order("a.example.com")
        challenges = (await client.post(order.json["authorizations"][0])).json["challenges"]
    async with acme_world(database, clock, endpoints=(replace(both, challenges=("dns-01",)),)) as after:
        same = AcmeClient(after.http, key=client.key, kid=client.kid)
        replies = {each["type"]: await same.post(each["url"], {}) for each in challenges}
        assert (replies["http-01"].status, replies["http-01"].problem) == (404, "malformed")
        assert after.http01.calls == []
        assert replies["dns-01"].json["status"] == "valid"
        shown = (await same.post(order.json["authorizations"][0])).json["challenges"]
        assert [each["type"] for each in shown] == ["dns-01"]


async def test_a_thief_with_the_old_key_takes_nothing_back(world: RealAcme) -> None:
    """After a rollover the old key is a stranger's: it cannot undo it, list, order, revoke or read."""
    client, new = await world.registered(), AccountKey()
    certificate = await certificate_of(client, "a.example.com")
    old = replace(client)
    assert (await change_key(client, new)).status == 200
    owner = with_key(client, new)
    for reply in (
        await change_key(old, AccountKey()),
        await change_key(old, new),
        await old.post(old.kid, {"status": "deactivated"}),
        await old.post(f"{old.kid}/orders"),
        await old.order("a.example.com"),
        await old.post(old.url("new-authz"), {"identifier": {"type": "dns", "value": "a.example.com"}}),
        await revoke(old, certificate),
    ):
        assert reply.status in {400, 403}, reply.body
        assert reply.problem in {"malformed", "unauthorized"}
    assert (await owner.post(owner.kid)).json["status"] == "valid"
    assert (await revoke(owner, certificate)).status == 200


async def test_a_list_of_orders_is_ones_own_whatever_page_is_asked_for(world: RealAcme) -> None:
    """A cursor is a place in time, and no right: made up or another's, it shows what the signer owns."""
    owner, stranger = await world.registered(), await world.registered()
    theirs = {(await owner.order("a.example.com")).location for _ in range(3)}
    (row, *_) = await world.issuing.rows("SELECT id, created_at FROM acme_order ORDER BY id DESC")
    for cursor in (f"{10**17}.z", f"{row['created_at'] + 1}.{row['id']}", f"{row['created_at']}.zzz"):
        mine = await stranger.post(f"{stranger.kid}/orders?after={cursor}")
        assert mine.json["orders"] == []
        assert set((await owner.post(f"{owner.kid}/orders?after={cursor}")).json["orders"]) <= theirs
        assert (await stranger.post(f"{owner.kid}/orders?after={cursor}")).status == 403


async def test_an_authorization_made_beforehand_serves_its_own_account_alone(world: RealAcme) -> None:
    owner, stranger = await world.registered(), await world.registered()
    wanted = {"identifier": {"type": "dns", "value": "a.example.com"}}
    made = await owner.post(owner.url("new-authz"), wanted)
    assert made.status == 201
    challenge = made.json["challenges"][0]["url"]
    assert (await owner.post(challenge, {})).json["status"] == "valid"
    assert (await stranger.post(made.location)).status == 404
    theirs = await stranger.post(stranger.url("new-authz"), wanted)
    assert (theirs.status, theirs.json["status"]) == (201, "pending")
    assert (await stranger.order("a.example.com")).json["status"] == "pending"
    assert (await owner.order("a.example.com")).json["status"] == "ready"


async def test_an_authorization_given_up_between_ready_and_finalize_gives_no_certificate(world: RealAcme) -> None:
    """Also where it was proved for another order, and serves this one again."""
    client = await world.registered()
    first = await client.order("a.example.com")
    await client.authorize(first)
    again = await client.order("a.example.com")
    assert again.json["status"] == "ready"
    assert first.json["authorizations"] == again.json["authorizations"]
    assert (await client.post(first.json["authorizations"][0], {"status": "deactivated"})).status == 200
    for order in (first, again):
        reply = await client.finalize(order, der_of(make_csr("a.example.com")))
        assert (reply.status, reply.problem) == (403, "orderNotReady")
    assert world.issuing.signer.signed == []


@pytest.mark.parametrize("status", ["pending", "processing", "invalid", "deactivated", "revoked", "valid, and past its time"])
async def test_an_authorization_lost_after_the_last_look_stops_the_signature(
    database: Database, clock: FakeClock, status: str
) -> None:
    """The compare-and-set that begins an issuance looks again, whatever finalize has read before."""
    async with acme_world(database, clock) as world:
        client = await world.registered()
        order = await client.order("a.example.com", "b.example.com")
        await client.authorize(order)
        order_id, settler, now = order.location.rpartition("/")[2], world.issuance.settler, clock.micros()
        second = order.json["authorizations"][1].rpartition("/")[2]
        past = status.startswith("valid")
        change = (
            "UPDATE acme_authorization SET expires_at = $2 WHERE id = $1"
            if past
            else ("UPDATE acme_authorization SET status = $2 WHERE id = $1")
        )
        await database.write(Step(change, (second, now if past else status)))
        with pytest.raises(Conflict):
            await database.write(*settler.began(order_id, now=now))
        undo = ("UPDATE acme_authorization SET expires_at = $2, status = 'valid' WHERE id = $1", (second, now + 1))
        await database.write(Step(*undo))
        await database.write(*settler.began(order_id, now=now))  # and nothing but that was in its way


async def test_what_an_account_learns_of_another_is_nothing(world: RealAcme) -> None:
    """No answer to a stranger has another's contact, key, order, token or account in it."""
    owner = await world.registered(contact=["mailto:owner@example.com"])
    certificate = await certificate_of(owner, "a.example.com")
    authorization = await owner.order("b.example.com")
    token = (await owner.post(authorization.json["authorizations"][0])).json["challenges"][0]["token"]
    secrets = [owner.kid.rpartition("/")[2], "owner@", authorization.location.rpartition("/")[2], token, owner.key.jwk["x"]]
    stranger = await world.registered()
    urls = [owner.kid, f"{owner.kid}/orders", authorization.location, *authorization.json["authorizations"]]
    replies = [await stranger.post(url) for url in urls] + [await revoke(stranger, certificate)]
    replies += [await stranger.order("b.example.com"), await stranger.post(f"{stranger.kid}/orders")]
    replies += [await stranger.request("GET", url) for url in urls]
    for reply in replies:
        said = (reply.body + repr(dict(reply.headers)).encode()).decode()
        assert not [secret for secret in secrets if secret in said], said


async def test_a_deactivated_account_leaves_nothing_that_another_request_could_use(world: RealAcme) -> None:
    client = await world.registered()
    certificate = await certificate_of(client, "a.example.com")
    order = await client.order("a.example.com")
    assert order.json["status"] == "ready"  # by the proof of before
    assert (await client.post(client.kid, {"status": "deactivated"})).status == 200
    again = AcmeClient(world.http, key=client.key)
    assert (await again.register()).problem == "unauthorized"
    for reply in (
        await client.finalize(order, der_of(make_csr("a.example.com"))),
        await change_key(client, AccountKey()),
        await client.post(f"{client.kid}/orders"),
        await client.post(client.url("new-authz"), {"identifier": {"type": "dns", "value": "a.example.com"}}),
        await client.order("a.example.com"),
        await revoke(client, certificate),
        await client.post(order.json["authorizations"][0], {"status": "deactivated"}),
    ):
        assert (reply.status, reply.problem) == (403, "unauthorized")
    assert len(await world.issuing.rows("SELECT serial FROM certificate")) == 1


@pytest.mark.parametrize(
    "number", ["0", "00", "01", "-1", "1.0", "\u0661", "%31", "100", "99999999999999999999", "", "1/", "x"]
)
async def test_a_chain_has_one_number_and_one_spelling(world: RealAcme, number: str) -> None:
    client = await world.registered()
    await certificate_of(client, "a.example.com")
    (row,) = await world.issuing.rows("SELECT serial FROM certificate")
    reply = await client.post(client.url(f"cert/{row['serial']}/{number}"))
    assert reply.status in {403, 404}
    assert not reply.body.startswith(b"-----BEGIN")


async def test_an_account_key_that_is_a_certificates_key_may_revoke_that_one_only(world: RealAcme) -> None:
    """Signing as a bare key is a right over one certificate; the account that it also is has no share in it."""
    key = AccountKey()
    holder = await world.registered()
    order = await holder.order("a.example.com")
    await holder.authorize(order)
    final = await holder.finalize(order, der_of(make_csr("a.example.com", key=key.key)))  # type: ignore[arg-type]  # it is EC
    pem = (await holder.post(final.json["certificate"])).body.decode().split("-----")[2].replace("\n", "")
    own = pem.replace("+", "-").replace("/", "_").rstrip("=")
    other = await certificate_of(holder, "b.example.com")
    by_key = AcmeClient(world.http, key=key)
    assert (await by_key.post(by_key.url("revoke-cert"), {"certificate": other}, jwk=True)).problem == "unauthorized"
    assert (await by_key.register()).status == 201
    assert (await revoke(by_key, own)).problem == "unauthorized"  # as an account it holds no authorization
    assert (await by_key.post(by_key.url("revoke-cert"), {"certificate": own}, jwk=True)).status == 200


async def test_a_certificate_of_another_ca_with_our_serial_is_not_ours(world: RealAcme) -> None:
    client = await world.registered()
    certificate = await certificate_of(client, "a.example.com")
    for changed in (certificate[:-8] + "AAAAAAAA", base64url(der_of(make_csr("a.example.com"))), certificate + "AAAA"):
        reply = await revoke(client, changed)
        assert reply.status in {400, 404}
    rows = await world.issuing.rows("SELECT serial FROM revocation")
    assert rows == []
    assert client.kid.startswith(BASE)


async def test_one_request_sent_to_two_nodes_at_once_is_good_once(
    database: Database, database_url: str, clock: FakeClock
) -> None:
    """A nonce is spent where both nodes see it, also when each of them spends many together."""
    second = await open_database(database_url, migrate=False)
    async with acme_world(database, clock) as here, acme_world(second, clock) as there:
        client = await here.registered()
        elsewhere = AcmeClient(there.http, key=client.key, kid=client.kid)
        for _ in range(5):
            payload = to_json({"identifiers": [{"type": "dns", "value": "a.example.com"}]})
            bodies = [make_jws(client.key, await client.header(client.url("new-order")), payload) for _ in range(6)]
            sends = [each.send(each.url("new-order"), jws) for jws in bodies for each in (client, elsewhere, client, elsewhere)]
            replies = await asyncio.gather(*sends)
            assert sorted(reply.status for reply in replies) == [201] * 6 + [400] * 18
            assert {reply.problem for reply in replies if reply.status == 400} == {"badNonce"}
        assert len(await database.fetch("SELECT id FROM acme_order")) == 30
        assert here.log.events == there.log.events == []
    await second.close()


async def test_what_is_refused_at_the_same_moment_undoes_nobody_elses_write(world: RealAcme) -> None:
    """Writes of one moment may be committed together; each is granted or refused by itself."""
    owner, gone = await world.registered(), await world.registered()
    assert (await gone.post(gone.kid, {"status": "deactivated"})).status == 200
    order = await owner.order("ready.example.com")
    await owner.authorize(order)
    csr = der_of(make_csr("ready.example.com"))
    sends = []
    for number in range(8):
        sends += [owner.order(f"n{number}.example.com"), gone.order(f"g{number}.example.com"), owner.finalize(order, csr)]
        sends += [world.client().register(), gone.post(gone.kid, {"contact": ["mailto:a@example.com"]})]
    replies = await asyncio.gather(*sends)
    orders, refused, finalized, accounts, updates = (replies[index::5] for index in range(5))
    assert {reply.status for reply in orders} == {reply.status for reply in accounts} == {201}
    assert {reply.status for reply in (*refused, *updates)} == {403}
    assert sorted(reply.status for reply in finalized) == [200] + [403] * 7
    rows = await world.issuing.rows("SELECT id FROM acme_order")
    assert {row["id"] for row in rows} == {reply.location.rpartition("/")[2] for reply in (order, *orders)}
    assert len(await world.issuing.rows("SELECT id FROM acme_account")) == 2 + 8
    assert len(await world.issuing.rows("SELECT serial FROM certificate")) == 1
