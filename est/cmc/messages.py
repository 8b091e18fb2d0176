"""CMC's messages as frozen values (RFC 5272 §3): what a PKIData asks for, and what a PKIResponse says. No ASN.1 here."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Status(enum.IntEnum):
    """CMCStatus (RFC 5272 §6.1.3)."""

    SUCCESS = 0
    FAILED = 2
    PENDING = 3
    NO_SUPPORT = 4
    CONFIRM_REQUIRED = 5
    POP_REQUIRED = 6
    PARTIAL = 7


class FailInfo(enum.IntEnum):
    """CMCFailInfo (RFC 5272 §6.1.4)."""

    BAD_ALG = 0
    BAD_MESSAGE_CHECK = 1
    BAD_REQUEST = 2
    BAD_TIME = 3
    BAD_CERT_ID = 4
    UNSUPPORTED_EXT = 5
    MUST_ARCHIVE_KEYS = 6
    BAD_IDENTITY = 7
    POP_REQUIRED = 8
    POP_FAILED = 9
    NO_KEY_REUSE = 10
    INTERNAL_CA_ERROR = 11
    TRY_LATER = 12
    AUTH_DATA_FAIL = 13


class CmcRefusal(Exception):
    """Refused in CMC's own words. `text` is shown to the client; `body_parts` are those that it is about, none for the whole."""

    def __init__(self, fail_info: FailInfo, text: str, *, body_parts: tuple[int, ...] = ()) -> None:
        super().__init__(fail_info, text)
        self.fail_info = fail_info
        self.text = text
        self.body_parts = body_parts


@dataclass(frozen=True, slots=True)
class Control:
    """TaggedAttribute (§3.2.1.1): `type` a dotted OID, `values` the DER of each member of the set."""

    body_part: int
    type: str
    values: tuple[bytes, ...] = field(repr=False)  # some hold secrets


@dataclass(frozen=True, slots=True)
class Pkcs10Request:
    """tcr: a CertificationRequest, DER."""

    body_part: int
    der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CrmfRequest:
    """crm: a CertReqMsg (RFC 4211), DER; its certReqId is the body part."""

    body_part: int
    der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OtherRequest:
    """orm: of a kind that nobody here knows; `value` is DER."""

    body_part: int
    type: str
    value: bytes = field(repr=False)


CertRequest = Pkcs10Request | CrmfRequest | OtherRequest


@dataclass(frozen=True, slots=True)
class OtherMessage:
    """OtherMsg (§3.2.1.4): to be ignored unless a control refers to it; `value` is DER."""

    body_part: int
    type: str
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PkiData:
    """§3.2.1. `content_infos` are (body part, DER). Every body part id is there once, and none is 0.

    `request_sequence` is the reqSequence octet by octet as it was sent, which is what an identity proof covers (§6.2.1).
    """

    controls: tuple[Control, ...]
    requests: tuple[CertRequest, ...]
    content_infos: tuple[tuple[int, bytes], ...] = ()
    other_messages: tuple[OtherMessage, ...] = ()
    request_sequence: bytes = field(default=b"", repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class PendInfo:
    """When to ask again for what, by queryPending (§6.1.2)."""

    token: bytes
    at: int  # seconds since 1970, UTC


@dataclass(frozen=True, slots=True)
class StatusInfo:
    """CMCStatusInfoV2 (§6.1.1) about some body parts; none means the whole PKIData (bodyPartID 0)."""

    status: Status
    body_parts: tuple[int, ...]
    text: str = ""
    fail_info: FailInfo | None = None
    pend_info: PendInfo | None = None
    extended_fail_info: tuple[str, bytes] | None = None  # object identifier and DER; nothing here says it, others do
    paths: tuple[tuple[int, ...], ...] = ()  # into messages inside this one: what a registration authority may answer


@dataclass(frozen=True, slots=True)
class PkiResponse:
    """§4.2.1: controls in the order in which they are written; the certificates go into the SignedData around it."""

    controls: tuple[Control, ...]
    content_infos: tuple[tuple[int, bytes], ...] = ()
