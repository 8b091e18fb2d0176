"""What goes wrong, in ACME's words (RFC 8555 §6.7): one closed set of types, one total table, rendered once.

`Problem` is for errors of the protocol itself. Refusals from below arrive as `Rejection` and are looked up in `PROBLEMS`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, assert_never

from pki.identifiers import DnsName, IpAddress, parse_dns, parse_ip
from pki.reasons import Reason, Rejection, SubProblem, Unavailable

URN = "urn:ietf:params:acme:error:"

# acme.sh retries only when it reads this English text, so it is part of the contract.
BAD_NONCE = "JWS has an invalid anti-replay nonce"


class ProblemType(enum.Enum):
    """RFC 8555 §6.7, and `invalidProfile` of the profiles extension. Closed."""

    ACCOUNT_DOES_NOT_EXIST = "accountDoesNotExist"
    ALREADY_REPLACED = "alreadyReplaced"
    ALREADY_REVOKED = "alreadyRevoked"
    AUTO_RENEWAL_CANCELED = "autoRenewalCanceled"
    AUTO_RENEWAL_CANCELLATION_INVALID = "autoRenewalCancellationInvalid"
    AUTO_RENEWAL_EXPIRED = "autoRenewalExpired"
    AUTO_RENEWAL_REVOCATION_NOT_SUPPORTED = "autoRenewalRevocationNotSupported"
    BAD_CSR = "badCSR"
    BAD_NONCE = "badNonce"
    BAD_PUBLIC_KEY = "badPublicKey"
    BAD_REVOCATION_REASON = "badRevocationReason"
    BAD_SIGNATURE_ALGORITHM = "badSignatureAlgorithm"
    CAA = "caa"
    COMPOUND = "compound"
    CONNECTION = "connection"
    DNS = "dns"
    EXTERNAL_ACCOUNT_REQUIRED = "externalAccountRequired"
    INCORRECT_RESPONSE = "incorrectResponse"
    INVALID_CONTACT = "invalidContact"
    INVALID_PROFILE = "invalidProfile"
    MALFORMED = "malformed"
    ORDER_NOT_READY = "orderNotReady"
    RATE_LIMITED = "rateLimited"
    REJECTED_IDENTIFIER = "rejectedIdentifier"
    SERVER_INTERNAL = "serverInternal"
    TLS = "tls"
    UNAUTHORIZED = "unauthorized"
    UNSUPPORTED_CONTACT = "unsupportedContact"
    UNSUPPORTED_IDENTIFIER = "unsupportedIdentifier"
    USER_ACTION_REQUIRED = "userActionRequired"

    @property
    def urn(self) -> str:
        return URN + self.value


# The HTTP status of a type where nothing else is said; clients key off several of these (403 orderNotReady above all).
_STATUS: Mapping[ProblemType, int] = MappingProxyType(
    {
        ProblemType.ALREADY_REPLACED: 409,
        ProblemType.AUTO_RENEWAL_CANCELED: 403,
        ProblemType.AUTO_RENEWAL_EXPIRED: 403,
        ProblemType.AUTO_RENEWAL_REVOCATION_NOT_SUPPORTED: 403,
        ProblemType.CAA: 403,
        ProblemType.EXTERNAL_ACCOUNT_REQUIRED: 403,
        ProblemType.INCORRECT_RESPONSE: 403,
        ProblemType.ORDER_NOT_READY: 403,
        ProblemType.RATE_LIMITED: 429,
        ProblemType.SERVER_INTERNAL: 500,
        ProblemType.UNAUTHORIZED: 403,
        ProblemType.USER_ACTION_REQUIRED: 403,
    }
)

# Total over Reason; a test says so. BAD_PUBLIC_KEY can only come from a CSR here (an account's key is refused by jwk.py),
# and §6.7 calls a CSR with a bad key badCSR.
PROBLEMS: Mapping[Reason, tuple[ProblemType, int]] = MappingProxyType(
    {
        Reason.MALFORMED: (ProblemType.MALFORMED, 400),
        Reason.UNAUTHENTICATED: (ProblemType.UNAUTHORIZED, 403),
        Reason.FORBIDDEN: (ProblemType.UNAUTHORIZED, 403),
        Reason.BAD_CSR: (ProblemType.BAD_CSR, 400),
        Reason.WEAK_ALGORITHM: (ProblemType.BAD_CSR, 400),
        Reason.BAD_PUBLIC_KEY: (ProblemType.BAD_CSR, 400),
        Reason.REJECTED_IDENTIFIER: (ProblemType.REJECTED_IDENTIFIER, 400),
        Reason.UNSUPPORTED_IDENTIFIER: (ProblemType.UNSUPPORTED_IDENTIFIER, 400),
        Reason.UNKNOWN_PROFILE: (ProblemType.INVALID_PROFILE, 400),
        Reason.INVALID_VALIDITY: (ProblemType.MALFORMED, 400),
        Reason.NOT_VALIDATED: (ProblemType.UNAUTHORIZED, 403),
        Reason.CAA_FORBIDS: (ProblemType.CAA, 403),
        Reason.LINT_REFUSED: (ProblemType.BAD_CSR, 400),
        Reason.NOT_FOUND: (ProblemType.MALFORMED, 404),
        Reason.CONFLICT: (ProblemType.ORDER_NOT_READY, 403),
        Reason.ALREADY_REVOKED: (ProblemType.ALREADY_REVOKED, 400),
        Reason.BAD_REVOCATION_REASON: (ProblemType.BAD_REVOCATION_REASON, 400),
        Reason.RATE_LIMITED: (ProblemType.RATE_LIMITED, 429),
        Reason.INTERRUPTED: (ProblemType.SERVER_INTERNAL, 500),
    }
)


@dataclass(frozen=True, slots=True)
class WireIdentifier:
    """An identifier as ACME writes it. Values are the client's text, not canonical."""

    type: str
    value: str

    def json(self) -> dict[str, str]:
        return {"type": self.type, "value": self.value}


@dataclass(frozen=True, slots=True)
class WireSubProblem:
    """One identifier's share (RFC 8555 §6.7.1)."""

    type: ProblemType
    detail: str
    identifier: WireIdentifier | None

    def json(self) -> dict[str, Any]:
        content: dict[str, Any] = {"type": self.type.urn, "detail": self.detail}
        if self.identifier is not None:
            content["identifier"] = self.identifier.json()
        return content


class Problem(Exception):
    """An ACME error that this front end itself found. The text is shown to the client."""

    def __init__(
        self,
        kind: ProblemType,
        detail: str,
        *,
        status: int | None = None,
        sub: tuple[WireSubProblem, ...] = (),
        algorithms: tuple[str, ...] = (),
        allow: str = "",
        terms_of_service: str = "",
        retry_after: int | None = None,
        help_url: str = "",
        location: str = "",
        instance: str = "",
    ) -> None:
        super().__init__(kind, detail)
        self.type = kind
        self.detail = detail
        self.status = status if status is not None else default_status(kind)
        self.sub = sub
        self.algorithms = algorithms  # badSignatureAlgorithm must list what we take (§6.2)
        self.allow = allow  # the Allow header of a 405
        self.terms_of_service = terms_of_service  # Link rel="terms-of-service" of userActionRequired (§7.3.3)
        self.retry_after = retry_after  # seconds
        self.help_url = help_url  # Link rel="help" of rateLimited (§6.6)
        self.location = location  # the Location header of a 409 (§7.3.5)
        self.instance = instance  # where a human reads what to do (§7.3.3)

    def json(self) -> dict[str, Any]:
        """The problem document (RFC 7807), nested parts last."""
        content: dict[str, Any] = {"type": self.type.urn, "status": self.status, "detail": self.detail}
        if self.instance:
            content["instance"] = self.instance
        if self.algorithms:
            content["algorithms"] = list(self.algorithms)
        if self.sub:
            content["subproblems"] = [part.json() for part in self.sub]
        return content


def default_status(kind: ProblemType) -> int:
    return _STATUS.get(kind, 400)


def malformed(detail: str, *, status: int = 400) -> Problem:
    return Problem(ProblemType.MALFORMED, detail, status=status)


def not_found(what: str) -> Problem:
    return Problem(ProblemType.MALFORMED, f"there is no such {what} here", status=404)


def unauthorized(detail: str) -> Problem:
    return Problem(ProblemType.UNAUTHORIZED, detail)


def from_rejection(rejection: Rejection) -> Problem:
    kind, status = PROBLEMS[rejection.reason]
    detail = "; ".join((rejection.detail, *rejection.suggestions))
    return Problem(
        kind, detail, status=status, sub=tuple(_from_sub(part) for part in rejection.sub), retry_after=rejection.retry_after
    )


def from_unavailable(outage: Unavailable) -> Problem:
    """Clients such as uacme and acme.sh try again by themselves only on 503 with Retry-After."""
    return Problem(
        ProblemType.SERVER_INTERNAL,
        "a part of this server is away for a moment; try again",
        status=503,
        retry_after=outage.retry_after,
    )


def wire_identifier(identifier: DnsName | IpAddress) -> WireIdentifier:
    match identifier:
        case DnsName():
            return WireIdentifier("dns", str(identifier))
        case IpAddress():
            return WireIdentifier("ip", str(identifier))
        case _:
            assert_never(identifier)


def _from_sub(part: SubProblem) -> WireSubProblem:
    return WireSubProblem(PROBLEMS[part.reason][0], part.detail, _guess(part.identifier))


def _guess(text: str) -> WireIdentifier | None:
    """Policy names an identifier by its text or tag; what is neither a name nor an address stays in the detail only."""
    kind, colon, rest = text.partition(":")
    if colon and kind in {"dns", "ip"}:
        return WireIdentifier(kind, rest)
    for parse in (parse_ip, parse_dns):
        try:
            return wire_identifier(parse(text))
        except Rejection:
            continue
    return None
