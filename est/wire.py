"""What EST puts on the wire: base64 in both directions (RFC 7030 §4, RFC 8951 §3). Pure.

Request bodies are read as clients send them (wrapped or not, armoured, or plain DER); the Content-Transfer-Encoding header of
a request is ignored, as RFC 8951 §3 demands.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from est.endpoint import Base64Wrap
from est.errors import HttpRefusal

MAX_BODY = 256 * 1024  # octets

# "" is a request without the header; curl writes the form type where its user gives none.
_CSR_TYPES = frozenset(
    {
        "",
        "application/pkcs10",
        "application/x-pkcs10",
        "application/octet-stream",
        "application/x-pem-file",
        "application/x-www-form-urlencoded",
        "text/plain",
    }
)


def check_csr_type(content_type: str) -> None:
    """Raises HttpRefusal(415) for what cannot be a certification request."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in _CSR_TYPES:
        raise HttpRefusal(415, "send the certification request as Content-Type: application/pkcs10\n")


def certs_only(certificates: Sequence[bytes]) -> bytes:
    """DER certificates in a CMS certs-only message (RFC 7030 §4.1.3, RFC 5272 §4.1), DER."""
    return pkcs7.serialize_certificates([x509.load_der_x509_certificate(der) for der in certificates], Encoding.DER)


def wraps(setting: Base64Wrap, *, user_agent: str | None) -> bool:
    """Line breaks: libest and `openssl base64 -d` need them; strongSwan before 5.9.11 fails on them and sends no User-Agent."""
    match setting:
        case Base64Wrap.AUTO:
            return user_agent is not None
        case Base64Wrap.WRAPPED:
            return True
        case Base64Wrap.UNWRAPPED:
            return False


def encode(der: bytes, *, wrapped: bool) -> bytes:
    """Base64 for a response body: lines of 76 characters, or one run without any line break."""
    return base64.encodebytes(der) if wrapped else base64.b64encode(der)


def multipart_mixed(parts: Iterable[tuple[str, bytes]], *, boundary: str, wrapped: bool) -> bytes:
    """(Content-Type, DER) each in base64 (RFC 7030 §4.4.2, RFC 2046 §5.1.1). Lines end in CRLF here, whatever a lone body has."""
    written = bytearray()
    for content_type, der in parts:
        written += f"--{boundary}\r\nContent-Type: {content_type}\r\nContent-Transfer-Encoding: base64\r\n\r\n".encode("ascii")
        written += encode(der, wrapped=wrapped).rstrip(b"\n").replace(b"\n", b"\r\n") + b"\r\n"
    return bytes(written) + f"--{boundary}--\r\n".encode("ascii")
