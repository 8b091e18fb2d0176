"""SCEP over HTTP (RFC 8894 §4), down to the octets of the request line: old devices do not speak as libraries do."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import pkcs7

from pki.reasons import Unavailable
from tests.helpers.scep import Message, csr, der_of, enveloped, parse_answer, pkcs_req, rsa_key
from tests.helpers.scep_served import Site, served
from tests.helpers.scep_simulators import KnownChallenges
from tests.helpers.scep_world import scep_world


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    challenges = KnownChallenges({("default", "correct horse"), ("old", "correct horse")})
    async with scep_world(challenges=challenges) as world:
        old = world.ca.endpoint(name="old", legacy=("sha1", "des-ede3-cbc"))
        async with served(world, world.ca.endpoint(), old) as site:
            yield site


PKI_MESSAGE = "application/x-pki-message"


async def test_no_cache_keeps_an_answer_that_came_by_get(site: Site) -> None:
    text = quote(base64.b64encode(pkcs_req(site.ca).encode()).decode(), safe="")
    async with site.http.get(f"{site.origin}/scep?operation=PKIOperation&message={text}") as response:
        assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")


# ---------------------------------------------------------------- GetCACaps, GetCACert


@pytest.mark.parametrize(
    "path",
    [
        "/scep",
        "/scep/",
        "/scep/default",
        "/scep/default/pkiclient.exe",
        "/scep/default/any/tail",
        "/scep/pkiclient.exe",
        "/scep/mscep.dll/pkiclient.exe",
        "/cgi-bin/pkiclient.exe",  # IOS, where `enrollment url` names no path
        "/certsrv/mscep",
        "/certsrv/mscep/mscep.dll",  # what Windows administrators type
        "/CertSrv/mscep/mscep.dll/pkiclient.exe",
    ],
)
async def test_capabilities_on_every_path_that_devices_make_of_the_url(site: Site, path: str) -> None:
    status, content_type, body = await site.get(f"{path}?operation=GetCACaps")
    assert (status, content_type) == (200, "text/plain; charset=utf-8")
    assert body.decode().splitlines() == ["POSTPKIOperation", "SCEPStandard", "AES", "SHA-256", "SHA-384", "SHA-512"]


async def test_an_endpoint_with_legacy_algorithms_says_so(site: Site) -> None:
    _, _, body = await site.get("/scep/old?operation=GetCACaps")
    assert {"SHA-1", "DES3"} <= set(body.decode().splitlines())


@pytest.mark.parametrize("message", ["", "&message=0", "&message=default", "&message=CAIdentifier", "&message=a%20trustpoint"])
async def test_every_ca_identifier_gets_ra_and_ca(site: Site, message: str) -> None:
    """certmonger sends "0", Windows "default", Cisco a trustpoint's name, strongSwan nothing."""
    status, content_type, body = await site.get(f"/scep?operation=GetCACert{message}")
    assert (status, content_type) == (200, "application/x-x509-ca-ra-cert")
    assert set(pkcs7.load_der_pkcs7_certificates(body)) == {site.ca.ra, site.ca.certificate}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/scep/nosuch?operation=GetCACaps", 404),
        ("/scep/nosuch/pkiclient.exe?operation=GetCACaps", 404),
        ("/scep?operation=GetNextCACert", 404),
        ("/scep?operation=getcacaps", 400),  # RFC 8894 §4.1 spells it; nobody is known to spell it otherwise
        ("/scep?operation=GetCACaps%20", 400),
        ("/scep?operation=%00", 400),
        ("/scep?operation=%ff%fe", 400),
        ("/scep?operation=", 400),
        ("/scep", 400),
        ("/cgi-bin/pkiclient.exe", 400),
        ("/certsrv/mscep/nosuch?operation=GetCACaps", 404),
        ("/scep?operation=PKIOperation", 400),
        ("/scep?operation=PKIOperation&message=", 400),
        ("/scep?operation=PKIOperation&message", 400),
        ("/scep?operation=PKIOperation&message=%20%0A", 400),
        ("/scep?operation=PKIOperation&message=%00%00%00%00", 400),
        ("/scep?operation=PKIOperation&message=AA%00A", 400),
        ("/scep?operation=PKIOperation&message=%", 400),
        ("/scep?operation=PKIOperation&message=%25%25%25", 400),
        ("/scep?operation=PKIOperation&message=%E4%FF%C3", 400),
        ("/scep?operation=PKIOperation&message=%C3%A4%C3%A4", 400),
        ("/scep?operation=PKIOperation&message=%21%21", 400),
        ("/scep?operation=PKIOperation&message=AAAA", 400),
    ],
)
async def test_what_nobody_can_be_answered_for_is_plain_text(site: Site, path: str, status: int) -> None:
    found, content_type, body = await site.get(path)
    assert (found, content_type) == (status, "text/plain; charset=utf-8")
    assert body.endswith(b"\n")
    assert b"Traceback" not in body


async def test_other_programs_of_other_servers_are_not_here(site: Site) -> None:
    assert (await site.get("/cgi-bin/other.exe?operation=GetCACaps"))[0] == 404
    assert (await site.get("/certsrv/certnew.cer?operation=GetCACaps"))[0] == 404


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_head_says_what_get_would(site: Site, method: str) -> None:
    answer = await site.raw(f"{method} /scep?operation=GetCACert HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert (len(body) > 0) == (method == "GET")


async def test_nothing_is_enrolled_by_head(site: Site) -> None:
    text = quote(base64.b64encode(pkcs_req(site.ca).encode()).decode(), safe="")
    request = f"HEAD /scep?operation=PKIOperation&message={text} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await site.raw(request.encode())
    assert answer.startswith(b"HTTP/1.1 405")
    assert b"\r\nAllow: GET, POST\r\n" in answer
    assert site.issuance.requests == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_are_a_405(site: Site, method: str) -> None:
    async with site.http.request(method, f"{site.origin}/scep?operation=PKIOperation", data=b"x") as response:
        assert response.status == 405
        assert {"GET", "POST"} <= set(response.headers["Allow"].split(","))


@pytest.mark.parametrize(
    ("start", "first_line"),
    [
        ("GET /scep?operation=GetCACaps HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 OK"),  # "a lot of clients send plain HTTP/1.0"
        ("GET /scep?operation=GetCACaps HTTP/1.0\r\nHost: 10.0.0.1\r\n\r\n", b"HTTP/1.0 200 OK"),
        ("GET /scep?operation=GetCACaps HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n", b"HTTP/1.1 200 OK"),
        ("GET http://ca.test:80/scep?operation=GetCACaps HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 OK"),  # as if to a proxy
    ],
)
async def test_http_1_0_is_answered_for_any_host(site: Site, start: str, first_line: bytes) -> None:
    answer = await site.raw(start.encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == first_line
    assert f"Content-Length: {len(body)}".encode() in head
    assert body.startswith(b"POSTPKIOperation\n")


async def test_a_query_may_be_in_any_order_and_have_more_in_it(site: Site) -> None:
    for query in (
        "message=default&operation=GetCACaps",
        "x&operation=GetCACaps&&=",
        "OPERATION=GetCACaps",
        "operation=Get%43ACaps",
    ):
        assert (await site.get(f"/scep?{query}"))[0] == 200, query
    assert (await site.get("/scep?operation=GetCACaps&operation=PKIOperation"))[1].startswith("text/plain")  # the first counts
    assert (await site.get("/scep?operation=GetCACaps;message=x"))[0] == 400


# ---------------------------------------------------------------- PKIOperation


@pytest.mark.parametrize("content_type", ["", "application/octet-stream", "application/x-pki-message", "text/html; charset=x"])
async def test_a_post_enrols_whatever_its_content_type(site: Site, content_type: str) -> None:
    status, found, body = await site.post(
        pkcs_req(site.ca).encode(), **({"Content-Type": content_type} if content_type else {})
    )
    assert (status, found) == (200, PKI_MESSAGE)
    assert parse_answer(body).status == "0"


async def test_a_post_in_chunks_enrols(site: Site) -> None:
    data = pkcs_req(site.ca).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    async with site.http.post(f"{site.origin}/scep?operation=PKIOperation", data=pieces()) as response:
        assert "Content-Length" in response.headers
        assert parse_answer(await response.read()).status == "0"


async def test_post_over_http_1_0_with_its_message_in_the_body_and_another_in_the_query(site: Site) -> None:
    data = pkcs_req(site.ca).encode()
    head = f"POST /scep/pkiclient.exe?operation=PKIOperation&message=AAAA HTTP/1.0\r\nContent-Length: {len(data)}\r\n\r\n"
    answer = await site.raw(head.encode() + data)
    assert parse_answer(answer.partition(b"\r\n\r\n")[2]).status == "0"


async def test_post_with_its_message_in_the_query_alone_is_an_empty_body(site: Site) -> None:
    text = quote(base64.b64encode(pkcs_req(site.ca).encode()).decode(), safe="")
    status, _, body = await site.post(b"", f"/scep?operation=PKIOperation&message={text}")
    assert (status, body) == (400, b"the body is empty; a PKIOperation by POST carries the message there\n")


async def test_a_get_with_a_bare_plus_enrols(site: Site) -> None:
    """macOS sends `+` and `/` as they are; a parser of forms would make a space of the first."""
    text = base64.b64encode(pkcs_req(site.ca).encode()).decode()
    assert "+" in text
    answer = await site.raw(
        f"GET /scep?operation=PKIOperation&message={text.replace('=', '%3D')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert parse_answer(body).status == "0"


async def test_a_get_over_http_1_0_with_a_long_line_enrols(site: Site) -> None:
    """Cisco: GET, HTTP/1.0. An RSA-4096 message makes a line of more than 8190 octets."""
    device = rsa_key("big device", 4096)
    sans = [f"device-{number}.example.com" for number in range(100)]
    data = Message(key=device, content=enveloped(csr(device, sans=sans), site.ca.ra)).encode()
    text = quote(base64.encodebytes(data).decode(), safe="")
    assert len(text) > 8190
    answer = await site.raw(f"GET /scep/pkiclient.exe?operation=PKIOperation&message={text} HTTP/1.0\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0].endswith(b" 200 OK")
    assert f"Content-Length: {len(body)}".encode() in head
    assert parse_answer(body).status == "0"


async def test_a_line_may_have_64_kib_and_not_more(site: Site) -> None:
    """Of an RSA-4096 key, with as many certificates as fit."""
    device = rsa_key("big device", 4096)
    message = Message(key=device, content=enveloped(csr(device), site.ca.ra))
    message.bag = [der_of(message.certificate()), *[der_of(site.ca.certificate)] * 53]
    data = message.encode()
    query = f"operation=PKIOperation&message={base64.urlsafe_b64encode(data).decode()}"
    assert 60_000 < len(query) < 65_000
    head = "Host: x\r\nConnection: close\r\n"
    reply = await site.raw_reply(f"GET /scep?{query} HTTP/1.1\r\n{head}\r\n".encode())
    assert (reply.status, parse_answer(reply.body).status) == (200, "0")
    reply = await site.raw_reply(f"GET /scep?{query}&{'x' * 6000} HTTP/1.1\r\n{head}\r\n".encode())
    assert reply.status == 400


async def test_a_refusal_is_a_signed_certrep_with_status_200(site: Site) -> None:
    """sscep shows an HTTP error or another type only as "wrong MIME"."""
    status, content_type, body = await site.post(pkcs_req(site.ca, challenge="guess").encode())
    assert (status, content_type) == (200, PKI_MESSAGE)
    assert parse_answer(body).fail_info == "2"


async def test_an_empty_body_is_a_400(site: Site) -> None:
    """Old macOS sends one ("invalid data len 0")."""
    status, _, body = await site.post(b"")
    assert status == 400
    assert b"empty" in body


@pytest.mark.parametrize("body", [b"x", b"\x30\x80" * 5000, b"<html>", bytes(1000)])
async def test_garbage_is_a_400_that_says_what_is_wrong(site: Site, body: bytes) -> None:
    status, _, text = await site.post(body)
    assert status == 400
    assert b"no SCEP message" in text


async def test_a_client_that_goes_away_inside_its_body_leaves_no_traceback(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    head = b"POST /scep?operation=PKIOperation HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
    writer.write(head)
    assert b"100" in await reader.readline()  # now the handler waits for the body
    writer.write(b"abc")
    writer.close()
    await writer.wait_closed()
    await site.runner.cleanup()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_more_than_256_kib_is_a_413(site: Site, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(257):
            yield bytes(1024)

    body = pieces() if chunked else bytes(257 * 1024)
    async with site.http.post(f"{site.origin}/scep?operation=PKIOperation", data=body) as response:
        assert response.status == 413


async def test_256_kib_of_small_elements_are_a_413_too(site: Site) -> None:
    body = b"\x30\x82\xff\xfc" + b"\x05\x00" * 0x7FFE
    status, _, _ = await site.post(body)
    assert status == 413


async def test_an_outage_is_a_503_with_retry_after_and_no_text(site: Site) -> None:
    """Of a message that could be read, only a CertRep says more; without a key or a database there is none."""
    site.issuance.script.append(Unavailable("the database", retry_after=7))
    async with site.http.post(f"{site.origin}/scep?operation=PKIOperation", data=pkcs_req(site.ca).encode()) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "7")
        assert not response.headers.get("Content-Type", "").startswith("text/")
        assert await response.read() == b""


async def test_a_bug_is_a_bare_500_and_a_line_in_the_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.issuance.script.append(RuntimeError("secret detail"))
    with caplog.at_level(logging.ERROR):
        status, _, body = await site.post(pkcs_req(site.ca).encode())
    assert status == 500
    assert body == b""
    assert "secret detail" in caplog.text


async def test_neither_the_challenge_nor_the_message_are_in_the_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await site.post(pkcs_req(site.ca, cipher="des-ede3-cbc").encode(), "/scep/old?operation=PKIOperation")
        await site.post(pkcs_req(site.ca, challenge="guess").encode())
    assert "des-ede3-cbc in use" in caplog.text
    assert "correct horse" not in caplog.text
    assert "guess" not in caplog.text


async def test_why_a_request_was_refused_is_in_the_log_for_clients_show_a_number_at_most(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        _, _, body = await site.post(pkcs_req(site.ca, challenge="guess").encode())
    answer = parse_answer(body)
    assert answer.status == "2"
    assert f"transaction {answer.transaction_id} of 127.0.0.1 refused: BAD_REQUEST: " in caplog.text
    assert "challenge" in caplog.text.split("BAD_REQUEST: ")[1]


async def test_a_certificate_of_the_wrong_endpoints_legacy_is_refused(site: Site) -> None:
    data = pkcs_req(site.ca, cipher="des-ede3-cbc").encode()
    _, _, modern = await site.post(data, "/scep/default?operation=PKIOperation")
    _, _, old = await site.post(data, "/scep/old?operation=PKIOperation")
    assert (parse_answer(modern).status, parse_answer(modern).fail_info) == ("2", "0")
    assert parse_answer(old).status == "0"
