"""Client certificates through proxies, against a whole server: listed ones at addresses of loopback, and people who say they are."""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from tests.helpers.issuance_simulator import der_of, make_csr
from tests.helpers.maker import Maker, context
from tests.helpers.server import PATIENCE, Server

ENROLL = "/.well-known/est/devices/simpleenroll"
STRANGER = "127.0.0.1"
PROXY = {"rfc9440": "127.0.0.2", "nginx": "127.0.0.3", "haproxy": "127.0.0.4", "envoy": "127.0.0.5"}
HEADER = {
    "rfc9440": "Client-Cert",
    "nginx": "X-SSL-Client-Cert",
    "haproxy": "X-Device-Certificate",
    "envoy": "X-Forwarded-Client-Cert",
}
ENDPOINTS = """\
    devices:
      profile: device
      authenticate: [certificate]
      proof_linking: optional
      client_certificates: {anchors: [maker.pem, line.pem], roles: [device]}
    strict: {profile: device, authenticate: [certificate], client_certificates: {anchors: [maker.pem], roles: [device]}}
"""
PROXIES = """
proxies:
  - {addresses: ["127.0.0.2/32"], client_certificate: rfc9440, source_address: x-forwarded-for}
  - {addresses: ["127.0.0.3"], client_certificate: nginx}
  - {addresses: ["127.0.0.4"], client_certificate: haproxy, header: X-Device-Certificate}
  - {addresses: ["127.0.0.5"], client_certificate: envoy, source_address: forwarded}
"""


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker()


@pytest.fixture(scope="module")
def server(maker: Maker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("proxy") / "certwright"

    def edit(text: str) -> str:
        (directory / "maker.pem").write_bytes(maker.root.public_bytes(Encoding.PEM))
        (directory / "line.pem").write_bytes(maker.intermediate.public_bytes(Encoding.PEM))
        return text.replace("\n  est:\n    default:", f"\n  est:\n{ENDPOINTS}    default:") + PROXIES

    with Server(directory=directory, edit=edit) as running:
        yield running


@pytest.fixture(scope="module")
def device(maker: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return maker.device(tmp_path_factory.mktemp("device"))


def certificates(path: Path) -> list[bytes]:
    return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(path.read_bytes())]


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def written(spelling: str, chain: list[bytes]) -> dict[str, str]:
    """As the proxy of this spelling writes it. nginx and HAProxy say the leaf only."""
    pem = [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode() for der in chain]
    match spelling:
        case "rfc9440":
            more = {"Client-Cert-Chain": ", ".join(f":{b64(der)}:" for der in chain[1:])} if chain[1:] else {}
            return {"Client-Cert": f":{b64(chain[0])}:", **more}
        case "nginx":
            return {"X-SSL-Client-Cert": quote(pem[0], safe="")}
        case "haproxy":
            return {"X-Device-Certificate": b64(chain[0])}
        case _:
            return {
                "X-Forwarded-Client-Cert": f'Hash=0a;Cert="{quote(pem[0], safe="")}";Chain="{quote("".join(pem), safe="")}"'
            }


def post(
    server: Server,
    source: str,
    headers: Mapping[str, str] | list[tuple[str, str]],
    *,
    path: str = ENROLL,
    port: int | None = None,
    certificate: Path | None = None,
    challenge: str | None = None,
    tls: bool = True,
) -> tuple[int, str]:
    """From this address of loopback, by TLS of the sender's own."""
    port = port or server.mtls_port
    made = context(server, ssl.TLSVersion.TLSv1_3, certificate)
    address = (source, 0)
    connection = (
        http.client.HTTPSConnection("localhost", port, timeout=PATIENCE, context=made, source_address=address)
        if tls
        else http.client.HTTPConnection("localhost", port, timeout=PATIENCE, source_address=address)
    )
    try:
        body = base64.b64encode(der_of(make_csr("device-1.example.com", challenge=challenge)))
        connection.putrequest("POST", path)
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        with connection.getresponse() as response:
            return response.status, response.read().decode()
    finally:
        connection.close()


def ignored(server: Server) -> float:
    _, page = server.get(server.metrics_url)
    found = re.search(rb"(?m)^certwright_ignored_client_certificate_headers_total ([0-9.e+]+)$", page)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("spelling", PROXY)
def test_a_device_enrols_through_each_kind_of_proxy(server: Server, device: Path, spelling: str) -> None:
    status, text = post(server, PROXY[spelling], written(spelling, certificates(device)))
    assert status == 200, text
    assert pkcs7.load_der_pkcs7_certificates(base64.b64decode(text))


@pytest.mark.parametrize(("spelling", "expected"), [("rfc9440", 200), ("envoy", 200), ("nginx", 403), ("haproxy", 403)])
def test_the_chain_that_a_proxy_hands_on_leads_to_the_anchor(
    server: Server, device: Path, spelling: str, expected: int
) -> None:
    # This label knows the maker's root only; the CA in between comes with the device, or not at all.
    path = "/.well-known/est/strict/simpleenroll"
    assert post(server, PROXY[spelling], written(spelling, certificates(device)), path=path)[0] == expected


@pytest.mark.parametrize("spelling", PROXY)
def test_what_a_proxy_hands_on_is_verified_as_if_it_had_come_by_tls(
    server: Server, maker: Maker, tmp_path: Path, spelling: str
) -> None:
    # nginx's optional_no_ca means that nobody has verified it.
    forged = Maker().device(tmp_path)
    assert post(server, PROXY[spelling], written(spelling, certificates(forged)))[0] == 403
    expired = maker.device(tmp_path, expired=True)
    assert post(server, PROXY[spelling], written(spelling, certificates(expired)))[0] == 403


@pytest.mark.parametrize("spelling", PROXY)
def test_a_stranger_who_says_so_is_not_heard_on_any_listener(server: Server, device: Path, spelling: str) -> None:
    headers = written(spelling, certificates(device))
    before = ignored(server)
    status, text = post(server, STRANGER, headers)
    assert status == 403
    assert "no client certificate came with this request" in text
    assert ignored(server) == before + 1
    # EST is not served on these, to nobody.
    assert post(server, STRANGER, headers, port=server.https_port)[0] == 404
    assert post(server, STRANGER, headers, port=server.http_port, tls=False)[0] == 403
    assert post(server, PROXY[spelling], headers, port=server.http_port, tls=False)[0] == 403


def test_strangers_are_in_the_log_and_do_not_fill_it(server: Server, device: Path) -> None:
    for _ in range(3):
        post(server, STRANGER, written("rfc9440", certificates(device)))
    lines = [line for line in server.log_lines() if "not listed" in line["event"]]
    # Once a minute; this module takes less than five.
    assert 1 <= len(lines) <= 5
    assert lines[0]["source"] == STRANGER


@pytest.mark.parametrize("spelling", PROXY)
def test_a_listed_proxy_has_one_spelling(server: Server, device: Path, spelling: str) -> None:
    for other in PROXY:
        if other != spelling:
            assert post(server, PROXY[spelling], written(other, certificates(device)))[0] == 403


@pytest.mark.parametrize("spelling", PROXY)
def test_two_headers_are_refused(server: Server, maker: Maker, tmp_path: Path, spelling: str) -> None:
    # One of the proxy, one of a client who hopes that the first one counts, or the last.
    mine, theirs = (written(spelling, certificates(maker.device(tmp_path)))[HEADER[spelling]] for _ in range(2))
    status, text = post(server, PROXY[spelling], [(HEADER[spelling], mine), (HEADER[spelling].lower(), theirs)])
    assert status == 400
    assert "came twice" in text


@pytest.mark.parametrize("spelling", PROXY)
@pytest.mark.parametrize("value", ["garbage", ":AAAA:", "MIIB", "%2D%2D", 'Cert="x"', "é"])
def test_what_cannot_be_read_is_refused_and_not_taken_for_nothing(server: Server, spelling: str, value: str) -> None:
    status, text = post(server, PROXY[spelling], {HEADER[spelling]: value.encode().decode("latin-1")})
    assert status == 400
    assert value not in text


@pytest.mark.parametrize("spelling", PROXY)
def test_what_a_proxy_presents_itself_is_not_its_clients(server: Server, device: Path, spelling: str) -> None:
    status, text = post(server, PROXY[spelling], {}, certificate=device)
    assert status == 403
    assert "no client certificate came with this request" in text


def test_a_header_and_a_tls_certificate_that_disagree_are_refused(
    server: Server, maker: Maker, device: Path, tmp_path: Path
) -> None:
    other = maker.device(tmp_path)
    status, text = post(server, PROXY["rfc9440"], written("rfc9440", certificates(other)), certificate=device)
    assert status == 400
    assert "a certificate of its own" in text


def test_a_stranger_with_a_certificate_of_its_own_is_known_by_that_one(
    server: Server, maker: Maker, device: Path, tmp_path: Path
) -> None:
    forged = certificates(Maker().device(tmp_path))
    assert post(server, STRANGER, written("rfc9440", forged), certificate=device)[0] == 200


def test_no_proof_is_linked_to_a_connection_that_ends_at_the_proxy(server: Server, device: Path) -> None:
    status, text = post(server, PROXY["rfc9440"], written("rfc9440", certificates(device)), challenge=b64(bytes(12)))
    assert status == 400
    assert "cannot be verified behind a proxy" in text


@pytest.mark.parametrize(
    ("spelling", "header", "value", "expected"),
    [
        ("rfc9440", "X-Forwarded-For", "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("rfc9440", "X-Forwarded-For", "203.0.113.9, 127.0.0.3", "203.0.113.9"),
        ("envoy", "Forwarded", 'for=6.6.6.6, for="[2001:db8::9]:443"', "2001:db8::9"),
        ("rfc9440", "Forwarded", "for=203.0.113.9", PROXY["rfc9440"]),  # not its header
        ("nginx", "X-Forwarded-For", "203.0.113.9", PROXY["nginx"]),  # none is configured
    ],
)
def test_the_clients_address_is_what_the_proxy_saw(
    server: Server, spelling: str, header: str, value: str, expected: str
) -> None:
    path = f"/.well-known/est/devices/{abs(hash((spelling, header, value)))}"
    post(server, PROXY[spelling], {header: value}, path=path)
    server.wait_until(lambda: any(line.get("path") == path for line in server.log_lines()), "the line of this request")
    assert [line["source"] for line in server.log_lines() if line.get("path") == path] == [expected]


def test_a_strangers_word_about_its_address_counts_for_nothing(server: Server) -> None:
    path = "/.well-known/est/devices/stranger"
    post(server, STRANGER, {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}, path=path)
    server.wait_until(lambda: any(line.get("path") == path for line in server.log_lines()), "the line of this request")
    assert [line["source"] for line in server.log_lines() if line.get("path") == path] == [STRANGER]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("CONNECT a:443 HTTP/1.1\r\nHost: a", [b"404"]),
        ("POST /nowhere HTTP/1.1\r\nHost: a", [b"404"]),
        ("GET /livez HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket", [b"200"]),
    ],
    ids=["CONNECT", "POST", "upgrade"],
)
def test_a_request_in_the_body_of_another_one_is_none(server: Server, device: Path, head: str, expected: list[bytes]) -> None:
    """A proxy that hands on the body of a CONNECT, whose length means nothing (RFC 9110 §9.3.6), would hand on its client's headers."""
    body = base64.b64encode(der_of(make_csr("device-1.example.com")))
    fields = [f"{name}: {value}" for name, value in written("rfc9440", certificates(device)).items()]
    hidden = (
        "\r\n".join([f"POST {ENROLL} HTTP/1.1", "Host: a", *fields, f"Content-Length: {len(body)}", "", ""]).encode() + body
    )
    made = context(server, ssl.TLSVersion.TLSv1_3, None)
    received = b""
    with (
        socket.create_connection(("localhost", server.mtls_port), PATIENCE, (PROXY["rfc9440"], 0)) as plain,
        made.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(f"{head}\r\nContent-Length: {len(hidden)}\r\n\r\n".encode() + hidden)
        if not head.startswith("CONNECT"):  # there the server hangs up
            tls.sendall(b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            expected = [*expected, b"404"]
        while part := tls.recv(65536):
            received += part
    assert re.findall(rb"HTTP/1\.1 ([0-9]{3})", received) == expected
