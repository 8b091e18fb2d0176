"""Notifications only shorten a wait, but they do."""

from __future__ import annotations

import asyncio

from storage.database import Database
from tests.helpers.databases import second_node
from tests.helpers.postgres import PostgresServer


async def test_everybody_who_waits_in_this_process_is_woken(database: Database) -> None:
    waits = [asyncio.ensure_future(database.wait("jobs", 60)) for _ in range(3)]
    await asyncio.sleep(0)
    database.notify("other")
    database.notify("jobs")
    assert await asyncio.gather(*waits) == [True, True, True]


async def test_without_a_notification_the_wait_ends_by_itself(database: Database) -> None:
    assert await database.wait("jobs", 0.01) is False


async def test_a_notification_before_the_wait_is_not_lost_and_counts_once(database: Database) -> None:
    database.notify("jobs")
    assert await database.wait("jobs", 60) is True
    assert await database.wait("jobs", 0.01) is False


async def test_a_notification_reaches_another_node(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as url:
        async with second_node(url) as here, second_node(url) as there:
            # Until both listeners are connected a notification may be lost.
            while not await there.wait("jobs", 0.05):
                here.notify("jobs")
            here.notify("order:1")
            assert await there.wait("order:1", 60) is True
