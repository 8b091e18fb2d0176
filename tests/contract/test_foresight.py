"""What `submit` would say is known before there is a key: whoever is refused, or waits, costs none (RFC 7030 §4.4)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from issuance.approvals import Verdict
from issuance.buckets import Bucket, Charge
from issuance.request import IssuanceRequest, Issued, Pending, Rejected
from pki.csr import parse_csr
from pki.reasons import Reason
from policy.limits import Limit
from policy.principal import COMMAND_LINE
from storage.database import Database
from tests.helpers.ca import make_csr
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import ANYTHING, Issuing

CHARGES = (Charge(Bucket("enrolled/caller/default", "a"), Limit(1, timedelta(hours=1)), "enrolments of this caller"),)


@pytest.fixture
def issuing(database: Database, clock: FakeClock) -> Issuing:
    return Issuing(database, clock)


def asking(issuing: Issuing, csr: bytes | None = None) -> tuple[IssuanceRequest, IssuanceRequest]:
    """With the client's key, which only says of which kind ours shall be; and with ours."""
    asked = parse_csr(csr or make_csr("a.example.com"))
    before = issuing.request(csr=asked.der, asked_with=asked, charges=CHARGES)
    return before, replace(before, csr=parse_csr(make_csr("a.example.com")))


async def test_what_would_be_issued_is_not_begun(issuing: Issuing) -> None:
    before, after = asking(issuing)
    for _ in range(3):
        assert await issuing.issuance.foresee(before) is None
    assert await issuing.rows("SELECT id FROM audit") == []
    assert issuing.observer.results == []
    assert isinstance(await issuing.issuance.submit(after), Issued)  # nor did it cost anything


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"profile": "nosuch"}, Reason.UNKNOWN_PROFILE),
        ({"common_name": None, "identifiers": ()}, Reason.BAD_CSR),
    ],
    ids=["profile", "names"],
)
async def test_what_is_wrong_with_a_request_is_told_counted_and_recorded(
    issuing: Issuing, changes: dict[str, Any], reason: Reason
) -> None:
    before, _ = asking(issuing)
    outcome = await issuing.issuance.foresee(replace(before, **changes))
    assert isinstance(outcome, Rejected)
    assert outcome.rejection.reason is reason
    assert [row["event"] for row in await issuing.rows("SELECT event FROM audit")] == ["issue.refused"]
    assert [result for _, _, result in issuing.observer.results] == [reason.value]


async def test_whoever_no_policy_grants_it_to_is_refused(issuing: Issuing) -> None:
    nobodys = Issuing(issuing.database, issuing.clock, policies=[])
    outcome = await nobodys.issuance.foresee(asking(nobodys)[0])
    assert isinstance(outcome, Rejected)


async def test_whoever_has_had_all_that_is_admitted_is_refused(issuing: Issuing) -> None:
    before, after = asking(issuing)
    assert isinstance(await issuing.issuance.submit(after), Issued)
    outcome = await issuing.issuance.foresee(before)
    assert isinstance(outcome, Rejected)
    assert (outcome.rejection.reason, outcome.rejection.retry_after) == (Reason.RATE_LIMITED, 3600)


async def test_what_waits_for_an_approval_waits_without_a_key(issuing: Issuing) -> None:
    careful = Issuing(
        issuing.database,
        issuing.clock,
        ca=issuing.ca,
        policies=[replace(ANYTHING, require_approval=True)],
        new_id=issuing.new_id,
    )
    before, after = asking(careful)
    first, second = [await careful.issuance.foresee(before) for _ in range(2)]
    assert isinstance(first, Pending)
    assert isinstance(second, Pending)
    assert first.id == second.id
    await careful.approvals.decide(first.id, Verdict.APPROVE, approver=COMMAND_LINE)
    assert await careful.issuance.foresee(before) is None
    assert isinstance(await careful.issuance.submit(after), Issued)
