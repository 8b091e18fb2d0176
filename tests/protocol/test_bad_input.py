"""What strangers send to a real server's listeners: every bad request gets its protocol's error, and none leaves a trace.

After each test: no certificate, no intent, no traceback, no 500, and the server still serves. What each parser makes of bad
input in detail is tested next to the parser; here it goes through the sockets, TLS and aiohttp that a stranger meets.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from pki.cms.scep import MessageType
from tests.helpers import scep
from tests.helpers.acme_client import JOSE, AccountKey, make_jws, to_json
from tests.helpers.exposed import Site, opened, unharmed
from tests.helpers.front_doors import Door, basic, refusal
from tests.helpers.wanted import Wanted, pem_csr

LIMIT = 256 * 1024


@pytest.fixture(scope="module")
def whole_site() -> Iterator[Site]:
    with opened() as site:
        yield site


@pytest.fixture
def site(whole_site: Site, tmp_path: Path) -> Iterator[Site]:
    with unharmed(whole_site, tmp_path):
        yield whole_site


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


def test_acme_urls_never_come_from_the_host_header(site: Site) -> None:
    reply = site.doors.https.send("GET", "/acme/directory", headers={"Host": "evil.test", "X-Forwarded-Host": "evil.test"})
    assert b"evil" not in reply.body
    account = site.doors.account(key=AccountKey())
    body = to_json(make_jws(account.key, account.header(account.url("new-account"), jwk=True), NEW_ACCOUNT))
    made = account.send(account.url("new-account"), body, {"Host": "evil.test", "X-Forwarded-Proto": "http"})
    assert made.status == 201
    assert made.headers["Location"].startswith(f"{site.server.base_url}/acme/default/account/")


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
def test_of_scep_message_types_0_to_99_only_19_enrols_with_a_challenge(site: Site, door: Door, tmp_path: Path) -> None:
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
            unknown = number == int(MessageType.CERT_POLL.value)  # there is nothing to poll for: badCertId
            assert scep.parse_answer(reply.body).fail_info == ("4" if unknown else "2"), text
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
