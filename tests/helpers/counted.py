"""A database that counts what it is asked: every call is a round trip on PostgreSQL, every step a statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from storage.database import Database, Row, Scratch, Step, Value


@dataclass
class CountedDatabase:
    """`storage.database.Database` in front of a real one. Scratch writes (nonces, claims) are not counted."""

    real: Database
    reads: list[str] = field(default_factory=list)
    writes: list[tuple[str, ...]] = field(default_factory=list)

    def forget(self) -> None:
        self.reads.clear()
        self.writes.clear()

    @property
    def scratch(self) -> Scratch:
        return self.real.scratch

    async def fetch(self, sql: str, *args: Value) -> Sequence[Row]:
        self.reads.append(sql)
        return await self.real.fetch(sql, *args)

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        self.reads.append(sql)
        return await self.real.fetch_one(sql, *args)

    async def write(self, *steps: Step) -> Sequence[Sequence[Row]]:
        self.writes.append(tuple(step.sql for step in steps))
        return await self.real.write(*steps)

    def notify(self, channel: str) -> None:
        self.real.notify(channel)

    async def wait(self, channel: str, timeout: float) -> bool:
        return await self.real.wait(channel, timeout)

    async def ping(self) -> None:
        await self.real.ping()

    async def close(self) -> None:
        await self.real.close()
