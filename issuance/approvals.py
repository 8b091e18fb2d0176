"""Step 5: a request that only a person may grant waits as a row, and is found again by what it asks for.

Law of this file: an approval is an addition. Policy, evidence and CAA are looked at each time that the request comes, right before
anybody asks here; an approval replaces none of them, and what has changed since it was given (approval_requests.py) voids it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import assert_never

from issuance import approval_requests as requests
from issuance import audit, ledger
from issuance.approval_requests import TRANSITIONS, ApprovalRequest, Change, State, approval_digest, move, retry_after
from issuance.audit import Event
from issuance.plan import Names
from issuance.request import Approval, Channel, IssuanceRequest, Issued, Pending
from pki.clock import Clock, Micros, after, rfc3339
from pki.identifiers import shown
from pki.reasons import Reason, Rejection, Unavailable
from policy.engine import Allow, Decision, Deny, NeedsApproval
from policy.principal import Principal
from policy.profiles import Profile
from storage.database import Conflict, Database, Row, Step

DENIAL_STANDS = timedelta(days=30)
IN_FLIGHT = 2  # seconds that a signature takes
MAX_COMMENT = 1000  # characters
AT_ONCE = 100  # ends of one turn
_ATTEMPTS = 5
_BEYOND = (Micros((1 << 63) - 1), "")


class Verdict(enum.Enum):
    APPROVE = Change.APPROVED
    DENY = Change.DENIED


_EVENTS: Mapping[Verdict, Event] = MappingProxyType(
    {Verdict.APPROVE: Event.REQUEST_APPROVED, Verdict.DENY: Event.REQUEST_DENIED}
)


@dataclass(frozen=True, slots=True)
class Terms:
    """`expire_after`: so long somebody may decide, and so long after that an approval may be used."""

    expire_after: timedelta = timedelta(days=7)
    pending_per_requester: int = 1000  # one requester may be a fleet that shares a password


def refuse_to_wait(decision: Decision) -> None:
    """For those who cannot wait: an ACME order would stay in `processing`, where clients give up. Raises Rejection."""
    match decision:
        case Allow():
            return
        case NeedsApproval():
            raise Rejection(
                Reason.FORBIDDEN,
                f"policy {decision.policy} asks for an approval, and an ACME order cannot wait for one here",
                suggestions=["ask by EST, SCEP or REST, where a request can wait"],
            )
        case Deny():
            raise decision.rejection
        case _:
            assert_never(decision)


class Approvals:
    """Both sides: requests that come again until they are decided, and those who decide."""

    def __init__(self, *, database: Database, clock: Clock, new_id: Callable[[], str], terms: Terms) -> None:
        self._database = database
        self._ledger = ledger.Ledger(database)
        self._clock = clock
        self._new_id = new_id
        self._terms = terms

    # ------------------------------------------------------------------ the requester's side: step 5

    async def clear(
        self, request: IssuanceRequest, decision: Decision, names: Names, profile: Profile
    ) -> Approval | Pending | Issued | None:
        """None: nobody has to agree. An `Approval`: go on. Else the answer. Raises Rejection (denied, or too many wait), Unavailable.

        Nothing is read for a request that needs no approval, unless it rests on one that may have.
        """
        policy = _asking(decision, request)
        if policy is None:
            if request.heeds_denial:
                await self._check_not_denied(approval_digest(request, names, profile))
            return None
        if request.channel is Channel.ACME:
            refuse_to_wait(policy)
        digest = approval_digest(request, names, profile)
        for _ in range(_ATTEMPTS):
            found = await self._live(digest)
            if found is not None and (answer := await self._answer(found, request)) is not None:
                return answer
            if found is None and (begun := await self._begin(request, policy, names, profile, digest)) is not None:
                return begun
        raise Unavailable("approvals (the same request changed all the time)", retry_after=IN_FLIGHT)

    async def overtaken(self, approval: Approval) -> Pending | None:
        """Why a write with `use_step` may have conflicted: None when it was not that."""
        found = await self.find(approval.id)
        if found is not None and found.state is State.APPROVED and not found.is_over(self._clock.micros()):
            return None
        return Pending(approval.id, IN_FLIGHT)

    def issued_record(self, approval: Approval, intent: ledger.Intent, now: Micros) -> Step:
        """In the transaction of step 10."""
        return audit.record(
            Event.REQUEST_ISSUED,
            record_id=self._new_id(),
            at=now,
            principal=str(intent.request.principal),
            subject=f"request:{approval.id}",
            detail={"issuance": intent.id, "certificate": intent.subject, "approved_by": approval.by},
        )

    async def _begin(
        self, request: IssuanceRequest, policy: NeedsApproval, names: Names, profile: Profile, digest: str
    ) -> Pending | None:
        """Ask for an approval. None when somebody did so at the same moment."""
        await self._check_room(request.principal)
        now = self._clock.micros()
        made = requests.new_request(
            request,
            names,
            profile,
            request_id=self._new_id(),
            digest=digest,
            policy=policy.policy,
            now=now,
            expires_at=after(now, self._terms.expire_after),
        )
        created = self._record(
            Event.REQUEST_CREATED,
            made,
            str(request.principal),
            now,
            {
                "digest": digest,
                "profile": f"{made.profile}@{made.profile_version}",
                "policy": made.policy,
                "names": made.names,
                "key_sha256": made.spki_sha256,
                "channel": made.channel,
                "endpoint": made.endpoint,
                "source": made.source_address,
            },
        )
        try:
            # Nobody is asked to approve what cannot be issued: the guards of step 8 stand here, too.
            await self._database.write(requests.insert_step(made), *ledger.guard_steps(request), created)
        except Conflict:
            if (refused := await self._ledger.guarded(request)) is not None:
                raise refused from None
            return None
        return Pending(made.id, retry_after(timedelta(0)))

    async def _check_room(self, principal: Principal) -> None:
        row = await self._database.fetch_one(requests.PENDING_OF_SQL, str(principal))
        if row is not None and row["pending"] >= self._terms.pending_per_requester:
            raise Rejection(
                Reason.RATE_LIMITED,
                f"{row['pending']} requests of this requester wait for an approval already",
                retry_after=int(requests.LATEST.total_seconds()),
                suggestions=["wait until they are decided"],
            )

    async def _answer(self, found: ApprovalRequest, request: IssuanceRequest) -> Approval | Pending | Issued | None:
        """What a live request gets that comes again. None when it is live no more."""
        now = self._clock.micros()
        if found.is_over(now):
            await self._end(found, now)
            return None
        match found.state:
            case State.PENDING:
                return Pending(found.id, retry_after(timedelta(microseconds=now - found.requested_at)))
            case State.APPROVED:
                return Approval(found.id, found.digest, found.decided_by, found.decided_at or now)
            case State.DENIED:
                raise _denied(found)
            case State.ISSUED:
                return await self._again(found, request, now)
            case State.EXPIRED:
                raise AssertionError(f"approval request {found.id} has expired and is live")
            case _:
                assert_never(found.state)

    async def _again(self, found: ApprovalRequest, request: IssuanceRequest, now: Micros) -> Pending | Issued | None:
        """The certificate that the approval made. Nobody gets a revoked one, nor one to a key that we made and gave away."""
        record = None if found.issuance_id is None else await self._ledger.of_issuance(found.issuance_id)
        if record is None:
            return Pending(found.id, IN_FLIGHT)
        if record.revoked_at is not None or request.asked_with is not None:
            await self._end(found, now)
            return None
        return Issued(record.certificate)

    async def _check_not_denied(self, digest: str) -> None:
        found = await self._live(digest)
        if found is not None and found.state is State.DENIED and not found.is_over(self._clock.micros()):
            raise _denied(found)

    async def _live(self, digest: str) -> ApprovalRequest | None:
        return _one(await self._database.fetch_one(requests.LIVE_SQL, digest))

    # ------------------------------------------------------------------ the approver's side

    async def decide(
        self, request_id: str, verdict: Verdict, *, approver: Principal, by: str = "", comment: str = ""
    ) -> ApprovalRequest:
        """Exactly one decision stands. `by` is the person, where several share the principal; `comment` is shown to who asked.

        Raises Rejection: NOT_FOUND, CONFLICT (decided already, or over), FORBIDDEN (their own request), MALFORMED (the comment).
        """
        text = _checked(comment, verdict)
        now = self._clock.micros()
        who = f"{approver}/{by}" if by else str(approver)
        found = await self.find(request_id)
        if found is None:
            raise no_such_request(request_id)
        # How long it may be used, or how long it stands: one of the two is the end of the row.
        use_before = after(now, self._terms.expire_after) if verdict is Verdict.APPROVE else found.expires_at
        answers_until = after(now, DENIAL_STANDS) if verdict is Verdict.DENY else Micros(0)
        change = move(State.PENDING, verdict.value)
        decided = Step(requests.DECIDE_SQL, (found.id, *change, now, who, text, use_before, answers_until, str(approver)))
        detail: dict[str, object] = {"digest": found.digest, "by": by, "comment": text, "requester": found.principal}
        try:
            await self._database.write(decided, self._record(_EVENTS[verdict], found, str(approver), now, detail))
        except Conflict:
            raise _undecidable(await self.find(request_id), request_id, approver, now) from None
        return await self.find(request_id) or found

    async def find(self, request_id: str, *, principal: str | None = None) -> ApprovalRequest | None:
        """`principal` finds only what it asked for; None finds everybody's."""
        if "\0" in request_id:
            return None
        return _one(await self._database.fetch_one(requests.FIND_SQL, request_id, principal or ""))

    async def newest(
        self, *, state: State | None = None, before: tuple[Micros, str] = _BEYOND, limit: int = 100
    ) -> Sequence[ApprovalRequest]:
        """Newest first; `before` is (requested_at, id) of the last one seen. Some that are over may still be called pending."""
        rows = await self._database.fetch(requests.NEWEST_SQL, "" if state is None else state.value, *before, limit)
        return [requests.approval_request(row) for row in rows]

    # ------------------------------------------------------------------ time

    async def expire(self, *, kept: timedelta) -> int:
        """End up to AT_ONCE that are over; gives how many. Several nodes may do this at once: the compare-and-set picks one.

        What came to nothing is forgotten `kept` after it was asked for; the audit knows it for longer.
        """
        now, ended = self._clock.micros(), 0
        for row in await self._database.fetch(requests.ENDED_SQL, now, AT_ONCE):
            ended += await self._end(requests.approval_request(row), now)
        await self._database.write(Step(requests.FORGET_SQL, (after(now, -kept),), rows=None))
        return ended

    async def _end(self, found: ApprovalRequest, now: Micros) -> bool:
        """From now on the same request is another one. False when somebody else was faster."""
        if Change.ENDED in TRANSITIONS[found.state]:
            expired = Step(requests.EXPIRE_SQL, (found.id, *move(found.state, Change.ENDED), now))
            detail: dict[str, object] = {"digest": found.digest, "was": found.state.value}
            steps = [expired, self._record(Event.REQUEST_EXPIRED, found, "system:approvals", now, detail)]
        else:
            steps = [Step(requests.CLOSE_SQL, (found.id, found.state.value))]
        try:
            await self._database.write(*steps)
        except Conflict:
            return False
        return True

    def _record(self, event: Event, about: ApprovalRequest, principal: str, now: Micros, detail: Mapping[str, object]) -> Step:
        return audit.record(event, record_id=self._new_id(), at=now, principal=principal, subject=about.subject, detail=detail)


def _asking(decision: Decision, request: IssuanceRequest) -> NeedsApproval | None:
    """Who wants an approval: the policy, or the endpoint where policy does not."""
    match decision:
        case Allow(policy):
            return NeedsApproval(policy, ("approver",)) if request.require_approval else None
        case NeedsApproval():
            return decision
        case Deny():
            raise decision.rejection
        case _:
            assert_never(decision)


def _one(row: Row | None) -> ApprovalRequest | None:
    return None if row is None else requests.approval_request(row)


def _checked(comment: str, verdict: Verdict) -> str:
    text = " ".join(comment.split())
    if verdict is Verdict.DENY and not text:
        raise Rejection(Reason.MALFORMED, "a denial needs a reason: whoever asked is told")
    if len(text) > MAX_COMMENT or not text.isprintable():
        raise Rejection(Reason.MALFORMED, f"a comment is at most {MAX_COMMENT} printable characters")
    return text


def _denied(found: ApprovalRequest) -> Rejection:
    return Rejection(
        Reason.FORBIDDEN,
        f"request {found.id} was denied by {found.decided_by}: {found.comment}",
        suggestions=["ask for other names, or with a new key"],
    )


def no_such_request(request_id: str) -> Rejection:
    return Rejection(
        Reason.NOT_FOUND, f"there is no request {shown(request_id)}", suggestions=["see: certwright requests list --state all"]
    )


def _undecidable(found: ApprovalRequest | None, request_id: str, approver: Principal, now: Micros) -> Rejection:
    """Why a decision did not come to stand."""
    if found is None:
        return no_such_request(request_id)
    if found.principal == str(approver):
        return Rejection(Reason.FORBIDDEN, "who asked for a certificate does not decide about it")
    match found.seen(now):
        case State.PENDING | State.EXPIRED:
            why = (
                f"has expired: nobody decided before {rfc3339(found.expires_at)}. The next attempt of its client makes another"
            )
        case State.APPROVED | State.DENIED | State.ISSUED:
            word = "denied" if found.state is State.DENIED else "approved"
            used = ", and its certificate was issued" if found.state is State.ISSUED else ""
            why = f"was {word} by {found.decided_by} at {rfc3339(found.decided_at or now)} already{used}"
        case _:
            assert_never(found.state)
    return Rejection(Reason.CONFLICT, f"request {found.id} {why}")
