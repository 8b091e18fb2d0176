"""What a certificate is going to say, before anybody signs it. Pure values, and the bytes that they come to."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from pki.certificate import PublicKey, SignatureAlgorithm, StaticKey, key_identifier, pem, signature_algorithm, static_key
from pki.identifiers import DnsName, Identifier


class KeyUsageBit(enum.Enum):
    """The key-usage bits that a leaf may carry (RFC 5280 §4.2.1.3)."""

    DIGITAL_SIGNATURE = "digital_signature"
    CONTENT_COMMITMENT = "content_commitment"
    KEY_ENCIPHERMENT = "key_encipherment"
    DATA_ENCIPHERMENT = "data_encipherment"
    KEY_AGREEMENT = "key_agreement"


@dataclass(frozen=True, slots=True)
class IssuerUrls:
    """Where relying parties find things; http, not https (RFC 5280 §4.2.1.13)."""

    ca_issuers: str
    ocsp: str
    crl: str


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuing CA as far as others than the signer know it. `name` is also its key's name in the signer."""

    name: str
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]  # above it, root last
    urls: IssuerUrls
    alternates: tuple[tuple[x509.Certificate, ...], ...] = ()  # other ways up: each begins with this CA, certified by another
    algorithm: SignatureAlgorithm = field(init=False)
    key_identifier: bytes = field(init=False)
    subject_der: bytes = field(init=False)
    static_key: StaticKey = field(init=False, repr=False)
    chain_pem: str = field(init=False, repr=False)  # the issuer and what is above it, without the root
    alternate_pems: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        public_key = self.certificate.public_key()
        object.__setattr__(self, "algorithm", signature_algorithm(public_key))
        object.__setattr__(self, "key_identifier", key_identifier(self.certificate))
        object.__setattr__(self, "subject_der", self.certificate.subject.public_bytes())
        object.__setattr__(self, "static_key", static_key(public_key))
        object.__setattr__(self, "chain_pem", _chain_pem((self.certificate, *self.chain)))
        object.__setattr__(self, "alternate_pems", tuple(map(_chain_pem, self.alternates)))

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def _chain_pem(certificates: tuple[x509.Certificate, ...]) -> str:
    """Without the root: whoever trusts it has it."""
    return "".join(pem(one.public_bytes(Encoding.DER)) for one in certificates if one.subject != one.issuer)


@dataclass(frozen=True, slots=True)
class CertificatePlan:
    """A leaf certificate without its serial and signature. Every field is decided; nothing is looked up later."""

    issuer: str
    profile: str
    profile_version: str
    public_key: PublicKey
    subject: tuple[tuple[str, str], ...]  # (short name, value), in RDN order
    identifiers: tuple[Identifier, ...]  # subjectAltName; none means no such extension
    not_before: datetime  # aware UTC, whole seconds
    not_after: datetime  # inclusive (RFC 5280 §4.1.2.5)
    key_usage: frozenset[KeyUsageBit]
    extended_key_usage: tuple[str, ...]  # dotted OIDs
    must_staple: bool


# RDN order is the order of BR 7.1.2.7.2: general to particular.
SUBJECT_ATTRIBUTES = {
    "DC": NameOID.DOMAIN_COMPONENT,
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
}


def _general_name(identifier: Identifier) -> x509.GeneralName:
    if isinstance(identifier, DnsName):
        return x509.DNSName(str(identifier))
    return x509.IPAddress(identifier.address)


def key_usage_extension(bits: frozenset[KeyUsageBit]) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=KeyUsageBit.DIGITAL_SIGNATURE in bits,
        content_commitment=KeyUsageBit.CONTENT_COMMITMENT in bits,
        key_encipherment=KeyUsageBit.KEY_ENCIPHERMENT in bits,
        data_encipherment=KeyUsageBit.DATA_ENCIPHERMENT in bits,
        key_agreement=KeyUsageBit.KEY_AGREEMENT in bits,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def build_tbs(plan: CertificatePlan, issuer: Issuer, serial: int) -> bytes:
    """TBSCertificate, DER. Extensions in a fixed order; what is critical follows RFC 5280 §4.2.1."""
    subject = x509.Name([x509.NameAttribute(SUBJECT_ATTRIBUTES[key], value) for key, value in plan.subject])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject)
        .public_key(plan.public_key)
        .serial_number(serial)
        .not_valid_before(plan.not_before)
        .not_valid_after(plan.not_after)
        .add_extension(key_usage_extension(plan.key_usage), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier(oid) for oid in plan.extended_key_usage]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier(issuer.key_identifier, authority_cert_issuer=None, authority_cert_serial_number=None),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(plan.public_key), critical=False)
        .add_extension(_authority_information(issuer.urls), critical=False)
        .add_extension(_distribution_points(issuer.urls), critical=False)
    )
    if plan.identifiers:
        names = x509.SubjectAlternativeName(map(_general_name, plan.identifiers))
        # RFC 5280 §4.2.1.6: critical exactly when there is no subject.
        builder = builder.add_extension(names, critical=not plan.subject)
    if plan.must_staple:
        builder = builder.add_extension(x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=False)
    return builder.sign(issuer.static_key, issuer.algorithm.hash).tbs_certificate_bytes


def _authority_information(urls: IssuerUrls) -> x509.AuthorityInformationAccess:
    return x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(urls.ocsp)),
            x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(urls.ca_issuers)),
        ]
    )


def _distribution_points(urls: IssuerUrls) -> x509.CRLDistributionPoints:
    return x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier(urls.crl)], relative_name=None, reasons=None, crl_issuer=None)]
    )
