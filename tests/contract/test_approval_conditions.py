"""What an approval is given to and by whom, on both databases; and what is looked at anew whatever was approved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from issuance.approval_requests import State
from issuance.approvals import Terms, Verdict
from issuance.request import ApiKey, BasicPassword, Channel, IssuanceRequest, Issued, Outcome, Pending, Rejected, ScepChallenge
from pki.clock import after
from pki.csr import parse_csr
from pki.identifiers import DnsName
from pki.reasons import Reason, Rejection
from policy.principal import COMMAND_LINE, PrincipalKind
from storage.database import Database, Step
from tests.helpers.approving import CAREFUL, OTHER, WEEK, all_requests, approved, configured, events, found, refused, waiting
from tests.helpers.ca import make_csr
from tests.helpers.clock import FakeClock
from tests.helpers.counted import CountedDatabase
from tests.helpers.issuing import ANYTHING, PROGRAM, Issuing
from tests.helpers.profiles import profile


@pytest.fixture
def issuing(database: Database, clock: FakeClock) -> Issuing:
    return Issuing(database, clock, policies=[CAREFUL])


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
