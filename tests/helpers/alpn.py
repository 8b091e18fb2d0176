"""A subscriber's tls-alpn-01 responder on loopback, and the certificates, right and wrong in every way, that it shows.

The certificates are put together octet by octet: no library makes wrong ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pki import der

ALPN = "acme-tls/1"
ACME_IDENTIFIER = "1.3.6.1.5.5.7.1.31"
DRAFT_IDENTIFIER = "1.3.6.1.5.5.7.1.30.1"
SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """An Extension (RFC 5280 §4.1)."""
    flag = b"\x01\x01\xff" if critical else b""
    return der.encode(der.SEQUENCE, encode_oid(oid) + flag + der.encode(der.OCTET_STRING, value))


def digest_of(key_authorization: str) -> bytes:
    """The value of an acmeIdentifier extension."""
    return der.encode(der.OCTET_STRING, hashlib.sha256(key_authorization.encode()).digest())


def acme_identifier(key_authorization: str) -> bytes:
    return extension(ACME_IDENTIFIER, digest_of(key_authorization), critical=True)


def names(*general_names: tuple[int, bytes]) -> bytes:
    """A subjectAltName; each name with its tag (0x82 dNSName, 0x87 iPAddress)."""
    return extension(
        SUBJECT_ALTERNATIVE_NAME, der.encode(der.SEQUENCE, b"".join(der.encode(tag, value) for tag, value in general_names))
    )


def dns(name: str) -> bytes:
    return names((0x82, name.encode()))


@dataclass(frozen=True, slots=True)
class Shown:
    """What a responder shows. `issuer` and `signed_by_another` make it less than self-signed."""

    extensions: tuple[bytes, ...]
    issuer: str | None = None
    signed_by_another: bool = False
    alpn: tuple[str, ...] = (ALPN,)
    at_most: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False)

    def certificate(self) -> bytes:
        """DER."""
        algorithm = der.encode(der.SEQUENCE, encode_oid("1.2.840.10045.4.3.2"))
        validity = der.encode(der.SEQUENCE, der.encode(0x17, b"200101000000Z") + der.encode(0x17, b"200201000000Z"))
        public = self.key.public_key()
        tbs = der.encode(
            der.SEQUENCE,
            der.encode(0xA0, der.encode(der.INTEGER, b"\x02"))
            + der.encode(der.INTEGER, b"\x01")
            + algorithm
            + _name(self.issuer or "ACME challenge")
            + validity
            + _name("ACME challenge")
            + public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
            + (der.encode(0xA3, der.encode(der.SEQUENCE, b"".join(self.extensions))) if self.extensions else b""),
        )
        signer = ec.generate_private_key(ec.SECP256R1()) if self.signed_by_another else self.key
        signature = signer.sign(tbs, ec.ECDSA(hashes.SHA256()))
        return der.encode(der.SEQUENCE, tbs + algorithm + der.encode(der.BIT_STRING, b"\0" + signature))

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")  # else OpenSSL itself refuses what a test wants to offer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # old versions are the point
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = self.at_most
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "both.pem"
            key = self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            file.write_bytes(key + ssl.DER_cert_to_PEM_cert(self.certificate()).encode())
            context.load_cert_chain(file)
        return context


class AlpnTarget:
    """Listens on the same port of each host; remembers who was asked for, and what came after the handshake."""

    def __init__(self, shown: Shown, *hosts: str, port: int = 0) -> None:
        self._shown = shown
        self._hosts = hosts or ("127.0.0.1",)
        self.port = port
        self.server_names: list[str | None] = []  # of every ClientHello
        self.received = b""
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        context = self._shown.context()
        context.sni_callback = lambda _session, name, _context: self.server_names.append(name)
        for host in self._hosts:
            server = await asyncio.start_server(self._accept, host, self.port, ssl=context)
            self.port = server.sockets[0].getsockname()[1]
            self._servers.append(server)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            self.received += await reader.read(1000)
        writer.transport.abort()


def _name(common_name: str) -> bytes:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]).public_bytes()


def encode_oid(dotted: str) -> bytes:
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    octets = bytearray()
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        octets += bytes(reversed(groups))
    return der.encode(der.OBJECT_IDENTIFIER, bytes(octets))
