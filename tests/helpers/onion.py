"""An onion service, as far as ACME meets it: a key, the name that it is, and what it signs."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki import der
from pki.onion import onion_name
from tests.helpers.alpn import encode_oid

CA_SIGNING_NONCE = "2.23.140.41"
APPLICANT_SIGNING_NONCE = "2.23.140.42"


def attribute(oid: str, *values: bytes) -> bytes:
    """An Attribute (RFC 2986 §4.1); each value is DER."""
    return der.encode(der.SEQUENCE, encode_oid(oid) + der.encode(der.SET, b"".join(values)))


def octets(value: bytes) -> bytes:
    return der.encode(der.OCTET_STRING, value)


@dataclass(frozen=True, slots=True)
class OnionService:
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate, repr=False)

    @property
    def name(self) -> str:
        return onion_name(self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def csr(self, nonce: bytes, *, applicant_nonce: bytes = b"applicant") -> bytes:
        """The answer to a challenge."""
        return self.signed(
            attribute(CA_SIGNING_NONCE, octets(nonce)), attribute(APPLICANT_SIGNING_NONCE, octets(applicant_nonce))
        )

    def signed(
        self,
        *attributes: bytes,
        shown: Ed25519PrivateKey | None = None,
        signer: Ed25519PrivateKey | None = None,
        algorithm: str = "1.3.101.112",
    ) -> bytes:
        """A request with these attributes; `shown` is the key that it holds, `signer` the one that signs it."""
        spki = (shown or self.key).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        empty_subject = der.encode(der.SEQUENCE, b"")
        content = der.encode(der.INTEGER, b"\0") + empty_subject + spki + der.encode(0xA0, b"".join(attributes))
        info = der.encode(der.SEQUENCE, content)
        signature = (signer or self.key).sign(info)
        return der.encode(
            der.SEQUENCE,
            info + der.encode(der.SEQUENCE, encode_oid(algorithm)) + der.encode(der.BIT_STRING, b"\0" + signature),
        )
