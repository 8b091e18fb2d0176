"""PostgreSQL goes away and comes back: 503s meanwhile, and nobody has to restart anything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from pki.reasons import Unavailable
from storage.database import Conflict, Step
from storage.migrate import upgrade
from storage.open import open_database
from storage.postgres import PostgresDatabase
from tests.helpers.databases import second_node
from tests.helpers.postgres import NO_POSTGRESQL, PostgresServer, binaries, running_server

INSERT = "INSERT INTO note (id) VALUES ($1)"


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """Not the session's: these tests stop it."""
    if binaries() is None:
        pytest.skip(NO_POSTGRESQL)
    with running_server() as server:
        yield server


async def eventually_pings(database: PostgresDatabase) -> None:
    while True:
        try:
            await database.ping()
        except Unavailable:
            await asyncio.sleep(0.01)
        else:
            return


async def test_a_crash_is_unavailable_until_the_server_is_back(own_server: PostgresServer) -> None:
    url = own_server.empty_database()
    await upgrade(url)
    database = await PostgresDatabase.open(url, pool_size=3)
    other = await PostgresDatabase.open(url, pool_size=2)
    await database.write(Step("CREATE TABLE note (id TEXT PRIMARY KEY)", rows=None))
    await database.write(Step(INSERT, ("before",)))
    scratch_id = await database.scratch.id()

    own_server.stop()
    for call in (
        database.ping,
        lambda: database.fetch("SELECT id FROM note"),
        lambda: database.write(Step(INSERT, ("during",))),
        database.scratch.id,
        lambda: open_database(url, migrate=True),
        lambda: PostgresDatabase.open(url),
    ):
        with pytest.raises(Unavailable) as caught:
            await call()
        assert caught.value.retry_after == 5
        assert "host=" not in str(caught.value)

    own_server.start()
    await eventually_pings(database)
    await eventually_pings(other)
    with pytest.raises(Conflict):
        await database.write(Step(INSERT, ("before",)))
    assert [row["id"] for row in await database.fetch("SELECT id FROM note")] == ["before"]
    # The crash has emptied the scratch store, so a new id says that used nonces are forgotten.
    assert await database.scratch.id() != scratch_id
    assert await other.scratch.id() == await database.scratch.id()
    while not await other.wait("jobs", 0.05):
        database.notify("jobs")
    await database.close()
    await other.close()


async def test_connections_that_the_administrator_ends_are_replaced(own_server: PostgresServer) -> None:
    url = own_server.empty_database()
    await upgrade(url)
    async with second_node(url) as database:
        assert isinstance(database, PostgresDatabase)
        await asyncio.gather(*(database.ping() for _ in range(8)))
        admin = await asyncpg.connect(url)
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await admin.close()
        await eventually_pings(database)


async def test_a_write_on_a_standby_is_unavailable(own_server: PostgresServer) -> None:
    url = own_server.empty_database()
    await upgrade(url)
    async with second_node(url + "&default_transaction_read_only=on") as database:
        with pytest.raises(Unavailable):
            await database.write(Step("DELETE FROM audit", rows=None))
        await database.ping()


async def test_a_server_without_free_connections_is_unavailable(own_server: PostgresServer) -> None:
    url = own_server.empty_database()
    await upgrade(url)
    admin = await asyncpg.connect(url)
    async with second_node(url) as database:
        name = await admin.fetchval("SELECT current_database()")
        await admin.execute(f"ALTER ROLE certwright NOSUPERUSER; ALTER DATABASE {name} CONNECTION LIMIT 1")
        try:
            verdicts = await asyncio.gather(*(database.ping() for _ in range(8)), return_exceptions=True)
        finally:
            await admin.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
        refused = [verdict for verdict in verdicts if verdict is not None]
        assert {type(verdict) for verdict in refused} == {Unavailable}
        await asyncio.gather(*(database.ping() for _ in range(8)))
    await admin.close()


async def test_after_it_is_closed_everything_is_unavailable(own_server: PostgresServer) -> None:
    url = own_server.empty_database()
    await upgrade(url)
    async with second_node(url) as database:
        await database.close()
        with pytest.raises(Unavailable):
            await database.ping()
