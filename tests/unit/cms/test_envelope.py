"""EnvelopedData (RFC 5652 §6): what others encrypted, what we encrypt, and what nobody may learn."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding

from pki.cms.ber import normalise
from pki.cms.envelope import decrypt, encrypt, parse_enveloped
from pki.cms.errors import CmsError, CmsProblem
from pki.cms.transport import KeyTransport
from pki.cms.types import CertificateView, Cipher, read_certificate
from signer.api import Hash
from tests.helpers import scep as other
from tests.helpers.scep import certificate, der_of, enveloped, key_pem, openssl, pem_of, rsa_key
from tests.helpers.scep_simulators import SoftwareSigner

PLAIN = bytes(range(256)) * 3
LEGACY = ("-provider", "default", "-provider", "legacy")


def recipient() -> x509.Certificate:
    key = rsa_key("ra")
    return certificate("RA", key.public_key(), "RA", key, serial=0xBEEF)


def view(of: x509.Certificate) -> CertificateView:
    return read_certificate(der_of(of))


async def opened(data: bytes, of: x509.Certificate) -> bytes:
    signer = SoftwareSigner(rsa_key("ra"))

    async def decrypt_key(ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        return await signer.ra_decrypt("ra", ciphertext, length, transport)

    return await decrypt(parse_enveloped(data), view(of), decrypt_key=decrypt_key)


@pytest.mark.parametrize("stream", [pytest.param((), id="DER"), pytest.param(("-stream",), id="indefinite lengths")])
@pytest.mark.parametrize("by_key", [pytest.param((), id="issuer and serial"), pytest.param(("-keyid",), id="key identifier")])
@pytest.mark.parametrize("cipher", [*Cipher])
async def test_what_openssl_encrypts_is_read(
    tmp_path: Path, cipher: Cipher, by_key: tuple[str, ...], stream: tuple[str, ...]
) -> None:
    to = recipient()
    pem = tmp_path / "ra.pem"
    pem.write_bytes(pem_of(to))
    name = "des-ede3-cbc" if cipher is Cipher.DES_EDE3_CBC else cipher.value
    data = openssl(
        "cms", "-encrypt", f"-{name}", "-binary", "-outform", "der", *by_key, *stream, *LEGACY, "-recip", pem, stdin=PLAIN
    )
    assert (data[:2] == b"\x30\x80") is bool(stream)
    assert parse_enveloped(data).cipher is cipher
    assert await opened(data, to) == PLAIN


@pytest.mark.parametrize("cipher", [*Cipher])
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 1000])
def test_what_we_encrypt_is_read_by_openssl(tmp_path: Path, cipher: Cipher, length: int) -> None:
    to = recipient()
    (tmp_path / "ra.pem").write_bytes(pem_of(to))
    (tmp_path / "ra.key").write_bytes(key_pem(rsa_key("ra")))
    data = encrypt(PLAIN[:length], view(to), cipher=cipher, random_bytes=os.urandom)
    assert normalise(data) == data
    plain = openssl(
        *("cms", "-decrypt", "-binary", "-inform", "der", *LEGACY),
        *("-inkey", tmp_path / "ra.key", "-recip", tmp_path / "ra.pem"),
        stdin=data,
    )
    assert plain == PLAIN[:length]


async def test_of_several_recipients_ours_is_found_and_only_ours_tried() -> None:
    """Go's scepclient encrypts to every certificate of GetCACert. A bad second RecipientInfo for us is never tried."""
    to = recipient()
    stranger = other.self_signed(rsa_key("stranger"), "stranger")
    first = other.seq(
        other.integer(0),
        other.issuer_and_serial(stranger),
        other.seq(other.oid("1.2.840.113549.1.1.1"), other.NULL),
        other.octets(b"x"),
    )
    second = other.seq(
        other.integer(0),
        other.issuer_and_serial(to),
        other.seq(other.oid("1.2.840.113549.1.1.1"), other.NULL),
        other.octets(b"y" * 256),
    )
    assert await opened(enveloped(PLAIN, to, before=[first], after=[second]), to) == PLAIN


async def test_a_message_to_somebody_else_says_so() -> None:
    stranger = other.self_signed(rsa_key("stranger"), "stranger")
    with pytest.raises(CmsError) as caught:
        await opened(enveloped(PLAIN, stranger), recipient())
    assert caught.value.problem is CmsProblem.RECIPIENT


def test_an_unknown_cipher_is_refused_by_name(tmp_path: Path) -> None:
    pem = tmp_path / "ra.pem"
    pem.write_bytes(pem_of(recipient()))
    data = openssl("cms", "-encrypt", "-camellia128", "-outform", "der", "-recip", pem, stdin=PLAIN)
    with pytest.raises(CmsError, match=r"1\.2\.392\.200011\.61\.1\.1\.1\.2") as caught:
        parse_enveloped(data)
    assert caught.value.problem is CmsProblem.ALGORITHM


def _wrap(plain: bytes) -> bytes:
    return rsa_key("ra").public_key().encrypt(plain, padding.PKCS1v15())


def tampered() -> dict[str, bytes]:
    to = recipient()
    modulus = rsa_key("ra").public_key().public_numbers().n
    key = os.urandom(16)

    def with_last_byte(last: int, block: int = 16) -> bytes:
        """One block that decrypts to 15 zeros and `last` under the right key: chosen padding."""
        raw = other.encrypt_content(b"", "aes-128-cbc", key, bytes(16))
        return raw[: len(raw) - block] + _cbc_block(key, bytes(15) + bytes([last]))

    return {
        "a broken encrypted key": enveloped(PLAIN, to, encrypted_key=b"\x01" * 256),
        "an encrypted key of zeros": enveloped(PLAIN, to, encrypted_key=bytes(256)),
        "an encrypted key above the modulus": enveloped(PLAIN, to, encrypted_key=(modulus + 1).to_bytes(256, "big")),
        "a short encrypted key": enveloped(PLAIN, to, encrypted_key=b"\x01" * 255),
        "a long encrypted key": enveloped(PLAIN, to, encrypted_key=b"\x00" * 256 + b"\x01"),
        "no encrypted key": enveloped(PLAIN, to, encrypted_key=b""),
        "a content key of the wrong length": enveloped(PLAIN, to, cek=os.urandom(24)),
        "a content key of no octets": enveloped(PLAIN, to, cek=b""),
        "another content key": enveloped(PLAIN, to, cek=bytes(16)),
        "half a block": enveloped(PLAIN, to, ciphertext=b"x" * 17),
        "no ciphertext": enveloped(PLAIN, to, ciphertext=b""),
        "padding of zero": enveloped(b"", to, encrypted_key=_wrap(key), ciphertext=with_last_byte(0)),
        "padding longer than a block": enveloped(b"", to, encrypted_key=_wrap(key), ciphertext=with_last_byte(17)),
        "padding that is not uniform": enveloped(b"", to, encrypted_key=_wrap(key), ciphertext=with_last_byte(2)),
    }


def _cbc_block(key: bytes, plain: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher as Block
    from cryptography.hazmat.primitives.ciphers import algorithms, modes

    context = Block(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  # one block, to choose what CBC gives
    return context.update(plain) + context.finalize()


@pytest.mark.parametrize("case", sorted(tampered()))
async def test_whatever_is_wrong_inside_the_error_is_the_same(case: str) -> None:
    with pytest.raises(CmsError) as caught:
        await opened(tampered()[case], recipient())
    assert (caught.value.problem, caught.value.detail) == (CmsProblem.DECRYPT, "the encrypted content cannot be read")


async def test_seventeen_times_seventeen_is_no_padding() -> None:
    """A whole block of the octet 17 looks like padding to who only compares."""
    to, key, iv = recipient(), os.urandom(16), bytes(16)
    block = _cbc_block(key, bytes([17]) * 16)
    data = enveloped(b"", to, encrypted_key=_wrap(key), ciphertext=iv + block)
    with pytest.raises(CmsError) as caught:
        await opened(data, to)
    assert caught.value.problem is CmsProblem.DECRYPT


def test_an_initialisation_vector_of_another_length_is_a_structure_error() -> None:
    aes = other.seq(other.oid(other.CIPHERS["aes-128-cbc"][0]), other.octets(bytes(8)))
    content = other.seq(other.oid(other.DATA), aes, other.retag(0x80, other.octets(bytes(16))))
    data = other.seq(other.oid(other.ENVELOPED_DATA), other.explicit(other.seq(other.integer(0), other.set_of(), content)))
    with pytest.raises(CmsError, match="16 octets") as caught:
        parse_enveloped(data)
    assert caught.value.problem is CmsProblem.STRUCTURE


def test_we_never_encrypt_to_a_key_that_cannot_be_encrypted_to() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(CmsError) as caught:
        encrypt(PLAIN, view(other.self_signed(key)), cipher=Cipher.AES_128_CBC, random_bytes=os.urandom)
    assert caught.value.problem is CmsProblem.KEY


def test_the_simulated_signer_speaks_of_the_same_digests() -> None:
    assert {each.value for each in Hash} == set(other.HASHES)
