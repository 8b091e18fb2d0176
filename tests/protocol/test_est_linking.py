"""Proof of possession linked to TLS against a whole server (RFC 7030 §3.5, RFC 9266), and what its mtls listener takes and keeps.

Clients: Python's own ssl with tls-unique, and pyOpenSSL, which has an OpenSSL of its own, with tls-exporter.
"""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from certwright.exporter import find_internals
from tests.helpers.issuance_simulator import der_of, make_csr
from tests.helpers.maker import Maker, context
from tests.helpers.server import PATIENCE, Server

ENROLL = "/.well-known/est/simpleenroll"
ENDPOINTS = """\
    default: {profile: device, authenticate: [basic], proof_linking: required}
    off: {profile: device, authenticate: [certificate], client_certificates: {anchors: [maker.pem], roles: [device]}}
    maybe:
      profile: device
      authenticate: [certificate]
      proof_linking: optional
      client_certificates: {anchors: [maker.pem], roles: [device]}
"""
SECRET = "scep-secret-of-somebody"


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker()


@pytest.fixture(scope="module")
def server(maker: Maker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("linking") / "certwright"

    def edit(text: str) -> str:
        (directory / "maker.pem").write_bytes(maker.root.public_bytes(Encoding.PEM))
        return re.sub(r"(?ms)(?<=^endpoints:\n)(.*?^  est:\n).*?(?=^  scep:)", rf"\1{ENDPOINTS}", text)

    with Server(directory=directory, edit=edit) as running:
        yield running


class Client:
    """One kept connection of Python's ssl."""

    def __init__(self, server: Server, version: ssl.TLSVersion, certificate: Path | None = None) -> None:
        self._credentials = (
            ""
            if certificate
            else f"{server.environment['CERTWRIGHT_EST_USER']}:{server.environment['CERTWRIGHT_EST_PASSWORD']}"
        )
        tls = context(server, version, certificate)
        self._connection = http.client.HTTPSConnection("localhost", server.mtls_port, timeout=PATIENCE, context=tls)
        self._connection.connect()

    @property
    def tls(self) -> ssl.SSLSocket:
        assert isinstance(self._connection.sock, ssl.SSLSocket)
        return self._connection.sock

    def unique(self) -> str:
        return b64(self.tls.get_channel_binding("tls-unique") or b"")

    def post(self, challenge: str | None, *, path: str = ENROLL, credentials: bool = True) -> tuple[int, str]:
        local = self.tls.getsockname()
        headers = {"Content-Type": "application/pkcs10"}
        if credentials and self._credentials:
            headers["Authorization"] = f"Basic {b64(self._credentials.encode())}"
        self._connection.request("POST", path, body(challenge), headers)
        with self._connection.getresponse() as response:
            status, text = response.status, response.read().decode()
        assert self._connection.sock is None or self.tls.getsockname() == local, "the connection was to be kept"
        return status, text

    def close(self) -> None:
        self._connection.close()


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def body(challenge: str | None) -> bytes:
    return base64.b64encode(der_of(make_csr("device-1.example.com", challenge=challenge)))


@pytest.fixture
def old(server: Server) -> Iterator[Client]:
    client = Client(server, ssl.TLSVersion.TLSv1_2)
    yield client
    client.close()


@pytest.fixture
def new(server: Server) -> Iterator[Client]:
    client = Client(server, ssl.TLSVersion.TLSv1_3)
    yield client
    client.close()


# ---------------------------------------------------------------------- TLS 1.2: tls-unique


def test_a_request_with_tls_unique_is_granted_on_tls_1_2(old: Client) -> None:
    status, text = old.post(old.unique())
    assert status == 200
    assert pkcs7.load_der_pkcs7_certificates(base64.b64decode(text))


def test_the_binding_is_that_of_the_connection_for_every_request_on_it(old: Client) -> None:
    assert [old.post(old.unique())[0] for _ in range(3)] == [200, 200, 200]


def test_a_request_signed_for_another_connection_is_refused(server: Server, old: Client) -> None:
    # A stolen request, under the thief's own good credentials.
    elsewhere = Client(server, ssl.TLSVersion.TLSv1_2)
    try:
        stolen = elsewhere.unique()
        assert stolen != old.unique()
        status, text = old.post(stolen)
        assert status == 400
        assert "does not belong to this TLS connection" in text
        assert "tls-unique value of this connection" in text
        assert elsewhere.post(stolen)[0] == 200
    finally:
        elsewhere.close()


def test_libest_asks_without_credentials_reconnects_and_signs_anew(server: Server, old: Client) -> None:
    first = old.unique()
    assert old.post(first, credentials=False) == (401, "")
    again = Client(server, ssl.TLSVersion.TLSv1_2)
    try:
        assert again.post(first)[0] == 400
        assert again.post(again.unique())[0] == 200
    finally:
        again.close()


# ---------------------------------------------------------------------- TLS 1.3: tls-exporter


def test_a_request_with_tls_exporter_is_granted_on_tls_1_3(new: Client) -> None:
    binding = find_internals().channel_binding(new.tls)  # type: ignore[arg-type]  # a socket has the same object inside
    assert binding is not None
    assert [new.post(b64(binding))[0] for _ in range(2)] == [200, 200]


def test_tls_unique_counts_for_nothing_on_tls_1_3(new: Client) -> None:
    # Python hands one out, which RFC 8446 appendix C.5 has as not defined.
    status, text = new.post(new.unique())
    assert status == 400
    assert "tls-exporter value of this connection (RFC 9266" in text


def test_tls_exporter_counts_for_nothing_on_tls_1_2(server: Server) -> None:
    with independent(server, SSL.TLS1_2_VERSION) as client:
        assert client.post(b64(client.exporter()))[0] == 400
        assert client.post(b64(client.finished()))[0] == 200


def test_an_independent_client_computes_the_same_exporter(server: Server) -> None:
    with independent(server, SSL.TLS1_3_VERSION) as one, independent(server, SSL.TLS1_3_VERSION) as other:
        assert other.post(b64(one.exporter()))[0] == 400
        assert one.post(b64(one.exporter()))[0] == 200
        assert other.post(b64(other.exporter()))[0] == 200


class Independent:
    """A kept connection of pyOpenSSL."""

    def __init__(self, server: Server, version: int) -> None:
        self._credentials = f"{server.environment['CERTWRIGHT_EST_USER']}:{server.environment['CERTWRIGHT_EST_PASSWORD']}"
        tls = SSL.Context(SSL.TLS_CLIENT_METHOD)
        tls.load_verify_locations(str(server.ca_file))
        tls.set_verify(SSL.VERIFY_PEER, lambda *last: bool(last[-1]))
        tls.set_min_proto_version(version)
        tls.set_max_proto_version(version)
        self._socket = socket.create_connection(("localhost", server.mtls_port), timeout=PATIENCE)
        self._socket.setblocking(True)
        self.tls = SSL.Connection(tls, self._socket)
        self.tls.set_tlsext_host_name(b"localhost")
        self.tls.set_connect_state()
        self.tls.do_handshake()

    def exporter(self) -> bytes:
        return self.tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")

    def finished(self) -> bytes:
        found = self.tls.get_finished()
        assert found is not None
        return found

    def post(self, challenge: str) -> tuple[int, str]:
        sent = body(challenge)
        head = (
            f"POST {ENROLL} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/pkcs10\r\n"
            f"Authorization: Basic {b64(self._credentials.encode())}\r\nContent-Length: {len(sent)}\r\n\r\n"
        )
        self.tls.sendall(head.encode() + sent)
        got = b""
        while b"\r\n\r\n" not in got:
            got += self.tls.recv(65536)
        head_got, _, text = got.partition(b"\r\n\r\n")
        length = int(
            next(line for line in head_got.split(b"\r\n") if line.lower().startswith(b"content-length:")).split(b":")[1]
        )
        while len(text) < length:
            text += self.tls.recv(65536)
        return int(head_got.split()[1]), text.decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def independent(server: Server, version: int) -> Independent:
    return Independent(server, version)


# ---------------------------------------------------------------------- what else a challengePassword may hold


@pytest.mark.parametrize(
    "challenge", [None, SECRET, "", "ÿ", "A" * 255], ids=["none", "a SCEP secret", "empty", "Latin", "long"]
)
def test_what_is_no_binding_is_refused_and_said_how_to_do_it(server: Server, old: Client, challenge: str | None) -> None:
    status, text = old.post(challenge)
    assert status == 400
    assert "RFC 7030 section 3.5" in text
    assert SECRET not in text


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_where_it_is_off_nobody_reads_it_and_where_it_is_optional_it_has_to_be_right(
    server: Server, maker: Maker, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    client = Client(server, version, maker.device(tmp_path))
    try:
        assert client.post(SECRET, path="/.well-known/est/off/simpleenroll")[0] == 200
        assert client.post(None, path="/.well-known/est/maybe/simpleenroll")[0] == 200
        assert client.post(SECRET, path="/.well-known/est/maybe/simpleenroll")[0] == 400
        right = client.unique() if version is ssl.TLSVersion.TLSv1_2 else exporter_of(client)
        assert client.post(right, path="/.well-known/est/maybe/simpleenroll")[0] == 200
    finally:
        client.close()


def exporter_of(client: Client) -> str:
    return b64(find_internals().channel_binding(client.tls) or b"")  # type: ignore[arg-type]  # as above


def test_no_challenge_password_is_written_down(server: Server, maker: Maker, old: Client, tmp_path: Path) -> None:
    assert old.post(SECRET)[0] == 400
    granted = Client(server, ssl.TLSVersion.TLSv1_3, maker.device(tmp_path))
    assert granted.post(SECRET, path="/.well-known/est/off/simpleenroll")[0] == 200
    granted.close()
    assert SECRET not in server.log_text()
    database = b"".join(file.read_bytes() for file in server.directory.glob("*.db*"))
    assert b"device" in database
    assert SECRET.encode() not in database


# ---------------------------------------------------------------------- the listener


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_the_whole_presented_chain_leads_to_a_labels_anchor_on_every_request_of_a_connection(
    server: Server, maker: Maker, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    # The label knows the maker's root only; between it and the device there is a CA that the device sends along.
    client = Client(server, version, maker.device(tmp_path))
    try:
        assert [client.post(None, path="/.well-known/est/off/simpleenroll")[0] for _ in range(3)] == [200, 200, 200]
    finally:
        client.close()


def test_an_expired_certificate_passes_tls_and_no_further(server: Server, maker: Maker, tmp_path: Path) -> None:
    client = Client(server, ssl.TLSVersion.TLSv1_3, maker.device(tmp_path, expired=True))
    try:
        status, text = client.post(None, path="/.well-known/est/off/simpleenroll")
    finally:
        client.close()
    assert status == 403
    assert "expired" in text


def test_what_can_lead_nowhere_fails_the_handshake(server: Server, tmp_path: Path) -> None:
    # OpenSSL: unable to get local issuer certificate (20). In TLS 1.3 a client learns it from the first octets that it reads.
    client = Client(server, ssl.TLSVersion.TLSv1_3, Maker().device(tmp_path))
    try:
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            client.post(None, path="/.well-known/est/off/simpleenroll")
    finally:
        client.close()


def test_what_was_made_for_servers_passes_tls_and_no_further(server: Server, maker: Maker, tmp_path: Path) -> None:
    client = Client(server, ssl.TLSVersion.TLSv1_3, maker.device(tmp_path, purpose=ExtendedKeyUsageOID.SERVER_AUTH))
    try:
        status, text = client.post(None, path="/.well-known/est/off/simpleenroll")
    finally:
        client.close()
    assert status == 403
    assert "its extended key usage has no clientAuth" in text


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_no_session_is_resumed_there(server: Server, maker: Maker, tmp_path: Path, version: ssl.TLSVersion) -> None:
    # A resumed one would come without the certificates between leaf and anchor.
    tls = context(server, version, maker.device(tmp_path))
    session: ssl.SSLSession | None = None
    for _ in range(2):
        with (
            socket.create_connection(("localhost", server.mtls_port), timeout=PATIENCE) as plain,
            tls.wrap_socket(plain, server_hostname="localhost", session=session) as secure,
        ):
            secure.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert secure.recv(12) == b"HTTP/1.1 200"
            assert not secure.session_reused
            session = secure.session


def test_strangers_are_not_told_whom_we_trust(server: Server) -> None:
    with independent(server, SSL.TLS1_2_VERSION) as client:
        assert client.tls.get_client_ca_list() == []


def test_other_listeners_ask_for_no_certificate(server: Server, maker: Maker, tmp_path: Path) -> None:
    # macOS and Windows give up on a server that asks them for one.
    tls = context(server, ssl.TLSVersion.TLSv1_3, maker.device(tmp_path))
    connection = http.client.HTTPSConnection("localhost", server.https_port, timeout=PATIENCE, context=tls)
    connection.request("POST", "/.well-known/est/off/simpleenroll", body(None))
    assert connection.getresponse().status == 404
    connection.close()
