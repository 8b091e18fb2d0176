"""Private keys that nobody should have, each with what is said when one is shown. They sign all the same."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from functools import partial

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.helpers.wanted import _is_prime, close_primes_key, roca_key, rsa_key

BadKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@functools.cache
def small_factor_key() -> rsa.RSAPrivateKey:
    """2048 bits, one prime of them 751. OpenSSL would not make it, and takes it when it is told to."""
    p, e = 751, 65537
    q = (1 << 2047) // p | 1
    while not (_is_prime(q) and (q - 1) % e):
        q += 2
    d = pow(e, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), rsa.RSAPublicNumbers(e, p * q)
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def printed_ec_key() -> ec.EllipticCurvePrivateKey:
    """RFC 6979 A.2.5."""
    return ec.derive_private_key(0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721, ec.SECP256R1())


def printed_ed25519_key() -> ed25519.Ed25519PrivateKey:
    """RFC 8032 §7.1 TEST 1."""
    seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    return ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))


def guessable_key(curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(1, curve)


BAD_KEYS: Mapping[str, tuple[Callable[[], BadKey], str]] = {
    "RSA, 1024 bits": (partial(rsa_key, "short", 1024), "bits"),
    "RSA, 2041 bits": (partial(rsa_key, "odd", 2041), "bits"),
    "RSA, exponent 3": (partial(rsa_key, "three", 2048, 3), "exponent"),
    "RSA, close primes": (close_primes_key, "close together"),
    "RSA, ROCA": (roca_key, "ROCA"),
    "RSA, a small factor": (small_factor_key, "small factor"),
    "P-256, private key 1": (partial(guessable_key, ec.SECP256R1()), "guesses"),
    "P-384, private key 1": (partial(guessable_key, ec.SECP384R1()), "guesses"),
    "P-521, private key 1": (partial(guessable_key, ec.SECP521R1()), "guesses"),
    "P-256, out of RFC 6979": (printed_ec_key, "RFC 6979"),
    "Ed25519, out of RFC 8032": (printed_ed25519_key, "RFC 8032"),
}
