"""Every octet of a SCEP message can be wrong, outside, in the envelope, and in what is encrypted: an answer or a CmsError, nothing else.

Whatever was changed outside the client's own signature, nobody else's request is granted, and nothing is asked for that was not signed.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from pki.cms.errors import CmsError
from scep.endpoint import Renewal, Way
from tests.helpers.mutations import mutations
from tests.helpers.scep import (
    SECRET,
    Answer,
    Message,
    ScepCa,
    csr,
    enveloped,
    name,
    parse_answer,
    pkcs_req,
    rsa_key,
    seq,
)
from tests.helpers.scep_world import ScepWorld, scep_world

KINDS = ("3", "17", "18", "19", "20", "21", "22")
STATUSES = {"0", "2", "3"}


@functools.cache
def ca() -> ScepCa:
    return ScepCa()


@functools.cache
def plaintexts() -> tuple[bytes, ...]:
    """What is encrypted: requests, and what CertPoll and GetCert have there."""
    subject = name("dev1").public_bytes()
    return (
        csr(rsa_key("device")),
        csr(rsa_key("device"), challenge=None, sans=()),
        csr(rsa_key("device"), sans=[f"d{number}.example.com" for number in range(9)]),
        csr(rsa_key("other")),
        seq(ca().certificate.subject.public_bytes(), subject),
        seq(ca().certificate.subject.public_bytes(), b"\x02\x01\x07"),
    )


@functools.cache
def envelopes() -> tuple[bytes, ...]:
    return tuple(enveloped(each, ca().ra) for each in plaintexts())


@functools.cache
def messages() -> tuple[bytes, ...]:
    """As they go over the wire, by an honest client."""
    made = [Message(content=envelopes()[0], message_type=kind).encode() for kind in KINDS]
    return (*made, pkcs_req(ca(), cipher="aes-256-cbc").encode(), replace(pkcs_req(ca()), digest="sha512").encode())


async def sent(world: ScepWorld, data: bytes) -> Answer | CmsError:
    endpoint = replace(
        world.ca.endpoint(legacy=("md5", "sha1", "des-cbc", "des-ede3-cbc")),
        challenges=(Way.STATIC,),
        renewal=Renewal(roles=frozenset({"device"})),
    )
    try:
        answer = parse_answer(await world.send(data, endpoint=endpoint))
    except CmsError as error:
        return error
    assert answer.status in STATUSES
    assert (answer.fail_info is None) == (answer.status != "2")
    assert bool(answer.content) == (answer.status == "0")
    assert SECRET not in (answer.text or "")
    return answer


class Running(NamedTuple):
    """One world for all examples, as making one costs more than a hundred of them."""

    loop: asyncio.Runner
    world: ScepWorld

    def send(self, data: bytes) -> Answer | CmsError:
        return self.loop.run(sent(self.world, data))


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with asyncio.Runner() as loop:
        closing = AsyncExitStack()
        yield Running(loop, loop.run(closing.enter_async_context(scep_world(ca=ca()))))
        loop.run(closing.aclose())


@settings(max_examples=250, deadline=None)
@given(mutations(messages))
def test_a_mutated_message_is_answered_or_cannot_be(running: Running, data: bytes) -> None:
    """The same client's keys sign all that is granted."""
    before = len(running.world.issuance.requests)
    running.send(data)
    own = rsa_key("device").public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert {request.csr.spki for request in running.world.issuance.requests[before:]} <= {own}


@settings(max_examples=250, deadline=None)
@given(mutations(envelopes), st.sampled_from(KINDS))
def test_a_mutated_envelope_in_an_honest_signature_is_answered(running: Running, content: bytes, kind: str) -> None:
    """The sender can be told, so there is always an answer."""
    assert isinstance(running.send(Message(content=content, message_type=kind).encode()), Answer)


@settings(max_examples=250, deadline=None)
@given(mutations(plaintexts) | st.binary(max_size=60), st.sampled_from(KINDS))
def test_whatever_is_encrypted_is_answered_and_only_an_own_request_is_granted(
    running: Running, plain: bytes, kind: str
) -> None:
    before = len(running.world.issuance.requests)
    answer = running.send(Message(content=enveloped(plain, ca().ra), message_type=kind).encode())
    assert isinstance(answer, Answer)
    granted = running.world.issuance.requests[before:]
    assert bool(granted) == (answer.status == "0")
    assert kind == "19" or not granted
