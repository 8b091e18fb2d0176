"""Other people's CAs: manufacturers, agents' and strangers', and the certificates that they make, well or badly."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pki import der

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Extension = tuple[x509.ExtensionType, bool]  # and whether it is critical

START = datetime(2026, 11, 1, tzinfo=UTC)
FOR_EVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280 §4.1.2.5: no well-defined expiration date; IDevIDs have it
CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"
SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
CMC_RA = "1.3.6.1.5.5.7.3.28"


@functools.cache
def ec_key(label: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def usage(**bits: bool) -> Extension:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{bit: bits.get(bit, False) for bit in names}), True


def purposes(*dotted: str, critical: bool = False) -> Extension:
    return x509.ExtendedKeyUsage([x509.ObjectIdentifier(one) for one in dotted]), critical


def constraints(*, ca: bool = True, length: int | None = None, critical: bool = True) -> Extension:
    return x509.BasicConstraints(ca=ca, path_length=length), critical


def names(*dns: str) -> Extension:
    return x509.SubjectAlternativeName([x509.DNSName(one) for one in dns]), False


def hardware_module(serial: bytes = b"\x01\x02\x03") -> Extension:
    """HardwareModuleName (RFC 4108 §5), as IDevIDs have it (IEEE 802.1AR §8.6)."""
    kind = der.encode(der.OBJECT_IDENTIFIER, bytes.fromhex("2b06010401bf0801"))
    value = der.encode(der.SEQUENCE, kind + der.encode(der.OCTET_STRING, serial))
    return x509.SubjectAlternativeName([x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.4"), value)]), False


def certify(
    subject: x509.Name,
    public_key: Any,
    *,
    by: tuple[x509.Name, Key],
    extensions: Sequence[Extension] = (),
    begin: datetime = START,
    end: datetime = START + timedelta(days=365),
    serial: int | None = None,
) -> x509.Certificate:
    issuer, key = by
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, hashes.SHA256())


@dataclass
class Authority:
    """A CA; a root unless it is `by` another."""

    common_name: str
    by: Authority | None = None
    extensions: Sequence[Extension] = field(default_factory=lambda: (constraints(), usage(key_cert_sign=True, crl_sign=True)))
    key: Key | None = None
    begin: datetime = START - timedelta(days=365)
    end: datetime = START + timedelta(days=3650)

    def __post_init__(self) -> None:
        self.key = self.key or ec.generate_private_key(ec.SECP256R1())
        subject = name(self.common_name)
        signer = (subject, self.key) if self.by is None else self.by.signs
        self.certificate = certify(
            subject, self.key.public_key(), by=signer, extensions=self.extensions, begin=self.begin, end=self.end
        )

    @property
    def signs(self) -> tuple[x509.Name, Key]:
        assert self.key is not None
        return name(self.common_name), self.key

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def leaf(self, subject: str = "device-1", *extensions: Extension, key: Any = None, **changes: Any) -> bytes:
        """DER."""
        public_key = (key or ec_key("leaf")).public_key()
        made = certify(name(subject), public_key, by=self.signs, extensions=extensions, **changes)
        return made.public_bytes(Encoding.DER)

    def idevid(self, subject: str = "device-1", **changes: Any) -> bytes:
        """As IEEE 802.1AR §8 has it: for ever, no extended key usage, a hardwareModuleName."""
        return self.leaf(subject, hardware_module(), usage(digital_signature=True), end=FOR_EVER, **changes)


def signed_with(digest: str, certificate: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """The certificate once more, under a signature of RSA with this digest ("md5", "sha1"): libraries make none any more."""
    new, algorithm = {"md5": (b"\x04", hashes.MD5()), "sha1": (b"\x05", hashes.SHA1())}[digest]  # noqa: S303  # that it is weak is the point
    prefix = bytes.fromhex("2a864886f70d0101")  # RSA's, 11 is SHA-256
    tbs, identifier, _ = der.children(der.whole(certificate, der.SEQUENCE).content)
    changed = tbs.raw.replace(prefix + b"\x0b", prefix + new)
    assert changed != tbs.raw
    signature = key.sign(changed, padding.PKCS1v15(), algorithm)
    parts = changed + identifier.raw.replace(prefix + b"\x0b", prefix + new) + der.encode(der.BIT_STRING, b"\0" + signature)
    return der.encode(der.SEQUENCE, parts)
