"""Nonces that are spent together: whoever goes away, fails or comes twice, a nonce is accepted once at most."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

import pytest

from acmeserver.nonces import Nonces
from acmeserver.problems import Problem
from pki.reasons import Unavailable
from storage.database import Database, Row, Step, Value
from tests.helpers.clock import FakeClock
from tests.helpers.databases import second_node


def nonces(database: Database, clock: FakeClock) -> Nonces:
    return Nonces(database=database, clock=clock, random=secrets.token_bytes)


class Failing:
    """A scratch store whose next writes happen, or do not, and end in an outage either way."""

    def __init__(self, database: Database) -> None:
        self._inner = database.scratch
        self.outcomes: list[bool] = []  # whether the write was done before the answer was lost

    async def id(self) -> str:
        return await self._inner.id()

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        return await self._inner.fetch_one(sql, *args)

    async def write(self, *steps: Step) -> Sequence[Sequence[Row]]:
        if not self.outcomes:
            return await self._inner.write(*steps)
        if self.outcomes.pop(0):
            await self._inner.write(*steps)
        raise Unavailable("database: gone")


class Outage:
    """The database, with such a scratch store."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.scratch = Failing(database)

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name)


async def accepted(*redemptions: asyncio.Task[None]) -> int:
    results = await asyncio.gather(*redemptions, return_exceptions=True)
    assert all(result is None or isinstance(result, Problem | Unavailable | asyncio.CancelledError) for result in results)
    return sum(result is None for result in results)


async def test_a_crowd_with_one_nonce_at_two_nodes_gets_one_in(database: Database, database_url: str, clock: FakeClock) -> None:
    here = nonces(database, clock)
    shared, others = await here.issue(), [await here.issue() for _ in range(40)]
    async with second_node(database_url) as neighbour:
        there = nonces(neighbour, clock)
        crowd = [asyncio.create_task(node.redeem(shared)) for node in (here, there) for _ in range(50)]
        rest = [asyncio.create_task((here, there)[index % 2].redeem(other)) for index, other in enumerate(others)]
        assert await accepted(*crowd) == 1
        assert await accepted(*rest) == 40


@pytest.mark.parametrize("turns", range(4))
async def test_whoever_leaves_takes_his_nonce_along(database: Database, clock: FakeClock, turns: int) -> None:
    """His request may have been carried out as far as nobody knows; the nonce does not serve another."""
    here = nonces(database, clock)
    nonce, other = await here.issue(), await here.issue()
    first = asyncio.create_task(here.redeem(nonce))
    beside = asyncio.create_task(here.redeem(other))
    await asyncio.sleep(0)
    for _ in range(turns):
        await asyncio.sleep(0)
    first.cancel()
    second = asyncio.create_task(here.redeem(nonce))
    assert await accepted(first, second) <= 1
    assert await accepted(asyncio.create_task(here.redeem(nonce))) == 0
    await beside  # and nobody else is troubled


@pytest.mark.parametrize("done", [True, False])
async def test_a_batch_whose_answer_was_lost_lets_nobody_in_and_the_next_is_served(
    database: Database, clock: FakeClock, done: bool
) -> None:
    outage = Outage(database)
    here = Nonces(database=outage, clock=clock, random=secrets.token_bytes)  # type: ignore[arg-type]  # the rest is its database's
    batch = [await here.issue() for _ in range(5)]
    outage.scratch.outcomes = [done]
    assert await accepted(*(asyncio.create_task(here.redeem(nonce)) for nonce in batch)) == 0
    again = await accepted(*(asyncio.create_task(here.redeem(nonce)) for nonce in batch))
    assert again == (0 if done else 5)
    assert await accepted(*(asyncio.create_task(here.redeem(nonce)) for nonce in batch)) == 0
