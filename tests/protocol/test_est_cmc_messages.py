"""Messages that are wrong: each gets a clear status in a signed response, nothing is issued, nothing is told that helps anybody."""

from __future__ import annotations

import base64
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pki.cms.ber import MAX_LENGTH
from storage.open import open_database
from tests.helpers import cmc
from tests.helpers.authorities import ec_key
from tests.helpers.clock import FakeClock
from tests.helpers.cmc import control, csr, pki_data, signed, tcr
from tests.helpers.cmc_world import SECRET, CmcWorld
from tests.helpers.scep import integer, octets, oid, rsa_key, seq

FAILED, NO_SUPPORT = 2, 4
BAD_ALG, BAD_MESSAGE_CHECK, BAD_REQUEST = 0, 1, 2
POP_FAILED, NO_POP = 9, 8


@pytest.fixture
async def world(tmp_path: Path, clock: FakeClock) -> AsyncIterator[CmcWorld]:
    database = await open_database(f"sqlite://{tmp_path}/certwright.db", migrate=True)
    async with CmcWorld(database, clock) as world:
        yield world
    await database.close()


def good(body_part: int = 1) -> bytes:
    return tcr(body_part, csr(ec_key("device key")))


@dataclass(frozen=True, slots=True)
class Wrong:
    message: Callable[[CmcWorld], bytes]
    body_parts: tuple[int, ...]
    fail_info: int | None  # None: the status is noSupport


def by_agent(*controls: bytes, requests: tuple[bytes, ...] | None = None) -> Callable[[CmcWorld], bytes]:
    return lambda world: signed(pki_data(controls, (good(),) if requests is None else requests), world.agent())


def _with_digest(digest: str) -> Callable[[CmcWorld], bytes]:
    def message(world: CmcWorld) -> bytes:
        agent = world.agent()
        agent.digest = digest
        return signed(pki_data(requests=[good()]), agent)

    return message


def _changed_on_the_way(world: CmcWorld) -> bytes:
    content = pki_data(requests=[tcr(1, csr(ec_key("device key"), common_name="dev1"))])
    return signed(content, world.agent()).replace(b"dev1", b"dev2")


def _request_of_another_key(_: CmcWorld) -> bytes:
    """Its signature is by another key than the one in it."""
    mine, other = csr(ec_key("device key")), csr(ec_key("another key"))
    spki, others = cmc.spki(ec_key("device key")), cmc.spki(ec_key("another key"))
    assert spki in mine
    assert others in other
    return mine.replace(spki, others)


WRONG: dict[str, Wrong] = {
    # §3.2.1.1: the whole is refused, and the bodyList has the controls that are not known
    "unknown controls": Wrong(
        by_agent(control(5, "1.2.3.4", integer(1)), control(6, "1.2.3.5", integer(1))), (5, 6), BAD_REQUEST
    ),
    "a control that is known and not served": Wrong(by_agent(control(5, f"{cmc.CMC}31", seq())), (5,), None),
    "messages inside the message": Wrong(by_agent(control(5, cmc.BATCH_REQUESTS, seq(integer(1)))), (5,), None),
    "an identity proof by SHA-1": Wrong(by_agent(control(5, f"{cmc.CMC}3", octets(b"x" * 20))), (5,), None),
    "a request of an unknown kind": Wrong(by_agent(requests=(good(), cmc.orm(2))), (2,), None),
    "a control without a value": Wrong(by_agent(control(5, cmc.TRANSACTION_ID)), (5,), BAD_REQUEST),
    "a control with two values": Wrong(by_agent(control(5, cmc.TRANSACTION_ID, integer(1), integer(2))), (5,), BAD_REQUEST),
    "a control with another's value": Wrong(by_agent(control(5, cmc.TRANSACTION_ID, octets(b"1"))), (5,), BAD_REQUEST),
    "two transactions": Wrong(
        by_agent(control(5, cmc.TRANSACTION_ID, integer(1)), control(6, cmc.TRANSACTION_ID, integer(2))), (5, 6), BAD_REQUEST
    ),
    "a control of responses": Wrong(by_agent(control(5, f"{cmc.CMC}19", octets(b"x"))), (5,), BAD_REQUEST),
    "a nonce that was never given": Wrong(by_agent(control(5, cmc.RECIPIENT_NONCE, octets(b"n" * 32))), (0,), BAD_REQUEST),
    "two body parts of one number": Wrong(by_agent(requests=(good(1), good(1))), (0,), BAD_REQUEST),
    "a body part of number 0": Wrong(by_agent(requests=(good(0),)), (0,), BAD_REQUEST),
    "101 requests": Wrong(by_agent(requests=tuple(good(number) for number in range(1, 102))), (0,), BAD_REQUEST),
    "nothing at all": Wrong(by_agent(requests=()), (0,), BAD_REQUEST),
    "a voucher for a request that is not there": Wrong(
        by_agent(control(5, cmc.LRA_POP_WITNESS, seq(integer(0), seq(integer(9))))), (5,), BAD_REQUEST
    ),
    "an answer for a request that is not there": Wrong(
        by_agent(control(5, cmc.DECRYPTED_POP, seq(integer(9), seq(oid(cmc.HMAC_SHA256)), octets(b"x" * 32)))),
        (5,),
        BAD_REQUEST,
    ),
    "no PKIData inside": Wrong(lambda world: signed(b"hello", world.agent()), (0,), BAD_REQUEST),
    "another kind of content": Wrong(
        lambda world: signed(pki_data(requests=[good()]), world.agent(), content_type="1.2.840.113549.1.7.1"), (0,), BAD_REQUEST
    ),
    "two signers": Wrong(
        lambda world: signed(pki_data(requests=[good()]), world.agent(), world.device()), (0,), BAD_MESSAGE_CHECK
    ),
    "no signer": Wrong(lambda _: signed(pki_data(requests=[good()])), (0,), BAD_MESSAGE_CHECK),
    "a signer that is not in the message": Wrong(
        lambda _: signed(pki_data(requests=[good()]), cmc.SignerOf(ec_key("nobody's"))), (0,), BAD_MESSAGE_CHECK
    ),
    "changed on the way": Wrong(_changed_on_the_way, (0,), BAD_MESSAGE_CHECK),
    "a digest of SHA-1": Wrong(_with_digest("sha1"), (0,), BAD_ALG),
    "a request that another key signed": Wrong(
        lambda world: signed(pki_data(requests=[tcr(1, _request_of_another_key(world))]), world.agent()), (1,), BAD_REQUEST
    ),
    "a request that is none": Wrong(by_agent(requests=(good(1), tcr(2, seq(integer(1))))), (2,), BAD_REQUEST),
    "raVerified by a device": Wrong(
        lambda world: signed(
            pki_data(requests=[cmc.crm(cmc.crmf(1, ec_key("device key"), pop=cmc.RA_VERIFIED))]), world.device()
        ),
        (1,),
        POP_FAILED,
    ),
    "a voucher by a device": Wrong(
        lambda world: signed(
            pki_data(
                [control(5, cmc.LRA_POP_WITNESS, seq(integer(0), seq(integer(1))))],
                [cmc.crm(cmc.crmf(1, ec_key("device key")))],
            ),
            world.device(),
        ),
        (1,),
        POP_FAILED,
    ),
    "a CRMF request that another key signed": Wrong(
        by_agent(requests=(cmc.crm(cmc.crmf(1, ec_key("device key"), sign=ec_key("another key"))),)), (1,), BAD_REQUEST
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
async def test_what_is_wrong_is_said_of_the_body_parts_that_it_is_about(world: CmcWorld, wrong: Wrong) -> None:
    reply = await world.send(wrong.message(world), auth=("alice", "password"), status=400)
    said = reply.about(wrong.body_parts[0])
    assert said.body_parts == wrong.body_parts
    assert (said.status, said.fail_info) == ((NO_SUPPORT, None) if wrong.fail_info is None else (FAILED, wrong.fail_info))
    assert said.text
    assert all(each.status != 0 for each in reply.said)
    assert SECRET not in said.text
    assert await world.intents() == 0


async def test_what_refuses_a_message_still_gives_its_transaction_back(world: CmcWorld) -> None:
    """§6.6: "all subsequent requests and responses MUST include the same Transaction Identifier control"."""
    controls = [
        control(5, cmc.TRANSACTION_ID, integer(7)),
        control(6, cmc.SENDER_NONCE, octets(b"n" * 16)),
        control(7, "1.2.3.4", integer(1)),
    ]
    reply = await world.send(signed(pki_data(controls, [good()]), world.agent()), status=400)
    assert reply.controls[cmc.TRANSACTION_ID] == (integer(7),)
    assert reply.controls[cmc.RECIPIENT_NONCE] == (octets(b"n" * 16),)


async def test_a_batch_in_which_one_request_is_wrong_issues_nothing(world: CmcWorld) -> None:
    """§6.7, and §3.2.1: the others are told that it was not them."""
    requests = (good(1), cmc.crm(cmc.crmf(2, ec_key("device key"), pop=cmc.RA_VERIFIED)))
    reply = await world.send(signed(pki_data(requests=requests), world.device()), status=400)
    assert reply.about(2).fail_info == POP_FAILED
    assert (reply.about(1).status, reply.about(1).text) == (FAILED, "not done, because of another part of the message")
    assert await world.intents() == 0


async def test_a_hundred_requests_are_a_batch(world: CmcWorld) -> None:
    requests = [tcr(number, csr(ec_key("device key"), common_name=f"dev{number}")) for number in range(1, 101)]
    reply = await world.send(signed(pki_data(requests=requests), world.agent()), status=200)
    assert not reply.full
    names = {each.subject.rfc4514_string() for each in reply.certificates}
    assert {f"CN=dev{number}" for number in range(1, 101)} < names


async def test_what_no_control_refers_to_is_ignored(world: CmcWorld) -> None:
    """§3.2.1: "the cmsSequence and otherMsgSequence members are ignored"."""
    inside = seq(integer(9), signed(b"x", world.agent()))
    reply = await world.send(signed(pki_data(requests=[good()], cms_objects=[inside]), world.agent()), status=200)
    assert reply.certificates


# ---------------------------------------------------------------------- what is no message at all


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"hello", 400),
        (b"\x30\x03\x02\x01\x01", 400),
        (base64.b64encode(b"\x30\x80"), 400),
        (base64.b64encode(base64.b64encode(b"\x30\x00")), 400),
        (b"-----BEGIN PKCS7-----\n!!\n-----END PKCS7-----\n", 400),
        (b"A" * (MAX_LENGTH + 1), 413),
    ],
)
async def test_what_is_no_cms_message_gets_plain_text(world: CmcWorld, body: bytes, status: int) -> None:
    found, headers, text = await world.post(body)
    assert (found, headers["Content-Type"]) == (status, "text/plain; charset=utf-8")
    assert text.endswith("\n")


async def test_a_message_comes_in_every_form_in_which_base64_is_written(world: CmcWorld) -> None:
    """RFC 8951 §3: what the encoding looks like is not for us to judge."""
    message = signed(pki_data(requests=[good()]), world.agent())
    armoured = b"-----BEGIN CMS-----\n" + base64.encodebytes(message) + b"-----END CMS-----\n"
    for body in (message, base64.b64encode(message), base64.encodebytes(message).replace(b"\n", b"\r\n"), armoured):
        status, headers, _ = await world.post(body)
        assert (status, headers["Content-Transfer-Encoding"]) == (200, "base64")
    assert await world.certificates() == 1, "the same message is the same request"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/pkcs7-mime",
        "application/pkcs7-mime; smime-type=CMC-request; name=a.p7m",
        'Application/PKCS7-mime; smime-type="CMC-Request"',
        "application/x-pkcs7-mime",
        "application/octet-stream",
    ],
)
async def test_media_types_that_clients_send_are_taken(world: CmcWorld, content_type: str) -> None:
    message = base64.b64encode(signed(pki_data(requests=[good()]), world.agent()))
    status, _, _ = await world.post(message, content_type=content_type)
    assert status == 200


@pytest.mark.parametrize("content_type", ["application/pkcs10", "text/html", "application/pkcs7-mime; smime-type=certs-only"])
async def test_other_media_types_are_refused(world: CmcWorld, content_type: str) -> None:
    message = base64.b64encode(signed(pki_data(requests=[good()]), world.agent()))
    status, _, text = await world.post(message, content_type=content_type)
    assert status == 415
    assert "smime-type=CMC-request" in text
    assert await world.intents() == 0


async def test_a_label_without_full_cmc_says_so_as_rfc_7030_has_it(world: CmcWorld) -> None:
    """§4.3.2: "a client interprets an HTTP 404 or 501 response to indicate that this service is not implemented"."""
    message = base64.b64encode(signed(pki_data(requests=[good()]), world.agent()))
    status, _, _ = await world.post(message, label="off")
    assert status == 501


async def test_an_rsa_agent_and_its_rsa_device_are_as_good(world: CmcWorld) -> None:
    key = rsa_key("device")
    reply = await world.send(signed(pki_data(requests=[tcr(1, csr(key))]), world.agent()), status=200)
    assert reply.certificate_of(key)


async def test_whatever_is_changed_in_a_message_there_is_an_answer_and_nothing_is_issued(world: CmcWorld) -> None:
    """A value or a typed refusal, all the way through. What nobody signed (the bag, unsigned fields) may change and still be right."""
    controls = [control(5, cmc.TRANSACTION_ID, integer(7)), control(6, cmc.SENDER_NONCE, octets(b"n" * 16))]
    message = signed(pki_data(controls, [good()]), world.agent())
    await world.send(message, status=200)
    seeded = random.Random(5272)
    for _ in range(150):
        changed = bytearray(message)
        for _ in range(seeded.choice((1, 1, 2, 8))):
            changed[seeded.randrange(len(changed))] ^= seeded.randrange(1, 256)
        cut = bytes(changed[: seeded.choice((len(changed), len(changed), seeded.randrange(len(changed))))])
        status, headers, _ = await world.post(base64.b64encode(cut))
        assert status < 500, cut.hex()
        assert headers["Content-Type"].startswith(("text/plain", "application/pkcs7-mime"))
    assert await world.certificates() == 1
