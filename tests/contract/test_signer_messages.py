"""Keys that speak SCEP, in a file and in SoftHSM2 tokens: what an RA decrypts, and what a CA signs beside its certificates."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from pki.cms.transport import KeyTransport
from signer.api import Hash, KeyConfig, KeyUse, Pkcs11Key, Signer, SignerRefused, SoftwareKey, TransportUnavailable
from signer.client import SignerClient
from signer.configuration import ProcessConfig
from signer.software import KeyKind
from tests.helpers.scep import MESSAGE_DIGEST, octets
from tests.helpers.signing import SignerProcess, authority, leaf, ra_key, write_key
from tests.helpers.signing_messages import announcement, cert_rep, encode, signed
from tests.helpers.softhsm import SoftHsm

CA = authority(KeyKind.RSA_2048)
OAEP_SHA1 = KeyTransport.OAEP_SHA1
# SoftHSM2 2.6.1 does no other OAEP by itself.
OF_A_TOKEN = {KeyTransport.PKCS1, OAEP_SHA1}
UNRAW = "token-without-raw-rsa"  # as some are in FIPS mode


@pytest.fixture(scope="module", params=["file", "token", UNRAW])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def socket(place: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("signer")
    environment: Mapping[str, str] = {}
    sources: Mapping[str, SoftwareKey | Pkcs11Key]
    if place != "file":
        token = SoftHsm.create(directory / "hsm", mechanisms="ALL" if place == "token" else "CKM_RSA_PKCS,CKM_RSA_PKCS_OAEP")
        environment = token.environment
        sources = {"ca": token.put("ca", CA.key, 1), "ra": token.put("ra", ra_key(), 2)}
    else:
        sources = {"ca": write_key(directory, "ca", CA.key), "ra": write_key(directory, "ra", ra_key())}
    envelope = replace(CA.envelope(), messages=True, announcements=frozenset({b"content"}))
    keys = (
        KeyConfig(name="ca", use=KeyUse.ISSUER, source=sources["ca"], envelope=envelope),
        KeyConfig(name="ra", use=KeyUse.RA, source=sources["ra"], envelope=None),
    )
    process = SignerProcess(
        ProcessConfig(listen=directory / "socket", keys=keys), environment=environment, errors=directory / "log"
    )
    yield directory / "socket"
    assert process.end() == 0
    unusual = set(process.events()) - {"ready", "refused", "ended"}
    assert unusual <= ({"token-unpads"} if place == UNRAW else set())


@pytest.fixture
async def signer(socket: Path) -> AsyncIterator[Signer]:
    client = SignerClient(socket)
    yield client
    await client.close()


def public(name: str) -> rsa.RSAPublicKey:
    key = {"ca": CA.key, "ra": ra_key()}[name].public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    return key


@pytest.mark.parametrize("key", ["ca", "ra"])
async def test_every_key_transport_decrypts_or_is_unavailable_by_name(place: str, signer: Signer, key: str) -> None:
    for transport in KeyTransport:
        ciphertext = public(key).encrypt(b"k" * 16, transport.padding)
        if place != UNRAW or transport in OF_A_TOKEN:
            assert await signer.ra_decrypt(key, ciphertext, 16, transport) == b"k" * 16, transport
        else:
            with pytest.raises(TransportUnavailable, match=f"{transport.value} is not supported by the token.*use RSAES-PKCS1"):
                await signer.ra_decrypt(key, ciphertext, 16, transport)


async def test_what_a_token_lacks_depends_on_no_ciphertext(place: str, signer: Signer) -> None:
    """A refusal that told good ciphertexts from bad ones would be the oracle that implicit rejection is there against."""
    for ciphertext in (bytes(256), b"", b"\xff" * 256, public("ra").encrypt(b"", KeyTransport.OAEP_SHA256.padding)):
        if place != UNRAW:
            assert len(await signer.ra_decrypt("ra", ciphertext, 16, KeyTransport.OAEP_SHA256)) == 16
            continue
        with pytest.raises(TransportUnavailable):
            await signer.ra_decrypt("ra", ciphertext, 16, KeyTransport.OAEP_SHA256)


def raw(block: bytes) -> bytes:
    numbers = public("ra").public_numbers()
    return pow(int.from_bytes(block.rjust(256, b"\0"), "big"), numbers.e, numbers.n).to_bytes(256, "big")


async def test_bad_oaep_gives_pseudo_random_octets_of_the_length_and_no_error(signer: Signer) -> None:
    good = public("ra").encrypt(b"k" * 16, OAEP_SHA1.padding)
    label = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), b"label")  # noqa: S303  # what SoftHSM2 does
    bad = {
        "another length inside": public("ra").encrypt(b"k" * 24, OAEP_SHA1.padding),
        "nothing inside": public("ra").encrypt(b"", OAEP_SHA1.padding),
        "another label": public("ra").encrypt(b"k" * 16, label),
        "another digest": public("ra").encrypt(b"k" * 16, KeyTransport.OAEP_SHA256.padding),
        "PKCS #1": public("ra").encrypt(b"k" * 16, padding.PKCS1v15()),
        "first octet zero (Manger)": raw(b"\0" * 2 + b"\x5a" * 254),
        "first octet not zero (Manger)": raw(b"\x01" + b"\x5a" * 255),
        "one bit changed": bytes((*good[:-1], good[-1] ^ 1)),
        "zero": bytes(256),
        "too short": good[:-1],
        "too long": good + b"\0",
        "not below the modulus": b"\xff" * 256,
        "empty": b"",
    }
    for what, ciphertext in bad.items():
        first = await signer.ra_decrypt("ra", ciphertext, 16, OAEP_SHA1)
        assert len(first) == 16, what
        assert first != b"k" * 16, what
        assert await signer.ra_decrypt("ra", ciphertext, 16, OAEP_SHA1) == first, what
    assert await signer.ra_decrypt("ra", good, 16, OAEP_SHA1) == b"k" * 16


async def test_a_bad_ciphertext_that_is_asked_for_in_several_ways_is_never_the_same(signer: Signer) -> None:
    """A CA's own key must not tell a server that was taken over which ciphertexts are well padded: it could sign with that."""
    for ciphertext in (b"\x01" * 256, bytes(256), b""):
        answers = {
            (await signer.ra_decrypt(key, ciphertext, length, transport))[:8]
            for key in ("ca", "ra")
            for length in (8, 16, 24, 32)
            for transport in sorted(OF_A_TOKEN, key=str)
        }
        assert len(answers) == 2 * 4 * 2


async def test_no_flood_of_strangers_holds_up_a_ca(place: str, signer: Signer) -> None:
    """Everybody can send messages to be opened. More of them than one connection has under way; in a token, in its one thread."""
    ciphertext = public("ra").encrypt(b"k" * 16, KeyTransport.PKCS1.padding)
    flood = [
        asyncio.ensure_future(signer.ra_decrypt(key, ciphertext, 16, KeyTransport.PKCS1))
        for key in ("ra", "ca")
        for _ in range(500)
    ]
    await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
    await signer.sign_announcement("ca", announcement())
    before = sum(each.done() for each in flood)
    await asyncio.gather(*flood)
    assert before < (300 if place == "file" else 60)  # 64 of them are with the signer at a time


# ---------------------------------------------------------------- a CA that speaks for itself


@pytest.mark.parametrize("status", ["0", "2", "3"])
async def test_a_ca_that_is_its_own_ra_signs_its_answers(signer: Signer, status: str) -> None:
    for digest, algorithm in ((Hash.SHA256, hashes.SHA256()), (Hash.SHA512, hashes.SHA512())):
        attributes = cert_rep(status=status, digest=digest.value)
        signature = await signer.ra_sign("ca", attributes, digest)
        public("ca").verify(signature, attributes, padding.PKCS1v15(), algorithm)


async def test_a_ca_announces_its_successor(signer: Signer) -> None:
    signature = await signer.sign_announcement("ca", announcement())
    public("ca").verify(signature, announcement(), padding.PKCS1v15(), hashes.SHA256())


async def test_a_ca_announces_no_other_than_its_configuration_names(signer: Signer) -> None:
    """Clients come to trust whom it announces, so a server that was taken over must not have the choice."""
    other = encode({**signed(), MESSAGE_DIGEST: octets(hashlib.sha256(b"somebody else's CA").digest())})
    with pytest.raises(SignerRefused, match="configuration"):
        await signer.sign_announcement("ca", other)


async def test_neither_door_lets_a_certificate_or_the_others_message_out(signer: Signer) -> None:
    tbs = leaf(CA)
    for refused in (tbs, b"\x31" + tbs[1:], b"signed attributes", announcement()):
        with pytest.raises(SignerRefused):
            await signer.ra_sign("ca", refused, Hash.SHA256)
    for refused in (tbs, b"\x31" + tbs[1:], b"signed attributes", cert_rep()):
        with pytest.raises(SignerRefused):
            await signer.sign_announcement("ca", refused)
    for digest in (Hash.MD5, Hash.SHA1):
        with pytest.raises(SignerRefused, match=f"signs nothing with {digest.value}"):
            await signer.ra_sign("ca", cert_rep(digest=digest.value), digest)
    with pytest.raises(SignerRefused, match="registration authority"):
        await signer.sign_announcement("ra", announcement())
    for door in (signer.sign_certificate, signer.sign_crl, signer.sign_ocsp):
        with pytest.raises(SignerRefused):
            await door("ca", cert_rep())
        with pytest.raises(SignerRefused):
            await door("ca", announcement())


async def test_a_ca_that_speaks_still_signs_certificates(signer: Signer) -> None:
    tbs = leaf(CA)
    public("ca").verify(await signer.sign_certificate("ca", tbs), tbs, padding.PKCS1v15(), hashes.SHA256())
