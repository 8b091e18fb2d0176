"""SCEP messages and their signers taken apart, and put together as no client does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cryptography import x509

from tests.helpers import scep
from tests.helpers.scep import children, enveloped, explicit, integer, octets, oid, retag, seq, set_of

RSA = "1.2.840.113549.1.1.1"


def signed_parts(message: bytes) -> list[bytes]:
    """version, digestAlgorithms, encapContentInfo, certificates, signerInfos."""
    return children(scep.asn1_content(message))


def signed_of(parts: Sequence[bytes], *, kind: str = scep.SIGNED_DATA) -> bytes:
    return seq(oid(kind), explicit(seq(*parts)))


def with_signer(message: bytes, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """The message with another SignerInfo; its fields are version, sid, digest, [0] attributes, algorithm, signature."""
    *before, infos = signed_parts(message)
    [info] = children(infos)
    return signed_of([*before, set_of(seq(*change(children(info))))])


def enveloped_of(content: bytes, *, version: bytes | None = None, infos: bytes | None = None, **more: Sequence[bytes]) -> bytes:
    """An EnvelopedData with other parts: `before` the RecipientInfos, `after` the encrypted content."""
    own, recipients, encrypted = children(scep.asn1_content(content))
    parts = [version or own, *more.get("before", ()), infos or recipients, encrypted, *more.get("after", ())]
    return seq(oid(scep.ENVELOPED_DATA), explicit(seq(*parts)))


def enveloped_info(recipient: x509.Certificate) -> bytes:
    [info] = children(children(scep.asn1_content(enveloped(b"x", recipient)))[1])
    return info


def spki(algorithm: bytes, key: bytes) -> bytes:
    return seq(algorithm, b"\x03" + octets(b"\0" + key)[1:])


def rsa_spki(modulus: int, exponent: int) -> bytes:
    return spki(seq(oid(RSA), scep.NULL), seq(integer(modulus), integer(exponent)))


def certificate_of(key: bytes, *, issuer: bytes | None = None, serial: int = 7) -> bytes:
    """A certificate of any key; its signature is none, and nobody looks at that."""
    name, algorithm = scep.name("device").public_bytes(), seq(oid("1.2.840.113549.1.1.11"), scep.NULL)
    validity = seq(retag(0x17, octets(b"260101000000Z")), retag(0x17, octets(b"360101000000Z")))
    tbs = seq(explicit(integer(2)), integer(serial), algorithm, issuer or name, validity, name, key)
    return seq(tbs, algorithm, b"\x03" + octets(bytes(257))[1:])


def nested(levels: int) -> bytes:
    inside = b""
    for _ in range(levels):
        inside = scep.seq(inside) if len(inside) < 60_000 else b"\x30\x80" + inside + b"\0\0"
    return inside
