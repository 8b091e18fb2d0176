"""NOTIFY from other processes, on one connection of its own that is made again whenever it is lost.

All our channels share one PostgreSQL channel, the name in the payload, so that nobody has to LISTEN anew for a new waiter.
Best effort: what is notified while the connection is away is lost, and everybody is woken when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import asyncpg

from storage.wakeups import Wakeups

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    _Connection = asyncpg.Connection[asyncpg.Record]
    _Source = _Connection | PoolConnectionProxy[asyncpg.Record]

_CHANNEL = "certwright"
_NOTIFY = "SELECT pg_notify($1, name) FROM unnest(CAST($2 AS TEXT[])) AS name"
_PAUSE = 1.0  # seconds between attempts to connect
_CHECK = 30.0  # seconds of silence after which a server that vanished without a word would be noticed
_TIMEOUT = 5.0  # seconds for our own statements

_LOST = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

_log = logging.getLogger(__name__)


class Listener:
    """Runs from construction to `close`."""

    def __init__(self, *, connect: Callable[[], Awaitable[_Connection]], wakeups: Wakeups) -> None:
        self._connect = connect
        self._wakeups = wakeups
        self._outgoing: set[str] = set()
        self._stir = asyncio.Event()  # something to send, or the connection is gone
        self._task = asyncio.get_running_loop().create_task(self._run(), name="postgres-listener")

    def notify(self, channel: str) -> None:
        """Many calls before the next turn of the loop become one statement."""
        self._outgoing.add(channel)
        self._stir.set()

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        for lives in itertools.count():
            try:
                await self._listen(again=lives > 0)
            except _LOST as error:
                _log.info("the database's notifications are away: %s", type(error).__name__)
            await asyncio.sleep(_PAUSE)

    async def _listen(self, *, again: bool) -> None:
        """Until the connection is lost."""
        connection = await self._connect()
        try:
            connection.add_termination_listener(lambda _: self._stir.set())
            await connection.add_listener(_CHANNEL, self._received)
            if again:
                self._wakeups.notify_all()
            while not connection.is_closed():
                self._stir.clear()
                names = sorted(self._outgoing)
                self._outgoing.clear()
                await connection.execute(_NOTIFY, _CHANNEL, names, timeout=_TIMEOUT)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_CHECK):
                        await self._stir.wait()
        finally:
            connection.terminate()

    def _received(self, source: _Source, pid: int, _channel: str, payload: object) -> None:
        if pid != source.get_server_pid():  # our own have been told already
            self._wakeups.notify(str(payload))
