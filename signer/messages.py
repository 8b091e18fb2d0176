"""What an issuer key signs of CMS messages (RFC 5652 §5.4), where its configuration has it sign any: the signed attributes alone.

Law of this file: signed attributes are a SET OF, and begin with another octet than a TBSCertificate, a TBSCertList and a
ResponseData, which are SEQUENCEs. So whoever fools the rest of the program gets an answer of SCEP signed, or an announcement, and
never a certificate, and an announcement of the configured CA alone. Pure: bytes in, nothing or `SignerRefused` out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pki import der
from pki.cms.scep import (
    FAIL_INFO,
    FAIL_INFO_TEXT,
    MESSAGE_TYPE,
    PKI_STATUS,
    RECIPIENT_NONCE,
    SENDER_NONCE,
    TRANSACTION_ID,
    MessageType,
    PkiStatus,
)
from pki.cms.types import CONTENT_TYPE, DATA, MESSAGE_DIGEST
from signer.api import SignerRefused

_DATA = der.whole(DATA, der.OBJECT_IDENTIFIER).content
_CERT_REP = MessageType.CERT_REP.value.encode("ascii")
_FAILURE = PkiStatus.FAILURE.value.encode("ascii")
_STATUSES = {status.value.encode("ascii") for status in PkiStatus}

_SIGNED = {CONTENT_TYPE: der.OBJECT_IDENTIFIER, MESSAGE_DIGEST: der.OCTET_STRING}
_EVERY_CERT_REP = _SIGNED | {
    MESSAGE_TYPE: der.PRINTABLE_STRING,
    PKI_STATUS: der.PRINTABLE_STRING,
    TRANSACTION_ID: der.PRINTABLE_STRING,
    SENDER_NONCE: der.OCTET_STRING,
    RECIPIENT_NONCE: der.OCTET_STRING,
}
_FAILED_CERT_REP = _EVERY_CERT_REP | {FAIL_INFO: der.PRINTABLE_STRING, FAIL_INFO_TEXT: der.UTF8_STRING}


def check_cert_rep(attributes: bytes, *, digest_size: int) -> None:
    """Exactly the attributes of a CertRep, over a content whose digest has this many octets, or SignerRefused."""
    found = _read(attributes)
    status = found.get(PKI_STATUS, (0, b""))[1]
    _require(found, _FAILED_CERT_REP if status == _FAILURE else _EVERY_CERT_REP, "a CertRep")
    if len(found[MESSAGE_DIGEST][1]) != digest_size:
        raise SignerRefused("the message digest is not by the digest that is signed with")
    if found[MESSAGE_TYPE][1] != _CERT_REP or status not in _STATUSES:
        raise SignerRefused("not a CertRep: messageType or pkiStatus is another's")


def check_announcement(attributes: bytes, *, digests: Collection[bytes]) -> None:
    """The content type, one of these digests, and nothing else, or SignerRefused: no message of SCEP's that asks or answers is like
    that.
    """
    found = _read(attributes)
    _require(found, _SIGNED, "an announcement")
    if found[MESSAGE_DIGEST][1] not in digests:
        raise SignerRefused("the message digest is of no announcement in the key's configuration")


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


def _require(found: Mapping[bytes, tuple[int, bytes]], tags: Mapping[bytes, int], what: str) -> None:
    if {identifier: tag for identifier, (tag, _) in found.items()} != tags:
        raise SignerRefused(f"not exactly the attributes of {what}, each of its type")
    if found[CONTENT_TYPE][1] != _DATA:
        raise SignerRefused("the content type is not pkcs7-data")
