"""Weak keys, each with the rule that it breaks (BR 6.1.1.3, 6.1.5, 6.1.6)."""

from __future__ import annotations

import math

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pki.certificate import PublicKey
from pki.plan import KeyUsageBit
from pki.reasons import Reason, Rejection
from policy.keys import check_public_key, usage

GOOD = rsa.generate_private_key(65537, 2048).public_key()
N = GOOD.public_numbers().n


def rsa_key(n: int, e: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(e, n).public_key()


def _close_primes() -> int:
    """Two primes next to each other."""
    numbers = rsa.generate_private_key(65537, 2048).private_numbers()
    q = numbers.p + 2
    while not _is_probable_prime(q):
        q += 2
    return numbers.p * q


def _is_probable_prime(n: int) -> bool:
    return all(n % p for p in (3, 5, 7, 11, 13, 17, 19)) and pow(2, n - 1, n) == 1


def _with_small_factor() -> int:
    """2048 bits, odd, a multiple of 751."""
    n = ((1 << 2047) // 751 + 1) * 751
    return n if n % 2 else n + 751


def _roca_like() -> int:
    """A modulus that is a power of 65537 modulo every prime that the test looks at, as Infineon's are."""
    primorial = math.prod(n for n in range(3, 168, 2) if all(n % d for d in range(3, math.isqrt(n) + 1, 2)))
    n = pow(65537, 12345, primorial)
    n += primorial * ((1 << 2047) // primorial + 1)
    while n % 2 == 0 or math.gcd(n, math.prod(range(169, 752, 2))) != 1:
        n += primorial
    return n


@pytest.mark.parametrize(
    "key",
    [GOOD, *(ec.generate_private_key(curve()).public_key() for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1))],
    ids=["rsa", "p256", "p384", "p521"],
)
def test_ordinary_keys_are_taken(key: PublicKey) -> None:
    check_public_key(key)
    check_public_key(ed25519.Ed25519PrivateKey.generate().public_key())


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (rsa.generate_private_key(65537, 1024).public_key(), "too short"),
        (rsa_key(N >> 1 | 1), "too short"),
        (rsa_key(N * 8 + 1), "multiple of 8"),
        (rsa_key(N, 3), "exponent"),
        (rsa_key(_with_small_factor()), "small factor"),
        (rsa_key(_roca_like()), "ROCA"),
        (rsa_key(_close_primes()), "Fermat"),
        (ec.generate_private_key(ec.SECP256K1()).public_key(), "secp256k1"),
    ],
)
def test_a_weak_key_is_refused_with_the_rule_that_it_breaks(key: PublicKey, why: str) -> None:
    with pytest.raises(Rejection) as refused:
        check_public_key(key)
    assert refused.value.reason is Reason.BAD_PUBLIC_KEY
    assert why in refused.value.detail


def test_key_usage_is_what_the_key_can_do() -> None:
    wanted = frozenset({KeyUsageBit.DIGITAL_SIGNATURE, KeyUsageBit.KEY_ENCIPHERMENT})
    assert usage(GOOD, wanted) == wanted
    ec_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert usage(ec_key, wanted) == {KeyUsageBit.DIGITAL_SIGNATURE}  # BR 7.1.2.7.11: never keyEncipherment
    with pytest.raises(Rejection):
        usage(ec_key, frozenset({KeyUsageBit.KEY_ENCIPHERMENT}))
