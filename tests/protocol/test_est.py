"""EST over a real socket: RFC 7030 §3.2 and §4, status by status and header by header."""

from __future__ import annotations

import base64
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from est.endpoint import EstEndpoint
from est.http import routes
from est.wire import MAX_BODY
from issuance.request import BasicPassword, Channel, Pending, Rejected
from pki.identifiers import parse_dns
from pki.reasons import Reason, Rejection
from policy.principal import PrincipalKind
from tests.helpers.est import est_server
from tests.helpers.issuance_simulator import KnownCredentials, SimulatedIssuance, ThrowAwayCa, der_of, make_csr

PREFIX = "/.well-known/est"
AUTH = {"Authorization": "Basic " + base64.b64encode(b"estuser:estpwd").decode()}
PKCS10 = {"Content-Type": "application/pkcs10"}
Client = TestClient[web.Request, web.Application]


@pytest.fixture
def issuance() -> SimulatedIssuance:
    return SimulatedIssuance()


@pytest.fixture
def app(issuance: SimulatedIssuance) -> web.Application:
    credentials = KnownCredentials()
    credentials.add_est_user("default", "estuser", "estpwd")
    credentials.add_est_user("vpn", "vpnuser", "vpnpwd", profile="vpn-gateway")
    ca = issuance.ca.der
    endpoints = {label: EstEndpoint(label=label, profile="device", ca_certificates=(ca,)) for label in ("default", "vpn")}
    app = web.Application()
    app.add_routes(routes(est_server(endpoints=endpoints, issuance=issuance, credentials=credentials)))
    return app


@pytest.fixture
async def client(app: web.Application, issuance: SimulatedIssuance, tmp_path: Path) -> AsyncIterator[Client]:
    trust = ssl.create_default_context(cadata=issuance.ca.pem)
    server = TestServer(app, scheme="https", host="localhost")
    await server.start_server(ssl=issuance.ca.server_context(tmp_path))
    async with TestClient(server, connector=aiohttp.TCPConnector(ssl=trust)) as client:
        yield client


def csr_body(*names: str) -> bytes:
    return base64.b64encode(der_of(make_csr(*(names or ("device.example.com",)))))


async def enrol(client: Client, *, headers: dict[str, str] | None = None, body: bytes | None = None) -> aiohttp.ClientResponse:
    data = csr_body() if body is None else body
    return await client.post(f"{PREFIX}/simpleenroll", data=data, headers=AUTH | PKCS10 | (headers or {}))


async def certificates(response: aiohttp.ClientResponse) -> list[x509.Certificate]:
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
    assert response.headers["Content-Transfer-Encoding"] == "base64"
    assert int(response.headers["Content-Length"]) == len(await response.read())
    assert "Transfer-Encoding" not in response.headers
    return pkcs7.load_der_pkcs7_certificates(base64.b64decode(await response.read()))


async def test_cacerts_gives_the_trust_anchors_to_anybody(client: Client, issuance: SimulatedIssuance) -> None:
    assert await certificates(await client.get(f"{PREFIX}/cacerts")) == [issuance.ca.certificate]
    assert await certificates(await client.get(f"{PREFIX}/vpn/cacerts")) == [issuance.ca.certificate]


async def test_a_user_with_the_right_password_gets_the_issued_certificate_alone(
    client: Client, issuance: SimulatedIssuance
) -> None:
    # §4.2.3: "a certs-only CMC Simple PKI Response ... containing only the certificate that was issued"
    [certificate] = await certificates(await enrol(client))
    certificate.verify_directly_issued_by(issuance.ca.certificate)
    [request] = issuance.requests
    assert (request.channel, request.endpoint, request.profile) == (Channel.EST, "default", "device")
    assert (request.principal.kind, request.principal.id) == (PrincipalKind.EST_USER, "default/estuser")
    assert request.principal.source_address in {"127.0.0.1", "::1"}
    assert request.evidence == (BasicPassword("default/estuser"),)
    assert request.identifiers == (parse_dns("device.example.com"),)


async def test_a_users_own_profile_goes_before_the_endpoints(client: Client, issuance: SimulatedIssuance) -> None:
    auth = aiohttp.encode_basic_auth("vpnuser", "vpnpwd")
    await client.post(f"{PREFIX}/vpn/simpleenroll", data=csr_body(), headers={"Authorization": auth})
    assert [request.profile for request in issuance.requests] == ["vpn-gateway"]


async def test_a_password_of_one_endpoint_opens_no_other(client: Client, issuance: SimulatedIssuance) -> None:
    response = await client.post(f"{PREFIX}/vpn/simpleenroll", data=csr_body(), headers=AUTH)
    assert response.status == 401
    assert issuance.requests == []


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Basic " + base64.b64encode(b"estuser:wrong").decode()}, {"Authorization": "Basic ?"}],
    ids=["none", "wrong", "malformed"],
)
async def test_401_has_a_quoted_challenge_and_no_body(
    client: Client, issuance: SimulatedIssuance, headers: dict[str, str]
) -> None:
    # BouncyCastle's client fails on any body here ("Stream closed before limit fully read").
    response = await client.post(f"{PREFIX}/simpleenroll", data=csr_body(), headers=headers)
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == 'Basic realm="estrealm"'
    assert response.headers["Content-Length"] == "0"
    assert await response.read() == b""
    assert issuance.requests == []


async def test_why_a_request_was_refused_is_in_the_log_for_a_401_has_no_body(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Authorization": "Basic " + base64.b64encode(b"estuser:geheim").decode()}
    with caplog.at_level(logging.INFO, logger="est.http"):
        await client.post(f"{PREFIX}/simpleenroll", data=csr_body(), headers=headers)
        await client.get(f"{PREFIX}/nosuch")
    refusals = [record for record in caplog.records if record.name == "est.http"]
    assert ["refused: " in record.getMessage() for record in refusals] == [True, True]
    assert "no such EST endpoint" in caplog.text
    assert "geheim" not in caplog.text


async def test_202_has_a_retry_after_and_no_body(client: Client, issuance: SimulatedIssuance) -> None:
    # §4.2.3: "the server MUST include an HTTP response header Retry-After"
    issuance.script.append(Pending("id", 7))
    response = await enrol(client)
    assert (response.status, response.headers["Retry-After"], await response.read()) == (202, "7", b"")
    assert response.headers["Content-Length"] == "0"


async def test_line_breaks_depend_on_whether_a_client_says_its_name(client: Client) -> None:
    # strongSwan before 5.9.11 sends no User-Agent and fails on line breaks; libest is the other way round.
    named = await client.get(f"{PREFIX}/cacerts", headers={"User-Agent": "libest 3.2.0p"})
    assert b"\n" in await named.read()
    nameless = await client.get(f"{PREFIX}/cacerts", skip_auto_headers={"User-Agent"})
    assert b"\n" not in await nameless.read()


async def test_a_challenge_password_in_a_request_means_nothing_here(client: Client, issuance: SimulatedIssuance) -> None:
    body = base64.b64encode(der_of(make_csr("a.example.com", challenge="scep-secret")))
    response = await client.post(f"{PREFIX}/simpleenroll", data=body, headers=PKCS10)
    assert response.status == 401
    await certificates(await enrol(client, body=body))
    assert "scep-secret" not in repr(issuance.requests)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/cacerts", 405),
        ("GET", "/simpleenroll", 405),
        ("POST", "/simplereenroll", 403),
        ("POST", "/serverkeygen", 501),
        ("POST", "/fullcmc", 501),
        ("GET", "/nonsense", 404),
        ("GET", "/unknown-label/cacerts", 404),
        ("POST", "/unknown-label/simpleenroll", 404),
    ],
)
async def test_what_is_not_served_says_so(client: Client, method: str, path: str, status: int) -> None:
    response = await client.request(method, PREFIX + path, headers=AUTH, data=csr_body() if method == "POST" else None)
    assert response.status == status
    assert (await response.text()).endswith("\n")
    assert ("Allow" in response.headers) == (status == 405)


async def test_a_label_that_asks_for_no_attributes_says_204_without_a_body(client: Client) -> None:
    # §4.5.2: "204 or 404 indicates that a CSR Attributes Response is not available"; BouncyCastle fails on the body of a 404.
    response = await client.get(f"{PREFIX}/csrattrs")
    assert (response.status, await response.read()) == (204, b"")
    assert "Content-Type" not in response.headers


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b"", {}, 400, "it is empty"),
        (b"?", {}, 400, "nor base64"),
        (b"AAAA", {}, 400, "certificate signing request"),
        (b"{}", {"Content-Type": "application/json"}, 415, "application/pkcs10"),
        (b"M" * (MAX_BODY + 1), {}, 413, "at most"),
    ],
    ids=["empty", "no-base64", "no-csr", "json", "large"],
)
async def test_a_bad_request_is_told_what_is_wrong(
    client: Client, issuance: SimulatedIssuance, body: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    response = await enrol(client, body=body, headers=headers)
    assert response.status == status
    assert says in await response.text()
    assert issuance.requests == []


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.UNAUTHENTICATED])
async def test_a_rejection_says_its_reason_in_plain_text(client: Client, issuance: SimulatedIssuance, reason: Reason) -> None:
    issuance.script.append(Rejected(Rejection(reason, "what happened", suggestions=["what to do"])))
    response = await enrol(client)
    assert 400 <= response.status < 600
    assert response.content_type == "text/plain"
    assert await response.text() == "what happened\nwhat to do\n"


async def test_the_pipelines_own_refusals_are_answered_wherever_they_are_raised(
    client: Client, issuance: SimulatedIssuance
) -> None:
    issuance.script.append(Rejection(Reason.INTERRUPTED, "the server stopped while it was signing; ask again"))
    response = await enrol(client)
    assert (response.status, response.headers["Retry-After"]) == (503, "5")


async def test_without_tls_nothing_is_served(app: web.Application, issuance: SimulatedIssuance) -> None:
    # RFC 7030 §3.3: EST is over TLS; a password sent without is lost already, and must not work.
    async with TestClient(TestServer(app)) as client:
        assert (await client.get(f"{PREFIX}/cacerts")).status == 403
        assert (await client.post(f"{PREFIX}/simpleenroll", data=csr_body(), headers=AUTH)).status == 403
    assert issuance.requests == []


async def test_a_chunked_request_is_read_too(client: Client) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        body = csr_body()
        yield body[:10]
        yield body[10:]

    await certificates(await client.post(f"{PREFIX}/simpleenroll", data=chunks(), headers=AUTH | PKCS10))


async def test_a_second_anchor_is_given_too(issuance: SimulatedIssuance, tmp_path: Path) -> None:
    root = ThrowAwayCa()
    endpoint = EstEndpoint(label="default", profile="device", ca_certificates=(issuance.ca.der, root.der))
    app = web.Application()
    app.add_routes(routes(est_server(endpoints={"default": endpoint}, issuance=issuance, credentials=KnownCredentials())))
    server = TestServer(app, scheme="https", host="localhost")
    await server.start_server(ssl=issuance.ca.server_context(tmp_path))
    trust = ssl.create_default_context(cadata=issuance.ca.pem)
    async with TestClient(server, connector=aiohttp.TCPConnector(ssl=trust)) as client:
        given = await certificates(await client.get(f"{PREFIX}/cacerts"))
    assert {one.public_bytes(Encoding.DER) for one in given} == {issuance.ca.der, root.der}
