"""What tests of approvals do all the time: ask, agree, and see what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from issuance.approval_requests import ApprovalRequest, State
from issuance.approvals import Verdict
from issuance.request import IssuanceRequest, Pending, Rejected
from pki.reasons import Rejection
from policy.principal import COMMAND_LINE, Principal, PrincipalKind
from policy.profiles import Profile
from policy.rules import Policy
from tests.helpers.issuing import ANYTHING, Issuing

CAREFUL = replace(ANYTHING, name="careful", require_approval=True)
OTHER = Principal(PrincipalKind.API_KEY, "k2", frozenset({"tester"}), source_address="192.0.2.8")
WEEK = timedelta(days=7)


def configured(issuing: Issuing, *policies: Policy, profiles: Sequence[Profile] | None = None) -> Issuing:
    """The same server with another configuration: its database, CA, clock and ids."""
    return Issuing(
        issuing.database,
        issuing.clock,
        ca=issuing.ca,
        policies=policies or (CAREFUL,),
        profiles=profiles or issuing.profiles,
        new_id=issuing.new_id,
    )


async def waiting(issuing: Issuing, request: IssuanceRequest) -> Pending:
    outcome = await issuing.issuance.submit(request)
    assert isinstance(outcome, Pending), outcome
    return outcome


async def approved(issuing: Issuing, request: IssuanceRequest) -> str:
    waits = await waiting(issuing, request)
    await issuing.approvals.decide(waits.id, Verdict.APPROVE, approver=COMMAND_LINE, by="alice")
    return waits.id


async def refused(issuing: Issuing, request: IssuanceRequest) -> Rejection:
    outcome = await issuing.issuance.submit(request)
    assert isinstance(outcome, Rejected), outcome
    return outcome.rejection


async def found(issuing: Issuing, request_id: str) -> ApprovalRequest:
    one = await issuing.approvals.find(request_id)
    assert one is not None
    return one


async def all_requests(issuing: Issuing) -> list[tuple[str, State]]:
    return [(one.id, one.state) for one in reversed(await issuing.approvals.newest())]


async def events(issuing: Issuing) -> list[str]:
    rows = await issuing.rows("SELECT id, event FROM audit WHERE event LIKE 'request.%'")
    return [row["event"] for row in sorted(rows, key=lambda row: int(row["id"].removeprefix("id-")))]
