"""The embedded engine: one file, one process, one writer thread.

Laws of this file: all writes go through the writer thread, which commits many callers' writes with one disk sync and
answers none of them before that. Reads run in the loop's own thread on a read-only connection: 4 microseconds, where a hop
to another thread costs 80. So no read may be long, and no long read may be added without moving it off the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pki.reasons import Unavailable
from storage.database import Conflict, Row, Scratch, Step, Value
from storage.schema import SCRATCH
from storage.scratch import scratch_id
from storage.sql import Engine, for_engine, for_sqlite
from storage.wakeups import Wakeups

_BATCH = 256  # writes, about, in one commit: what waits behind them should not wait long
_NAMES = tuple(str(number) for number in range(1, 251))  # the parameters $1, $2, ... are named so
_CACHED_STATEMENTS = 512
_UNIQUE = frozenset({sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID})
# What the machine does to us and not our SQL, by primary result code.
_OUTAGES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)

Rows = Sequence[Sequence[Row]]


def _code(error: sqlite3.Error) -> int:
    """The extended result code; 0 for errors that the Python module itself raises."""
    return getattr(error, "sqlite_errorcode", 0)


def _outage(error: sqlite3.Error) -> Unavailable | None:
    if _code(error) & 0xFF not in _OUTAGES:
        return None
    return Unavailable(f"database: {error.sqlite_errorname}: {error}")


@contextlib.contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        unavailable = _outage(error)
        if unavailable is None:
            raise
        raise unavailable from error


def _closed() -> Unavailable:
    return Unavailable("database: closed")


def connect(path: Path, *, busy_timeout: float, options: str = "") -> sqlite3.Connection:
    return sqlite3.connect(
        path.absolute().as_uri() + options,
        uri=True,
        timeout=busy_timeout,
        isolation_level=None,  # we say BEGIN ourselves
        check_same_thread=False,  # the loop's thread opens and closes what the writer thread uses
        cached_statements=_CACHED_STATEMENTS,
    )


def create_private(path: Path) -> None:
    """SQLite gives its -wal and -shm files the mode of the database file, so that one has to be right from the start."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _execute(connection: sqlite3.Connection, sql: str, args: Sequence[Value]) -> list[Row]:
    cursor = connection.execute(for_sqlite(sql), dict(zip(_NAMES, args, strict=False)))
    if cursor.description is None:
        return []
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _run_steps(connection: sqlite3.Connection, steps: Sequence[Step]) -> Rows:
    """Inside a transaction. Raises Conflict or sqlite3.Error; the caller takes back what was done before."""
    results = []
    for index, step in enumerate(steps):
        before = connection.total_changes
        try:
            rows = _execute(connection, step.sql, step.args)
        except sqlite3.IntegrityError as error:
            if _code(error) in _UNIQUE:
                raise Conflict(index) from error
            raise
        # The module's rowcount is -1 for statements that begin with WITH.
        touched = len(rows) if rows else connection.total_changes - before
        if step.rows is not None and touched != step.rows:
            raise Conflict(index)
        results.append(rows)
    return results


def roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # some errors end the transaction by themselves
        connection.execute("ROLLBACK")


@dataclass(frozen=True, slots=True)
class _Write:
    steps: tuple[Step, ...]
    future: asyncio.Future[Rows]


_Outcome = Rows | Exception


class _Writer:
    """The thread that owns the writing connection."""

    def __init__(self, connection: sqlite3.Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._turn: list[_Write] = []
        self._queue: queue.SimpleQueue[list[_Write] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._thread.start()

    def put(self, write: _Write) -> None:
        """What is put in one turn of the loop goes over together: one wake-up of the thread and one disk sync for all."""
        self._turn.append(write)
        if len(self._turn) == 1:
            self._loop.call_soon(self.hand_over)

    def hand_over(self) -> None:
        if self._turn:
            self._queue.put(self._turn)
            self._turn = []

    def finish(self) -> None:
        """Blocks until all that was handed over is committed, then closes the connection."""
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while True:
            batch, last = self._take()
            if batch:
                outcomes = list(zip(batch, self._commit(batch), strict=True))
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(_deliver, outcomes)
            if last:
                return

    def _take(self) -> tuple[list[_Write], bool]:
        """All writes that wait, at least one; True when the end was asked for behind them."""
        batch: list[_Write] = []
        turn = self._queue.get()
        while turn is not None:
            batch += turn
            if len(batch) >= _BATCH:
                return batch, False
            try:
                turn = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _commit(self, batch: list[_Write]) -> list[_Outcome]:
        """One transaction for the whole batch. When it cannot be committed nobody's verdict stands, not even a Conflict,
        for it may have been one with a neighbour's lost rows.
        """
        try:
            roll_back(self._connection)  # of a batch whose own rollback the disk refused
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._attempt(write.steps) for write in batch]
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                roll_back(self._connection)
            return [_outage(error) or error for _ in batch]
        return outcomes

    def _attempt(self, steps: tuple[Step, ...]) -> _Outcome:
        """One write in its savepoint. Raises sqlite3.Error when the whole transaction is lost."""
        self._connection.execute("SAVEPOINT w")
        try:
            rows = _run_steps(self._connection, steps)
        except Exception as error:  # it belongs to the caller on the other thread, who gets it
            if isinstance(error, sqlite3.Error) and (_outage(error) or not self._connection.in_transaction):
                raise
            self._connection.execute("ROLLBACK TO w")
            self._connection.execute("RELEASE w")
            return error
        self._connection.execute("RELEASE w")
        return rows


def _deliver(outcomes: list[tuple[_Write, _Outcome]]) -> None:
    for write, outcome in outcomes:
        if write.future.done():  # its caller was cancelled
            continue
        if isinstance(outcome, Exception):
            write.future.set_exception(outcome)
        else:
            write.future.set_result(outcome)


class SqliteScratch:
    """A file of its own without disk sync, used in the loop's thread (20 microseconds a write).

    It survives the process, not the machine: the boot id is part of its name, so a file that a crashed machine may have
    torn is never opened again.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._is_closed = False

    @classmethod
    def open(cls, database: Path, *, boot_id: str) -> SqliteScratch:
        prefix = f"{database.name}.scratch-"
        path = database.with_name(prefix + boot_id)
        for old in database.parent.glob(prefix + "*"):
            if not old.name.startswith(path.name):
                old.unlink(missing_ok=True)
        try:
            return cls(_open_scratch(path))
        except sqlite3.DatabaseError:  # not to be read: as good as lost
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return cls(_open_scratch(path))

    async def id(self) -> str:
        return await scratch_id(self)

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        if self._is_closed:
            raise _closed()
        with translated():
            rows = _execute(self._connection, sql, args)
        return rows[0] if rows else None

    async def write(self, *steps: Step) -> Rows:
        if self._is_closed:
            raise _closed()
        with translated():
            if len(steps) == 1 and steps[0].rows is None:
                return _run_steps(self._connection, steps)
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                results = _run_steps(self._connection, steps)
                self._connection.execute("COMMIT")
            except BaseException:
                roll_back(self._connection)
                raise
            return results

    def close(self) -> None:
        self._is_closed = True
        self._connection.close()


def _open_scratch(path: Path) -> sqlite3.Connection:
    create_private(path)
    connection = connect(path, busy_timeout=0.25)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        for statement in for_engine(SCRATCH.sql, Engine.SQLITE):
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def _this_boot() -> str:
    """Changes with every start of the machine. Where nobody tells, with every start of the process, which is safe too."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(uuid.uuid4())


class SqliteDatabase:
    """`storage.database.Database` on one file, 0600. Belongs to the loop that opened it."""

    def __init__(self, *, reader: sqlite3.Connection, writer: sqlite3.Connection, scratch: SqliteScratch) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._writer = _Writer(writer, self._loop)
        self._scratch = scratch
        self._wakeups = Wakeups()
        self._is_closed = False

    @classmethod
    async def open(cls, path: Path, *, boot_id: str | None = None, busy_timeout: float = 5.0) -> SqliteDatabase:
        """Makes the file when there is none. Raises OSError for a folder that is missing or not ours, Unavailable otherwise.

        `boot_id` tells one run of the machine from the next; by default the kernel's own. `busy_timeout` is how many seconds
        a write waits for another process (a command of the operator's) that holds the database.
        """
        create_private(path)
        with contextlib.ExitStack() as opened, translated():
            writer = opened.enter_context(contextlib.closing(connect(path, busy_timeout=busy_timeout)))
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("PRAGMA synchronous = FULL")
            writer.execute("PRAGMA foreign_keys = ON")
            # A reader in WAL mode waits for nobody but a recovery; it would hold up the loop.
            reader = opened.enter_context(contextlib.closing(connect(path, options="?mode=ro", busy_timeout=0.25)))
            reader.execute("PRAGMA query_only = ON")
            scratch = SqliteScratch.open(path, boot_id=boot_id or _this_boot())
            opened.pop_all()
        return cls(reader=reader, writer=writer, scratch=scratch)

    @property
    def scratch(self) -> Scratch:
        return self._scratch

    async def fetch(self, sql: str, *args: Value) -> Sequence[Row]:
        return self._read(sql, args)

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        rows = self._read(sql, args)
        return rows[0] if rows else None

    async def write(self, *steps: Step) -> Rows:
        if self._is_closed:
            raise _closed()
        future: asyncio.Future[Rows] = self._loop.create_future()
        self._writer.put(_Write(steps, future))
        return await future

    def notify(self, channel: str) -> None:
        self._wakeups.notify(channel)

    async def wait(self, channel: str, timeout: float) -> bool:
        return await self._wakeups.wait(channel, timeout)

    async def ping(self) -> None:
        self._read("SELECT 1 FROM sqlite_schema LIMIT 1", ())

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._writer.hand_over()
        await asyncio.to_thread(self._writer.finish)
        self._reader.close()
        self._scratch.close()

    def _read(self, sql: str, args: Sequence[Value]) -> list[Row]:
        if self._is_closed:
            raise _closed()
        try:
            return _execute(self._reader, sql, args)
        except sqlite3.Error as error:
            # Plain READONLY is a write that was passed to fetch: a bug. Its extended codes are trouble with the files.
            if _code(error) == sqlite3.SQLITE_READONLY or (unavailable := _outage(error)) is None:
                raise
            raise unavailable from error
