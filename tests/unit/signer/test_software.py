"""Keys in files: made, encrypted, loaded, and refused with a text that says what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from pki.cms.transport import KeyTransport
from signer.backend import substitute
from signer.configuration import ConfigurationError
from signer.envelope import spki
from signer.secretfile import read_phrase, read_secret
from signer.software import KeyKind, encrypt_key, generate_key, load_key
from tests.helpers.signing import PASSPHRASE, authority, write_key


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("kind", list(KeyKind))
def test_a_key_of_every_kind_comes_back_from_its_file(tmp_path: Path, kind: KeyKind) -> None:
    key = generate_key(kind)
    pem = encrypt_key(key, PASSPHRASE)
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    loaded = load_key(write(tmp_path / "key", pem), PASSPHRASE)
    assert spki(loaded.public_key()) == spki(key.public_key())


@pytest.mark.parametrize(
    ("kind", "size"), [(KeyKind.RSA_2048, 2048), (KeyKind.RSA_3072, 3072), (KeyKind.EC_P256, 256), (KeyKind.EC_P384, 384)]
)
def test_a_kind_has_the_size_of_its_name(kind: KeyKind, size: int) -> None:
    key = generate_key(kind)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    assert key.key_size == size


def plain(key: dsa.DSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_an_unencrypted_key_loads_without_a_passphrase(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert load_key(write(tmp_path / "key", plain(key)), None)


@pytest.mark.parametrize(
    ("content", "passphrase", "complaint"),
    [
        (b"", PASSPHRASE, "not a PKCS#8 private key"),
        (encrypt_key(authority().key, PASSPHRASE), b"wrong", "passphrase is not its own"),
        (encrypt_key(authority().key, PASSPHRASE), None, "needs a passphrase_file"),
        (plain(ec.generate_private_key(ec.SECP256R1())), PASSPHRASE, "is not encrypted"),
        (plain(dsa.generate_private_key(2048)), None, "a kind of key"),
    ],
    ids=["empty", "wrong passphrase", "no passphrase", "a passphrase for nothing", "DSA"],
)
def test_a_key_file_that_does_not_work_is_named(
    tmp_path: Path, content: bytes, passphrase: bytes | None, complaint: str
) -> None:
    path = write(tmp_path / "ca.key", content)
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        load_key(path, passphrase)
    assert str(path) in str(caught.value)
    assert "wrong" not in str(caught.value)  # no passphrase in errors


# ---------------------------------------------------------------- secret files


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_ones_own_is_read(tmp_path: Path, mode: int) -> None:
    assert read_secret(write(tmp_path / "secret", b"abc", mode)) == b"abc"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o660, 0o620, 0o777])
def test_a_file_that_others_can_read_or_change_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "secret", b"abc", mode)
    with pytest.raises(ConfigurationError, match="chmod it to 0600") as caught:
        read_secret(path)
    assert str(path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_group_may_read_what_root_owns_as_systemd_credentials_do(tmp_path: Path) -> None:
    assert read_secret(write(tmp_path / "secret", b"abc", 0o440)) == b"abc"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "secret", b"abc")
    os.chown(path, 65534, 65534)
    with pytest.raises(ConfigurationError, match="belongs to user 65534"):
        read_secret(path)


def test_a_missing_file_a_directory_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_secret(tmp_path / "absent")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_secret(tmp_path)
    with pytest.raises(ConfigurationError, match="longer than"):
        read_secret(write(tmp_path / "huge", bytes(70_000)))


@pytest.mark.parametrize(
    ("content", "phrase"), [(b"abc\n", b"abc"), (b"abc\r\n", b"abc"), (b"abc", b"abc"), (b"a b \n\n", b"a b \n")]
)
def test_one_newline_at_the_end_of_a_passphrase_file_is_not_part_of_it(tmp_path: Path, content: bytes, phrase: bytes) -> None:
    assert read_phrase(write(tmp_path / "phrase", content)) == phrase


def test_a_written_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    source = write_key(tmp_path, "k", authority().key)
    assert source.file.stat().st_mode & 0o777 == 0o600
    assert load_pem_private_key(source.file.read_bytes(), PASSPHRASE)


# ---------------------------------------------------------------- implicit rejection


def test_the_substitute_depends_on_the_key_and_on_what_was_asked_and_on_nothing_else() -> None:
    one = substitute(b"secret", b"ciphertext", 16, KeyTransport.PKCS1)
    assert len(one) == 16
    assert substitute(b"secret", b"ciphertext", 16, KeyTransport.PKCS1) == one
    assert substitute(b"another", b"ciphertext", 16, KeyTransport.PKCS1) != one
    assert substitute(b"secret", b"ciphertexT", 16, KeyTransport.PKCS1) != one


def test_substitutes_of_one_ciphertext_for_several_lengths_and_transports_have_nothing_in_common() -> None:
    """Else who asks in several ways would see which of the answers is none: the one that does not fit the others."""
    asked = [(length, transport) for length in (8, 16, 24, 32) for transport in KeyTransport]
    answers = {substitute(b"secret", b"ciphertext", length, transport)[:8] for length, transport in asked}
    assert len(answers) == len(asked)
