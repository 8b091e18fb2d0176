"""Client certificates in real TLS connections with a whole server: what OpenSSL lets pass, and what each label makes of it."""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key, pkcs7

from certwright.config import load
from issuance.credentials import Credentials
from pki.clock import SystemClock
from storage.open import open_database
from tests.helpers.authorities import (
    CLIENT_AUTH,
    CMC_RA,
    SERVER_AUTH,
    Authority,
    constraints,
    ec_key,
    hardware_module,
    purposes,
    usage,
)
from tests.helpers.est_world import general_names, make_request, renewal_csr, subject
from tests.helpers.server import Server, run
from tests.helpers.wire import Reply, Wire

LABELS = """\
    makers: {profile: device, authenticate: [certificate], client_certificates: {anchors: [maker.pem], roles: [device]}}
    office: {profile: device, authenticate: [certificate], agents: {anchors: [registrars.pem], roles: [device]}}
    brief: {profile: brief, authenticate: [basic, certificate], client_certificates: {roles: [device]}}
    patient: {profile: brief, authenticate: [basic, certificate], client_certificates: {roles: [device], grace: 1h}}
"""
# A certificate is made as of five minutes ago: two seconds are left.
BRIEF = """\
  brief: {issuer: devices, validity: 302s, key_usage: [digital_signature], extended_key_usage: [clientAuth], common_name: device,
    require_san: false}
"""
WITH_PASSWORDS = ("brief", "patient")
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
DATES: dict[str, Any] = {"begin": NOW - 10 * DAY, "end": NOW + 10 * DAY}
MAKER = Authority("Maker", **DATES)
LINE = Authority("Maker Line 1", MAKER, (constraints(length=0), usage(key_cert_sign=True)), **DATES)
REGISTRARS = Authority("Registrars", **DATES)
STRANGER = Authority("Stranger", **DATES)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("certificates") / "certwright"

    def edit(text: str) -> str:
        (directory / "maker.pem").write_bytes(MAKER.certificate.public_bytes(Encoding.PEM))
        (directory / "registrars.pem").write_bytes(REGISTRARS.certificate.public_bytes(Encoding.PEM))
        text = text.replace("allowed_profiles: [device]", "allowed_profiles: [device, brief]").replace(
            "profiles:", "profiles:\n" + BRIEF, 1
        )
        return re.sub(r"(?m)^  est:\n(    default: .*\n)", rf"  est:\n\1{LABELS}", text)

    with Server(directory=directory, edit=edit) as running:
        asyncio.run(_users(running))
        yield running


async def _users(server: Server) -> None:
    database = await open_database(load(server.config_file).database, migrate=False)
    credentials = Credentials(database=database, clock=SystemClock())
    for label in WITH_PASSWORDS:
        await credentials.set_est_user(endpoint=label, user="u", password="p", roles=["device"], profile="")
    await database.close()


class Client:
    """One that shows `chain` (DER, leaf first) and has its key, in a connection of its own."""

    def __init__(
        self,
        server: Server,
        folder: Path,
        chain: list[bytes],
        key: ec.EllipticCurvePrivateKey | None = None,
        *,
        version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    ) -> None:
        context = ssl.create_default_context(cafile=str(server.ca_file))
        context.maximum_version = version
        if chain:
            file = folder / "client.pem"
            private = (key or ec_key("leaf")).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            pem = [x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in chain]
            file.write_bytes(private + b"".join(pem))
            context.load_cert_chain(file)
        self._wire = Wire(server.mtls_port, context)
        self._server = server

    def post(self, operation: str, csr: bytes, *, label: str = "default", auth: tuple[str, str] | None = None) -> Reply:
        path = f"/.well-known/est/{label}/{operation}"
        headers = {"Content-Type": "application/pkcs10"}
        if auth is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(auth).encode()).decode()
        try:
            return self._wire.send("POST", path, base64.b64encode(csr), headers)
        finally:
            self._wire.close()


def enrolled(server: Server, folder: Path, common_name: str, *, label: str = "default") -> bytes:
    """By password, as every device begins; the key is the one that Client has."""
    auth = (server.environment["CERTWRIGHT_EST_USER"], server.environment["CERTWRIGHT_EST_PASSWORD"])
    csr = make_request(subject=subject(common_name), names=None, key=ec_key("leaf"))
    reply = Client(server, folder, []).post("simpleenroll", csr, label=label, auth=auth if label == "default" else ("u", "p"))
    return certificate(reply)


def certificate(reply: Reply) -> bytes:
    assert reply.status == 200, reply.body
    [found] = pkcs7.load_der_pkcs7_certificates(base64.b64decode(reply.body))
    return found.public_bytes(Encoding.DER)


def test_what_each_label_makes_of_what_tls_let_pass(server: Server, tmp_path: Path) -> None:
    """The listener trusts all labels' anchors at once, and every label trusts its own."""
    own = enrolled(server, tmp_path, "device-1")
    idevid = [LINE.leaf("serial-1", hardware_module(), usage(digital_signature=True), **DATES), LINE.der]
    agent = [REGISTRARS.leaf("office", purposes(CLIENT_AUTH, CMC_RA), **DATES)]
    clerk = [REGISTRARS.leaf("clerk", purposes(CLIENT_AUTH), **DATES)]
    verdicts = {  # (simpleenroll, simplereenroll) by label
        "own": ([own], {"default": (401, 200), "makers": (403, 403), "office": (403, 403)}),
        "idevid": (idevid, {"default": (401, 403), "makers": (200, 403), "office": (403, 403)}),
        "agent": (agent, {"default": (401, 403), "makers": (403, 403), "office": (200, 200)}),
        "the agents' CA's, no agent": (clerk, {"default": (401, 403), "makers": (403, 403), "office": (403, 403)}),
    }
    for who, (chain, labels) in verdicts.items():
        for label, expected in labels.items():
            csr = renewal_csr(own, key=ec_key("leaf"))
            client = Client(server, tmp_path, chain)
            found = tuple(client.post(one, csr, label=label).status for one in ("simpleenroll", "simplereenroll"))
            assert found == expected, (who, label)


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param([STRANGER.leaf("device-1", **DATES)], id="of a CA that no label trusts"),
        pytest.param([LINE.leaf("serial-1", **DATES)], id="without the CA between it and the anchor"),
        pytest.param([Authority("Maker", **DATES).leaf("serial-1", **DATES)], id="of a CA that has the anchor's name"),
    ],
)
def test_some_certificates_end_the_handshake_and_we_never_hear_of_them(
    server: Server, tmp_path: Path, chain: list[bytes]
) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Client(server, tmp_path, chain).post("simpleenroll", make_request(subject=subject("d"), names=None), label="makers")
    reply = Client(server, tmp_path, []).post("simpleenroll", _plain("d"), label="makers")
    assert (reply.status, b"no client certificate came" in reply.body) == (403, True)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_a_certificate_is_made_for_is_judged_by_us_and_not_by_tls(
    server: Server, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    for_servers = [MAKER.leaf("serial-1", purposes(SERVER_AUTH), **DATES)]
    reply = Client(server, tmp_path, for_servers, version=version).post("simpleenroll", _plain("d"), label="makers")
    assert (reply.status, b"its extended key usage has no clientAuth" in reply.body) == (403, True)
    # RFC 6402 §2.10 has id-kp-cmcRA for whoever acts as a registration authority, and says nothing of clientAuth beside it.
    agent = [REGISTRARS.leaf("office", purposes(CMC_RA), **DATES)]
    certificate(Client(server, tmp_path, agent, version=version).post("simpleenroll", _plain("d"), label="office"))
    for label in ("makers", "default"):
        reply = Client(server, tmp_path, agent, version=version).post("simplereenroll", _plain("d"), label=label)
        assert reply.status == 403, label


def _plain(common_name: str) -> bytes:
    return make_request(subject=subject(common_name), names=None, key=ec_key("leaf"))


def test_expired_certificates_are_told_so_and_a_grace_lets_them_renew(server: Server, tmp_path: Path) -> None:
    expired = [MAKER.leaf("serial-1", begin=NOW - 10 * DAY, end=NOW - DAY)]
    reply = Client(server, tmp_path, expired).post("simpleenroll", _plain("device-2"), label="makers")
    assert (reply.status, b"it expired at" in reply.body) == (403, True)
    held = {label: enrolled(server, tmp_path, "device-3", label=label) for label in ("brief", "patient")}
    ends = max(x509.load_der_x509_certificate(one).not_valid_after_utc for one in held.values())
    server.wait_until(lambda: datetime.now(UTC) > ends + timedelta(seconds=1), "the end of two certificates")
    answers = {
        label: Client(server, tmp_path, [one]).post("simplereenroll", renewal_csr(one, key=ec_key("leaf")), label=label)
        for label, one in held.items()
    }
    assert (answers["brief"].status, b"it expired at" in answers["brief"].body) == (403, True)
    certificate(answers["patient"])


def test_a_revoked_certificate_renews_nothing_from_that_moment_on(server: Server, tmp_path: Path) -> None:
    held = enrolled(server, tmp_path, "device-4")
    client = Client(server, tmp_path, [held])
    csr = renewal_csr(held, key=ec_key("leaf"))
    certificate(client.post("simplereenroll", csr))
    run("cert", "revoke", f"{x509.load_der_x509_certificate(held).serial_number:x}", "--config", server.config_file)
    reply = client.post("simplereenroll", csr)
    assert (reply.status, b"it is revoked" in reply.body) == (403, True)


def test_other_names_are_refused_and_named(server: Server, tmp_path: Path) -> None:
    held = enrolled(server, tmp_path, "device-5")
    csr = make_request(subject=subject("device-5"), names=general_names("admin.example.com"), key=ec_key("leaf"))
    reply = Client(server, tmp_path, [held]).post("simplereenroll", csr)
    assert reply.status == 403
    assert b"it has a subjectAltName, and the certificate has none" in reply.body


def test_no_certificate_renews_nothing(server: Server, tmp_path: Path) -> None:
    reply = Client(server, tmp_path, []).post("simplereenroll", _plain("device-6"))
    assert (reply.status, b"no client certificate came" in reply.body) == (403, True)


@pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("openssl")), reason="the commands of the manual need curl and openssl"
)
def test_a_device_renews_itself_with_the_commands_of_the_manual(server: Server, tmp_path: Path) -> None:
    """On what `init` wrote: enrolled by password, renewed by certificate, twice, and the request made as our refusal says."""
    script = """
set -e
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -subj /CN=curl-1 \
    -addext subjectAltName=DNS:curl-1.example.com -out request.pem 2>/dev/null
curl -sS --fail-with-body --cacert $CA -u "$EST_USER:$EST_PASSWORD" -H 'Content-Type: application/pkcs10' \
    --data-binary @request.pem $EST/simpleenroll | openssl base64 -d | openssl pkcs7 -inform der -print_certs -out cert.pem
for round in 1 2; do
    cp cert.pem cert$round.pem
    openssl x509 -x509toreq -copy_extensions copy -in cert.pem -signkey key.pem -out request.pem
    curl -sS --fail-with-body --cacert $CA --cert cert.pem --key key.pem -H 'Content-Type: application/pkcs10' \
        --data-binary @request.pem $EST/simplereenroll | openssl base64 -d | openssl pkcs7 -inform der -print_certs -out cert.pem
done
"""
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "CA": str(server.ca_file),
        "EST": f"{server.est_url}/.well-known/est",
        "EST_USER": server.environment["CERTWRIGHT_EST_USER"],
        "EST_PASSWORD": server.environment["CERTWRIGHT_EST_PASSWORD"],
    }
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = [x509.load_pem_x509_certificate((tmp_path / name).read_bytes()) for name in ("cert1.pem", "cert2.pem", "cert.pem")]
    assert len({one.serial_number for one in made}) == 3
    assert len({one.subject.public_bytes() for one in made}) == 1
    key = load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    assert all(one.public_key() == key.public_key() for one in made)
