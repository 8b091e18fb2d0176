"""The REST API over a real socket: statuses, documents, and whose certificates are whose."""

from __future__ import annotations

import logging
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509

from est.http import EstServer
from issuance.credentials import Credentials
from issuance.request import ApiKey, Channel, Pending, Rejected
from issuance.service import Issuance
from pki.reasons import Reason, Rejection, RevocationReason, Unavailable
from policy.principal import PrincipalKind
from rest.http import MAX_BODY, RestServer, routes
from rest.problems import PROBLEMS
from tests.helpers.est import est_server
from tests.helpers.issuance_simulator import KnownCredentials, SimulatedIssuance, der_of, make_csr, pem_of

BASE = "https://ca.example.com:8443"
CERTIFICATES = "/api/v1/certificates"
ALICE = {"X-API-Key": "cw_alice"}
BOB = {"X-API-Key": "cw_bob"}
ADMIN = {"Authorization": "Bearer cw_admin"}
Client = TestClient[web.Request, web.Application]


@pytest.fixture
def issuance() -> SimulatedIssuance:
    return SimulatedIssuance()


@pytest.fixture
async def client(issuance: SimulatedIssuance) -> AsyncIterator[Client]:
    @web.middleware
    async def numbered(request: web.Request, handler: Any) -> web.StreamResponse:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", web.NotAppKeyWarning)  # a plain key: listener and front ends share no module
            request["request_id"] = "r-1"
        response: web.StreamResponse = await handler(request)
        return response

    credentials = KnownCredentials()
    credentials.add_api_key("cw_alice")
    credentials.add_api_key("cw_bob", profile="device")
    credentials.add_api_key("cw_admin", roles=["admin"])
    app = web.Application(middlewares=[numbered])
    app.add_routes(routes(RestServer(issuance=issuance, credentials=credentials, base_url=f"{BASE}/")))
    async with TestClient(TestServer(app)) as client:
        yield client


async def issue(client: Client, headers: dict[str, str], name: str = "www.example.com") -> str:
    response = await client.post(CERTIFICATES, json={"csr": pem_of(make_csr(name))}, headers=headers)
    assert response.status == 201
    serial = (await response.json())["serial"]
    assert isinstance(serial, str)
    return serial


async def problem(response: Any, status: int, kind: str) -> dict[str, Any]:
    """RFC 9457, with the members that older programs look for."""
    assert response.status == status
    assert response.content_type == "application/problem+json"
    members: dict[str, Any] = await response.json()
    assert members["type"].startswith("urn:certwright:problem:")
    assert members["status"] == kind
    assert members["error"] == members["detail"]
    assert isinstance(members["retry_allowed"], bool)
    assert isinstance(members["suggestions"], list)
    assert members["request_id"] == "r-1"
    return members


# ---------------------------------------------------------------- issue


async def test_json_with_a_csr_gives_a_certificate_and_its_chain(client: Client, issuance: SimulatedIssuance) -> None:
    body = {"csr": pem_of(make_csr("www.example.com")), "profile": "webserver", "not_after": "2027-02-01T00:00:00Z"}
    response = await client.post(CERTIFICATES, json=body, headers=ALICE)
    assert response.status == 201
    answer = await response.json()
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert x509.load_pem_x509_certificates(answer["chain"].encode()) == [certificate, issuance.ca.certificate]
    assert answer["serial"] == f"{certificate.serial_number:x}"
    assert response.headers["Location"] == f"{BASE}{CERTIFICATES}/{answer['serial']}"
    assert response.headers["Cache-Control"] == "no-store"
    assert {name: answer[name] for name in ("issuer", "profile", "not_before", "not_after", "status")} == {
        "issuer": "issuing",
        "profile": "webserver",
        "not_before": "2027-01-15T08:00:00Z",
        "not_after": "2027-02-01T00:00:00Z",
        "status": "issued",
    }
    [request] = issuance.requests
    assert (request.channel, request.evidence) == (Channel.REST, (ApiKey("alice"),))
    assert (request.principal.kind, request.principal.id) == (PrincipalKind.API_KEY, "alice")
    assert request.principal.roles == {"web_admin"}
    assert request.idempotency_key is None


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "application/pkcs10", "application/x-pem-file"])
async def test_a_csr_as_the_body_gets_the_keys_own_profile(
    client: Client, issuance: SimulatedIssuance, content_type: str
) -> None:
    csr = make_csr("www.example.com")
    bodies = [der_of(csr), pem_of(csr).encode(), pem_of(csr).replace("\n", "").encode()]  # the last as `curl -d @file` sends it
    for body in bodies:
        response = await client.post(CERTIFICATES, data=body, headers=BOB | {"Content-Type": content_type})
        assert response.status == 201
        assert response.content_type == "application/json"
    assert [request.profile for request in issuance.requests] == ["device"] * 3
    assert {request.csr.der for request in issuance.requests} == {der_of(csr)}


async def test_a_csr_as_the_body_may_name_its_profile_in_the_query(client: Client, issuance: SimulatedIssuance) -> None:
    body = der_of(make_csr("www.example.com"))
    assert (await client.post(f"{CERTIFICATES}?profile=tls-server", data=body, headers=BOB)).status == 201
    assert issuance.requests[0].profile == "tls-server"


async def test_whoever_prefers_pem_gets_a_file_that_servers_read(client: Client, issuance: SimulatedIssuance) -> None:
    body = der_of(make_csr("www.example.com"))
    for accept in ("application/x-pem-file", "application/pem-certificate-chain", "text/plain, */*"):
        response = await client.post(CERTIFICATES, data=body, headers=ALICE | {"Accept": accept})
        assert response.status == 201
        assert response.content_type == accept.split(",")[0]
        leaf, issuer = x509.load_pem_x509_certificates(await response.read())
        assert issuer == issuance.ca.certificate
        assert response.headers["Location"].endswith(f"/{leaf.serial_number:x}")


async def test_an_idempotency_key_is_the_callers_own(client: Client, issuance: SimulatedIssuance) -> None:
    body = der_of(make_csr("www.example.com"))
    serials = []
    for headers in (ALICE, ALICE, BOB):
        response = await client.post(CERTIFICATES, data=body, headers=headers | {"Idempotency-Key": "k1"})
        serials.append((await response.json())["serial"])
    assert serials[0] == serials[1] != serials[2]
    assert issuance.requests[0].idempotency_key == "rest/api-key:alice/k1"
    bad = await client.post(CERTIFICATES, data=body, headers=ALICE | {"Idempotency-Key": "a b"})
    await problem(bad, 400, "validation_error")


async def test_what_waits_is_202_with_the_time_to_come_back(client: Client, issuance: SimulatedIssuance) -> None:
    issuance.script.append(Pending("i-1", 7))
    response = await client.post(CERTIFICATES, data=der_of(make_csr("a.example.com")), headers=ALICE)
    assert (response.status, response.headers["Retry-After"]) == (202, "7")
    assert await response.json() == {"status": "pending", "id": "i-1", "retry_after": 7}


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CERTIFICATES),
        ("GET", CERTIFICATES),
        ("GET", f"{CERTIFICATES}/a12"),
        ("POST", f"{CERTIFICATES}/a12/revoke"),
    ],
)
@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "cw_wrong"}, {"X-API-Key": ""}, {"Authorization": "Basic YTpi"}])
async def test_without_a_valid_key_nothing_is_done(
    client: Client, issuance: SimulatedIssuance, method: str, path: str, headers: dict[str, str]
) -> None:
    await issue(client, ALICE)
    response = await client.request(method, path, headers=headers, data=der_of(make_csr("a.example.com")))
    members = await problem(response, 401, "authorization_error")
    assert members["retry_allowed"] is False
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert len(issuance.requests) == 1
    assert [record.revoked_at for record in issuance.records.values()] == [None]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "csr: it is empty"),
        (b"{}", 400, "csr: Field required"),
        (b'{"csr": "x", "csr": "y"}', 400, "twice"),
        (b"{" + b'"a":[' * 40, 400, "nested"),
        (b"hello", 400, "neither PEM nor DER nor base64"),
        (b"MAAA", 400, "certificate signing request"),
        (b"x" * (MAX_BODY + 1), 413, "at most"),
    ],
    ids=["empty", "no-csr", "twice", "deep", "text", "no-request", "large"],
)
async def test_a_bad_body_is_told_what_is_wrong(
    client: Client, issuance: SimulatedIssuance, body: bytes, status: int, says: str
) -> None:
    members = await problem(await client.post(CERTIFICATES, data=body, headers=ALICE), status, "validation_error")
    assert says in members["detail"]
    assert issuance.requests == []


@pytest.mark.parametrize("reason", list(Reason))
async def test_every_rejection_is_its_problem(client: Client, issuance: SimulatedIssuance, reason: Reason) -> None:
    issuance.script.append(Rejected(Rejection(reason, "what happened", retry_after=60, suggestions=["what to do"])))
    response = await client.post(CERTIFICATES, data=der_of(make_csr("a.example.com")), headers=ALICE)
    members = await problem(response, PROBLEMS[reason].http_status, PROBLEMS[reason].kind.value)
    assert members["type"] == f"urn:certwright:problem:{reason.value}"
    assert (members["detail"], members["suggestions"]) == ("what happened", ["what to do"])
    assert response.headers["Retry-After"] == "60"


async def test_an_outage_is_503_without_its_inside(client: Client, issuance: SimulatedIssuance) -> None:
    issuance.script.append(Unavailable("signer at /run/secret.sock", retry_after=9))
    response = await client.post(CERTIFICATES, data=der_of(make_csr("a.example.com")), headers=ALICE)
    members = await problem(response, 503, "system_error")
    assert response.headers["Retry-After"] == "9"
    assert "secret" not in str(members)


async def test_why_a_request_was_refused_is_in_the_log_by_its_id(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="rest.http"):
        await client.post(CERTIFICATES, data=der_of(make_csr("a.example.com")), headers={"X-API-Key": "cw_geheim"})
    assert "request r-1 refused: not valid here" in caplog.text
    assert "geheim" not in caplog.text


async def test_a_bug_is_a_500_that_says_nothing(
    client: Client, issuance: SimulatedIssuance, caplog: pytest.LogCaptureFixture
) -> None:
    issuance.script.append(RuntimeError("internal detail"))
    with caplog.at_level(logging.ERROR, logger="rest.http"):
        response = await client.post(CERTIFICATES, data=der_of(make_csr("a.example.com")), headers=ALICE)
    members = await problem(response, 500, "system_error")
    assert members["detail"] == "Internal error occurred"
    assert "internal detail" in caplog.text


@pytest.mark.parametrize("path", ["/api/v1", "/api/v1/", "/api/v1/nothing", "/api/v1/certificates/"])
async def test_a_path_that_is_not_there_is_a_problem_too(client: Client, path: str) -> None:
    await problem(await client.get(path), 404, "validation_error")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", CERTIFICATES, "GET, POST"),
        ("PUT", f"{CERTIFICATES}/a12", "GET"),
        ("GET", f"{CERTIFICATES}/a12/revoke", "POST"),
        ("POST", "/api/openapi.json", "GET"),
    ],
)
async def test_a_method_that_is_not_there_names_those_that_are(client: Client, method: str, path: str, allow: str) -> None:
    response = await client.request(method, path, headers=ALICE)
    await problem(response, 405, "validation_error")
    assert response.headers["Allow"] == allow


# ---------------------------------------------------------------- show, list, revoke


async def test_a_key_sees_its_own_certificate(client: Client) -> None:
    serial = await issue(client, ALICE)
    response = await client.get(f"{CERTIFICATES}/{serial}", headers=ALICE)
    assert response.status == 200
    answer = await response.json()
    assert (answer["serial"], answer["status"], answer["names"]) == (serial, "issued", ["dns:www.example.com"])
    assert (answer["revoked_at"], answer["revocation_reason"]) == (None, None)
    assert answer["chain"].startswith(answer["certificate"])
    as_openssl_prints_it = await client.get(f"{CERTIFICATES}/0{serial.upper()}", headers=ALICE)
    assert await as_openssl_prints_it.json() == answer
    as_pem = await client.get(f"{CERTIFICATES}/{serial}", headers=ALICE | {"Accept": "text/plain"})
    assert await as_pem.text() == answer["chain"]


async def test_somebody_elses_certificate_and_nobodys_look_the_same(client: Client, issuance: SimulatedIssuance) -> None:
    serial = await issue(client, ALICE)
    for tail, method in (("", "GET"), ("/revoke", "POST")):
        answers = [
            await problem(await client.request(method, f"{CERTIFICATES}/{which}{tail}", headers=BOB), 404, "validation_error")
            for which in (serial, "abcdef", "no-hex")
        ]
        assert answers[0] == answers[1] == answers[2]
    assert issuance.records[serial].revoked_at is None


async def test_a_list_holds_ones_own_newest_first_and_turns_pages(client: Client) -> None:
    mine = [await issue(client, ALICE, f"{number}.example.com") for number in range(5)]
    theirs = await issue(client, BOB)
    seen: list[str] = []
    query = {"limit": "2"}
    for expected in (2, 2, 1):
        response = await client.get(CERTIFICATES, params=query, headers=ALICE)
        page = await response.json()
        assert len(page["certificates"]) == expected
        seen += [certificate["serial"] for certificate in page["certificates"]]
        query = {"limit": "2", "cursor": page["next"]}
    assert page["next"] is None
    assert seen == list(reversed(mine))
    assert theirs not in seen


async def test_a_full_last_page_has_no_next(client: Client) -> None:
    for number in range(2):
        await issue(client, ALICE, f"{number}.example.com")
    page = await (await client.get(CERTIFICATES, params={"limit": "2"}, headers=ALICE)).json()
    assert (len(page["certificates"]), page["next"]) == (2, None)
    assert (await (await client.get(CERTIFICATES, headers=BOB)).json()) == {"certificates": [], "next": None}


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "x"}, {"cursor": "x"}, {"cursor": ""}, {"page": "2"}, [("limit", "1"), ("limit", "2")]]
)
async def test_a_bad_query_is_malformed(client: Client, query: Any) -> None:
    await problem(await client.get(CERTIFICATES, params=query, headers=ALICE), 400, "validation_error")


async def test_an_admin_sees_and_revokes_everybodys(client: Client, issuance: SimulatedIssuance) -> None:
    serial = await issue(client, ALICE)
    assert (await client.get(f"{CERTIFICATES}/{serial}", headers=ADMIN)).status == 200
    listed = await (await client.get(CERTIFICATES, headers=ADMIN)).json()
    assert [certificate["serial"] for certificate in listed["certificates"]] == [serial]
    assert (await client.post(f"{CERTIFICATES}/{serial}/revoke", headers=ADMIN)).status == 200
    assert issuance.records[serial].reason is RevocationReason.UNSPECIFIED


async def test_a_key_revokes_its_own_once(client: Client) -> None:
    serial = await issue(client, ALICE)
    url = f"{CERTIFICATES}/{serial}/revoke"
    response = await client.post(url, json={"reason": "keyCompromise"}, headers=ALICE)
    assert response.status == 200
    answer = await response.json()
    assert (answer["status"], answer["revocation_reason"]) == ("revoked", "keyCompromise")
    assert answer["revoked_at"] is not None
    again = await problem(await client.post(url, json={"reason": 1}, headers=ALICE), 409, "validation_error")
    assert again["type"] == "urn:certwright:problem:already-revoked"


@pytest.mark.parametrize("body", [{"reason": "certificateHold"}, {"reason": 2}, {"reason": 7}, {"reason": "because"}])
async def test_a_reason_that_is_not_the_subscribers_is_refused(
    client: Client, issuance: SimulatedIssuance, body: dict[str, object]
) -> None:
    serial = await issue(client, ALICE)
    response = await client.post(f"{CERTIFICATES}/{serial}/revoke", json=body, headers=ALICE)
    members = await problem(response, 400, "validation_error")
    assert "superseded" in members["suggestions"][0]
    assert issuance.records[serial].revoked_at is None


async def test_the_description_names_every_path_and_resolves(client: Client) -> None:
    description = await (await client.get("/api/openapi.json")).json()
    assert description["openapi"] == "3.1.0"
    assert description["servers"] == [{"url": BASE}]
    challenges = "/api/v1/scep/challenges"
    assert set(description["paths"]) == {
        *(CERTIFICATES, f"{CERTIFICATES}/{{serial}}", f"{CERTIFICATES}/{{serial}}/revoke"),
        *(challenges, f"{challenges}/{{id}}"),
    }

    def references(part: object) -> list[str]:
        match part:
            case {"$ref": str(reference)}:
                return [reference]
            case dict():
                return [found for value in part.values() for found in references(value)]
            case list():
                return [found for value in part for found in references(value)]
        return []

    names = {reference.removeprefix("#/components/schemas/") for reference in references(description)}
    assert names <= set(description["components"]["schemas"])
    assert {"IssueBody", "IssuedAnswer", "Problem"} <= names


def test_the_real_pipeline_and_credentials_fit() -> None:
    """The type checker's test: the protocols of the front end are what the real ones offer."""

    def fitted(issuance: Issuance, credentials: Credentials) -> tuple[RestServer, EstServer]:
        return (
            RestServer(issuance=issuance, credentials=credentials, base_url=BASE),
            est_server(endpoints={}, issuance=issuance, credentials=credentials),
        )

    assert callable(fitted)
