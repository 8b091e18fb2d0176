"""One contract, two places for keys: files and a SoftHSM2 token, each behind a real signer process and its socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from pki.certificate import assemble, signature_algorithm, verify_signature
from pki.clock import to_micros
from pki.cms.transport import KeyTransport
from pki.reasons import RevocationReason
from signer.api import Hash, KeyConfig, KeyUse, Signer, SignerRefused
from signer.client import SignerClient
from signer.configuration import ProcessConfig
from signer.crl import CrlEntry, build_crl_tbs, finish_crl
from signer.envelope import spki
from signer.keyring import open_keys
from signer.ocsp import Good, build_ocsp_tbs, finish_ocsp, parse_ocsp_request
from signer.software import KeyKind
from tests.helpers.signing import BEGIN, LIFETIME, Authority, SignerProcess, authority, leaf, ra_key, software_keys
from tests.helpers.softhsm import SoftHsm

NOW = to_micros(BEGIN)


@dataclass(frozen=True, slots=True)
class Served:
    """A signer process and the CA whose key it holds as `issuing`, with an RA key `ra` beside it."""

    issuer: Authority
    process: SignerProcess
    socket: Path


def token_keys(token: SoftHsm, issuer: Authority) -> tuple[KeyConfig, ...]:
    return (
        KeyConfig(name="issuing", use=KeyUse.ISSUER, source=token.put("issuing", issuer.key, 1), envelope=issuer.envelope()),
        KeyConfig(name="ra", use=KeyUse.RA, source=token.put("ra", ra_key(), 2), envelope=None),
    )


@pytest.fixture(
    scope="module",
    params=[
        ("file", KeyKind.EC_P256), ("file", KeyKind.ED25519), ("file", KeyKind.RSA_2048),
        ("token", KeyKind.EC_P256), ("token", KeyKind.EC_P384), ("token", KeyKind.RSA_2048),
    ],
    ids=lambda param: f"{param[0]}-{param[1].value}",
)  # fmt: skip
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place, kind = request.param
    directory = tmp_path_factory.mktemp("signer")
    issuer = authority(kind)
    environment = None
    if place == "token":
        token = SoftHsm.create(directory / "hsm")
        environment = token.environment
        keys = token_keys(token, issuer)
    else:
        keys = software_keys(directory, issuer)
    socket = directory / "socket"
    process = SignerProcess(ProcessConfig(listen=socket, keys=keys), environment=environment, errors=directory / "log")
    yield Served(issuer, process, socket)
    assert process.end() == 0
    assert not socket.exists()


@pytest.fixture
async def signer(served: Served) -> AsyncIterator[Signer]:
    client = SignerClient(served.socket)
    yield client
    await client.close()


async def test_the_public_key_is_the_certificates(served: Served, signer: Signer) -> None:
    assert await signer.public_key("issuing") == spki(served.issuer.key.public_key())
    assert await signer.public_key("ra") == spki(ra_key().public_key())


async def test_a_signed_certificate_verifies_under_its_issuer(served: Served, signer: Signer) -> None:
    tbs = leaf(served.issuer)
    signature = await signer.sign_certificate("issuing", tbs)
    algorithm = signature_algorithm(served.issuer.key.public_key())
    certificate = x509.load_der_x509_certificate(assemble(tbs, algorithm, signature))
    certificate.verify_directly_issued_by(served.issuer.certificate)
    assert certificate.tbs_certificate_bytes == tbs


async def test_a_signed_crl_verifies_under_its_issuer(served: Served, signer: Signer) -> None:
    tbs = build_crl_tbs(
        issuer_certificate=served.issuer.certificate,
        entries=[CrlEntry(77, NOW, RevocationReason.KEY_COMPROMISE)],
        number=3,
        this_update=NOW,
        next_update=to_micros(BEGIN + LIFETIME),
    )
    signature = await signer.sign_crl("issuing", tbs)
    crl = x509.load_der_x509_crl(finish_crl(tbs, issuer_certificate=served.issuer.certificate, signature=signature))
    assert crl.is_signature_valid(served.issuer.key.public_key())


async def test_a_signed_ocsp_answer_verifies_under_its_issuer(served: Served, signer: Signer) -> None:
    request = ocsp.OCSPRequestBuilder().add_certificate_by_hash(b"\1" * 32, b"\2" * 32, 77, hashes.SHA256()).build()
    tbs = build_ocsp_tbs(
        issuer_certificate=served.issuer.certificate,
        request=parse_ocsp_request(request.public_bytes(Encoding.DER)),
        status=Good(),
        produced_at=NOW,
        this_update=NOW,
        next_update=None,
    )
    signature = await signer.sign_ocsp("issuing", tbs)
    answer = ocsp.load_der_ocsp_response(finish_ocsp(tbs, issuer_certificate=served.issuer.certificate, signature=signature))
    algorithm = signature_algorithm(served.issuer.certificate.public_key())
    assert verify_signature(served.issuer.certificate.public_key(), algorithm, answer.signature, answer.tbs_response_bytes)


@pytest.mark.parametrize("digest", list(Hash))
async def test_an_ra_signature_verifies_with_the_digest_that_was_asked_for(signer: Signer, digest: Hash) -> None:
    algorithm: hashes.HashAlgorithm = {
        Hash.MD5: hashes.MD5(), Hash.SHA1: hashes.SHA1(),  # noqa: S303  # what old SCEP clients sent
        Hash.SHA256: hashes.SHA256(),
        Hash.SHA384: hashes.SHA384(), Hash.SHA512: hashes.SHA512(),
    }[digest]  # fmt: skip
    signature = await signer.ra_sign("ra", b"signed attributes", digest)
    ra_key().public_key().verify(signature, b"signed attributes", padding.PKCS1v15(), algorithm)


@pytest.mark.parametrize("length", [8, 16, 24, 32])
async def test_a_content_encryption_key_is_decrypted(signer: Signer, length: int) -> None:
    secret = bytes(range(length))
    ciphertext = ra_key().public_key().encrypt(secret, padding.PKCS1v15())
    assert await signer.ra_decrypt("ra", ciphertext, length, KeyTransport.PKCS1) == secret


def tampered() -> list[tuple[str, bytes]]:
    good = ra_key().public_key().encrypt(b"k" * 16, padding.PKCS1v15())
    numbers = ra_key().public_key().public_numbers()

    def raw(block: bytes) -> bytes:
        return pow(int.from_bytes(block.rjust(256, b"\0"), "big"), numbers.e, numbers.n).to_bytes(256, "big")

    return [
        ("another length inside", ra_key().public_key().encrypt(b"k" * 24, padding.PKCS1v15())),
        ("nothing inside", ra_key().public_key().encrypt(b"", padding.PKCS1v15())),
        ("one bit changed", bytes((*good[:-1], good[-1] ^ 1))),
        ("block type 1", raw(b"\0\1" + b"\xff" * 237 + b"\0" + b"k" * 16)),
        ("no separator", raw(b"\0\2" + b"\xff" * 254)),
        ("padding of 7 octets", raw(b"\0\2" + b"\xff" * 7 + b"\0" + b"k" * 246)),
        ("first octet not zero", raw(b"\x01\2" + b"\xff" * 237 + b"\0" + b"k" * 16)),
        ("zero", bytes(256)),
        ("too short", good[:-1]),
        ("too long", good + b"\0"),
        ("not below the modulus", b"\xff" * 256),
        ("empty", b""),
    ]


async def test_bad_padding_gives_random_bytes_of_the_length_and_no_error(signer: Signer) -> None:
    # RFC 3218 §2.3.2. The same bytes when the same ciphertext comes back: repetition must tell nothing either.
    for what, ciphertext in tampered():
        first = await signer.ra_decrypt("ra", ciphertext, 16, KeyTransport.PKCS1)
        assert len(first) == 16, what
        assert first != b"k" * 16, what
        assert await signer.ra_decrypt("ra", ciphertext, 16, KeyTransport.PKCS1) == first, what
    assert await signer.ra_sign("ra", b"still there", Hash.SHA256)


async def test_what_is_outside_the_envelope_is_refused_with_its_rule(served: Served, signer: Signer) -> None:
    with pytest.raises(SignerRefused, match="longer than 47 days"):
        await signer.sign_certificate("issuing", leaf(served.issuer, end=BEGIN + LIFETIME))


async def test_a_certificate_goes_through_no_other_door(served: Served, signer: Signer) -> None:
    tbs = leaf(served.issuer)
    with pytest.raises(SignerRefused, match="TBSCertList"):
        await signer.sign_crl("issuing", tbs)
    with pytest.raises(SignerRefused, match="ResponseData"):
        await signer.sign_ocsp("issuing", tbs)
    with pytest.raises(SignerRefused, match="issuer's"):
        await signer.ra_sign("issuing", tbs, Hash.SHA256)
    with pytest.raises(SignerRefused, match="issuer's"):
        await signer.ra_decrypt("issuing", tbs, 16, KeyTransport.PKCS1)
    with pytest.raises(SignerRefused, match="registration authority"):
        await signer.sign_certificate("ra", tbs)
    with pytest.raises(SignerRefused, match="registration authority"):
        await signer.sign_crl("ra", tbs)
    with pytest.raises(SignerRefused, match="registration authority"):
        await signer.sign_ocsp("ra", tbs)


async def test_an_unknown_key_is_refused(served: Served, signer: Signer) -> None:
    with pytest.raises(SignerRefused, match="no key 'nobody'"):
        await signer.sign_certificate("nobody", leaf(served.issuer))


async def test_an_absurd_key_length_is_refused(signer: Signer) -> None:
    for length in (0, 1, 7, 33, 65):
        with pytest.raises(SignerRefused, match="8 to 32"):
            await signer.ra_decrypt("ra", bytes(256), length, KeyTransport.PKCS1)


async def test_two_hundred_requests_over_four_connections_are_all_answered(served: Served) -> None:
    clients = [SignerClient(served.socket, timeout=60) for _ in range(4)]
    algorithm = signature_algorithm(served.issuer.key.public_key())

    async def one(number: int) -> None:
        tbs = leaf(served.issuer, serial=(1 << 100) + number)
        signature = await clients[number % 4].sign_certificate("issuing", tbs)
        assert verify_signature(served.issuer.key.public_key(), algorithm, signature, tbs)

    await asyncio.gather(*(one(number) for number in range(200)))
    await asyncio.gather(*(client.close() for client in clients))


async def test_ping_comes_back(signer: Signer) -> None:
    await signer.ping()


async def test_a_key_ring_without_a_process_keeps_the_same_contract(tmp_path: Path) -> None:
    def log(event: str, **fields: object) -> None:
        raise AssertionError(event)

    issuer = authority()
    ring: Signer = await open_keys(software_keys(tmp_path, issuer), log=log)
    tbs = leaf(issuer)
    signature = await ring.sign_certificate("issuing", tbs)
    assert verify_signature(issuer.key.public_key(), signature_algorithm(issuer.key.public_key()), signature, tbs)
    await ring.ping()
    await ring.close()
