"""Certification requests that can be wrong in every way, and keys that nobody should have. Written with other code than ours."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki.certificate import pem
from tests.helpers import scep
from tests.helpers.scep import explicit, octets, oid, retag, seq, set_of

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@functools.cache
def rsa_key(label: str, bits: int = 2048, exponent: int = 65537) -> rsa.RSAPrivateKey:
    """The same key for the same label: making one costs more than most tests."""
    return rsa.generate_private_key(exponent, bits)


@functools.cache
def ec_key(label: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve or ec.SECP256R1())


def _is_prime(number: int) -> bool:
    return all(number % small for small in (3, 5, 7, 11, 13, 17, 19, 23)) and pow(2, number - 1, number) == 1


def _rsa_of(p: int, q: int) -> rsa.RSAPrivateKey:
    e = 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(e, p * q)
    iqmp = rsa.rsa_crt_iqmp(p, q)
    return rsa.RSAPrivateNumbers(p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), iqmp, public).private_key()


@functools.cache
def close_primes_key() -> rsa.RSAPrivateKey:
    """A 2048-bit key whose primes are neighbours."""
    p = random.Random(1).getrandbits(1024) | 1 << 1023 | 1 << 1022 | 1
    while not _is_prime(p):
        p += 2
    q = p + 2
    while not _is_prime(q):
        q += 2
    return _rsa_of(p, q)


@functools.cache
def roca_key() -> rsa.RSAPrivateKey:
    """As Infineon's library made them (CVE-2017-15361): p = k * M + 65537^a mod M."""
    seeded = random.Random(2)
    product = math.prod(n for n in range(2, 168) if all(n % d for d in range(2, n)))

    def prime() -> int:
        candidate = 4
        while not _is_prime(candidate):
            k = seeded.randrange((3 << 1022) // product + 1, (1 << 1024) // product)
            candidate = k * product + pow(65537, seeded.getrandbits(64), product)
        return candidate

    return _rsa_of(prime(), prime())


def dns_name(name: bytes | str) -> bytes:
    """GeneralName dNSName, of any octets."""
    return retag(0x82, octets(name.encode("latin-1") if isinstance(name, str) else name))


def ip_name(address: str) -> bytes:
    return retag(0x87, octets(ip_address(address).packed))


def email_name(address: str) -> bytes:
    return retag(0x81, octets(address.encode()))


def uri_name(uri: str) -> bytes:
    return retag(0x86, octets(uri.encode()))


def upn_name(name: str) -> bytes:
    """OtherName with a Windows user principal name: who holds such a certificate is that user."""
    return retag(0xA0, seq(oid("1.3.6.1.4.1.311.20.2.3"), explicit(retag(0x0C, octets(name.encode())))))


def extension(dotted: str, value: bytes, *, critical: bool = False) -> bytes:
    return seq(oid(dotted), *([b"\x01\x01\xff"] if critical else []), octets(value))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certification request; what is right unless said otherwise. `names` become dNSNames, `more` are GeneralNames in DER."""

    names: tuple[str, ...] = ("host.example.test",)
    more: tuple[bytes, ...] = ()
    common_name: str | None = None
    key: Callable[[], PrivateKey] = lambda: rsa_key("subscriber")  # made when it is needed
    digest: str = "sha256"
    subject: tuple[tuple[str, str], ...] = ()  # attributes besides the common name: (OID, text)
    extensions: tuple[bytes, ...] = ()  # besides the subjectAltName
    signed_by: Callable[[], PrivateKey] | None = None
    broken: bool = False  # a bit of the signature is another one

    def csr(self, *, challenge: str | None = None) -> bytes:
        """DER (RFC 2986)."""
        attributes = []
        names = [*map(dns_name, self.names), *self.more]
        wanted = [*([extension("2.5.29.17", seq(*names))] if names else []), *self.extensions]
        if wanted:
            attributes.append(seq(oid("1.2.840.113549.1.9.14"), set_of(seq(*wanted))))
        if challenge is not None:
            attributes.append(seq(oid("1.2.840.113549.1.9.7"), set_of(retag(0x0C, octets(challenge.encode())))))
        texts = [*self.subject, *([("2.5.4.3", self.common_name)] if self.common_name is not None else [])]
        subject = seq(*(set_of(seq(oid(kind), retag(0x0C, octets(text.encode())))) for kind, text in texts))
        spki = self.key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        info = seq(b"\x02\x01\x00", subject, spki, retag(0xA0, set_of(*attributes)))
        algorithm, signature = self._sign(info)
        if self.broken:
            signature = signature[:-1] + bytes([signature[-1] ^ 1])
        return seq(info, algorithm, b"\x03" + octets(b"\0" + signature)[1:])

    def _sign(self, info: bytes) -> tuple[bytes, bytes]:
        key, digest = (self.signed_by or self.key)(), scep.HASHES[self.digest]
        if isinstance(key, rsa.RSAPrivateKey):
            algorithms = {"md5": "4", "sha1": "5", "sha256": "11", "sha384": "12", "sha512": "13"}
            algorithm = seq(oid(f"1.2.840.113549.1.1.{algorithms[self.digest]}"), scep.NULL)
            return algorithm, key.sign(info, padding.PKCS1v15(), digest)
        algorithms = {"sha1": "1", "sha256": "3.2", "sha384": "3.3", "sha512": "3.4"}
        return seq(oid(f"1.2.840.10045.4.{algorithms[self.digest]}")), key.sign(info, ec.ECDSA(digest))


def pem_csr(der: bytes) -> str:
    return pem(der).replace("CERTIFICATE", "CERTIFICATE REQUEST")
