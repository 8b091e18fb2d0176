"""Approvals on both databases: what waits is found again, what was agreed to is issued once, and nothing else is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from issuance.approval_requests import ApprovalRequest, State
from issuance.approvals import AT_ONCE, DENIAL_STANDS, Terms, Verdict
from issuance.plan import make_plan, wanted_names
from issuance.request import (
    ApiKey,
    Approval,
    BasicPassword,
    Channel,
    IssuanceRequest,
    Issued,
    Outcome,
    Pending,
    Rejected,
    ScepChallenge,
)
from pki.clock import after
from pki.csr import parse_csr
from pki.identifiers import DnsName
from pki.reasons import Reason, Rejection, RevocationReason, Unavailable
from policy.engine import NeedsApproval
from policy.principal import COMMAND_LINE, Principal, PrincipalKind
from policy.profiles import Profile
from policy.rules import Policy
from storage.database import Database, Step
from tests.helpers.ca import make_csr
from tests.helpers.clock import FakeClock
from tests.helpers.counted import CountedDatabase
from tests.helpers.issuing import ANYTHING, PROGRAM, Issuing
from tests.helpers.profiles import profile

CAREFUL = replace(ANYTHING, name="careful", require_approval=True)
OTHER = Principal(PrincipalKind.API_KEY, "k2", frozenset({"tester"}), source_address="192.0.2.8")
WEEK = timedelta(days=7)


@pytest.fixture
def issuing(database: Database, clock: FakeClock) -> Issuing:
    return Issuing(database, clock, policies=[CAREFUL])


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


# ---------------------------------------------------------------- what an approval is given to


START = FakeClock().micros()
KEY = ec.generate_private_key(ec.SECP256R1())
CHANGES: Mapping[str, Callable[[IssuanceRequest], IssuanceRequest]] = {
    "another key": lambda request: replace(request, csr=parse_csr(make_csr("a.example.com"))),
    "a name more": lambda request: replace(request, identifiers=(*request.identifiers, DnsName("b.example.com"))),
    "another name": lambda request: replace(request, identifiers=(DnsName("b.example.com"),), common_name=None),
    "a wildcard": lambda request: replace(request, identifiers=(DnsName("a.example.com", wildcard=True),), common_name=None),
    "another requester": lambda request: replace(request, principal=OTHER, evidence=(ApiKey("k2"),)),
    "the same id of another kind": lambda request: replace(
        request, principal=replace(PROGRAM, kind=PrincipalKind.EST_USER), evidence=(BasicPassword("k1"),)
    ),
    "another channel": lambda request: replace(request, channel=Channel.EST),
    "another endpoint": lambda request: replace(request, endpoint="branch"),
    "another profile": lambda request: replace(request, profile="device"),
    "another end": lambda request: replace(request, not_after=after(request.not_after or START, timedelta(seconds=1))),
    "no end of its own": lambda request: replace(request, not_after=None),
    "a beginning of its own": lambda request: replace(request, not_before=after(START, timedelta(minutes=1))),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_whatever_changes_makes_another_request(issuing: Issuing, change: str) -> None:
    request = issuing.request(csr=make_csr("a.example.com", key=KEY), not_after=after(START, timedelta(days=20)))
    first = await approved(issuing, request)
    other = await waiting(issuing, CHANGES[change](request))
    assert other.id != first
    assert issuing.signer.signed == []
    assert isinstance(await issuing.issuance.submit(request), Issued)  # and the first is none the worse


async def test_a_device_s_name_is_part_of_it(issuing: Issuing) -> None:
    router = issuing.request(csr=make_csr(common_name="router7", key=KEY), profile="device")
    await approved(issuing, router)
    await waiting(issuing, issuing.request(csr=make_csr(common_name="router8", key=KEY), profile="device"))
    assert isinstance(await issuing.issuance.submit(router), Issued)


async def test_another_signature_over_the_same_wish_finds_it(issuing: Issuing) -> None:
    """RFC 7030 §3.5: a request that is linked to its TLS connection is signed anew for each."""
    one, two = (make_csr("a.example.com", key=KEY) for _ in range(2))
    assert one != two  # ECDSA
    await approved(issuing, issuing.request(csr=one))
    certificate = await issuing.issued(csr=two)
    assert certificate.public_key() == KEY.public_key()


async def test_a_request_that_came_by_another_way_of_writing_it_gets_nothing_of_the_csr_but_the_key(issuing: Issuing) -> None:
    """The approver saw the first; what else the second asks for does not matter, for nobody listens to it."""
    await approved(issuing, issuing.request(csr=make_csr("a.example.com", key=KEY)))
    bold = make_csr("a.example.com", key=KEY, common_name="a.example.com")
    certificate = await issuing.issued(csr=bold)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


async def test_a_changed_profile_voids_it(issuing: Issuing) -> None:
    request = issuing.request("a.example.com")
    first = await approved(issuing, request)
    later = configured(issuing, profiles=[profile(must_staple=True)])
    assert (await waiting(later, request)).id != first
    assert later.signer.signed == []


# ---------------------------------------------------------------- everything else is looked at anew


async def test_a_policy_that_denies_now_is_stronger_than_an_approval(issuing: Issuing) -> None:
    request = issuing.request("a.example.com")
    await approved(issuing, request)
    narrow = configured(issuing, replace(CAREFUL, allowed_sans=("*.example.net",)))
    assert (await refused(narrow, request)).reason is Reason.REJECTED_IDENTIFIER
    nobody = configured(issuing, replace(CAREFUL, roles=frozenset({"others"})))
    assert (await refused(nobody, request)).reason is Reason.FORBIDDEN
    assert isinstance(await configured(issuing, CAREFUL).issuance.submit(request), Issued)


async def test_roles_that_were_taken_away_count(issuing: Issuing) -> None:
    request = issuing.request("a.example.com")
    await approved(issuing, request)
    demoted = replace(request, principal=replace(PROGRAM, roles=frozenset()))
    assert (await refused(issuing, demoted)).reason is Reason.FORBIDDEN


async def test_evidence_is_looked_at_before_anybody_is_asked(issuing: Issuing) -> None:
    wrong = issuing.request("a.example.com", evidence=(ScepChallenge("s"),))
    assert (await refused(issuing, wrong)).reason is Reason.NOT_VALIDATED
    assert await all_requests(issuing) == []


async def test_caa_is_looked_at_before_anybody_is_asked(issuing: Issuing) -> None:
    assert (await refused(issuing, issuing.request("a.example.com", caa=True))).reason is Reason.CAA_FORBIDS
    assert await all_requests(issuing) == []


async def test_nobody_is_asked_about_a_compromised_key(issuing: Issuing, clock: FakeClock) -> None:
    request = issuing.request("a.example.com")
    blocked = Step("INSERT INTO blocked_key VALUES ($1, 'listed', $2)", (request.csr.spki_sha256, clock.micros()))
    await issuing.database.write(blocked)
    assert (await refused(issuing, request)).reason is Reason.BAD_PUBLIC_KEY
    assert await all_requests(issuing) == []


async def test_a_key_that_is_compromised_after_the_approval_gets_nothing(issuing: Issuing, clock: FakeClock) -> None:
    request = issuing.request("a.example.com")
    request_id = await approved(issuing, request)
    blocked = Step("INSERT INTO blocked_key VALUES ($1, 'listed', $2)", (request.csr.spki_sha256, clock.micros()))
    await issuing.database.write(blocked)
    assert (await refused(issuing, request)).reason is Reason.BAD_PUBLIC_KEY
    assert (await found(issuing, request_id)).state is State.APPROVED
    assert issuing.signer.signed == []


async def test_what_needs_no_approval_any_more_is_issued(issuing: Issuing) -> None:
    request = issuing.request("a.example.com")
    await waiting(issuing, request)
    assert isinstance(await configured(issuing, ANYTHING).issuance.submit(request), Issued)


async def test_an_endpoint_may_ask_for_one_where_policy_does_not(database: Database, clock: FakeClock) -> None:
    issuing = Issuing(database, clock)
    request = issuing.request("a.example.com", require_approval=True)
    await approved(issuing, request)
    assert isinstance(await issuing.issuance.submit(request), Issued)
    assert isinstance(await issuing.issuance.submit(issuing.request("a.example.com")), Issued)


async def test_an_acme_order_never_waits(database: Database, clock: FakeClock) -> None:
    """A policy that was made careful between newOrder and finalize: clients give up on an order that stays in processing."""
    issuing = Issuing(database, clock, policies=[CAREFUL])
    rejection = await refused(issuing, issuing.request("a.example.com", channel=Channel.ACME))
    assert rejection.reason is Reason.FORBIDDEN
    assert "approval" in rejection.detail
    assert await all_requests(issuing) == []


# ---------------------------------------------------------------- with a key of the client's own (SCEP, REST)


async def test_an_idempotency_key_works_as_ever(issuing: Issuing) -> None:
    csr = make_csr("a.example.com")

    async def submit(key: str) -> Outcome:
        return await issuing.issuance.submit(issuing.request(csr=csr, idempotency_key=key))

    first = await submit("once")
    assert isinstance(first, Pending)
    assert await submit("once") == first
    await issuing.approvals.decide(first.id, Verdict.APPROVE, approver=COMMAND_LINE)
    one = await submit("once")
    assert isinstance(one, Issued)
    assert await submit("once") == one
    assert await submit("another") == one  # the wish is the same
    other = await issuing.issuance.submit(issuing.request("b.example.com", idempotency_key="once"))
    assert isinstance(other, Rejected)
    assert other.rejection.reason is Reason.CONFLICT


# ---------------------------------------------------------------- who decides


async def test_nobody_decides_about_a_request_of_their_own(issuing: Issuing) -> None:
    waits = await waiting(issuing, issuing.request("a.example.com"))
    for verdict in Verdict:
        with pytest.raises(Rejection) as caught:
            await issuing.approvals.decide(waits.id, verdict, approver=PROGRAM, comment="mine")
        assert caught.value.reason is Reason.FORBIDDEN
    assert (await found(issuing, waits.id)).state is State.PENDING
    assert (await issuing.approvals.decide(waits.id, Verdict.APPROVE, approver=OTHER)).decided_by == "api-key:k2"


@pytest.mark.parametrize("verdict", Verdict)
async def test_a_decision_that_comes_too_late_is_none(issuing: Issuing, clock: FakeClock, verdict: Verdict) -> None:
    waits = await waiting(issuing, issuing.request("a.example.com"))
    clock.advance(WEEK)
    with pytest.raises(Rejection, match="has expired") as caught:
        await issuing.approvals.decide(waits.id, verdict, approver=COMMAND_LINE, comment="late")
    assert caught.value.reason is Reason.CONFLICT
    assert await events(issuing) == ["request.created"]
    await issuing.approvals.expire(kept=timedelta(days=30))
    with pytest.raises(Rejection, match="has expired"):
        await issuing.approvals.decide(waits.id, verdict, approver=COMMAND_LINE, comment="late")


async def test_what_is_decided_stays_decided(issuing: Issuing) -> None:
    request = issuing.request("a.example.com")
    request_id = await approved(issuing, request)
    with pytest.raises(Rejection, match="was approved by operator:command-line/alice"):
        await issuing.approvals.decide(request_id, Verdict.DENY, approver=COMMAND_LINE, comment="no")
    await issuing.issuance.submit(request)
    with pytest.raises(Rejection, match="and its certificate was issued"):
        await issuing.approvals.decide(request_id, Verdict.DENY, approver=COMMAND_LINE, comment="no")


@pytest.mark.parametrize("unknown", ["", "nosuch", "a\0b", "'; DROP TABLE approval_request; --", "%"])
async def test_an_unknown_request_is_not_found(issuing: Issuing, unknown: str) -> None:
    await waiting(issuing, issuing.request("a.example.com"))
    with pytest.raises(Rejection) as caught:
        await issuing.approvals.decide(unknown, Verdict.APPROVE, approver=COMMAND_LINE)
    assert caught.value.reason is Reason.NOT_FOUND


@pytest.mark.parametrize(
    ("verdict", "comment"),
    [
        (Verdict.DENY, ""),
        (Verdict.DENY, " \n "),
        (Verdict.DENY, "x" * 1001),
        (Verdict.APPROVE, "\x1b[2J"),
        (Verdict.DENY, "a\0b"),
        (Verdict.DENY, "\u202eevil"),
    ],
)
async def test_a_comment_is_text_and_a_denial_has_one(issuing: Issuing, verdict: Verdict, comment: str) -> None:
    waits = await waiting(issuing, issuing.request("a.example.com"))
    with pytest.raises(Rejection) as caught:
        await issuing.approvals.decide(waits.id, verdict, approver=COMMAND_LINE, comment=comment)
    assert caught.value.reason is Reason.MALFORMED
    assert (await found(issuing, waits.id)).state is State.PENDING


async def test_whose_a_request_is_is_part_of_the_question(issuing: Issuing) -> None:
    waits = await waiting(issuing, issuing.request("a.example.com"))
    assert await issuing.approvals.find(waits.id, principal=str(PROGRAM)) is not None
    assert await issuing.approvals.find(waits.id, principal=str(OTHER)) is None


async def test_the_list_is_by_state_and_page(issuing: Issuing, clock: FakeClock) -> None:
    ids = []
    for name in ("a", "b", "c"):
        ids.append((await waiting(issuing, issuing.request(f"{name}.example.com"))).id)
        clock.advance(timedelta(seconds=1))
    await issuing.approvals.decide(ids[1], Verdict.DENY, approver=COMMAND_LINE, comment="no")
    assert [one.id for one in await issuing.approvals.newest()] == ids[::-1]
    assert [one.id for one in await issuing.approvals.newest(state=State.PENDING)] == [ids[2], ids[0]]
    (newest,) = await issuing.approvals.newest(limit=1)
    assert [one.id for one in await issuing.approvals.newest(before=(newest.requested_at, newest.id))] == ids[1::-1]


# ---------------------------------------------------------------- bounds and cost


async def test_a_requester_cannot_fill_the_table(database: Database, clock: FakeClock) -> None:
    issuing = Issuing(database, clock, policies=[CAREFUL], terms=Terms(pending_per_requester=3))
    waits = [await waiting(issuing, issuing.request("a.example.com")) for _ in range(3)]
    rejection = await refused(issuing, issuing.request("a.example.com"))
    assert rejection.reason is Reason.RATE_LIMITED
    assert rejection.retry_after == 3600
    await waiting(issuing, issuing.request("a.example.com", principal=OTHER, evidence=(ApiKey("k2"),)))
    await issuing.approvals.decide(waits[0].id, Verdict.DENY, approver=COMMAND_LINE, comment="no")
    await waiting(issuing, issuing.request("a.example.com"))


async def test_what_needs_no_approval_costs_nothing(database: Database, clock: FakeClock) -> None:
    counted = CountedDatabase(database)
    issuing = Issuing(counted, clock)
    await issuing.issued("a.example.com")
    asked = [*counted.reads, *(sql for write in counted.writes for sql in write)]
    assert asked
    assert not [sql for sql in asked if "approval_request" in sql]
