"""EST over a real socket with the real pipeline behind it: 202 until somebody has decided (RFC 7030 §4.2.3), on both databases."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from est.endpoint import EstEndpoint
from issuance.approval_requests import State
from issuance.approvals import Verdict
from policy.principal import COMMAND_LINE
from policy.rules import Policy
from storage.database import Database
from tests.helpers.clock import FakeClock
from tests.helpers.est import est_server
from tests.helpers.issuance_simulator import KnownCredentials, ThrowAwayCa, der_of, make_csr
from tests.helpers.issuing import Issuing

PREFIX = "/.well-known/est"
POLICY = Policy("devices", frozenset({"device"}), frozenset({"device"}), ("*.example.com",), ("*",))
CAREFUL = replace(POLICY, name="careful", require_approval=True)
Client = TestClient[web.Request, web.Application]


@dataclass
class Site:
    issuing: Issuing
    client: Client

    async def enrol(self, csr: bytes, *, user: str = "estuser", label: str = "") -> aiohttp.ClientResponse:
        path = f"{PREFIX}/{label}/simpleenroll" if label else f"{PREFIX}/simpleenroll"
        auth = aiohttp.encode_basic_auth(user, "estpwd")
        return await self.client.post(path, data=base64.b64encode(csr), headers={"Authorization": auth})

    async def waits(self, csr: bytes, **asked: str) -> int:
        """Seconds, as Retry-After says."""
        response = await self.enrol(csr, **asked)
        assert (response.status, await response.read()) == (202, b"")
        assert response.headers["Content-Length"] == "0"
        return int(response.headers["Retry-After"])

    async def certificate(self, csr: bytes, **asked: str) -> x509.Certificate:
        response = await self.enrol(csr, **asked)
        assert response.status == 200, await response.text()
        [certificate] = pkcs7.load_der_pkcs7_certificates(base64.b64decode(await response.read()))
        return certificate

    async def decide(self, verdict: Verdict = Verdict.APPROVE, comment: str = "") -> None:
        (one,) = await self.issuing.approvals.newest(state=State.PENDING)
        await self.issuing.approvals.decide(one.id, verdict, approver=COMMAND_LINE, by="alice", comment=comment)


@pytest.fixture
async def site(database: Database, clock: FakeClock, tmp_path: Path) -> AsyncIterator[Site]:
    """`default` asks because its policy does, `lab` because the label does; `plain` asks nobody."""
    issuing = Issuing(database, clock, policies=[POLICY])
    careful = Issuing(database, clock, ca=issuing.ca, policies=[CAREFUL], new_id=issuing.new_id)
    credentials = KnownCredentials()
    app = web.Application()
    anchors = (issuing.ca.certificate.public_bytes(Encoding.DER),)
    endpoints = {
        "default": EstEndpoint("default", "device", anchors),
        "lab": EstEndpoint("lab", "device", anchors, require_approval=True),
        "plain": EstEndpoint("plain", "device", anchors),
    }
    for label in endpoints:
        for user in ("estuser", "other"):
            credentials.add_est_user(label, user, "estpwd")
    with_rules = {"default": careful, "lab": issuing, "plain": issuing}
    for label, endpoint in endpoints.items():
        server = est_server(
            endpoints={label: endpoint}, issuance=with_rules[label].issuance, credentials=credentials, clock=clock
        )
        path = f"{PREFIX}/{{operation}}" if label == "default" else f"{PREFIX}/{{label:{label}}}/{{operation}}"
        app.add_routes([web.post(path, server.handle)])
    tls = ThrowAwayCa()
    started = TestServer(app, scheme="https", host="localhost")
    await started.start_server(ssl=tls.server_context(tmp_path))
    trust = ssl.create_default_context(cadata=tls.pem)
    async with TestClient(started, connector=aiohttp.TCPConnector(ssl=trust)) as client:
        yield Site(issuing, client)


@pytest.mark.parametrize("label", ["", "lab"])
async def test_a_device_polls_until_somebody_agrees_and_then_has_its_certificate(
    site: Site, clock: FakeClock, label: str
) -> None:
    csr = der_of(make_csr("printer.example.com"))
    assert await site.waits(csr, label=label) == 30
    clock.advance(timedelta(hours=1))
    assert await site.waits(csr, label=label) == 450
    clock.advance(timedelta(hours=23))
    assert await site.waits(csr, label=label) == 3600
    await site.decide()
    certificate = await site.certificate(csr, label=label)
    assert await site.certificate(csr, label=label) == certificate  # the answer may have been lost
    assert len(await site.issuing.rows("SELECT serial FROM certificate")) == 1


async def test_the_request_may_be_signed_anew_for_every_connection(site: Site) -> None:
    """§3.5: libest reconnects after the 401 and signs the request again, with the other connection's tls-unique."""
    key = ec.generate_private_key(ec.SECP256R1())
    one, two, three = (
        der_of(make_csr("printer.example.com", key=key, challenge=binding)) for binding in ("conn-1", "conn-2", "conn-3")
    )
    await site.waits(one)
    await site.waits(two)
    await site.decide()
    assert (await site.certificate(three)).public_key() == key.public_key()


async def test_who_was_denied_is_told_why(site: Site) -> None:
    csr = der_of(make_csr("printer.example.com"))
    await site.waits(csr)
    await site.decide(Verdict.DENY, "no such printer")
    response = await site.enrol(csr)
    assert (response.status, response.content_type) == (403, "text/plain")
    text = await response.text()
    assert "no such printer" in text
    assert "alice" in text
    assert "ask for other names, or with a new key" in text
    await site.waits(der_of(make_csr("printer.example.com")))  # a new key


async def test_one_user_s_approval_is_not_another_s(site: Site) -> None:
    csr = der_of(make_csr("printer.example.com"))
    await site.waits(csr)
    await site.decide()
    await site.waits(csr, user="other")
    await site.certificate(csr)


async def test_one_label_s_approval_is_not_another_s(site: Site) -> None:
    csr = der_of(make_csr("printer.example.com"))
    await site.waits(csr)
    await site.decide()
    await site.waits(csr, label="lab")


async def test_a_changed_name_waits_anew(site: Site) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    await site.waits(der_of(make_csr("printer.example.com", key=key)))
    await site.decide()
    await site.waits(der_of(make_csr("printer.example.com", "router.example.com", key=key)))
    await site.waits(der_of(make_csr("router.example.com", key=key)))


async def test_a_label_that_asks_for_no_approval_gives_at_once(site: Site) -> None:
    await site.certificate(der_of(make_csr("printer.example.com")), label="plain")


async def test_what_policy_refuses_waits_for_nobody(site: Site) -> None:
    response = await site.enrol(der_of(make_csr("printer.example.net")))
    assert response.status == 400
    assert await site.issuing.approvals.newest() == []
