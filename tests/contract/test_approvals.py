"""Approvals on both databases: what waits is found again, what was agreed to is issued once, and nothing else is."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest
from cryptography import x509

from issuance.approval_requests import ApprovalRequest, State
from issuance.approvals import AT_ONCE, DENIAL_STANDS, Verdict
from issuance.plan import make_plan, wanted_names
from issuance.request import Approval, IssuanceRequest, Issued, Pending, Rejected
from pki.clock import after
from pki.csr import parse_csr
from pki.reasons import Reason, Rejection, RevocationReason, Unavailable
from policy.engine import NeedsApproval
from policy.principal import COMMAND_LINE
from storage.database import Database, Step
from tests.helpers.approving import CAREFUL, WEEK, all_requests, approved, events, found, refused, waiting
from tests.helpers.ca import make_csr
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import PROGRAM, Issuing
from tests.helpers.profiles import profile


@pytest.fixture
def issuing(database: Database, clock: FakeClock) -> Issuing:
    return Issuing(database, clock, policies=[CAREFUL])


# ---------------------------------------------------------------- the whole life


async def test_a_request_waits_is_approved_and_gets_its_certificate_when_it_comes_again(
    issuing: Issuing, clock: FakeClock
) -> None:
    csr = make_csr("a.example.com")
    request = issuing.request(csr=csr)
    first = await waiting(issuing, request)
    assert first.retry_after == 30
    clock.advance(timedelta(minutes=10))
    again = await waiting(issuing, request)
    assert again == Pending(first.id, 75)  # an eighth of ten minutes
    assert issuing.signer.signed == []
    assert await issuing.rows("SELECT * FROM issuance") == []

    decided = await issuing.approvals.decide(
        first.id, Verdict.APPROVE, approver=COMMAND_LINE, by="alice", comment="ticket 4711"
    )
    assert (decided.state, decided.decided_by, decided.comment) == (
        State.APPROVED,
        "operator:command-line/alice",
        "ticket 4711",
    )
    certificate = await issuing.issued(csr=csr)
    assert certificate.public_key() == parse_csr(csr).public_key
    assert (await found(issuing, first.id)).state is State.ISSUED
    assert await events(issuing) == ["request.created", "request.approved", "request.issued"]


async def test_the_certificate_s_record_says_who_agreed_to_what(issuing: Issuing) -> None:
    request = issuing.request("a.example.com")
    request_id = await approved(issuing, request)
    one = await found(issuing, request_id)
    assert isinstance(await issuing.issuance.submit(request), Issued)
    (row,) = await issuing.rows("SELECT id, evidence FROM issuance")
    assert json.loads(row["evidence"]) == [
        {"kind": "ApiKey", "credential": "k1"},
        {
            "kind": "approval",
            "request": request_id,
            "sha256": one.digest,
            "by": "operator:command-line/alice",
            "at": issuing.clock.micros(),
        },
    ]
    assert (await found(issuing, request_id)).issuance_id == row["id"]
    (intent,) = await issuing.rows("SELECT detail FROM audit WHERE event = 'issue.intent'")
    assert json.loads(intent["detail"])["approved_by"] == "operator:command-line/alice"


async def test_an_approver_sees_what_was_asked_and_by_whom(issuing: Issuing, clock: FakeClock) -> None:
    request = issuing.request("b.example.com", "a.example.com")
    waits = await waiting(issuing, request)
    one = await found(issuing, waits.id)
    assert one.names == ("dns:b.example.com", "dns:a.example.com")
    assert (one.principal, one.roles, one.source_address) == ("api-key:k1", PROGRAM.roles, "192.0.2.7")
    assert (one.channel, one.endpoint, one.policy) == ("rest", "default", "careful")
    assert (one.profile, one.profile_version) == ("tls-server", issuing.rules.profiles.get("tls-server").version)
    assert (one.spki, one.spki_sha256) == (request.csr.spki, request.csr.spki_sha256)
    assert one.expires_at == after(clock.micros(), WEEK)
    (created,) = await issuing.rows("SELECT principal, subject, detail FROM audit WHERE event = 'request.created'")
    assert (created["principal"], created["subject"]) == ("api-key:k1", f"request:{waits.id}")
    assert json.loads(created["detail"])["names"] == ["dns:b.example.com", "dns:a.example.com"]


async def test_a_denied_request_is_told_by_whom_and_why_until_the_denial_ends(issuing: Issuing, clock: FakeClock) -> None:
    request = issuing.request("a.example.com")
    waits = await waiting(issuing, request)
    await issuing.approvals.decide(waits.id, Verdict.DENY, approver=COMMAND_LINE, by="bob", comment="no such host")
    rejection = await refused(issuing, request)
    assert rejection.reason is Reason.FORBIDDEN
    assert "bob" in rejection.detail
    assert "no such host" in rejection.detail
    assert rejection.suggestions == ("ask for other names, or with a new key",)
    assert await events(issuing) == ["request.created", "request.denied"]
    clock.advance(DENIAL_STANDS)
    assert (await waiting(issuing, request)).id != waits.id
    assert (await found(issuing, waits.id)).state is State.DENIED  # what it was, it stays


async def test_what_nobody_decides_expires_and_is_asked_anew(issuing: Issuing, clock: FakeClock) -> None:
    request = issuing.request("a.example.com")
    first = await waiting(issuing, request)
    clock.advance(WEEK)
    second = await waiting(issuing, request)
    assert await all_requests(issuing) == [(first.id, State.EXPIRED), (second.id, State.PENDING)]
    assert await events(issuing) == ["request.created", "request.expired", "request.created"]


async def test_an_approval_that_nobody_uses_expires(issuing: Issuing, clock: FakeClock) -> None:
    request = issuing.request("a.example.com")
    first = await approved(issuing, request)
    clock.advance(WEEK)
    assert (await waiting(issuing, request)).id != first
    assert issuing.signer.signed == []


async def test_the_job_ends_what_is_over_and_says_so_once(issuing: Issuing, clock: FakeClock) -> None:
    pending = await waiting(issuing, issuing.request("a.example.com"))
    unused = await approved(issuing, issuing.request("b.example.com"))
    used = issuing.request("c.example.com")
    made = await approved(issuing, used)
    assert isinstance(await issuing.issuance.submit(used), Issued)
    assert await issuing.approvals.expire(kept=timedelta(days=30)) == 0
    clock.advance(WEEK)
    assert sum(await asyncio.gather(*(issuing.approvals.expire(kept=timedelta(days=30)) for _ in range(5)))) == 3
    states = {request_id: (await found(issuing, request_id)).state for request_id in (pending.id, unused, made)}
    assert states == {pending.id: State.EXPIRED, unused: State.EXPIRED, made: State.ISSUED}
    assert (await events(issuing)).count("request.expired") == 2
    clock.advance(timedelta(days=24))
    assert await issuing.approvals.expire(kept=timedelta(days=30)) == 0
    assert await all_requests(issuing) == [(made, State.ISSUED)]  # what came to nothing is forgotten; the audit is not


async def test_requests_that_stand_for_long_keep_none_from_ending(issuing: Issuing, clock: FakeClock) -> None:
    """One turn looks at so many; those that are not over must not fill it."""
    row = await waiting(issuing, issuing.request("a.example.com"))
    stands = after(clock.micros(), timedelta(days=900))
    for number in range(AT_ONCE):
        await issuing.database.write(
            Step(
                "INSERT INTO approval_request SELECT CAST($1 AS TEXT), CAST($1 AS TEXT), 1, 'denied', principal, roles, source_address, channel,"
                " endpoint, profile, profile_version, policy, names, not_before, not_after, spki_sha256, server_key, spki, requested_at,"
                " 0, CAST($2 AS BIGINT), decided_at, decided_by, comment, issuance_id FROM approval_request WHERE id = $3",
                (f"denied-{number}", stands, row.id),
            )
        )
    clock.advance(WEEK)
    assert await issuing.approvals.expire(kept=timedelta(days=30)) == 1


# ---------------------------------------------------------------- one approval, one certificate


async def test_a_lost_answer_can_be_had_again_and_a_renewal_is_another_request(issuing: Issuing, clock: FakeClock) -> None:
    request = issuing.request("a.example.com")
    first = await approved(issuing, request)
    one = await issuing.issuance.submit(request)
    clock.advance(timedelta(days=6))
    assert await issuing.issuance.submit(request) == one
    assert len(issuing.signer.signed) == 1
    clock.advance(timedelta(days=1))
    assert (await waiting(issuing, request)).id != first


async def test_a_short_lived_certificate_is_repeated_for_a_third_of_its_life_only(database: Database, clock: FakeClock) -> None:
    short = profile("short", validity=timedelta(hours=24))
    issuing = Issuing(database, clock, policies=[CAREFUL], profiles=[short])
    request = issuing.request("a.example.com", profile="short")
    await approved(issuing, request)
    one = await issuing.issuance.submit(request)
    clock.advance(timedelta(hours=7))
    assert await issuing.issuance.submit(request) == one
    clock.advance(timedelta(hours=1))
    await waiting(issuing, request)


async def test_nobody_gets_a_revoked_certificate_again(issuing: Issuing) -> None:
    request = issuing.request("a.example.com")
    first = await approved(issuing, request)
    one = await issuing.issuance.submit(request)
    assert isinstance(one, Issued)
    await issuing.issuance.revoke(
        issuer="issuing", serial=one.certificate.serial, reason=RevocationReason.SUPERSEDED, principal=PROGRAM
    )
    assert (await waiting(issuing, request)).id != first


async def test_a_key_that_the_server_makes_is_made_once_for_each_approval(issuing: Issuing) -> None:
    """RFC 7030 §4.4: each attempt has another key of ours, so the request is known by the client's own."""
    asked = parse_csr(make_csr("a.example.com"))

    def attempt() -> IssuanceRequest:
        return issuing.request("a.example.com", asked_with=asked)

    first = await waiting(issuing, attempt())
    assert (await waiting(issuing, attempt())).id == first.id
    await issuing.approvals.decide(first.id, Verdict.APPROVE, approver=COMMAND_LINE)
    last = attempt()
    outcome = await issuing.issuance.submit(last)
    assert isinstance(outcome, Issued)
    assert x509.load_der_x509_certificate(outcome.certificate.der).public_key() == last.csr.public_key
    assert (await waiting(issuing, attempt())).id != first.id  # the key of the first is gone


async def test_a_key_of_the_client_is_not_approved_as_one_of_the_server(issuing: Issuing) -> None:
    asked = parse_csr(make_csr("a.example.com"))
    theirs = await approved(issuing, issuing.request(csr=asked.der))
    assert (await waiting(issuing, issuing.request("a.example.com", asked_with=asked))).id != theirs


async def test_fifty_identical_requests_at_once_are_one(issuing: Issuing) -> None:
    csr = make_csr("a.example.com")
    outcomes = await asyncio.gather(*(issuing.issuance.submit(issuing.request(csr=csr)) for _ in range(50)))
    assert len({outcome.id for outcome in outcomes if isinstance(outcome, Pending)}) == 1
    assert all(isinstance(outcome, Pending) for outcome in outcomes)
    assert len(await all_requests(issuing)) == 1
    assert await events(issuing) == ["request.created"]


async def test_twenty_attempts_at_once_on_one_approval_make_one_certificate(issuing: Issuing) -> None:
    request = issuing.request("a.example.com")
    request_id = await approved(issuing, request)
    outcomes = await asyncio.gather(*(issuing.issuance.submit(request) for _ in range(20)))
    assert all(isinstance(outcome, Issued | Pending) for outcome in outcomes), outcomes
    assert {outcome.id for outcome in outcomes if isinstance(outcome, Pending)} <= {request_id}
    assert len(issuing.signer.signed) == 1
    assert len(await issuing.rows("SELECT * FROM issuance")) == 1
    last = await issuing.issuance.submit(request)
    assert isinstance(last, Issued)
    assert {outcome for outcome in outcomes if isinstance(outcome, Issued)} <= {last}


async def test_a_second_use_of_an_approval_meets_the_compare_and_set(issuing: Issuing) -> None:
    """Two workers that have both looked, and found it unused."""
    request = issuing.request("a.example.com")
    await approved(issuing, request)
    one, issuer, now = issuing.rules.profiles.get("tls-server"), issuing.ca.issuer, issuing.clock.micros()
    names = wanted_names(request, one)
    plan = make_plan(request, names, one, issuer, now)
    looked = [await issuing.approvals.clear(request, NeedsApproval("careful", ()), names, one) for _ in range(2)]
    first, second = (
        issuing.pipeline._prepare(request, names, plan, issuer, one, caa=(), approval=approval)
        for approval in looked
        if isinstance(approval, Approval)
    )
    assert await issuing.pipeline._intend(first.intent) is None
    assert isinstance(await issuing.pipeline._intend(second.intent), Pending)
    assert len(await issuing.rows("SELECT * FROM issuance")) == 1


@pytest.mark.parametrize("round_", range(5))
async def test_of_two_decisions_at_once_one_stands(issuing: Issuing, round_: int) -> None:
    request = issuing.request("a.example.com")
    waits = await waiting(issuing, request)

    async def decide(verdict: Verdict) -> ApprovalRequest | Rejection:
        try:
            return await issuing.approvals.decide(waits.id, verdict, approver=COMMAND_LINE, comment="because")
        except Rejection as rejection:
            return rejection

    results = await asyncio.gather(*(decide(verdict) for verdict in (Verdict.APPROVE, Verdict.DENY) * 5))
    (stands,) = [result for result in results if isinstance(result, ApprovalRequest)]
    assert {result.reason for result in results if isinstance(result, Rejection)} == {Reason.CONFLICT}
    outcome = await issuing.issuance.submit(request)
    assert isinstance(outcome, Issued if stands.state is State.APPROVED else Rejected)
    assert len([event for event in await events(issuing) if event in {"request.approved", "request.denied"}]) == 1


# ---------------------------------------------------------------- what dies between intent and record


def away(_: bytes) -> bytes:
    raise Unavailable("signer")


async def test_without_the_signer_the_approval_is_whole_again(issuing: Issuing) -> None:
    request = issuing.request("a.example.com")
    request_id = await approved(issuing, request)
    issuing.signer.fail = away
    with pytest.raises(Unavailable):
        await issuing.issuance.submit(request)
    one = await found(issuing, request_id)
    assert (one.state, one.issuance_id) == (State.APPROVED, None)
    issuing.signer.fail = None
    assert isinstance(await issuing.issuance.submit(request), Issued)
    assert [row["state"] for row in await issuing.rows("SELECT state FROM issuance ORDER BY id")] == ["abandoned", "issued"]


async def test_after_a_crash_while_signing_the_sweeper_gives_the_approval_back(issuing: Issuing, clock: FakeClock) -> None:
    request = issuing.request("a.example.com")
    request_id = await approved(issuing, request)

    def die(_: bytes) -> bytes:
        raise asyncio.CancelledError

    issuing.signer.fail = die
    with pytest.raises(asyncio.CancelledError):
        await issuing.issuance.submit(request)
    issuing.signer.fail = None
    assert await waiting(issuing, request) == Pending(request_id, 2)  # it may be being signed right now
    clock.advance(timedelta(seconds=31))
    assert await issuing.sweeper.sweep() == 1
    assert (await found(issuing, request_id)).state is State.APPROVED
    outcome = await issuing.issuance.submit(request)
    assert isinstance(outcome, Issued)
    precautions = await issuing.rows("SELECT serial FROM revocation")
    assert [row["serial"] for row in precautions] != [outcome.certificate.serial]
    assert (await events(issuing)).count("request.issued") == 1


async def test_a_certificate_that_comes_after_the_sweeper_does_not_use_the_approval(issuing: Issuing, clock: FakeClock) -> None:
    request = issuing.request("a.example.com")
    request_id = await approved(issuing, request)

    async def sweeper() -> None:
        clock.advance(timedelta(seconds=31))
        assert await issuing.sweeper.sweep() == 1

    issuing.signer.meanwhile = sweeper
    assert (await refused(issuing, request)).reason is Reason.INTERRUPTED
    issuing.signer.meanwhile = None
    assert (await found(issuing, request_id)).state is State.APPROVED
    assert "request.issued" not in await events(issuing)


async def test_an_approval_that_is_given_back_after_its_time_is_over(issuing: Issuing, clock: FakeClock) -> None:
    request = issuing.request("a.example.com")
    request_id = await approved(issuing, request)
    clock.advance(WEEK - timedelta(seconds=1))
    issuing.signer.fail = away
    with pytest.raises(Unavailable):
        await issuing.issuance.submit(request)
    issuing.signer.fail = None
    clock.advance(timedelta(seconds=1))
    assert (await waiting(issuing, request)).id != request_id
