"""Certificate revocation lists (RFC 5280 §5): the bytes to be signed, and the list with its signature.

Entries are written straight as DER. A builder that takes one object per entry needs three times the time and five times
the memory at a million entries, and the structure is small: serial, date, perhaps a reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pki import der
from pki.certificate import assemble, key_identifier, signature_algorithm, tbs_of
from pki.clock import Micros, to_datetime
from pki.reasons import RevocationReason

_UTC_TIME, _GENERALIZED_TIME, _ENUMERATED = 0x17, 0x18, 0x0A
_CRL_NUMBER = bytes.fromhex("0603551d14")
_CRL_REASON = bytes.fromhex("0603551d15")
_ISSUING_DISTRIBUTION_POINT = bytes.fromhex("0603551d1c")
_AUTHORITY_KEY_IDENTIFIER = bytes.fromhex("0603551d23")
_CRITICAL = b"\x01\x01\xff"
_SUBJECT_FIELD = 5  # of a v3 TBSCertificate: version, serial, signature, issuer, validity, subject


@dataclass(frozen=True, slots=True)
class CrlEntry:
    """One revoked certificate."""

    serial: int
    revoked_at: Micros
    reason: RevocationReason


def subject_der(certificate: x509.Certificate) -> bytes:
    """The subject Name as it stands in the certificate, byte for byte."""
    tbs = der.whole(tbs_of(certificate.public_bytes(Encoding.DER)), der.SEQUENCE)
    return list(der.children(tbs.content))[_SUBJECT_FIELD].raw


def integer(value: int) -> bytes:
    """INTEGER, DER, for values >= 0."""
    return der.encode(der.INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def generalized_time(at: Micros) -> bytes:
    """GeneralizedTime in whole seconds, UTC (RFC 5280 §4.1.2.5.2)."""
    return der.encode(_GENERALIZED_TIME, to_datetime(at).strftime("%Y%m%d%H%M%SZ").encode("ascii"))


def _time(at: Micros) -> bytes:
    """RFC 5280 §5.1.2.4: UTCTime through 2049, GeneralizedTime from 2050 on."""
    moment = to_datetime(at)
    if moment.year >= 2050:
        return generalized_time(at)
    return der.encode(_UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode("ascii"))


def extension(oid: bytes, value: bytes, *, critical: bool = False) -> bytes:
    """Extension, DER; `oid` is the whole OBJECT IDENTIFIER element."""
    return der.encode(der.SEQUENCE, oid + (_CRITICAL if critical else b"") + der.encode(der.OCTET_STRING, value))


def _reason_extensions(reason: RevocationReason) -> bytes:
    match reason:
        case RevocationReason.UNSPECIFIED:  # §5.3.1: SHOULD be absent
            return b""
        case RevocationReason.REMOVE_FROM_CRL:
            raise ValueError("removeFromCRL belongs into delta CRLs only (RFC 5280 §5.3.1)")
        case _:
            value = der.encode(_ENUMERATED, bytes((reason.value,)))
            return der.encode(der.SEQUENCE, extension(_CRL_REASON, value))


def _entries(entries: Iterable[CrlEntry]) -> Iterable[bytes]:
    reasons: dict[RevocationReason, bytes] = {}
    for entry in entries:
        if not 0 < entry.serial < 1 << 159:
            raise ValueError("a serial number that no certificate of ours has")
        if entry.reason not in reasons:
            reasons[entry.reason] = _reason_extensions(entry.reason)
        yield der.encode(der.SEQUENCE, integer(entry.serial) + _time(entry.revoked_at) + reasons[entry.reason])


def build_crl_tbs(
    *,
    issuer_certificate: x509.Certificate,
    entries: Iterable[CrlEntry],
    number: int,
    this_update: Micros,
    next_update: Micros,
    distribution_point: str | None = None,
) -> bytes:
    """TBSCertList, DER, to be signed by the key of `issuer_certificate`. Entries stand in the order given.

    `distribution_point` is the URI of a shard, byte-equal to the one in its certificates: it makes the critical
    issuingDistributionPoint that a CRL needs which does not cover everything (§5.2.5).
    """
    revoked = b"".join(_entries(entries))
    aki = der.encode(der.SEQUENCE, der.encode(0x80, key_identifier(issuer_certificate)))
    extensions = extension(_AUTHORITY_KEY_IDENTIFIER, aki) + extension(_CRL_NUMBER, integer(number))
    if distribution_point is not None:
        uri = der.encode(0x86, distribution_point.encode("ascii"))
        point = der.encode(der.SEQUENCE, der.encode(0xA0, der.encode(0xA0, uri)))
        extensions += extension(_ISSUING_DISTRIBUTION_POINT, point, critical=True)
    return der.encode(
        der.SEQUENCE,
        b"".join(
            (
                integer(1),  # v2
                signature_algorithm(issuer_certificate.public_key()).der,
                subject_der(issuer_certificate),
                _time(this_update),
                _time(next_update),
                der.encode(der.SEQUENCE, revoked) if revoked else b"",  # §5.1.2.6: absent when there are none
                der.encode(0xA0, der.encode(der.SEQUENCE, extensions)),
            )
        ),
    )


def finish_crl(tbs: bytes, *, issuer_certificate: x509.Certificate, signature: bytes) -> bytes:
    """CertificateList, DER."""
    return assemble(tbs, signature_algorithm(issuer_certificate.public_key()), signature)
