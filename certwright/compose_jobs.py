"""What is done again and again, or later: which job calls what, and when it is due next."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from acmeserver.retention import Retention
from acmeserver.server import AcmeServer
from certwright.compose_scep import Scep
from issuance.approvals import AT_ONCE, Approvals
from issuance.crl import CrlPublisher
from issuance.revocation import job_key
from issuance.sweeper import Sweeper
from pki.clock import Clock, Micros, after
from storage.jobs import Handler, Job, Jobs

SWEEP_EVERY = timedelta(seconds=15)
EXPIRE_EVERY = timedelta(minutes=5)
CLEAN_EVERY = timedelta(minutes=5)
RENEW_EVERY = timedelta(seconds=30)
RETAIN_EVERY = timedelta(hours=1)
RETAIN_ON = timedelta(seconds=1)  # between two turns of one pass


@dataclass(frozen=True, slots=True)
class Periodic:
    """Whose work is due at times of its own."""

    publisher: CrlPublisher
    sweeper: Sweeper
    approvals: Approvals
    scep: Scep
    acme: AcmeServer
    retention: Retention


def periodic_jobs(parts: Periodic, *, clock: Clock, unfinished: timedelta) -> Mapping[str, Handler]:
    """By kind. `unfinished`: how long what came to nothing is kept."""
    return {
        "crl": functools.partial(_look, parts.publisher),
        "sweep": functools.partial(_sweep, parts.sweeper, clock),
        "approvals": functools.partial(_expire, parts.approvals, clock, unfinished),
        "scep": functools.partial(_forget, parts.scep, clock, unfinished),
        "acme-clean": functools.partial(_clean, parts.acme, clock),
        "acme-retention": functools.partial(_retain, parts.retention, clock),
    }


def validation_jobs(acme: AcmeServer, clock: Clock) -> Mapping[str, Handler]:
    """Lanes of their own: a validation may take ten seconds, and neither sweeping nor a CRL should wait for some of them."""
    return {
        "acme-validation": functools.partial(_resume, acme),
        "acme-star": functools.partial(_renew, acme, clock),
    }


async def schedule(jobs: Jobs, issuers: Collection[str], clock: Clock) -> None:
    """The periodic jobs, once for all nodes: a live job with the same key stays as it is."""
    now = clock.micros()
    for issuer in issuers:
        await jobs.enqueue("crl", {"issuer": issuer}, run_at=now, dedupe=job_key(issuer))
    await jobs.enqueue("sweep", {}, run_at=now, dedupe="sweep")
    await jobs.enqueue("approvals", {}, run_at=now, dedupe="approvals")
    await jobs.enqueue("scep", {}, run_at=now, dedupe="scep")
    await jobs.enqueue("acme-clean", {}, run_at=now, dedupe="acme-clean")
    await jobs.enqueue("acme-star", {}, run_at=now, dedupe="acme-star")
    await jobs.enqueue("acme-retention", {}, run_at=now, dedupe="acme-retention")


async def _look(publisher: CrlPublisher, job: Job) -> Micros | None:
    return await publisher.look(str(job.payload["issuer"]))


async def _sweep(sweeper: Sweeper, clock: Clock, _job: Job) -> Micros | None:
    await sweeper.sweep()
    return after(clock.micros(), SWEEP_EVERY)


async def _expire(approvals: Approvals, clock: Clock, kept: timedelta, _job: Job) -> Micros | None:
    full = await approvals.expire(kept=kept) >= AT_ONCE
    return clock.micros() if full else after(clock.micros(), EXPIRE_EVERY)


async def _forget(scep: Scep, clock: Clock, kept: timedelta, _job: Job) -> Micros | None:
    await scep.transactions.forget()
    await scep.challenges.forget(kept=kept)
    return after(clock.micros(), CLEAN_EVERY)


async def _clean(acme: AcmeServer, clock: Clock, _job: Job) -> Micros | None:
    await acme.clean()
    return after(clock.micros(), CLEAN_EVERY)


async def _retain(retention: Retention, clock: Clock, _job: Job) -> Micros | None:
    return after(clock.micros(), RETAIN_EVERY if await retention.turn() else RETAIN_ON)


async def _renew(acme: AcmeServer, clock: Clock, _job: Job) -> Micros | None:
    """Ends where no endpoint has orders that renew themselves; the next start asks again."""
    if not acme.has_stars:
        return None
    return clock.micros() if await acme.renew_stars() else after(clock.micros(), RENEW_EVERY)


async def _resume(acme: AcmeServer, job: Job) -> Micros | None:
    await acme.resume_validation(str(job.payload["authorization"]), str(job.payload["kind"]))
    return None
