"""What the signer can be asked, and what it refuses. The one interface of the floor; client.py speaks it over a socket.

Requests name a key; what a key may do is in its envelope, which the signer reads from its own configuration and which no
caller can widen. Every method may raise `pki.reasons.Unavailable` (signer or token away) and `SignerRefused`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from pki.cms.transport import KeyTransport


class KeyUse(enum.Enum):
    """What one key is for. A key has one use; the operations of the others are refused to it."""

    ISSUER = "issuer"  # certificates, CRLs, OCSP responses
    RA = "ra"  # SCEP: sign CertRep, decrypt pkcsPKIEnvelope


class Hash(enum.Enum):
    """Digests that an RA signature may use. SHA-1 and MD5 only ever mirror what a legacy SCEP client sent."""

    MD5 = "md5"
    SHA1 = "sha1"
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"


@dataclass(frozen=True, slots=True)
class Envelope:
    """The hard limits of an issuer key, checked by the signer on the bytes that it signs, whatever the pipeline decided.

    A leaf: CA=false, no keyCertSign or cRLSign, lifetime <= max_validity, EKUs within `extended_key_usages` (dotted OIDs,
    at least one), issuer name and AKI byte-equal to the issuer certificate's, version 3, serial of 64 bits or more, no
    extensions but those that profiles can give, no alternative names but DNS names and IP addresses.

    Beyond that, only where it is said here: `messages` has the key sign SCEP's answers and decrypt its requests, where the CA has no
    registration authority (RFC 8894 §2.1.2); `announcements` are the contents, DER, that it signs to say which CA follows (§4.7): these
    and no others, for clients trust that CA. All of them are told from certificates, CRLs and OCSP answers by their bytes.
    """

    issuer_certificate: bytes  # DER
    max_validity: timedelta
    extended_key_usages: frozenset[str]
    messages: bool = False
    announcements: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class SoftwareKey:
    """PKCS#8 PEM, encrypted; the passphrase is read from a file that only the signer's user may read."""

    file: Path
    passphrase_file: Path | None


@dataclass(frozen=True, slots=True)
class Pkcs11Key:
    """A private key object in a token, found by label (CKA_LABEL)."""

    module: Path
    token: str
    label: str
    pin_file: Path


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """One key that the signer serves."""

    name: str
    use: KeyUse
    source: SoftwareKey | Pkcs11Key
    envelope: Envelope | None  # present exactly for KeyUse.ISSUER


class SignerRefused(Exception):
    """The request is outside the key's envelope or makes no sense to the signer. A bug or an attack, never a client's error."""


class TransportUnavailable(Exception):
    """The token that has the key does not do this kind of decryption, whatever the ciphertext. Safe to show; says what to use."""


class Signer(Protocol):
    """Everything that needs a private key of the CA. `key` is a KeyConfig.name."""

    async def public_key(self, key: str) -> bytes:
        """SubjectPublicKeyInfo, DER."""

    async def sign_certificate(self, key: str, tbs: bytes) -> bytes:
        """Signature over a TBSCertificate, by the algorithm that it names; the value of the BIT STRING."""

    async def sign_crl(self, key: str, tbs: bytes) -> bytes:
        """Signature over a TBSCertList."""

    async def sign_ocsp(self, key: str, tbs: bytes) -> bytes:
        """Signature over an OCSP ResponseData, with the key's default algorithm (see pki.certificate.SIGNATURE_ALGORITHMS)."""

    async def sign_announcement(self, key: str, attributes: bytes) -> bytes:
        """Signature over the signed attributes (SET OF, DER) of a message that has contentType pkcs7-data and nothing to say but its
        content: the CA that follows (RFC 8894 §4.7). With the key's default algorithm.
        """

    async def ra_sign(self, key: str, data: bytes, digest: Hash) -> bytes:
        """RSASSA-PKCS1-v1_5 over `data` (CMS signedAttrs as SET OF)."""

    async def ra_decrypt(self, key: str, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        """Decryption of a content-encryption key of `length` bytes. Raises TransportUnavailable.

        Bad padding is no error: random bytes of that length come back (implicit rejection, RFC 3218 §2.3.2), for software
        keys and tokens, RSAES-PKCS1-v1_5 and RSAES-OAEP alike, so that nobody can learn from us which ciphertexts are well formed.
        """

    async def ping(self) -> None:
        """Cheap round trip; raises Unavailable when the signer or one of its tokens is away."""

    async def close(self) -> None: ...
