"""Each kind of recipient, opened by OpenSSL: it has never seen our code."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pki.cms.envelope import enveloped
from pki.cms.keyencryption import VERSION, WRAPS, RecipientInfo, by_agreement, by_rsa, by_shared_key, oaep_parameters
from pki.cms.types import DATA, Cipher, Digest

CONTENT = b"thirty-three octets of a content "
AES = [Cipher.AES_128_CBC, Cipher.AES_192_CBC, Cipher.AES_256_CBC]


def seal(recipient_info: RecipientInfo, cipher: Cipher = Cipher.AES_256_CBC) -> bytes:
    return enveloped(CONTENT, DATA, recipient_info, version=VERSION, cipher=cipher, random_bytes=secrets.token_bytes)


def decrypted(message: bytes, *arguments: str | Path) -> bytes | None:
    """None where OpenSSL says that it cannot."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = ["openssl", "cms", "-decrypt", "-inform", "DER", "-binary", *map(str, arguments)]
    ran = subprocess.run(command, input=message, capture_output=True, check=False, timeout=30)
    return ran.stdout if ran.returncode == 0 else None


class Holder:
    """A key, and a certificate with a subject key identifier, in files."""

    def __init__(self, folder: Path, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "recipient")])
        identifier = x509.SubjectKeyIdentifier(secrets.token_bytes(20))
        self.key_identifier = identifier.digest
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=1))
            .not_valid_after(datetime.now(UTC) + timedelta(days=1))
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        self.certificate, self.key = folder / "recipient.pem", folder / "recipient.key"
        self.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        self.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def decrypts(self, message: bytes) -> bytes | None:
        return decrypted(message, "-recip", self.certificate, "-inkey", self.key)


@pytest.mark.parametrize("octets", sorted(WRAPS))
@pytest.mark.parametrize("cipher", AES)
def test_whoever_has_the_shared_key_opens_it(octets: int, cipher: Cipher) -> None:
    key, other, key_id = secrets.token_bytes(octets), secrets.token_bytes(octets), b"\x01\xfe\x00line 7"
    message = seal(by_shared_key(key, key_id=key_id), cipher)
    assert decrypted(message, "-secretkey", key.hex(), "-secretkeyid", key_id.hex()) == CONTENT
    assert decrypted(message, "-secretkey", other.hex(), "-secretkeyid", key_id.hex()) is None
    assert decrypted(message, "-secretkey", key.hex(), "-secretkeyid", "00") is None


@pytest.mark.parametrize("oaep", [None, Digest.SHA1, Digest.SHA256, Digest.SHA384, Digest.SHA512])
def test_an_rsa_key_opens_it(tmp_path: Path, oaep: Digest | None) -> None:
    key = rsa.generate_private_key(65537, 2048)
    holder = Holder(tmp_path, key)
    assert holder.decrypts(seal(by_rsa(key.public_key(), key_identifier=holder.key_identifier, oaep=oaep))) == CONTENT


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
@pytest.mark.parametrize("digest", [Digest.SHA256, Digest.SHA384, Digest.SHA512])
@pytest.mark.parametrize("wrap", sorted(WRAPS))
def test_an_ec_key_opens_it(tmp_path: Path, curve: ec.EllipticCurve, digest: Digest, wrap: int) -> None:
    key = ec.generate_private_key(curve)
    holder = Holder(tmp_path, key)
    info = by_agreement(key.public_key(), key_identifier=holder.key_identifier, digest=digest, wrap=wrap)
    assert holder.decrypts(seal(info)) == CONTENT


def test_another_recipient_of_the_same_kind_does_not(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    ours, theirs = ec.generate_private_key(ec.SECP256R1()), Holder(tmp_path / "other", ec.generate_private_key(ec.SECP256R1()))
    info = by_agreement(ours.public_key(), key_identifier=theirs.key_identifier, digest=Digest.SHA256, wrap=32)
    assert theirs.decrypts(seal(info)) is None


def test_two_messages_have_nothing_in_common() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    info = by_agreement(key.public_key(), key_identifier=b"k", digest=Digest.SHA256, wrap=16)
    assert info(b"c" * 16) != info(b"c" * 16)  # another ephemeral key each time


def test_what_is_a_default_is_not_written() -> None:
    # RFC 4055 §4.1: sha1, mgf1SHA1; X.690 §11.5
    assert oaep_parameters(Digest.SHA1) == b"\x30\x00"
