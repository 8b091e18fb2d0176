"""What an endpoint admits is taken with the intent: on both engines, whoever comes at the same moment."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from issuance.buckets import Bucket, Charge
from issuance.request import Issued, Outcome, Rejected
from pki.reasons import Reason
from policy.limits import Limit
from storage.database import Database, Step
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import Issuing

HOUR = timedelta(hours=1)


@pytest.fixture
def issuing(database: Database, clock: FakeClock) -> Issuing:
    return Issuing(database, clock)


def charge(name: str, limit: Limit) -> Charge:
    return Charge(Bucket("enrolled/caller/default", name), limit, "enrolments of this caller")


async def submit(issuing: Issuing, *charges: Charge, name: str = "a.example.com") -> Outcome:
    return await issuing.issuance.submit(issuing.request(name, charges=charges))


def retry_after(outcome: Outcome) -> int:
    assert isinstance(outcome, Rejected), outcome
    assert outcome.rejection.reason is Reason.RATE_LIMITED
    assert outcome.rejection.retry_after is not None
    return outcome.rejection.retry_after


async def test_a_caller_has_a_burst_and_is_told_when_there_is_more(issuing: Issuing, clock: FakeClock) -> None:
    one = charge("a", Limit(2, HOUR))
    for _ in range(2):
        assert isinstance(await submit(issuing, one), Issued)
    refused = await submit(issuing, one)
    assert retry_after(refused) == 1800
    assert isinstance(refused, Rejected)
    assert "too many enrolments of this caller: 2 in 1h are admitted; try again after 1800 s" in refused.rejection.detail
    assert isinstance(await submit(issuing, charge("b", Limit(2, HOUR))), Issued)
    clock.advance(timedelta(seconds=1800))
    assert isinstance(await submit(issuing, one), Issued)


async def test_what_one_bucket_refuses_takes_from_none(issuing: Issuing) -> None:
    full, empty = charge("a", Limit(5, HOUR)), charge("z", Limit(1, HOUR))
    assert isinstance(await submit(issuing, empty), Issued)
    for _ in range(10):
        assert retry_after(await submit(issuing, full, empty)) == 3600
    for _ in range(5):
        assert isinstance(await submit(issuing, full), Issued)
    assert [row["n"] for row in await issuing.rows("SELECT count(*) AS n FROM issuance")] == [6]


async def test_what_is_refused_for_another_reason_costs_nothing(issuing: Issuing, database: Database) -> None:
    one = charge("a", Limit(1, HOUR))
    request = issuing.request("a.example.com", charges=(one,))
    blocked = Step(
        "INSERT INTO blocked_key (spki_sha256, reason, blocked_at) VALUES ($1, 'listed', 0)", (request.csr.spki_sha256,)
    )
    await database.write(blocked)
    outcome = await issuing.issuance.submit(request)
    assert isinstance(outcome, Rejected)
    assert outcome.rejection.reason is Reason.BAD_PUBLIC_KEY
    assert isinstance(await submit(issuing, one), Issued)


async def test_of_fifty_at_once_exactly_the_burst_is_issued(issuing: Issuing) -> None:
    charges = (charge("a", Limit(7, HOUR)), charge("b", Limit(100, HOUR)))
    requests = [issuing.request("a.example.com", charges=charges) for _ in range(50)]
    outcomes = await asyncio.gather(*map(issuing.issuance.submit, requests))
    assert sum(isinstance(outcome, Issued) for outcome in outcomes) == 7
    assert all(retry_after(outcome) > 0 for outcome in outcomes if not isinstance(outcome, Issued))


async def test_the_same_request_again_is_not_charged_again(issuing: Issuing) -> None:
    request = issuing.request("a.example.com", charges=(charge("a", Limit(1, HOUR)),), idempotency_key="same")
    outcomes = [await issuing.issuance.submit(request) for _ in range(3)]
    assert [isinstance(outcome, Issued) for outcome in outcomes] == [True, True, True]
