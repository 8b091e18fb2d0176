"""What a token does with an RSA ciphertext: the bare operation, whose padding we take off (unpadding.py), or all of it.

A token that meets a bad padding makes an error of it, and an error takes longer than none: Bleichenbacher's and Manger's oracle by the
clock. So its own way is only for tokens that do no raw RSA, as some do not in FIPS mode.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

import pkcs11
from pkcs11 import MGF, Mechanism

from pki.cms.transport import KeyTransport
from pki.cms.types import Digest

_OAEP_DIGESTS = {
    Digest.SHA1: (Mechanism.SHA_1, MGF.SHA1),
    Digest.SHA256: (Mechanism.SHA256, MGF.SHA256),
    Digest.SHA384: (Mechanism.SHA384, MGF.SHA384),
    Digest.SHA512: (Mechanism.SHA512, MGF.SHA512),
}


class Unpads(enum.Enum):
    """Who takes the padding off; the first that can."""

    WE = enum.auto()
    THE_TOKEN = enum.auto()


@dataclass(frozen=True, slots=True)
class Modulus:
    """Of an RSA key, and what is decrypted by it."""

    n: int
    size: int  # octets

    @classmethod
    def of(cls, n: int) -> Modulus:
        return cls(n, (n.bit_length() + 7) // 8)

    def takes(self, ciphertext: bytes) -> bool:
        """Whether a token has to do what everybody can see from outside.

        It has not where the length is another, or the number not below the modulus (RFC 8017 §5.1.2, §7.1.2 and §7.2.2 step 1), nor for 0, 1
        and n-1, which are their own plaintexts and refused by some tokens (SP 800-56B §7.1.2.1): no stranger's message makes a token look
        lost.
        """
        return len(ciphertext) == self.size and 1 < int.from_bytes(ciphertext, "big") < self.n - 1


def decrypt_raw(key: pkcs11.DecryptMixin, ciphertext: bytes, modulus: Modulus) -> bytes:
    """The padded block, as long as the modulus. Raises PKCS11Error, never because of what is in the block."""
    block = _octets(key.decrypt(ciphertext, mechanism=Mechanism.RSA_X_509))
    return (bytes(modulus.size) + block)[-modulus.size :]  # some tokens leave zeros in front away


def decrypt_padded(key: pkcs11.DecryptMixin, ciphertext: bytes, transport: KeyTransport) -> bytes:
    """The message. Raises PKCS11Error, for bad padding as well."""
    if transport.oaep is None:
        return _octets(key.decrypt(ciphertext, mechanism=Mechanism.RSA_PKCS))
    digest, mask = transport.oaep
    parameters = (_OAEP_DIGESTS[digest][0], _OAEP_DIGESTS[mask][1], None)
    return _octets(key.decrypt(ciphertext, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=parameters))


def _octets(output: bytes | Iterator[bytes]) -> bytes:
    return output if isinstance(output, bytes) else b"".join(output)
