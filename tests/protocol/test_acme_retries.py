"""A challenge is tried again by the server (RFC 8555 §8.2), and of several workers one tries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from acmeserver.claims import Claims
from acmeserver.validations import CLAIM, Retries
from pki.reasons import Unavailable
from storage.database import Database
from tests.helpers.acme_client import AcmeClient
from tests.helpers.acme_world import AcmeWorld, acme_world
from tests.helpers.clock import FakeClock
from tests.helpers.databases import second_node
from tests.helpers.issuance_simulator import der_of, make_csr
from validation.outcome import FailureKind

RETRIES = Retries(attempts=3, delay=timedelta(seconds=5))


@dataclass
class Pauses:
    """The waits between tries: no time passes but the clock's, and `heal` may happen meanwhile."""

    clock: FakeClock
    taken: list[float] = field(default_factory=list)
    failing: dict[str, FailureKind] = field(default_factory=dict)
    heal_after: int = 99

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.clock.advance(timedelta(seconds=seconds))
        if len(self.taken) >= self.heal_after:
            self.failing.clear()
        await asyncio.sleep(0)


@pytest.fixture
def pauses(clock: FakeClock) -> Pauses:
    return Pauses(clock)


@pytest.fixture
async def world(database: Database, clock: FakeClock, pauses: Pauses) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock, retries=RETRIES, sleep=pauses) as world:
        pauses.failing = world.http01.failing
        yield world


async def challenge_of(client: AcmeClient) -> tuple[str, str]:
    order = await client.order("a.example.com")
    authorization = order.json["authorizations"][0]
    return authorization, (await client.post(authorization)).json["challenges"][0]["url"]


async def evidence(database: Database) -> dict[str, Any]:
    (row,) = await database.fetch("SELECT evidence FROM acme_authorization")
    found: dict[str, Any] = json.loads(row["evidence"])
    return found


@pytest.mark.parametrize(
    "kind", [FailureKind.DNS, FailureKind.CONNECTION, FailureKind.TIMEOUT, FailureKind.UNAUTHORIZED], ids=str
)
async def test_what_time_heals_is_proved_at_the_third_try(
    world: AcmeWorld, pauses: Pauses, kind: FailureKind, database: Database
) -> None:
    client = await world.registered()
    world.http01.failing["a.example.com"] = kind
    pauses.heal_after = 2
    _, challenge = await challenge_of(client)
    assert (await client.post(challenge, {})).json["status"] == "valid"
    assert pauses.taken == [5, 10]
    assert len(world.http01.calls) == 3
    assert (await evidence(database))["attempts"] == 3


async def test_what_stays_as_it_is_has_failed_after_the_last_try(world: AcmeWorld, pauses: Pauses, database: Database) -> None:
    client = await world.registered()
    world.http01.failing["a.example.com"] = FailureKind.DNS
    authorization, challenge = await challenge_of(client)
    reply = await client.post(challenge, {})
    assert (reply.json["status"], reply.json["error"]["type"].rpartition(":")[2]) == ("invalid", "dns")
    assert (await client.post(authorization)).json["status"] == "invalid"
    assert pauses.taken == [5, 10]
    assert (await evidence(database))["attempts"] == 3


async def test_every_try_leaves_its_record_whatever_came_of_the_last(
    world: AcmeWorld, pauses: Pauses, clock: FakeClock, database: Database
) -> None:
    """What was seen the first time is how an attack on the DNS or on routes is found out later (BR 5.4.1)."""
    client = await world.registered()
    world.http01.failing["a.example.com"] = FailureKind.CONNECTION
    pauses.heal_after = 2
    _, challenge = await challenge_of(client)
    began = clock.micros()
    await client.post(challenge, {})
    last = await evidence(database)
    assert [(each["attempts"], each["failed"], each["started"] - began) for each in last["earlier"]] == [
        (1, "connection", 0),
        (2, "connection", 5_000_000),
    ]
    assert (last["attempts"], last["started"] - began) == (3, 15_000_000)


@pytest.mark.parametrize(
    "kind", [FailureKind.TLS, FailureKind.REFUSED_ADDRESS, FailureKind.REDIRECT, FailureKind.RESPONSE], ids=str
)
async def test_what_time_does_not_heal_fails_at_once(world: AcmeWorld, pauses: Pauses, kind: FailureKind) -> None:
    client = await world.registered()
    world.http01.failing["a.example.com"] = kind
    _, challenge = await challenge_of(client)
    assert (await client.post(challenge, {})).json["status"] == "invalid"
    assert pauses.taken == []
    assert len(world.http01.calls) == 1


async def test_meanwhile_the_challenge_is_processing_with_retry_after(database: Database, clock: FakeClock) -> None:
    waits, go_on = asyncio.Event(), asyncio.Event()

    async def sleep(_: float) -> None:
        waits.set()
        await go_on.wait()

    async with acme_world(database, clock, hold=timedelta(0), retries=RETRIES, sleep=sleep) as world:
        client = await world.registered()
        world.http01.failing["a.example.com"] = FailureKind.DNS
        authorization, challenge = await challenge_of(client)
        await client.post(challenge, {})
        await waits.wait()
        during = await client.post(challenge)
        assert (during.json["status"], during.headers["Retry-After"]) == ("processing", "1")
        assert "error" not in during.json
        assert (await client.post(authorization)).json["status"] == "pending"
        world.http01.failing.clear()
        go_on.set()
        await world.server.drain()
        assert (await client.post(authorization)).json["status"] == "valid"


async def test_an_authorization_given_up_between_two_tries_stays_given_up(
    world: AcmeWorld, pauses: Pauses, database: Database
) -> None:
    client = await world.registered()
    world.http01.failing["a.example.com"] = FailureKind.DNS
    world.http01.gate.clear()
    authorization, challenge = await challenge_of(client)
    posted = asyncio.create_task(client.post(challenge, {}))
    await world.http01.started.wait()
    await client.post(authorization, {"status": "deactivated"})
    pauses.heal_after = 1
    world.http01.gate.set()
    assert (await posted).status == 200
    assert (await client.post(authorization)).json["status"] == "deactivated"


def test_the_waits_double() -> None:
    assert [RETRIES.before(attempt).total_seconds() for attempt in (1, 2, 3, 4)] == [0, 5, 10, 20]
    assert Retries().attempts == 1


# ------------------------------------------------------------------------------------------------ three workers


async def workers(stack: AsyncExitStack, url: str, clock: FakeClock, first: Database) -> Sequence[AcmeWorld]:
    """On one database: nodes of their own on PostgreSQL, where alone there are several; SQLite's share its connection."""
    found = []
    for number in range(3):
        database = first
        if number and url.startswith("postgres"):
            database = await stack.enter_async_context(second_node(url))
        claims = Claims(database=database, clock=clock, holder=f"worker-{number}")
        found.append(await stack.enter_async_context(acme_world(database, clock, claims=claims)))
    return found


def at(world: AcmeWorld, client: AcmeClient) -> AcmeClient:
    """The same account at another worker."""
    return AcmeClient(world.http, key=client.key, kid=client.kid)


async def test_fifty_posts_of_one_challenge_to_three_workers_are_one_validation(
    database: Database, database_url: str, clock: FakeClock
) -> None:
    async with AsyncExitStack() as stack:
        worlds = await workers(stack, database_url, clock, database)
        client = await worlds[0].registered()
        _, challenge = await challenge_of(client)
        for world in worlds:
            world.http01.gate.clear()
        posts = [asyncio.create_task(at(worlds[n % 3], client).post(challenge, {})) for n in range(50)]
        started = [asyncio.create_task(world.http01.started.wait()) for world in worlds]
        await asyncio.wait(started, return_when=asyncio.FIRST_COMPLETED)
        for world in worlds:
            world.http01.gate.set()
        assert {(await post).json["status"] for post in posts} == {"valid"}
        assert sum(len(world.http01.calls) for world in worlds) == 1
        for task in started:
            task.cancel()


async def test_fifty_finalizes_at_three_workers_are_one_certificate(
    database: Database, database_url: str, clock: FakeClock
) -> None:
    async with AsyncExitStack() as stack:
        worlds = await workers(stack, database_url, clock, database)
        client = await worlds[0].registered()
        order = await client.order("a.example.com")
        await client.authorize(order)
        csr = der_of(make_csr("a.example.com"))
        replies = await asyncio.gather(*(at(worlds[n % 3], client).finalize(order, csr) for n in range(50)))
        assert sorted({reply.status for reply in replies}) == [200, 403]
        assert sum(reply.status == 200 for reply in replies) == 1
        assert sum(len(world.issuance.records) for world in worlds) == 1
        assert {reply.problem for reply in replies if reply.status == 403} == {"orderNotReady"}


async def test_a_claim_is_one_workers_until_it_is_over_or_given_back(database: Database, clock: FakeClock) -> None:
    one, two = (Claims(database=database, clock=clock, holder=holder) for holder in ("one", "two"))
    assert await one.take("z", CLAIM)
    assert await one.take("z", CLAIM)  # renewed
    assert not await two.take("z", CLAIM)
    await two.release("z")  # not its own
    assert not await two.take("z", CLAIM)
    await one.release("z")
    assert await two.take("z", CLAIM)
    clock.advance(CLAIM)
    assert await one.take("z", CLAIM)
    clock.advance(CLAIM)
    await two.clean()
    assert await two.take("z", CLAIM)


async def test_a_worker_that_died_loses_its_claim_and_another_goes_on(database: Database, clock: FakeClock) -> None:
    """Its claim is of the scratch store; nothing durable knows of it."""
    pauses = Pauses(clock)
    dead = Claims(database=database, clock=clock, holder="dead")
    alive = Claims(database=database, clock=clock, holder="alive")
    async with acme_world(database, clock, claims=alive, sleep=pauses) as world:
        client = await world.registered()
        _, challenge = await challenge_of(client)
        assert await dead.take(challenge.split("/")[-2], CLAIM)
        assert (await client.post(challenge, {})).json["status"] == "valid"
        assert sum(pauses.taken) >= CLAIM.total_seconds()
        assert len(world.http01.calls) == 1


async def test_a_validation_that_came_to_nothing_leaves_no_claim(database: Database, clock: FakeClock) -> None:
    claims, others = (Claims(database=database, clock=clock, holder=holder) for holder in ("one", "two"))
    async with acme_world(database, clock, claims=claims) as world:
        client = await world.registered()
        _, challenge = await challenge_of(client)
        world.http01.raises.append(Unavailable("database"))
        assert (await client.post(challenge, {})).status == 503
        assert await others.take(challenge.split("/")[-2], CLAIM)


async def test_the_job_of_a_worker_that_died_takes_its_validation_over(database: Database, clock: FakeClock) -> None:
    """The POST was answered with `processing`; the job waits for the dead worker's claim to end, and then does the work."""
    waits = asyncio.Event()

    async def for_ever(_: float) -> None:
        waits.set()
        await asyncio.Event().wait()

    claims = [Claims(database=database, clock=clock, holder=holder) for holder in ("dying", "alive")]
    hold = timedelta(0)
    async with acme_world(database, clock, hold=hold, claims=claims[0], retries=RETRIES, sleep=for_ever) as dying:
        client = await dying.registered()
        dying.http01.failing["a.example.com"] = FailureKind.DNS
        authorization, challenge = await challenge_of(client)
        assert (await client.post(challenge, {})).status == 200
        await waits.wait()  # between two tries
    (job,) = await database.fetch("SELECT id, payload FROM job")
    pauses = Pauses(clock)
    async with acme_world(database, clock, claims=claims[1], retries=RETRIES, sleep=pauses) as alive:
        await alive.server.resume_validation(job["id"], job["payload"])
        assert (await at(alive, client).post(authorization)).json["status"] == "valid"
        assert len(alive.http01.calls) == 1
        assert sum(pauses.taken) >= CLAIM.total_seconds()
