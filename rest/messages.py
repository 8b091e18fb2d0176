"""What programs send and get: JSON bodies, query strings, cursors. Parsed once, errors name the field. Pure.

Law of this file: the models below are the wire and nothing else; `rest/openapi.py` describes the API from them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from issuance.request import IssuedCertificate
from issuance.service import CertificateRecord
from pki.certificate import pem
from pki.clock import Micros, rfc3339, to_micros
from pki.csr import unwrap_csr
from pki.identifiers import shown
from pki.reasons import SUBSCRIBER_REASONS, Reason, Rejection, RevocationReason
from pki.strict import StrictError, parse_json

MAX_PAGE = 1000
DEFAULT_PAGE = 100

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)")
_SERIAL = re.compile(r"[0-9a-f]{1,40}")  # RFC 5280 §4.1.2.2: at most 20 octets
_LIMIT = re.compile(r"[1-9][0-9]{0,3}")
_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,100}")
_CURSOR_CONTENT = re.compile(r"(0|[1-9][0-9]{0,18})\.([0-9a-f]{1,40})")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_MAX_TIME = to_micros(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))

REASON_NAMES: Mapping[RevocationReason, str] = {  # RFC 5280 §5.3.1
    RevocationReason.UNSPECIFIED: "unspecified",
    RevocationReason.KEY_COMPROMISE: "keyCompromise",
    RevocationReason.CA_COMPROMISE: "cACompromise",
    RevocationReason.AFFILIATION_CHANGED: "affiliationChanged",
    RevocationReason.SUPERSEDED: "superseded",
    RevocationReason.CESSATION_OF_OPERATION: "cessationOfOperation",
    RevocationReason.CERTIFICATE_HOLD: "certificateHold",
    RevocationReason.REMOVE_FROM_CRL: "removeFromCRL",
    RevocationReason.PRIVILEGE_WITHDRAWN: "privilegeWithdrawn",
    RevocationReason.AA_COMPROMISE: "aACompromise",
}


def _time(text: str) -> str:
    parse_time(text)
    return text


def parse_time(text: str) -> Micros:
    """RFC 3339 with a zone, between 1970 and 9999. Raises ValueError."""
    if not _RFC3339.fullmatch(text):
        raise ValueError("write a time as 2030-01-31T12:00:00Z")
    at = to_micros(datetime.fromisoformat(text))
    if not 0 <= at <= _MAX_TIME:
        raise ValueError("a time lies between 1970 and 9999")
    return at


Time = Annotated[str, AfterValidator(_time), WithJsonSchema({"type": "string", "format": "date-time"})]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class IssueBody(_Body):
    """A request for a certificate."""

    csr: str = Field(description="The certificate signing request (PKCS#10): PEM, or DER in base64.")
    profile: str | None = Field(default=None, description="Without it, the API key's own profile.")
    not_before: Time | None = None
    not_after: Time | None = None


class RevokeBody(_Body):
    """A request to revoke a certificate."""

    reason: int | str = Field(default=0, description="CRLReason (RFC 5280 section 5.3.1), by number or name.")


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)

    serial: str = Field(description="Lower-case hex.")
    issuer: str
    profile: str
    not_before: Time
    not_after: Time


class IssuedAnswer(_Answer):
    """A new certificate."""

    certificate: str = Field(description="PEM.")
    chain: str = Field(description="PEM: the certificate and then its issuers without the root, as servers take it.")
    status: Literal["issued"] = "issued"


class CertificateSummary(_Answer):
    """A certificate and what became of it."""

    names: list[str]
    issued_at: Time
    status: Literal["issued", "revoked"]
    revoked_at: Time | None
    revocation_reason: str | None


class CertificateDetail(CertificateSummary):
    """The same with the certificate itself."""

    certificate: str = Field(description="PEM.")
    chain: str = Field(description="PEM: the certificate and then its issuers without the root.")


class CertificateList(BaseModel):
    """Newest first. `next` is the cursor of the page after this one, null on the last."""

    model_config = ConfigDict(frozen=True)
    certificates: list[CertificateSummary]
    next: str | None


class ChallengeBody(_Body):
    """A request for a SCEP challenge that opens once, for one request: with this subject, and exactly these alternative names."""

    endpoint: str = Field(default="default", description="The SCEP endpoint.")
    subject: str | None = Field(
        default=None,
        description="As RFC 4514 writes it: CN=router7,O=Example. Without one, the request's common name is one of `names`, or there is none.",
    )
    names: list[str] = Field(default=[], max_length=100, description="dns:router7.example.com, ip:192.0.2.1, or either bare.")
    profile: str | None = Field(default=None, description="Of its certificate; without it, the endpoint's.")
    expires_in: int = Field(default=3600, ge=1, le=30 * 86400, description="Seconds.")


class NewChallenge(BaseModel):
    """The only time that the challenge is shown."""

    model_config = ConfigDict(frozen=True)
    id: str
    challenge: str = Field(repr=False)
    endpoint: str
    expires_at: Time


class ChallengeSummary(BaseModel):
    """A challenge, what it is for and what became of it. `burnt`: it came with a request that it was not made for."""

    model_config = ConfigDict(frozen=True)
    id: str
    endpoint: str
    subject: str | None
    names: list[str] | None = Field(description="null is any; an empty list is none.")
    profile: str
    made_by: str
    created_at: Time
    expires_at: Time
    used_at: Time | None
    status: Literal["open", "used", "burnt", "disabled", "expired"]


class ChallengeList(BaseModel):
    """Newest first, as in CertificateList."""

    model_config = ConfigDict(frozen=True)
    challenges: list[ChallengeSummary]
    next: str | None


class PendingAnswer(BaseModel):
    """Not decided yet."""

    model_config = ConfigDict(frozen=True)
    status: Literal["pending"] = "pending"
    id: str
    retry_after: int = Field(description="Seconds; then send the same request with the same Idempotency-Key.")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request for a certificate, in whichever form it came. `csr` is DER or PEM, not yet read."""

    csr: bytes
    profile: str | None
    not_before: Micros | None
    not_after: Micros | None


_Model = TypeVar("_Model", bound=_Body)


def parse_object(body: bytes) -> dict[str, object]:
    """A body that must be one JSON object. Raises Rejection(MALFORMED)."""
    try:
        value = parse_json(body)
    except StrictError as error:
        raise Rejection(Reason.MALFORMED, f"the JSON body is refused: {error}") from None
    if not isinstance(value, dict):
        raise Rejection(Reason.MALFORMED, "the JSON body is refused: it must be an object, {...}")
    return value


def _load(model: type[_Model], body: bytes) -> _Model:
    try:
        return model.model_validate(parse_object(body))
    except ValidationError as error:
        faults = [
            f"{_field(fault['loc'])}: {fault['msg']}" for fault in error.errors(include_url=False, include_input=False)[:5]
        ]
        known = ", ".join(model.model_fields)
        raise Rejection(Reason.MALFORMED, "; ".join(faults), suggestions=[f"known members: {known}"]) from None


def _field(location: Sequence[int | str]) -> str:
    return shown(str(location[0])).strip("'") if location else "body"


def read_wanted(body: bytes, *, content_type: str, profile: str | None) -> Wanted:
    """A body of POST /certificates: JSON by its type or its first octet, otherwise the request itself.

    `profile` is the query parameter, which only a plain request has. Raises Rejection(MALFORMED).
    """
    media_type = content_type.partition(";")[0].strip().lower()
    is_json = media_type == "application/json" or media_type.endswith("+json")
    if not is_json and body.lstrip()[:1] != b"{":
        return Wanted(unwrap_csr(body), profile, None, None)
    if profile is not None:
        raise Rejection(Reason.MALFORMED, "profile: name it in the JSON body, not in the query string")
    message = _load(IssueBody, body)
    try:
        csr = unwrap_csr(message.csr.encode("ascii"))
    except UnicodeEncodeError:
        raise Rejection(Reason.MALFORMED, "csr: neither PEM nor base64") from None
    return Wanted(
        csr,
        message.profile,
        None if message.not_before is None else parse_time(message.not_before),
        None if message.not_after is None else parse_time(message.not_after),
    )


def read_revocation(body: bytes) -> RevocationReason:
    """A body of POST .../revoke; none at all is `unspecified`. Raises Rejection: MALFORMED, BAD_REVOCATION_REASON."""
    message = _load(RevokeBody, body) if body.strip() else RevokeBody()
    return parse_reason(message.reason)


def read_challenge(body: bytes) -> ChallengeBody:
    """A body of POST /scep/challenges. Raises Rejection(MALFORMED)."""
    return _load(ChallengeBody, body)


def parse_reason(given: int | str) -> RevocationReason:
    """By number, or by name in any spelling: keyCompromise, key_compromise, KEY-COMPROMISE."""
    by_text: dict[int | str, RevocationReason] = {_squeezed(name): reason for reason, name in REASON_NAMES.items()}
    reason = by_text.get(_squeezed(given)) if isinstance(given, str) else {r.value: r for r in RevocationReason}.get(given)
    if reason is None or reason not in SUBSCRIBER_REASONS:
        allowed = ", ".join(f"{REASON_NAMES[r]} ({r.value})" for r in sorted(SUBSCRIBER_REASONS))
        raise Rejection(
            Reason.BAD_REVOCATION_REASON,
            f"{shown(str(given)[:100])} is not a reason that may be given here",
            suggestions=[f"use one of: {allowed}"],
        )
    return reason


def _squeezed(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def parse_serial(text: str) -> str:
    """Hex as we or openssl write it to how it is stored. Raises Rejection(NOT_FOUND), as for a serial that nobody has."""
    serial = text.replace(":", "").lower()
    if not _SERIAL.fullmatch(serial):
        raise no_such_certificate()
    return serial.lstrip("0") or "0"


def no_such_certificate() -> Rejection:
    return Rejection(Reason.NOT_FOUND, "there is no certificate with this serial number, or it is not yours to see")


def parse_idempotency_key(values: Sequence[str]) -> str | None:
    """The Idempotency-Key header, if any. Raises Rejection(MALFORMED)."""
    match values:
        case []:
            return None
        case [value] if _IDEMPOTENCY_KEY.fullmatch(value):
            return value
        case _:
            raise Rejection(Reason.MALFORMED, "Idempotency-Key: one value of 1 to 128 printable ASCII characters")


def read_query(pairs: Sequence[tuple[str, str]], *, known: frozenset[str]) -> dict[str, str]:
    """Query parameters, each known and there once. Raises Rejection(MALFORMED)."""
    query: dict[str, str] = {}
    for name, value in pairs:
        if name not in known or name in query:
            why = "is there twice" if name in query else "is unknown here"
            names = ", ".join(sorted(known)) or "none"
            raise Rejection(Reason.MALFORMED, f"the query parameter {shown(name)} {why}", suggestions=[f"known: {names}"])
        query[name] = value
    return query


def parse_limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_PAGE
    if not _LIMIT.fullmatch(text) or int(text) > MAX_PAGE:
        raise Rejection(Reason.MALFORMED, f"limit: a number from 1 to {MAX_PAGE}")
    return int(text)


def encode_cursor(before: tuple[Micros, str]) -> str:
    """(issued_at, serial) of the last certificate on a page, opaque to clients."""
    at, serial = before
    return base64.urlsafe_b64encode(f"{at}.{serial}".encode("ascii")).rstrip(b"=").decode("ascii")


def decode_cursor(text: str) -> tuple[Micros, str]:
    """The exact inverse: one text per position. Raises Rejection(MALFORMED)."""
    if _CURSOR.fullmatch(text):
        try:
            content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
        except (binascii.Error, UnicodeDecodeError):
            content = ""
        parts = _CURSOR_CONTENT.fullmatch(content)
        if parts is not None and int(parts[1]) <= _MAX_TIME:
            before = (Micros(int(parts[1])), parts[2])
            if encode_cursor(before) == text:
                return before
    raise Rejection(Reason.MALFORMED, "cursor: take the value of `next` from the page before, as it is")


def _common(certificate: IssuedCertificate) -> dict[str, str]:
    return {
        "serial": certificate.serial,
        "issuer": certificate.issuer,
        "profile": certificate.profile,
        "not_before": rfc3339(certificate.not_before),
        "not_after": rfc3339(certificate.not_after),
    }


def issued_answer(certificate: IssuedCertificate, *, chain: str) -> IssuedAnswer:
    return IssuedAnswer.model_validate({**_common(certificate), "certificate": pem(certificate.der), "chain": chain})


def summary(record: CertificateRecord) -> CertificateSummary:
    return CertificateSummary.model_validate(_state(record))


def detail(record: CertificateRecord, *, chain: str) -> CertificateDetail:
    return CertificateDetail.model_validate({**_state(record), "certificate": pem(record.certificate.der), "chain": chain})


def _state(record: CertificateRecord) -> dict[str, object]:
    return {
        **_common(record.certificate),
        "names": list(record.names),
        "issued_at": rfc3339(record.certificate.issued_at),
        "status": "issued" if record.revoked_at is None else "revoked",
        "revoked_at": None if record.revoked_at is None else rfc3339(record.revoked_at),
        "revocation_reason": None if record.reason is None else REASON_NAMES[record.reason],
    }
