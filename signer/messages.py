"""What an issuer key signs of CMS messages (RFC 5652 §5.4), where its configuration has it sign any: the signed attributes alone.

Law of this file: signed attributes are a SET OF, and begin with another octet than a TBSCertificate, a TBSCertList and a
ResponseData, which are SEQUENCEs. So whoever fools the rest of the program gets an answer of SCEP signed, or an announcement, and
never a certificate. Pure: bytes in, nothing or `SignerRefused` out.
"""

from __future__ import annotations

from collections.abc import Mapping

from pki import der
from pki.cms.fields import oid
from pki.cms.types import CONTENT_TYPE, DATA, MESSAGE_DIGEST
from signer.api import SignerRefused

# RFC 8894 §3.2.1
_MESSAGE_TYPE = oid("2.16.840.1.113733.1.9.2")
_PKI_STATUS = oid("2.16.840.1.113733.1.9.3")
_FAIL_INFO = oid("2.16.840.1.113733.1.9.4")
_SENDER_NONCE = oid("2.16.840.1.113733.1.9.5")
_RECIPIENT_NONCE = oid("2.16.840.1.113733.1.9.6")
_TRANSACTION_ID = oid("2.16.840.1.113733.1.9.7")
_FAIL_INFO_TEXT = oid("1.3.6.1.5.5.7.24.1")

_DATA = der.whole(DATA, der.OBJECT_IDENTIFIER).content
_CERT_REP = b"3"
_SUCCESS, _FAILURE, _PENDING = b"0", b"2", b"3"

_SIGNED = {CONTENT_TYPE: der.OBJECT_IDENTIFIER, MESSAGE_DIGEST: der.OCTET_STRING}
_EVERY_CERT_REP = _SIGNED | {
    _MESSAGE_TYPE: der.PRINTABLE_STRING,
    _PKI_STATUS: der.PRINTABLE_STRING,
    _TRANSACTION_ID: der.PRINTABLE_STRING,
    _SENDER_NONCE: der.OCTET_STRING,
    _RECIPIENT_NONCE: der.OCTET_STRING,
}
_FAILED_CERT_REP = _EVERY_CERT_REP | {_FAIL_INFO: der.PRINTABLE_STRING, _FAIL_INFO_TEXT: der.UTF8_STRING}


def check_cert_rep(attributes: bytes, *, digest_size: int) -> None:
    """Exactly the attributes of a CertRep, over a content whose digest has this many octets, or SignerRefused."""
    found = _read(attributes)
    status = found.get(_PKI_STATUS, (0, b""))[1]
    _require(found, _FAILED_CERT_REP if status == _FAILURE else _EVERY_CERT_REP, digest_size, "a CertRep")
    if found[_MESSAGE_TYPE][1] != _CERT_REP or status not in {_SUCCESS, _FAILURE, _PENDING}:
        raise SignerRefused("not a CertRep: messageType or pkiStatus is another's")


def check_announcement(attributes: bytes, *, digest_size: int) -> None:
    """The content type, its digest, and nothing else, or SignerRefused: no message of SCEP's that asks or answers is like that."""
    _require(_read(attributes), _SIGNED, digest_size, "an announcement")


def _read(attributes: bytes) -> Mapping[bytes, tuple[int, bytes]]:
    """OBJECT IDENTIFIER element -> tag and content of the one value, of an Attribute each, none of them twice."""
    found: dict[bytes, tuple[int, bytes]] = {}
    try:
        for attribute in der.children(der.whole(attributes, der.SET).content):
            identifier, values = der.take(der.expect(attribute, der.SEQUENCE).content, der.OBJECT_IDENTIFIER, der.SET)
            value, end = der.read(values.content)
            if end != len(values.content) or identifier.raw in found:
                raise SignerRefused("an attribute is there twice, or has several values")
            found[identifier.raw] = value.tag, value.content
    except der.DerError as error:
        raise SignerRefused(f"not a SET OF Attribute: {error}") from None
    return found


def _require(found: Mapping[bytes, tuple[int, bytes]], tags: Mapping[bytes, int], digest_size: int, what: str) -> None:
    if {identifier: tag for identifier, (tag, _) in found.items()} != tags:
        raise SignerRefused(f"not exactly the attributes of {what}, each of its type")
    if found[CONTENT_TYPE][1] != _DATA:
        raise SignerRefused("the content type is not pkcs7-data")
    if len(found[MESSAGE_DIGEST][1]) != digest_size:
        raise SignerRefused("the message digest is not by the digest that is signed with")
