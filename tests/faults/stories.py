"""One story for each database, told to all tests of a module: both are lived at the same time, each by a server of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import pytest

from tests.helpers.postgres import NO_POSTGRESQL, PostgresServer, binaries

T = TypeVar("T")

ENGINES = ("sqlite", "postgresql")


@contextmanager
def on_both(request: pytest.FixtureRequest, live: Callable[[str | None], T]) -> Iterator[dict[str, Future[T]]]:
    """`live` gets the URL of an empty database, None for SQLite. Without PostgreSQL here its story is missing."""
    with ThreadPoolExecutor(2) as threads:
        both = {"sqlite": threads.submit(live, None)}
        if binaries() is not None:
            postgres: PostgresServer = request.getfixturevalue("postgres_server")
            both["postgresql"] = threads.submit(live, postgres.empty_database())
        yield both


def told(stories: dict[str, Future[T]], engine: str) -> T:
    if engine not in stories:
        pytest.skip(NO_POSTGRESQL)
    return stories[engine].result()
