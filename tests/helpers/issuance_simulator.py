"""An issuance pipeline of one dict and a throw-away CA, for tests of front ends: everything is granted, nothing is stored."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from issuance.credentials import Credential, CredentialKind
from issuance.lockout import NO_LIMITS, FailureLimits
from issuance.renewal import RenewalRecord, Window
from issuance.request import IssuanceRequest, Issued, IssuedCertificate, Outcome, Pending, Rejected
from issuance.service import CertificateRecord
from pki.certificate import PublicKey
from pki.clock import Micros
from pki.identifiers import DnsName, Identifier, IpAddress
from pki.reasons import Reason, Rejection, RevocationReason
from policy.principal import Principal

START = Micros(1_800_000_000_000_000)  # 2027-01-15T08:00:00Z
_DAY = 86_400_000_000
_LOOPBACK = IPv4Address("127.0.0.1")


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(identifier: Identifier) -> x509.GeneralName:
    match identifier:
        case DnsName():
            return x509.DNSName(str(identifier))
        case IpAddress(address):
            return x509.IPAddress(address)


@dataclass(slots=True)
class ThrowAwayCa:
    """A root that signs leaves itself."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False)
    certificate: x509.Certificate = field(init=False)
    _serial: int = 0x0A11

    def __post_init__(self) -> None:
        self.certificate = self._sign(_name("Throw-Away CA"), self.key.public_key(), (), ca=True)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_identifier(self) -> bytes:
        return x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()).digest

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def leaf(self, spki: bytes, identifiers: Sequence[Identifier], common_name: str | None) -> x509.Certificate:
        key = serialization.load_der_public_key(spki)
        assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey)
        return self._sign(_name(common_name or "-"), key, identifiers, ca=False)

    def _sign(self, subject: x509.Name, key: PublicKey, identifiers: Sequence[Identifier], *, ca: bool) -> x509.Certificate:
        self._serial += 1
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(_name("Throw-Away CA"))
            .public_key(key)
            .serial_number(self._serial)
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))  # real clients look at the real time
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if identifiers:
            names = x509.SubjectAlternativeName([_general_name(identifier) for identifier in identifiers])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def server_context(self, folder: Path) -> ssl.SSLContext:
        """TLS for 127.0.0.1 and localhost. `folder` gets the files that OpenSSL wants to read."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = (DnsName("localhost"), IpAddress(_LOOPBACK))
        certificate = self._sign(_name("localhost"), key.public_key(), names, ca=False)
        path = folder / "server.pem"
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def make_csr(
    *names: str, common_name: str | None = None, challenge: str | None = None, key: ec.EllipticCurvePrivateKey | None = None
) -> x509.CertificateSigningRequest:
    """A request for DNS names, from a new P-256 key unless one is given."""
    subject = x509.Name([]) if common_name is None else _name(common_name)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(san, critical=False)
    if challenge is not None:
        builder = builder.add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())


def der_of(csr: x509.CertificateSigningRequest) -> bytes:
    return csr.public_bytes(serialization.Encoding.DER)


def pem_of(csr: x509.CertificateSigningRequest) -> str:
    return csr.public_bytes(serialization.Encoding.PEM).decode()


@dataclass(slots=True)
class SimulatedIssuance:
    """Grants every request, unless `script` says otherwise for the next ones; remembers what it was asked."""

    ca: ThrowAwayCa = field(default_factory=ThrowAwayCa)
    requests: list[IssuanceRequest] = field(default_factory=list)
    script: list[Outcome | Exception] = field(default_factory=list)
    foresight: list[Pending | Rejected] = field(default_factory=list)  # what the next ones are told before they are begun
    records: dict[str, CertificateRecord] = field(default_factory=dict)
    other_cas: list[ThrowAwayCa] = field(default_factory=list)  # at the ends of alternate chains
    revoked_by: dict[str, str] = field(default_factory=dict)  # by serial
    pulls: dict[str, tuple[Window, str]] = field(default_factory=dict)  # by serial, with the URL that explains it
    _by_key: dict[str, Issued] = field(default_factory=dict)
    _now: int = START

    async def submit(self, request: IssuanceRequest) -> Outcome:
        self.requests.append(request)
        if self.script:
            scripted = self.script.pop(0)
            if isinstance(scripted, Exception):
                raise scripted
            return scripted
        if request.idempotency_key is not None and request.idempotency_key in self._by_key:
            return self._by_key[request.idempotency_key]
        issued = Issued(self._issue(request))
        if request.idempotency_key is not None:
            self._by_key[request.idempotency_key] = issued
        return issued

    async def foresee(self, _request: IssuanceRequest) -> Pending | Rejected | None:
        return self.foresight.pop(0) if self.foresight else None

    def _issue(self, request: IssuanceRequest) -> IssuedCertificate:
        leaf = self.ca.leaf(request.csr.spki, request.identifiers, request.common_name)
        self._now += 1_000_000
        certificate = IssuedCertificate(
            issuer="issuing",
            serial=f"{leaf.serial_number:x}",
            der=leaf.public_bytes(serialization.Encoding.DER),
            profile=request.profile,
            not_before=request.not_before or START,
            not_after=request.not_after or Micros(START + 47 * _DAY),
            issued_at=Micros(self._now),
        )
        names = tuple(identifier.tag for identifier in request.identifiers)
        self.records[certificate.serial] = CertificateRecord(
            certificate, str(request.principal), names, None, None, request.channel.value, request.endpoint
        )
        return certificate

    async def revoke(self, *, issuer: str, serial: str, reason: RevocationReason, principal: Principal) -> None:
        record = self.records.get(serial)
        if record is None or record.certificate.issuer != issuer:
            raise Rejection(Reason.NOT_FOUND, "no such certificate")
        if record.revoked_at is not None:
            raise Rejection(Reason.ALREADY_REVOKED, "it is revoked already")
        self.records[serial] = replace(record, revoked_at=Micros(self._now), reason=reason)
        self.revoked_by[serial] = str(principal)

    async def certificate(
        self, serial: str, *, issuer: str | None = None, principal: str | None = None
    ) -> CertificateRecord | None:
        record = self.records.get(serial)
        if record is None or issuer not in {None, record.certificate.issuer} or principal not in {None, record.principal}:
            return None
        return record

    def claimed_issuers(self, *, name: bytes, key_identifier: bytes | None) -> frozenset[str]:
        ours = name == self.ca.certificate.subject.public_bytes() or key_identifier == self.ca.key_identifier
        return frozenset({"issuing"} if ours else ())

    async def certificates(
        self, *, principal: str | None = None, before: tuple[Micros, str] | None = None, limit: int = 100
    ) -> Sequence[CertificateRecord]:
        newest_first = sorted(self.records.values(), key=_position, reverse=True)
        theirs = [record for record in newest_first if principal in {None, record.principal}]
        return [record for record in theirs if before is None or _position(record) < before][:limit]

    async def renewal(self, *, key_identifier: bytes, serial: str) -> RenewalRecord | None:
        record = self.records.get(serial)
        if record is None or key_identifier != self.ca.key_identifier:
            return None
        one = record.certificate
        pulled, url = self.pulls.get(serial, (None, ""))
        times = (one.not_before, one.not_after, record.revoked_at)
        by = self.revoked_by.get(serial, "")
        return RenewalRecord(one.issuer, one.serial, record.principal, record.names, *times, pulled, url, by)

    def alternates(self, issuer: str) -> int:
        assert issuer == "issuing"
        return len(self.other_cas)

    async def chain(self, *, issuer: str, serial: str, alternate: int = 0) -> str | None:
        record = await self.certificate(serial, issuer=issuer)
        if record is None or not alternate:
            return None if record is None else self.chain_pem(record.certificate)
        return self.chain_pem(record.certificate).removesuffix(self.ca.pem) + self.other_cas[alternate - 1].pem

    def chain_pem(self, certificate: IssuedCertificate) -> str:
        leaf = x509.load_der_x509_certificate(certificate.der)
        return leaf.public_bytes(serialization.Encoding.PEM).decode() + self.ca.pem


def _position(record: CertificateRecord) -> tuple[Micros, str]:
    return record.certificate.issued_at, record.certificate.serial


@dataclass(slots=True)
class KnownCredentials:
    """Secrets in the clear, in two dicts: key -> credential, (endpoint, user, password) -> credential."""

    api_keys: dict[str, Credential] = field(default_factory=dict)
    est_users: dict[tuple[str, str, str], Credential] = field(default_factory=dict)
    est_tokens: dict[tuple[str, str], Credential] = field(default_factory=dict)

    def add_api_key(self, key: str, *, roles: Sequence[str] = ("web_admin",), profile: str = "tls-server") -> None:
        self.api_keys[key] = Credential(key.removeprefix("cw_"), CredentialKind.API_KEY, "", frozenset(roles), profile)

    def add_est_user(self, endpoint: str, user: str, password: str, *, profile: str = "") -> None:
        credential = Credential(f"{endpoint}/{user}", CredentialKind.EST_USER, endpoint, frozenset({"device"}), profile)
        self.est_users[endpoint, user, password] = credential

    async def check_api_key(self, presented: str) -> Credential:
        return _found(self.api_keys.get(presented))

    async def check_est_user(
        self, *, endpoint: str, user: str, password: str, address: str = "", limits: FailureLimits = NO_LIMITS
    ) -> Credential:
        return _found(self.est_users.get((endpoint, user, password)))

    async def check_est_token(
        self, *, endpoint: str, token: str, address: str = "", limits: FailureLimits = NO_LIMITS
    ) -> Credential:
        return _found(self.est_tokens.get((endpoint, token)))


def _found(credential: Credential | None) -> Credential:
    if credential is None:
        raise Rejection(Reason.UNAUTHENTICATED, "not valid here")
    return credential
