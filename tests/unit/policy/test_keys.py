"""Weak keys, each with the rule that it breaks (BR 6.1.1.3, 6.1.5, 6.1.6)."""

from __future__ import annotations

import math

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pki.certificate import PublicKey
from pki.plan import KeyUsageBit
from pki.reasons import Reason, Rejection
from pki.strict import from_base64url
from policy.keys import check_public_key, usage
from policy.known_keys import KNOWN_KEYS

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


def ed(octets: bytes) -> ed25519.Ed25519PublicKey:
    return ed25519.Ed25519PublicKey.from_public_bytes(octets)


P = 2**255 - 19
SIGN = 1 << 255
ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7


def _off_the_curve() -> int:
    """An y for which x^2 is no square."""
    d = -121665 * pow(121666, -1, P) % P
    return next(y for y in range(2, 50) if pow((y * y - 1) * pow(d * y * y + 1, -1, P) % P, (P - 1) // 2, P) == P - 1)


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        *((y | sign, "small order") for y in (0, 1, P - 1, ORDER_8, P - ORDER_8) for sign in (0, SIGN)),
        *((y | sign, "below the field") for y in (P, P + 1, 2**255 - 1) for sign in (0, SIGN)),
        (_off_the_curve(), "no point"),
    ],
)
def test_an_ed25519_key_is_a_point_of_the_large_order(encoded: int, why: str) -> None:
    with pytest.raises(Rejection) as refused:
        check_public_key(ed(encoded.to_bytes(32, "little")))
    assert why in refused.value.detail


def test_the_points_of_small_order_are_what_they_are_called() -> None:
    """Eight times each is the neutral element, by the addition law of RFC 8032 §5.1.4."""
    d = -121665 * pow(121666, -1, P) % P

    def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        common = d * a[0] * b[0] * a[1] * b[1]
        x = (a[0] * b[1] + b[0] * a[1]) * pow(1 + common, -1, P)
        return x % P, (a[1] * b[1] + a[0] * b[0]) * pow(1 - common, -1, P) % P

    for y in (0, 1, P - 1, ORDER_8, P - ORDER_8):
        square = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        if x * x % P != square:
            x = x * pow(2, (P - 1) // 4, P) % P
        assert x * x % P == square
        point = (x, y)
        for _ in range(3):
            point = add(point, point)
        assert point == (0, 1)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
@pytest.mark.parametrize("private", [1, 2, 7, 32])
def test_a_private_key_that_anybody_guesses_is_refused(curve: ec.EllipticCurve, private: int) -> None:
    with pytest.raises(Rejection, match="guesses"):
        check_public_key(ec.derive_private_key(private, curve).public_key())


def number(text: str) -> int:
    return int.from_bytes(from_base64url(text), "big")


RFC_7517_N = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMst"
    "n64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1"
    "n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)
RFC_6979_P521 = 0x00FAD06DAA62BA3B25D2FB40133DA757205DE67F5BB0018FEE8C86E1B68C7E75CAA896EB32F1F47C70855836A6D16FCC1466F6D8FBEC67DB89EC0C08B0E996B83538
RFC_6979_P384 = 0x6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D896D5724E4C70A825F872C9EA60D2EDF5
RFC_6979_P256 = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721

PRINTED: dict[str, PublicKey] = {
    "RFC 6979 A.2.5": ec.derive_private_key(RFC_6979_P256, ec.SECP256R1()).public_key(),
    "RFC 6979 A.2.6": ec.derive_private_key(RFC_6979_P384, ec.SECP384R1()).public_key(),
    "RFC 6979 A.2.7": ec.derive_private_key(RFC_6979_P521, ec.SECP521R1()).public_key(),
    "RFC 7515 A.3": ec.derive_private_key(number("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"), ec.SECP256R1()).public_key(),
    "RFC 7517 A.2": ec.derive_private_key(number("870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"), ec.SECP256R1()).public_key(),
    "RFC 7517 A.2 and RFC 7638 §3.1": rsa_key(number(RFC_7517_N)),
    "RFC 8032 §7.1 TEST 1 and RFC 8037 A.1": ed(
        bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    ),
    "RFC 8032 §7.1 TEST 2": ed(bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")),
    "RFC 8032 §7.1 TEST 3": ed(bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")),
}


@pytest.mark.parametrize("where", PRINTED)
def test_a_key_out_of_a_standard_is_nobodys_secret(where: str) -> None:
    with pytest.raises(Rejection) as refused:
        check_public_key(PRINTED[where])
    assert refused.value.detail.endswith(f"its private key is printed in {where}")


def test_every_key_of_the_list_has_its_test() -> None:
    assert set(KNOWN_KEYS.values()) == set(PRINTED)


def test_key_usage_is_what_the_key_can_do() -> None:
    wanted = frozenset({KeyUsageBit.DIGITAL_SIGNATURE, KeyUsageBit.KEY_ENCIPHERMENT})
    assert usage(GOOD, wanted) == wanted
    ec_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert usage(ec_key, wanted) == {KeyUsageBit.DIGITAL_SIGNATURE}  # BR 7.1.2.7.11: never keyEncipherment
    with pytest.raises(Rejection):
        usage(ec_key, frozenset({KeyUsageBit.KEY_ENCIPHERMENT}))


def _found_in_round(number: int) -> int:
    """The product of two numbers without small factors, which Fermat's method finds in about this round: (p + q) / 2 is so far above √n."""
    half = 3 << 1022
    apart = math.isqrt(2 * half * number)
    primes = math.prod(n for n in range(3, 752, 2) if all(n % d for d in range(3, math.isqrt(n) + 1, 2)))
    while (apart + half) % 2 == 0 or math.gcd((half + apart) * (half - apart), primes) != 1:
        half += 1
    return (half + apart) * (half - apart)


def test_fermats_method_finds_what_a_hundred_rounds_find_and_ends() -> None:
    for number in (*range(1, 20), 50, 90, 100, 108):
        with pytest.raises(Rejection, match="Fermat"):
            check_public_key(rsa_key(_found_in_round(number)))
    for number in (112, 1000):
        check_public_key(rsa_key(_found_in_round(number)))
