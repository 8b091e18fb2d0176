"""One EST endpoint (a label) as configured: who may come and how, what they get, and which certificates it hands out."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from policy.limits import Limit

DEFAULT = "default"  # the endpoint whose URLs carry no label
# Of the operations. RFC 7030 §3.2.2: "the CA label MUST NOT be the same as any defined operation path segment".
METHODS: Mapping[str, str] = {
    "cacerts": "GET",
    "simpleenroll": "POST",
    "simplereenroll": "POST",
    "serverkeygen": "POST",
    "fullcmc": "POST",
    "csrattrs": "GET",
}


class Authentication(enum.Enum):
    """How a client may prove who it is. Closed."""

    BASIC = "basic"
    DIGEST = "digest"
    BEARER = "bearer"
    CERTIFICATE = "certificate"


class Base64Wrap(enum.Enum):
    """Line breaks in responses. Clients disagree, each failing on the other's form; `auto` tells them apart."""

    AUTO = "auto"
    WRAPPED = "76"
    UNWRAPPED = "0"


class ProofLinking(enum.Enum):
    """Whether a certification request has to be bound to its TLS connection (RFC 7030 §3.5)."""

    OFF = "off"
    OPTIONAL = "optional"  # a binding that is there has to be right
    REQUIRED = "required"


class CsrAttributes(enum.Enum):
    """What /csrattrs says of the profile."""

    NONE = "none"
    OIDS = "oids"  # RFC 8951 §3: what libest and BouncyCastle read
    TEMPLATE = "template"  # RFC 9908 §3.4: the request to send, as far as we know it


@dataclass(frozen=True, slots=True)
class ClientCertificates:
    """Whose certificates open this label, besides the label's own: those that it issued may always renew themselves.

    `anchors` are manufacturers' CAs (DER); what they certified (an IDevID) may enrol, and never re-enrol.
    """

    anchors: tuple[bytes, ...] = ()
    roles: frozenset[str] = frozenset()
    grace: timedelta = timedelta(0)  # so long after its end a certificate of ours still renews itself
    enroll: bool = False  # may what this label issued enrol at simpleenroll, too, for whatever policy grants its roles


@dataclass(frozen=True, slots=True)
class Agents:
    """Registration authorities: certificates with id-kp-cmcRA below these anchors (DER) speak for others (RFC 7030 §3.7)."""

    anchors: tuple[bytes, ...]
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class RegistrationKey:
    """Our own registration authority: signs CMC responses and generated keys."""

    name: str  # the signer's name for it
    certificate: bytes  # DER


@dataclass(frozen=True, slots=True)
class EstLimits:
    """None is no limit. Failures are counted, not requests: a 401 that only asks for credentials is nobody's failure."""

    failures_per_user: Limit | None = None  # from one address
    failures_per_address: Limit | None = None
    enrollments_per_caller: Limit | None = None
    enrollments_per_address: Limit | None = None


@dataclass(frozen=True, slots=True)
class EstEndpoint:
    """`ca_certificates` is what /cacerts gives: the issuing CA, what is above it, and what bridges a new root; DER."""

    label: str
    profile: str
    ca_certificates: tuple[bytes, ...]
    issuer: str = ""  # the name of the CA that issues by this profile
    authenticate: frozenset[Authentication] = frozenset({Authentication.BASIC})
    base64_wrap: Base64Wrap = Base64Wrap.AUTO
    realm: str = "estrealm"
    client_certificates: ClientCertificates = ClientCertificates()
    agents: Agents | None = None
    proof_linking: ProofLinking = ProofLinking.OFF
    csr_attributes: CsrAttributes = CsrAttributes.NONE
    server_keygen: bool = False  # only for profiles that allow it, too
    full_cmc: bool = False
    require_approval: bool = False  # whatever policy says
    registration_key: RegistrationKey | None = None
    limits: EstLimits = EstLimits()

    def __post_init__(self) -> None:
        if not self.ca_certificates:
            raise ValueError(f"the EST endpoint {self.label!r} has no CA certificate to give to its clients")
        if not self.realm.isprintable() or not self.realm.isascii() or set(self.realm) & {'"', "\\"}:
            raise ValueError(f"the realm of the EST endpoint {self.label!r} must be printable ASCII without quotes")
        if self.full_cmc and self.registration_key is None:
            raise ValueError(f"the EST endpoint {self.label!r} has no registration authority to sign CMC responses with")
