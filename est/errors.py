"""The one table from reasons to HTTP statuses for EST clients (RFC 7030 §4.2.3: any 4xx or 5xx refuses).

RFC 7030 leaves the body to us: one short text that says what happened and what to do. A 401 has none, for there are
clients that stop reading at the first octet of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pki.reasons import Reason, Rejection

STATUS: Mapping[Reason, int] = MappingProxyType(
    {
        Reason.MALFORMED: 400,
        Reason.UNAUTHENTICATED: 401,
        Reason.FORBIDDEN: 403,
        Reason.BAD_CSR: 400,
        Reason.WEAK_ALGORITHM: 400,
        Reason.BAD_PUBLIC_KEY: 400,
        Reason.REJECTED_IDENTIFIER: 400,
        Reason.UNSUPPORTED_IDENTIFIER: 400,
        Reason.UNKNOWN_PROFILE: 403,
        Reason.INVALID_VALIDITY: 400,
        Reason.NOT_VALIDATED: 403,
        Reason.CAA_FORBIDS: 403,
        Reason.LINT_REFUSED: 400,
        Reason.NOT_FOUND: 404,
        Reason.CONFLICT: 409,
        Reason.ALREADY_REVOKED: 409,
        Reason.BAD_REVOCATION_REASON: 400,
        Reason.RATE_LIMITED: 429,
        Reason.INTERRUPTED: 503,
    }
)
INTERRUPTED_RETRY = 5  # seconds; a 503 without Retry-After tells a device nothing


class HttpRefusal(Exception):
    """Refused by HTTP's own rules before EST has its say: wrong method, media type, size, scheme or path."""

    def __init__(self, status: int, text: str, *, allow: str | None = None) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.allow = allow  # the methods that a 405 must name


def explanation(rejection: Rejection) -> str:
    """All that a rejection says, a line each."""
    lines = [rejection.detail]
    lines += [f"{problem.identifier}: {problem.detail}" for problem in rejection.sub]
    lines += rejection.suggestions
    return "\n".join(lines) + "\n"


def retry_after(rejection: Rejection) -> int | None:
    """Seconds, or None where asking again later does not help."""
    if rejection.retry_after is None and rejection.reason is Reason.INTERRUPTED:
        return INTERRUPTED_RETRY
    return rejection.retry_after
