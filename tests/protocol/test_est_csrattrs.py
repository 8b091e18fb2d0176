"""csrattrs over a real socket (RFC 7030 §4.5, RFC 8951 §3)."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from est.csrattrs import csr_attributes
from est.endpoint import CsrAttributes, EstEndpoint, ProofLinking
from est.http import routes
from policy.profiles import Profiles
from tests.helpers.est import est_server
from tests.helpers.issuance_simulator import KnownCredentials, SimulatedIssuance
from tests.helpers.profiles import device, profile

PREFIX = "/.well-known/est"
PROFILES = Profiles([device(subject=(("O", "Example"),)), profile()])
Client = TestClient[web.Request, web.Application]


def endpoint(label: str, of: str, how: CsrAttributes) -> EstEndpoint:
    linking = ProofLinking.REQUIRED if label == "default" else ProofLinking.OFF
    ca = SimulatedIssuance().ca.der
    return EstEndpoint(label=label, profile=of, ca_certificates=(ca,), csr_attributes=how, proof_linking=linking)


ENDPOINTS = {
    "default": endpoint("default", "device", CsrAttributes.OIDS),
    "template": endpoint("template", "device", CsrAttributes.TEMPLATE),
    "web": endpoint("web", "tls-server", CsrAttributes.OIDS),
    "silent": endpoint("silent", "device", CsrAttributes.NONE),
}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    issuance = SimulatedIssuance()
    app = web.Application()
    credentials = KnownCredentials()
    app.add_routes(routes(est_server(endpoints=ENDPOINTS, issuance=issuance, credentials=credentials, profiles=PROFILES)))
    server = TestServer(app, scheme="https", host="localhost")
    await server.start_server(ssl=issuance.ca.server_context(tmp_path))
    trust = ssl.create_default_context(cadata=issuance.ca.pem)
    async with TestClient(server, connector=aiohttp.TCPConnector(ssl=trust)) as client:
        yield client


@pytest.mark.parametrize("label", ["default", "template", "web"])
async def test_anybody_gets_what_the_profile_of_the_label_wants(client: Client, label: str) -> None:
    # §4.5.1: "The EST server SHOULD NOT require client authentication or authorization to reply to this request."
    path = f"{PREFIX}/csrattrs" if label == "default" else f"{PREFIX}/{label}/csrattrs"
    response = await client.get(path)
    assert (response.status, response.headers["Content-Type"]) == (200, "application/csrattrs")
    body = await response.read()
    assert int(response.headers["Content-Length"]) == len(body)
    assert "Transfer-Encoding" not in response.headers
    one = ENDPOINTS[label]
    assert base64.b64decode(body) == csr_attributes(one, PROFILES.get(one.profile))


async def test_labels_ask_for_different_things(client: Client) -> None:
    bodies = {await (await client.get(f"{PREFIX}{path}/csrattrs")).read() for path in ("", "/template", "/web")}
    assert len(bodies) == 3


async def test_a_label_that_asks_for_nothing_says_so_without_a_body(client: Client) -> None:
    # §4.5.2: "An HTTP response code of 204 or 404 indicates that a CSR Attributes Response is not available."
    response = await client.get(f"{PREFIX}/silent/csrattrs")
    assert (response.status, await response.read()) == (204, b"")


async def test_line_breaks_depend_on_whether_a_client_says_its_name(client: Client) -> None:
    named = await client.get(f"{PREFIX}/template/csrattrs", headers={"User-Agent": "libest 3.2.0p"})
    assert max(map(len, (await named.read()).splitlines())) == 76
    nameless = await client.get(f"{PREFIX}/template/csrattrs", skip_auto_headers={"User-Agent"})
    assert b"\n" not in await nameless.read()


async def test_it_is_read_and_not_posted_to(client: Client) -> None:
    response = await client.post(f"{PREFIX}/csrattrs", data=b"")
    assert (response.status, response.headers["Allow"]) == (405, "GET")
