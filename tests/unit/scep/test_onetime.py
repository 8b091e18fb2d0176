"""The way in by a challenge that opens once, and how challengePasswords are written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import AttributeOID

from issuance.request import OneTimeChallenge, ScepChallenge
from issuance.scep_challenges import Terms
from pki.csr import parse_csr
from pki.reasons import Rejection
from policy.principal import COMMAND_LINE
from scep.endpoint import ScepEndpoint, Way
from tests.helpers.scep import SECRET, Message, der_of, enveloped, name, pkcs_req, rsa_key
from tests.helpers.scep_world import ScepWorld, scep_world

ANY = Terms("default", frozenset({"device"}), profile="printers")

# OpenSSL (sscep) and strongSwan write UTF8String, Go and certmonger PrintableString; the others are allowed or happen.
TYPES = (
    (_ASN1Type.UTF8String, "utf-8"),
    (_ASN1Type.PrintableString, "ascii"),
    (_ASN1Type.IA5String, "ascii"),
    (_ASN1Type.T61String, "latin-1"),
    (_ASN1Type.BMPString, "utf-16-be"),
    (_ASN1Type.UniversalString, "utf-32-be"),
)


@pytest.fixture
async def world() -> AsyncIterator[ScepWorld]:
    async with scep_world() as world:
        yield world


def both(world: ScepWorld) -> ScepEndpoint:
    return replace(world.ca.endpoint(), challenges=(Way.STATIC, Way.ONE_TIME))


def csr_with(value: bytes, kind: _ASN1Type) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(name("dev1"))
    builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, value, _tag=kind)
    return der_of(builder.sign(rsa_key("device"), hashes.SHA256()))


async def made(world: ScepWorld, terms: Terms = ANY) -> tuple[str, str]:
    found = await world.one_time.create(terms, lifetime=timedelta(hours=1), made_by=COMMAND_LINE)
    return found.id, found.challenge


async def test_what_it_lets_in_has_its_roles_and_its_profile(world: ScepWorld) -> None:
    id_, challenge = await made(world)
    answer = await world.ask(pkcs_req(world.ca, challenge=challenge), endpoint=both(world))
    assert answer.status == "0"
    (request,) = world.issuance.requests
    assert request.evidence == (OneTimeChallenge(id_),)
    assert (str(request.principal), request.principal.roles) == (f"scep-client:one-time/{id_}", frozenset({"device"}))
    assert request.profile == "printers"
    assert world.counts.authorizations == [("default", "one-time", "allowed")]


async def test_a_static_challenge_is_asked_for_beside_it(world: ScepWorld) -> None:
    await world.ask(pkcs_req(world.ca), endpoint=both(world))
    (request,) = world.issuance.requests
    assert request.evidence == (ScepChallenge("default"),)


async def test_a_challenge_in_any_type_of_string_is_the_same(world: ScepWorld) -> None:
    for number, (kind, encoding) in enumerate(TYPES):
        _, challenge = await made(world)
        for presented in (SECRET, challenge):
            message = Message(
                key=rsa_key("device"),
                content=enveloped(csr_with(presented.encode(encoding), kind), world.ca.ra),
                transaction_id=f"{number} {presented[:4]}",
            )
            answer = await world.ask(message, endpoint=both(world))
            assert answer.status == "0", (kind, answer.text)


@pytest.mark.parametrize(
    "text", ["x" * 1024, "x" * 5000, "tab\t\a\0", "\u00e9" * 40, "0" * 32, "f" * 32, "cws_" + "A" * 43], ids=len
)
async def test_any_wrong_challenge_is_one_refusal(world: ScepWorld, text: str) -> None:
    content = enveloped(csr_with(text.encode(), _ASN1Type.UTF8String), world.ca.ra)
    answer = await world.ask(Message(key=rsa_key("device"), content=content), endpoint=both(world))
    assert (answer.status, answer.fail_info) == ("2", "2")
    assert (answer.text or "").startswith("the challenge password is missing, wrong")
    assert world.issuance.requests == []


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"\xff\xfe", _ASN1Type.UTF8String),
        (b"\xd8\x00", _ASN1Type.BMPString),
        (b"abc", _ASN1Type.BMPString),
        (b"\xe9", _ASN1Type.PrintableString),
        (b"x", _ASN1Type.OctetString),
    ],
    ids=str,
)
def test_a_challenge_that_is_no_text_is_a_bad_request(value: bytes, kind: _ASN1Type) -> None:
    with pytest.raises(Rejection):
        parse_csr(csr_with(value, kind))
