"""The one way to a database: from the URL in the configuration."""

from __future__ import annotations

from typing import assert_never

from storage.database import Database
from storage.migrate import status, upgrade
from storage.postgres import PostgresDatabase
from storage.schema import require_current
from storage.sqlite import SqliteDatabase
from storage.url import PostgresUrl, SqliteUrl, parse_database_url


async def open_database(url: str, *, migrate: bool) -> Database:
    """`sqlite:///abs/path` or `postgresql://...`, with a schema that is this program's.

    With `migrate` pending migrations are run first; without, they raise a SchemaError that names the command.
    Raises SchemaError also for a newer or altered schema, DatabaseUrlError, Unavailable, and OSError for SQLite's files.
    """
    if migrate:
        await upgrade(url)
    else:
        require_current(await status(url))
    match parse_database_url(url):
        case SqliteUrl(path):
            return await SqliteDatabase.open(path)
        case PostgresUrl(dsn):
            return await PostgresDatabase.open(dsn)
        case other:
            assert_never(other)
