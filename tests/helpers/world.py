"""The simulated world: a clock, a DNS zone and HTTP targets, all real sockets on loopback.

async with World() as world:
    world.dns["example.com"] = ["127.0.0.1"]
    world.http.serve(token, key_authorization)
    outcome = await http01(..., resolver=world.resolver(), egress=world.egress(), port=world.http.port, clock=world.clock)
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import enum
import gzip
import socket
import ssl
import struct
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, assert_never

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pki.clock import Micros
from tests.helpers.dns import DnsServer
from validation.egress import Egress
from validation.resolver import DnsResolver

CHALLENGES = "/.well-known/acme-challenge/"


class MovableClock:
    """Stands still until a test moves it."""

    def __init__(self, at: int = 1_795_000_000_000_000) -> None:  # 2026-11-18
        self._at = at

    def micros(self) -> Micros:
        return Micros(self._at)

    def move(self, *, seconds: float = 0, days: float = 0) -> None:
        self._at += int((seconds + days * 86_400) * 1_000_000)


class Trouble(enum.Enum):
    """What a target does instead of answering."""

    SILENT = enum.auto()  # takes the request and never answers
    DRIP = enum.auto()  # one octet of an endless header at a time
    DRIP_BODY = enum.auto()
    ENDLESS_BODY = enum.auto()
    ENDLESS_CHUNKS = enum.auto()  # tiny chunks with long extensions
    HUGE_HEADERS = enum.auto()
    ENDLESS_INTERIM = enum.auto()  # 103 Early Hints for ever
    GZIP = enum.auto()
    RESET = enum.auto()
    CLOSE = enum.auto()  # closes without a word
    CUT_BODY = enum.auto()  # closes inside the body
    NOT_HTTP = enum.auto()
    SWITCH = enum.auto()  # 101


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes of one answer, as they go onto the wire; then the connection is closed."""

    wire: bytes
    keep_open: bool = False  # a keep-alive server: leaves closing to the client


@dataclass(frozen=True, slots=True)
class Request:
    """What a target was asked. Header names in lower case."""

    local_address: str  # of the target, so a test sees which of its addresses was reached
    line: str
    headers: dict[str, str]
    tls: bool

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]


class HttpTarget:
    """A web server of a subscriber on loopback; on a second port with TLS and a self-signed certificate."""

    def __init__(self) -> None:
        self.port = 0
        self.tls_port = 0
        self.answers: dict[str, Answer | Trouble] = {}  # by path; the path "*" answers the rest, else 404
        self.requests: list[Request] = []
        self.connections: list[str] = []  # the local address of each connection, whatever came of it
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, token: str, content: str | bytes, *, status: str = "200 OK") -> None:
        """The file of an http-01 challenge."""
        body = content.encode() if isinstance(content, str) else content
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        self.answers[CHALLENGES + token] = Answer(head.encode() + body)

    def redirect(self, path: str, to: str, *, status: int = 302) -> None:
        self.answers[path] = Answer(f"HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode("latin-1"))

    def raw(self, path: str, wire: bytes, *, keep_open: bool = False) -> None:
        self.answers[path] = Answer(wire, keep_open=keep_open)

    def misbehave(self, trouble: Trouble, path: str = "*") -> None:
        self.answers[path] = trouble

    async def start(self, *hosts: str, port: int = 0) -> None:
        """Listens on the same port of each address."""
        for host in hosts:
            server = await asyncio.start_server(self._accept, host, port)
            port = server.sockets[0].getsockname()[1]
            self._servers.append(server)
        self.port = port

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()

    async def start_tls(self, *hosts: str, at_most: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> None:
        context = self_signed_tls("not-the-name-you-asked-for.example", at_most=at_most)
        for host in hosts:
            server = await asyncio.start_server(self._accept, host, self.tls_port, ssl=context)
            self.tls_port = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections.append(writer.get_extra_info("sockname")[0])
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._converse(reader, writer)
        writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        tls = writer.get_extra_info("ssl_object") is not None
        request = Request(writer.get_extra_info("sockname")[0], line, headers, tls=tls)
        self.requests.append(request)
        missing = Answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found")
        answer = self.answers.get(request.path) or self.answers.get("*") or missing
        if isinstance(answer, Trouble):
            await _make_trouble(answer, writer)
            return
        writer.write(answer.wire)
        await writer.drain()
        if answer.keep_open:
            await reader.read()
        writer.close()
        await writer.wait_closed()


async def _make_trouble(trouble: Trouble, writer: asyncio.StreamWriter) -> None:
    ok = b"HTTP/1.1 200 OK\r\n"
    match trouble:
        case Trouble.SILENT:
            await asyncio.Event().wait()
        case Trouble.DRIP:
            await _repeat(writer, ok, b"X", pause=0.01)
        case Trouble.DRIP_BODY:
            await _repeat(writer, ok + b"Content-Length: 100000\r\n\r\n", b"x", pause=0.1)
        case Trouble.ENDLESS_BODY:
            await _repeat(writer, ok + b"\r\n", b"secret " * 1000)
        case Trouble.ENDLESS_CHUNKS:
            await _repeat(writer, ok + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"e" * 200 + b"\r\nx\r\n")
        case Trouble.HUGE_HEADERS:
            await _repeat(writer, ok, b"X-Secret: " + b"s" * 1000 + b"\r\n")
        case Trouble.ENDLESS_INTERIM:
            await _repeat(writer, b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        case Trouble.GZIP:
            body = gzip.compress(b"0" * 10_000_000)
            writer.write(ok + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
        case Trouble.RESET:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        case Trouble.CLOSE:
            writer.close()
        case Trouble.CUT_BODY:
            writer.write(ok + b"Content-Length: 87\r\n\r\nhalf")
            writer.close()
        case Trouble.NOT_HTTP:
            writer.write(b"220 mail.internal.example ESMTP secret-banner\r\n")
            await asyncio.Event().wait()
        case Trouble.SWITCH:
            await _repeat(writer, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: secret\r\n\r\n", b"", pause=0.1)
        case _:
            assert_never(trouble)


async def _repeat(writer: asyncio.StreamWriter, first: bytes, then: bytes, *, pause: float = 0) -> None:
    """Until the client has had enough."""
    writer.write(first)
    while True:
        writer.write(then)
        await writer.drain()
        await asyncio.sleep(pause)


def self_signed_tls(name: str, *, at_most: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> ssl.SSLContext:
    """A server's context with a certificate that nobody should trust: self-signed, and expired."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2020, 2, 1, tzinfo=dt.UTC))
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")  # else OpenSSL itself refuses what a test wants to offer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old versions are the point
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = at_most
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "both.pem"
        file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context.load_cert_chain(file)
    return context


class World:
    """Everything that a test's validations see. The HTTP target listens on 127.0.0.1 and ::1."""

    def __init__(self) -> None:
        self.clock = MovableClock()
        self.dns = DnsServer()
        self.http = HttpTarget()

    def resolver(self) -> DnsResolver:
        """Our real resolver, asking the simulated server."""
        return DnsResolver([self.dns.address], timeout=0.5, tries=2)

    def egress(self, *allow_networks: str) -> Egress:
        """Our real egress rules, with loopback permitted when nothing is said."""
        return Egress(allow_networks=allow_networks or ("127.0.0.0/8", "::1/128"))

    async def __aenter__(self) -> Self:
        await self.dns.__aenter__()
        await self.http.start("127.0.0.1", "::1")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        await self.http.stop()
        await self.dns.__aexit__(kind, error, at)
