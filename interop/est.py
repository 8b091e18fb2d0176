"""A server with one EST endpoint for each thing that a client may want, and what those who come to them have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from ruamel.yaml import YAML

from interop.operator import Operator
from interop.support import Held, Site, hold, no_dns, openssl, short_directory
from tests.helpers.server import Server
from tests.helpers.server import run as certwright

CMC_RA = ObjectIdentifier("1.3.6.1.5.5.7.3.28")  # id-kp-cmcRA (RFC 6402 §2.10)

# strongSwan's `pki` knows no labels, so `default` has what it needs.
ENDPOINTS = """\
default: {profile: device, authenticate: [basic, certificate], client_certificates: {roles: [device]}}
digest: {profile: device, authenticate: [digest]}
tokens: {profile: device, authenticate: [bearer]}
wrapped: {profile: device, base64_wrap: "76"}
unwrapped: {profile: device, base64_wrap: "0"}
oids: {profile: device, csr_attributes: oids}
template: {profile: device, csr_attributes: template}
keys:
  profile: keyed
  authenticate: [basic, certificate]
  client_certificates: {enroll: true, roles: [device]}
  server_keygen: true
  registration_authority: est
approved: {profile: device, require_approval: true}
idevid: {profile: device, authenticate: [certificate], client_certificates: {anchors: [maker.pem], roles: [device]}}
bootstrap: {profile: device, authenticate: [basic, certificate], client_certificates: {enroll: true, roles: [device]}}
cmc:
  profile: device
  authenticate: [basic, certificate]
  full_cmc: true
  registration_authority: est
  client_certificates: {roles: [device]}
  agents: {anchors: [offices.pem], roles: [device]}
"""
PROFILES = """\
keyed:
  issuer: devices
  validity: 30d
  key_usage: [digital_signature, key_encipherment]
  extended_key_usage: [clientAuth]
  common_name: device
  require_san: false
  server_keygen: true
"""
POLICIES = """\
keyed: {roles: [device], allowed_profiles: [keyed], allowed_sans: ["*"], allowed_common_names: ["*"]}
waiting: {roles: [waiting], allowed_profiles: [device], allowed_sans: ["*"], allowed_common_names: ["*"], require_approval: true}
"""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA that is none of ours: a manufacturer's, or one that certifies registration authorities."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def new(cls, name: str, *, days: int = 30) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, subject, key.public_key(), days=days)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(certificates=True), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    def certify(
        self, name: str, purposes: Sequence[ObjectIdentifier], *, home: Path, stem: str, days: int = 30
    ) -> tuple[Path, Path]:
        """Writes STEM.pem and STEM.key, and returns both."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, self.certificate.subject, key.public_key(), days=days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        made = builder.add_extension(identifier, critical=False).sign(self.key, hashes.SHA256())
        certificate, keyfile = home / f"{stem}.pem", home / f"{stem}.key"
        certificate.write_bytes(made.public_bytes(Encoding.PEM))
        keyfile.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, keyfile


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=days))


def _usage(*, certificates: bool) -> x509.KeyUsage:
    others = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    more = {"encipher_only": False, "decipher_only": False, "crl_sign": certificates, "key_cert_sign": certificates}
    return x509.KeyUsage(digital_signature=not certificates, **others, **more)


@dataclass(frozen=True, slots=True)
class EstSite(Operator):
    server: Server
    site: Site
    maker: Authority
    offices: Authority
    _passwords: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)

    @property
    def root(self) -> Path:
        return self.site.root

    @property
    def server_url(self) -> str:
        """What clients take that add the rest themselves."""
        return self.site["EST_URL"].rstrip("/").removesuffix("/.well-known/est")

    def url(self, label: str = "default") -> str:
        path = "" if label == "default" else f"/{label}"
        return f"{self.server_url}/.well-known/est{path}"

    def password(self, label: str = "default", *, user: str = "", role: str = "device") -> str:
        """Of a user who is called as the label unless it is said how; added when first asked for."""
        who = (label, user or label)
        if who not in self._passwords:
            options = ("--endpoint", label, "--role", role, "--config", self.site.config)
            self._passwords[who] = certwright("est", "user", "add", who[1], *options).stdout.split("\n")[0]
        return self._passwords[who]

    def made(self, what: str, *options: str, label: str) -> str:
        """What `certwright est token|secret|key create` prints."""
        where = ("--endpoint", label, "--config", self.site.config)
        return certwright("est", what, "create", *options, *where).stdout.split("\n")[0]

    def environment(self, label: str = "default") -> dict[str, str]:
        """For shell scripts; a label's user is called as the label is."""
        names = {"CA": str(self.root), "EST_URL": self.url(label), "EST_USER": label}
        return names | {"EST_PASSWORD": self.password(label)}

    def hold(self, leaf: Path, *, home: Path) -> Held:
        return hold(self.site, leaf, home=home)

    def shows(self, leaf: Path, *, home: Path) -> dict[str, str]:
        """What `openssl x509` says of it: subject, serial."""
        text = openssl("x509", "-in", leaf, "-noout", "-subject", "-serial", home=home)
        return dict(line.split("=", 1) for line in text.splitlines())


def _configured(text: str) -> str:
    yaml = YAML()
    config = yaml.load(text)
    config["endpoints"]["est"] = yaml.load(ENDPOINTS)
    config["profiles"].update(yaml.load(PROFILES))
    config["policies"].update(yaml.load(POLICIES))
    out = StringIO()
    yaml.dump(config, out)
    return out.getvalue()


@contextmanager
def est_site() -> Iterator[EstSite]:
    with short_directory() as home:
        directory, maker, offices = home / "ca", Authority.new("Maker of Devices"), Authority.new("Offices")

        def edit(text: str) -> str:
            for name, authority in (("maker.pem", maker), ("offices.pem", offices)):
                (directory / name).write_bytes(authority.certificate.public_bytes(Encoding.PEM))
            return _configured(text)

        with Server(directory=directory, edit=edit) as server:
            site = Site(
                root=server.ca_file,
                bootstrap=server.environment,
                http01_port=server.http01_port,
                zone=no_dns,
                config=server.config_file,
            )
            yield EstSite(server, site, maker, offices)


def idevid(est: EstSite, name: str, *, home: Path) -> tuple[Path, Path]:
    """What a device has from its manufacturer."""
    return est.maker.certify(name, [ExtendedKeyUsageOID.CLIENT_AUTH], home=home, stem="idevid")


def agent(est: EstSite, *, home: Path) -> tuple[Path, Path]:
    """What a registration authority has (RFC 7030 §3.7)."""
    return est.offices.certify("Front Office", [ExtendedKeyUsageOID.CLIENT_AUTH, CMC_RA], home=home, stem="agent")
