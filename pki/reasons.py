"""Why a request is refused, and how that travels.

Law of this file: `Rejection` is the only expected error. It is the client's or the policy's doing, its text is safe to show,
and every front end owns one total table Reason -> wire error. `Unavailable` is an outage that passes by itself (503 with
Retry-After). Anything else that is raised is a bug: a bare 500 with a request id and no text.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Reason(enum.Enum):
    """Why a request is refused. Closed: a new member fails every front end's table test."""

    MALFORMED = "malformed"
    UNAUTHENTICATED = "unauthenticated"  # who are you? (no or wrong credentials)
    FORBIDDEN = "forbidden"  # we know you, and policy says no
    BAD_CSR = "bad-csr"
    WEAK_ALGORITHM = "weak-algorithm"  # a signature or digest that we no longer take, named in the detail
    BAD_PUBLIC_KEY = "bad-public-key"
    REJECTED_IDENTIFIER = "rejected-identifier"
    UNSUPPORTED_IDENTIFIER = "unsupported-identifier"
    UNKNOWN_PROFILE = "unknown-profile"
    INVALID_VALIDITY = "invalid-validity"
    NOT_VALIDATED = "not-validated"  # no fresh evidence of control for a name
    CAA_FORBIDS = "caa-forbids"
    LINT_REFUSED = "lint-refused"  # what the profile makes of this request would break a rule
    NOT_FOUND = "not-found"
    CONFLICT = "conflict"  # somebody else was first, or an idempotency key came back with another body
    ALREADY_REVOKED = "already-revoked"
    BAD_REVOCATION_REASON = "bad-revocation-reason"
    RATE_LIMITED = "rate-limited"
    INTERRUPTED = "interrupted"  # the server stopped while it was signing; ask again


@dataclass(frozen=True, slots=True)
class SubProblem:
    """One identifier's share of a rejection (RFC 8555 §6.7.1)."""

    identifier: str
    reason: Reason
    detail: str


class Rejection(Exception):
    """The one expected error: what happened, to which name, and what to do. Shown to clients as it is."""

    def __init__(
        self,
        reason: Reason,
        detail: str,
        *,
        sub: Sequence[SubProblem] = (),
        retry_after: int | None = None,
        suggestions: Sequence[str] = (),
    ) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.sub = tuple(sub)
        self.retry_after = retry_after  # seconds
        self.suggestions = tuple(suggestions)

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


class Unavailable(Exception):
    """A part that we need is away (database, signer) and is expected back: 503 with Retry-After, nothing half-done."""

    def __init__(self, what: str, *, retry_after: int = 5) -> None:
        super().__init__(what)
        self.what = what  # for the log; clients see only the name of the part
        self.retry_after = retry_after  # seconds


class RevocationReason(enum.IntEnum):
    """CRLReason (RFC 5280 §5.3.1). 7 is unused there; 0 is never written into a CRL entry (§5.3.1: SHOULD be absent)."""

    UNSPECIFIED = 0
    KEY_COMPROMISE = 1
    CA_COMPROMISE = 2
    AFFILIATION_CHANGED = 3
    SUPERSEDED = 4
    CESSATION_OF_OPERATION = 5
    CERTIFICATE_HOLD = 6
    REMOVE_FROM_CRL = 8
    PRIVILEGE_WITHDRAWN = 9
    AA_COMPROMISE = 10


# What somebody who asks for a revocation may give as the reason. The others are the CA's to say, or are states (6, 8)
# that a full CRL without holds never has.
SUBSCRIBER_REASONS = frozenset(
    {
        RevocationReason.UNSPECIFIED,
        RevocationReason.KEY_COMPROMISE,
        RevocationReason.AFFILIATION_CHANGED,
        RevocationReason.SUPERSEDED,
        RevocationReason.CESSATION_OF_OPERATION,
        RevocationReason.PRIVILEGE_WITHDRAWN,
    }
)
