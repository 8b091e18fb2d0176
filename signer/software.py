"""Keys in files: PKCS#8, encrypted at rest, in the signer's memory while it runs."""

from __future__ import annotations

import asyncio
import enum
from concurrent.futures import Executor
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from pki.certificate import PublicKey
from pki.cms.transport import KeyTransport
from signer.api import SignerRefused
from signer.backend import REJECTION_LABEL, rejection_secret, substitute
from signer.configuration import ConfigurationError
from signer.secretfile import read_secret

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_LONG = 256 * 1024  # octets; hashing more than this would hold up the loop


class KeyKind(enum.Enum):
    """The kinds of key that `certwright init` makes."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    EC_P521 = "ec-p521"
    ED25519 = "ed25519"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"


def generate_key(kind: KeyKind) -> PrivateKey:
    """A new key from the machine's own randomness."""
    match kind:
        case KeyKind.EC_P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyKind.EC_P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyKind.EC_P521:
            return ec.generate_private_key(ec.SECP521R1())
        case KeyKind.ED25519:
            return ed25519.Ed25519PrivateKey.generate()
        case KeyKind.RSA_2048 | KeyKind.RSA_3072 | KeyKind.RSA_4096:
            return rsa.generate_private_key(public_exponent=65537, key_size=int(kind.value.removeprefix("rsa-")))


def encrypt_key(key: PrivateKey, passphrase: bytes) -> bytes:
    """PKCS#8, PBES2, PEM. Write it with mode 0600."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.BestAvailableEncryption(passphrase))


def load_key(path: Path, passphrase: bytes | None) -> PrivateKey:
    """Raises ConfigurationError: which file, what is wrong with it, what to do."""
    pem = read_secret(path)
    try:
        key = serialization.load_pem_private_key(pem, passphrase)
    except TypeError:  # cryptography's way to say that a passphrase is missing, or not needed
        wanted = "needs a passphrase_file" if passphrase is None else "is not encrypted; give no passphrase_file, or encrypt it"
        raise ConfigurationError(f"{path}: {wanted}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{path}: is not a PKCS#8 private key in PEM, or the passphrase is not its own") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise ConfigurationError(f"{path}: is a kind of key that the signer has no use for; RSA, EC and Ed25519 are")
    return key


class SoftwareBackend:
    """One key in memory. EC signs in the loop's own thread (20 µs, and threads make it slower), RSA in the executor."""

    def __init__(self, *, key: PrivateKey, executor: Executor) -> None:
        self._key = key
        self._public_key = key.public_key()
        self._executor = executor
        self._secret = rejection_secret(_sign(key, REJECTION_LABEL, hashes.SHA256())) if _is_rsa(key) else b""

    def __repr__(self) -> str:
        return f"SoftwareBackend({type(self._public_key).__name__})"

    async def public_key(self) -> PublicKey:
        return self._public_key

    async def sign(self, data: bytes, digest: hashes.HashAlgorithm | None) -> bytes:
        if _is_rsa(self._key) or len(data) > _LONG:
            return await asyncio.get_running_loop().run_in_executor(self._executor, _sign, self._key, data, digest)
        return _sign(self._key, data, digest)

    async def decrypt(self, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._decrypt, ciphertext, length, transport)

    def _decrypt(self, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        if not isinstance(self._key, rsa.RSAPrivateKey):
            raise SignerRefused("only RSA keys decrypt")
        otherwise = substitute(self._secret, ciphertext, length, transport)
        try:
            # OpenSSL rejects bad PKCS #1 padding implicitly, with random bytes of random length: the length is settled here.
            plain = self._key.decrypt(ciphertext, transport.padding)
        except ValueError:
            # Not as long as the modulus, or not below it: anybody can see that from outside. Or what is inside is no OAEP, for
            # whatever reason, all of them found out in the same time (RFC 8017 §7.1.2 is about Manger).
            return otherwise
        return plain if len(plain) == length else otherwise

    async def check(self) -> None:
        """Memory does not go away."""


def _is_rsa(key: PrivateKey) -> bool:
    return isinstance(key, rsa.RSAPrivateKey)


def _sign(key: PrivateKey, data: bytes, digest: hashes.HashAlgorithm | None) -> bytes:
    match key:
        case rsa.RSAPrivateKey() if digest is not None:
            return key.sign(data, padding.PKCS1v15(), digest)
        case ec.EllipticCurvePrivateKey() if digest is not None:
            return key.sign(data, ec.ECDSA(digest))
        case ed25519.Ed25519PrivateKey() if digest is None:
            return key.sign(data)
        case _:
            raise SignerRefused("this key does not sign with that digest")
