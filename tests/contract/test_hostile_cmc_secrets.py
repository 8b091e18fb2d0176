"""Shared secrets of CMC clients, as somebody guesses at them who would be content to learn whom there is."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from issuance.cmc_secrets import CmcSecrets
from issuance.lockout import FailureLimits, Lockouts
from issuance.sealed import SealedKind, SealedSecrets
from pki.clock import after
from pki.reasons import Reason, Rejection
from pki.sealing import Sealer
from policy.limits import Limit
from storage.database import Database
from tests.helpers.clock import FakeClock
from tests.helpers.counted import CountedDatabase

LIMITS = FailureLimits(per_name=Limit(10, timedelta(minutes=15)), per_address=Limit(20, timedelta(minutes=15)))


class CountedSealer(Sealer):
    """Counts what takes time."""

    opened = 0

    def open(self, box: bytes, *, context: str) -> bytes:
        self.opened += 1
        return super().open(box, context=context)


class World:
    def __init__(self, database: Database, clock: FakeClock) -> None:
        self.database = CountedDatabase(database)
        self.sealer = CountedSealer([b"k" * 32])
        self.sealed = SealedSecrets(database=self.database, clock=clock, sealer=self.sealer)
        self.secrets = CmcSecrets(
            database=self.database,
            clock=clock,
            sealed=self.sealed,
            lockouts=Lockouts(database=self.database, clock=clock),
        )
        self.clock = clock

    async def guess(self, identification: str, *, address: str = "192.0.2.1", right: bool = False) -> Reason | None:
        try:
            await self.secrets.check(
                endpoint="default",
                identification=identification,
                is_right=lambda _secret: right,
                address=address,
                limits=LIMITS,
            )
        except Rejection as rejection:
            return rejection.reason
        return None


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> World:
    world = World(database, clock)
    soon = after(clock.micros(), timedelta(seconds=1))
    for name, until in (("known", None), ("disabled", None), ("expired", soon)):
        await world.sealed.set_cmc_secret(endpoint="default", identification=name, roles=[], profile="", expires_at=until)
    await world.sealed.disable(SealedKind.CMC_SECRET, endpoint="default", name="disabled")
    clock.advance(timedelta(seconds=1))
    assert await world.guess("known", right=True) is None
    return world


async def test_the_work_is_the_same_whether_there_is_such_an_identification_or_not(world: World) -> None:
    for name in ("known", "nobody", "disabled", "expired", "", "a:b", "x" * 5000, "a\0b", "\udcff"):
        world.database.reads.clear()
        world.database.writes.clear()
        before = world.sealer.opened
        assert await world.guess(name) is Reason.UNAUTHENTICATED
        assert (len(world.database.reads), len(world.database.writes), world.sealer.opened - before) == (2, 1, 1), name


@pytest.mark.parametrize("name", ["nobody", "disabled", "expired", "", "a\0b"])
async def test_nobody_is_let_in_even_where_every_proof_is_right(world: World, name: str) -> None:
    assert await world.guess(name, right=True) is Reason.UNAUTHENTICATED


async def test_of_fifty_guesses_at_once_no_more_than_the_limit_are_looked_at(world: World) -> None:
    said = await asyncio.gather(*(world.guess("known") for _ in range(50)))
    assert (said.count(Reason.UNAUTHENTICATED), said.count(Reason.RATE_LIMITED)) == (10, 40)
    said = await asyncio.gather(*(world.guess(f"n{n}") for n in range(50)))
    assert (said.count(Reason.UNAUTHENTICATED), said.count(Reason.RATE_LIMITED)) == (10, 40)
    assert await world.guess("known", right=True) is Reason.RATE_LIMITED
    assert await world.guess("known", right=True, address="192.0.2.2") is None


async def test_a_guess_whose_client_has_gone_is_counted(world: World) -> None:
    waiting = asyncio.create_task(world.guess("known"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    for _ in range(100):
        if await world.database.fetch("SELECT * FROM rate_bucket"):
            return
        await asyncio.sleep(0.05)
    pytest.fail("it was not counted")
