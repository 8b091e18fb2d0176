"""What the floors above know of a database: read a row, or write some steps all or nothing.

Law of this file: a transaction is data, not a conversation. `write` takes all its steps at once, so SQLite can group
commits of many callers on one thread, and PostgreSQL can run them in one round trip. Steps of one `write` must not read
each other's rows nor touch the same row twice: on PostgreSQL they share one snapshot.

SQL text: `$1` parameters, `RETURNING`, `ON CONFLICT`, row-value comparisons; `/*pg*/ ... /*end*/` marks what only PostgreSQL
runs. Values are int (64 bits), str (no U+0000), bytes, bool (stored as INTEGER 0/1 on both), float or None. Times are BIGINT
microseconds. What the engines see differently, so that one text serves both:

- PostgreSQL infers a parameter's type from where it stands: a column compared with or inserted into, also in
  `INSERT ... SELECT $1`. Beside a literal it takes the literal's type, so `$1 + 1` is 32 bits and overflows on microseconds:
  write `CAST($1 AS BIGINT) + 1`. A lone `SELECT $1` is TEXT. SQLite takes an int for a TEXT column; PostgreSQL does not.
- `sum()` of a BIGINT column is NUMERIC there and comes back as Decimal: `CAST(sum(x) AS BIGINT)`.
- `->>` wants a JSON type there, and our JSON is TEXT: `/*pg*/CAST(/*end*/ names /*pg*/AS JSON)/*end*/ ->> 'key'`.
- `INSERT ... SELECT ... ON CONFLICT` needs a WHERE in the SELECT (SQLite would read ON as a join).
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
    """Writes that may be forgotten when the machine (not the process) dies; no disk sync. Only used nonces live here.

    What was forgotten is never half forgotten: the store is then empty and its id another. A write that names the id
    (`INSERT ... SELECT ... WHERE EXISTS (SELECT 1 FROM scratch_id WHERE id = $1)`) therefore never counts on lost rows.
    """

    async def id(self) -> str:
        """The store's id, the same on all nodes, until it is lost. Raises Unavailable."""

    async def fetch_one(self, sql: str, *args: Value) -> Row | None: ...

    async def write(self, *steps: Step) -> Sequence[Sequence[Row]]: ...


class Database(Protocol):
    """Both engines. Every method may raise `pki.reasons.Unavailable`; `write` may raise `Conflict`.

    Rows are plain dicts. Errors in the SQL itself, and violations other than of uniqueness, raise what the driver raises.
    """

    @property
    def scratch(self) -> Scratch: ...

    async def fetch(self, sql: str, *args: Value) -> Sequence[Row]:
        """All rows. Reads only."""

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        """The first row or None. Reads only."""

    async def write(self, *steps: Step) -> Sequence[Sequence[Row]]:
        """All steps or none, durable on return. Gives what each step's RETURNING gave (empty without one).

        One round trip on PostgreSQL with at most one RETURNING among the steps; with more, one per step and two around them.
        When `Unavailable` is raised, the write is wholly done or wholly undone, and a lost connection does not tell which:
        read the state again, or repeat the write, whose compare-and-set then says Conflict.
        """

    def notify(self, channel: str) -> None:
        """Wake whoever waits on `channel`, in this process and (PostgreSQL) in all others. Best effort."""

    async def wait(self, channel: str, timeout: float) -> bool:
        """True when notified, False after `timeout` seconds. Callers poll anyway; this only shortens the wait.

        A notification that met no waiter is kept for the next one, so looking first and waiting then loses nothing.
        """

    async def ping(self) -> None:
        """Cheap round trip; raises Unavailable when the database is away."""

    async def close(self) -> None:
        """Ends what is under way; later calls raise Unavailable."""
