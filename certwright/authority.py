"""The certificates that a CA needs before it can issue any: root, issuing CAs, registration authority, its own server.

Made once by `certwright init`, with the keys in hand; `serve` never comes here. What requesters get is made by the pipeline.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from pki.identifiers import DnsName, Identifier, IpAddress
from signer.software import KeyKind, PrivateKey, encrypt_key, generate_key

ROOT_LIFE = timedelta(days=3650)
ISSUER_LIFE = timedelta(days=1826)
# Long, because nothing renews it by itself yet; `certwright check` and a metric warn, `certwright ca renew-server` renews.
SERVER_LIFE = timedelta(days=397)
BACKDATE = timedelta(hours=1)  # devices whose clocks are behind meet these first
_CMC_RA = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.28")


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA's certificate with its key, in memory for the length of `init`."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)

    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def key_pem(key: PrivateKey, passphrase: bytes | None) -> bytes:
    """PKCS#8. Without a passphrase for the server's TLS key alone, which has to be there when nobody is."""
    if passphrase is None:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return encrypt_key(key, passphrase)


def make_root(common_name: str, *, now: datetime) -> Authority:
    """RSA, for a chain is verified up to here: devices without elliptic curves could do nothing with another one.

    scepclient even encrypts to every certificate that it is shown, and does not survive a key that is not RSA.
    """
    key = generate_key(KeyKind.RSA_3072)
    name = _name(common_name)
    builder = _builder(name, name, key, now=now, not_after=now + ROOT_LIFE)
    builder = _with_ca_extensions(builder, key, path_length=None)
    return Authority(builder.sign(key, hashes.SHA256()), key)


def make_issuer(common_name: str, key: PrivateKey, *, root: Authority, now: datetime) -> Authority:
    """A CA below the root that issues to requesters only (pathLenConstraint 0)."""
    not_after = min(now + ISSUER_LIFE, root.certificate.not_valid_after_utc)
    builder = _builder(_name(common_name), root.certificate.subject, key, now=now, not_after=not_after)
    builder = _with_ca_extensions(builder, key, path_length=0)
    builder = builder.add_extension(_authority_key_identifier(root), critical=False)
    return Authority(builder.sign(root.key, hashes.SHA256()), key)


def make_registration_authority(common_name: str, key: PrivateKey, *, issuer: Authority, now: datetime) -> x509.Certificate:
    """What SCEP clients encrypt to and whose signature they check: no CA, so that none of them picks the CA's key for it."""
    usage = _key_usage(digital_signature=True, key_encipherment=True)
    return _registration_authority(common_name, key, usage, issuer=issuer, now=now).sign(issuer.key, hashes.SHA256())


def make_cmc_authority(common_name: str, key: PrivateKey, *, issuer: Authority, now: datetime) -> x509.Certificate:
    """Whose signature CMC clients check: id-kp-cmcRA says that it answers for its CA (RFC 6402 §2.10)."""
    builder = _registration_authority(common_name, key, _key_usage(digital_signature=True), issuer=issuer, now=now)
    return builder.add_extension(x509.ExtendedKeyUsage([_CMC_RA]), critical=False).sign(issuer.key, hashes.SHA256())


def _registration_authority(
    common_name: str, key: PrivateKey, usage: x509.KeyUsage, *, issuer: Authority, now: datetime
) -> x509.CertificateBuilder:
    not_after = issuer.certificate.not_valid_after_utc
    return (
        _builder(_name(common_name), issuer.certificate.subject, key, now=now, not_after=not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority_key_identifier(issuer), critical=False)
    )


def make_server(
    key: PrivateKey, *, names: Sequence[Identifier], issuer: Authority, issuer_name: str, http_url: str, now: datetime
) -> x509.Certificate:
    """The certificate of our own listeners. The subject is empty, so the SAN is critical (RFC 5280 §4.2.1.6)."""
    not_after = min(now + SERVER_LIFE, issuer.certificate.not_valid_after_utc)
    builder = _builder(x509.Name([]), issuer.certificate.subject, key, now=now, not_after=not_after)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority_key_identifier(issuer), critical=False)
        .add_extension(_authority_information(f"{http_url}/aia/{issuer_name}.cer"), critical=False)
        .add_extension(_distribution_point(f"{http_url}/crl/{issuer_name}.crl"), critical=False)
    )
    return builder.sign(issuer.key, hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Certwright"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, *, now: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(not_after)
    )


def _with_ca_extensions(
    builder: x509.CertificateBuilder, key: PrivateKey, *, path_length: int | None
) -> x509.CertificateBuilder:
    # digitalSignature, for the CA key signs OCSP responses; never keyEncipherment: SCEP clients would encrypt to it
    usage = _key_usage(digital_signature=True, key_cert_sign=True, crl_sign=True)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(
    *, digital_signature: bool, key_encipherment: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(issuer: Authority) -> x509.AuthorityKeyIdentifier:
    """The issuer's own identifier, copied, not computed again."""
    subject_key_identifier = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key_identifier)


def _authority_information(ca_issuers: str) -> x509.AuthorityInformationAccess:
    return x509.AuthorityInformationAccess(
        [x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(ca_issuers))]
    )


def _distribution_point(url: str) -> x509.CRLDistributionPoints:
    return x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier(url)], relative_name=None, reasons=None, crl_issuer=None)]
    )


def _general_names(names: Iterable[Identifier]) -> list[x509.GeneralName]:
    general_names: list[x509.GeneralName] = []
    for name in names:
        match name:
            case DnsName():
                general_names.append(x509.DNSName(str(name)))
            case IpAddress(address=ipaddress.IPv4Address() | ipaddress.IPv6Address() as address):
                general_names.append(x509.IPAddress(address))
    return general_names
