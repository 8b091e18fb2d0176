"""Real SCEP clients of Debian against the SCEP front end on loopback: scepclient (Go), strongSwan's pki, certmonger's helper."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from scep.http import routes
from tests.helpers.scep import SECRET, ScepCa, certificate, der_of, key_pem, pem_of, pkcs_req, rsa_key
from tests.helpers.scep_simulators import SimulatedIssuance
from tests.helpers.scep_world import scep_world

SCEP_SUBMIT = "/usr/lib/certmonger/scep-submit"


@dataclass(frozen=True, slots=True)
class Site:
    url: str
    ca: ScepCa
    issuance: SimulatedIssuance


@asynccontextmanager
async def serving(
    *,
    legacy: tuple[str, ...] = (),
    root: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None = None,
    include_root: bool = False,
) -> AsyncIterator[Site]:
    """With `root`, the issuing CA is below a root with that key."""
    ca = ScepCa()
    endpoint = ca.endpoint(legacy=legacy)
    if root is not None:
        above = certificate("Root", root.public_key(), "Root", root, usage="ca", ca=True)
        ca.certificate = certificate("Test CA", ca.key.public_key(), "Root", root, usage="ca", ca=True)
        chain = (der_of(ca.certificate), der_of(above))
        endpoint = dataclasses.replace(endpoint, ca_certificates=chain, include_root=include_root)
    async with scep_world(ca=ca) as world:
        app = web.Application()
        app.add_routes(routes(world.server(endpoint)))
        runner = web.AppRunner(app, access_log=None, max_line_size=65536, max_field_size=65536)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            port = runner.addresses[0][1]
            yield Site(f"http://127.0.0.1:{port}/scep/default", ca, world.issuance)
        finally:
            await runner.cleanup()


async def run(*arguments: str | Path, folder: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


# ---------------------------------------------------------------- strongSwan


async def strongswan(site: Site, folder: Path, *options: str, password: str = SECRET) -> tuple[int, str]:
    (folder / "ca.pem").write_bytes(pem_of(site.ca.certificate))
    (folder / "ra.pem").write_bytes(pem_of(site.ca.ra))
    (folder / "key.pem").write_bytes(key_pem(rsa_key("device")))
    return await run(
        *("pki", "--scep", "--url", site.url, "--in", "key.pem", "--dn", "O=Proto, CN=dev1", "--san", "dev1.example.com"),
        *("--password", password, "--cacert-enc", "ra.pem", "--cacert-sig", "ra.pem", "--cacert", "ca.pem", "--outform", "pem"),
        *options,
        folder=folder,
    )


@needs("pki")
async def test_strongswan_reads_the_ca_certificates(tmp_path: Path) -> None:
    async with serving() as site:
        status, output = await run(
            *("pki", "--scepca", "--url", site.url, "--caout", "ca.crt", "--raout", "ra.crt", "--outform", "pem", "--force"),
            folder=tmp_path,
        )
        assert status == 0, output
        written = {path.name: path for path in await asyncio.to_thread(lambda: list(tmp_path.glob("*.crt")))}
        (ca,) = [path for name, path in written.items() if name.startswith("ca")]
        (ra,) = [path for name, path in written.items() if name.startswith("ra")]
        assert x509.load_pem_x509_certificate(ca.read_bytes()) == site.ca.certificate
        assert x509.load_pem_x509_certificate(ra.read_bytes()) == site.ca.ra


@needs("pki")
@pytest.mark.parametrize("include_root", [False, True])
async def test_strongswan_reads_the_ca_certificates_only_with_the_root_among_them(tmp_path: Path, include_root: bool) -> None:
    async with serving(root=rsa_key("root"), include_root=include_root) as site:
        status, output = await run(
            *("pki", "--scepca", "--url", site.url, "--caout", "ca.crt", "--raout", "ra.crt", "--outform", "pem", "--force"),
            folder=tmp_path,
        )
        assert (status == 0) is include_root, output


@needs("scepclient")
@pytest.mark.parametrize("include_root", [False, True])
async def test_scepclient_fails_on_an_ec_root_among_the_certificates(tmp_path: Path, include_root: bool) -> None:
    """It encrypts to every certificate of GetCACert. So the root is shown only where the operator says so."""
    key = ec.generate_private_key(ec.SECP256R1())
    async with serving(legacy=("sha1", "des-cbc"), root=key, include_root=include_root) as site:
        status, output = await go_client(site, tmp_path)
        assert (status == 0) is not include_root, output


@needs("pki")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--cipher", "aes", "--digest", "sha256"), id="AES and SHA-256"),
        pytest.param(("--cipher", "aes", "--digest", "sha512"), id="AES and SHA-512"),
        pytest.param(("--cipher", "aes", "--digest", "sha256", "-R", "pss"), id="RSASSA-PSS"),
    ],
)
async def test_strongswan_enrols(tmp_path: Path, options: tuple[str, ...]) -> None:
    async with serving() as site:
        status, output = await strongswan(site, tmp_path, *options)
        assert status == 0, output
        certificate = x509.load_pem_x509_certificate(output[output.index("-----BEGIN") :].encode())
        assert certificate.public_key() == rsa_key("device").public_key()
        assert certificate.issuer == site.ca.certificate.subject
        assert [identifier.tag for identifier in site.issuance.requests[0].identifiers] == ["dns:dev1.example.com"]


@needs("pki")
async def test_strongswan_with_3des_and_sha1_enrols_where_the_endpoint_allows_them(tmp_path: Path) -> None:
    async with serving(legacy=("des-ede3-cbc", "sha1")) as site:
        status, output = await strongswan(site, tmp_path, "--cipher", "des3", "--digest", "sha1")
        assert status == 0, output


@needs("pki")
async def test_strongswan_with_a_wrong_challenge_is_told_so(tmp_path: Path) -> None:
    async with serving() as site:
        status, output = await strongswan(site, tmp_path, "--cipher", "aes", "--digest", "sha256", password="guess")
        assert status != 0
        assert "badRequest" in output or "FAILURE" in output or "not permitted" in output, output
        assert site.issuance.requests == []


# ---------------------------------------------------------------- scepclient


async def go_client(site: Site, folder: Path, *, challenge: str = SECRET) -> tuple[int, str]:
    (folder / "key.pem").write_bytes(key_pem(rsa_key("device")))
    return await run(
        *("scepclient", "-server-url", site.url, "-private-key", "key.pem", "-certificate", "cert.pem"),
        *("-challenge", challenge, "-cn", "dev2", "-organization", "Proto"),
        folder=folder,
    )


@needs("scepclient")
async def test_scepclient_enrols_where_the_endpoint_allows_its_algorithms(tmp_path: Path) -> None:
    """SHA-1 and DES whatever the server can; BER with a constructed [0]; encrypted to RA and CA; a signer of another name."""
    async with serving(legacy=("sha1", "des-cbc")) as site:
        status, output = await go_client(site, tmp_path)
        assert status == 0, output
        certificate = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
        assert certificate.public_key() == rsa_key("device").public_key()


@needs("scepclient")
async def test_scepclient_is_refused_by_a_modern_endpoint(tmp_path: Path) -> None:
    async with serving() as site:
        status, output = await go_client(site, tmp_path)
        assert status != 0
        assert "badAlg" in output or "unrecognized" in output, output
        assert site.issuance.requests == []


@needs("scepclient")
async def test_scepclient_with_a_wrong_challenge_is_refused(tmp_path: Path) -> None:
    async with serving(legacy=("sha1", "des-cbc")) as site:
        status, output = await go_client(site, tmp_path, challenge="guess")
        assert status != 0, output
        assert "badRequest" in output or "not permitted" in output, output
        assert site.issuance.requests == []


# ---------------------------------------------------------------- certmonger's helper


@needs(SCEP_SUBMIT)
async def test_certmonger_reads_capabilities_and_certificates(tmp_path: Path) -> None:
    async with serving() as site:
        status, output = await run(SCEP_SUBMIT, "-u", site.url, "-i", "0", "-c", folder=tmp_path)
        assert status == 0, output
        assert {"POSTPKIOperation", "AES", "SHA-256"} <= set(output.split())
        assert not {"Renewal", "DES3", "SHA-1", "GetNextCACert"} & set(output.split())
        status, output = await run(SCEP_SUBMIT, "-u", site.url, "-i", "0", "-C", folder=tmp_path)
        assert status == 0, output
        found = x509.load_pem_x509_certificates(output[output.index("-----BEGIN") :].encode())
        assert found[:2] == [site.ca.ra, site.ca.certificate]  # it tells RA from CA


@needs(SCEP_SUBMIT)
async def test_certmonger_enrols_by_get_and_reads_the_answer(tmp_path: Path) -> None:
    """It sends PKIOperation by GET although POST is advertised."""
    async with serving() as site:
        (tmp_path / "ra.pem").write_bytes(pem_of(site.ca.ra))
        (tmp_path / "ca.pem").write_bytes(pem_of(site.ca.certificate))
        message = base64.encodebytes(pkcs_req(site.ca).encode()).decode()
        (tmp_path / "message.pem").write_text(f"-----BEGIN PKCS7-----\n{message}-----END PKCS7-----\n")
        status, output = await run(
            *(
                SCEP_SUBMIT,
                "-u",
                site.url,
                "-i",
                "0",
                "-r",
                "ra.pem",
                "-N",
                "ca.pem",
                "-I",
                "ca.pem",
                "-v",
                "-p",
                "message.pem",
            ),
            folder=tmp_path,
        )
        assert status == 0, output
        assert "BEGIN PKCS7" in output
        assert len(site.issuance.issued) == 1
