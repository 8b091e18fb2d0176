"""Nonces (RFC 8555 §6.5) over both engines: good once, on any node, after any restart, and never after a lost scratch store."""

from __future__ import annotations

import asyncio
import secrets
from datetime import timedelta

import pytest

from acmeserver.nonces import LIFETIME, SKEW, Nonces
from acmeserver.problems import BAD_NONCE, Problem, ProblemType
from pki.strict import base64url, from_base64url
from storage.database import Database, Step
from tests.helpers.clock import FakeClock


def node(database: Database, clock: FakeClock) -> Nonces:
    return Nonces(database=database, clock=clock, random=secrets.token_bytes)


async def refused(nonces: Nonces, nonce: str) -> bool:
    """True when it is badNonce, with the text that acme.sh looks for; False when it was taken."""
    try:
        await nonces.redeem(nonce)
    except Problem as problem:
        assert (problem.type, problem.status, problem.detail) == (ProblemType.BAD_NONCE, 400, BAD_NONCE)
        return True
    return False


async def lose_scratch(database: Database) -> None:
    """What a crash of the machine does."""
    await database.scratch.write(Step("DELETE FROM nonce_used", rows=None))
    await database.scratch.write(Step("DELETE FROM scratch_id", rows=None))


async def test_a_nonce_is_good_once(database: Database, clock: FakeClock) -> None:
    nonces = node(database, clock)
    nonce = await nonces.issue()
    assert not await refused(nonces, nonce)
    assert await refused(nonces, nonce)


async def test_a_nonce_is_good_at_another_node_and_after_a_restart(database: Database, clock: FakeClock) -> None:
    first = await node(database, clock).issue()
    second_node = node(database, clock)
    second = await second_node.issue()
    third_node = node(database, clock)
    assert not await refused(third_node, first)
    assert not await refused(third_node, second)
    assert await refused(second_node, first)  # spent, whoever is asked


async def test_nodes_that_start_at_once_agree_on_one_key(database: Database, clock: FakeClock) -> None:
    nodes = [node(database, clock) for _ in range(5)]
    issued = await asyncio.gather(*(each.issue() for each in nodes))
    (row,) = await database.fetch("SELECT count(*) AS n FROM nonce_key")
    assert row["n"] == 1
    for each, nonce in zip(nodes, reversed(issued), strict=True):
        assert not await refused(each, nonce)


async def test_a_nonce_lives_an_hour(database: Database, clock: FakeClock) -> None:
    nonces = node(database, clock)
    young, old = await nonces.issue(), await nonces.issue()
    clock.advance(LIFETIME - timedelta(seconds=1))
    assert not await refused(nonces, young)
    clock.advance(timedelta(seconds=1))
    assert await refused(nonces, old)


async def test_a_used_nonce_stays_used_after_cleaning_until_its_time_is_over(database: Database, clock: FakeClock) -> None:
    nonces = node(database, clock)
    nonce = await nonces.issue()
    await nonces.redeem(nonce)
    for _ in range(8):
        await nonces.clean()
        assert await refused(nonces, nonce)
        clock.advance((LIFETIME + SKEW) / 7)
    await nonces.clean()
    assert await database.scratch.fetch_one("SELECT nonce FROM nonce_used") is None
    assert await refused(nonces, nonce)


async def test_a_lost_scratch_store_ends_the_epoch_so_nothing_can_be_replayed(database: Database, clock: FakeClock) -> None:
    nonces, other = node(database, clock), node(database, clock)
    used, unused = await nonces.issue(), await nonces.issue()
    await nonces.redeem(used)
    await lose_scratch(database)
    assert await refused(nonces, used)
    assert await refused(nonces, unused)
    fresh = await nonces.issue()  # the one that came with the badNonce
    assert not await refused(other, fresh)  # the client's one retry works, at any node
    assert await refused(other, fresh)


async def test_a_node_that_has_not_heard_of_the_loss_refuses_too(database: Database, clock: FakeClock) -> None:
    nonces, other = node(database, clock), node(database, clock)
    stale = await other.issue()
    await lose_scratch(database)
    await nonces.issue()
    assert await refused(other, stale)
    assert not await refused(other, await other.issue())


async def test_keys_of_epochs_long_over_are_forgotten(database: Database, clock: FakeClock) -> None:
    nonces = node(database, clock)
    for _ in range(3):
        nonce = await nonces.issue()
        await lose_scratch(database)
        assert await refused(nonces, nonce)
    clock.advance(3 * LIFETIME)
    await nonces.clean()
    rows = await database.fetch("SELECT epoch FROM nonce_key")
    assert [row["epoch"] for row in rows] == [4]
    assert not await refused(nonces, await nonces.issue())


async def test_a_nonce_with_any_bit_changed_is_bad(database: Database, clock: FakeClock) -> None:
    nonces = node(database, clock)
    value = from_base64url(await nonces.issue())
    for position in range(len(value)):
        changed = bytearray(value)
        changed[position] ^= 1
        assert await refused(nonces, base64url(bytes(changed)))
    assert not await refused(nonces, base64url(value))


@pytest.mark.parametrize("nonce", ["", "A", "AAAA", base64url(bytes(40)), base64url(b"\xff" * 40), "=" * 8, "\x00", "é" * 54])
async def test_what_is_no_nonce_at_all_is_bad(database: Database, clock: FakeClock, nonce: str) -> None:
    assert await refused(node(database, clock), nonce)


async def test_a_thousand_nonces_are_all_different_and_store_nothing(database: Database, clock: FakeClock) -> None:
    nonces = node(database, clock)
    assert len({await nonces.issue() for _ in range(1000)}) == 1000
    assert await database.scratch.fetch_one("SELECT nonce FROM nonce_used") is None
