"""Lists of compromised keys that lost something on their way: half a list that is believed to be whole lets the other half in."""

from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from issuance.blocklist import parse_list
from pki.reasons import Reason, Rejection
from tests.helpers.ca import TestCa

PEM = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
OTHER = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
HASH = hashlib.sha256(b"1").hexdigest().encode()
P256, NO_CURVE = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030177")


def _odd_certificate() -> bytes:
    """Of a key on a curve that nobody knows."""
    der = TestCa().certificate.public_bytes(Encoding.DER).replace(P256, NO_CURVE)
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "content",
    [
        PEM + OTHER[:60],  # cut short
        PEM + OTHER.replace(b"-----END PUBLIC KEY-----", b"-----END PUBLIC KEY"),
        PEM + OTHER.replace(b"-----END PUBLIC KEY-----", b"-----END CERTIFICATE-----"),
        OTHER[:60] + b"\n" + PEM,
        PEM + OTHER.replace(b"-----BEGIN PUBLIC KEY-----", b"-----BEGIN public key-----"),
        PEM + OTHER.replace(b"-----BEGIN PUBLIC KEY-----\n", b""),
        PEM + HASH + b"\n",  # a hash beside it would not be read
        b"SHA256:" + HASH + b",found\n" + PEM,
        PEM + _odd_certificate(),
    ],
)
def test_a_list_of_which_a_part_would_not_be_read_is_refused(content: bytes) -> None:
    with pytest.raises(Rejection) as refused:
        parse_list(content)
    assert refused.value.reason is Reason.MALFORMED


def test_words_about_the_keys_between_them_do_no_harm() -> None:
    assert len(parse_list(b"# found in 2026\nsubject=CN = a\n" + PEM + b"\nand another\n" + OTHER)) == 2
