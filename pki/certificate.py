"""Certificates, CRLs and OCSP answers as bytes: to be signed, signed, verified.

The private key is elsewhere (signer/), so a certificate is made in three moves: build it with a key that signs nothing
(`static_key`), take its to-be-signed bytes, and `assemble` them with the signature that the signer gives. Nothing that was
linted can change on the way, for the bytes are the same bytes.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from pki import der

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
StaticKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_SHA256_WITH_RSA = "1.2.840.113549.1.1.11"
_ED25519 = "1.3.101.112"


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """How one of our keys signs. `der` is the AlgorithmIdentifier, byte for byte; `hash` is None where it has its own."""

    oid: str
    der: bytes
    hash: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None


def _oid_der(dotted: str) -> bytes:
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    content = bytearray()
    for arc in (40 * first + second, *rest):
        octets = [arc & 0x7F]
        while arc := arc >> 7:
            octets.append(arc & 0x7F | 0x80)
        content += bytes(reversed(octets))
    return der.encode(der.OBJECT_IDENTIFIER, bytes(content))


def _algorithm(oid: str, digest: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None, *, null: bool) -> SignatureAlgorithm:
    # RSA identifiers carry NULL parameters (RFC 4055 §5), the others none (RFC 5758 §3.2, RFC 8410 §3).
    return SignatureAlgorithm(oid, der.encode(der.SEQUENCE, _oid_der(oid) + (b"\x05\x00" if null else b"")), digest)


def signature_algorithm(public_key: object) -> SignatureAlgorithm:
    """The one algorithm that we sign with under this key. Raises ValueError for a key that no CA of ours may have."""
    match public_key:
        case rsa.RSAPublicKey():
            return _algorithm(_SHA256_WITH_RSA, hashes.SHA256(), null=True)
        case ec.EllipticCurvePublicKey():
            match public_key.curve.name:  # the digest fits the curve (BR 7.1.3.2.2)
                case "secp256r1":
                    return _algorithm("1.2.840.10045.4.3.2", hashes.SHA256(), null=False)
                case "secp384r1":
                    return _algorithm("1.2.840.10045.4.3.3", hashes.SHA384(), null=False)
                case "secp521r1":
                    return _algorithm("1.2.840.10045.4.3.4", hashes.SHA512(), null=False)
                case other:
                    raise ValueError(f"no CA key on curve {other}")
        case ed25519.Ed25519PublicKey():
            return _algorithm(_ED25519, None, null=False)
        case _:
            raise ValueError(f"no CA key of type {type(public_key).__name__}")


def assemble(tbs: bytes, algorithm: SignatureAlgorithm, signature: bytes) -> bytes:
    """SIGNED{tbs} (RFC 5280 §4.1): the DER of a certificate or CRL."""
    return der.encode(der.SEQUENCE, tbs + algorithm.der + der.encode(der.BIT_STRING, b"\0" + signature))


def verify_signature(public_key: object, algorithm: SignatureAlgorithm, signature: bytes, data: bytes) -> bool:
    """True when `signature` over `data` is the key's."""
    try:
        match public_key:
            case rsa.RSAPublicKey() if algorithm.hash is not None:
                public_key.verify(signature, data, padding.PKCS1v15(), algorithm.hash)
            case ec.EllipticCurvePublicKey() if algorithm.hash is not None:
                public_key.verify(signature, data, ec.ECDSA(algorithm.hash))
            case ed25519.Ed25519PublicKey():
                public_key.verify(signature, data)
            case _:
                return False
    except InvalidSignature:
        return False
    return True


def tbs_of(certificate_der: bytes) -> bytes:
    """The to-be-signed bytes of a certificate, CRL or CSR, as they stand."""
    return next(der.children(der.whole(certificate_der, der.SEQUENCE).content)).raw


# ---------------------------------------------------------------- keys that sign nothing


def _no_private_key(*_arguments: object, **_keywords: object) -> NoReturn:
    raise NotImplementedError("a static key has no private part")


class _StaticEcKey(ec.EllipticCurvePrivateKey):
    """Takes the place of an EC key where a builder wants one; its signature is a constant."""

    def __init__(self, public_key: ec.EllipticCurvePublicKey) -> None:
        self._public_key = public_key

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        return self._public_key.key_size

    def sign(self, data: Any, signature_algorithm: Any) -> bytes:
        return b"\x30\x06\x02\x01\x01\x02\x01\x01"  # r = s = 1

    def __copy__(self) -> _StaticEcKey:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> _StaticEcKey:
        return self

    exchange = _no_private_key
    private_numbers = _no_private_key
    private_bytes = _no_private_key


class _StaticRsaKey(rsa.RSAPrivateKey):
    """Takes the place of an RSA key where a builder wants one; its signature is a constant."""

    def __init__(self, public_key: rsa.RSAPublicKey) -> None:
        self._public_key = public_key

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public_key

    @property
    def key_size(self) -> int:
        return self._public_key.key_size

    def sign(self, data: Any, padding: Any, algorithm: Any) -> bytes:
        return bytes(self.key_size // 8)

    def __copy__(self) -> _StaticRsaKey:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> _StaticRsaKey:
        return self

    decrypt = _no_private_key
    private_numbers = _no_private_key
    private_bytes = _no_private_key


class _StaticEd25519Key(ed25519.Ed25519PrivateKey):
    """Takes the place of an Ed25519 key where a builder wants one; its signature is a constant."""

    def __init__(self, public_key: ed25519.Ed25519PublicKey) -> None:
        self._public_key = public_key

    def public_key(self) -> ed25519.Ed25519PublicKey:
        return self._public_key

    def sign(self, data: Any) -> bytes:
        return bytes(64)

    def __copy__(self) -> _StaticEd25519Key:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> _StaticEd25519Key:
        return self

    private_bytes = _no_private_key
    private_bytes_raw = _no_private_key


def static_key(public_key: object) -> StaticKey:
    """A private key without a private part, for builders that insist on one (BR 4.3.1.2: a static signature will do)."""
    match public_key:
        case ec.EllipticCurvePublicKey():
            return _StaticEcKey(public_key)
        case rsa.RSAPublicKey():
            return _StaticRsaKey(public_key)
        case ed25519.Ed25519PublicKey():
            return _StaticEd25519Key(public_key)
        case _:
            raise ValueError(f"no CA key of type {type(public_key).__name__}")


def pem(der: bytes, label: str = "CERTIFICATE") -> str:
    """One PEM block, 64 columns, with a newline at its end (RFC 7468 §5)."""
    body = base64.b64encode(der).decode("ascii")
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"


def key_identifier(certificate: x509.Certificate) -> bytes:
    """The issuer's own SKI: what goes into AKIs below it, copied and never computed again."""
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
