"""What is not HTTP, and every odd spelling of it, on all listeners: no bug, no way around authentication, nothing left behind."""

from __future__ import annotations

import base64
import random
import re
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from certwright.listeners import Listener
from tests.helpers.exposed import Site, opened, unharmed
from tests.helpers.wanted import Wanted, pem_csr
from tests.helpers.wire import Reply, converse


@pytest.fixture(scope="module")
def whole_site() -> Iterator[Site]:
    with opened() as site:
        yield site


@pytest.fixture
def site(whole_site: Site, tmp_path: Path) -> Iterator[Site]:
    with unharmed(whole_site, tmp_path):
        yield whole_site


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
        data = data.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1) if b"HTTP/1.1\r\n" in data else data  # noqa: PLW2901  # the loop goes on with it
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
            b"\x16\x03\x01\xff\xff" + random.Random(6).randbytes(65535),
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


SCEP = ("/scep", "/cgi-bin/", "/certsrv/", "/CertSrv/")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "M-SEARCH")


def test_no_method_is_a_bug_or_a_way_around_authentication(site: Site) -> None:
    for listener in LISTENERS:
        for template in site.templates[listener]:
            for method in METHODS:
                path = concrete(template) + ("?operation=PKIOperation" if template.startswith(SCEP) else "")
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
    "chain": "1",
    "certificate": "AAAA.AAAA",
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
    assert where[Listener.MTLS] & {"acme", "scep", "cgi-bin", "certsrv", "CertSrv", "metrics"} == set()
    assert where[Listener.HTTPS] & {"metrics", ".well-known"} == set()
    assert where[Listener.METRICS] == {"metrics", "livez", "readyz"}
    assert site.doors.http.send("POST", "/acme/default/new-account", b"{}").status == 404
    assert site.doors.http.send("POST", "/api/v1/certificates", b"{}").status == 404
    cleartext = site.doors.http.send("POST", "/.well-known/est/simpleenroll", base64.b64encode(Wanted().csr()))
    assert cleartext.status == 403


@pytest.mark.parametrize(
    ("listener", "path", "content_type"),
    [
        (Listener.HTTPS, "/acme/default/new-account", "application/jose+json"),
        (Listener.HTTPS, "/api/v1/certificates", "application/json"),
        (Listener.HTTPS, "/scep?operation=PKIOperation", "application/x-pki-message"),
        (Listener.MTLS, "/.well-known/est/simpleenroll", "application/pkcs10"),
        (Listener.HTTP, "/ocsp/issuing", "application/ocsp-request"),
    ],
    ids=["ACME", "REST", "SCEP", "EST", "OCSP"],
)
def test_who_goes_away_in_the_middle_of_a_body_is_no_failure_of_ours(
    site: Site, listener: Listener, path: str, content_type: str
) -> None:
    """`unharmed` looks into the log: it was an outage of the client's, and has a 4xx there."""
    before = len(site.server.log_lines())
    user, password = site.server.environment["CERTWRIGHT_EST_USER"], site.server.environment["CERTWRIGHT_EST_PASSWORD"]
    login = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    if listener is Listener.HTTPS:
        login = f"Bearer {site.server.environment['CERTWRIGHT_API_KEY']}"
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: {login}\r\nContent-Type: {content_type}\r\nContent-Length: 500\r\n\r\n"
    with site.wires[listener].socket() as connection:
        connection.sendall(head.encode() + b"MIIB")
    site.server.wait_until(lambda: len(site.server.log_lines()) > before, "the line about its request")
