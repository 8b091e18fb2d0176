"""Rate limits on the wire (RFC 8555 §6.6, acme-wire's status map), and a flood that leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from acmeserver.endpoint import AcmeEndpoint, RenewalInfo
from acmeserver.limits import LimitRules
from acmeserver.validations import MOST_OF_ONE
from issuance.buckets import forget
from policy.limits import Limit
from storage.database import Database
from tests.helpers.acme_client import AcmeClient, Reply
from tests.helpers.acme_world import AcmeWorld, acme_world, ready
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr
from tests.protocol.test_acme_ari import certified
from validation.outcome import FailureKind

HOUR = timedelta(hours=1)
HELP = "https://ca.test/limits"


def limited(**rules: object) -> Sequence[AcmeEndpoint]:
    rules.setdefault("help", HELP)
    return (
        AcmeEndpoint(name="default", profiles=("tls-server",), limits=LimitRules(**rules)),  # type: ignore[arg-type]  # a test's
        AcmeEndpoint(name="other", profiles=("tls-server",)),
    )


RULES = limited(
    accounts_per_address=Limit(3, HOUR),
    orders_per_account=Limit(5, HOUR),
    orders_per_name=Limit(8, HOUR),
    failed_validations=Limit(2, HOUR),
    pending_authorizations=6,
)


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock, endpoints=RULES) as world:
        yield world


def refused(reply: Reply, seconds: int) -> str:
    """The detail of a refusal that is as clients and the RFC have it."""
    assert reply.status == 429
    assert reply.problem == "rateLimited"
    assert reply.headers["Retry-After"] == str(seconds)
    assert f'<{HELP}>;rel="help"' in reply.links
    assert reply.headers["Replay-Nonce"]
    assert "Location" not in reply.headers
    return str(reply.json["detail"])


async def count(database: Database, table: str) -> int:
    (row,) = await database.fetch(f"SELECT count(*) AS n FROM {table}")  # noqa: S608  # a table of ours
    return int(row["n"])


async def fulfil(client: AcmeClient, name: str) -> Reply:
    """An order whose authorization does not stay pending."""
    reply = await client.order(name)
    if reply.status == 201:
        await client.authorize(reply)
    return reply


async def test_accounts_of_one_address_are_counted_and_those_that_are_there_are_found(world: AcmeWorld) -> None:
    known = [await world.registered() for _ in range(3)]
    detail = refused(await world.client().register(), 1200)
    assert "new accounts from 127.0.0.1: 3 in 1h" in detail
    assert (await known[0].register()).status == 200
    assert (await world.client("other").register()).status == 201
    assert await count(world.database, "acme_account") == 4


async def test_orders_of_one_account_are_counted_and_the_refused_one_is_not_there(world: AcmeWorld, clock: FakeClock) -> None:
    client = await world.registered()
    for number in range(5):
        assert (await fulfil(client, f"a{number}.example.com")).status == 201
    detail = refused(await client.order("b.example.com"), 720)
    assert "new orders of this account" in detail
    assert await count(world.database, "acme_order") == 5
    clock.advance(timedelta(seconds=720))
    assert (await client.order("b.example.com")).status == 201


async def test_orders_below_one_registered_name_are_counted_over_all_accounts(world: AcmeWorld) -> None:
    clients = [await world.registered() for _ in range(3)]
    for number in range(8):
        assert (await fulfil(clients[number % 2], f"a{number}.example.com")).status == 201
    detail = refused(await clients[2].order("fine.example.org", "b.example.com"), 450)
    assert "example.com and the names below it" in detail
    assert (await clients[2].order("b.example.org")).status == 201


async def test_a_name_that_fails_and_fails_is_refused_and_told_to_mend_it(world: AcmeWorld, clock: FakeClock) -> None:
    client = await world.registered()
    world.http01.failing["bad.example.com"] = FailureKind.CONNECTION
    for _ in range(2):
        await fulfil(client, "bad.example.com")
    detail = refused(await client.order("bad.example.com"), 1800)
    assert "failed validations of bad.example.com" in detail
    assert "mend the cause" in detail
    assert (await client.order("good.example.com")).status == 201
    clock.advance(timedelta(seconds=1800))
    assert (await client.order("bad.example.com")).status == 201


async def test_an_account_that_proves_nothing_gets_no_more_to_prove(world: AcmeWorld) -> None:
    client = await world.registered()
    first = await client.order(*(f"a{number}.example.com" for number in range(4)))
    detail = refused(await client.order("b1.example.com", "b2.example.com", "b3.example.com"), 300)
    assert "4 authorizations of this account are pending" in detail
    await client.authorize(first)
    assert (await client.order("b1.example.com", "b2.example.com", "b3.example.com")).status == 201


async def test_whoever_is_deactivated_is_told_that_and_not_a_limit(world: AcmeWorld) -> None:
    client = await world.registered()
    for number in range(5):
        await fulfil(client, f"a{number}.example.com")
    assert (await client.post(client.kid, {"status": "deactivated"})).status == 200
    assert (await client.order("b.example.com")).problem == "unauthorized"


async def test_what_was_admitted_is_finished_whatever_the_limits_are_by_then(world: AcmeWorld) -> None:
    client = await world.registered()
    order = await ready(client, "a.example.com")
    for number in range(4):
        await fulfil(client, f"b{number}.example.com")
    refused(await client.order("c.example.com"), 720)
    finalized = await client.finalize(order, der_of(make_csr("a.example.com")))
    assert finalized.json["status"] == "valid"
    assert (await client.post(finalized.json["certificate"])).status == 200


async def test_a_flood_grows_no_table(world: AcmeWorld, clock: FakeClock) -> None:
    """assurance §6, capacity: whoever asks ten times as often as he may has what he may, and leaves no row more."""
    client = await world.registered()
    for _ in range(20):
        await world.client().register()
        await client.order("a.example.com", "b.example.com")
    counts = {table: await count(world.database, table) for table in ("acme_account", "acme_order", "acme_authorization")}
    assert counts == {"acme_account": 3, "acme_order": 3, "acme_authorization": 6}
    buckets = await count(world.database, "rate_bucket")
    assert buckets <= 4
    clock.advance(2 * HOUR)
    assert await forget(world.database, clock.micros()) == buckets
    assert await count(world.database, "rate_bucket") == 0


@asynccontextmanager
async def renewing(database: Database, **rules: object) -> AsyncIterator[tuple[AcmeWorld, FakeClock]]:
    """At the time of the simulated issuance, with renewal information."""
    clock = FakeClock(datetime(2027, 1, 15, 8, 30, tzinfo=UTC))
    endpoints = [replace(each, renewal_info=RenewalInfo()) for each in limited(**rules)]
    async with acme_world(database, clock, endpoints=endpoints) as world:
        yield world, clock


async def test_a_fleet_that_is_called_to_renew_is_not_refused_and_everybody_else_still_is(database: Database) -> None:
    """RFC 9773 §5, and thundering renewals: what the server asked for it takes."""
    async with renewing(database, orders_per_account=Limit(12, HOUR), orders_per_name=Limit(12, HOUR)) as (world, clock):
        client = await world.registered()
        certificates = [await certified(world, client, f"a{number}.example.com") for number in range(12)]
        clock.advance(timedelta(days=35))
        for number in range(12):
            assert (await client.order(f"b{number}.example.com")).status == 201
        refused(await client.order("c.example.com"), 300)
        answers = await asyncio.gather(
            *(client.order(f"a{number}.example.com", replaces=text) for number, text in enumerate(certificates))
        )
        assert {answer.status for answer in answers} == {201}
        assert (await client.order("a0.example.com", replaces=certificates[0])).status == 409
        refused(await client.order("c.example.com"), 300)


async def test_a_renewal_that_comes_early_or_wants_more_is_counted_as_any_order(database: Database) -> None:
    """Else one certificate's window would be an order for a hundred other names, of every domain, past every limit."""
    async with renewing(database, orders_per_account=Limit(1, HOUR)) as (world, clock):
        client = await world.registered()
        text = await certified(world, client, "a.example.com")
        refused(await client.order("a.example.com", replaces=text), 3600)
        clock.advance(timedelta(days=35))
        assert (await client.order("b.example.com")).status == 201
        refused(await client.order("a.example.com", "more.example.com", replaces=text), 3600)
        assert (await client.order("a.example.com", replaces=text)).status == 201


async def test_one_account_does_not_take_every_place_of_the_validator(database: Database, clock: FakeClock) -> None:
    async with acme_world(database, clock, hold=timedelta(0)) as world:
        world.http01.gate.clear()
        greedy, other = await world.registered(), await world.registered()
        order = await greedy.order(*(f"a{number}.example.com" for number in range(MOST_OF_ONE + 1)))
        *first, last = order.json["authorizations"]
        for url in first:
            reply = await greedy.post((await greedy.post(url)).json["challenges"][0]["url"], {})
            assert reply.json["status"] == "processing"
        full = await greedy.post((await greedy.post(last)).json["challenges"][0]["url"], {})
        assert full.status == 503
        assert full.headers["Retry-After"]
        (url,) = (await other.order("b.example.com")).json["authorizations"]
        assert (await other.post((await other.post(url)).json["challenges"][0]["url"], {})).status == 200
        world.http01.gate.set()
        await world.server.drain()
        assert (await greedy.post((await greedy.post(last)).json["challenges"][0]["url"], {})).status == 200
        await world.server.drain()
