"""Keys for clients that cannot make good ones (RFC 7030 §4.4).

Law of this file: a key lives from `like` to the response that carries it. It goes into no log, no database and no error.
"""

from __future__ import annotations

import asyncio
import threading

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pki.certificate import PublicKey, assemble, signature_algorithm
from pki.cms.fields import integer, oid, sequence, tlv
from pki.csr import EXTENSION_REQUEST, Csr, parse_csr
from pki.reasons import Reason, Rejection
from policy.keys import CURVES

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

RSA_SIZES = (2048, 3072, 4096)
AT_ONCE = 2  # RSA keys; one costs up to a second of a core
BUSY = 2  # seconds
_ATTRIBUTES = 0xA0


class KeyMaker:
    """RSA keys are made in threads, few at a time: whoever comes meanwhile is told to come back, and nobody else notices."""

    def __init__(self, *, at_once: int = AT_ONCE) -> None:
        self._free = threading.BoundedSemaphore(at_once)

    async def like(self, key: PublicKey) -> PrivateKey:
        """A new key of the kind and size of `key`. Raises Rejection: BAD_PUBLIC_KEY, INTERRUPTED (too many at once)."""
        match key:
            case rsa.RSAPublicKey() if key.key_size in RSA_SIZES:
                return await self._rsa(key.key_size)
            case ec.EllipticCurvePublicKey() if key.curve.name in CURVES:
                return ec.generate_private_key(key.curve)
            case ed25519.Ed25519PublicKey():
                return ed25519.Ed25519PrivateKey.generate()
            case _:
                raise Rejection(
                    Reason.BAD_PUBLIC_KEY,
                    "keys like the one in this request are not made here",
                    suggestions=[f"use one of EC P-256, P-384 or P-521, Ed25519, RSA {', '.join(map(str, RSA_SIZES))}"],
                )

    async def _rsa(self, bits: int) -> rsa.RSAPrivateKey:
        if not self._free.acquire(blocking=False):
            raise Rejection(
                Reason.INTERRUPTED, "this server makes as many RSA keys as it can right now; ask again", retry_after=BUSY
            )
        # Shielded: a thread cannot be stopped, and it has to give its place back itself.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._made, bits))

    def _made(self, bits: int) -> rsa.RSAPrivateKey:
        try:
            return rsa.generate_private_key(65537, bits)
        finally:
            self._free.release()


def request_for(asked: Csr, key: PrivateKey) -> Csr:
    """What the client asked for, with our key in the place of its own and proved by it: subject and extensions, as they were sent."""
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    extensions = asked.attributes.get(EXTENSION_REQUEST)
    attributes = [] if extensions is None else [sequence(oid(EXTENSION_REQUEST), extensions)]
    info = sequence(integer(0), asked.subject, spki, tlv(_ATTRIBUTES, *attributes))
    return parse_csr(assemble(info, signature_algorithm(key.public_key()), _signature(key, info)))


def _signature(key: PrivateKey, info: bytes) -> bytes:
    digest = signature_algorithm(key.public_key()).hash
    match key:
        case ed25519.Ed25519PrivateKey():
            return key.sign(info)
        case rsa.RSAPrivateKey() if digest is not None:
            return key.sign(info, padding.PKCS1v15(), digest)
        case ec.EllipticCurvePrivateKey() if digest is not None:
            return key.sign(info, ec.ECDSA(digest))
        case _:
            raise AssertionError("an algorithm without a digest that needs one")


def pkcs8(key: PrivateKey) -> bytes:
    """OneAsymmetricKey (RFC 5958 §2), DER, in the clear."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
