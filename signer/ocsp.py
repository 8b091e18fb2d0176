"""OCSP (RFC 6960, nonces by RFC 9654): what was asked, what is answered, and the answer with its signature.

The responder is the issuer's key itself, so no delegated certificate travels along. ResponseData is written as DER here:
`cryptography`'s builder takes producedAt from the machine's clock and wants the private key.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from pki import der
from pki.certificate import SignatureAlgorithm, assemble, signature_algorithm
from pki.clock import Micros
from pki.reasons import Reason, Rejection, RevocationReason
from signer.crl import extension, generalized_time, subject_der

MAX_REQUEST = 16 * 1024  # octets
_ENUMERATED = 0x0A
_NONCE = bytes.fromhex("06092b0601050507300102")
_BASIC_RESPONSE = bytes.fromhex("06092b0601050507300101")


class OcspError(enum.IntEnum):
    """OCSPResponseStatus of the answers without a signature (RFC 6960 §4.2.1)."""

    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    UNAUTHORIZED = 6


@dataclass(frozen=True, slots=True)
class OcspRequest:
    """The one certificate that is asked about. `cert_id` goes back as it came."""

    cert_id: bytes = field(repr=False)  # CertID, DER
    hash: hashes.SHA1 | hashes.SHA256
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: int
    nonce: bytes | None

    def is_for(self, issuer_certificate: x509.Certificate) -> bool:
        """Whether the CertID names this issuer: both hashes (RFC 6960 §4.1.1)."""
        return self.issuer_name_hash == _digest(self.hash, subject_der(issuer_certificate)) and (
            self.issuer_key_hash == _digest(self.hash, _key_bits(issuer_certificate))
        )


@dataclass(frozen=True, slots=True)
class Good:
    """Issued and not revoked. Never for a serial that was not issued (BR 4.9.10)."""


@dataclass(frozen=True, slots=True)
class Revoked:
    at: Micros
    reason: RevocationReason


@dataclass(frozen=True, slots=True)
class Unknown:
    """Not one of ours."""


Status = Good | Revoked | Unknown


def _digest(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()


def _key_bits(certificate: x509.Certificate) -> bytes:
    """The BIT STRING's octets in SubjectPublicKeyInfo: what key hashes are made of (RFC 6960 §4.1.1)."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der.bits(list(der.children(der.whole(spki, der.SEQUENCE).content))[1])


def responder_key_hash(issuer_certificate: x509.Certificate) -> bytes:
    """ResponderID byKey: SHA-1 of the key bits (RFC 6960 §4.2.1)."""
    return _digest(hashes.SHA1(), _key_bits(issuer_certificate))  # noqa: S303  # the RFC names SHA-1; it is an identifier


# ---------------------------------------------------------------- the request


def parse_ocsp_request(data: bytes) -> OcspRequest:
    """OCSPRequest, DER, about one certificate. Raises Rejection (MALFORMED), whose detail says what is wrong."""
    if len(data) > MAX_REQUEST:
        raise Rejection(Reason.MALFORMED, f"The OCSP request is longer than {MAX_REQUEST} octets.")
    try:
        request = ocsp.load_der_ocsp_request(data)
        algorithm = request.hash_algorithm
        extensions = request.extensions
        cert_id = _cert_id(data)
    except NotImplementedError:
        raise Rejection(Reason.MALFORMED, "The OCSP request must ask about exactly one certificate.") from None
    except UnsupportedAlgorithm:
        raise Rejection(
            Reason.MALFORMED, "The OCSP request hashes its CertID with an algorithm that is not SHA-1 or SHA-256."
        ) from None
    except (ValueError, TypeError, x509.DuplicateExtension):
        raise Rejection(Reason.MALFORMED, "The OCSP request is not the DER of an OCSPRequest.") from None
    if not isinstance(algorithm, hashes.SHA1 | hashes.SHA256):
        raise Rejection(Reason.MALFORMED, "The OCSP request hashes its CertID with an algorithm that is not SHA-1 or SHA-256.")
    return OcspRequest(
        cert_id=cert_id,
        hash=algorithm,
        issuer_name_hash=request.issuer_name_hash,
        issuer_key_hash=request.issuer_key_hash,
        serial=request.serial_number,
        nonce=_nonce(extensions),
    )


def _cert_id(data: bytes) -> bytes:
    tbs = next(der.children(der.whole(data, der.SEQUENCE).content))
    requests = next(part for part in der.children(tbs.content) if part.tag == der.SEQUENCE)
    request = next(der.children(requests.content))
    return next(der.children(request.content)).raw


def _nonce(extensions: x509.Extensions) -> bytes | None:
    nonce: bytes | None = None
    for found in extensions:
        if isinstance(found.value, x509.OCSPNonce):
            nonce = found.value.nonce
            if not 1 <= len(nonce) <= 128:  # RFC 9654 §2.1
                raise Rejection(Reason.MALFORMED, "The nonce of the OCSP request must have 1 to 128 octets (RFC 9654).")
        elif found.critical:
            raise Rejection(Reason.MALFORMED, f"The OCSP request has the critical extension {found.oid.dotted_string}.")
    return nonce


# ---------------------------------------------------------------- the answer


def build_ocsp_tbs(
    *,
    issuer_certificate: x509.Certificate,
    request: OcspRequest,
    status: Status,
    produced_at: Micros,
    this_update: Micros,
    next_update: Micros | None,
) -> bytes:
    """ResponseData, DER, to be signed by the key of `issuer_certificate`; the nonce of the request comes back in it."""
    until = b"" if next_update is None else der.encode(0xA0, generalized_time(next_update))
    single = der.encode(der.SEQUENCE, request.cert_id + _status(status) + generalized_time(this_update) + until)
    extensions = b""
    if request.nonce is not None:
        nonce = extension(_NONCE, der.encode(der.OCTET_STRING, request.nonce))
        extensions = der.encode(0xA1, der.encode(der.SEQUENCE, nonce))
    responder = der.encode(0xA2, der.encode(der.OCTET_STRING, responder_key_hash(issuer_certificate)))
    return der.encode(der.SEQUENCE, responder + generalized_time(produced_at) + der.encode(der.SEQUENCE, single) + extensions)


def _status(status: Status) -> bytes:
    match status:
        case Good():
            return b"\x80\x00"
        case Revoked(at, RevocationReason.UNSPECIFIED):
            return der.encode(0xA1, generalized_time(at))
        case Revoked(at, reason):
            return der.encode(0xA1, generalized_time(at) + der.encode(0xA0, der.encode(_ENUMERATED, bytes((reason.value,)))))
        case Unknown():
            return b"\x82\x00"


def wrap_ocsp(tbs: bytes, algorithm: SignatureAlgorithm, signature: bytes) -> bytes:
    """OCSPResponse (successful) around a signed ResponseData, DER."""
    basic = der.encode(der.OCTET_STRING, assemble(tbs, algorithm, signature))
    body = der.encode(0xA0, der.encode(der.SEQUENCE, _BASIC_RESPONSE + basic))
    return der.encode(der.SEQUENCE, der.encode(_ENUMERATED, b"\x00") + body)


def finish_ocsp(tbs: bytes, *, issuer_certificate: x509.Certificate, signature: bytes) -> bytes:
    """OCSPResponse, DER."""
    return wrap_ocsp(tbs, signature_algorithm(issuer_certificate.public_key()), signature)


def ocsp_error(error: OcspError) -> bytes:
    """OCSPResponse without an answer, DER. UNAUTHORIZED is for issuers that are not ours (RFC 5019 §2.2.3)."""
    return der.encode(der.SEQUENCE, der.encode(_ENUMERATED, bytes((error.value,))))
