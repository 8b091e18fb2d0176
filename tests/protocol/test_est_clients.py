"""EST and REST with the programs that people have: curl with openssl, and strongSwan's pki."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, pkcs7

from est.endpoint import EstEndpoint
from est.http import routes as est_routes
from issuance.request import Pending
from rest.http import RestServer
from rest.http import routes as rest_routes
from tests.helpers.est import est_server
from tests.helpers.issuance_simulator import KnownCredentials, SimulatedIssuance, der_of, make_csr, pem_of

LIMIT = 30.0  # seconds for one run of a client


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: bytes
    error: str


@dataclass(frozen=True, slots=True)
class World:
    """A server on loopback with TLS, and a folder with the CA's certificate in it."""

    url: str
    folder: Path
    issuance: SimulatedIssuance

    async def run(self, *command: str | Path, stdin: bytes = b"") -> Ran:
        if shutil.which(str(command[0])) is None:
            pytest.skip(f"{command[0]} is not installed")
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.folder,
        )
        try:
            out, error = await asyncio.wait_for(process.communicate(stdin), LIMIT)
        except TimeoutError:
            process.kill()
            await process.communicate()
            raise
        assert process.returncode is not None
        return Ran(process.returncode, out, error.decode(errors="replace"))

    async def output(self, *command: str | Path, stdin: bytes = b"") -> bytes:
        ran = await self.run(*command, stdin=stdin)
        assert ran.code == 0, ran.error
        return ran.out


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    issuance = SimulatedIssuance()
    credentials = KnownCredentials()
    credentials.add_est_user("default", "estuser", "estpwd")
    credentials.add_api_key("cw_alice")
    endpoint = EstEndpoint(label="default", profile="device", ca_certificates=(issuance.ca.der,))
    app = web.Application()
    app.add_routes(est_routes(est_server(endpoints={"default": endpoint}, issuance=issuance, credentials=credentials)))
    app.add_routes(rest_routes(RestServer(issuance=issuance, credentials=credentials, base_url="https://ca.example.com")))
    (tmp_path / "ca.pem").write_text(issuance.ca.pem)
    server = TestServer(app, scheme="https", host="127.0.0.1")
    await server.start_server(ssl=issuance.ca.server_context(tmp_path))
    yield World(f"https://127.0.0.1:{server.port}", tmp_path, issuance)
    await server.close()


def issued(world: World) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(record.certificate.der) for record in world.issuance.records.values()]


# ---------------------------------------------------------------- curl and openssl


async def test_curl_and_openssl_read_cacerts(world: World) -> None:
    body = await world.output("curl", "-sS", "--cacert", "ca.pem", f"{world.url}/.well-known/est/cacerts")
    der = await world.output("openssl", "base64", "-d", stdin=body)
    text = await world.output("openssl", "pkcs7", "-inform", "der", "-print_certs", stdin=der)
    assert x509.load_pem_x509_certificate(text) == world.issuance.ca.certificate


async def test_curl_and_openssl_enrol(world: World) -> None:
    csr = await world.output("openssl", "base64", stdin=der_of(make_csr("curl.example.com")))
    enrol = ("curl", "-sS", "--fail", "--cacert", "ca.pem", "--data-binary", "@-", "-H", "Content-Type: application/pkcs10")
    url = f"{world.url}/.well-known/est/simpleenroll"
    body = await world.output(*enrol, "-u", "estuser:estpwd", url, stdin=csr)
    der = await world.output("openssl", "base64", "-d", stdin=body)
    text = await world.output("openssl", "pkcs7", "-inform", "der", "-print_certs", stdin=der)
    assert [x509.load_pem_x509_certificate(text)] == issued(world)
    (world.folder / "leaf.pem").write_bytes(text)
    await world.output("openssl", "verify", "-CAfile", "ca.pem", "leaf.pem")
    assert (await world.run(*enrol, "-u", "estuser:wrong", url, stdin=csr)).code == 22  # an HTTP status >= 400


async def test_the_pull_script_gets_its_certificate(world: World) -> None:
    # `curl -d @file` drops the line breaks and claims to send a form.
    (world.folder / "server.csr").write_text(pem_of(make_csr(common_name="host.example.com")))
    command = ("curl", "-sS", "--fail", "--cacert", "ca.pem", "-X", "POST", f"{world.url}/api/v1/certificates")
    options = ("-H", "X-API-Key: cw_alice", "-d", "@server.csr")
    answer = json.loads(await world.output(*command, *options))
    await world.output(*command, *options, "-H", "Accept: application/x-pem-file", "-o", "server.crt")
    assert (
        await world.output("openssl", "x509", "-in", "server.crt", "-noout", "-subject")
    ) == b"subject=CN = host.example.com\n"
    assert [x509.load_pem_x509_certificate(answer["certificate"].encode())] == issued(world)[:1]


# ---------------------------------------------------------------- strongSwan


async def test_strongswan_reads_cacerts(world: World) -> None:
    await world.output("pki", "--estca", "--url", world.url, "--cacert", "ca.pem", "--caout", "est.crt", "--force")
    certificate = x509.load_der_x509_certificate((world.folder / "est.crt").read_bytes())
    assert certificate == world.issuance.ca.certificate


async def test_strongswan_enrols_and_comes_back_when_asked_to(world: World) -> None:
    (world.folder / "e.csr").write_bytes(der_of(make_csr("swan.example.com", common_name="swan.example.com")))
    world.issuance.script.append(Pending("i-1", 1))  # 202 with Retry-After: 1, then the certificate
    text = await world.output(
        *("pki", "--est", "--url", world.url, "--in", "e.csr", "--userpass", "estuser:estpwd", "--cacert", "ca.pem"),
        *("--interval", "1", "--maxpolltime", "10", "--outform", "pem"),
    )
    assert [x509.load_pem_x509_certificate(text)] == issued(world)
    assert len(world.issuance.requests) == 2


async def test_strongswan_with_a_wrong_password_gets_nothing(world: World) -> None:
    (world.folder / "e.csr").write_bytes(der_of(make_csr("swan.example.com")))
    ran = await world.run(
        *("pki", "--est", "--url", world.url, "--in", "e.csr", "--userpass", "estuser:wrong", "--cacert", "ca.pem"),
    )
    assert ran.code != 0
    assert issued(world) == []


async def test_strongswans_own_request_is_taken(world: World) -> None:
    # Its attributes are not in DER order: strict parsers refuse them.
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    (world.folder / "k.pem").write_bytes(pem)
    request = ("--dn", "O=Proto, CN=swan", "--san", "swan.example.com", "--password", "ignored")
    csr = await world.output("pki", "--req", "--type", "ecdsa", "--in", "k.pem", *request)
    command = ("curl", "-sS", "--fail", "--cacert", "ca.pem", "-u", "estuser:estpwd", "--data-binary", "@-")
    body = await world.output(*command, f"{world.url}/.well-known/est/simpleenroll", stdin=csr)
    assert pkcs7.load_der_pkcs7_certificates(base64.b64decode(body)) == issued(world)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert [request.csr.spki for request in world.issuance.requests] == [spki]
