"""The shared engine: any number of processes and nodes on one PostgreSQL.

Laws of this file: nothing is true only on one node; a write is one round trip, as one statement of data-modifying CTEs
(storage/sql.py); whatever the network or the server's state does to us is `Unavailable`, and the pool mends itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from pki.reasons import Unavailable
from storage.database import Conflict, Row, Scratch, Step, Value
from storage.listener import Listener
from storage.scratch import scratch_id
from storage.sql import Merged, merge, refused_step, shape, step_on_table
from storage.url import DatabaseUrlError
from storage.wakeups import Wakeups

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    _Connection = asyncpg.Connection[asyncpg.Record]
    _ConnectionBase = asyncpg.Connection[asyncpg.Record]
    _Pooled = PoolConnectionProxy[asyncpg.Record]
else:
    _ConnectionBase = asyncpg.Connection  # generic in its stubs only

_CONNECT_TIMEOUT = 5.0  # seconds
_ACQUIRE_TIMEOUT = 5.0  # seconds that a request waits for a free connection
_COMMAND_TIMEOUT = 30.0  # seconds, for a server that does not answer at all
_STATEMENT_TIMEOUT_MS = 20_000  # the server's own, which should speak first
_CACHED_STATEMENTS = 512
_ATTEMPTS = 5  # of a write that lost against a concurrent one
_FIRST_PAUSE = 0.005  # seconds, doubled each time and jittered

Rows = Sequence[Sequence[Row]]
_T = TypeVar("_T")

_OUTAGES = (
    OSError,  # refused, reset, no such socket
    TimeoutError,
    asyncpg.PostgresConnectionError,  # 08
    asyncpg.InsufficientResourcesError,  # 53: disk full, too many connections
    asyncpg.OperatorInterventionError,  # 57: shutdown, starting up, cancelled by timeout
    asyncpg.ReadOnlySQLTransactionError,  # 25006: this server is a standby now
    asyncpg.LockNotAvailableError,  # 55P03
    asyncpg.InvalidAuthorizationSpecificationError,  # 28: no such role, wrong password; an operator mends it, not we
    asyncpg.InvalidCatalogNameError,  # 3D000: no such database
    asyncpg.InsufficientPrivilegeError,  # 42501: often a role that may not create tables
    asyncpg.TargetServerAttributeNotMatched,  # none of the DSN's hosts is a primary
)


@contextlib.contextmanager
def translated(closed: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Outages become `Unavailable`; `closed` says whether an InterfaceError was about a lost connection or is a bug."""
    try:
        yield
    except _OUTAGES as error:
        raise Unavailable(f"database: {_said(error)}") from error
    except asyncpg.InterfaceError as error:
        if not closed():
            raise
        raise Unavailable("database: connection lost") from error


def _said(error: BaseException) -> str:
    """For the operator: the server's own sentence, which for these classes holds names and never a value or a password."""
    match error:
        case asyncpg.PostgresError():
            said = str(error).partition("\n")[0]  # DETAIL and HINT follow
        case OSError(strerror=str(said)):
            pass
        case _:
            said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


class _PoolConnection(_ConnectionBase):
    """Returns to the pool without a query: we leave no session state behind that would have to be reset."""

    __slots__ = ()

    def get_reset_query(self) -> str:
        return ""


def _settings(application_name: str, statement_timeout_ms: int) -> dict[str, str]:
    return {
        "application_name": application_name,
        "statement_timeout": str(statement_timeout_ms),
        "idle_in_transaction_session_timeout": str(_STATEMENT_TIMEOUT_MS),
        "jit": "off",  # our statements are short, and compiling one takes longer than running it
    }


async def connect(
    dsn: str, *, application_name: str = "certwright", statement_timeout_ms: int = _STATEMENT_TIMEOUT_MS
) -> _Connection:
    """A connection outside the pool. Raises DatabaseUrlError, and asyncpg's errors."""
    try:
        return await asyncpg.connect(
            dsn, timeout=_CONNECT_TIMEOUT, server_settings=_settings(application_name, statement_timeout_ms)
        )
    except (asyncpg.ClientConfigurationError, ValueError) as error:
        # Its text may quote any part of the URL, a password with an unescaped @ or : in it too.
        raise DatabaseUrlError(
            "the database URL cannot be used: look at its port and at what follows the ?, "
            "and write special characters of a password as %40 and so on"
        ) from error


class PostgresScratch:
    """UNLOGGED tables: no log, so no sync. A crash of the server or a failover empties them, and the id with them."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def id(self) -> str:
        return await scratch_id(self)

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        return await self._database.fetch_one(sql, *args)

    async def write(self, *steps: Step) -> Rows:
        return await self._database.write(*steps)


class PostgresDatabase:
    """`storage.database.Database` on a pool of connections and one more that listens."""

    def __init__(self, *, pool: asyncpg.Pool[asyncpg.Record], listener: Listener, wakeups: Wakeups) -> None:
        self._pool = pool
        self._kept: list[_Pooled] = []
        self._waiting = 0
        self._generation = 0  # of connections: those of before a failover are not kept
        self._listener = listener
        self._wakeups = wakeups
        self._scratch = PostgresScratch(self)

    @classmethod
    async def open(cls, url: str, *, pool_size: int = 8) -> PostgresDatabase:
        """Raises Unavailable, for wrong credentials and a database that does not exist too."""
        with translated():
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=pool_size,
                connection_class=_PoolConnection,
                statement_cache_size=_CACHED_STATEMENTS,
                max_cached_statement_lifetime=0,
                command_timeout=_COMMAND_TIMEOUT,
                timeout=_CONNECT_TIMEOUT,
                server_settings=_settings("certwright", _STATEMENT_TIMEOUT_MS),
            )
        wakeups = Wakeups()
        return cls(pool=pool, listener=Listener(connect=lambda: connect(url), wakeups=wakeups), wakeups=wakeups)

    @property
    def scratch(self) -> Scratch:
        return self._scratch

    async def fetch(self, sql: str, *args: Value) -> Sequence[Row]:
        async def call(connection: _Pooled) -> list[Row]:
            return _plain(await connection.fetch(sql, *args))

        return await self._with_connection(call)

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        async def call(connection: _Pooled) -> Row | None:
            record = await connection.fetchrow(sql, *args)
            return None if record is None else dict(record.items())

        return await self._with_connection(call)

    async def write(self, *steps: Step) -> Rows:
        merged = merge(tuple((step.sql, step.rows) for step in steps)) if steps else None
        pause = _FIRST_PAUSE
        for left in reversed(range(_ATTEMPTS)):
            try:
                return await self._write_once(steps, merged)
            except asyncpg.UniqueViolationError as error:
                raise Conflict(step_on_table([step.sql for step in steps], error.table_name)) from error
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError) as error:
                if left == 0:
                    raise Unavailable("database: too many concurrent writes", retry_after=1) from error
                await asyncio.sleep(pause * random.random())  # noqa: S311  # jitter, not a secret
                pause *= 2
        raise AssertionError  # the last attempt returns or raises

    def notify(self, channel: str) -> None:
        self._wakeups.notify(channel)
        self._listener.notify(channel)

    async def wait(self, channel: str, timeout: float) -> bool:
        return await self._wakeups.wait(channel, timeout)

    async def ping(self) -> None:
        await self.fetch_one("SELECT 1")

    async def close(self) -> None:
        await self._listener.close()
        await self._give_back()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def _write_once(self, steps: tuple[Step, ...], merged: Merged | None) -> Rows:
        if merged is None:
            return await self._with_connection(lambda connection: _in_transaction(connection, steps))
        if merged.arguments != tuple(len(step.args) for step in steps):
            raise TypeError("a step has more or fewer arguments than its SQL has parameters")
        args = [value for step in steps for value in step.args]
        try:
            records = await self._with_connection(lambda connection: connection.fetch(merged.sql, *args))
        except (asyncpg.InvalidTextRepresentationError, asyncpg.DataError) as error:
            step = refused_step(str(error))
            if step is None:
                raise
            raise Conflict(step) from None
        results: list[list[Row]] = [[] for _ in steps]
        if merged.returning is not None:
            results[merged.returning] = _plain(records)
        return results

    async def _with_connection(self, call: Callable[[_Pooled], Awaitable[_T]]) -> _T:
        connection = await self._take()
        generation = self._generation
        try:
            with translated(lambda: not _lives(connection)):
                return await call(connection)
        except asyncpg.InternalClientError as error:
            # asyncpg has read the server's farewell and not yet the end of the stream: for it, a query is still under way.
            connection.terminate()
            raise Unavailable("database: connection lost") from error
        except asyncio.CancelledError:
            # Nobody knows how far it came. A BEGIN that has only just been sent would swallow whatever is written next.
            _drop(connection)
            raise
        except Unavailable as error:
            if isinstance(error.__cause__, asyncpg.ReadOnlySQLTransactionError):
                await self._expire()  # a primary may have taken over elsewhere
            elif isinstance(error.__cause__, TimeoutError):
                _drop(connection)  # as above
            raise
        finally:
            keep = generation == self._generation and not self._waiting and not self._pool.is_closing()
            if keep and _lives(connection) and not connection.is_in_transaction():
                self._kept.append(connection)
            else:
                await self._pool.release(connection)

    async def _take(self) -> _Pooled:
        """One that was used before and lives, else one of the pool's own giving."""
        while self._kept:
            connection = self._kept.pop()
            if _lives(connection):
                return connection
            await self._pool.release(connection)
        return await self._acquire()

    async def _acquire(self) -> _Pooled:
        self._waiting += 1
        try:
            with translated(self._pool.is_closing):
                async with asyncio.timeout(_ACQUIRE_TIMEOUT):
                    return await self._pool.acquire()
        finally:
            self._waiting -= 1

    async def _expire(self) -> None:
        self._generation += 1
        await self._pool.expire_connections()
        await self._give_back()

    async def _give_back(self) -> None:
        kept, self._kept = self._kept, []
        for connection in kept:
            await self._pool.release(connection)


def _lives(connection: _Pooled) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # it was closed, and the pool took it back by itself
        return False


def _drop(connection: _Pooled) -> None:
    if _lives(connection):
        connection.terminate()


def _plain(records: Sequence[asyncpg.Record]) -> list[Row]:
    """A Record iterates over its values and a Mapping over its keys; dicts are the same on both engines."""
    return [dict(record.items()) for record in records]


async def _in_transaction(connection: _Pooled, steps: Sequence[Step]) -> Rows:
    """For the writes that cannot be one statement."""
    results: list[list[Row]] = []
    async with connection.transaction():
        for index, step in enumerate(steps):
            try:
                rows, touched = await _run(connection, step)
            except asyncpg.UniqueViolationError as error:
                raise Conflict(index) from error
            if step.rows is not None and touched != step.rows:
                raise Conflict(index)
            results.append(rows)
    return results


async def _run(connection: _Pooled, step: Step) -> tuple[list[Row], int]:
    """Its rows, and how many rows it touched."""
    form = shape(step.sql)
    if form.returning or form.verb in {"", "SELECT"}:
        rows = _plain(await connection.fetch(step.sql, *step.args))
        return rows, len(rows)
    status = await connection.execute(step.sql, *step.args)  # "INSERT 0 1", "UPDATE 1"
    return [], int(status.rsplit(" ", 1)[-1])
