"""Counting and printing: durations by step, errors by kind, percentiles, tables."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from bench.client import BenchError
from bench.processes import Cost

_T = TypeVar("_T")
WHOLE = "whole"


class Tally:
    """What happened in one measured window."""

    def __init__(self) -> None:
        self.durations: defaultdict[str, list[float]] = defaultdict(list)  # seconds, by step
        self.errors: Counter[str] = Counter()
        self.examples: dict[str, str] = {}  # one detail for each kind of error
        self.done = 0

    async def step(self, name: str, work: Awaitable[_T]) -> _T:
        started = time.perf_counter()
        result = await work
        self.durations[name].append(time.perf_counter() - started)
        return result

    async def item(self, work: Awaitable[None]) -> bool:
        """One whole item; an error is counted, not raised."""
        try:
            await self.step(WHOLE, work)
        except BenchError as error:
            self.error(error)
            return False
        self.done += 1
        return True

    def error(self, error: BenchError) -> None:
        self.errors[error.kind] += 1
        self.examples.setdefault(error.kind, str(error))


async def share(clients: int, count: int, work: Callable[[int, int], Awaitable[object]]) -> None:
    """`count` items over `clients` workers, each item as soon as a worker is free: work(client, item)."""
    items = iter(range(count))

    async def worker(client: int) -> None:
        for item in items:
            await work(client, item)

    await asyncio.gather(*(worker(client) for client in range(clients)))


def percentile(durations: Sequence[float], percent: int) -> float:
    """Milliseconds, nearest rank."""
    ordered = sorted(durations)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] * 1000 if ordered else 0.0


def summary(tally: Tally, *, seconds: float, requests: int, server: Cost | None, database: Cost | None) -> dict[str, object]:
    """JSON of one window. Times in milliseconds, memory in MiB and KiB."""
    done = max(1, tally.done)
    return {
        "done": tally.done,
        "seconds": round(seconds, 3),
        "per_second": round(tally.done / seconds, 1),
        "requests_per_item": round(requests / done, 2),
        "steps": {
            name: {"count": len(spans), **{f"p{p}": round(percentile(spans, p), 2) for p in (50, 95, 99)}}
            for name, spans in tally.durations.items()
        },
        "server": _cost(server, done),
        "database": _cost(database, done),
        "errors": dict(tally.errors),
        "examples": tally.examples,
    }


def _cost(cost: Cost | None, done: int) -> dict[str, float] | None:
    if cost is None:
        return None
    return {
        "cpu_ms_per_item": round(cost.cpu * 1000 / done, 3),
        "pss_mib_before": round(cost.pss_before, 1),
        "pss_mib_after": round(cost.pss_after, 1),
        "pss_kib_per_item": round((cost.pss_after - cost.pss_before) * 1024 / done, 2),
    }


def table(rows: Sequence[Sequence[object]]) -> str:
    """The first row is the heading; numbers to the right."""
    texts = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in texts
    )
