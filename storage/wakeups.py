"""Who waits on which channel, inside one process. Both engines stand on it; PostgreSQL adds NOTIFY from other processes."""

from __future__ import annotations

import asyncio

_KEPT = 1024  # channels that were notified while nobody waited


class Wakeups:
    """Everybody who waits is woken. When nobody does, the next who comes is: a notification between a caller's look at the
    database and its wait would be lost otherwise. A waiter may be woken for nothing, so look again and wait again.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[bool]]] = {}
        self._kept: dict[str, None] = {}  # in order of arrival: the oldest is forgotten first

    def notify(self, channel: str) -> None:
        """In the loop's thread only."""
        waiting = self._waiting.get(channel)
        if not waiting:
            self._kept[channel] = None
            if len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]
            return
        for future in waiting:
            if not future.done():
                future.set_result(True)

    def notify_all(self) -> None:
        """Wakes everybody, for notifications may have been missed."""
        for channel in list(self._waiting):
            self.notify(channel)

    async def wait(self, channel: str, timeout: float) -> bool:
        if channel in self._kept:
            del self._kept[channel]
            return True
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(channel, set())
        waiting.add(future)
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            return False
        finally:
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(channel, None)
