"""A request that waits for somebody's approval: what it is bound to, its states, its row. No I/O; approvals.py does that.

Law of this file: an approval is given to a digest, and one approval makes one certificate. The digest binds everything of a request
that reaches the certificate, and who asks where: the public key, the names, the profile and its version, the validity wanted, the
principal, channel and endpoint. It does not bind the octets of the CSR: nothing of them but the key is ever used, and a client that
links its request to its TLS connection (RFC 7030 §3.5) signs another one for every attempt. Nor are they kept: secrets come in them
(SCEP's challengePassword, CRMF's regToken and authenticator), and in attributes that nobody here knows.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import assert_never

import orjson

from issuance.plan import Names
from issuance.request import Approval, IssuanceRequest
from pki.clock import Micros, after
from pki.plan import CertificatePlan
from policy.profiles import Profile
from storage.database import Row, Step

REPEATED_FOR = timedelta(days=7)  # so long, but no longer than a third of its life, the same request gets the same certificate
SOONEST, LATEST = timedelta(seconds=30), timedelta(hours=1)  # of Retry-After

_COLUMNS = (
    "id, digest, live, state, principal, roles, source_address, channel, endpoint, profile, profile_version, policy, names, not_before, "
    "not_after, spki_sha256, server_key, spki, requested_at, expires_at, answers_until, decided_at, decided_by, comment, issuance_id"
)
INSERT_SQL = f"""
INSERT INTO approval_request ({_COLUMNS})
VALUES ($1, $2, 1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, 0, NULL, '', '', NULL)
"""  # noqa: S608  # constants only
LIVE_SQL = f"SELECT {_COLUMNS} FROM approval_request WHERE digest = $1 AND live = 1"  # noqa: S608  # constants only
# Whose it has to be is part of the question; '' is anybody's.
FIND_SQL = f"SELECT {_COLUMNS} FROM approval_request WHERE id = $1 AND ($2 = '' OR principal = $2)"  # noqa: S608  # constants only
NEWEST_SQL = (
    f"SELECT {_COLUMNS} FROM approval_request WHERE ($1 = '' OR state = $1) AND (requested_at, id) < ($2, $3) "  # noqa: S608  # constants only
    "ORDER BY requested_at DESC, id DESC LIMIT $4"
)
PENDING_OF_SQL = "SELECT count(*) AS pending FROM approval_request WHERE principal = $1 AND state = 'pending'"
ENDED_SQL = (
    f"SELECT {_COLUMNS} FROM approval_request WHERE live = 1 "  # noqa: S608  # constants only
    "AND CASE WHEN state IN ('denied', 'issued') THEN answers_until ELSE expires_at END <= $1 LIMIT $2"
)

# Every change is a compare-and-set: $2 is the state that is left, $3 the one that is reached.
DECIDE_SQL = """
UPDATE approval_request SET state = $3, decided_at = $4, decided_by = $5, comment = $6, expires_at = $7, answers_until = $8
WHERE id = $1 AND state = $2 AND live = 1 AND expires_at > $4 AND principal <> $9
"""
USE_SQL = """
UPDATE approval_request SET state = $3, issuance_id = $4, answers_until = $5
WHERE id = $1 AND state = $2 AND live = 1 AND expires_at > $6
"""
RELEASE_SQL = "UPDATE approval_request SET state = $3, issuance_id = NULL WHERE issuance_id = $1 AND state = $2"
EXPIRE_SQL = "UPDATE approval_request SET state = $3, live = 0 WHERE id = $1 AND state = $2 AND expires_at <= $4"
# What was denied or issued stays so; from here on the same request is another one.
CLOSE_SQL = "UPDATE approval_request SET live = 0 WHERE id = $1 AND state = $2 AND live = 1"
FORGET_SQL = "DELETE FROM approval_request WHERE live = 0 AND state IN ('expired', 'denied') AND requested_at < $1"


# ---------------------------------------------------------------------- states and times


class State(enum.Enum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    ISSUED = "issued"
    EXPIRED = "expired"


class Change(enum.Enum):
    APPROVED = "approved"
    DENIED = "denied"
    USED = "used"  # an issuance has begun on it
    RELEASED = "released"  # that issuance came to nothing: the approval is whole again
    ENDED = "ended"  # its time is over


TRANSITIONS: Mapping[State, Mapping[Change, State]] = MappingProxyType(
    {
        State.PENDING: {Change.APPROVED: State.APPROVED, Change.DENIED: State.DENIED, Change.ENDED: State.EXPIRED},
        State.APPROVED: {Change.USED: State.ISSUED, Change.ENDED: State.EXPIRED},
        State.DENIED: {},
        State.ISSUED: {Change.RELEASED: State.APPROVED},
        State.EXPIRED: {},
    }
)


def move(state: State, change: Change) -> tuple[str, str]:
    """What is left and what is reached, as the database writes them. A change that the table does not know is a bug: KeyError."""
    return state.value, TRANSITIONS[state][change].value


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A request that waits or waited, as an approver sees it."""

    id: str
    digest: str
    live: bool
    state: State
    principal: str
    roles: frozenset[str]
    source_address: str
    channel: str
    endpoint: str
    profile: str
    profile_version: str
    policy: str
    names: tuple[str, ...]  # tags, "dns:example.com"
    not_before: Micros | None
    not_after: Micros | None
    spki_sha256: str
    server_key: bool  # the certificate's key will be another, made by the server
    spki: bytes = field(repr=False)  # DER, of the requester's key
    requested_at: Micros
    expires_at: Micros
    answers_until: Micros
    decided_at: Micros | None
    decided_by: str
    comment: str
    issuance_id: str | None

    @property
    def subject(self) -> str:
        """What the audit calls it."""
        return f"request:{self.id}"

    def is_over(self, now: Micros) -> bool:
        match self.state:
            case State.PENDING | State.APPROVED:
                return self.expires_at <= now
            case State.DENIED | State.ISSUED:
                return self.answers_until <= now
            case State.EXPIRED:
                return True
            case _:
                assert_never(self.state)

    def seen(self, now: Micros) -> State:
        """Its state, also when nobody has written down yet that its time is over."""
        ends = Change.ENDED in TRANSITIONS[self.state]
        return State.EXPIRED if ends and self.is_over(now) else self.state


def approval_digest(request: IssuanceRequest, names: Names, profile: Profile) -> str:
    """What an approval is given to, hex. Whatever changes in it makes another request."""
    content = [
        "approval 1",
        (request.asked_with or request.csr).spki_sha256,
        request.asked_with is not None,
        [identifier.tag for identifier in names.identifiers],
        names.device,
        profile.name,
        profile.version,
        request.not_before,
        request.not_after,
        str(request.principal),
        request.channel.value,
        request.endpoint,
    ]
    return hashlib.sha256(orjson.dumps(content)).hexdigest()


def retry_after(age: timedelta) -> int:
    """Seconds until a client should ask again: an eighth of the time that it has waited already, from half a minute to an hour."""
    return int(min(max(age / 8, SOONEST), LATEST).total_seconds())


def repeated_for(plan: CertificatePlan) -> timedelta:
    """So long the same request gets the same certificate: a lost answer can be had again, and a renewal is another request."""
    return min(REPEATED_FOR, (plan.not_after - plan.not_before) / 3)


# ---------------------------------------------------------------------- steps that ride in the writes of others


def use_step(approval: Approval, issuance_id: str, plan: CertificatePlan, now: Micros) -> Step:
    """In the transaction of step 8: one approval, one intent. Lost when the approval was used or has ended meanwhile."""
    left, reached = move(State.APPROVED, Change.USED)
    return Step(USE_SQL, (approval.id, left, reached, issuance_id, after(now, repeated_for(plan)), now))


def release_step(issuance_id: str) -> Step:
    """With the end of an intent that became no certificate: the approval, if it rested on one, can be used again."""
    return Step(RELEASE_SQL, (issuance_id, *move(State.ISSUED, Change.RELEASED)), rows=None)


def new_request(
    request: IssuanceRequest,
    names: Names,
    profile: Profile,
    *,
    request_id: str,
    digest: str,
    policy: str,
    now: Micros,
    expires_at: Micros,
) -> ApprovalRequest:
    principal, csr = request.principal, request.asked_with or request.csr
    return ApprovalRequest(
        id=request_id,
        digest=digest,
        live=True,
        state=State.PENDING,
        principal=str(principal),
        roles=principal.roles,
        source_address=principal.source_address,
        channel=request.channel.value,
        endpoint=request.endpoint,
        profile=profile.name,
        profile_version=profile.version,
        policy=policy,
        names=names.tags,
        not_before=request.not_before,
        not_after=request.not_after,
        spki_sha256=csr.spki_sha256,
        server_key=request.asked_with is not None,
        spki=csr.spki,
        requested_at=now,
        expires_at=expires_at,
        answers_until=Micros(0),
        decided_at=None,
        decided_by="",
        comment="",
        issuance_id=None,
    )


def insert_step(made: ApprovalRequest) -> Step:
    return Step(
        INSERT_SQL,
        (
            made.id,
            made.digest,
            made.state.value,
            made.principal,
            orjson.dumps(sorted(made.roles)).decode(),
            made.source_address,
            made.channel,
            made.endpoint,
            made.profile,
            made.profile_version,
            made.policy,
            orjson.dumps(made.names).decode(),
            made.not_before,
            made.not_after,
            made.spki_sha256,
            int(made.server_key),
            made.spki,
            made.requested_at,
            made.expires_at,
        ),
    )


def approval_request(row: Row) -> ApprovalRequest:
    return ApprovalRequest(
        id=row["id"],
        digest=row["digest"],
        live=bool(row["live"]),
        state=State(row["state"]),
        principal=row["principal"],
        roles=frozenset(orjson.loads(row["roles"])),
        source_address=row["source_address"],
        channel=row["channel"],
        endpoint=row["endpoint"],
        profile=row["profile"],
        profile_version=row["profile_version"],
        policy=row["policy"],
        names=tuple(orjson.loads(row["names"])),
        not_before=row["not_before"],
        not_after=row["not_after"],
        spki_sha256=row["spki_sha256"],
        server_key=bool(row["server_key"]),
        spki=bytes(row["spki"]),
        requested_at=row["requested_at"],
        expires_at=row["expires_at"],
        answers_until=row["answers_until"],
        decided_at=row["decided_at"],
        decided_by=row["decided_by"],
        comment=row["comment"],
        issuance_id=row["issuance_id"],
    )
