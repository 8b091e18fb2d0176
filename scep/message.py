"""SCEP messages (RFC 8894 §3), pure: bytes to a typed message, a typed answer to what gets signed.

Two steps, each a type of its own, so that none can be left out:
  parse         bytes -> Received: enough to address an answer. What fails here gets no CertRep (CmsError).
  authenticate  Received -> PkiMessage: its signature is right, its algorithms are good enough (Refusal).
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import islice

from pki import der
from pki.cms.envelope import encrypt
from pki.cms.errors import CmsError, CmsProblem
from pki.cms.fields import octet_string, printable_string, utf8_string
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
from pki.cms.signed import Attribute, Signed, parse_signed, sign, verify
from pki.cms.types import CertificateView, Cipher, Digest
from pki.der import IA5_STRING, OCTET_STRING, PRINTABLE_STRING, SEQUENCE, UTF8_STRING
from scep.endpoint import ScepEndpoint
from scep.failinfo import FailInfo, Refusal, from_cms

MAX_TRANSACTION_ID = 255  # characters; 77 is the longest seen
MAX_NONCE = 64  # octets; RFC 8894 §3.2.1.5 says 16
MAX_FAIL_TEXT = 500  # characters

_TEXT = frozenset({PRINTABLE_STRING, UTF8_STRING, IA5_STRING})


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """What every answer carries back."""

    transaction_id: str
    sender_nonce: bytes
    digest: Digest


@dataclass(frozen=True, slots=True)
class Received:
    """A message whose sender can be answered. Nothing in it is verified."""

    signed: Signed = field(repr=False)
    transaction_id: str
    sender_nonce: bytes


@dataclass(frozen=True, slots=True)
class PkiMessage:
    """A message that its signer has signed, with algorithms that the endpoint takes."""

    type: MessageType
    transaction_id: str
    sender_nonce: bytes
    signer: CertificateView
    digest: Digest
    content: bytes = field(repr=False)  # pkcsPKIEnvelope, not yet parsed


@dataclass(frozen=True, slots=True)
class CertRep:
    """An answer before it is signed."""

    status: PkiStatus
    content: bytes = field(repr=False)
    attributes: tuple[Attribute, ...]
    digest: Digest


def parse(data: bytes) -> Received:
    """BER or DER to a message that can be answered.

    Raises CmsError: it is no CMS message with one signer, or transactionID or senderNonce (both MUST: §3.2.1.1, §3.2.1.5) are
    not there exactly once, with characters or lengths that we can send back.
    """
    signed = parse_signed(data)
    transaction_id = _text(signed, TRANSACTION_ID)
    if transaction_id is None or not 0 < len(transaction_id) <= MAX_TRANSACTION_ID:
        raise CmsError(
            CmsProblem.ATTRIBUTE, f"transactionID must be there, with 1 to {MAX_TRANSACTION_ID} printable characters"
        )
    nonce = signed.attributes.get(SENDER_NONCE)
    if nonce is None or nonce.tag != OCTET_STRING or not 0 < len(nonce.content) <= MAX_NONCE:
        raise CmsError(CmsProblem.ATTRIBUTE, "senderNonce must be there, an OCTET STRING of 16 octets")
    return Received(signed, transaction_id, nonce.content)


def _text(signed: Signed, attribute: bytes) -> str | None:
    """None where the attribute is missing, not a string, or has other characters than printable ASCII."""
    value = signed.attributes.get(attribute)
    if value is None or value.tag not in _TEXT:
        return None
    text = value.content.decode("latin-1")
    return text if text.isascii() and text.isprintable() else None


def type_of(received: Received) -> MessageType | None:
    """What it says that it is; None for what RFC 8894 does not know."""
    try:
        return MessageType(_text(received.signed, MESSAGE_TYPE))
    except ValueError:
        return None


def reply_to(received: Received, endpoint: ScepEndpoint) -> ReplyTo:
    """The digest mirrors the request's, where the endpoint takes that; else it is SHA-256."""
    try:
        digest = received.signed.digest
    except CmsError:
        digest = Digest.SHA256
    if not endpoint.takes_digest(digest):
        digest = Digest.SHA256
    return ReplyTo(received.transaction_id, received.sender_nonce, digest)


def authenticate(received: Received, endpoint: ScepEndpoint) -> PkiMessage:
    """Check signature and algorithms, then the type. Raises Refusal."""
    signed = received.signed
    try:
        if not endpoint.takes_digest(signed.digest):
            raise Refusal(FailInfo.BAD_ALG, f"the message uses {signed.digest.value}, which is not accepted here; use SHA-256")
        verify(signed)
    except CmsError as error:
        raise from_cms(error) from error
    kind = type_of(received)
    if kind is None:
        raise Refusal(FailInfo.BAD_REQUEST, "messageType is missing or not one of RFC 8894")
    return PkiMessage(
        type=kind,
        transaction_id=received.transaction_id,
        sender_nonce=received.sender_nonce,
        signer=signed.signer,
        digest=signed.digest,
        content=signed.content,
    )


def has_key(plaintext: bytes, signer: CertificateView) -> bool:
    """Whether what was decrypted is a certification request for the signer's own key. False for whatever else it is."""
    try:
        info, _ = der.read(der.whole(plaintext, SEQUENCE).content)
        _version, _subject, key = islice(der.children(der.expect(info, SEQUENCE).content), 3)
        spki = der.expect(key, SEQUENCE).raw
    except ValueError:  # DerError, or fewer than three parts
        spki = b""
    return hmac.compare_digest(spki, signer.spki)


def success(
    to: ReplyTo,
    content: bytes,
    recipient: CertificateView,
    cipher: Cipher,
    *,
    nonce: bytes,
    random_bytes: Callable[[int], bytes],
) -> CertRep:
    """`content` is a certs-only message: the issued certificate alone, for clients pair the first of several with their key; or a CRL.
    It is encrypted to the request's signer and nobody else. Raises CmsError(KEY).
    """
    encrypted = encrypt(content, recipient, cipher=cipher, random_bytes=random_bytes)
    return _cert_rep(to, PkiStatus.SUCCESS, nonce=nonce, content=encrypted)


def failure(to: ReplyTo, refusal: Refusal, *, nonce: bytes) -> CertRep:
    text = refusal.text[:MAX_FAIL_TEXT]
    extra = (
        Attribute(FAIL_INFO, printable_string(refusal.fail_info.value)),
        Attribute(FAIL_INFO_TEXT, utf8_string(text)),
    )
    return _cert_rep(to, PkiStatus.FAILURE, nonce=nonce, extra=extra)


def pending(to: ReplyTo, *, nonce: bytes) -> CertRep:
    return _cert_rep(to, PkiStatus.PENDING, nonce=nonce)


def _cert_rep(
    to: ReplyTo, status: PkiStatus, *, nonce: bytes, content: bytes = b"", extra: tuple[Attribute, ...] = ()
) -> CertRep:
    """Without a certificate the content is empty but there: some clients crash where eContent is absent."""
    attributes = (
        Attribute(TRANSACTION_ID, printable_string(to.transaction_id)),
        Attribute(MESSAGE_TYPE, printable_string(MessageType.CERT_REP.value)),
        Attribute(PKI_STATUS, printable_string(status.value)),
        Attribute(SENDER_NONCE, octet_string(nonce)),
        Attribute(RECIPIENT_NONCE, octet_string(to.sender_nonce)),
        *extra,
    )
    return CertRep(status, content, attributes, to.digest)


async def sign_cert_rep(
    reply: CertRep, ra: CertificateView, *, signature: Callable[[bytes, Digest], Awaitable[bytes]]
) -> bytes:
    """DER, with the RA's certificate as the only one in the bag."""
    return await sign(reply.content, reply.attributes, certificate=ra, digest=reply.digest, signature=signature)
