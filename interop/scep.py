"""A server with one SCEP endpoint for each thing that a client may want, and what those who come to them have."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from io import StringIO
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from ruamel.yaml import YAML

from interop.operator import Operator
from interop.support import Held, Site, hold, no_dns, openssl, run, short_directory
from tests.helpers.server import Server
from tests.helpers.server import run as certwright

# Beside `default`, which is as `init` wrote it.
ENDPOINTS = """\
old:
  profile: device
  registration_authority: scep
  challenge: [static, one-time]
  renewal: {roles: [device]}
  legacy: [sha1, des-cbc, des-ede3-cbc]
approved: {profile: device, registration_authority: scep, renewal: {roles: [device]}, require_approval: true}
two:
  profile: device
  registration_authority: signs
  encryption_authority: reads
  challenge: [static, one-time]
  renewal: {roles: [device]}
  legacy: [sha1, des-cbc]
by-ca: {profile: router, use_ca_key: true, renewal: {roles: [device]}}
"""
PROFILES = """\
router:
  issuer: routers
  validity: 30d
  key_usage: [digital_signature, key_encipherment]
  extended_key_usage: [clientAuth]
  common_name: device
  require_san: false
"""
POLICIES = """\
routers: {roles: [device], allowed_profiles: [router], allowed_sans: ["*"], allowed_common_names: ["*"]}
"""
ISSUERS = """\
routers:
  certificate: ca/routers.pem
  chain: [ca/root.pem]
  next: [ca/next-routers.pem]
  key: {software: {file: ca/routers.key, passphrase_file: ca/passphrase}}
"""


AUTHORITIES = """\
signs:
  certificate: ca/signs.pem
  key: {software: {file: ca/signs.key, passphrase_file: ca/passphrase}}
reads:
  certificate: ca/reads.pem
  key: {software: {file: ca/reads.key, passphrase_file: ca/passphrase}}
"""


USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def certify_more(ca: Path) -> None:
    """Writes a CA that clients encrypt to, the one that will follow it, and a registration authority of two halves.

    Their key usages say what each is for: Apple's and Microsoft's clients look there.
    """
    root = ca / "root.passphrase"
    both = ("digital_signature", "key_encipherment", "key_cert_sign", "crl_sign")
    for stem, name, issuer, passphrase, usages in (
        ("routers", "Interop Router CA", "root", root, both),
        ("next-routers", "Next Interop Router CA", "root", root, both),
        ("signs", "Interop RA that signs", "devices", ca / "passphrase", ("digital_signature",)),
        ("reads", "Interop RA that reads", "devices", ca / "passphrase", ("key_encipherment",)),
    ):
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        above = x509.load_pem_x509_certificate((ca / f"{issuer}.pem").read_bytes())
        above_key = load_pem_private_key((ca / f"{issuer}.key").read_bytes(), passphrase.read_bytes())
        assert isinstance(above_key, rsa.RSAPrivateKey)
        certificate = _unsigned(name, key, above, usages).sign(above_key, hashes.SHA256())
        sealed = BestAvailableEncryption((ca / "passphrase").read_bytes())
        (ca / f"{stem}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (ca / f"{stem}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed))
        (ca / f"{stem}.key").chmod(0o600)


def _unsigned(name: str, key: rsa.RSAPrivateKey, issuer: x509.Certificate, usages: Collection[str]) -> x509.CertificateBuilder:
    bits = {name: name in usages for name in USAGES}
    is_ca = "key_cert_sign" in usages
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_before_utc + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
        .add_extension(x509.KeyUsage(**bits), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )


@dataclass(frozen=True, slots=True)
class ScepSite(Operator):
    server: Server
    site: Site
    _challenges: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def root(self) -> Path:
        return self.site.root

    def url(self, endpoint: str = "default") -> str:
        return f"{self.site['SCEP_URL']}{'' if endpoint == 'default' else f'/{endpoint}'}"

    def challenge(self, endpoint: str = "default") -> str:
        """The endpoint's challenge password; made when first asked for."""
        if endpoint not in self._challenges:
            made = self.site["SCEP_CHALLENGE"] if endpoint == "default" else self._printed("set", endpoint)
            self._challenges[endpoint] = made
        return self._challenges[endpoint]

    def one_time_challenge(self, endpoint: str, *options: str) -> str:
        return self._printed("create", endpoint, *options)

    def _printed(self, command: str, endpoint: str, *options: str) -> str:
        where = ("--endpoint", endpoint, "--config", self.site.config)
        return certwright("scep", "challenge", command, *options, *where).stdout.split("\n")[0]

    def hold(self, leaf: Path, *, home: Path) -> Held:
        return hold(self.site, leaf, home=home)


def _configured(text: str) -> str:
    yaml = YAML()
    config = yaml.load(text)
    config["endpoints"]["scep"].update(yaml.load(ENDPOINTS))
    config["profiles"].update(yaml.load(PROFILES))
    config["policies"].update(yaml.load(POLICIES))
    config["issuers"].update(yaml.load(ISSUERS))
    config["registration_authorities"].update(yaml.load(AUTHORITIES))
    out = StringIO()
    yaml.dump(config, out)
    return out.getvalue()


@contextmanager
def scep_site() -> Iterator[ScepSite]:
    with short_directory() as home:
        directory = home / "ca"

        def edit(text: str) -> str:
            certify_more(directory / "ca")
            return _configured(text)

        with Server(directory=directory, edit=edit) as server:
            site = Site(
                root=server.ca_file,
                bootstrap=server.environment,
                http01_port=server.http01_port,
                zone=no_dns,
                config=server.config_file,
            )
            yield ScepSite(server, site)


# --- what a client sees of a certificate -----------------------------------------------------------------------------------


def serial(leaf: Path, *, home: Path) -> str:
    return openssl("x509", "-in", leaf, "-noout", "-serial", home=home).strip().partition("=")[2]


def key_usage(leaf: Path, *, home: Path) -> str:
    return openssl("x509", "-in", leaf, "-noout", "-ext", "keyUsage", home=home)


def public_key(leaf: Path, *, home: Path) -> str:
    return openssl("x509", "-in", leaf, "-noout", "-pubkey", home=home)


def certificates_of(url: str, *, home: Path) -> list[Path]:
    """GetCACert, as PEM files."""
    answer = home / "getcacert"
    run(["curl", "-sS", "--fail", "-o", answer, f"{url}?operation=GetCACert"], home=home)
    text = openssl("pkcs7", "-inform", "DER", "-in", answer, "-print_certs", home=home)
    found = []
    for number, block in enumerate(text.split("-----END CERTIFICATE-----\n")[:-1]):
        file = home / f"shown-{number}.pem"
        file.write_text(f"{block[block.index('-----BEGIN') :]}-----END CERTIFICATE-----\n")
        found.append(file)
    return found


def recipient(url: str, *, home: Path) -> Path:
    """The only certificate of GetCACert that may encrypt keys, and that clients therefore encrypt to."""
    [found] = [one for one in certificates_of(url, home=home) if "Key Encipherment" in key_usage(one, home=home)]
    return found
