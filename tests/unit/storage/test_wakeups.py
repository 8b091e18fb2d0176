"""Channels that nobody waits on cost a bounded amount of memory."""

from __future__ import annotations

from storage.wakeups import Wakeups


async def test_the_oldest_unheard_notifications_are_forgotten() -> None:
    wakeups = Wakeups()
    for number in range(2000):
        wakeups.notify(f"order:{number}")
    assert await wakeups.wait("order:1999", 1) is True
    assert await wakeups.wait("order:0", 0.001) is False
