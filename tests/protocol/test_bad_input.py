"""What strangers send to a real server's listeners: every bad request gets its protocol's error, and none leaves a trace.

After each test: no certificate, no intent, no traceback, no 500, and the server still serves. What each parser makes of bad
input in detail is tested next to the parser; here it goes through the sockets, TLS and aiohttp that a stranger meets.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import re
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from certwright.compose import compose
from certwright.config import load
from certwright.listeners import Listener
from certwright.logs import Log
from pki.clock import SystemClock
from scep.message import MessageType
from tests.helpers import scep
from tests.helpers.acme_client import JOSE, AccountKey, make_jws, to_json
from tests.helpers.front_doors import (
    Books,
    Door,
    Doors,
    Neighbourhood,
    Reply,
    Wanted,
    Watch,
    Wire,
    basic,
    converse,
    counted,
    pem_csr,
    refusal,
)
from tests.helpers.server import Server

LIMIT = 256 * 1024


@dataclass(slots=True)
class Site:
    server: Server
    doors: Doors
    watch: Watch
    templates: Mapping[Listener, list[str]]  # every path that the server routes
    wires: Mapping[Listener, Wire]


async def routes(server: Server) -> dict[Listener, list[str]]:
    """The route tables of a worker, from its own composition root."""
    clock = SystemClock()
    async with AsyncExitStack() as closing:
        log = Log(clock=clock, process="test")
        made = await compose(load(server.config_file), Path("/dev/null"), clock=clock, log=log, closing=closing)
        return {
            listener: sorted({resource.canonical for resource in app.router.resources()}) for listener, app in made.apps.items()
        }


@pytest.fixture(scope="module")
def whole_site() -> Iterator[Site]:
    with Neighbourhood() as around, Server(resolver=around.dns.address, http01_port=around.http.port) as server:
        doors = Doors(server, around)
        doors.secrets.account.register()
        metrics = Wire(server.metrics_port)
        wires = {
            Listener.HTTPS: doors.https,
            Listener.MTLS: doors.mtls,
            Listener.HTTP: doors.http,
            Listener.METRICS: metrics,
        }
        yield Site(server, doors, Watch(Books(server)), asyncio.run(routes(server)), wires)
        metrics.close()
        doors.close()


@pytest.fixture
def site(whole_site: Site, tmp_path: Path) -> Iterator[Site]:
    whole_site.watch.begin()
    yield whole_site
    whole_site.watch.nothing_happened()
    reply = whole_site.doors.ask(Door.REST_PEM, Wanted())
    whole_site.doors.certificate(Door.REST_PEM, reply, Wanted(), tmp_path)
    logged = sum(line.get("status", 0) >= 500 for line in whole_site.server.log_lines() if line.get("event") == "request")
    unserved = sum(line.get("status") == 501 for line in whole_site.server.log_lines())
    assert logged == unserved == counted(whole_site.server, "5xx")  # EST's 501s and nothing else


# ---------------------------------------------------------------------- ACME

KEY = AccountKey()
NEW_ACCOUNT = to_json({"termsOfServiceAgreed": True})


def jws(site: Site, payload: bytes = NEW_ACCOUNT, **changes: object) -> dict[str, str]:
    account = site.doors.account(key=KEY)
    return make_jws(KEY, account.header(account.url("new-account"), jwk=True, **changes), payload)


NO_JWS = {
    "nothing": b"",
    "a brace": b"{",
    "null": b"null",
    "a list": b"[]",
    "a string": b'"eyJ"',
    "not UTF-8": b'{"protected":"\xff"}',
    "UTF-16": '{"protected":""}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "empty object": b"{}",
    "NaN": b'{"protected":NaN,"payload":"","signature":""}',
    "members twice": b'{"protected":"e30","protected":"e30","payload":"","signature":""}',
    "members of other types": b'{"protected":1,"payload":[],"signature":{}}',
    "deeper than any reader": b"[" * 20_000,
    "deep objects": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "a long number": b'{"protected":' + b"9" * 20_000 + b"}",
    "padding": b'{"protected":"e30=","payload":"","signature":""}',
    "white space in base64": b'{"protected":"e 30","payload":"","signature":""}',
    "the compact form": b"e30.e30.e30",
    "the general form": b'{"payload":"","signatures":[{"protected":"e30","signature":""}]}',
    "an unprotected header": b'{"protected":"e30","header":{"alg":"none"},"payload":"","signature":""}',
    "a form": b"protected=e30&payload=&signature=",
    "XML": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>',
}


@pytest.mark.parametrize("body", NO_JWS.values(), ids=NO_JWS.keys())
def test_acme_names_what_is_no_jws_malformed(site: Site, body: bytes) -> None:
    for path in ("new-account", "new-order", "revoke-cert", "order/AAAAAAAAAAAAAAAAAAAAAA/finalize"):
        reply = site.doors.https.send("POST", f"/acme/default/{path}", body, {"Content-Type": JOSE})
        assert refusal(Door.ACME, reply).startswith("malformed")
        assert reply.status == 400
        assert reply.headers["Replay-Nonce"]


HEADERS: dict[str, dict[str, object]] = {
    "alg none": {"alg": "none"},
    "alg HS256": {"alg": "HS256"},
    "alg ES384 with a key of P-256": {"alg": "ES384"},
    "no alg": {"alg": None},
    "alg that is no text": {"alg": 7},
    "jwk and kid": {"kid": "https://localhost/acme/default/account/1"},
    "neither jwk nor kid": {"jwk": None},
    "jwk that is no object": {"jwk": "x"},
    "a point that is not on its curve": {"jwk": {**KEY.jwk, "y": KEY.jwk["x"]}},
    "a private jwk": {"jwk": {**KEY.jwk, "d": "AAAA"}},
    "crit": {"crit": ["exp"], "exp": 1},
    "b64": {"b64": False, "crit": ["b64"]},
    "no nonce": {"nonce": None},
    "a nonce that is none": {"nonce": "AAAA"},
    "a nonce with a NUL": {"nonce": "\0"},
    "no url": {"url": None},
    "another url": {"url": "https://localhost/acme/default/new-order"},
    "a url of another host": {"url": "https://evil.test/acme/default/new-account"},
}


@pytest.mark.parametrize("changes", HEADERS.values(), ids=HEADERS.keys())
def test_acme_refuses_a_header_that_is_not_as_it_should_be(site: Site, changes: dict[str, object]) -> None:
    url = site.doors.account().url("new-account")
    header = {**site.doors.account(key=KEY).header(url, jwk=True), **changes}
    signed = make_jws(KEY, {name: value for name, value in header.items() if value is not None}, NEW_ACCOUNT)
    reply = site.doors.https.send("POST", "/acme/default/new-account", to_json(signed), {"Content-Type": JOSE})
    refusal(Door.ACME, reply)


PAYLOADS = {
    "nothing": b"",
    "no JSON": b"x",
    "a list": b"[]",
    "members twice": b'{"csr":"","csr":""}',
    "NaN": b'{"csr":NaN}',
    "no csr": b"{}",
    "a csr that is no text": b'{"csr":1}',
    "a csr in PEM": to_json({"csr": pem_csr(b"0")}),
    "a csr in base64 with padding": b'{"csr":"MAA="}',
    "a csr with a lone surrogate": b'{"csr":"\\ud800"}',
    "an empty csr": b'{"csr":""}',
    "identifiers that are no list": b'{"identifiers":{}}',
    "no identifiers": b'{"identifiers":[]}',
    "identifiers that are no objects": b'{"identifiers":["host.example.test"]}',
    "an identifier without a type": b'{"identifiers":[{"value":"host.example.test"}]}',
    "an identifier of another type": b'{"identifiers":[{"type":"email","value":"a@example.test"}]}',
    "a name that is no text": b'{"identifiers":[{"type":"dns","value":7}]}',
    "a time that is none": b'{"identifiers":[{"type":"dns","value":"a.test"}],"notAfter":"tomorrow"}',
    "a time after all times": b'{"identifiers":[{"type":"dns","value":"a.test"}],"notAfter":"9999-99-99T99:99:99Z"}',
    "a certificate that is none": b'{"certificate":"MAA"}',
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_acme_refuses_a_signed_payload_that_makes_no_sense(site: Site, payload: bytes) -> None:
    account = site.doors.secrets.account
    finalize = account.order("host.example.test").json["finalize"]
    for url in (account.url("new-order"), finalize, account.url("revoke-cert")):
        refusal(Door.ACME, account.post(url, payload))


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "", "application/jose", "multipart/form-data; boundary=x", "x" * 1000]
)
def test_acme_takes_nothing_but_jose(site: Site, content_type: str) -> None:
    body = to_json(jws(site))
    reply = site.doors.https.send("POST", "/acme/default/new-account", body, {"Content-Type": content_type})
    assert reply.status == 415
    assert refusal(Door.ACME, reply).startswith("malformed")


def test_acme_takes_50000_octets_and_not_one_more(site: Site) -> None:
    account = site.doors.account(key=AccountKey())
    body = to_json(make_jws(account.key, account.header(account.url("new-account"), jwk=True), NEW_ACCOUNT))
    too_much = account.send(account.url("new-account"), body + b" " * (50_001 - len(body)))
    assert too_much.status == 413
    assert refusal(Door.ACME, too_much).startswith("malformed")
    assert account.send(account.url("new-account"), body + b" " * (50_000 - len(body))).status == 201


def test_a_body_that_claims_to_be_compressed_is_not_unpacked(site: Site) -> None:
    for encoding in ("gzip", "deflate", "br", "zstd", "identity, gzip"):
        headers = {"Content-Type": JOSE, "Content-Encoding": encoding}
        refusal(Door.ACME, site.doors.https.send("POST", "/acme/default/new-account", b"\x1f\x8b\x08\0" * 100, headers))


# ---------------------------------------------------------------------- EST

NOT_BASIC = {
    "no scheme": "ZGV2aWNlOng=",
    "nothing behind it": "Basic",
    "no base64": "Basic ***",
    "no colon": "Basic " + base64.b64encode(b"device").decode(),
    "not UTF-8": "Basic " + base64.b64encode(b"\xff:\xff").decode(),
    "a NUL": "Basic " + base64.b64encode(b"device\0:x").decode(),
    "nobody": "Basic " + base64.b64encode(b":").decode(),
    "very long": "Basic " + base64.b64encode(b"a" * 30_000 + b":" + b"b" * 10_000).decode(),
    "Digest": 'Digest username="device", response="x"',
    "Negotiate": "Negotiate TlRMTVNTUAAB",
}


@pytest.mark.parametrize("header", NOT_BASIC.values(), ids=NOT_BASIC.keys())
def test_est_answers_401_to_an_authorization_that_it_cannot_read(site: Site, header: str) -> None:
    reply = site.doors.simple_enroll(Wanted().csr(), None, Authorization=header)
    assert reply.status == 401
    assert refusal(Door.EST, reply) == "unauthenticated"


CSRS = {
    "nothing": b"",
    "white space": b" \r\n\t",
    "no base64": b"!" * 100,
    "half an octet": b"M",
    "no DER": b"AAAA",
    "half of the DER": base64.b64encode(Wanted().csr()[:300]),
    "DER and more": base64.b64encode(Wanted().csr() + b"\0"),
    "a length that is not there": base64.b64encode(b"\x30\x84\xff\xff\xff\xff"),
    "an indefinite length": base64.b64encode(b"\x30\x80" + Wanted().csr()[4:] + b"\0\0"),
    "deep DER": base64.b64encode(b"\x30\x80" * 5_000),
    "an OID without end": base64.b64encode(scep.seq(scep.seq(b"\x06\x83\x01\x86\xa0" + b"\xff" * 100_000))),
    "armour alone": b"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
    "armour without an end": b"-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n",
    "a private key": b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
    "a certificate": scep.pem_of(scep.self_signed(scep.rsa_key("bad-input"))),
}


@pytest.mark.parametrize("body", CSRS.values(), ids=CSRS.keys())
def test_est_and_rest_refuse_what_is_no_request_for_a_certificate(site: Site, body: bytes) -> None:
    assert site.doors.secrets.est is not None
    headers = {"Content-Type": "application/pkcs10", **basic(*site.doors.secrets.est)}
    reply = site.doors.mtls.send("POST", "/.well-known/est/simpleenroll", body, headers)
    assert reply.status == 400
    refusal(Door.EST, reply)
    reply = site.doors.rest(body, site.doors.secrets.api_key, content_type="application/pkcs10")
    assert reply.status == 400
    refusal(Door.REST_PEM, reply)
    try:
        text = body.decode("ascii")
    except UnicodeDecodeError:
        return
    reply = site.doors.rest(to_json({"csr": text}), site.doors.secrets.api_key)
    assert reply.status == 400
    refusal(Door.REST_JSON, reply)


@pytest.mark.parametrize("content_type", ["application/pkcs7-mime", "application/json", "multipart/mixed", "x" * 5_000, ";"])
def test_est_refuses_what_cannot_be_a_request_by_its_type(site: Site, content_type: str) -> None:
    reply = site.doors.simple_enroll(Wanted().csr(), site.doors.secrets.est, **{"Content-Type": content_type})
    if content_type == ";":  # that is no type at all
        assert reply.status == 200
        site.watch.begin()
        return
    assert reply.status == 415
    refusal(Door.EST, reply)


def test_whoever_is_not_known_is_refused_before_his_body_is_looked_at(site: Site) -> None:
    """Neither the type nor the size of it, nor what is in it, gets another answer than 401."""
    for body in (b"", b"x", bytes(LIMIT + 1)):
        assert site.doors.mtls.send("POST", "/.well-known/est/simpleenroll", body, {"Content-Type": "x"}).status == 401
        assert site.doors.https.send("POST", "/api/v1/certificates", body, {"Content-Type": "x"}).status == 401


# ---------------------------------------------------------------------- REST

BODIES = {
    "nothing": b"",
    "a brace": b"{",
    "null": b"null",
    "a list": b"[]",
    "not UTF-8": b'{"csr":"\xff"}',
    "members twice": b'{"csr":"a","csr":"b"}',
    "NaN": b'{"csr":NaN}',
    "an unknown member": b'{"csr":"a","ca":true}',
    "other types": b'{"csr":{},"profile":[]}',
    "no csr": b'{"profile":"tls-server"}',
    "deep": b'{"csr":' * 20_000,
    "a lone surrogate": b'{"csr":"\\ud800"}',
    "a time that is none": to_json({"csr": pem_csr(Wanted().csr()), "not_after": "tomorrow"}),
    "a time before all times": to_json({"csr": pem_csr(Wanted().csr()), "not_before": "0000-00-00T00:00:00Z"}),
    "a time after all times": to_json({"csr": pem_csr(Wanted().csr()), "not_after": "9999-12-31T23:59:59.999999-23:59"}),
    "a number as time": to_json({"csr": pem_csr(Wanted().csr()), "not_after": 4_000_000_000}),
    "a profile with a NUL": to_json({"csr": pem_csr(Wanted().csr()), "profile": "tls-server\0"}),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_rest_names_what_is_wrong_with_a_body(site: Site, body: bytes) -> None:
    reply = site.doors.rest(body, site.doors.secrets.api_key)
    assert reply.status == 400
    refusal(Door.REST_JSON, reply)
    assert reply.json["status"] == "validation_error" or reply.json["type"].endswith("invalid-validity")


@pytest.mark.parametrize(
    "query",
    [
        "profile=a&profile=b",
        "x=1",
        "profile=%00",
        "profile=%ff",
        "limit=0",
        "limit=1e3",
        "cursor=%2e",
        "%",
    ],
)
def test_rest_refuses_queries_that_it_does_not_know(site: Site, query: str) -> None:
    key = {"X-API-Key": site.doors.secrets.api_key or ""}
    for method, body in (("POST", pem_csr(Wanted().csr()).encode()), ("GET", None)):
        reply = site.doors.https.send(method, f"/api/v1/certificates?{query}", body, {**key, "Content-Type": "text/plain"})
        assert reply.status in {400, 403}, query
        refusal(Door.REST_PEM, reply)


@pytest.mark.parametrize(
    "serial", ["0", "zz", "-1", "1" * 41, "1" * 10_000, "%00", "%ff", "a%2fb", "..", "'", "%27%20OR%201=1--"]
)
def test_rest_knows_no_certificate_by_a_strange_serial(site: Site, serial: str) -> None:
    key = {"X-API-Key": site.doors.secrets.api_key or ""}
    for method, path in (("GET", f"/api/v1/certificates/{serial}"), ("POST", f"/api/v1/certificates/{serial}/revoke")):
        reply = site.doors.https.send(method, path, None, key)
        assert reply.status in {404, 405}
        refusal(Door.REST_JSON, reply)


# ---------------------------------------------------------------------- SCEP


@pytest.mark.parametrize("door", [Door.SCEP_POST, Door.SCEP_GET])
def test_scep_message_types_0_to_99_do_nothing_but_19(site: Site, door: Door, tmp_path: Path) -> None:
    """Valid CMS by an honest client with the right challenge, and any type: an unknown one must never enrol (CVE-2026-30836)."""
    challenge = site.doors.secrets.challenge
    for number in range(100):
        message = site.doors.pkcs_req(Wanted(), challenge=challenge, message_type=str(number)).encode()
        reply = site.doors.pki_operation(message, get=door is Door.SCEP_GET)
        if number == int(MessageType.PKCS_REQ.value):
            site.doors.certificate(door, reply, Wanted(), tmp_path)
            site.watch.begin()
        else:
            text = refusal(door, reply)
            assert scep.parse_answer(reply.body).fail_info == "2", text
    site.watch.nothing_happened()


QUERIES = {
    "nothing": "",
    "no operation": "message=AAAA",
    "an unknown operation": "operation=PKIOperations&message=AAAA",
    "another case": "operation=pkioperation&message=AAAA",
    "an operation twice": "operation=Nothing&operation=GetCACaps",
    "an operation that is not ASCII": "operation=%ff%fe",
    "an operation with a NUL": "operation=PKIOperation%00",
    "no message": "operation=PKIOperation",
    "an empty message": "operation=PKIOperation&message=",
    "no base64": "operation=PKIOperation&message=***",
    "percent signs": "operation=PKIOperation&message=%%%25%2",
    "base64 of nothing": "operation=PKIOperation&message=AAAA",
    "a thousand parameters": "&".join(f"a{number}=b" for number in range(1000)),
    "10 kB": "operation=PKIOperation&message=" + "A" * 10_000,
    "60 kB": "operation=PKIOperation&message=" + "A" * 60_000,
    "a certificate": "operation=PKIOperation&message="
    + quote(base64.b64encode(scep.der_of(scep.self_signed(scep.rsa_key("bad-input")))), safe=""),
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_scep_refuses_a_query_that_makes_no_sense(site: Site, query: str) -> None:
    for listener in (site.doors.http, site.doors.https):
        reply = listener.send("GET", f"/scep/default?{query}")
        assert reply.status == 400
        refusal(Door.SCEP_GET, reply)


def test_a_long_scep_query_that_makes_sense_is_served(site: Site, tmp_path: Path) -> None:
    wanted = Wanted(names=tuple(f"host-{number}.example.test" for number in range(100)), common_name="x" * 60)
    message = site.doors.pkcs_req(wanted, challenge=site.doors.secrets.challenge).encode()
    assert len(base64.b64encode(message)) > 6_000
    reply = site.doors.pki_operation(message, get=True)
    site.doors.certificate(Door.SCEP_GET, reply, wanted, tmp_path)
    site.watch.begin()


def test_scep_by_get_in_http_1_0_without_a_host_is_served(site: Site) -> None:
    """What old routers send; the connection is closed after the answer."""
    message = site.doors.pkcs_req(Wanted(names=("old.example.test",)), challenge=site.doors.secrets.challenge).encode()
    line = (
        f"GET /scep/default/pkiclient.exe?operation=PKIOperation&message={quote(base64.b64encode(message), safe='')} HTTP/1.0"
    )
    answer = site.doors.http.raw(line.encode() + b"\r\n\r\n", end=False)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200"), head
    assert b"chunked" not in head.lower()
    assert scep.parse_answer(body).status == "0"
    site.watch.begin()


def test_damaged_scep_messages_get_a_failure_or_a_400(site: Site) -> None:
    """Every one of many single damages of an honest message; none of them enrols."""
    seeded = random.Random(8894)
    whole = site.doors.pkcs_req(Wanted(), challenge=site.doors.secrets.challenge).encode()
    for _ in range(150):
        damaged = bytearray(whole)
        match seeded.randrange(4):
            case 0:
                damaged[seeded.randrange(len(damaged))] ^= 1 << seeded.randrange(8)
            case 1:
                del damaged[seeded.randrange(len(damaged)) :]
            case 2:
                at = seeded.randrange(len(damaged))
                damaged[at:at] = seeded.randbytes(seeded.randrange(1, 20))
            case _:
                del damaged[(at := seeded.randrange(len(damaged))) : at + seeded.randrange(1, 20)]
        reply = site.doors.pki_operation(bytes(damaged))
        if reply.status == 200 and scep.parse_answer(reply.body).status == "0":
            # The damage was in what nobody signs and nobody needs (an unsigned version number): the message is still honest.
            site.watch.begin()
            continue
        refusal(Door.SCEP_POST, reply)


# ---------------------------------------------------------------------- OCSP


@pytest.mark.parametrize("body", [b"", b"x", b"\x30\x80" * 1000, bytes(LIMIT), b"\x30\x84\xff\xff\xff\xff"])
def test_ocsp_calls_what_is_no_request_malformed(site: Site, body: bytes) -> None:
    """RFC 6960 section 4.2.1: an unsigned answer with nothing but its status."""
    replies = [site.doors.http.send("POST", "/ocsp/issuing", body)]
    if 0 < len(body) < 10_000:
        replies.append(site.doors.http.send("GET", f"/ocsp/issuing/{quote(base64.b64encode(body), safe='')}"))
    for reply in replies:
        assert (reply.status, reply.media_type) == (200, "application/ocsp-response")
        assert reply.body == bytes.fromhex("30030a0101")


# ---------------------------------------------------------------------- HTTP itself

NOT_HTTP = {
    "nothing but an end": b"",
    "an empty line": b"\r\n\r\n\r\n",
    "noise": bytes(range(256)) * 8,
    "zeros": bytes(4096),
    "no version": b"GET /livez\r\n\r\n",
    "a version that is none": b"GET /livez HTTP/9.9\r\n\r\n",
    "HTTP/2 by prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "a TLS hello": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SMTP": b"EHLO evil.test\r\nMAIL FROM:<a@evil.test>\r\n",
    "a method with a control character": b"GE\x01T /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method of 10,000 letters": b"G" * 10_000 + b" /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path with a control character": b"GET /li\x01vez HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path that is no URL": b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a port that is none": b"GET http://a:99999/livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
    "a star": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    "a path of 70,000 letters": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "a header of 70,000 letters": b"GET /nothing HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    "40,000 headers": b"GET /nothing HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 40_000 + b"\r\n",
    "a header without a name": b"GET /nothing HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
    "a header without a colon": b"GET /nothing HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n",
    "a header with a space before its colon": b"GET /nothing HTTP/1.1\r\nHost : a\r\n\r\n",
    "a header with a NUL": b"GET /nothing HTTP/1.1\r\nHost: a\0b\r\n\r\n",
    "a folded header": b"GET /nothing HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
    "no host": b"GET /nothing HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /nothing HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two lengths": b"POST /scep?operation=PKIOperation HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "length and chunks": b"POST /scep?operation=PKIOperation HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": b"POST /scep?operation=PKIOperation HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "a length in hex": b"POST /scep?operation=PKIOperation HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\nxxxx",
    "a length beyond all": b"POST /scep?operation=PKIOperation HTTP/1.1\r\nHost: a\r\nContent-Length: "
    + b"9" * 30
    + b"\r\n\r\n",
    "a body that ends early": b"POST /scep?operation=PKIOperation HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n0\x82",
    "chunks that are none": b"POST /scep?operation=PKIOperation HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk beyond all": b"POST /scep?operation=PKIOperation HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"f" * 30
    + b"\r\n",
    "an encoding that is none": b"POST /scep?operation=PKIOperation HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cow\r\n\r\nmoo",
    "an upgrade": b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "an expectation": b"POST /scep?operation=PKIOperation HTTP/1.1\r\nHost: a\r\nExpect: the-unexpected\r\nContent-Length: 1\r\n\r\nx",
    "a second request behind a bad one": b"GET /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
}
STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})")
LISTENERS = list(Listener)


@pytest.mark.parametrize("listener", LISTENERS, ids=[listener.value for listener in LISTENERS])
def test_what_is_no_http_gets_a_400_or_a_closed_connection(site: Site, listener: Listener) -> None:
    for what, data in NOT_HTTP.items():
        wire = site.wires[listener]
        data = data.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1) if b"HTTP/1.1\r\n" in data else data  # noqa: PLW2901
        with wire.socket() as connection:
            answer = converse(connection, data, end=True) if wire.context is None else finish(connection, data)
        statuses = [int(found) for found in STATUS_LINE.findall(answer)]
        assert all(400 <= status < 500 for status in statuses), (what, answer)
        assert len(statuses) <= 1 or what == "a folded header", (what, answer)
        assert b"Traceback" not in answer


def finish(connection: socket.socket, data: bytes) -> bytes:
    """In TLS, saying that nothing more comes is closing for good; so the server's answer is awaited only as long as it sends."""
    connection.settimeout(0.5)
    received = bytearray()
    try:
        connection.sendall(data)
        while chunk := connection.recv(65536):
            received += chunk
    except (TimeoutError, OSError):
        pass
    return bytes(received)


def test_what_is_no_tls_ends_on_the_tls_listeners(site: Site) -> None:
    for listener in (Listener.HTTPS, Listener.MTLS):
        for data in (
            *NOT_HTTP.values(),
            b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01\xff\xff" + os.urandom(65535),
        ):
            with socket.create_connection(("localhost", site.wires[listener].port), timeout=10) as connection:
                answer = converse(connection, data)
            assert not answer.startswith(b"HTTP/"), answer
            assert len(answer) < 200  # an alert at most


def test_old_tls_is_refused(site: Site) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old versions are the point
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    for listener in (Listener.HTTPS, Listener.MTLS):
        with (
            socket.create_connection(("localhost", site.wires[listener].port), timeout=10) as plain,
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            context.wrap_socket(plain)


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "M-SEARCH")


def test_no_method_is_a_bug_or_a_way_around_authentication(site: Site) -> None:
    for listener in LISTENERS:
        for template in site.templates[listener]:
            for method in METHODS:
                path = concrete(template) + ("?operation=PKIOperation" if template.startswith("/scep") else "")
                judge(site.wires[listener].send(method, path), template, f"{method} {path}")


# ---------------------------------------------------------------------- paths

# What needs nobody's credentials, by the template of its route. Everything else must refuse a stranger.
PUBLIC = (
    re.compile(r"/acme/(\{endpoint\}/)?directory"),
    re.compile(r"/acme/\{endpoint\}/new-nonce"),
    re.compile(r"/\.well-known/est/(\{label\}/)?\{operation\}"),  # cacerts; simpleenroll is looked at below
    re.compile(r"/api/openapi\.json"),
    re.compile(r"/(livez|readyz|metrics|roots\.pem)"),
    re.compile(r"/(aia|crl|ocsp)/.*"),
)
VALUES = {
    "endpoint": "default",
    "id": "A" * 22,
    "kind": "http-01",
    "serial": "abcdef",
    "label": "default",
    "operation": "simpleenroll",
    "issuer": "issuing",
    "request": "MAA=",
    "path": "default",
    "tail": "nothing",
}
TRICKS: dict[str, Callable[[str], str]] = {
    "as it is": lambda path: path,
    "a slash behind": lambda path: path + "/",
    "two slashes behind": lambda path: path + "//",
    "a slash in front": lambda path: "/" + path,
    "all slashes twice": lambda path: path.replace("/", "//"),
    "the last slash escaped": lambda path: "%2f".join(path.rsplit("/", 1)),
    "the last slash escaped twice": lambda path: "%252f".join(path.rsplit("/", 1)),
    "a backslash": lambda path: "\\".join(path.rsplit("/", 1)),
    "a parameter": lambda path: path + ";x",
    "a parameter in front": lambda path: path.replace("/", "/;x/", 1),
    "a NUL": lambda path: path + "%00",
    "a line feed": lambda path: path + "%0d%0a",
    "a space": lambda path: path + "%20",
    "octets that are not UTF-8": lambda path: path + "%ff%fe",
    "a broken escape": lambda path: path + "%zz%",
    "a dot": lambda path: path + "/.",
    "a dot in front": lambda path: "/." + path,
    "two dots and back": lambda path: "/x/.." + path,
    "two escaped dots and back": lambda path: "/x/%2e%2e" + path,
    "capitals": lambda path: path.upper(),
    "a letter escaped": lambda path: path[:-1] + f"%{ord(path[-1]):02x}",
    "a suffix": lambda path: path + ".json",
    "a question mark": lambda path: path + "?",
    "a question mark escaped": lambda path: path + "%3foperation=GetCACaps",
    "a proxy's form": lambda path: "http://evil.test" + path,
    "a host in it": lambda path: "//evil.test" + path,
}


def concrete(template: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: VALUES[found[1]], template)


def judge(reply: Reply, template: str, what: str) -> None:
    """Never a 500, never a redirect, and a success for what is public alone."""
    assert reply.status < 500 or reply.status == 501, (what, reply.status)
    assert not 300 <= reply.status < 400, (what, reply.status)
    if not any(pattern.fullmatch(template) for pattern in PUBLIC) or "simpleenroll" in what.lower():
        assert reply.status >= 400, (what, reply.status)


@pytest.mark.parametrize("listener", LISTENERS, ids=[listener.value for listener in LISTENERS])
def test_no_spelling_of_a_path_is_a_bug_or_a_way_around_authentication(site: Site, listener: Listener) -> None:
    assert site.templates[listener]
    for template in site.templates[listener]:
        for trick, spell in TRICKS.items():
            path = spell(concrete(template))
            for method in ("GET", "POST"):
                body = pem_csr(Wanted().csr()).encode() if method == "POST" else None
                reply = site.wires[listener].send(method, path, body, {"Content-Type": "application/pkcs10"})
                judge(reply, template, f"{method} {path} ({trick})")


def test_a_protocol_is_not_served_by_another_ones_listener(site: Site) -> None:
    """ACME and REST never in clear text, SCEP never where a client certificate is asked for, metrics nowhere else."""
    where = {listener: {path.split("/")[1] for path in paths} for listener, paths in site.templates.items()}
    assert where[Listener.HTTP] & {"acme", "api", "metrics"} == set()
    assert where[Listener.MTLS] & {"acme", "scep", "metrics"} == set()
    assert where[Listener.HTTPS] & {"metrics", ".well-known"} == set()
    assert where[Listener.METRICS] == {"metrics", "livez", "readyz"}
    assert site.doors.http.send("POST", "/acme/default/new-account", b"{}").status == 404
    assert site.doors.http.send("POST", "/api/v1/certificates", b"{}").status == 404
    cleartext = site.doors.http.send("POST", "/.well-known/est/simpleenroll", base64.b64encode(Wanted().csr()))
    assert cleartext.status == 403


def test_acme_urls_never_come_from_the_host_header(site: Site) -> None:
    reply = site.doors.https.send("GET", "/acme/directory", headers={"Host": "evil.test", "X-Forwarded-Host": "evil.test"})
    assert b"evil" not in reply.body
    account = site.doors.account(key=AccountKey())
    body = to_json(make_jws(account.key, account.header(account.url("new-account"), jwk=True), NEW_ACCOUNT))
    made = account.send(account.url("new-account"), body, {"Host": "evil.test", "X-Forwarded-Proto": "http"})
    assert made.status == 201
    assert made.headers["Location"].startswith(f"{site.server.base_url}/acme/default/account/")
