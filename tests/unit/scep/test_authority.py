"""RFC 8894 as one conversation: who gets a certificate, who gets which refusal, and what nobody learns from it.

Answers are verified and decrypted with openssl, or read with asn1crypto; messages are made by tests/helpers/scep.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from asn1crypto import cms as asn1_cms
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from issuance.request import Channel, Pending, Rejected, ScepChallenge
from issuance.scep_challenges import ScepChallenges, Terms
from pki.cms.errors import CmsError
from pki.reasons import Reason, Rejection, Unavailable
from policy.principal import COMMAND_LINE, PrincipalKind
from scep import message
from scep.authorization import REFUSED
from scep.endpoint import Renewal, ScepEndpoint, Way
from scep.failinfo import REASONS
from scep.onetime import OneTimeWay
from tests.helpers import scep as other
from tests.helpers.scep import (
    SECRET,
    Answer,
    Message,
    ScepCa,
    content_cipher,
    csr,
    der_of,
    enveloped,
    opened_certificates,
    parse_answer,
    pkcs_req,
    read_answer,
    rsa_key,
    self_signed,
)
from tests.helpers.scep_site import ROLES
from tests.helpers.scep_world import ADDRESS, ScepWorld, scep_world


@pytest.fixture
async def site() -> AsyncIterator[ScepWorld]:
    async with scep_world() as world:
        yield world


BAD_MESSAGE_CHECK, BAD_REQUEST, BAD_CERT_ID = "1", "2", "4"


def refused(answer: Answer, fail_info: str) -> None:
    assert (answer.status, answer.fail_info) == ("2", fail_info)
    assert answer.content == b""


# ---------------------------------------------------------------- the certificate


async def test_a_pkcsreq_gets_its_certificate_and_nothing_else(site: ScepWorld, tmp_path: Path) -> None:
    """§4.3: SUCCESS carries the issued certificate, encrypted to the requester, signed by the RA."""
    request = pkcs_req(site.ca)
    answer = read_answer(await site.send(request.encode()), site.ca, tmp_path)
    assert (answer.status, answer.fail_info, answer.message_type) == ("0", None, "3")
    (certificate,) = opened_certificates(answer, request, tmp_path)
    assert certificate.public_key() == rsa_key("device").public_key()
    assert answer.bag == (der_of(site.ca.ra),)


async def test_both_nonces_and_the_transaction_id_come_back_as_printable_strings(site: ScepWorld) -> None:
    """§3.2.1.5: the client's senderNonce returns as recipientNonce; ours is fresh, 16 octets."""
    answers = [await site.ask(pkcs_req(site.ca)) for _ in range(2)]
    assert all(answer.recipient_nonce == b"n" * 16 and answer.transaction_id == "TX-1" for answer in answers)
    assert answers[0].sender_nonce != answers[1].sender_nonce
    assert {len(answer.sender_nonce) for answer in answers} == {16}


async def test_the_pipeline_is_asked_with_everything_that_it_must_know(site: ScepWorld) -> None:
    await site.ask(pkcs_req(site.ca))
    (request,) = site.issuance.requests
    assert (request.channel, request.endpoint, request.profile) == (Channel.SCEP, "default", "device")
    assert (request.principal.kind, request.principal.id) == (PrincipalKind.SCEP_CLIENT, "default")
    assert (request.principal.roles, request.principal.source_address) == (frozenset({"device"}), ADDRESS)
    assert request.evidence == (ScepChallenge("default"),)
    assert [identifier.tag for identifier in request.identifiers] == ["dns:dev1.example.com"]
    assert request.common_name == "dev1"


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("cipher", ["aes-128-cbc", "aes-192-cbc", "aes-256-cbc"])
async def test_the_answer_mirrors_digest_and_cipher(site: ScepWorld, tmp_path: Path, digest: str, cipher: str) -> None:
    """IOS fails on a cipher that it did not send, OpenSSL 3 on DES: mirror, never a default."""
    request = pkcs_req(site.ca, cipher=cipher)
    request.digest = digest
    answer = read_answer(await site.send(request.encode()), site.ca, tmp_path)
    assert (answer.digest, content_cipher(answer)) == (digest, cipher)
    assert len(opened_certificates(answer, request, tmp_path)) == 1


@pytest.mark.parametrize("transaction_id", ["A" * 32, "a+/b==", "7" * 77, "SSCEP transactionId", "x", "z" * 255])
async def test_transaction_ids_of_every_client_return_unchanged(site: ScepWorld, transaction_id: str) -> None:
    request = pkcs_req(site.ca)
    request.transaction_id = transaction_id
    assert (await site.ask(request)).transaction_id == transaction_id


async def test_a_signer_with_a_subject_of_its_own_is_welcome(site: ScepWorld) -> None:
    """scepclient calls its signer "SCEP SIGNER"; the key is what counts."""
    request = pkcs_req(site.ca)
    request.signer = self_signed(rsa_key("device"), "SCEP SIGNER")
    assert (await site.ask(request)).status == "0"


async def test_an_extra_certificate_in_the_bag_is_not_a_recipient(site: ScepWorld) -> None:
    """Peers encrypt the answer to all certificates in the bag."""
    request = pkcs_req(site.ca)
    request.bag = [der_of(self_signed(rsa_key("stranger"), "stranger")), der_of(request.certificate())]
    answer = await site.ask(request)
    assert answer.status == "0"
    inner = asn1_cms.ContentInfo.load(answer.content)["content"]
    (recipient,) = inner["recipient_infos"]
    assert recipient.chosen["rid"].chosen["serial_number"].native == request.certificate().serial_number


# ---------------------------------------------------------------- repetition


async def test_a_repeated_request_gets_the_same_certificate(site: ScepWorld, tmp_path: Path) -> None:
    request = pkcs_req(site.ca)
    data = request.encode()
    answers = [read_answer(await site.send(data), site.ca, tmp_path) for _ in range(2)]
    first, second = (opened_certificates(answer, request, tmp_path)[0] for answer in answers)
    assert first == second
    assert len(site.issuance.issued) == 1


async def test_two_at_once_are_one_certificate(site: ScepWorld) -> None:
    data = pkcs_req(site.ca).encode()
    await asyncio.gather(*(site.send(data) for _ in range(5)))
    assert len({request.idempotency_key for request in site.issuance.requests}) == 1


async def test_another_request_under_the_same_transaction_id_is_another_transaction(site: ScepWorld) -> None:
    """sscep uses a constant id for some operations; renewal keeps key and id and wants a new certificate."""
    await site.ask(pkcs_req(site.ca))
    await site.ask(pkcs_req(site.ca, common_name="dev1-renewed"))
    again = pkcs_req(site.ca)
    again.transaction_id = "TX-2"
    await site.ask(again)
    assert len(site.issuance.issued) == 3


async def test_pending_is_a_certrep_pending(site: ScepWorld, tmp_path: Path) -> None:
    site.issuance.script.append(Pending("i-1", 30))
    answer = read_answer(await site.send(pkcs_req(site.ca).encode()), site.ca, tmp_path)
    assert (answer.status, answer.fail_info, answer.content) == ("3", None, b"")


# ---------------------------------------------------------------- who may


@pytest.mark.parametrize("challenge", [None, "", "guess", SECRET.upper(), SECRET + " "])
async def test_without_the_right_challenge_there_is_no_certificate(site: ScepWorld, challenge: str | None) -> None:
    answer = await site.ask(pkcs_req(site.ca, challenge=challenge))
    refused(answer, BAD_REQUEST)
    assert answer.text == REFUSED
    assert site.issuance.requests == []


async def test_a_missing_and_a_wrong_challenge_look_the_same(site: ScepWorld) -> None:
    missing, wrong = [await site.ask(pkcs_req(site.ca, challenge=challenge)) for challenge in (None, "guess")]
    assert len(missing.der) == len(wrong.der)
    assert (missing.fail_info, missing.text) == (wrong.fail_info, wrong.text)


async def test_the_challenge_of_another_endpoint_is_a_wrong_one(site: ScepWorld) -> None:
    endpoint = site.ca.endpoint(name="routers")
    refused(parse_answer(await site.send(pkcs_req(site.ca).encode(), endpoint=endpoint)), BAD_REQUEST)
    assert site.challenges.asked == [("routers", SECRET)]


@pytest.mark.parametrize("message_type", ["17", "19"])
async def test_a_certificate_of_our_name_is_no_substitute_for_a_challenge(site: ScepWorld, message_type: str) -> None:
    """One that our key has signed, and that the ledger does not know."""
    ours = other.certificate("dev1", rsa_key("device").public_key(), "Test CA", site.ca.key)
    request = pkcs_req(site.ca, challenge=None)
    request.signer, request.message_type = ours, message_type
    refused(await site.ask(request), BAD_REQUEST)
    assert site.issuance.requests == []


def message_types() -> dict[str, list[bytes]]:
    """As attributes: every number of two digits, what looks like 19, and 19 in other types of string."""
    numbers = [str(number) for number in range(100)]
    odd = ["", "019", "19 ", " 19", "+19", "19.0", "-19", "1\uff19", "0x13", "100", "119", "PKCSReq", "19,19"]
    texts = {repr(text): other.retag(PRINTABLE, other.octets(text.encode())) for text in (*numbers, *odd)}
    types = {
        "an INTEGER": other.integer(19),
        "an OCTET STRING": other.octets(b"19"),
        "a BMPString": other.retag(0x1E, other.octets("19".encode("utf-16-be"))),
        "a T61String": other.retag(0x14, other.octets(b"19")),
        "a NumericString": other.retag(0x12, other.octets(b"19")),
        "a VisibleString": other.retag(0x1A, other.octets(b"19")),
        "a SEQUENCE": other.seq(other.printable("19")),
        "with a NUL": other.retag(PRINTABLE, other.octets(b"19\0")),
    }
    found = {name: [other.attribute(other.MESSAGE_TYPE, value)] for name, value in (texts | types).items()}
    return found | {"missing": []}


PRINTABLE = 0x13
NOT_FOR_STRANGERS = {"'17'": BAD_REQUEST, "'20'": BAD_CERT_ID, "'21'": BAD_REQUEST, "'22'": BAD_REQUEST}


async def _challenges(site: ScepWorld, endpoint: ScepEndpoint) -> dict[str, str | None]:
    once = ScepChallenges(database=site.database, clock=site.clock)
    site.ways[Way.ONE_TIME] = OneTimeWay(once, observer=site.counts)
    made = [await once.create(Terms("default", ROLES), lifetime=timedelta(hours=1), made_by=COMMAND_LINE) for _ in range(2)]
    used, unused = [one.challenge for one in made]
    first = Message(key=rsa_key("stranger"), content=enveloped(csr(rsa_key("stranger"), challenge=used), site.ca.ra))
    assert (await site.ask(first, endpoint=endpoint)).status == "0"
    site.issuance.requests.clear()
    return {"none": None, "wrong": "guess", "used": used, "right": SECRET, "right, opens once": unused}


async def test_only_a_pkcsreq_with_a_right_challenge_ever_reaches_the_pipeline(site: ScepWorld) -> None:
    """CVE-2026-30836: a message type that was parsed as a request, and forgotten where the challenge was checked."""
    endpoint = dataclasses.replace(site.ca.endpoint(), challenges=(Way.STATIC, Way.ONE_TIME), renewal=Renewal(ROLES))
    for challenge, text in (await _challenges(site, endpoint)).items():
        request = pkcs_req(site.ca, challenge=text)
        request.message_type, request.signer = None, self_signed(rsa_key("device"))
        for name, attributes in message_types().items():
            if name == "'19'":
                continue
            answer = await site.ask(dataclasses.replace(request, extra_attributes=attributes), endpoint=endpoint)
            refused(answer, NOT_FOR_STRANGERS.get(name, BAD_REQUEST))
            assert site.issuance.requests == [], (name, challenge)
        answer = await site.ask(dataclasses.replace(request, message_type="19"), endpoint=endpoint)
        assert (answer.status, len(site.issuance.requests)) == (("0", 1) if challenge.startswith("right") else ("2", 0))
        site.issuance.requests.clear()


async def test_a_message_of_two_types_is_none(site: ScepWorld) -> None:
    request = pkcs_req(site.ca)
    request.message_type = None
    for attributes in (
        [other.attribute(other.MESSAGE_TYPE, other.printable("19"), other.printable("18"))],
        [other.attribute(other.MESSAGE_TYPE, other.printable(number)) for number in ("19", "18")],
        [other.attribute(other.MESSAGE_TYPE)],
    ):
        with pytest.raises(CmsError):
            await site.ask(dataclasses.replace(request, extra_attributes=attributes))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=6).filter(lambda text: text != "19"))
async def test_no_text_but_19_is_a_request(site: ScepWorld, text: str) -> None:
    value = other.retag(PRINTABLE, other.octets(text.encode()))
    attributes = [other.attribute(other.MESSAGE_TYPE, value)]
    answer = await site.ask(dataclasses.replace(pkcs_req(site.ca), message_type=None, extra_attributes=attributes))
    assert (answer.status, site.issuance.requests) == ("2", [])


# ---------------------------------------------------------------- whose request


async def test_a_request_of_another_key_than_the_signers_is_refused(site: ScepWorld) -> None:
    """§2.3: the self-signed certificate has the key of the request. Else its signature would prove nothing."""
    foreign = csr(rsa_key("stranger"))
    answer = await site.ask(Message(content=enveloped(foreign, site.ca.ra)))
    refused(answer, BAD_MESSAGE_CHECK)
    assert site.challenges.asked == []


async def test_a_broken_signature_is_told_as_bad_message_check(site: ScepWorld) -> None:
    refused(await site.ask(dataclasses.replace(pkcs_req(site.ca), signature=bytes(256))), BAD_MESSAGE_CHECK)


async def test_changed_content_is_told_as_bad_message_check(site: ScepWorld) -> None:
    refused(await site.ask(dataclasses.replace(pkcs_req(site.ca), content_digest=bytes(32))), BAD_MESSAGE_CHECK)


def broken_inside(ca: ScepCa) -> dict[str, bytes]:
    good = csr(rsa_key("device"))
    flipped = bytearray(good)
    flipped[60] ^= 1
    stranger = csr(rsa_key("stranger"))
    return {
        "a foreign request": enveloped(stranger, ca.ra),
        "a broken encrypted key": enveloped(good, ca.ra, encrypted_key=b"\x01" * 256),
        "an encrypted key of another length": enveloped(good, ca.ra, encrypted_key=b"\x01" * 255),
        "a content key of the wrong length": enveloped(good, ca.ra, cek=os.urandom(32)),
        "another content key": enveloped(good, ca.ra, cek=os.urandom(16)),
        "bad padding": enveloped(good, ca.ra, ciphertext=os.urandom(1024)),
        "half a block": enveloped(good, ca.ra, ciphertext=os.urandom(1025)),
        "garbage": enveloped(b"garbage", ca.ra),
        "nothing": enveloped(b"", ca.ra),
        "deep garbage": enveloped(b"\x30\x80" * 500, ca.ra),
        "a request with something behind it": enveloped(good + b"\0", ca.ra),
        "a request cut short": enveloped(good[:-1], ca.ra),
        "a request with half of a key": enveloped(good[:200], ca.ra),
        "a certificate": enveloped(der_of(ca.certificate), ca.ra),
        "a request in PEM": enveloped(b"-----BEGIN CERTIFICATE REQUEST-----\n", ca.ra),
    }


async def test_whatever_is_wrong_inside_the_envelope_the_answer_is_the_same(site: ScepWorld) -> None:
    """Bleichenbacher, Vaudenay, and the reader of other people's challenges: one failInfo, one text, one shape."""
    answers = {name: await site.ask(Message(content=content)) for name, content in broken_inside(site.ca).items()}
    for name, answer in answers.items():
        refused(answer, BAD_MESSAGE_CHECK)
        assert answer.text == "the encrypted content cannot be read", name
    assert len({len(answer.der) for answer in answers.values()}) == 1
    assert site.challenges.asked == []
    assert site.issuance.requests == []


async def test_a_captured_envelope_under_another_signature_tells_nothing(site: ScepWorld) -> None:
    """The attacker signs somebody's EnvelopedData with a key of his own, bit by bit: never a certificate, never another text."""
    captured = enveloped(csr(rsa_key("device")), site.ca.ra)
    texts = set()
    for position in range(len(captured) - 700, len(captured), 23):
        changed = bytearray(captured)
        changed[position] ^= 1
        answer = await site.ask(Message(key=rsa_key("stranger"), content=bytes(changed)))
        texts.add((answer.status, answer.fail_info, answer.text, len(answer.der)))
    assert len(texts) == 1
    assert site.issuance.requests == []


async def test_a_message_to_another_ra_is_told_to_fetch_the_certificate_anew(site: ScepWorld) -> None:
    request = Message(content=enveloped(csr(rsa_key("device")), self_signed(rsa_key("stranger"), "old RA")))
    answer = await site.ask(request)
    refused(answer, BAD_MESSAGE_CHECK)
    assert answer.text is not None
    assert "GetCACert" in answer.text


# ---------------------------------------------------------------- refusals from below


@pytest.mark.parametrize("reason", [*Reason])
async def test_every_rejection_is_a_signed_failure_with_its_text(site: ScepWorld, reason: Reason) -> None:
    site.issuance.script.append(Rejected(Rejection(reason, "because")))
    answer = await site.ask(pkcs_req(site.ca))
    refused(answer, REASONS[reason].value)
    assert answer.text == "because"


async def test_a_name_that_is_none_is_refused_with_the_name(site: ScepWorld) -> None:
    request = Message(content=enveloped(csr(rsa_key("device"), sans=["under_score.example.com"]), site.ca.ra))
    answer = await site.ask(request)
    refused(answer, BAD_REQUEST)
    assert answer.text is not None
    assert "under_score.example.com" in answer.text


@pytest.mark.parametrize("where", ["signer", "issuance"])
async def test_an_outage_is_no_failure_but_passes_through(site: ScepWorld, where: str) -> None:
    """A CertRep FAILURE would make the device give up; 503 makes it come back."""
    outage = Unavailable("the signer")
    if where == "signer":
        site.signer.failure = outage
    else:
        site.issuance.script.append(outage)
    with pytest.raises(Unavailable):
        await site.send(pkcs_req(site.ca).encode())


# ---------------------------------------------------------------- what cannot be answered


@pytest.mark.parametrize(
    "message_",
    [
        pytest.param(lambda m: dataclasses.replace(m, transaction_id=None), id="no transactionID"),
        pytest.param(lambda m: dataclasses.replace(m, transaction_id=""), id="an empty transactionID"),
        pytest.param(lambda m: dataclasses.replace(m, transaction_id="x" * 256), id="a long transactionID"),
        pytest.param(lambda m: dataclasses.replace(m, nonce=None), id="no senderNonce"),
        pytest.param(lambda m: dataclasses.replace(m, nonce=b""), id="an empty senderNonce"),
        pytest.param(lambda m: dataclasses.replace(m, nonce=b"x" * 65), id="a long senderNonce"),
        pytest.param(lambda m: dataclasses.replace(m, signers=2), id="two signers"),
        pytest.param(
            lambda m: dataclasses.replace(m, extra_attributes=[other.attribute(other.MESSAGE_TYPE, other.printable("18"))]),
            id="messageType twice",
        ),
        pytest.param(
            lambda m: dataclasses.replace(
                m,
                transaction_id=None,
                extra_attributes=[other.attribute(other.TRANSACTION_ID, other.printable("a"), other.printable("b"))],
            ),
            id="two values in transactionID",
        ),
        pytest.param(
            lambda m: dataclasses.replace(
                m, transaction_id=None, extra_attributes=[other.attribute(other.TRANSACTION_ID, other.octets(b"a"))]
            ),
            id="transactionID of another type",
        ),
        pytest.param(
            lambda m: dataclasses.replace(
                m,
                transaction_id=None,
                extra_attributes=[other.attribute(other.TRANSACTION_ID, other.retag(0x13, other.octets(b"a\n")))],
            ),
            id="transactionID with a line break",
        ),
    ],
)
def test_what_has_no_readable_address_is_a_cms_error(site: ScepWorld, message_: object) -> None:
    assert callable(message_)
    with pytest.raises(CmsError):
        message.parse(message_(pkcs_req(site.ca)).encode())


def test_no_secret_shows_in_a_repr(site: ScepWorld) -> None:
    received = message.parse(pkcs_req(site.ca).encode())
    assert received.signed.content.hex()[:40] not in repr(received)
    assert SECRET not in repr(received)


async def test_keys_of_odd_sizes_are_served_or_refused_but_never_crash(site: ScepWorld) -> None:
    for bits in (1024, 1032, 3072):
        key = rsa.generate_private_key(65537, bits)
        answer = await site.ask(Message(key=key, content=enveloped(csr(key), site.ca.ra)))
        assert answer.status == "0", bits
