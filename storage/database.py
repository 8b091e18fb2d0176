"""What the floors above know of a database: read a row, or write some steps all or nothing.

Law of this file: a transaction is data, not a conversation. `write` takes all its steps at once, so SQLite can group
commits of many callers on one thread, and PostgreSQL can run them in one round trip. Steps of one `write` must not read
each other's rows nor touch the same row twice: on PostgreSQL they share one snapshot.

SQL text: `$1` parameters, `RETURNING`, `ON CONFLICT`, `->>`, row-value comparisons; `/*pg*/ ... /*end*/` marks what only
PostgreSQL runs. Values are int, str, bytes, bool (stored as INTEGER 0/1 on both), float or None. Times are BIGINT microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Value = int | str | bytes | float | None
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One statement of a write.

    `rows` is the compare-and-set: the number of rows that the statement must touch, or the whole write is undone and
    `Conflict` raised. None means any number. A unique violation is a Conflict too.
    """

    sql: str
    args: tuple[Value, ...] = ()
    rows: int | None = 1


class Conflict(Exception):
    """A step did not touch as many rows as it must, or met a unique constraint; nothing of the write remains.

    `step` is the index of the step in the write, None where the engine did not say (then read the state again).
    """

    def __init__(self, step: int | None) -> None:
        super().__init__(f"step {step}")
        self.step = step


class Scratch(Protocol):
    """Writes that may be forgotten when the machine (not the process) dies; no disk sync. Only used nonces live here."""

    async def fetch_one(self, sql: str, *args: Value) -> Row | None: ...

    async def write(self, *steps: Step) -> Sequence[Sequence[Row]]: ...


class Database(Protocol):
    """Both engines. Every method may raise `pki.reasons.Unavailable`; `write` may raise `Conflict`."""

    @property
    def scratch(self) -> Scratch: ...

    async def fetch(self, sql: str, *args: Value) -> Sequence[Row]:
        """All rows. Reads only."""

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        """The first row or None. Reads only."""

    async def write(self, *steps: Step) -> Sequence[Sequence[Row]]:
        """All steps or none, durable on return. Gives what each step's RETURNING gave (empty without one)."""

    def notify(self, channel: str) -> None:
        """Wake whoever waits on `channel`, in this process and (PostgreSQL) in all others. Best effort."""

    async def wait(self, channel: str, timeout: float) -> bool:
        """True when notified, False after `timeout` seconds. Callers poll anyway; this only shortens the wait."""

    async def ping(self) -> None:
        """Cheap round trip; raises Unavailable when the database is away."""

    async def close(self) -> None: ...
