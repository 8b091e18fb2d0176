"""The one table from reasons to problem documents (RFC 9457).

`status` holds our clients' word for the kind of failure ("validation_error", ...), not RFC 9457's number. §3.1 there makes the
number advisory, the HTTP status line being the truth, and tells consumers to ignore a member of the wrong type: generic
problem libraries go on to work, and programs written to `status`, `error`, `retry_allowed` and `suggestions` do too.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pki.reasons import Reason, Rejection

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:certwright:problem:"  # a name and not an address: the same on every server
INTERRUPTED_RETRY = 5  # seconds


class Kind(enum.Enum):
    """What a program needs to know first. Closed."""

    VALIDATION = "validation_error"  # mend the request
    AUTHORIZATION = "authorization_error"  # get other credentials or rights; asking again is of no use
    POLICY = "policy_violation"  # ask for something else; see the suggestions
    SYSTEM = "system_error"  # not your doing; ask again later


@dataclass(frozen=True, slots=True)
class Problem:
    http_status: int
    kind: Kind
    title: str

    @property
    def retry_allowed(self) -> bool:
        return self.kind is not Kind.AUTHORIZATION


_V, _A, _P, _S = Kind.VALIDATION, Kind.AUTHORIZATION, Kind.POLICY, Kind.SYSTEM

PROBLEMS: Mapping[Reason, Problem] = MappingProxyType(
    {
        Reason.MALFORMED: Problem(400, _V, "The request cannot be read"),
        Reason.UNAUTHENTICATED: Problem(401, _A, "No valid API key"),
        Reason.FORBIDDEN: Problem(403, _A, "Not allowed"),
        Reason.BAD_CSR: Problem(400, _V, "The certificate signing request is not usable"),
        Reason.WEAK_ALGORITHM: Problem(400, _P, "A weak algorithm"),
        Reason.BAD_PUBLIC_KEY: Problem(400, _P, "The public key is not accepted"),
        Reason.REJECTED_IDENTIFIER: Problem(400, _V, "A name that cannot be certified"),
        Reason.UNSUPPORTED_IDENTIFIER: Problem(400, _V, "A kind of name that is not served"),
        Reason.UNKNOWN_PROFILE: Problem(400, _V, "Unknown profile"),
        Reason.INVALID_VALIDITY: Problem(400, _P, "The validity asked for is not possible"),
        Reason.NOT_VALIDATED: Problem(403, _V, "Control of a name is not proved"),
        Reason.CAA_FORBIDS: Problem(403, _P, "A CAA record forbids it"),
        Reason.LINT_REFUSED: Problem(400, _P, "The certificate would break a rule"),
        Reason.NOT_FOUND: Problem(404, _V, "Not found"),
        Reason.CONFLICT: Problem(409, _V, "In conflict with another request"),
        Reason.ALREADY_REVOKED: Problem(409, _V, "Already revoked"),
        Reason.BAD_REVOCATION_REASON: Problem(400, _V, "Not a reason for a revocation"),
        Reason.RATE_LIMITED: Problem(429, _P, "Too many requests"),
        Reason.INTERRUPTED: Problem(503, _S, "Interrupted"),
    }
)
UNAVAILABLE = Problem(503, _S, "Unavailable for the moment")
INTERNAL = Problem(500, _S, "Internal error")

Document = dict[str, object]


class HttpRefusal(Exception):
    """Refused by HTTP's own rules: method, size. `slug` ends the problem's type."""

    def __init__(self, http_status: int, slug: str, title: str, detail: str, *, allow: str | None = None) -> None:
        super().__init__(http_status, detail)
        self.problem = Problem(http_status, Kind.VALIDATION, title)
        self.slug = slug
        self.detail = detail
        self.allow = allow  # the methods that a 405 must name

    def document(self) -> Document:
        return render(self.problem, slug=self.slug, detail=self.detail)


def document(rejection: Rejection) -> Document:
    members = render(PROBLEMS[rejection.reason], slug=rejection.reason.value, detail=rejection.detail)
    members["suggestions"] = list(rejection.suggestions)
    if rejection.sub:
        members["subproblems"] = [
            {"type": TYPE_PREFIX + sub.reason.value, "identifier": sub.identifier, "detail": sub.detail}
            for sub in rejection.sub
        ]
    return members


def render(problem: Problem, *, slug: str, detail: str) -> Document:
    """`error` is `detail` under the name that older programs look for."""
    return {
        "type": TYPE_PREFIX + slug,
        "title": problem.title,
        "status": problem.kind.value,
        "detail": detail,
        "error": detail,
        "retry_allowed": problem.retry_allowed,
        "suggestions": [],
    }


def retry_after(rejection: Rejection) -> int | None:
    """Seconds, or None where asking again later does not help."""
    if rejection.retry_after is None and rejection.reason is Reason.INTERRUPTED:
        return INTERRUPTED_RETRY
    return rejection.retry_after
