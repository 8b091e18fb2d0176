"""Remote perspectives on loopback: agents with a view of the network of their own, and the certificates of both sides."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certwright.logs import Log
from certwright.perspective import Agent, Options, agent_context
from pki.clock import Clock, SystemClock
from tests.helpers.ca import ca_certificate
from tests.helpers.dns import DnsServer
from validation.egress import Egress
from validation.methods import Method, local_methods
from validation.perspectiveclient import HttpsPerspective, client_context
from validation.resolver import DnsResolver


class Pki:
    """A CA in a directory; `agent("127.0.0.2")` and `server()` make what each side shows the other."""

    def __init__(self, directory: Path, name: str = "perspectives") -> None:
        self._directory = directory
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = ca_certificate(self._key, f"{name} CA")
        self.ca_file = directory / f"{name}-ca.pem"
        self.ca_file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def agent(self, address: str) -> tuple[Path, Path]:
        """Certificate and key files."""
        return self._leaf(f"agent-{address}", ExtendedKeyUsageOID.SERVER_AUTH, address)

    def server(self) -> tuple[Path, Path]:
        return self._leaf("server", ExtendedKeyUsageOID.CLIENT_AUTH, None)

    def client_context(self) -> ssl.SSLContext:
        certificate, key = self.server()
        return client_context(ca_file=str(self.ca_file), certificate=str(certificate), key=str(key))

    def _leaf(self, name: str, usage: x509.ObjectIdentifier, address: str | None) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(dt.datetime.now(dt.UTC) - dt.timedelta(hours=1))
            .not_valid_after(dt.datetime.now(dt.UTC) + dt.timedelta(days=1))
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if address is not None:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        cert_file, key_file = (self._directory / f"{self._name}-{name}.{suffix}" for suffix in ("pem", "key"))
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.touch(mode=0o600)
        key_file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return cert_file, key_file


@dataclass(slots=True)
class RunningAgent:
    """The real agent on `address`, with mutual TLS, asking a DNS server of its own."""

    address: str
    pki: Pki
    http01_port: int
    clock: Clock = field(default_factory=SystemClock)
    at_once: int = 8
    dns: DnsServer = field(default_factory=DnsServer)
    methods: dict[str, Method] = field(default_factory=dict)  # instead of the real ones
    url: str = ""
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.dns.__aenter__()
        resolver = DnsResolver([self.dns.address], timeout=0.5, tries=2)
        methods = local_methods(
            resolver=resolver,
            egress=Egress(allow_networks=["127.0.0.0/8"]),
            clock=self.clock,
            http01_port=self.http01_port,
            tlsalpn01_port=9,
        )
        agent = Agent(
            methods={**methods, **self.methods},
            resolver=resolver,
            clock=self.clock,
            log=Log(clock=self.clock, process="perspective"),
            at_once=self.at_once,
        )
        certificate, key = self.pki.agent(self.address)
        options = Options(listen=f"{self.address}:1", certificate=certificate, key=key, client_ca=self.pki.ca_file)
        self._runner = web.AppRunner(agent.application(), access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.address, 0, ssl_context=agent_context(options))
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"https://{self.address}:{port}"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        await self.dns.__aexit__(kind, error, at)

    def client(self, name: str, context: ssl.SSLContext | None = None, *, deadline: float = 5) -> HttpsPerspective:
        return HttpsPerspective(name, self.url, context or self.pki.client_context(), deadline=deadline)
