"""Behind a server's doors: its tables, its log, its metrics and its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import asyncpg

from tests.helpers.postgres import run_apart
from tests.helpers.server import PATIENCE, Server


@dataclass(slots=True)
class Books:
    """The server's tables, read past the server. `url` is the database's; None means the SQLite file of the directory."""

    server: Server
    url: str | None = None

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        if self.url is None:
            uri = f"file:{self.server.directory / 'certwright.db'}?mode=ro"
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE)) as connection:
                return connection.execute(sql).fetchall()
        return run_apart(self._fetch(self.url, sql))

    async def _fetch(self, url: str, sql: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row.values()) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    def count(self, table: str) -> int:
        [(found,)] = self.rows(f"SELECT count(*) FROM {table}")  # noqa: S608  # our own tables' names
        return int(found)


@dataclass(slots=True)
class Watch:
    """What a refused request must not leave behind: a certificate, an intent, a traceback, an error in the log."""

    books: Books
    _before: tuple[int, int] = (0, 0)
    _logged: int = 0

    @property
    def _facts(self) -> tuple[int, int]:
        return self.books.count("certificate"), self.books.count("issuance")

    def begin(self) -> Self:
        self._before = self._facts
        self._logged = len(self.books.server.log_text())
        return self

    def nothing_happened(self) -> None:
        assert self._facts == self._before, "(certificates, intents)"
        self.no_bug()

    def no_bug(self) -> None:
        text = self.books.server.log_text()[self._logged :]
        assert "Traceback" not in text, text
        wrong = [line for line in text.splitlines() if '"level":"error"' in line or '"status":500' in line]
        assert not wrong, wrong


def counted(server: Server, status: str) -> float:
    """HTTP requests of this class ("5xx") that the metrics know, on all listeners."""
    code, body = server.get(server.metrics_url)
    assert code == 200
    lines = [line for line in body.decode().splitlines() if line.startswith("certwright_http_requests_total{")]
    assert lines
    return sum(float(line.rpartition(" ")[2]) for line in lines if f'status="{status}"' in line)


def until(true: Callable[[], bool], what: str, *, seconds: float = PATIENCE) -> None:
    """Looks again and again, for a bounded time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)


def freeze(pid: int) -> None:
    """Every thread of it, until SIGCONT."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: set(_states(pid)) == {"T"}, f"process {pid} to stop")


def settle(pids: Iterable[int]) -> None:
    """Until they all wait for somebody else: every thread asleep, at five looks in a row. One that was only late would be runnable."""
    looks: list[set[str]] = []

    def asleep() -> bool:
        looks.append({state for pid in pids for state in _states(pid)})
        return looks[-5:] == [{"S"}] * 5

    until(asleep, "the workers to wait")


def _states(pid: int) -> list[str]:
    stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [stat.rpartition(")")[2].split()[0] for stat in stats]
