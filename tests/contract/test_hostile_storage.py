"""Callers that go away in the middle of a write, and servers that do not answer: what others write afterwards has to be there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest

from pki.reasons import Unavailable
from storage.database import Database, Step
from storage.listener import Listener
from storage.open import open_database
from storage.postgres import PostgresDatabase, connect
from storage.wakeups import Wakeups
from tests.helpers.databases import second_node
from tests.helpers.postgres import PostgresServer

INSERT = "INSERT INTO thing (id) VALUES ($1)"
RETURNING = "INSERT INTO thing (id) VALUES ($1) RETURNING id"
IDS = "SELECT id FROM thing ORDER BY id"


@pytest.fixture
async def narrow(database_url: str) -> AsyncIterator[Database]:
    """With one connection, so that whoever comes next gets what the one before left."""
    if database_url.startswith("postgresql"):
        opened: Database = await PostgresDatabase.open(database_url, pool_size=1)
    else:
        opened = await open_database(database_url, migrate=True)
    await opened.write(Step("CREATE TABLE thing (id TEXT PRIMARY KEY)", rows=None))
    yield opened
    await opened.close()


@pytest.mark.parametrize("turns", range(1, 16, 3))
async def test_a_write_whose_caller_is_gone_takes_no_later_write_with_it(
    narrow: Database, database_url: str, turns: int
) -> None:
    """Two steps with RETURNING are a transaction of several round trips on PostgreSQL; the caller leaves at each of them."""
    task = asyncio.create_task(narrow.write(Step(RETURNING, ("a",)), Step(RETURNING, ("b",))))
    for _ in range(turns):
        await asyncio.sleep(0.0005)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await narrow.write(Step(INSERT, ("kept",)))
    async with second_node(database_url) as other:
        ids = [row["id"] for row in await other.fetch(IDS)]
    assert ids in (["kept"], ["a", "b", "kept"])


@pytest.mark.parametrize("turns", range(1, 30, 2))
async def test_nor_when_it_goes_at_the_next_turn_of_the_loop(narrow: Database, database_url: str, turns: int) -> None:
    await narrow.fetch(IDS)
    task = asyncio.create_task(narrow.write(Step(RETURNING, ("a",)), Step(RETURNING, ("b",))))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await narrow.write(Step(INSERT, ("kept",)))
    await narrow.write(Step(RETURNING, ("c",)), Step(RETURNING, ("d",)))
    async with second_node(database_url) as other:
        ids = [row["id"] for row in await other.fetch(IDS)]
    assert ids in (["c", "d", "kept"], ["a", "b", "c", "d", "kept"])


async def test_a_write_that_the_server_did_not_answer_in_time_takes_no_later_write_with_it(
    postgres_server: PostgresServer,
) -> None:
    with postgres_server.database() as url:
        pool = await asyncpg.create_pool(url, min_size=1, max_size=1, command_timeout=0.2)
        wakeups = Wakeups()
        hasty = PostgresDatabase(pool=pool, listener=Listener(connect=lambda: connect(url), wakeups=wakeups), wakeups=wakeups)
        holder = await connect(url)
        await holder.execute("CREATE TABLE thing (id TEXT PRIMARY KEY)")
        async with holder.transaction():
            await holder.execute("LOCK TABLE thing IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(Unavailable):
                await hasty.write(Step(RETURNING, ("a",)), Step(RETURNING, ("b",)))
            with pytest.raises(Unavailable):
                await hasty.write(Step(INSERT, ("c",)))
        await hasty.write(Step(INSERT, ("kept",)))
        assert [row["id"] for row in await holder.fetch(IDS)] == ["kept"]
        await holder.close()
        await hasty.close()


async def test_a_connection_to_a_server_that_has_become_a_standby_is_not_used_again(postgres_server: PostgresServer) -> None:
    """The connection is good, its server is not: kept, it would be the next caller's, and the next one's."""
    with postgres_server.database() as url:
        opened = await PostgresDatabase.open(url, pool_size=1)
        await opened.write(Step("CREATE TABLE thing (id TEXT PRIMARY KEY)", rows=None))
        await opened.fetch("SELECT set_config('default_transaction_read_only', 'on', false)")
        with pytest.raises(Unavailable):
            await opened.write(Step(INSERT, ("a",)))
        await opened.write(Step(INSERT, ("b",)))
        assert [row["id"] for row in await opened.fetch(IDS)] == ["b"]
        await opened.close()
