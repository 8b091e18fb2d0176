"""What an attacker writes into a request: hollow structures, and one key in many spellings."""

from __future__ import annotations

import base64
import math

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki import der
from pki.csr import parse_csr
from pki.reasons import Reason, Rejection
from tests.helpers.ca import make_csr

_EC_PUBLIC_KEY = bytes.fromhex("06072a8648ce3d0201")
_P256 = bytes.fromhex("06082a8648ce3d030107")
_ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")
_RSA = bytes.fromhex("06092a864886f70d010101")
_RSA_PSS = bytes.fromhex("06092a864886f70d01010a")
_RSA_SHA256 = bytes.fromhex("06092a864886f70d01010b0500")


def sequence(*parts: bytes) -> bytes:
    return der.encode(der.SEQUENCE, b"".join(parts))


def bit_string(content: bytes) -> bytes:
    return der.encode(der.BIT_STRING, b"\0" + content)


def signed(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, spki: bytes, *, subject: bytes = b"") -> bytes:
    """A request by `key` whose SubjectPublicKeyInfo and subject are these octets."""
    info = sequence(b"\x02\x01\x00", sequence(subject), spki, b"\xa0\x00")
    if isinstance(key, rsa.RSAPrivateKey):
        return sequence(info, sequence(_RSA_SHA256), bit_string(key.sign(info, padding.PKCS1v15(), hashes.SHA256())))
    return sequence(info, sequence(_ECDSA_SHA256), bit_string(key.sign(info, ec.ECDSA(hashes.SHA256()))))


def test_a_signature_algorithm_without_an_oid_is_refused() -> None:
    info, _, signature = der.children(der.whole(make_csr("www.example.com"), der.SEQUENCE).content)
    with pytest.raises(Rejection) as refused:
        parse_csr(sequence(info.raw, sequence(), signature.raw))
    assert refused.value.reason is Reason.BAD_CSR


def test_a_subject_attribute_that_is_empty_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(Rejection) as refused:
        parse_csr(signed(key, spki, subject=der.encode(der.SET, sequence())))
    assert refused.value.reason is Reason.BAD_CSR


def test_an_ec_key_is_the_same_key_in_every_spelling_of_its_point() -> None:
    """A compromised key that is blocked (BR 6.1.1.3 (5)) must not come back compressed."""
    key = ec.generate_private_key(ec.SECP256R1())
    whole = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    short = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    hybrid = bytes((6 + whole[-1] % 2,)) + whole[1:]
    spellings = [sequence(sequence(_EC_PUBLIC_KEY, _P256), bit_string(point)) for point in (whole, short, hybrid)]
    assert len({parse_csr(signed(key, spki)).spki_sha256 for spki in spellings}) == 1


def test_an_rsa_key_is_the_same_key_under_every_algorithm_identifier() -> None:
    key = rsa.generate_private_key(65537, 2048)
    numbers = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    identifiers = (sequence(_RSA, b"\x05\x00"), sequence(_RSA), sequence(_RSA_PSS))
    read = [parse_csr(signed(key, sequence(identifier, bit_string(numbers)))) for identifier in identifiers]
    assert len({csr.spki_sha256 for csr in read}) == 1
    # What is recorded is what the certificate will hold, for that is written from the key itself.
    written = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert {csr.spki for csr in read} == {written}


def test_a_key_with_a_long_exponent_is_refused_before_anything_is_computed_with_it() -> None:
    """Whoever chooses a short private exponent signs in no time, and has us raise to a power of as many bits as the modulus has."""
    made = rsa.generate_private_key(65537, 2048).private_numbers()
    totient, short = (made.p - 1) * (made.q - 1), (1 << 16) + 1
    while math.gcd(short, totient) != 1:
        short += 2
    key = rsa.RSAPublicNumbers(pow(short, -1, totient), made.public_numbers.n).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(Rejection, match="exponent") as caught:
        parse_csr(signed(rsa.generate_private_key(65537, 2048), spki))
    assert caught.value.reason is Reason.BAD_PUBLIC_KEY


def test_what_is_der_is_read_as_der_whatever_text_is_in_it() -> None:
    """Else what others look at (is it signed? what is its digest?) and what is read were two requests."""
    inner = base64.b64encode(make_csr("inner.example.com"))
    text = b"-----BEGIN CERTIFICATE REQUEST-----" + inner + b"-----END CERTIFICATE REQUEST-----"
    with pytest.raises(Rejection) as caught:
        parse_csr(sequence(der.encode(der.UTF8_STRING, text)))
    assert caught.value.reason is Reason.BAD_CSR
