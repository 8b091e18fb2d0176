"""Brings a database to this program's schema, or says how far it is.

Laws of this file: each migration is one transaction together with its row in `schema_migration`, under a lock that makes
a second node wait and then find nothing left to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import assert_never

import asyncpg

from pki.clock import Clock, SystemClock
from storage import postgres, sqlite
from storage.schema import CREATE_TABLE_SQL, OURS, SCRATCH, Migration, Status, pending
from storage.sql import Engine, for_engine
from storage.url import PostgresUrl, SqliteUrl, parse_database_url

APPLIED_SQL = "SELECT name, checksum FROM schema_migration ORDER BY name"
RECORD_SQL = "INSERT INTO schema_migration (name, checksum, applied_at) VALUES ($1, $2, $3)"


async def upgrade(database_url: str, *, migrations: Sequence[Migration] = OURS, clock: Clock | None = None) -> list[str]:
    """Runs what is pending; gives the names of what it ran, empty when there was nothing to do.

    Raises SchemaError before it changes anything, Unavailable, DatabaseUrlError, and OSError for an SQLite file that cannot be.
    """
    now = clock or SystemClock()
    match parse_database_url(database_url):
        case SqliteUrl(path):
            return await asyncio.to_thread(_upgrade_sqlite, path, migrations, now)
        case PostgresUrl(dsn):
            return await _upgrade_postgres(dsn, migrations, now)
        case other:
            assert_never(other)


async def status(database_url: str, *, migrations: Sequence[Migration] = OURS) -> Status:
    """Changes nothing; a database that is not there yet has everything pending. Raises as `upgrade` does."""
    match parse_database_url(database_url):
        case SqliteUrl(path):
            applied = await asyncio.to_thread(_applied_sqlite, path) if path.exists() else {}
        case PostgresUrl(dsn):
            async with _postgres(dsn) as connection:
                applied = await _applied_postgres(connection)
        case other:
            assert_never(other)
    todo = pending(migrations, applied)
    return Status(tuple(sorted(applied)), tuple(migration.name for migration in todo))


# ---------------------------------------------------------------- SQLite


@contextlib.contextmanager
def _sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    with sqlite.translated(), contextlib.closing(sqlite.connect(path, busy_timeout=30)) as connection:
        yield connection


def _applied_sqlite(path: Path) -> dict[str, str]:
    with _sqlite(path) as connection:
        return _read_sqlite(connection)


def _read_sqlite(connection: sqlite3.Connection) -> dict[str, str]:
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_migration'").fetchall():
        return {}
    return dict(connection.execute(APPLIED_SQL).fetchall())


def _upgrade_sqlite(path: Path, migrations: Sequence[Migration], clock: Clock) -> list[str]:
    sqlite.create_private(path)
    done: list[str] = []
    with _sqlite(path) as connection:
        while True:
            connection.execute("BEGIN IMMEDIATE")
            try:
                todo = pending(migrations, _read_sqlite(connection))
                if todo:
                    connection.execute(CREATE_TABLE_SQL)
                    for statement in for_engine(todo[0].sql, Engine.SQLITE):
                        connection.execute(statement)
                    row = {"1": todo[0].name, "2": todo[0].checksum, "3": clock.micros()}
                    connection.execute(RECORD_SQL, row)
                connection.execute("COMMIT")
            except BaseException:
                sqlite.roll_back(connection)
                raise
            if not todo:
                return done
            done.append(todo[0].name)


# ---------------------------------------------------------------- PostgreSQL


@contextlib.asynccontextmanager
async def _postgres(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    with postgres.translated():
        connection = await postgres.connect(dsn, application_name="certwright db", statement_timeout_ms=0)
        try:
            yield connection
        finally:
            await connection.close()


async def _applied_postgres(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, str]:
    if await connection.fetchval("SELECT CAST(to_regclass('schema_migration') AS TEXT)") is None:
        return {}
    return {row["name"]: row["checksum"] for row in await connection.fetch(APPLIED_SQL)}


async def _upgrade_postgres(dsn: str, migrations: Sequence[Migration], clock: Clock) -> list[str]:
    done: list[str] = []
    async with _postgres(dsn) as connection:
        pending(migrations, await _applied_postgres(connection))  # refuse before the first change
        # IF NOT EXISTS still fails when another node makes the table at the same moment; then it exists.
        with contextlib.suppress(asyncpg.UniqueViolationError, asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError):
            await connection.execute(CREATE_TABLE_SQL)
        while True:
            async with connection.transaction():
                await connection.execute("LOCK TABLE schema_migration IN EXCLUSIVE MODE")
                todo = pending(migrations, await _applied_postgres(connection))
                for statement in for_engine((todo[0] if todo else SCRATCH).sql, Engine.POSTGRESQL):
                    await connection.execute(statement)
                if todo:
                    await connection.execute(RECORD_SQL, todo[0].name, todo[0].checksum, clock.micros())
            if not todo:
                return done
            done.append(todo[0].name)
