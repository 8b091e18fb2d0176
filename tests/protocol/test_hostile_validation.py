"""Subscribers' servers that want our time, or want to be believed: what they choose is not theirs to choose."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from pki import der
from pki.identifiers import parse_dns
from tests.helpers.challenges import challenge
from tests.helpers.dns import DnsFault
from tests.helpers.world import CHALLENGES, World
from validation.http01 import http01
from validation.outcome import Failed, FailureKind
from validation.resolver import DnsResolver, LookupFailed
from validation.tlsalpn01 import ALPN, tlsalpn01

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
PROOF = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
NAME = parse_dns("www.example.com")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as simulated:
        simulated.dns[NAME.name] = ["127.0.0.1"]
        yield simulated


def _unsigned(number: int) -> bytes:
    return der.encode(der.INTEGER, b"\0" + number.to_bytes((number.bit_length() + 7) // 8))


def finite_field_server(directory: Path) -> ssl.SSLContext:
    """TLS 1.2 with Diffie-Hellman over a group of the server's own choice, and nothing else."""
    key = rsa.generate_private_key(65537, 2048)
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.example.com")]), dt.datetime.now(dt.UTC)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1)).sign(
        key, hashes.SHA256()
    )
    both, group = directory / "both.pem", directory / "group.pem"
    both.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    # Nobody looks whether it is a prime. At 10,000 bits a handshake took a client 0.85 s of processor time.
    chosen = der.encode(der.SEQUENCE, _unsigned(secrets.randbits(2048) | 1 << 2047 | 1) + _unsigned(2))
    armor = "-----{} DH PARAMETERS-----\n"
    group.write_text(armor.format("BEGIN") + base64.encodebytes(chosen).decode() + armor.format("END"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    context.load_dh_params(str(group))
    context.set_ciphers("DHE:@SECLEVEL=0")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN, "http/1.1"])
    return context


@asynccontextmanager
async def listening(context: ssl.SSLContext, answer: bytes) -> AsyncIterator[int]:
    async def converse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_server_cannot_make_us_compute_in_a_group_of_its_choice(world: World, tmp_path: Path) -> None:
    """Not by tls-alpn-01, and not by a redirect of http-01, which could ask for it ten times."""
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(PROOF)}\r\n\r\n{PROOF}".encode()
    resolver, egress, clock = world.resolver(), world.egress(), world.clock
    async with listening(finite_field_server(tmp_path), answer) as port:
        world.http.redirect(CHALLENGES + TOKEN, f"https://www.example.com:{port}/")
        by_redirect = await http01(
            challenge(NAME, PROOF),
            resolver=resolver,
            egress=egress,
            clock=clock,
            port=world.http.port,
            redirect_ports=frozenset({port}),
        )
        by_handshake = await tlsalpn01(challenge(NAME, PROOF), resolver=resolver, egress=egress, clock=clock, port=port)
    for outcome in (by_redirect, by_handshake):
        assert isinstance(outcome, Failed), outcome
        assert outcome.kind is FailureKind.TLS, outcome


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_zones_whose_servers_are_silent_do_not_use_up_our_sockets(world: World) -> None:
    """Fifty finalizes of a hundred deep names would else have 8,000 open, and nobody else could connect."""
    names = [f"{number}.silent.example" for number in range(40)]
    world.dns.faults |= dict.fromkeys(names, DnsFault.SILENT)
    resolver = DnsResolver([world.dns.address], timeout=0.1, tries=2, gate=asyncio.Semaphore(4))
    before = open_files()
    asking = asyncio.gather(*map(resolver.caa, names), return_exceptions=True)
    most = before
    while not asking.done():
        await asyncio.sleep(0.01)
        most = max(most, open_files())
    assert most - before <= 4
    assert all(isinstance(answer, LookupFailed) for answer in await asking)
    assert {name for name, _ in world.dns.queries} == set(names)
