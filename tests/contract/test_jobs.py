"""Jobs on both engines: claimed once, ended by the holder alone, run again when their worker dies."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from datetime import timedelta

import pytest

from pki.clock import Micros, after
from pki.reasons import Unavailable
from storage.database import Conflict, Database, Step
from storage.jobs import JOBS_CHANNEL, Handler, Job, JobRunner, Jobs
from tests.helpers.clock import FakeClock
from tests.helpers.databases import second_node

LEASE = timedelta(seconds=30)
SOON = timedelta(milliseconds=10)


def jobs_of(database: Database, clock: FakeClock, name: str = "node") -> Jobs:
    numbers = itertools.count(1)
    return Jobs(database=database, clock=clock, new_id=lambda: f"{name}-{next(numbers)}")


@pytest.fixture
def jobs(database: Database, clock: FakeClock) -> Jobs:
    return jobs_of(database, clock)


def runner_of(database: Database, jobs: Jobs, handlers: Mapping[str, Handler], lease: timedelta = LEASE) -> JobRunner:
    return JobRunner(database=database, jobs=jobs, handlers=handlers, lease=lease, poll=SOON, lanes=3, random_=lambda: 0.5)


async def left(database: Database) -> int:
    row = await database.fetch_one("SELECT count(*) AS n FROM job")
    assert row is not None
    return int(row["n"])


async def test_a_due_job_is_claimed_with_its_payload_and_gone_when_finished(
    database: Database, clock: FakeClock, jobs: Jobs
) -> None:
    await jobs.enqueue("crl", {"issuer": "issuing", "n": 1}, run_at=clock.micros())
    (job,) = await jobs.claim(["crl", "other"], lease=LEASE, limit=5)
    assert (job.kind, job.payload, job.attempts) == ("crl", {"issuer": "issuing", "n": 1}, 1)
    assert job.lease_until == after(clock.micros(), LEASE)
    await jobs.finish(job)
    assert await left(database) == 0


async def test_a_job_is_not_claimed_before_its_time_nor_by_those_who_do_not_know_its_kind(clock: FakeClock, jobs: Jobs) -> None:
    await jobs.enqueue("crl", {}, run_at=after(clock.micros(), timedelta(seconds=1)))
    assert await jobs.claim(["crl"], lease=LEASE, limit=1) == []
    clock.advance(timedelta(seconds=1))
    assert await jobs.claim(["cr", "rl", "crl-x", "c_l"], lease=LEASE, limit=1) == []
    assert await jobs.claim([], lease=LEASE, limit=1) == []
    assert len(await jobs.claim(["crl"], lease=LEASE, limit=1)) == 1


async def test_the_longest_due_jobs_come_first_and_no_more_than_asked_for(clock: FakeClock, jobs: Jobs) -> None:
    now = clock.micros()
    for age in (1, 3, 2):
        await jobs.enqueue("k", {"age": age}, run_at=Micros(now - age))
    claimed = await jobs.claim(["k"], lease=LEASE, limit=2)
    assert [job.payload["age"] for job in claimed] == [3, 2]


async def test_two_nodes_never_claim_the_same_job(database: Database, database_url: str, clock: FakeClock) -> None:
    async with second_node(database_url) as other:
        nodes = [jobs_of(database, clock, "a"), jobs_of(other, clock, "b")]
        for _ in range(20):
            await nodes[0].enqueue("k", {}, run_at=clock.micros())
        claims = await asyncio.gather(*(nodes[turn % 2].claim(["k"], lease=LEASE, limit=3) for turn in range(16)))
    ids = [job.id for claim in claims for job in claim]
    assert len(ids) == len(set(ids)) == 20


async def test_after_the_lease_another_gets_the_job_and_only_that_one_may_end_it(
    database: Database, clock: FakeClock, jobs: Jobs
) -> None:
    await jobs.enqueue("k", {}, run_at=clock.micros())
    (lost,) = await jobs.claim(["k"], lease=LEASE, limit=1)
    clock.advance(LEASE - timedelta(microseconds=1))
    assert await jobs.claim(["k"], lease=LEASE, limit=1) == []
    clock.advance(timedelta(microseconds=1))
    (held,) = await jobs.claim(["k"], lease=LEASE, limit=1)
    assert (held.id, held.attempts) == (lost.id, 2)
    for ending in (jobs.finish(lost), jobs.retry(lost, SOON), jobs.reschedule(lost, clock.micros())):
        with pytest.raises(Conflict):
            await ending
    await jobs.finish(held)
    assert await left(database) == 0


async def test_a_retried_job_keeps_its_attempts_and_a_rescheduled_one_forgets_them(clock: FakeClock, jobs: Jobs) -> None:
    await jobs.enqueue("k", {}, run_at=clock.micros())
    (first,) = await jobs.claim(["k"], lease=LEASE, limit=1)
    await jobs.retry(first, timedelta(seconds=5))
    assert await jobs.claim(["k"], lease=LEASE, limit=1) == []
    clock.advance(timedelta(seconds=5))
    (second,) = await jobs.claim(["k"], lease=LEASE, limit=1)
    assert second.attempts == 2
    await jobs.reschedule(second, after(clock.micros(), timedelta(hours=1)))
    clock.advance(timedelta(hours=1))
    (third,) = await jobs.claim(["k"], lease=LEASE, limit=1)
    assert (third.attempts, third.run_at) == (1, clock.micros())


async def test_one_live_job_a_dedupe_key_and_any_number_without(database: Database, clock: FakeClock, jobs: Jobs) -> None:
    for _ in range(3):
        await jobs.enqueue("k", {}, run_at=clock.micros(), dedupe="crl:issuing")
        await jobs.enqueue("k", {}, run_at=clock.micros())
    assert await left(database) == 4
    for job in await jobs.claim(["k"], lease=LEASE, limit=9):
        await jobs.finish(job)
    await jobs.enqueue("k", {}, run_at=clock.micros(), dedupe="crl:issuing")
    assert await left(database) == 1


async def test_a_job_rides_in_another_write_and_falls_with_it(database: Database, clock: FakeClock, jobs: Jobs) -> None:
    step = jobs.enqueue_step("k", {}, run_at=clock.micros(), dedupe="d")
    missing = Step("DELETE FROM job WHERE id = $1", ("nobody",))
    with pytest.raises(Conflict) as caught:
        await database.write(step, missing)
    assert caught.value.step == 1
    assert await left(database) == 0
    await database.write(step, Step("DELETE FROM job WHERE id = $1", ("nobody",), rows=0))
    assert await left(database) == 1


async def test_two_runners_run_every_job_once_and_stop_when_told(
    database: Database, database_url: str, clock: FakeClock, jobs: Jobs
) -> None:
    seen: list[str] = []
    all_seen = asyncio.Event()

    async def handler(job: Job) -> None:
        seen.append(job.payload["name"])
        if len(seen) == 12:
            all_seen.set()

    stop = asyncio.Event()
    async with second_node(database_url) as other, asyncio.TaskGroup() as group:
        group.create_task(runner_of(database, jobs, {"k": handler}).run(stop))
        group.create_task(runner_of(other, jobs_of(other, clock, "b"), {"k": handler}).run(stop))
        for name in range(12):
            await jobs.enqueue("k", {"name": str(name)}, run_at=clock.micros())
        await all_seen.wait()
        stop.set()
    assert sorted(seen, key=int) == [str(name) for name in range(12)]
    assert await left(database) == 0


async def test_a_failing_handler_is_retried_after_a_back_off_and_does_not_end_the_others(
    database: Database, clock: FakeClock, jobs: Jobs
) -> None:
    attempts: list[int] = []
    failed_twice, done, other = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def failing(job: Job) -> None:
        attempts.append(job.attempts)
        if job.attempts == 1:
            raise Unavailable("signer: away")
        if job.attempts == 2:
            failed_twice.set()
            raise ValueError("a bug")
        done.set()

    async def working(job: Job) -> None:
        other.set()

    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(runner_of(database, jobs, {"failing": failing, "working": working}).run(stop))
        await jobs.enqueue("failing", {}, run_at=clock.micros())
        await jobs.enqueue("working", {}, run_at=clock.micros())
        await other.wait()
        while not done.is_set():
            clock.advance(timedelta(minutes=10))
            await asyncio.sleep(0.005)
        stop.set()
    assert attempts == [1, 2, 3]
    assert failed_twice.is_set()
    assert await left(database) == 0


async def test_a_handler_that_outlives_its_lease_is_cancelled_and_the_job_given_back(
    database: Database, clock: FakeClock, jobs: Jobs
) -> None:
    cancelled = asyncio.Event()

    async def endless(job: Job) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(runner_of(database, jobs, {"k": endless}, lease=SOON).run(stop))
        await jobs.enqueue("k", {}, run_at=clock.micros())
        await cancelled.wait()
        stop.set()
    row = await database.fetch_one("SELECT claim, attempts, run_at FROM job")
    assert row == {"claim": "", "attempts": 1, "run_at": after(clock.micros(), timedelta(seconds=1))}


async def test_a_handler_may_end_its_job_in_the_write_of_its_facts_and_a_periodic_one_comes_again(
    database: Database, clock: FakeClock, jobs: Jobs
) -> None:
    ended, turned = asyncio.Event(), asyncio.Event()

    async def own_end(job: Job) -> None:
        await database.write(jobs.finish_step(job))
        ended.set()

    async def periodic(job: Job) -> Micros:
        turned.set()
        return after(clock.micros(), timedelta(hours=1))

    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(runner_of(database, jobs, {"own-end": own_end, "periodic": periodic}).run(stop))
        await jobs.enqueue("own-end", {}, run_at=clock.micros())
        await jobs.enqueue("periodic", {}, run_at=clock.micros(), dedupe="periodic")
        await ended.wait()
        await turned.wait()
        stop.set()
    rows = await database.fetch("SELECT kind, attempts, run_at FROM job")
    assert list(rows) == [{"kind": "periodic", "attempts": 0, "run_at": after(clock.micros(), timedelta(hours=1))}]


async def test_a_runner_waits_out_an_outage(database: Database, clock: FakeClock, jobs: Jobs, database_url: str) -> None:
    """Its database is closed under it: all it sees is Unavailable, and it still stops when told."""
    async with second_node(database_url) as other:
        await other.close()
        stop = asyncio.Event()
        task = asyncio.ensure_future(runner_of(other, jobs_of(other, clock), {}).run(stop))
        assert await database.wait(JOBS_CHANNEL, 0.05) is False
        assert not task.done()
        stop.set()
        await task
