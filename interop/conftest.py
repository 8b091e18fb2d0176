"""One running server for all the clients: made by `certwright init`, started by `certwright serve`, told nothing else."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from interop.bouncycastle import compiled
from interop.est import EstSite, est_site
from interop.scep import ScepSite, scep_site
from interop.support import Site, short_directory
from tests.helpers.dns import DnsServer
from tests.helpers.server import Server, free_ports

NPM_PATIENCE = 60  # seconds
UNREACHABLE_FOR = 600


@contextmanager
def dns_server() -> Iterator[DnsServer]:
    """The tests here are plain functions that wait for programs, so the DNS server lives in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="interop-dns")
    thread.start()
    try:
        server = DnsServer()
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(timeout=10)
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(timeout=10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


NODE = Path(__file__).parent / "node"

# Beside `default`, which is as `init` wrote it. Each offers one thing, so that a client has no other way.
ENDPOINTS = """\
    dns: {profiles: [tls-server], challenges: [dns-01]}
    alpn: {profiles: [tls-server], challenges: [tls-alpn-01]}
    addresses: {profiles: [tls-server], challenges: [http-01, tls-alpn-01], identifiers: [dns, ip]}
    bound: {profiles: [tls-server], external_account: required}
    renewals: {profiles: [brief], renewal_info: {window_start: 0%, window_end: 1%}}
    patient: {profiles: [brief]}
"""
# One percent of its life is over before it begins: certificates are backdated by five minutes.
BRIEF = """\
  brief: {issuer: issuing, validity: 2h, key_usage: [digital_signature], extended_key_usage: [serverAuth], common_name: none}
"""


ALTERNATE = """\
    chain: [ca/root.pem]
    alternate_chains: [[ca/issuing-by-old-root.pem, ca/old-root.pem]]
    key: {software: {file: ca/issuing.key"""


def certify_by_another(ca: Path) -> None:
    """What an old root of the house does for a new CA: its own certificate for the same name and key."""
    new = x509.load_pem_x509_certificate((ca / "issuing.pem").read_bytes())
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=Interop Old Root,O=Interop")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = new.extensions.get_extension_for_class(x509.KeyUsage).value
    root = (
        _certificate(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    crossed = (
        _certificate(new.subject, name, new.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(new.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    for file, certificate in (("old-root.pem", root), ("issuing-by-old-root.pem", crossed)):
        (ca / file).write_bytes(certificate.public_bytes(Encoding.PEM))


def _certificate(subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=365))


def with_extensions(text: str, tlsalpn01_port: int) -> str:
    for old, new in (
        ("    chain: [ca/root.pem]\n    key: {software: {file: ca/issuing.key", ALTERNATE),
        ("\n  est:\n    default:", f"\n{ENDPOINTS}  est:\n    default:"),
        ("\nprofiles:", "\nPROFILES:"),
        ("allowed_profiles: [tls-server, short-lived]\n", "allowed_profiles: [tls-server, short-lived, brief]\n"),
        ("\n  http01_port:", f"\n  retry_delay: 1s\n  tlsalpn01_port: {tlsalpn01_port}\n  http01_port:"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    head, _, rest = text.partition("\nPROFILES:")
    comment, _, rest = rest.partition("\n")
    return f"{head}\nprofiles:{comment}\n{BRIEF}{rest}"


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A server with the defaults of `init`, but for its ports, the DNS server that it asks, more endpoints and one more chain."""
    (tlsalpn01_port,) = free_ports(1)
    with short_directory() as home, dns_server() as dns:
        directory = home / "ca"

        def edit(text: str) -> str:
            certify_by_another(directory / "ca")
            return with_extensions(text, tlsalpn01_port)

        with Server(directory=directory, resolver=dns.address, edit=edit) as server:
            yield _site(server, dns, tlsalpn01_port)


def _site(server: Server, dns: DnsServer, tlsalpn01_port: int) -> Site:
    return Site(
        root=server.ca_file,
        bootstrap=server.environment,
        http01_port=server.http01_port,
        zone=dns.__setitem__,
        txt=dns.txt,
        tlsalpn01_port=tlsalpn01_port,
        config=server.config_file,
    )


@pytest.fixture(scope="session")
def est() -> Iterator[EstSite]:
    """Another server, with an EST endpoint for everything that a client may want."""
    with est_site() as made:
        yield made


@pytest.fixture(scope="session")
def scep() -> Iterator[ScepSite]:
    """And one with a SCEP endpoint for everything that a device may want."""
    with scep_site() as made:
        yield made


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs in interop/java, compiled once."""
    return compiled(tmp_path_factory.mktemp("java"))


@pytest.fixture
def home() -> Iterator[Path]:
    """A client's home directory."""
    with short_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def modules() -> Path:
    """node_modules with acme-client, of the versions in node/package-lock.json. Skips when npm's registry is away."""
    installed = Path(sys.prefix) / "interop-node"  # beside certbot; `make clean` takes it away
    installed.mkdir(exist_ok=True)
    with (installed / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may want it, too
        return _install(installed)


def _npm_ci(installed: Path) -> str:
    """Why it could not be installed, "" when it was. In the user's own environment: the registry npm is set up for is asked."""
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries", "1", "--prefix", str(installed)]
    try:
        tried = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=NPM_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer from the registry within {NPM_PATIENCE} s"
    return "" if tried.returncode == 0 else tried.stderr.decode(errors="replace").strip()[-300:] or "npm failed"


def _install(installed: Path) -> Path:
    wanted, done = NODE / "package-lock.json", installed / "installed-lock.json"
    if not done.exists() or done.read_bytes() != wanted.read_bytes():
        for file in (NODE / "package.json", wanted):
            shutil.copy(file, installed)
        refused = installed / "unreachable"
        if (
            refused.exists() and time.time() - refused.stat().st_mtime < UNREACHABLE_FOR
        ):  # another worker has just waited for it
            pytest.skip(f"client not installed: acme-client (npm): {refused.read_text()}")
        why = _npm_ci(installed)
        if why:
            refused.write_text(why)
            pytest.skip(f"client not installed: acme-client (npm): {why}")
        shutil.copy(wanted, done)
    return installed / "node_modules"
