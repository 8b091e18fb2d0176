"""SIGHUP with other labels, anchors and proxies, while requests are on their way: what began before ends by the old rules, all else
goes by the new ones, and no connection outlives the rights that it had.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.helpers.books import until
from tests.helpers.front_doors import basic
from tests.helpers.issuance_simulator import der_of, make_csr
from tests.helpers.maker import Maker, context
from tests.helpers.server import PATIENCE, Server
from tests.helpers.wire import Reply, Wire, converse

LABEL = "    {name}: {{profile: device, authenticate: [certificate], client_certificates: {{anchors: [{maker}.pem, {maker}-line.pem], roles: [device]}}}}\n"
PROXIES = 'proxies:\n  - {addresses: ["127.0.0.2"], client_certificate: nginx}\n'
CSR = base64.b64encode(der_of(make_csr("device-1.example.com")))
TYPE = {"Content-Type": "application/pkcs10"}


def configured(text: str, labels: dict[str, str]) -> str:
    """`labels`: name -> whose devices it takes."""
    made = "".join(LABEL.format(name=name, maker=maker) for name, maker in labels.items())
    changed, found = re.subn(r"(?ms)^  est:\n(    default: [^\n]*\n).*?(?=^  scep:)", rf"  est:\n\1{made}", text)
    assert found == 1
    return changed


class Clients:
    """Devices of two makers, and how they come."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.makers = {name: Maker() for name in ("former", "later")}
        self._devices: dict[str, Path] = {}
        for name, maker in self.makers.items():
            (folder / name).mkdir()
            self._devices[name] = maker.device(folder / name)

    def write_anchors(self) -> None:
        for name, maker in self.makers.items():
            (self.server.directory / f"{name}.pem").write_bytes(maker.root.public_bytes(Encoding.PEM))
            (self.server.directory / f"{name}-line.pem").write_bytes(maker.intermediate.public_bytes(Encoding.PEM))

    def wire(self, maker: str | None) -> Wire:
        device = None if maker is None else self._devices[maker]
        return Wire(self.server.mtls_port, context(self.server, ssl.TLSVersion.TLSv1_3, device))

    def ask(self, label: str, maker: str | None, **headers: str) -> Reply:
        wire = self.wire(maker)
        try:
            return enroll(wire, label, **headers)
        finally:
            wire.close()

    def by_proxy(self, label: str) -> bytes:
        """The answer to what a proxy says of a device of the former maker."""
        leaf = x509.load_pem_x509_certificates(self._devices["former"].read_bytes())[0].public_bytes(Encoding.PEM)
        head = (
            f"POST /.well-known/est/{label}/simpleenroll HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/pkcs10\r\n"
            f"X-SSL-Client-Cert: {quote(leaf.decode())}\r\nConnection: close\r\nContent-Length: {len(CSR)}\r\n\r\n"
        )
        tls = context(self.server, ssl.TLSVersion.TLSv1_3)
        address, source = ("127.0.0.1", self.server.mtls_port), ("127.0.0.2", 0)
        with (
            socket.create_connection(address, timeout=PATIENCE, source_address=source) as plain,
            tls.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            return converse(secure, head.encode() + CSR, end=False)

    def insiders(self) -> dict[str, str]:
        given = self.server.environment
        return basic(given["CERTWRIGHT_EST_USER"], given["CERTWRIGHT_EST_PASSWORD"])


def enroll(wire: Wire, label: str, **headers: str) -> Reply:
    return wire.send("POST", f"/.well-known/est/{label}/simpleenroll", CSR, {**TYPE, **headers})


def lost(wire: Wire, label: str) -> bool:
    """Whether the connection that the wire has kept is at its end."""
    connection = wire._connection  # `send` would make a new one
    assert connection is not None
    try:
        connection.request("POST", f"/.well-known/est/{label}/simpleenroll", CSR, TYPE)
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return True
    return False


@contextlib.contextmanager
def half_sent(clients: Clients, label: str) -> Iterator[ssl.SSLSocket]:
    """A device of the former maker in the middle of its request, which a worker has already begun to read."""
    with clients.wire("former").socket() as connection:
        assert isinstance(connection, ssl.SSLSocket)
        head = f"POST /.well-known/est/{label}/simpleenroll HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        connection.sendall(f"{head}Content-Type: application/pkcs10\r\nContent-Length: {len(CSR)}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(CSR[:100])
        yield connection


def finished(connection: ssl.SSLSocket) -> bytes:
    """The answer to the whole of it, to the end of the connection."""
    connection.sendall(CSR[100:])
    got = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while chunk := connection.recv(65536):
            got += chunk
    return got


def untrusted(clients: Clients, label: str) -> bool:
    """No label knows this maker, so TLS ends it."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return clients.ask(label, "former").status != 200
    return True


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[Clients]:
    server = Server(directory=tmp_path / "certwright", edit=lambda text: first(text) + PROXIES)
    found = Clients(server, tmp_path)
    server.init()
    found.write_anchors()
    with running(server):
        yield found


def first(text: str) -> str:
    return configured(text, {"removed": "former", "kept": "former"})


@contextlib.contextmanager
def running(server: Server) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.stop()


def insist(clients: Clients, enough: threading.Event) -> list[int]:
    """Somebody whom none of it concerns."""
    statuses = []
    while not enough.is_set():
        statuses.append(clients.ask("default", None, **clients.insiders()).status)
    return statuses


def test_rights_end_with_the_configuration_that_gave_them(clients: Clients) -> None:
    server = clients.server
    idle, late = clients.wire("former"), clients.wire("former")
    for wire in (idle, late):
        assert enroll(wire, "kept").status == 200
    assert clients.by_proxy("kept").startswith(b"HTTP/1.1 200")
    before = server.children()["worker"]
    enough = threading.Event()
    with ThreadPoolExecutor(2) as threads, half_sent(clients, "removed") as one, half_sent(clients, "kept") as other:
        others = [threads.submit(insist, clients, enough) for _ in range(2)]
        try:
            server.edit_config(lambda text: configured(text, {"kept": "later", "added": "later"}).replace(PROXIES, ""))
            server.signal(signal.SIGHUP)
            server.wait_for_log("reloaded")

            def only_new() -> bool:
                """The old worker has heard that it is to end."""
                return all(untrusted(clients, "kept") for _ in range(5))

            until(only_new, "the new worker alone to accept")
            assert [clients.ask(label, "later").status for label in ("kept", "added")] == [200, 200]
            assert clients.ask("removed", "later").status == 404
            assert untrusted(clients, "added")
            assert clients.by_proxy("kept").startswith(b"HTTP/1.1 403")

            # What the old worker still has: a connection gets one more answer by the old rules, and ends with it.
            assert set(before) <= set(server.children()["worker"])
            last = enroll(late, "kept")
            assert (last.status, last.headers["Connection"]) == (200, "close")
            for connection in (one, other):
                got = finished(connection)
                assert got.startswith(b"HTTP/1.1 200")
                assert b"\r\nConnection: close\r\n" in got
            until(lambda: not set(before) & set(server.children()["worker"]), "the old worker's end")
            assert lost(idle, "kept")
        finally:
            enough.set()
        statuses = [status for each in others for status in each.result()]
    assert set(statuses) == {200}
    for wire in (idle, late):
        wire.close()
    assert [line for line in server.log_lines() if line["level"] == "error"] == []
