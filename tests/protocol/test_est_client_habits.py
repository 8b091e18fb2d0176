"""EST clients that nobody can install here, octet by octet as they speak: libest, strongSwan, Azure IoT Edge, globalsign/est, clients on
mbedTLS and wolfSSL, BouncyCastle. What each test says of a client was seen on the wire or read in its source.
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from ruamel.yaml import YAML

from tests.helpers.books import Books, Watch
from tests.helpers.issuance_simulator import der_of, make_csr, pem_of
from tests.helpers.server import Server
from tests.helpers.server import run as certwright

ENDPOINTS = """\
default: {profile: device, authenticate: [basic]}
linked: {profile: device, authenticate: [basic], proof_linking: required}
azure: {profile: device, authenticate: [basic, certificate], client_certificates: {enroll: true, roles: [device]}}
"""
LIMIT = 10.0  # seconds for one answer
USER = "device"
CERTS_ONLY = b"application/pkcs7-mime; smime-type=certs-only"
FORM = b"application/x-www-form-urlencoded"


def with_endpoints(text: str) -> str:
    yaml, out = YAML(), StringIO()
    config = yaml.load(text)
    config["endpoints"]["est"] = yaml.load(ENDPOINTS)
    yaml.dump(config, out)
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Answer:
    head: bytes
    body: bytes
    first: bytes  # what the first TLS record with an answer in it held

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    def header(self, name: bytes) -> bytes:
        """Found as C clients find it: the only line that begins so."""
        [line] = [line for line in self.head.split(b"\r\n")[1:] if line.lower().startswith(name.lower() + b":")]
        return line.split(b":", 1)[1].strip()

    def has(self, name: bytes) -> bool:
        return any(line.lower().startswith(name.lower() + b":") for line in self.head.split(b"\r\n")[1:])

    def certificate(self) -> x509.Certificate:
        assert self.status == 200, self.body
        [certificate] = pkcs7.load_der_pkcs7_certificates(base64.b64decode(self.body))
        return certificate


@dataclass(frozen=True, slots=True)
class Est:
    server: Server
    passwords: dict[str, str] = field(repr=False)

    def basic(self, label: str = "default") -> bytes:
        return b"Authorization: Basic " + base64.b64encode(f"{USER}:{self.passwords[label]}".encode()) + b"\r\n"

    @contextmanager
    def connection(
        self, *, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, held: tuple[Path, Path] | None = None
    ) -> Iterator[ssl.SSLSocket]:
        context = ssl.create_default_context(cafile=str(self.server.ca_file))
        context.maximum_version = version
        if held is not None:
            context.load_cert_chain(*held)
        with (
            socket.create_connection(("localhost", self.server.mtls_port), timeout=LIMIT) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            yield tls

    def ask(self, head: bytes, body: bytes = b"", **how: object) -> Answer:
        """One request on a connection of its own."""
        with self.connection(**how) as tls:  # type: ignore[arg-type]  # handed on
            return exchange(tls, [head, body])


def exchange(tls: ssl.SSLSocket, parts: Sequence[bytes]) -> Answer:
    """A TLS record for each part. Reads as far as Content-Length says, as all these clients do."""
    for part in parts:
        if part:
            tls.sendall(part)
    received = first = tls.recv(16 * 1024)
    while b"\r\n\r\n" not in received:
        received += more(tls)
    head, _, body = received.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    length = int(found[1]) if found else 0
    while len(body) < length:
        body += more(tls)
    assert len(body) == length
    return Answer(head, body, first)


def more(tls: ssl.SSLSocket) -> bytes:
    octets = tls.recv(16 * 1024)
    assert octets, "the server has closed the connection in the middle of an answer"
    return octets


def wrapped_at_64(der: bytes) -> bytes:
    """OpenSSL's BIO_f_base64."""
    return "".join(f"{line}\n" for line in textwrap.wrap(base64.b64encode(der).decode(), 64)).encode()


def post(*, path: str = "/.well-known/est/simpleenroll", headers: bytes = b"", length: int, version: bytes = b"1.1") -> bytes:
    return b"POST %s HTTP/%s\r\n%sContent-Length: %d\r\n\r\n" % (path.encode(), version, headers, length)


@pytest.fixture(scope="module")
def est() -> Iterator[Est]:
    with Server(edit=with_endpoints) as server:
        passwords = {}
        for label in ("default", "linked", "azure"):
            added = certwright("est", "user", "add", USER, "--endpoint", label, "--config", server.config_file)
            passwords[label] = added.stdout.split("\n")[0]
        yield Est(server, passwords)
        assert not [line for line in server.log_lines() if line.get("status", 0) >= 500 or "trace" in line]


# ---------------------------------------------------------------- libest 3.2.0p


def libest(der: bytes, *, label: str = "default", credentials: bytes = b"") -> list[bytes]:
    path = f"/.well-known/est/{'' if label == 'default' else label + '/'}simpleenroll"
    body = wrapped_at_64(der)
    headers = b"User-Agent: libest 3.2.0p\r\nConnection: close\r\nHost: localhost\r\nAccept: */*\r\n" + credentials
    return [post(path=path, headers=headers + b"Content-Type: application/pkcs10\r\n", length=len(body)), body]


def unique(tls: ssl.SSLSocket) -> str:
    octets = tls.get_channel_binding("tls-unique")
    assert octets is not None
    return base64.b64encode(octets).decode()


def test_libest_reads_the_401_comes_back_and_signs_anew(est: Est) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    with est.connection(version=ssl.TLSVersion.TLSv1_2) as tls:  # it is capped there
        bound = der_of(make_csr("libest.example.com", common_name="libest", challenge=unique(tls), key=key))
        asked = exchange(tls, libest(bound, label="linked"))
        assert tls.recv(1) == b"", "it has said `close`, and waits for it"
    assert (asked.status, asked.header(b"Content-Length")) == (401, b"0")
    assert asked.header(b"WWW-Authenticate").startswith(b'Basic realm="')
    with est.connection(version=ssl.TLSVersion.TLSv1_2) as tls:
        anew = der_of(make_csr("libest.example.com", common_name="libest", challenge=unique(tls), key=key))
        answer = exchange(tls, libest(anew, label="linked", credentials=est.basic("linked")))
    assert answer.certificate().public_key() == key.public_key()


def test_libests_request_with_the_binding_of_the_connection_before_is_refused(est: Est) -> None:
    # RFC 7030 §3.5: the server MUST verify that the value is that of the TLS session that it receives the request by.
    with est.connection(version=ssl.TLSVersion.TLSv1_2) as tls:
        bound = der_of(make_csr("libest.example.com", common_name="libest", challenge=unique(tls)))
        assert exchange(tls, libest(bound, label="linked")).status == 401
    with est.connection(version=ssl.TLSVersion.TLSv1_2) as tls:
        answer = exchange(tls, libest(bound, label="linked", credentials=est.basic("linked")))
    assert answer.status == 400
    assert b"does not belong to this TLS connection" in answer.body


def test_libest_gets_lines_that_openssls_base64_reads_and_a_content_type(est: Est) -> None:
    answer = est.ask(*libest(der_of(make_csr(common_name="libest")), credentials=est.basic()), version=ssl.TLSVersion.TLSv1_2)
    assert answer.header(b"Content-Type") == CERTS_ONLY  # it falls over without one
    lines = answer.body.split(b"\n")
    assert lines.pop() == b""
    assert {len(line) for line in lines[:-1]} <= {64, 76}
    cacerts = est.ask(b"GET /.well-known/est/cacerts HTTP/1.1\r\nUser-Agent: libest 3.2.0p\r\nHost: localhost\r\n\r\n")
    assert cacerts.header(b"Content-Type") == CERTS_ONLY
    assert max(map(len, cacerts.body.split(b"\n"))) <= 76


def test_libest_may_ask_without_a_password_as_often_as_it_likes(est: Est) -> None:
    for _ in range(30):
        assert est.ask(*libest(der_of(make_csr(common_name="libest")))).status == 401
    assert est.ask(*libest(der_of(make_csr(common_name="libest")), credentials=est.basic())).status == 200


# ---------------------------------------------------------------- strongSwan 5.9.8


def strongswan(der: bytes, credentials: bytes) -> list[bytes]:
    """No User-Agent, one line of base64, the credentials at once."""
    body = base64.b64encode(der)
    return [post(headers=b"Host: localhost\r\nContent-Type: application/pkcs10\r\n" + credentials, length=len(body)), body]


def test_strongswan_finds_all_headers_in_the_first_1024_octets(est: Est) -> None:
    answer = est.ask(*strongswan(der_of(make_csr(common_name="swan")), est.basic()))
    assert answer.head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\n\r\n" in answer.first[:1024]
    assert int(answer.header(b"Content-Length")) == len(answer.body)
    assert not answer.has(b"Transfer-Encoding")
    assert b"\n" not in answer.body
    answer.certificate()


@pytest.mark.parametrize("credentials", [b"", b"Authorization: Basic eDp5\r\n"], ids=["none", "wrong"])
def test_strongswan_finds_them_in_a_refusal_too(est: Est, credentials: bytes) -> None:
    answer = est.ask(*strongswan(der_of(make_csr(common_name="swan")), credentials))
    assert answer.status == 401
    assert b"\r\n\r\n" in answer.first[:1024]
    assert answer.header(b"Content-Length") == b"0"


# ---------------------------------------------------------------- globalsign/est (Go), and those who read what it reads

GLOBALSIGN = (
    b"Host: localhost\r\nUser-Agent: globalsign-est/1.0\r\nContent-Type: application/pkcs10\r\n"
    b"Content-Transfer-Encoding: base64\r\nAccept-Encoding: gzip\r\n"
)


@pytest.mark.parametrize("armour", [False, True], ids=["base64", "PEM"])
def test_globalsign_matches_content_type_and_encoding_octet_by_octet(est: Est, armour: bool) -> None:
    csr = make_csr(common_name="globalsign")
    body = pem_of(csr).encode() if armour else base64.b64encode(der_of(csr))
    answer = est.ask(post(headers=GLOBALSIGN + est.basic(), length=len(body)), body)
    assert answer.header(b"Content-Type") == CERTS_ONLY
    assert answer.header(b"Content-Transfer-Encoding") == b"base64"
    assert not answer.has(b"Content-Encoding"), "nothing is compressed for those who did not expect it"
    answer.certificate()


def test_globalsign_reads_a_refusal_as_text(est: Est) -> None:
    answer = est.ask(post(headers=GLOBALSIGN + est.basic(), length=4), b"MAAA")
    assert answer.status == 400
    assert answer.header(b"Content-Type") == b"text/plain; charset=utf-8"
    assert answer.body.endswith(b"\n")


# ---------------------------------------------------------------- mbedTLS and wolfSSL: small buffers, simple HTTP

SMALL = b"Host: localhost\r\nContent-Type: application/pkcs10\r\nConnection: close\r\n"


@pytest.mark.parametrize("size", [1, 16, 512])
def test_a_small_client_sends_records_of_a_few_octets(est: Est, size: int) -> None:
    body = base64.b64encode(der_of(make_csr(common_name="small")))
    message = post(headers=SMALL + est.basic(), length=len(body)) + body
    with est.connection(version=ssl.TLSVersion.TLSv1_2) as tls:
        answer = exchange(tls, [message[at : at + size] for at in range(0, len(message), size)])
        assert tls.recv(1) == b"", "who says `close` waits for the end"
    answer.certificate()


def test_a_client_of_http_1_0_is_answered_and_the_connection_closed(est: Est) -> None:
    body = base64.b64encode(der_of(make_csr(common_name="old")))
    headers = b"Content-Type: application/pkcs10\r\n" + est.basic()
    with est.connection() as tls:
        answer = exchange(tls, [post(headers=headers, length=len(body), version=b"1.0"), body])
        assert tls.recv(1) == b""
    assert not answer.has(b"Transfer-Encoding")
    answer.certificate()


def test_two_requests_may_follow_each_other_on_one_connection(est: Est) -> None:
    with est.connection() as tls:
        names = []
        for number in range(2):
            body = base64.b64encode(der_of(make_csr(common_name=f"device-{number}")))
            headers = b"Host: localhost\r\nContent-Type: application/pkcs10\r\n" + est.basic()
            certificate = exchange(tls, [post(headers=headers, length=len(body)), body]).certificate()
            names.append(certificate.subject.rfc4514_string())
    assert names == ["CN=device-0", "CN=device-1"]


# ---------------------------------------------------------------- BouncyCastle


@pytest.mark.parametrize("said", [b"base64", b"binary", b"8bit"])
def test_the_transfer_encoding_of_a_request_says_nothing(est: Est, said: bytes) -> None:
    # RFC 8951 §3: "This format is to be used regardless of any Content-Transfer-Encoding header, and any value in such a header
    # MUST be ignored."
    headers = b"Host: localhost\r\nContent-Type: application/pkcs10\r\nContent-Transfer-Encoding: %s\r\n" % said
    for body in (base64.b64encode(der_of(make_csr(common_name="bouncy"))), der_of(make_csr(common_name="bouncy"))):
        est.ask(post(headers=headers + est.basic(), length=len(body)), body).certificate()


# ---------------------------------------------------------------- what is wrong is said, and nothing comes of it

DER = der_of(make_csr("bad.example.com", common_name="bad"))
BASE64 = base64.b64encode(DER)
PEM_CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
WRONG = {
    "nothing": (b"", 400, b"empty"),
    "white space": (b" \r\n\r\n\t", 400, b"empty"),
    "the first half, base64": (BASE64[: len(BASE64) // 8 * 4], 400, b"in the middle"),
    "all but an odd number of octets of base64": (BASE64[:41], 400, b"nor base64"),
    "all but one octet, DER": (DER[:-1], 400, b"in the middle"),
    "one octet too many, DER": (DER + b"\0", 400, b"behind its end"),
    "base64 of base64": (base64.b64encode(BASE64), 400, b"cannot be read"),
    "octets of no meaning": (bytes(range(1, 256)), 400, b"nor base64"),
    "a certificate": (PEM_CERTIFICATE, 400, b"not that of a CERTIFICATE REQUEST"),
    "two requests": (base64.b64encode(DER + DER), 400, b"behind its end"),
    "a NUL behind the base64": (BASE64 + b"\0", 400, b"nor base64"),
    "url-safe base64": (base64.urlsafe_b64encode(b"\x30\x03\xfb\xff\xfe"), 400, b"nor base64"),
    "a form": (b"csr=" + BASE64, 400, b"nor base64"),
    "too much": (b"M" * (256 * 1024 + 4), 413, b"at most"),
}
PKCS10 = b"Host: localhost\r\nContent-Type: application/pkcs10\r\n"


@pytest.fixture
def fruitless(est: Est) -> Iterator[Est]:
    watch = Watch(Books(est.server)).begin()
    yield est
    watch.nothing_happened()
    est.ask(post(headers=PKCS10 + est.basic(), length=len(BASE64)), BASE64).certificate()


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_body_is_told_what_is_wrong_with_it(fruitless: Est, name: str) -> None:
    body, status, says = WRONG[name]
    answer = fruitless.ask(post(headers=PKCS10 + fruitless.basic(), length=len(body)), body)
    assert (answer.status, says in answer.body) == (status, True), answer.body
    assert answer.header(b"Content-Type").startswith(b"text/plain")
    assert base64.b64encode(DER)[:40] not in answer.body


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (b"application/json", 415),
        (b"application/pkcs7-mime", 415),
        (b"multipart/mixed; boundary=x", 415),
        (b"application/pkcs10; charset=utf-8", 200),
        (b"APPLICATION/PKCS10", 200),
        (FORM, 200),
    ],
)
def test_what_a_body_is_called_matters_where_it_cannot_be_a_request(est: Est, given: bytes, status: int) -> None:
    headers = b"Host: localhost\r\nContent-Type: %s\r\n" % given + est.basic()
    assert est.ask(post(headers=headers, length=len(BASE64)), BASE64).status == status


@pytest.mark.parametrize(
    "chunks",
    [
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(BASE64) - 5, BASE64),  # its length is too small
        b"zz\r\n%s\r\n0\r\n\r\n" % BASE64,
        b"-1\r\n%s\r\n0\r\n\r\n" % BASE64,
        b"%x\n%s\n0\n\n" % (len(BASE64), BASE64),  # without carriage returns
    ],
    ids=["short", "no-number", "negative", "line-feeds"],
)
def test_chunks_of_a_wrong_length_are_refused(fruitless: Est, chunks: bytes) -> None:
    head = b"POST /.well-known/est/simpleenroll HTTP/1.1\r\n" + PKCS10 + fruitless.basic()
    with fruitless.connection() as tls:
        answer = exchange(tls, [head + b"Transfer-Encoding: chunked\r\n\r\n", chunks])
        assert tls.recv(1) == b"", "nobody knows where the next request begins"
    assert answer.status == 400


def test_right_chunks_are_taken_however_they_are_cut(est: Est) -> None:
    cut = [BASE64[at : at + 7] for at in range(0, len(BASE64), 7)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in cut) + b"0\r\n\r\n"
    head = b"POST /.well-known/est/simpleenroll HTTP/1.1\r\n" + PKCS10 + est.basic()
    est.ask(head + b"Transfer-Encoding: chunked\r\n\r\n", body).certificate()


def test_a_client_that_goes_away_in_the_middle_gets_and_costs_nothing(fruitless: Est) -> None:
    before = len(fruitless.server.log_lines())
    with fruitless.connection() as tls:
        tls.sendall(post(headers=PKCS10 + fruitless.basic(), length=len(BASE64)) + BASE64[:100])
    fruitless.server.wait_until(lambda: len(fruitless.server.log_lines()) > before, "the line about its request")
