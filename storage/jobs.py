"""Work that must be done once, soon, by whoever lives: rows with a lease.

Laws of this file: a job is claimed by a token with a lease, and only the token's holder may end it; a job may run twice (its
worker died after the work and before the row), so handlers are idempotent or end the job in the same write as their facts
(`Jobs.finish_step`). A notification only shortens the wait; polling is what is relied on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pki.clock import Clock, Micros, after
from pki.reasons import Unavailable
from storage.database import Conflict, Database, Row, Step

JOBS_CHANNEL = "jobs"

ENQUEUE_SQL = """
INSERT INTO job (id, kind, dedupe, payload, run_at, lease_until, claim, attempts, created_at)
VALUES ($1, $2, $3, $4, $5, 0, '', 0, $6)
ON CONFLICT (dedupe) DO NOTHING"""

# $2 is ",kind,kind,": the one test for membership in a list of any length that both engines have.
CLAIM_SQL = """
WITH due AS MATERIALIZED (
    SELECT id FROM job
    WHERE run_at <= $1 AND lease_until <= $1 AND replace($2, ',' || kind || ',', '') <> $2
    ORDER BY run_at, id LIMIT $3 /*pg*/FOR UPDATE SKIP LOCKED/*end*/
)
UPDATE job SET lease_until = $4, claim = $5, attempts = attempts + 1
WHERE id IN (SELECT id FROM due)
RETURNING id, kind, payload, run_at, lease_until, claim, attempts"""

FINISH_SQL = "DELETE FROM job WHERE id = $1 AND claim = $2"

RELEASE_SQL = "UPDATE job SET run_at = $3, lease_until = 0, claim = '', attempts = $4 WHERE id = $1 AND claim = $2"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job. `attempts` counts this one: 1 at the first."""

    id: str
    kind: str
    payload: Mapping[str, Any]
    run_at: Micros
    lease_until: Micros
    claim: str
    attempts: int


Handler = Callable[[Job], Awaitable[Micros | None]]
"""Does the job. None: done, remove it. A time: run it again then (a periodic job). Any exception: again, after a back-off."""


def backoff(
    attempts: int,
    random_: Callable[[], float],
    *,
    first: timedelta = timedelta(seconds=2),
    most: timedelta = timedelta(minutes=10),
) -> timedelta:
    """Full jitter: between nothing and `first` doubled with every attempt, never more than `most`.

    `random_` gives numbers in [0, 1); it spreads those who failed together.
    """
    doublings = min(max(attempts, 1) - 1, 30)
    return min(most, first * (1 << doublings)) * random_()


class Jobs:
    """`new_id` gives ids and claim tokens that never come twice."""

    def __init__(self, *, database: Database, clock: Clock, new_id: Callable[[], str]) -> None:
        self._database = database
        self._clock = clock
        self._new_id = new_id

    def enqueue_step(self, kind: str, payload: Mapping[str, Any], *, run_at: Micros, dedupe: str | None = None) -> Step:
        """Rides in somebody else's write; call `database.notify(JOBS_CHANNEL)` after it.

        A live job with the same `dedupe` stays as it is and no second one is made, also while it runs: a handler whose
        input may change meanwhile reads it anew at its end, or asks to be run again.
        """
        text = json.dumps(payload, separators=(",", ":"), sort_keys=True)
        return Step(ENQUEUE_SQL, (self._new_id(), kind, dedupe, text, run_at, self._clock.micros()), rows=None)

    async def enqueue(self, kind: str, payload: Mapping[str, Any], *, run_at: Micros, dedupe: str | None = None) -> None:
        await self._database.write(self.enqueue_step(kind, payload, run_at=run_at, dedupe=dedupe))
        self._database.notify(JOBS_CHANNEL)

    async def claim(self, kinds: Collection[str], *, lease: timedelta, limit: int) -> list[Job]:
        """Up to `limit` due jobs, longest due first, that nobody else gets before `lease` is over."""
        now = self._clock.micros()
        listed = f",{','.join(sorted(kinds))},"
        args = (now, listed, limit, after(now, lease), self._new_id())
        (rows,) = await self._database.write(Step(CLAIM_SQL, args, rows=None))
        return sorted((_job(row) for row in rows), key=lambda job: (job.run_at, job.id))

    def finish_step(self, job: Job) -> Step:
        """For a handler that ends its job in the same write as its facts: exactly once. The runner takes that well."""
        return Step(FINISH_SQL, (job.id, job.claim))

    async def finish(self, job: Job) -> None:
        """Raises Conflict when the lease was lost to another claimer."""
        await self._database.write(self.finish_step(job))

    async def retry(self, job: Job, delay: timedelta) -> None:
        """Gives the job back, due after `delay`. Raises Conflict as `finish` does."""
        await self._database.write(Step(RELEASE_SQL, (job.id, job.claim, after(self._clock.micros(), delay), job.attempts)))

    async def reschedule(self, job: Job, run_at: Micros) -> None:
        """The next turn of a periodic job: as `retry`, with its attempts forgotten."""
        await self._database.write(Step(RELEASE_SQL, (job.id, job.claim, run_at, 0)))


def _job(row: Row) -> Job:
    return Job(
        id=row["id"],
        kind=row["kind"],
        payload=json.loads(row["payload"]),
        run_at=Micros(row["run_at"]),
        lease_until=Micros(row["lease_until"]),
        claim=row["claim"],
        attempts=row["attempts"],
    )


class JobRunner:
    """Runs due jobs until it is told to stop.

    `lanes` jobs run at once; one that is not done within `lease` is cancelled and retried. `poll` is the longest pause
    between two looks at the table, when no notification comes.
    """

    def __init__(
        self,
        *,
        database: Database,
        jobs: Jobs,
        handlers: Mapping[str, Handler],
        lease: timedelta = timedelta(seconds=60),
        poll: timedelta = timedelta(seconds=2),
        lanes: int = 4,
        random_: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._handlers = dict(handlers)
        self._lease = lease
        self._poll = poll
        self._lanes = lanes
        self._random = random_

    async def run(self, stop: asyncio.Event) -> None:
        """Returns when `stop` is set and the jobs under way have ended. Cancelled, it leaves them to their leases."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._lanes):
                group.create_task(self._lane(stop))

    async def _lane(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                claimed = await self._jobs.claim(self._handlers.keys(), lease=self._lease, limit=1)
            except Unavailable as error:
                _log.warning("no jobs for now: %s", error)
                await _first_of(stop.wait(), asyncio.sleep(self._poll.total_seconds()))
                continue
            for job in claimed:
                await self._run_one(job)
            if not claimed:
                await _first_of(stop.wait(), self._database.wait(JOBS_CHANNEL, self._poll.total_seconds()))

    async def _run_one(self, job: Job) -> None:
        try:
            again = await self._handled(job)
        except Exception as error:  # noqa: BLE001  # the outermost edge: a bug in one handler must not end the others
            _log.warning(
                "job %s %s failed at attempt %d: %r", job.kind, job.id, job.attempts, error, exc_info=not _expected(error)
            )
            ending = self._jobs.retry(job, backoff(job.attempts, self._random))
        else:
            ending = self._jobs.finish(job) if again is None else self._jobs.reschedule(job, again)
        try:
            await ending
        except Conflict:
            _log.info("job %s %s had been ended already", job.kind, job.id)
        except Unavailable as error:
            _log.warning("job %s %s could not be ended and runs again after its lease: %s", job.kind, job.id, error)

    async def _handled(self, job: Job) -> Micros | None:
        async with asyncio.timeout(self._lease.total_seconds()):
            return await self._handlers[job.kind](job)


def _expected(error: Exception) -> bool:
    return isinstance(error, Unavailable | TimeoutError)


async def _first_of(*waits: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
