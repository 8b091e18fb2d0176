"""Requests for keys that the server makes, and what comes back (RFC 7030 §4.4); read with the library's and other people's code."""

from __future__ import annotations

import base64
import email
import email.message
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    pkcs7,
)
from cryptography.x509.oid import NameOID
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc5652, rfc5958

from pki import der
from pki.certificate import assemble, signature_algorithm
from pki.cms.fields import integer, octet_string, oid, sequence, set_of, tlv
from tests.helpers.authorities import usage

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

DECRYPT_KEY = "1.2.840.113549.1.9.16.2.37"
ASYMMETRIC_DECRYPT_KEY = "1.2.840.113549.1.9.16.2.54"
SMIME_CAPABILITIES = "1.2.840.113549.1.9.15"
KEY_PACKAGE = "2.16.840.1.101.2.1.2.78.5"

AES128_WRAP, AES256_WRAP = "2.16.840.1.101.3.4.1.5", "2.16.840.1.101.3.4.1.45"
AES128_CBC, AES256_CBC, AES256_GCM = "2.16.840.1.101.3.4.1.2", "2.16.840.1.101.3.4.1.42", "2.16.840.1.101.3.4.1.46"
DES_EDE3_CBC = "1.2.840.113549.3.7"
RSA_ENCRYPTION, RSAES_OAEP = "1.2.840.113549.1.1.1", "1.2.840.113549.1.1.7"
ECDH_SHA256, ECDH_SHA1 = "1.3.132.1.11.1", "1.3.133.16.840.63.0.2"


def attribute(kind: str, *values: bytes) -> bytes:
    return sequence(oid(kind), set_of(values))


def capabilities(*offers: str | bytes) -> bytes:
    """SMIMECapabilities; an offer is an object identifier without parameters, or the whole SMIMECapability."""
    return attribute(SMIME_CAPABILITIES, sequence(*(sequence(oid(one)) if isinstance(one, str) else one for one in offers)))


def to_shared_key(key_id: bytes, *offers: str | bytes) -> tuple[bytes, bytes]:
    return attribute(DECRYPT_KEY, octet_string(key_id)), capabilities(*offers)


def to_held_key(key_identifier: bytes, *offers: str | bytes) -> tuple[bytes, bytes]:
    return attribute(ASYMMETRIC_DECRYPT_KEY, octet_string(key_identifier)), capabilities(*offers)


def keygen_csr(
    *names: str,
    common_name: str | None = "router-7",
    like: PrivateKey | None = None,
    attributes: Iterable[bytes] = (),
    signature: bytes | None = None,
) -> bytes:
    """A request (DER) with the key that tells the kind; signed by it unless `signature` stands in the place."""
    key = like or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    more = list(attributes)
    if names:
        san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names]).public_bytes()
        more.append(attribute("1.2.840.113549.1.9.14", sequence(sequence(oid("2.5.29.17"), octet_string(san)))))
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    info = sequence(integer(0), subject.public_bytes(), spki, tlv(0xA0, *sorted(more)))
    return assemble(info, signature_algorithm(key.public_key()), signature if signature is not None else _signed(key, info))


def _signed(key: PrivateKey, info: bytes) -> bytes:
    algorithm = signature_algorithm(key.public_key())
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(info)
    assert algorithm.hash is not None
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(info, padding.PKCS1v15(), algorithm.hash)
    return key.sign(info, ec.ECDSA(algorithm.hash))


@dataclass(frozen=True, slots=True)
class Delivered:
    """What a 200 held: the key part as it came, and the certificate."""

    key_type: str
    key_part: bytes = field(repr=False)  # DER
    certificate: x509.Certificate

    @property
    def key(self) -> PrivateKey:
        """Of a clear one."""
        assert self.key_type == "application/pkcs8"
        return loaded(self.key_part)


def loaded(pkcs8: bytes) -> PrivateKey:
    key = load_der_private_key(pkcs8, None)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey)
    return key


def delivered(content_type: str, body: bytes) -> Delivered:
    """By the standard library's MIME reader, and strictly: two parts, the key first, nothing around them."""
    message = email.message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    assert message.get_content_type() == "multipart/mixed"
    assert not message.defects
    assert not message.preamble
    assert not message.epilogue
    assert b"\n" not in body.replace(b"\r\n", b"")  # RFC 2046 §5.1.1: CRLF is the line break
    parts = message.get_payload()
    assert isinstance(parts, list)
    key, certificates = parts
    assert isinstance(key, email.message.Message)
    assert isinstance(certificates, email.message.Message)
    for part in (key, certificates):
        assert part["Content-Transfer-Encoding"] == "base64"
        assert not part.defects
    assert certificates["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
    [certificate] = pkcs7.load_der_pkcs7_certificates(_decoded(certificates))
    return Delivered(str(key["Content-Type"]), _decoded(key), certificate)


def _decoded(part: email.message.Message) -> bytes:
    text = part.get_payload()
    assert isinstance(text, str)
    return base64.b64decode("".join(text.split()), validate=True)


def spki_of(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def spki_in(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def read_package(signed_data: bytes) -> tuple[bytes, str]:
    """The one key (OneAsymmetricKey) in a SignedData, and the type of its content. RFC 5652, RFC 5958."""
    value, rest = decoder.decode(signed_data, asn1Spec=rfc5652.SignedData())
    assert (rest, int(value["version"]), len(value["signerInfos"])) == (b"", 3, 1)
    content = value["encapContentInfo"]
    package, rest = decoder.decode(bytes(content["eContent"]), asn1Spec=rfc5958.AsymmetricKeyPackage())
    assert (rest, len(package)) == (b"", 1)
    return encoder.encode(package[0]), str(content["eContentType"])


def content_info(signed_data: bytes) -> bytes:
    """What `openssl cms -verify` takes."""
    return sequence(oid("1.2.840.113549.1.7.2"), tlv(0xA0, der.whole(signed_data, der.SEQUENCE).raw))


def holder_certificate(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, *, usages: tuple[str, ...] | None = None
) -> x509.Certificate:
    """Self-signed, with a subject key identifier, and with key usage only where some are named."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "holder")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if usages is not None:
        extension, critical = usage(**dict.fromkeys(usages, True))
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, hashes.SHA256())


def identifier_of(certificate: x509.Certificate) -> bytes:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def pem_key(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
