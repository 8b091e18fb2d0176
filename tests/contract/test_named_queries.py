"""Every SQL constant in the house can be prepared on both engines."""

from __future__ import annotations

import contextlib
import sqlite3

import asyncpg

from tests.helpers.databases import named_queries, prepare_on_sqlite, sqlite_with_schema
from tests.helpers.postgres import PostgresServer


def test_every_named_query_is_sqlite() -> None:
    failures = {}
    with contextlib.closing(sqlite_with_schema()) as connection:
        for name, sql in named_queries().items():
            try:
                prepare_on_sqlite(connection, sql)
            except sqlite3.Error as error:
                failures[name] = str(error)
    assert failures == {}


async def test_every_named_query_is_postgresql(postgres_server: PostgresServer) -> None:
    failures = {}
    with postgres_server.database() as url:
        connection = await asyncpg.connect(url)
        try:
            for name, sql in named_queries().items():
                try:
                    await connection.prepare(sql)
                except asyncpg.PostgresError as error:
                    failures[name] = str(error)
        finally:
            await connection.close()
    assert failures == {}


def test_the_queries_of_this_floor_are_among_them() -> None:
    assert {"storage.jobs.CLAIM_SQL", "storage.scratch.READ_ID_SQL"} <= set(named_queries())
