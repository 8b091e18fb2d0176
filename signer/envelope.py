"""What an issuer key never signs, whatever the rest of the program decided. Pure: bytes in, nothing or `SignerRefused` out.

Law of this file: a TBSCertificate, a TBSCertList and a ResponseData are told apart by their bytes, never by the caller's
word, so that none of them can be signed through the door of another. messages.py does the same for what a CA says over CMS.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtensionOID

from pki import der
from pki.certificate import PublicKey, SignatureAlgorithm, assemble, key_identifier, signature_algorithm
from signer.api import Envelope, SignerRefused
from signer.crl import subject_der
from signer.ocsp import responder_key_hash, wrap_ocsp

_EXPLICIT_0, _EXPLICIT_3 = 0xA0, 0xA3
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_VERSION_3 = b"\x02\x01\x02"
_VERSION_2 = b"\x01"  # of a CRL
_ONE_SECOND = timedelta(seconds=1)
_STATIC_SIGNATURE = bytes(8)

# What a leaf may mark critical. Everything else that is critical is something that this program has no rule for.
_MAY_BE_CRITICAL = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.CERTIFICATE_POLICIES,
    }
)

# What a leaf may have at all. An extension that this program does not write can be a power that it does not know of: Active
# Directory takes the holder of 1.3.6.1.4.1.311.25.2 for the user whose identifier stands in it.
_MAY_STAND = _MAY_BE_CRITICAL | {
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
    ExtensionOID.CRL_DISTRIBUTION_POINTS,
    ExtensionOID.TLS_FEATURE,
}

# Everything that `cryptography` raises for bytes that are not what they should be. DerError is a ValueError.
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def announced_digest(content: bytes, algorithm: SignatureAlgorithm) -> bytes:
    """The messageDigest of an announcement. With Ed25519 it is by SHA-512 (RFC 8419 §3.1)."""
    return hashlib.new("sha512" if algorithm.hash is None else algorithm.hash.name, content).digest()


@dataclass(frozen=True, slots=True)
class Limits:
    """An `Envelope`, read once, in the form that every check uses."""

    issuer: x509.Certificate = field(repr=False)
    public_key: PublicKey = field(repr=False)
    spki: bytes = field(repr=False)
    subject: bytes = field(repr=False)  # Name, DER
    key_identifier: bytes
    responder: bytes  # OCSP KeyHash
    algorithm: SignatureAlgorithm
    not_after: datetime
    max_validity: timedelta
    extended_key_usages: frozenset[str]
    messages: bool
    announcements: frozenset[bytes]  # digests of their contents, by the digest that the key signs with

    @classmethod
    def of(cls, envelope: Envelope) -> Limits:
        """Raises ValueError when the issuer certificate is none, or is not that of a CA."""
        try:
            issuer = x509.load_der_x509_certificate(envelope.issuer_certificate)
            constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
            identifier = key_identifier(issuer)
        except x509.ExtensionNotFound as missing:
            raise ValueError(f"the issuer certificate has no {missing.oid._name}") from None  # noqa: SLF001  # its only name
        except _UNREADABLE:
            raise ValueError("the issuer certificate cannot be read") from None
        if not constraints.ca:
            raise ValueError("the issuer certificate is not that of a CA (basicConstraints)")
        public_key = issuer.public_key()
        if envelope.messages and not isinstance(public_key, rsa.RSAPublicKey):
            raise ValueError("messages are encrypted to RSA keys only, and this issuer has another kind (RFC 8894 §2.1.2)")
        algorithm = signature_algorithm(public_key)
        if not isinstance(public_key, PublicKey):
            raise ValueError("the issuer certificate has a kind of key that no CA of ours may have")  # noqa: TRY004  # of data
        return cls(
            issuer=issuer,
            public_key=public_key,
            spki=spki(public_key),
            subject=subject_der(issuer),
            key_identifier=identifier,
            responder=responder_key_hash(issuer),
            algorithm=algorithm,
            not_after=issuer.not_valid_after_utc,
            max_validity=envelope.max_validity,
            extended_key_usages=envelope.extended_key_usages,
            messages=envelope.messages,
            announcements=frozenset(announced_digest(content, algorithm) for content in envelope.announcements),
        )

    def check_certificate(self, tbs: bytes) -> None:
        """A leaf inside the envelope, or SignerRefused, which names the rule."""
        try:
            version, serial, algorithm, issuer, _, _, subject_key, _ = der.take(
                der.whole(tbs, der.SEQUENCE).content,
                _EXPLICIT_0,
                der.INTEGER,
                *(der.SEQUENCE,) * 5,
                _EXPLICIT_3,
            )
        except der.DerError as error:
            raise SignerRefused(f"not a TBSCertificate of version 3 with extensions: {error}") from None
        _require(version.content == _VERSION_3, "the version is not 3")
        number = int.from_bytes(serial.content, "big", signed=True)
        _require(1 << 63 <= number < 1 << 159, "the serial number is not positive with 64 to 159 bits")
        _require(algorithm.raw == self.algorithm.der, "the signature algorithm is not the one of this key")
        _require(issuer.raw == self.subject, "the issuer name is not the subject of the issuer certificate, byte for byte")
        _require(subject_key.raw != self.spki, "the certified key is the issuer's own")
        try:
            certificate = x509.load_der_x509_certificate(assemble(tbs, self.algorithm, _STATIC_SIGNATURE))
            begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            extensions = {found.oid: found for found in certificate.extensions}
        except _UNREADABLE:
            raise SignerRefused("not a TBSCertificate that can be read") from None
        self._check_validity(begin, end)
        self._check_extensions(extensions)

    def _check_validity(self, begin: datetime, end: datetime) -> None:
        _require(begin <= end, "notAfter is before notBefore")
        # Both ends are inclusive (RFC 5280 §4.1.2.5).
        _require(end - begin + _ONE_SECOND <= self.max_validity, f"the validity is longer than {self.max_validity}")
        _require(end <= self.not_after, "notAfter is later than that of the issuer certificate")

    def _check_extensions(self, extensions: dict[x509.ObjectIdentifier, x509.Extension[x509.ExtensionType]]) -> None:
        usages: frozenset[str] = frozenset()
        authority: bytes | None = None
        for oid, found in extensions.items():
            if found.critical and oid not in _MAY_BE_CRITICAL:
                raise SignerRefused(f"the extension {oid.dotted_string} is critical")
            if oid not in _MAY_STAND:
                raise SignerRefused(f"the extension {oid.dotted_string} is none that a leaf may have")
            match found.value:
                case x509.SubjectAlternativeName() as names:
                    known = all(isinstance(name, x509.DNSName | x509.IPAddress) for name in names)
                    _require(known, "a subject alternative name is neither a DNS name nor an IP address")
                case x509.BasicConstraints(ca=is_ca):
                    _require(not is_ca, "basicConstraints says CA")
                case x509.KeyUsage(key_cert_sign=certificates, crl_sign=lists):
                    _require(not certificates and not lists, "keyUsage has keyCertSign or cRLSign")
                case x509.ExtendedKeyUsage() as purposes:
                    usages = frozenset(purpose.dotted_string for purpose in purposes)
                case x509.AuthorityKeyIdentifier(key_identifier=identifier):
                    authority = identifier
                case _:
                    pass  # nothing that gives the leaf any power
        _require(bool(usages), "there is no extended key usage")
        if excess := usages - self.extended_key_usages:
            raise SignerRefused(f"the extended key usage {min(excess)} is not allowed to this issuer")
        _require(authority == self.key_identifier, "the authority key identifier is not the issuer's subject key identifier")

    def check_crl(self, tbs: bytes) -> None:
        """A complete CRL of this issuer, version 2, with a number, or SignerRefused."""
        try:
            outer = der.whole(tbs, der.SEQUENCE)
            fields = []
            at = 0
            for tag in (der.INTEGER, der.SEQUENCE, der.SEQUENCE):
                found, at = der.read(outer.content, at)
                fields.append(der.expect(found, tag))
            this_update, _ = der.read(outer.content, at)
        except der.DerError as error:
            raise SignerRefused(f"not a TBSCertList: {error}") from None
        version, algorithm, issuer = fields
        _require(this_update.tag in {_UTC_TIME, _GENERALIZED_TIME}, "not a TBSCertList: thisUpdate is no time")
        _require(version.content == _VERSION_2, "the version is not 2")
        _require(algorithm.raw == self.algorithm.der, "the signature algorithm is not the one of this key")
        _require(issuer.raw == self.subject, "the issuer name is not the subject of the issuer certificate, byte for byte")
        try:
            crl = x509.load_der_x509_crl(assemble(tbs, self.algorithm, _STATIC_SIGNATURE))
            begin, end = crl.last_update_utc, crl.next_update_utc
            extensions = {found.oid: found for found in crl.extensions}
        except _UNREADABLE:
            raise SignerRefused("not a TBSCertList that can be read") from None
        if end is None or end <= begin:
            raise SignerRefused("nextUpdate is missing or not after thisUpdate")
        for oid, found in extensions.items():
            if found.critical and oid != ExtensionOID.ISSUING_DISTRIBUTION_POINT:
                raise SignerRefused(f"the extension {oid.dotted_string} is critical")
        _require(ExtensionOID.CRL_NUMBER in extensions, "there is no CRL number")
        match extensions.get(ExtensionOID.AUTHORITY_KEY_IDENTIFIER):
            case x509.Extension(value=x509.AuthorityKeyIdentifier(key_identifier=self.key_identifier)):
                pass
            case _:
                raise SignerRefused("the authority key identifier is not the issuer's subject key identifier")

    def check_ocsp(self, tbs: bytes) -> None:
        """ResponseData about one certificate with this key as the responder, or SignerRefused."""
        try:
            first, _ = der.read(der.whole(tbs, der.SEQUENCE).content)
            # ResponderID byKey; the default version is absent in DER. No certificate and no CRL begins like this.
            der.expect(first, 0xA2)
            response = ocsp.load_der_ocsp_response(wrap_ocsp(tbs, self.algorithm, _STATIC_SIGNATURE))
            responder = response.responder_key_hash
            begin, end, _ = response.this_update_utc, response.next_update_utc, response.produced_at_utc
            extensions = [*response.extensions, *response.single_extensions]
            _ = response.certificate_status, response.revocation_time_utc, response.revocation_reason
        except _UNREADABLE:
            raise SignerRefused("not an OCSP ResponseData about one certificate") from None
        _require(responder == self.responder, "the responder is not this key")
        _require(end is None or end > begin, "nextUpdate is not after thisUpdate")
        _require(not any(found.critical for found in extensions), "an extension is critical")


def spki(public_key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _require(condition: bool, otherwise: str) -> None:  # noqa: FBT001  # reads as a sentence where it is used
    if not condition:
        raise SignerRefused(otherwise)
