"""CRMF requests written by pyasn1's module of RFC 4211 and signed by `cryptography`. Every part can be left out or replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1.type import tag, univ
from pyasn1_alt_modules import rfc4211, rfc5280

KEY = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dev1")])
Extensions = Sequence[tuple[x509.ExtensionType, bool]]
NAMES: Extensions = ((x509.SubjectAlternativeName([x509.DNSName("dev1.example.com")]), False),)


def sign(key: PrivateKey, data: bytes) -> tuple[str, bytes]:
    match key:
        case rsa.RSAPrivateKey():
            return "1.2.840.113549.1.1.11", key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePrivateKey():
            return "1.2.840.10045.4.3.2", key.sign(data, ec.ECDSA(hashes.SHA256()))
        case ed25519.Ed25519PrivateKey():
            return "1.3.101.112", key.sign(data)


def template(message: Any, key: PrivateKey | None, subject: x509.Name | None, extensions: Extensions) -> None:
    """Into the CertTemplate of a CertReqMsg."""
    written = message["certReq"]["certTemplate"]
    if subject is not None:
        name = rfc5280.Name().subtype(implicitTag=tag.Tag(tag.tagClassContext, tag.tagFormatConstructed, 5))
        name["rdnSequence"] = decode(subject.public_bytes(), asn1Spec=rfc5280.RDNSequence())[0]
        written["subject"] = name
    if key is not None:
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        tagged = rfc5280.SubjectPublicKeyInfo().subtype(implicitTag=tag.Tag(tag.tagClassContext, tag.tagFormatSimple, 6))
        read = decode(spki, asn1Spec=rfc5280.SubjectPublicKeyInfo())[0]
        tagged["algorithm"], tagged["subjectPublicKey"] = read["algorithm"], read["subjectPublicKey"]
        written["publicKey"] = tagged
    for number, (value, critical) in enumerate(extensions):
        extension = rfc5280.Extension()
        extension["extnID"] = univ.ObjectIdentifier(value.oid.dotted_string)
        extension["critical"] = critical
        extension["extnValue"] = univ.OctetString(value.public_bytes())
        written["extensions"][number] = extension


def certificate_request(
    request_id: int = 7,
    *,
    key: PrivateKey | None = KEY,
    subject: x509.Name | None = SUBJECT,
    extensions: Extensions = NAMES,
    controls: Sequence[tuple[str, bytes]] = (),
) -> Any:
    """A CertReqMsg without a proof; type and DER of the value of each control."""
    message = rfc4211.CertReqMsg()
    message["certReq"]["certReqId"] = request_id
    message["certReq"]["certTemplate"].clear()
    template(message, key, subject, extensions)
    for number, (kind, value) in enumerate(controls):
        control = rfc4211.AttributeTypeAndValue()
        control["type"], control["value"] = univ.ObjectIdentifier(kind), univ.Any(value)
        message["certReq"]["controls"][number] = control
    return message


def signed(message: Any, key: PrivateKey = KEY, *, algorithm: str = "", data: bytes | None = None) -> Any:
    kind, signature = sign(key, encode(message["certReq"]) if data is None else data)
    message["popo"]["signature"]["algorithmIdentifier"]["algorithm"] = univ.ObjectIdentifier(algorithm or kind)
    message["popo"]["signature"]["signature"] = univ.BitString.fromOctetString(signature)
    return message


def crmf(
    request_id: int = 7, *, key: PrivateKey = KEY, controls: Sequence[tuple[str, bytes]] = (), extensions: Extensions = NAMES
) -> bytes:
    """A CertReqMsg that its key has signed."""
    return bytes(encode(signed(certificate_request(request_id, key=key, controls=controls, extensions=extensions), key)))


def by_challenge(message: Any, *, usage: str = "keyEncipherment", method: int = 1) -> bytes:
    message["popo"][usage]["subsequentMessage"] = method
    return bytes(encode(message))
