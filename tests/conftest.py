"""Fixtures that every test may use. What runs on `database` runs on both engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from storage.database import Database
from storage.open import open_database
from tests.helpers.clock import FakeClock
from tests.helpers.postgres import NO_POSTGRESQL, PostgresServer, binaries, running_server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for this test process; never stopped by a test."""
    if binaries() is None:
        pytest.skip(NO_POSTGRESQL)
    with running_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new database of each engine; PostgreSQL's has our schema already, SQLite's file is not there yet."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/certwright.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.database() as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Open, with our schema, empty."""
    opened = await open_database(database_url, migrate=True)
    yield opened
    await opened.close()
