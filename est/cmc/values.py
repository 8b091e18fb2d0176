"""What the controls of CMC say, as frozen values (RFC 5272 §6, RFC 6402). No ASN.1 here; `est.cmc.controls` reads and writes them."""

from __future__ import annotations

from dataclasses import dataclass, field

from est.cmc.messages import CertRequest, StatusInfo
from pki.cms.types import Digest
from pki.reasons import RevocationReason


@dataclass(frozen=True, slots=True)
class TransactionId:
    number: int


@dataclass(frozen=True, slots=True)
class Octets:
    octets: bytes = field(repr=False)


class SenderNonce(Octets):
    __slots__ = ()


class RecipientNonce(Octets):
    __slots__ = ()


class DataReturn(Octets):
    """§6.4: goes back as it came."""

    __slots__ = ()


class RegInfo(Octets):
    __slots__ = ()


class ResponseInfo(Octets):
    __slots__ = ()


class QueryPending(Octets):
    """A pendToken of ours."""

    __slots__ = ()


class PopLinkRandom(Octets):
    __slots__ = ()


class PopLinkWitness(Octets):
    """§6.3.1.2: by SHA-1 and HMAC-SHA1."""

    __slots__ = ()


class IdentityProof(Octets):
    """§6.2.2: by SHA-1 and HMAC-SHA1."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Identification:
    name: str


@dataclass(frozen=True, slots=True)
class Witness:
    """`digest` makes a key of the shared secret, `mac` is HMAC with that digest."""

    digest: Digest
    mac: Digest
    witness: bytes = field(repr=False)


class IdentityProofV2(Witness):
    """§6.2.1: over the certification requests."""

    __slots__ = ()


class PopLinkWitnessV2(Witness):
    """§6.3.1.1: over popLinkRandom; each certification request has one."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class EncryptedPop:
    """§6.7. `envelope` is a ContentInfo (EnvelopedData), DER; `mac` is HMAC with that digest, `digest` made the witness."""

    request: CertRequest
    envelope: bytes = field(repr=False)
    mac: Digest
    digest: Digest
    witness: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DecryptedPop:
    """§6.7: the answer to it; `body_part` is the request's."""

    body_part: int
    mac: Digest
    proof: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LraPopWitness:
    """§6.8: requests whose keys' possession a registration authority has seen to; `pki_data` is 0 for those of this message."""

    pki_data: int
    requests: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GetCert:
    """§6.9. `issuer` is a Name, DER."""

    issuer: bytes
    serial: int


@dataclass(frozen=True, slots=True)
class GetCrl:
    """§6.10. `issuer` is a Name, `name` a GeneralName, DER; `at` is in seconds since 1970, UTC; `reasons` are the bits of
    ReasonFlags (RFC 5280 §4.2.1.13), as in DER.
    """

    issuer: bytes
    name: bytes | None = None
    at: int | None = None
    reasons: bytes | None = None


@dataclass(frozen=True, slots=True)
class RevokeRequest:
    """§6.11. `issuer` is a Name, DER; `invalid_since` is in seconds since 1970, UTC."""

    issuer: bytes
    serial: int
    reason: RevocationReason
    invalid_since: int | None = None
    passphrase: bytes | None = field(default=None, repr=False)
    comment: str = ""


@dataclass(frozen=True, slots=True)
class ConfirmCertAcceptance:
    """§6.14. `issuer` is a Name, DER."""

    issuer: bytes
    serial: int


@dataclass(frozen=True, slots=True)
class BatchRequests:
    """§6.17: members of the cmsSequence, each a whole message."""

    body_parts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BatchResponses:
    body_parts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """Not read by anybody here; `name` is the RFC's, or the object identifier."""

    type: str
    name: str


Value = (
    TransactionId
    | SenderNonce
    | RecipientNonce
    | DataReturn
    | RegInfo
    | ResponseInfo
    | QueryPending
    | PopLinkRandom
    | PopLinkWitness
    | PopLinkWitnessV2
    | Identification
    | IdentityProof
    | IdentityProofV2
    | EncryptedPop
    | DecryptedPop
    | LraPopWitness
    | GetCert
    | GetCrl
    | RevokeRequest
    | ConfirmCertAcceptance
    | BatchRequests
    | BatchResponses
    | StatusInfo
)
