"""The answers of GetCACert and GetNextCACert, by what an endpoint is (RFC 8894 §4.2, §4.7); a real server gives them in tests/protocol."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import pkcs7

from pki.cms.signed import parse_signed, verify
from pki.reasons import Unavailable
from scep.cacerts import NEXT, SEVERAL, SINGLE, NextCaCertificates, current
from scep.endpoint import Authority, ScepEndpoint
from scep.http import ScepServer, routes
from tests.helpers.scep import ScepCa, certificate, der_of, rsa_key
from tests.helpers.scep_simulators import SoftwareSigner
from tests.helpers.scep_world import scep_world


def alone(ca: ScepCa, *above: x509.Certificate) -> ScepEndpoint:
    """The CA speaks for itself."""
    own = Authority("issuing", der_of(ca.certificate))
    chain = (der_of(ca.certificate), *map(der_of, above))
    return dataclasses.replace(ca.endpoint(), signing=own, decryption=own, ca_certificates=chain)


def root() -> x509.Certificate:
    return certificate("Root", rsa_key("root").public_key(), "Root", rsa_key("root"), usage="ca", ca=True)


def intermediate() -> x509.Certificate:
    return certificate("Between", rsa_key("between").public_key(), "Root", rsa_key("root"), usage="ca", ca=True)


def test_a_ca_that_is_alone_is_one_certificate_and_everything_else_a_message() -> None:
    ca = ScepCa()
    second = Authority("opens", der_of(certificate("Opens", rsa_key("opens").public_key(), "Test CA", ca.key, usage="ra")))
    cases = {
        "alone": (alone(ca), [ca.certificate]),
        "alone below others, which are not shown": (
            dataclasses.replace(alone(ca, intermediate(), root()), chain=False, include_root=True),
            [ca.certificate],
        ),
        "alone below a root, which is not shown": (alone(ca, root()), [ca.certificate]),
        "alone below others": (alone(ca, ours := intermediate(), root()), [ca.certificate, ours]),
        "alone below a root": (
            dataclasses.replace(alone(ca, above := root()), include_root=True),
            [ca.certificate, above],
        ),
        "with an RA": (ca.endpoint(), [ca.certificate, ca.ra]),
        "with two": (
            dataclasses.replace(ca.endpoint(), decryption=second),
            [ca.certificate, ca.ra, x509.load_der_x509_certificate(second.certificate)],
        ),
    }
    for what, (endpoint, expected) in cases.items():
        shown = current(endpoint)
        if len(expected) == 1:
            assert (shown.content_type, shown.body) == (SINGLE, der_of(expected[0])), what
        else:
            assert shown.content_type == SEVERAL, what
            assert set(pkcs7.load_der_pkcs7_certificates(shown.body)) == set(expected), what


@dataclass(slots=True)
class Announcing(SoftwareSigner):
    """Signs announcements with the CA's key; `away` is how often it cannot."""

    away: int = 0
    signed: list[bytes] = field(default_factory=list)

    async def sign_announcement(self, key: str, attributes: bytes) -> bytes:
        assert key == "issuing"
        await asyncio.sleep(0)  # others ask meanwhile
        if self.away:
            self.away -= 1
            raise Unavailable("signer")
        self.signed.append(attributes)
        return self.key.sign(attributes, padding.PKCS1v15(), hashes.SHA256())


def following(ca: ScepCa) -> ScepEndpoint:
    return dataclasses.replace(ca.endpoint(), next_certificates=(der_of(root()), der_of(intermediate())))


async def test_who_has_no_successor_signs_nothing() -> None:
    ca = ScepCa()
    signer = Announcing(ca.key)
    assert await NextCaCertificates(ca.endpoint(), signer).shown() is None
    assert signer.signed == []


async def test_the_successor_is_signed_by_the_issuing_ca_once_for_all_who_ask_at_a_time() -> None:
    ca = ScepCa()
    signer = Announcing(ca.key)
    certificates = NextCaCertificates(following(ca), signer)
    answers = await asyncio.gather(*(certificates.shown() for _ in range(20)))
    assert len(signer.signed) == 1
    (answer,) = set(answers)
    assert answer is not None
    assert answer.content_type == NEXT
    signed = parse_signed(answer.body)
    verify(signed)
    assert signed.signer.der == der_of(ca.certificate)
    subjects = {one.subject for one in pkcs7.load_der_pkcs7_certificates(signed.content)}
    assert subjects == {root().subject, intermediate().subject}


async def test_over_http_a_signer_that_is_away_is_a_503_and_the_next_client_gets_its_answer() -> None:
    async with scep_world() as world:
        signer = Announcing(world.ca.key, away=1)
        desk = dataclasses.replace(world.desk(), signer=signer)
        app = web.Application()
        app.add_routes(routes(ScepServer(endpoints={"default": following(world.ca)}, desk=desk)))
        async with TestClient(TestServer(app)) as client:
            away = await client.get("/scep?operation=GetNextCACert")
            assert away.status == 503
            assert "Retry-After" in away.headers
            back = await client.get("/scep?operation=GetNextCACert")
            assert (back.status, back.content_type) == (200, NEXT)
            assert "GetNextCACert" in (await (await client.get("/scep?operation=GetCACaps")).text()).splitlines()


async def test_a_signer_that_was_away_is_asked_again() -> None:
    ca = ScepCa()
    signer = Announcing(ca.key, away=1)
    certificates = NextCaCertificates(following(ca), signer)
    with pytest.raises(Unavailable):
        await certificates.shown()
    assert await certificates.shown() is not None
