"""What a SCEP message leads to. The dispatch is closed: what is not named here is refused, and nothing of it happens.

Law of this file: nobody learns from an answer what is in a message that somebody else encrypted. A request's own signature, by the
key that signs the message, is what makes its content the sender's; until that is certain, everything wrong with it is one
badMessageCheck with one text. The log says more.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from issuance.request import Issued, Outcome, Pending, Rejected
from pki.cms.envelope import UNREADABLE, Enveloped, decrypt, parse_enveloped
from pki.cms.errors import CmsError, CmsProblem
from pki.cms.scep import MessageType
from pki.cms.signed import certificates_only
from pki.cms.transport import KeyTransport
from pki.cms.types import CertificateView, Cipher, Digest, read_certificate
from pki.csr import Csr, parse_csr
from pki.reasons import Rejection
from scep import message
from scep.authorization import Asked, Observer
from scep.endpoint import LEGACY, ScepEndpoint
from scep.enrolment import Enrolments
from scep.failinfo import FailInfo, Refusal, from_cms, from_rejection
from scep.holders import Holder, Holders
from scep.message import CertRep, PkiMessage, Received, ReplyTo
from scep.retrieval import Finder, Retrieval
from scep.transactions import Place
from signer.api import Hash, Signer, TransportUnavailable

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Desk:
    """What the authorities of all endpoints share."""

    enrolments: Enrolments
    holders: Holders
    retrieval: Retrieval
    signer: Signer
    observer: Observer
    random_bytes: Callable[[int], bytes]


class RegistrationAuthority:
    """One endpoint's: it answers whatever has a readable address, in its own name, encrypted to nobody but the signer."""

    def __init__(self, endpoint: ScepEndpoint, desk: Desk) -> None:
        self._endpoint = endpoint
        self._desk = desk
        self._signing = read_certificate(endpoint.signing.certificate)
        self._decryption = read_certificate(endpoint.decryption.certificate)

    async def answer(self, received: Received, *, source_address: str) -> bytes:
        """A signed CertRep, DER. Raises Unavailable."""
        to = message.reply_to(received, self._endpoint)
        try:
            reply = await self._perform(message.authenticate(received, self._endpoint), to, source_address)
        except Refusal as refusal:
            reply = self._refused(to, refusal, source_address)
        except Rejection as rejection:
            reply = self._refused(to, from_rejection(rejection), source_address)
        kind = message.type_of(received)
        self._desk.observer.answered(
            endpoint=self._endpoint.name,
            message_type="other" if kind is None else kind.name.lower().replace("_", "-"),
            result=reply.status.name.lower(),
        )
        return await message.sign_cert_rep(reply, self._signing, signature=self._sign)

    async def _perform(self, request: PkiMessage, to: ReplyTo, source_address: str) -> CertRep:
        match request.type:
            case MessageType.PKCS_REQ | MessageType.RENEWAL_REQ:
                return await self._enrol(request, to, source_address)
            case MessageType.CERT_POLL:
                return await self._poll(request, to, source_address)
            case MessageType.GET_CERT:
                return await self._get(request, to, self._desk.retrieval.certificate)
            case MessageType.GET_CRL:
                return await self._get(request, to, self._desk.retrieval.crl)
            case MessageType.CERT_REP:
                raise Refusal(FailInfo.BAD_REQUEST, "CertRep is an answer, not a request")
            case _:
                assert_never(request.type)

    # ------------------------------------------------------------------ enrolment

    async def _enrol(self, request: PkiMessage, to: ReplyTo, source_address: str) -> CertRep:
        """RFC 8894 §3.3.1, §4.2, §4.3. Every step can refuse; authorisation is a value that a request cannot be built without."""
        holder = await self._desk.holders.find(request.signer)
        obstacle = self._desk.holders.obstacle(holder, self._endpoint)
        if obstacle is not None and request.type is MessageType.RENEWAL_REQ:
            raise obstacle
        plaintext, cipher = await self._open(request)
        csr, own_key = self._read(plaintext, request, renews=obstacle is None)
        signed_with = "" if holder is None else holder.held.credential_id
        asked = Asked(self._endpoint, self._place(request), csr, source_address, own_key, signed_with)
        self._note_legacy(request.digest.value, cipher.value, csr.signature_digest)
        outcome = await self._outcome(asked, request, holder)
        return self._reply(outcome, to, request.signer, cipher)

    async def _outcome(self, asked: Asked, request: PkiMessage, holder: Holder | None) -> Outcome:
        """Who signs with a certificate of ours renews it. Where that does not go, a PKCSReq may still have a challenge."""
        enrolments = self._desk.enrolments
        if holder is None:
            return await enrolments.enrol(asked)
        try:
            return await enrolments.renew(asked, holder)
        except Rejection:
            if request.type is MessageType.RENEWAL_REQ or not asked.own_key or not asked.challenge:
                raise
        return await enrolments.enrol(asked)

    def _read(self, plaintext: bytes | None, request: PkiMessage, *, renews: bool) -> tuple[Csr, bool]:
        """The request, and whether its key signs the message. Only who `renews` a certificate may ask for another key's.

        §2.3: any other signer has the key of the request; else the signature would prove nothing, and whoever has seen a message
        could have it decrypted piece by piece. Subjects are not compared, as clients give their signers names of their own.
        """
        own_key = message.has_key(plaintext or b"", request.signer)  # looked at in any case, for that takes its time
        if plaintext is None or (not renews and not own_key):
            raise Refusal(FailInfo.BAD_MESSAGE_CHECK, UNREADABLE)
        try:
            return parse_csr(plaintext, legacy_digests=self._endpoint.legacy_digests), own_key
        except Rejection as rejection:
            if own_key:
                raise
            _LOG.info("SCEP endpoint %s: a request for another key: %s", self._endpoint.name, rejection.detail)
            raise Refusal(FailInfo.BAD_MESSAGE_CHECK, UNREADABLE) from rejection

    async def _poll(self, request: PkiMessage, to: ReplyTo, source_address: str) -> CertRep:
        """§3.3.2. What is inside (an IssuerAndSubject) says nothing that the transactionID and the signer's key do not say, and clients
        fill it in differently. So it stays encrypted.
        """
        cipher = self._enveloped(request).cipher
        self._note_legacy(request.digest.value, cipher.value)
        outcome = await self._desk.enrolments.poll(self._place(request), self._endpoint, source_address=source_address)
        return self._reply(outcome, to, request.signer, cipher)

    def _reply(self, outcome: Outcome, to: ReplyTo, signer: CertificateView, cipher: Cipher) -> CertRep:
        match outcome:
            case Issued(certificate):
                return self._success(to, certificates_only([certificate.der]), signer, cipher)
            case Pending():
                return message.pending(to, nonce=self._nonce())
            case Rejected(rejection):
                raise rejection
            case _:
                assert_never(outcome)

    # ------------------------------------------------------------------ reading

    async def _get(self, request: PkiMessage, to: ReplyTo, find: Finder) -> CertRep:
        holder = await self._desk.holders.find(request.signer)
        if holder is None:
            raise Refusal(FailInfo.BAD_REQUEST, "this is for clients that sign with a certificate that was issued here")
        self._desk.holders.check_in_time(holder, self._endpoint)
        plaintext, cipher = await self._open(request)
        self._note_legacy(request.digest.value, cipher.value)
        found = await find(plaintext, holder, self._endpoint)
        return self._success(to, found, request.signer, cipher)

    # ------------------------------------------------------------------ shared

    async def _open(self, request: PkiMessage) -> tuple[bytes | None, Cipher]:
        """What is inside, None where it cannot be read; and the cipher to answer with. Raises Refusal."""
        enveloped = self._enveloped(request)
        try:
            return await decrypt(enveloped, self._decryption, decrypt_key=self._decrypt_key), enveloped.cipher
        except CmsError as error:
            if error.problem is CmsProblem.DECRYPT:
                return None, enveloped.cipher
            raise from_cms(error) from error

    def _enveloped(self, request: PkiMessage) -> Enveloped:
        try:
            enveloped = parse_enveloped(request.content)
        except CmsError as error:
            raise from_cms(error) from error
        if not self._endpoint.takes_cipher(enveloped.cipher):
            text = f"the message is encrypted with {enveloped.cipher.value}, which is not accepted here; use AES"
            raise Refusal(FailInfo.BAD_ALG, text)
        return enveloped

    def _place(self, request: PkiMessage) -> Place:
        signer = hashlib.sha256(request.signer.spki).hexdigest()
        return Place(self._endpoint.name, request.transaction_id, signer)

    def _success(self, to: ReplyTo, content: bytes, signer: CertificateView, cipher: Cipher) -> CertRep:
        random_bytes = self._desk.random_bytes
        return message.success(to, content, signer, cipher, nonce=self._nonce(), random_bytes=random_bytes)

    def _note_legacy(self, *algorithms: str) -> None:
        """A device that still needs a legacy switch is worth a line: it may also be a downgrade on the way (GetCACaps is bare)."""
        used = LEGACY.intersection(algorithms)
        for algorithm in sorted(used):
            self._desk.observer.legacy(endpoint=self._endpoint.name, algorithm=algorithm)
        if used:
            _LOG.warning("SCEP endpoint %s: legacy algorithms %s in use", self._endpoint.name, ", ".join(sorted(used)))

    def _refused(self, to: ReplyTo, refusal: Refusal, source_address: str) -> CertRep:
        """Most clients show the failInfo alone, and the HTTP status is 200: without this line nobody learns why."""
        _LOG.info(
            "SCEP endpoint %s: transaction %s of %s refused: %s: %s",
            self._endpoint.name,
            to.transaction_id,
            source_address,
            refusal.fail_info.name,
            refusal.text,
        )
        return message.failure(to, refusal, nonce=self._nonce())

    def _nonce(self) -> bytes:
        return self._desk.random_bytes(16)

    async def _sign(self, data: bytes, digest: Digest) -> bytes:
        return await self._desk.signer.ra_sign(self._endpoint.signing.key, data, Hash(digest.value))

    async def _decrypt_key(self, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        try:
            return await self._desk.signer.ra_decrypt(self._endpoint.decryption.key, ciphertext, length, transport)
        except TransportUnavailable as unavailable:
            raise CmsError(CmsProblem.ALGORITHM, str(unavailable)) from unavailable
