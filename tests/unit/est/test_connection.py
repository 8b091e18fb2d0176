"""What is known of a connection, on both event loops that may carry it; and that nobody else takes TLS's word."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certwright import listeners
from certwright.exporter import find_internals
from est.connection import FORWARDED_CHAIN, MAX_CHAIN, BindingType, Connection, Connections
from tests.helpers.issuance_simulator import ThrowAwayCa
from tests.helpers.maker import Maker

ROOT = Path(__file__).parents[3]
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
Run = Callable[[Coroutine[Any, Any, None]], None]


class World:
    """A listener as ours are, whose one handler keeps what is known of each request's connection."""

    def __init__(self, folder: Path, *, timeout: float = 10.0) -> None:
        self.maker = Maker()
        self.ca = ThrowAwayCa()
        self.device = self.maker.device(folder)
        self.seen: list[tuple[Connection, tuple[BindingType, bytes] | None]] = []
        self._timeout = timeout
        self.ca.server_context(folder)
        self._context = listeners.client_certificate_context(
            folder / "server.pem", folder / "server.pem", [self.ca.der, self.der(self.maker.root)], find_internals()
        )

    @staticmethod
    def der(certificate: x509.Certificate) -> bytes:
        return certificate.public_bytes(Encoding.DER)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """As the device presents it."""
        return tuple(map(self.der, x509.load_pem_x509_certificates(self.device.read_bytes())))

    async def serve(self, visit: Callable[[int], Awaitable[None]]) -> None:
        connections = Connections(find_internals())

        async def handle(request: web.Request) -> web.Response:
            if "forwarded" in request.query:
                request[FORWARDED_CHAIN] = (b"forwarded",)
            connection = connections.of(request)
            binding = connection.binding()
            self.seen.append((connection, None if binding is None else (binding.type, binding.octets)))
            return web.Response()

        app = web.Application()
        app.add_routes([web.get("/", handle)])
        with socket.create_server(("127.0.0.1", 0)) as sock:
            runner = await listeners.start(app, [sock], self._context, handshake_timeout=self._timeout)
            try:
                await visit(sock.getsockname()[1])
            finally:
                await runner.cleanup()

    def client(self, version: ssl.TLSVersion, *, certificate: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.ca.pem)
        context.minimum_version = context.maximum_version = version
        if certificate:
            context.load_cert_chain(self.device)
        return context


async def get(port: int, context: ssl.SSLContext, *paths: str) -> bytes | None:
    """On one connection; its tls-unique."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    for path in paths:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    unique: bytes | None = writer.get_extra_info("ssl_object").get_channel_binding("tls-unique")
    writer.close()
    return unique


@LOOPS
@VERSIONS
def test_the_whole_presented_chain_is_there_leaf_first_for_every_request(
    tmp_path: Path, run: Run, version: ssl.TLSVersion
) -> None:
    world = World(tmp_path)

    async def visit(port: int) -> None:
        await get(port, world.client(version), "/", "/")

    run(world.serve(visit))
    assert [connection.chain for connection, _ in world.seen] == [world.chain, world.chain]
    assert len(world.chain) == 2
    assert not any(connection.proxied for connection, _ in world.seen)


@LOOPS
@VERSIONS
def test_who_presents_nothing_has_no_chain_and_a_binding_all_the_same(
    tmp_path: Path, run: Run, version: ssl.TLSVersion
) -> None:
    world = World(tmp_path)

    async def visit(port: int) -> None:
        await get(port, world.client(version, certificate=False), "/")

    run(world.serve(visit))
    [(connection, binding)] = world.seen
    assert connection.chain == ()
    assert binding is not None
    assert binding[0] is (BindingType.TLS_UNIQUE if version is ssl.TLSVersion.TLSv1_2 else BindingType.TLS_EXPORTER)


@LOOPS
def test_the_binding_is_the_clients_and_of_this_connection(tmp_path: Path, run: Run) -> None:
    world = World(tmp_path)
    uniques: list[bytes | None] = []

    async def visit(port: int) -> None:
        uniques.extend([await get(port, world.client(ssl.TLSVersion.TLSv1_2), "/") for _ in range(2)])
        await get(port, world.client(ssl.TLSVersion.TLSv1_3), "/", "/")
        await get(port, world.client(ssl.TLSVersion.TLSv1_3), "/")

    run(world.serve(visit))
    bindings = [binding[1] for _, binding in world.seen if binding is not None]
    assert bindings[:2] == uniques
    assert bindings[0] != bindings[1]
    assert bindings[2] == bindings[3] != bindings[4]


@LOOPS
def test_what_a_proxy_forwards_is_all_that_is_known_of_its_client(tmp_path: Path, run: Run) -> None:
    world = World(tmp_path)

    async def visit(port: int) -> None:
        await get(port, world.client(ssl.TLSVersion.TLSv1_3), "/?forwarded")

    run(world.serve(visit))
    assert world.seen == [(Connection(chain=(b"forwarded",), proxied=True), None)]


@LOOPS
def test_who_does_not_finish_the_handshake_loses_the_connection(tmp_path: Path, run: Run) -> None:
    world = World(tmp_path, timeout=0.2)

    async def visit(port: int) -> None:
        silent, _writer = await asyncio.open_connection("127.0.0.1", port)
        patient = asyncio.create_task(get(port, world.client(ssl.TLSVersion.TLSv1_3), "/"))
        started = time.monotonic()
        assert await asyncio.wait_for(_end(silent), 20) == b""
        assert time.monotonic() - started < 10
        await patient
        _writer.close()

    run(world.serve(visit))
    assert len(world.seen) == 1


async def _end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def test_a_chain_has_an_end() -> None:
    # OpenSSL takes up to 100 KiB of certificates from a client.
    from est import connection

    class Chatty:
        def getpeercert(self, *, binary_form: bool) -> bytes:
            assert binary_form
            return b"0"

        def get_unverified_chain(self) -> list[bytes]:
            return [b"%d" % number for number in range(MAX_CHAIN + 5)]

    assert connection.presented_chain(Chatty()) == tuple(b"%d" % number for number in range(MAX_CHAIN))  # type: ignore[arg-type]  # all of it that is asked


def test_nobody_but_the_connection_asks_tls_for_a_clients_certificate() -> None:
    """Dates are not looked at there, and the store is everybody's: whoever took its word would let in too many."""
    words = re.compile(r"getpeercert|get_(un)?verified_chain|ssl_object|peercert")
    packages = ("certwright", "acmeserver", "est", "scep", "rest", "issuance", "policy", "signer", "storage", "pki")
    asking = {
        str(file.relative_to(ROOT))
        for package in packages
        for file in (ROOT / package).rglob("*.py")
        if words.search(file.read_text())
    }
    assert asking == {"est/connection.py"}


def test_base64_of_a_binding_fits_into_a_challenge_password() -> None:
    # RFC 7030 §3.5: "limited to 255 bytes"
    assert len(base64.b64encode(bytes(32))) <= 255
