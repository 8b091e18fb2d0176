"""Which public keys may go into a certificate or be an account's (BR 6.1.1.3, 6.1.5, 6.1.6).

Law of this file: what is checked here needs no list but a short one and no time to speak of (a millisecond for RSA). Longer lists
are rows of `blocked_key`, which guard the write that uses a key.
"""

from __future__ import annotations

import functools
import hashlib
import math

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki.certificate import PublicKey
from pki.plan import KeyUsageBit
from pki.reasons import Reason, Rejection
from policy.known_keys import KNOWN_KEYS

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
MIN_EXPONENT = 65537
CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
FERMAT_ROUNDS = 110  # BR 6.1.1.3 asks for 100
_SMALL_MODULUS = 5040
_SMALL_SQUARES = frozenset(number * number % _SMALL_MODULUS for number in range(_SMALL_MODULUS))  # one number in 26 is there

# What a key of each kind can be used for (RFC 8813 §3 for EC, RFC 8410 §5 for Ed25519; BR 7.1.2.7.11: EC keys
# never encipher keys). Profiles name what they want; a certificate says what its key can do of that.
_RSA_USAGE = frozenset(
    {
        KeyUsageBit.DIGITAL_SIGNATURE,
        KeyUsageBit.CONTENT_COMMITMENT,
        KeyUsageBit.KEY_ENCIPHERMENT,
        KeyUsageBit.DATA_ENCIPHERMENT,
    }
)
_SIGNING_USAGE = frozenset({KeyUsageBit.DIGITAL_SIGNATURE, KeyUsageBit.CONTENT_COMMITMENT})

_SMALL_PRIMES = [n for n in range(3, 752, 2) if all(n % d for d in range(3, math.isqrt(n) + 1, 2))]
_SMALL_PRODUCT = math.prod(_SMALL_PRIMES)

# ROCA (CVE-2017-15361): Infineon's primes are powers of 65537 modulo each of these; so are the moduli.
_ROCA_PRIMES = [p for p in _SMALL_PRIMES if p <= 167]


def _powers(generator: int, modulus: int) -> frozenset[int]:
    found, value = set(), 1
    while value not in found:
        found.add(value)
        value = value * generator % modulus
    return frozenset(found)


_ROCA_RESIDUES = [(p, _powers(65537, p)) for p in _ROCA_PRIMES]


def _refuse(why: str) -> Rejection:
    return Rejection(Reason.BAD_PUBLIC_KEY, f"this public key is refused: {why}")


def check_public_key(key: PublicKey) -> None:
    """Raises Rejection(BAD_PUBLIC_KEY) with the rule that the key breaks."""
    match key:
        case rsa.RSAPublicKey():
            _check_rsa(key)
        case ec.EllipticCurvePublicKey():
            # Points are checked to be on their curve when they are loaded.
            if key.curve.name not in CURVES:
                raise _refuse(f"curve {key.curve.name} is not one of P-256, P-384, P-521")
            if key.public_numbers().x in _guessable(key.curve.name):
                raise _refuse("its private key is a number that anybody guesses")
        case ed25519.Ed25519PublicKey():
            _check_ed25519(int.from_bytes(key.public_bytes_raw(), "little"))
        case _:
            raise _refuse("its kind is not served")
    printed = KNOWN_KEYS.get(hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest())
    if printed is not None:
        raise _refuse(f"its private key is printed in {printed}")


@functools.cache
def _guessable(curve: str) -> frozenset[int]:
    """The x of the points whose private key is 1 to 32, or as many below the order (the same x). A broken generator's."""
    kind = next(kind for kind in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()) if kind.name == curve)
    return frozenset(ec.derive_private_key(k, kind).public_key().public_numbers().x for k in range(1, 33))


# Edwards25519 (RFC 8032 §5.1): the field, d, and the y of the points whose order divides 8.
_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_SMALL_ORDER_Y = frozenset(
    {
        0,  # order 4
        1,  # the neutral element
        _P - 1,  # order 2
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,  # order 8
        _P - 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    }
)


def _check_ed25519(encoded: int) -> None:
    """The library takes any 32 octets. A key of small order verifies signatures that nobody made."""
    y = encoded & ((1 << 255) - 1)
    if y >= _P:
        raise _refuse("its coordinate is not below the field's order (RFC 8032 §5.1.3)")
    if y in _SMALL_ORDER_Y:
        raise _refuse("its point has a small order")
    # x^2 = (y^2 - 1) / (d y^2 + 1) has to be a square, which Euler's criterion tells; d y^2 + 1 is never 0.
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if pow(square, (_P - 1) // 2, _P) != 1:
        raise _refuse("it is no point of its curve")


def _check_rsa(key: rsa.RSAPublicKey) -> None:
    bits = key.key_size
    if bits < MIN_RSA_BITS:
        raise _refuse(f"RSA with {bits} bits is too short; use {MIN_RSA_BITS} or more")
    if bits > MAX_RSA_BITS or bits % 8:
        raise _refuse(f"RSA with {bits} bits: use a multiple of 8 up to {MAX_RSA_BITS}")
    numbers = key.public_numbers()
    if numbers.e < MIN_EXPONENT or numbers.e % 2 == 0 or numbers.e.bit_length() > 256:
        raise _refuse("its RSA exponent is not an odd number of at least 65537")
    if numbers.n % 2 == 0 or math.gcd(numbers.n, _SMALL_PRODUCT) != 1:
        raise _refuse("its RSA modulus has a small factor")
    if all(numbers.n % p in residues for p, residues in _ROCA_RESIDUES):
        raise _refuse("its RSA modulus was made by a broken generator (ROCA, CVE-2017-15361)")
    if _fermat(numbers.n):
        raise _refuse("its RSA primes are close together (Fermat factorisation succeeds)")


def _fermat(n: int) -> bool:
    """Whether one of the first squares above n is n and another square. What is no square modulo a small number is none."""
    a = math.isqrt(n)
    if a * a < n:
        a += 1
    small_a, small_n = a % _SMALL_MODULUS, n % _SMALL_MODULUS
    for step in range(FERMAT_ROUNDS):
        if ((small_a + step) ** 2 - small_n) % _SMALL_MODULUS in _SMALL_SQUARES:
            rest = (a + step) ** 2 - n
            if math.isqrt(rest) ** 2 == rest:
                return True
    return False


def kind(key: PublicKey) -> str:
    """`rsa`, `ec` or `ed25519`: for shapes and for the audit."""
    match key:
        case rsa.RSAPublicKey():
            return "rsa"
        case ec.EllipticCurvePublicKey():
            return "ec"
        case _:
            return "ed25519"


def needs_rsa(wanted: frozenset[KeyUsageBit]) -> bool:
    """Whether keys of the other kinds can do nothing of it."""
    return not wanted & _SIGNING_USAGE


def usage_of_any(wanted: frozenset[KeyUsageBit]) -> frozenset[KeyUsageBit] | None:
    """What `usage` gives of these for every key that can do any of it; None where that depends on the key."""
    possible = wanted & _RSA_USAGE
    return possible if needs_rsa(wanted) or possible <= _SIGNING_USAGE else None


def usage(key: PublicKey, wanted: frozenset[KeyUsageBit]) -> frozenset[KeyUsageBit]:
    """The wanted bits that a key of this kind can have. Raises Rejection(BAD_PUBLIC_KEY) where that is none."""
    possible = wanted & (_RSA_USAGE if isinstance(key, rsa.RSAPublicKey) else _SIGNING_USAGE)
    if not possible:
        names = ", ".join(sorted(bit.value for bit in wanted))
        raise _refuse(f"an {kind(key)} key can do nothing of what the profile wants ({names})")
    return possible
