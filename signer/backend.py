"""What a kind of key storage must offer: one interface, met by `software` and `pkcs11`."""

from __future__ import annotations

import hashlib
import hmac
from typing import Protocol

from cryptography.hazmat.primitives import hashes

from pki.certificate import PublicKey
from pki.cms.transport import KeyTransport

# Signed once by each RA key when it is opened; RSASSA-PKCS1-v1_5 is deterministic, so the digest of the signature is a
# secret that only the key's holder knows and that is the same on every node and after every restart.
REJECTION_LABEL = b"certwright: implicit rejection of RSAES-PKCS1-v1_5 ciphertexts"


class KeyBackend(Protocol):
    """One private key. Every method may raise `pki.reasons.Unavailable`."""

    async def public_key(self) -> PublicKey: ...

    async def sign(self, data: bytes, digest: hashes.HashAlgorithm | None) -> bytes:
        """ECDSA (DER), RSASSA-PKCS1-v1_5 or Ed25519, by the kind of the key; `digest` is None for Ed25519 alone."""

    async def decrypt(self, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        """With implicit rejection: `length` octets come back whatever the ciphertext is. Raises TransportUnavailable."""

    async def check(self) -> None:
        """Raises Unavailable when the key cannot be used right now."""


def rejection_secret(signature: bytes) -> bytes:
    """From the key's signature over REJECTION_LABEL."""
    return hashlib.sha256(signature).digest()


def substitute(secret: bytes, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
    """What a bad ciphertext decrypts to: pseudo-random, and the same whenever the same is asked again.

    Fresh random bytes would tell on repetition: garbage under a changing key sometimes ends in good-looking block padding,
    under a constant one it always does or never does, as with a real key. Asked for another length or as another padding, the
    same ciphertext gives other bytes: what a good one decrypts to would stand out among answers that fit each other.
    """
    asked = f"{transport.value} {length} ".encode("ascii") + ciphertext
    shake = hashlib.shake_256(hmac.digest(secret, asked, "sha256"))
    return shake.digest(length)
