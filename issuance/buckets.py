"""Token buckets in the database: admissions that are taken from in the write that needs them, and failures that are counted.

Law of this file: no request is first counted and then served. A bucket is emptied by a step of the write that it limits, whose
row count is the verdict: several buckets give all or nothing, concurrent requests cannot pass together, and an admitted request
costs no round trip more. Only a refused one is looked into afterwards, for the answer. The arithmetic is policy/limits.py; the
SQL here repeats `take`, and a test holds one against the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from pki.clock import Micros, after, rfc3339
from pki.reasons import Reason, Rejection
from policy.limits import SKEW, Limit, address_key, terms, wait
from storage.database import Database, Step

# Its place in the row is $1 owner, $2 name; $3 is the time of a bucket that was not there; $4 to $7 are `Terms`.
TAKE_SQL = """
INSERT INTO rate_bucket (owner, name, tat) VALUES ($1, $2, $3)
ON CONFLICT (owner, name) DO UPDATE SET tat = CASE WHEN rate_bucket.tat > $4 AND rate_bucket.tat <= $7
    THEN rate_bucket.tat ELSE CAST($4 AS BIGINT) END + CAST($5 AS BIGINT)
WHERE rate_bucket.tat <= $6 OR rate_bucket.tat > $7"""

# What has happened cannot be refused any more: counted, and a bucket that admits nobody stays so for one interval.
COUNT_SQL = """
INSERT INTO rate_bucket (owner, name, tat) VALUES ($1, $2, $3)
ON CONFLICT (owner, name) DO UPDATE SET tat = CASE WHEN rate_bucket.tat > $6 AND rate_bucket.tat <= $7
    THEN CAST($6 AS BIGINT) WHEN rate_bucket.tat > $4 AND rate_bucket.tat <= $7
    THEN rate_bucket.tat ELSE CAST($4 AS BIGINT) END + CAST($5 AS BIGINT)"""

BUCKET_SQL = "SELECT tat FROM rate_bucket WHERE owner = $1 AND name = $2"
# A bucket past its time is full, and so is one that is not there. Bounded, for it holds the writer.
FORGET_SQL = "DELETE FROM rate_bucket WHERE (owner, name) IN (SELECT owner, name FROM rate_bucket WHERE tat < $1 LIMIT 1000) RETURNING name"


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """Which one: `owner` is the limit and where it is set, `name` whom it is for."""

    owner: str
    name: str


@dataclass(frozen=True, slots=True)
class Charge:
    """One admission, to be taken with the write that it admits. `what` completes "too many …" for whoever is refused."""

    bucket: Bucket
    limit: Limit
    what: str


def take(bucket: Bucket, limit: Limit, now: Micros) -> Step:
    """For the write that is limited: a Conflict when the bucket admits nobody."""
    return Step(TAKE_SQL, arguments(bucket, limit, now))


def count(bucket: Bucket, limit: Limit, now: Micros) -> Step:
    """For the write that says what has happened."""
    return Step(COUNT_SQL, arguments(bucket, limit, now))


def charge_steps(charges: Sequence[Charge], now: Micros) -> list[Step]:
    """In the order of their keys, so that two writes never wait for each other."""
    return [take(charge.bucket, charge.limit, now) for charge in sorted(charges, key=lambda each: each.bucket)]


def enrolment_charges(
    owner: str, endpoint: str, *, caller: str, per_caller: Limit | None, source_address: str, per_address: Limit | None
) -> tuple[Charge, ...]:
    """What an endpoint's own limits take for one certificate; a renewal counts as an enrolment. None is no limit."""
    address = address_key(source_address)
    wanted = (
        ("caller", caller, per_caller, "enrolments of this caller"),
        ("address", address, per_address, f"enrolments from {address}"),
    )
    return tuple(
        Charge(Bucket(f"{owner}/{kind}/{endpoint}", name), limit, what)
        for kind, name, limit, what in wanted
        if limit is not None
    )


async def seconds_until(database: Database, bucket: Bucket, limit: Limit, now: Micros) -> int:
    """Whole seconds until the bucket admits one, 0 when it does now."""
    row = await database.fetch_one(BUCKET_SQL, bucket.owner, bucket.name)
    return wait(row["tat"] if row is not None else None, terms(limit, now))


async def refusal(database: Database, charges: Sequence[Charge], now: Micros) -> Rejection | None:
    """Why a write with these charges met a Conflict; None when it was not for them, or they admit one by now."""
    for charge in charges:
        seconds = await seconds_until(database, charge.bucket, charge.limit, now)
        if seconds:
            return refused(charge.what, charge.limit, seconds, now)
    return None


def refused(what: str, limit: Limit, seconds: int, now: Micros) -> Rejection:
    text = f"too many {what}: {said(limit)}; {again(seconds, now)}"
    return Rejection(Reason.RATE_LIMITED, text, retry_after=seconds)


async def forget(database: Database, now: Micros) -> int:
    """Remove up to a thousand buckets that are full again; how many there were."""
    (gone,) = await database.write(Step(FORGET_SQL, (after(now, -SKEW),), rows=None))
    return len(gone)


def arguments(bucket: Bucket, limit: Limit, now: Micros) -> tuple[str | int, ...]:
    """$1 to $7 of the statements."""
    at = terms(limit, now)
    return bucket.owner, bucket.name, now + at.interval, at.now, at.interval, at.latest, at.absurd


def said(limit: Limit) -> str:
    return f"{limit.count} in {_span(limit.period)} are admitted"


def again(seconds: int, now: Micros) -> str:
    return f"try again after {seconds} s, at {rfc3339(after(now, timedelta(seconds=seconds)))}"


def _span(period: timedelta) -> str:
    seconds = int(period.total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
