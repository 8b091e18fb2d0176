"""SCEP messages in the encodings of particular devices, which differ from DER and from each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.helpers.scep import (
    DATA,
    ENVELOPED_DATA,
    HASHES,
    NULL,
    SIGNED_DATA,
    asn1_content,
    children,
    explicit,
    integer,
    octets,
    oid,
    openssl,
    pem_of,
    retag,
    seq,
    set_of,
)

END = b"\0\0"
_MD5_WITH_RSA = "1.2.840.113549.1.1.4"
_UNSTRUCTURED_NAME = "1.2.840.113549.1.9.2"


# ---------------------------------------------------------------- BER


def indefinite(tag: int, *parts: bytes) -> bytes:
    """Constructed, without a length."""
    return bytes((tag, 0x80)) + b"".join(parts) + END


def chunks(content: bytes, size: int, *, tag: int = 0x24) -> bytes:
    """A constructed OCTET STRING of indefinite length."""
    return indefinite(tag, *(octets(content[start : start + size]) for start in range(0, len(content), size)))


def content_of(element: bytes) -> bytes:
    """Of a primitive element."""
    return element[2:] if element[1] < 0x80 else element[2 + (element[1] & 0x7F) :]


def streamed_message(message: bytes, *, size: int = 1000) -> bytes:
    """A SignedData as Apple's and BouncyCastle's streams write it: what is outside of the signatures has no lengths."""
    version, digests, content, *rest = children(asn1_content(message))
    (octet_string,) = children(children(content)[1])
    inner = indefinite(0x30, oid(DATA), indefinite(0xA0, chunks(content_of(octet_string), size)))
    return indefinite(0x30, oid(SIGNED_DATA), indefinite(0xA0, indefinite(0x30, version, digests, inner, *rest)))


def _with_content(enveloped: bytes, wrap: Callable[[bytes], bytes], ends: Callable[..., bytes]) -> bytes:
    version, recipients, content = children(asn1_content(enveloped))
    kind, algorithm, encrypted = children(content)
    return ends(0x30, version, recipients, ends(0x30, kind, algorithm, wrap(content_of(encrypted))))


def streamed_envelope(enveloped: bytes, *, size: int = 1000) -> bytes:
    """An EnvelopedData of indefinite length in pieces: BouncyCastle (jscep), `openssl cms -stream`."""
    data = _with_content(enveloped, lambda content: chunks(content, size, tag=0xA0), indefinite)
    return indefinite(0x30, oid(ENVELOPED_DATA), indefinite(0xA0, data))


def go_envelope(enveloped: bytes) -> bytes:
    """With definite lengths, and the encrypted content in a constructed [0]: Go's pkcs7 before October 2023."""
    data = _with_content(enveloped, lambda content: retag(0xA0, seq(octets(content))), lambda _, *parts: seq(*parts))
    return seq(oid(ENVELOPED_DATA), explicit(data))


def oaep_envelope(plain: bytes, recipient: x509.Certificate, folder: Path, *, digest: str) -> bytes:
    """By openssl."""
    file = folder / "recipient.pem"
    file.write_bytes(pem_of(recipient))
    keyopts = ("-keyopt", "rsa_padding_mode:oaep", "-keyopt", f"rsa_oaep_md:{digest}")
    return openssl("cms", "-encrypt", "-binary", "-outform", "der", "-aes128", "-recip", file, *keyopts, stdin=plain)


# ---------------------------------------------------------------- certificates that libraries do not make


def old_router_certificate(key: rsa.RSAPrivateKey, *, serial: int = 1) -> x509.Certificate:
    """Self-signed: X.509 version 1, MD5, and a name of nothing but an unstructuredName (Cisco 2800)."""
    host = bytes((0x16, 15)) + b"r1.example.test"  # an IA5String
    name = seq(set_of(seq(oid(_UNSTRUCTURED_NAME), host)))
    algorithm = seq(oid(_MD5_WITH_RSA), NULL)
    times = seq(*(bytes((0x17, 13)) + text for text in (b"260101000000Z", b"350101000000Z")))
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    tbs = seq(integer(serial), algorithm, name, times, name, spki)
    signature = key.sign(tbs, padding.PKCS1v15(), HASHES["md5"])
    return x509.load_der_x509_certificate(seq(tbs, algorithm, retag(0x03, octets(b"\0" + signature))))
