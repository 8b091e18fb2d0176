"""Account keys: public JWKs (RFC 7517, 7518, 8037) of the kinds that we take, their thumbprints and signatures. Pure.

josepy is the oracle of the tests, not a part of the path: it takes padded and non-canonical values, knows no EdDSA, and
costs 38 µs more for each request than calling `cryptography` with a key that was parsed once.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, assert_never

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from acmeserver.problems import Problem, ProblemType
from pki.strict import base64url, from_base64url, parse_json

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class Algorithm(enum.Enum):
    """The `alg` values that we take (RFC 8555 §6.2: no MAC, no `none`). Each key has exactly one that fits."""

    ES256 = "ES256"
    ES384 = "ES384"
    ES512 = "ES512"
    RS256 = "RS256"
    EDDSA = "EdDSA"


ALGORITHMS = tuple(algorithm.value for algorithm in Algorithm)

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 4096
MIN_RSA_EXPONENT = 65537
MAX_RSA_EXPONENT_OCTETS = 4

# RFC 7518 §6.2.2, §6.3.2, §6.4.1; RFC 8037 §2. A client that shows one of these has a key that is no secret any more.
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@dataclass(frozen=True, slots=True)
class _Curve:
    curve: ec.EllipticCurve
    octets: int  # of a coordinate, and of R and S
    algorithm: Algorithm
    digest: hashes.HashAlgorithm


_CURVES: Mapping[str, _Curve] = MappingProxyType(
    {
        "P-256": _Curve(ec.SECP256R1(), 32, Algorithm.ES256, hashes.SHA256()),
        "P-384": _Curve(ec.SECP384R1(), 48, Algorithm.ES384, hashes.SHA384()),
        "P-521": _Curve(ec.SECP521R1(), 66, Algorithm.ES512, hashes.SHA512()),
    }
)
_BY_SIZE: Mapping[int, _Curve] = MappingProxyType({curve.curve.key_size: curve for curve in _CURVES.values()})


@dataclass(frozen=True, slots=True)
class Jwk:
    """A public key. Equal exactly when the thumbprints are."""

    thumbprint: str  # RFC 7638 with SHA-256, base64url
    text: str = field(compare=False, repr=False)  # canonical JSON of the required members
    algorithm: Algorithm = field(compare=False)
    key: PublicKey = field(compare=False, repr=False)


def parse_jwk(value: Any, *, algorithm: Algorithm | None = None) -> Jwk:
    """A `jwk` header member to a key; `algorithm` is the header's, which the JWK's own `alg` must not contradict.

    Raises Problem: badPublicKey, badSignatureAlgorithm.
    """
    if not isinstance(value, dict):
        raise _bad("the JWK is not an object")
    if _PRIVATE_MEMBERS & value.keys():
        raise _bad("the JWK holds private or symmetric key material; this key must not be used any more")
    match value.get("kty"):
        case "EC":
            jwk = _parse_ec(value)
        case "RSA":
            jwk = _parse_rsa(value)
        case "OKP":
            jwk = _parse_okp(value)
        case _:
            raise _bad("the JWK's kty is none of EC, RSA, OKP")
    if algorithm is not None and "alg" in value and value["alg"] != algorithm.value:
        raise bad_algorithm("the JWK's alg and the header's alg differ")
    return jwk


def load_jwk(text: str) -> Jwk:
    """A key that `parse_jwk` has accepted earlier, from its canonical text."""
    return parse_jwk(parse_json(text.encode("utf-8")))


def verify(jwk: Jwk, algorithm: Algorithm, signature: bytes, signed: bytes) -> None:
    """Raises Problem: badSignatureAlgorithm when `algorithm` is not the key's, malformed when the signature is not by it."""
    if algorithm is not jwk.algorithm:
        raise bad_algorithm(f"a signature by this key has alg {jwk.algorithm.value}, not {algorithm.value}")
    key = jwk.key
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                _verify_ec(key, signature, signed)
            case rsa.RSAPublicKey():
                key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
            case ed25519.Ed25519PublicKey():
                key.verify(signature, signed)
            case _:
                assert_never(key)
    except InvalidSignature as error:
        raise Problem(ProblemType.MALFORMED, "the JWS's signature is not by this key") from error


def _verify_ec(key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> None:
    """R and S side by side (RFC 7518 §3.4). macOS drops leading zero octets of either, so the lost ones are put back."""
    curve = _BY_SIZE[key.curve.key_size]
    lost = 2 * curve.octets - len(signature)
    if not 0 <= lost <= 2:
        raise InvalidSignature
    for lost_of_r in range(lost + 1):
        split = curve.octets - lost_of_r
        r, s = int.from_bytes(signature[:split], "big"), int.from_bytes(signature[split:], "big")
        try:
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(curve.digest))
        except InvalidSignature:
            continue
        return
    raise InvalidSignature


def _parse_ec(value: Mapping[str, Any]) -> Jwk:
    crv = value.get("crv")
    curve = _CURVES.get(crv) if isinstance(crv, str) else None
    if crv is None or curve is None:
        raise _bad("the JWK's crv is none of P-256, P-384, P-521")
    x, y = (_octets(value, name, length=curve.octets) for name in ("x", "y"))
    numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve.curve)
    try:
        key = numbers.public_key()
    except ValueError as error:
        raise _bad("the JWK's x and y are no point of its curve") from error
    return _jwk({"crv": crv, "kty": "EC", "x": base64url(x), "y": base64url(y)}, curve.algorithm, key)


def _parse_rsa(value: Mapping[str, Any]) -> Jwk:
    n, e = _octets(value, "n"), _octets(value, "e")
    if n[:1] == b"\0" or e[:1] == b"\0":
        raise _bad("the JWK's n or e begins with a zero octet (RFC 7518 §2, Base64urlUInt)")
    modulus, exponent = int.from_bytes(n, "big"), int.from_bytes(e, "big")
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
        raise _bad(f"an RSA account key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    if exponent < MIN_RSA_EXPONENT or exponent % 2 == 0 or len(e) > MAX_RSA_EXPONENT_OCTETS:
        raise _bad("an RSA account key has an odd exponent of 65537 or more, in four octets")
    if modulus % 2 == 0:
        raise _bad("the JWK's n is even")
    try:
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as error:
        raise _bad("the JWK's n and e are no RSA key") from error
    return _jwk({"e": base64url(e), "kty": "RSA", "n": base64url(n)}, Algorithm.RS256, key)


def _parse_okp(value: Mapping[str, Any]) -> Jwk:
    if value.get("crv") != "Ed25519":
        raise _bad("the JWK's crv is not Ed25519")
    x = _octets(value, "x", length=32)
    key = ed25519.Ed25519PublicKey.from_public_bytes(x)
    return _jwk({"crv": "Ed25519", "kty": "OKP", "x": base64url(x)}, Algorithm.EDDSA, key)


def _jwk(required: Mapping[str, str], algorithm: Algorithm, key: PublicKey) -> Jwk:
    """`required` in the order of RFC 7638 §3.2."""
    text = orjson.dumps(required)
    return Jwk(base64url(hashlib.sha256(text).digest()), text.decode("ascii"), algorithm, key)


def _octets(value: Mapping[str, Any], name: str, *, length: int | None = None) -> bytes:
    text = value.get(name)
    if not isinstance(text, str):
        raise _bad(f"the JWK has no {name}")
    try:
        data = from_base64url(text)
    except ValueError as error:
        raise _bad(f"the JWK's {name} is not base64url") from error
    if not data or (length is not None and len(data) != length):
        raise _bad(f"the JWK's {name} has the wrong length")
    return data


def bad_algorithm(detail: str) -> Problem:
    return Problem(ProblemType.BAD_SIGNATURE_ALGORITHM, detail, algorithms=ALGORITHMS)


def _bad(detail: str) -> Problem:
    return Problem(ProblemType.BAD_PUBLIC_KEY, detail)
