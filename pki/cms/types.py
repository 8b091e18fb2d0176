"""The vocabulary of CMS: algorithms, certificates as a signer or recipient identifier sees them, object identifiers."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from pki.cms.errors import CmsError, CmsProblem
from pki.cms.fields import (
    CONTEXT_0,
    CONTEXT_3,
    Fields,
    dotted,
    elements,
    integer,
    oid,
    only,
    read_integer,
    sequence,
)
from pki.der import INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, Element

DATA = oid("1.2.840.113549.1.7.1")
SIGNED_DATA = oid("1.2.840.113549.1.7.2")
ENVELOPED_DATA = oid("1.2.840.113549.1.7.3")
CONTENT_TYPE = oid("1.2.840.113549.1.9.3")
MESSAGE_DIGEST = oid("1.2.840.113549.1.9.4")
RSA_ENCRYPTION = oid("1.2.840.113549.1.1.1")
MGF1 = oid("1.2.840.113549.1.1.8")
RSASSA_PSS = oid("1.2.840.113549.1.1.10")
AUTHENTICATED_DATA = oid("1.2.840.113549.1.9.16.1.2")
NO_SIGNATURE = oid("1.3.6.1.5.5.7.6.2")  # RFC 5272 Appendix C.1
PKI_DATA = oid("1.3.6.1.5.5.7.12.2")
PKI_RESPONSE = oid("1.3.6.1.5.5.7.12.3")
_SUBJECT_KEY_IDENTIFIER = oid("2.5.29.14")

# Checked before any arithmetic. 1024 lets policy say why it refuses a small key; above 8192 a verification costs milliseconds.
MIN_RSA_BITS = 1024
MAX_RSA_BITS = 8192
MAX_RSA_EXPONENT_BITS = 64


class Digest(enum.Enum):
    """Digest algorithms. MD5 and SHA-1 are read; whether they are accepted is the caller's decision."""

    MD5 = "md5"
    SHA1 = "sha1"
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"

    def of(self, data: bytes) -> bytes:
        return hashlib.new(self.value, data, usedforsecurity=False).digest()

    @property
    def algorithm(self) -> hashes.HashAlgorithm:
        match self:
            case Digest.MD5:
                return hashes.MD5()  # noqa: S303  # legacy messages; refused above this floor unless an endpoint allows it
            case Digest.SHA1:
                return hashes.SHA1()  # noqa: S303  # as MD5
            case Digest.SHA256:
                return hashes.SHA256()
            case Digest.SHA384:
                return hashes.SHA384()
            case Digest.SHA512:
                return hashes.SHA512()


DIGEST_OIDS = {
    Digest.MD5: oid("1.2.840.113549.2.5"),
    Digest.SHA1: oid("1.3.14.3.2.26"),
    Digest.SHA256: oid("2.16.840.1.101.3.4.2.1"),
    Digest.SHA384: oid("2.16.840.1.101.3.4.2.2"),
    Digest.SHA512: oid("2.16.840.1.101.3.4.2.3"),
}
DIGESTS = {identifier: digest for digest, identifier in DIGEST_OIDS.items()}

RSA_SIGNATURES = {
    oid("1.2.840.113549.1.1.4"): Digest.MD5,
    oid("1.2.840.113549.1.1.5"): Digest.SHA1,
    oid("1.2.840.113549.1.1.11"): Digest.SHA256,
    oid("1.2.840.113549.1.1.12"): Digest.SHA384,
    oid("1.2.840.113549.1.1.13"): Digest.SHA512,
}


class Cipher(enum.Enum):
    """Content-encryption algorithms, all in CBC mode with PKCS#7 padding (RFC 5652 §6.3)."""

    AES_128_CBC = "aes-128-cbc"
    AES_192_CBC = "aes-192-cbc"
    AES_256_CBC = "aes-256-cbc"
    DES_EDE3_CBC = "des-ede3-cbc"
    DES_CBC = "des-cbc"

    @property
    def key_length(self) -> int:
        """Octets."""
        return _KEY_LENGTHS[self]

    @property
    def block_length(self) -> int:
        """Octets; also the length of the initialisation vector."""
        return 8 if self in {Cipher.DES_EDE3_CBC, Cipher.DES_CBC} else 16


_KEY_LENGTHS = {
    Cipher.AES_128_CBC: 16,
    Cipher.AES_192_CBC: 24,
    Cipher.AES_256_CBC: 32,
    Cipher.DES_EDE3_CBC: 24,
    Cipher.DES_CBC: 8,
}
CIPHER_OIDS = {
    Cipher.AES_128_CBC: oid("2.16.840.1.101.3.4.1.2"),
    Cipher.AES_192_CBC: oid("2.16.840.1.101.3.4.1.22"),
    Cipher.AES_256_CBC: oid("2.16.840.1.101.3.4.1.42"),
    Cipher.DES_EDE3_CBC: oid("1.2.840.113549.3.7"),
    Cipher.DES_CBC: oid("1.3.14.3.2.7"),
}
CIPHERS = {identifier: cipher for cipher, identifier in CIPHER_OIDS.items()}


@dataclass(frozen=True, slots=True)
class Algorithm:
    """AlgorithmIdentifier: the OID as an element, and the parameters as one ("" where there are none)."""

    oid: bytes
    parameters: bytes

    @property
    def dotted(self) -> str:
        return dotted(self.oid)


def read_algorithm(element: Element) -> Algorithm:
    inside = Fields(element.content, "AlgorithmIdentifier")
    identifier = inside.take(OBJECT_IDENTIFIER).raw
    return Algorithm(identifier, element.content[len(identifier) :])


@dataclass(frozen=True, slots=True)
class CertificateView:
    """What CMS needs of a certificate, read without judging the rest.

    Devices sign their first message with a certificate of their own making: X.509 v1, signed with MD5, serials of 254 bits, a
    critical AKI. Nothing of that matters here: only its key does, and the names by which a message refers to it.
    """

    der: bytes = field(repr=False)
    issuer: bytes  # Name, DER
    serial: int
    subject: bytes  # Name, DER
    spki: bytes = field(repr=False)  # SubjectPublicKeyInfo, DER
    key_identifier: bytes | None  # the subjectKeyIdentifier extension's

    @property
    def issuer_and_serial(self) -> bytes:
        """IssuerAndSerialNumber, DER."""
        return sequence(self.issuer, integer(self.serial))

    def rsa_key(self) -> rsa.RSAPublicKey:
        """Raises CmsError(KEY), which names the type or the size, for what is not an RSA key of a size that we do."""
        return rsa_key(self.spki)


def read_certificate(data: bytes) -> CertificateView:
    """A DER certificate. Raises CmsError(STRUCTURE, ENCODING)."""
    certificate = only(data, SEQUENCE, "Certificate")
    tbs = Fields(Fields(certificate.content, "Certificate").take(SEQUENCE).content, "TBSCertificate")
    tbs.maybe(CONTEXT_0)  # version; absent in v1
    serial = tbs.take(INTEGER)
    tbs.take(SEQUENCE)  # signature algorithm
    issuer = tbs.take(SEQUENCE)
    tbs.take(SEQUENCE)  # validity
    subject = tbs.take(SEQUENCE)
    spki = tbs.take(SEQUENCE)
    tbs.maybe(0x81, 0xA1)  # unique identifiers
    tbs.maybe(0x82, 0xA2)
    extensions = tbs.maybe(CONTEXT_3)
    return CertificateView(
        der=data,
        issuer=issuer.raw,
        serial=read_integer(serial.content),
        subject=subject.raw,
        spki=spki.raw,
        key_identifier=None if extensions is None else _key_identifier(extensions.content),
    )


def _key_identifier(extensions: bytes) -> bytes | None:
    for whole in elements(extensions):
        for extension in elements(whole.content):
            parts = elements(extension.content)
            if len(parts) >= 2 and parts[0].raw == _SUBJECT_KEY_IDENTIFIER:
                return Fields(parts[-1].content, "SubjectKeyIdentifier").take(OCTET_STRING).content
    return None


def rsa_key(spki: bytes) -> rsa.RSAPublicKey:
    """Raises CmsError(KEY)."""
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CmsError(CmsProblem.KEY, "the certificate holds a public key that cannot be read") from error
    if not isinstance(key, rsa.RSAPublicKey):
        kind = type(key).__name__.removesuffix("PublicKey")
        raise CmsError(
            CmsProblem.KEY, f"the certificate's key must be RSA, because the answer is encrypted to it; it is {kind}"
        )
    return checked_rsa_key(key)


def checked_rsa_key(key: rsa.RSAPublicKey) -> rsa.RSAPublicKey:
    """Raises CmsError(KEY) for one of a size that we do not do."""
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise CmsError(
            CmsProblem.KEY, f"the RSA key has {key.key_size} bits; use {MIN_RSA_BITS} to {MAX_RSA_BITS}, best 2048 or 3072"
        )
    if key.public_numbers().e.bit_length() > MAX_RSA_EXPONENT_BITS:
        raise CmsError(CmsProblem.KEY, f"the RSA public exponent is longer than {MAX_RSA_EXPONENT_BITS} bits; use 65537")
    return key
