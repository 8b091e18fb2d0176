"""`certwright init`: a directory with everything that `certwright serve` needs, or nothing at all.

Law of this file: all is built in a directory beside the wanted one, read back as `serve` would read it, and renamed at the end.
Nothing half-done has the name that was asked for.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import shlex
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from certwright import authority
from certwright.config import Config, load
from certwright.errors import InitError
from certwright.init_template import Template, render
from certwright.yaml_positions import ConfigError
from issuance.credentials import Credentials
from issuance.hashing import generate_secret
from pki.clock import Clock, to_datetime
from pki.identifiers import Identifier, parse_dns, parse_ip
from pki.reasons import Rejection
from pki.sealing import new_key
from signer.software import KeyKind, generate_key
from storage.open import open_database

EST_USER = "device"


@dataclass(frozen=True, slots=True)
class Options:
    """What `init` can be told; everything has a default that works on one machine."""

    directory: Path
    base_url: str | None = None  # default: https://localhost:<https_port>
    listen_address: str | None = None  # default: localhost for a base_url on this machine, else every address
    https_port: int = 8443
    mtls_port: int = 9443
    http_port: int = 8080
    metrics_port: int = 9464
    names: tuple[str, ...] = ()  # more names for the server certificate
    database: str | None = None  # default: an SQLite file in the directory
    http01_port: int | None = None  # default: 5002 for a base_url on this machine, else 80


async def init(options: Options, *, clock: Clock) -> Config:
    """Make the directory; its configuration as `serve` reads it. Raises InitError, Unavailable."""
    target = options.directory.absolute()
    _refuse_existing(target)
    plan = _plan(options)
    _refuse_unwritable(target)
    async with _beside(target) as building:
        names = _server_names(plan.host, options.names)
        _write_authorities(building, plan.template.http_url, names, now=to_datetime(clock.micros()))
        _write(building / "certwright.yaml", render(plan.template).encode(), 0o640)
        _write(building / "secrets.key", new_key(), 0o600)
        if plan.database_secret is not None:
            _write(building / "database.url", plan.database_secret.encode(), 0o600)
        config = _load_new(building / "certwright.yaml")
        environment = await _first_credentials(config, plan, target, clock)
        _write(building / "bootstrap.env", _env_file(environment), 0o600)
        building.rename(target)
    return load(target / "certwright.yaml")


def _refuse_existing(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InitError(f"{target} is not a directory; give another --dir")
    if target.exists() and any(target.iterdir()):
        if not (target / "certwright.yaml").exists():
            raise InitError(f"{target} is left as it is, for it is not empty. Give another --dir.")
        raise InitError(
            f"{target} is left as it is, for a CA lives there already. "
            f"Start it with: certwright serve --config {target / 'certwright.yaml'}   Or give init another --dir."
        )


def _refuse_unwritable(target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(target.parent, os.W_OK | os.X_OK)
    except OSError as error:
        raise InitError(f"cannot make {target}: {error.filename}: {error.strerror}; give another --dir") from error
    if not writable:
        raise InitError(f"cannot make {target}: this user may not write in {target.parent}; give another --dir")


def _load_new(file: Path) -> Config:
    """As `serve` will read it. The file will be gone, so its lines stand for the places: most of them come from an option."""
    try:
        return load(file)
    except ConfigError as error:
        lines = file.read_text(encoding="utf-8").splitlines()
        said = "".join(
            f"\n  {lines[problem.line - 1].partition('      #')[0].strip()}: {problem.message}" for problem in error.problems
        )
        raise InitError(f"nothing was made, for the configuration would not be valid:{said}") from error


@asynccontextmanager
async def _beside(target: Path) -> AsyncIterator[Path]:
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.init-", dir=target.parent))  # 0700
    try:
        yield building
    except asyncio.CancelledError:  # Ctrl-C: a thread may still write there, and would leave files behind
        await asyncio.get_running_loop().shutdown_default_executor()
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)  # gone already when all went well


@dataclass(frozen=True, slots=True)
class _Plan:
    host: str
    template: Template
    database_secret: str | None


def _plan(options: Options) -> _Plan:
    base_url = (options.base_url or f"https://localhost:{options.https_port}").rstrip("/")
    parts = urlsplit(base_url)
    if parts.scheme != "https" or not parts.hostname or parts.path:
        raise InitError(f"{base_url!r} is no base URL: write https://NAME:PORT")
    host = parts.hostname
    here = is_loopback(host)
    listen = options.listen_address or ("localhost" if here else "0.0.0.0")
    shown = f"[{host}]" if ":" in host else host
    database = options.database or "sqlite:certwright.db"
    secret = database if urlsplit(database).password is not None else None
    return _Plan(
        host,
        Template(
            base_url=base_url,
            http_url=f"http://{shown}:{options.http_port}" if options.http_port != 80 else f"http://{shown}",
            listen=f"[{listen}]" if ":" in listen else listen,
            https_port=options.https_port,
            mtls_port=options.mtls_port,
            http_port=options.http_port,
            metrics_port=options.metrics_port,
            database=None if secret else database,
            http01_port=options.http01_port or (5002 if here else 80),
            loopback=here,
        ),
        secret,
    )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _server_names(host: str, more: Sequence[str]) -> list[Identifier]:
    names = [_identifier(host), *(_identifier(name) for name in more)]
    names += [_identifier(name) for name in ("localhost", "127.0.0.1", "::1")]
    with suppress(InitError):  # a machine's name need not be one that a certificate can hold
        names.append(_identifier(socket.gethostname()))
    return list(dict.fromkeys(names))


def _identifier(text: str) -> Identifier:
    try:
        return parse_ip(text)
    except Rejection:
        pass
    try:
        return parse_dns(text)
    except Rejection as rejection:
        raise InitError(rejection.detail) from rejection


def _write_authorities(directory: Path, http_url: str, names: Sequence[Identifier], *, now: datetime) -> None:
    """Keys and certificates. The root's key has a passphrase of its own, so that both can leave the machine together."""
    tag = secrets.token_hex(2)  # tells the CAs of two trials apart in a trust store
    root = authority.make_root(f"Certwright Root CA {tag}", now=now)
    issuing = authority.make_issuer(f"Certwright Issuing CA {tag}", generate_key(KeyKind.EC_P256), root=root, now=now)
    devices = authority.make_issuer(f"Certwright Device CA {tag}", generate_key(KeyKind.RSA_2048), root=root, now=now)
    ra_key = generate_key(KeyKind.RSA_2048)
    ra = authority.make_registration_authority(f"Certwright SCEP RA {tag}", ra_key, issuer=devices, now=now)
    cmc_key = generate_key(KeyKind.RSA_2048)
    cmc = authority.make_cmc_authority(f"Certwright EST RA {tag}", cmc_key, issuer=devices, now=now)

    ca = directory / "ca"
    ca.mkdir(mode=0o700)
    passphrase, root_passphrase = (secrets.token_urlsafe(32).encode() for _ in range(2))
    _write(ca / "passphrase", passphrase, 0o600)
    _write(ca / "root.passphrase", root_passphrase, 0o600)
    _write(ca / "root.pem", root.pem(), 0o644)
    _write(ca / "root.key", authority.key_pem(root.key, root_passphrase), 0o600)
    for name, issuer in (("issuing", issuing), ("devices", devices)):
        _write(ca / f"{name}.pem", issuer.pem(), 0o644)
        _write(ca / f"{name}.key", authority.key_pem(issuer.key, passphrase), 0o600)
    for name, certificate, key in (("scep-ra", ra, ra_key), ("est-ra", cmc, cmc_key)):
        _write(ca / f"{name}.pem", certificate.public_bytes(Encoding.PEM), 0o644)
        _write(ca / f"{name}.key", authority.key_pem(key, passphrase), 0o600)
    write_server_certificate(directory / "tls", issuing, names, issuer_name="issuing", http_url=http_url, now=now)


def write_server_certificate(
    directory: Path,
    issuing: authority.Authority,
    names: Sequence[Identifier],
    *,
    issuer_name: str,
    http_url: str,
    now: datetime,
) -> None:
    """`server.pem` (leaf, then its issuer) and `server.key`. Each is replaced as a whole."""
    key = generate_key(KeyKind.EC_P256)
    leaf = authority.make_server(key, names=names, issuer=issuing, issuer_name=issuer_name, http_url=http_url, now=now)
    directory.mkdir(mode=0o700, exist_ok=True)
    _write(directory / "server.key", authority.key_pem(key, None), 0o600)
    _write(directory / "server.pem", leaf.public_bytes(Encoding.PEM) + issuing.pem(), 0o644)


async def _first_credentials(config: Config, plan: _Plan, target: Path, clock: Clock) -> Mapping[str, str]:
    """Create the schema and the first credentials; the environment that tells a client everything."""
    template = plan.template
    password, challenge = generate_secret(), generate_secret()
    database = await open_database(config.database, migrate=True)
    try:
        credentials = Credentials(database=database, clock=clock)
        api_key = await credentials.create_api_key(roles=["admin", "operator"], profile="tls-server", expires_at=None)
        await credentials.set_est_user(endpoint="default", user=EST_USER, password=password, roles=["device"], profile="")
        await credentials.set_scep_challenge(endpoint="default", challenge=challenge, roles=["device"], profile="")
    finally:
        await database.close()
    shown = f"[{plan.host}]" if ":" in plan.host else plan.host
    return {
        "CERTWRIGHT_BASE_URL": template.base_url,
        "CERTWRIGHT_ACME_DIRECTORY": f"{template.base_url}/acme/directory",
        "CERTWRIGHT_CA_FILE": str(target / "ca" / "root.pem"),
        "CERTWRIGHT_API_KEY": api_key,
        "CERTWRIGHT_EST_URL": f"https://{shown}:{template.mtls_port}",
        "CERTWRIGHT_EST_USER": EST_USER,
        "CERTWRIGHT_EST_PASSWORD": password,
        "CERTWRIGHT_SCEP_URL": f"{template.http_url}/scep",
        "CERTWRIGHT_SCEP_CHALLENGE": challenge,
    }


def _env_file(environment: Mapping[str, str]) -> bytes:
    lines = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return (
        "# The first credentials. Move the secrets to where they are needed, then delete this file.\n" + "\n".join(lines) + "\n"
    ).encode()


def _write(path: Path, content: bytes, mode: int) -> None:
    """With its mode from the start, and whole: a new file renamed over what may be there."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
    Path(name).rename(path)


def root_fingerprint(root_file: Path) -> str:
    """SHA-256 of the root certificate, as `openssl x509 -fingerprint` prints it."""
    digest = x509.load_pem_x509_certificate(root_file.read_bytes()).fingerprint(hashes.SHA256()).hex().upper()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))
