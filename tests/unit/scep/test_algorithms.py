"""Digests, ciphers and key transports of messages: what an endpoint takes, what it names when it does not, and what is counted."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding

from issuance.request import Pending
from pki.cms.transport import KeyTransport
from scep import message
from scep.endpoint import Renewal
from tests.helpers import scep as other
from tests.helpers.scep import (
    HASHES,
    Answer,
    Message,
    content_cipher,
    csr,
    enveloped,
    legacy_csr,
    opened_certificates,
    parse_answer,
    pkcs_req,
    read_answer,
    rsa_key,
    seq,
)
from tests.helpers.scep_site import ROLES, the_certificate
from tests.helpers.scep_world import ADDRESS, ScepWorld, scep_world


@pytest.fixture
async def site() -> AsyncIterator[ScepWorld]:
    async with scep_world() as world:
        yield world


def is_bad_alg(answer: Answer) -> None:
    assert (answer.status, answer.fail_info) == ("2", "0")
    assert answer.content == b""


@pytest.mark.parametrize("legacy", [(), ("sha1", "md5")], ids=["modern", "legacy"])
@pytest.mark.parametrize("digest", ["md5", "sha1", "sha256"])
async def test_digests_below_the_floor_are_bad_alg_and_named(site: ScepWorld, digest: str, legacy: tuple[str, ...]) -> None:
    request = pkcs_req(site.ca)
    request.digest = digest
    answer = await site.ask(request, legacy=legacy)
    if digest == "sha256" or legacy:
        assert (answer.status, answer.digest) == ("0", digest)
    else:
        is_bad_alg(answer)
        assert answer.digest == "sha256"  # the answer is never weaker than the floor
        assert answer.text is not None
        assert digest in answer.text


@pytest.mark.parametrize("legacy", [(), ("des-cbc", "des-ede3-cbc")], ids=["modern", "legacy"])
@pytest.mark.parametrize("cipher", ["des-cbc", "des-ede3-cbc"])
async def test_ciphers_below_the_floor_are_bad_alg_and_named(
    site: ScepWorld, tmp_path: Path, cipher: str, legacy: tuple[str, ...]
) -> None:
    request = pkcs_req(site.ca, cipher=cipher)
    data = await site.send(request.encode(), endpoint=site.ca.endpoint(legacy=legacy))
    answer = read_answer(data, site.ca, tmp_path)
    if legacy:
        assert content_cipher(answer) == cipher
        assert len(opened_certificates(answer, request, tmp_path)) == 1
    else:
        is_bad_alg(answer)
        assert answer.text is not None
        assert cipher in answer.text
        assert site.signer.decryptions == 0


@pytest.mark.parametrize("legacy", [(), ("sha1",), ("md5",)], ids=["modern", "sha1", "md5"])
@pytest.mark.parametrize("digest", ["md5", "sha1"])
async def test_a_request_signed_weakly_is_bad_alg_and_named(
    site: ScepWorld, tmp_path: Path, digest: str, legacy: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    request = Message(content=enveloped(legacy_csr(rsa_key("device"), digest, tmp_path), site.ca.ra))
    with caplog.at_level(logging.WARNING):
        answer = await site.ask(request, legacy=legacy)
    if digest in legacy:
        assert answer.status == "0"
        assert f"legacy algorithms {digest} in use" in caplog.text
    else:
        is_bad_alg(answer)
        assert answer.text is not None
        assert digest.upper() in answer.text.upper()


async def test_every_message_in_legacy_algorithms_is_counted_whatever_it_asks_for(site: ScepWorld) -> None:
    """Also where it is refused for another reason: the device needs the switch all the same."""
    endpoint = dataclasses.replace(site.ca.endpoint(legacy=("sha1", "des-ede3-cbc")), renewal=Renewal(ROLES))
    first = pkcs_req(site.ca)
    held = the_certificate(await site.ask(first, endpoint=endpoint), first)
    assert site.counts.legacies == []
    site.issuance.script.append(Pending("i-1", 30))
    names = other.issuer_and_serial(held)
    for status, message_type, transaction_id, inside in (
        ("3", "17", "TX-2", csr(rsa_key("device"), challenge=None)),
        ("0", "20", "TX-2", b"whatever"),
        ("0", "21", "TX-3", names),
        ("2", "19", "TX-4", csr(rsa_key("device"), challenge="guess", common_name="dev2")),
        ("2", "20", "TX-5", b"whatever"),
        ("2", "21", "TX-3", b"whatever"),
    ):
        content = enveloped(inside, site.ca.ra, cipher="des-ede3-cbc")
        request = Message(signer=held, content=content, message_type=message_type, transaction_id=transaction_id, digest="sha1")
        assert (await site.ask(request, endpoint=endpoint)).status == status
        assert site.counts.legacies == [("default", "des-ede3-cbc"), ("default", "sha1")], message_type
        site.counts.legacies.clear()


async def test_an_unknown_digest_is_bad_alg_answered_with_sha256(site: ScepWorld) -> None:
    signed = message.parse(pkcs_req(site.ca).encode())
    info = signed.signed.info
    algorithm = dataclasses.replace(info.digest_algorithm, oid=other.oid("1.2.3.4"))
    strange = dataclasses.replace(signed.signed, info=dataclasses.replace(info, digest_algorithm=algorithm))
    authority = site.authority(site.ca.endpoint())
    answer = parse_answer(await authority.answer(dataclasses.replace(signed, signed=strange), source_address=ADDRESS))
    is_bad_alg(answer)
    assert answer.text is not None
    assert "1.2.3.4" in answer.text


async def test_an_ec_signer_is_bad_alg_for_nothing_can_be_encrypted_to_it(site: ScepWorld) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    request = Message(key=key, content=enveloped(csr(key), site.ca.ra))
    answer = await site.ask(request)
    is_bad_alg(answer)
    assert answer.text is not None
    assert "RSA" in answer.text


async def test_oaep_with_odd_parameters_is_bad_alg(site: ScepWorld) -> None:
    content = enveloped(csr(rsa_key("device")), site.ca.ra, transport="1.2.840.113549.1.1.7")  # with NULL
    answer = await site.ask(Message(content=content))
    is_bad_alg(answer)
    assert answer.text is not None
    assert "RSAES-OAEP" in answer.text


async def test_a_request_whose_key_is_encrypted_with_oaep_gets_its_certificate(site: ScepWorld) -> None:
    """Windows and those who speak as NDES does; without parameters everything is SHA-1 (RFC 4055 §4.1)."""
    oaep = padding.OAEP(padding.MGF1(HASHES["sha1"]), HASHES["sha1"], None)
    content = enveloped(
        csr(rsa_key("device")), site.ca.ra, transport="1.2.840.113549.1.1.7", transport_parameters=seq(), scheme=oaep
    )
    assert (await site.ask(Message(content=content))).status == "0"


async def test_a_key_transport_that_a_token_does_not_do_is_bad_alg_and_says_what_is_done(site: ScepWorld) -> None:
    site.signer.lacks = KeyTransport.PKCS1
    answer = await site.ask(pkcs_req(site.ca))
    is_bad_alg(answer)
    assert answer.text == "use another"
