"""What a verified SCEP message leads to: the one use case of this release is PKCSReq.

Whoever repeats a request (same endpoint, transaction, key and CSR) gets the same certificate, also when the two arrive at once:
the pipeline's idempotency key sees to it, so that SCEP has no table of its own. Polling (CertPoll) will need one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Protocol, assert_never

from issuance.request import Channel, IssuanceRequest, Issued, Outcome, Pending, Rejected
from pki.cms.envelope import decrypt, parse_enveloped
from pki.cms.errors import CmsError
from pki.cms.types import CertificateView, Cipher, Digest
from pki.csr import Csr, parse_csr
from pki.reasons import Rejection
from scep import message
from scep.challenge import Authorization, Challenges, authorize
from scep.endpoint import LEGACY, ScepEndpoint
from scep.failinfo import FailInfo, Refusal, from_cms, from_rejection
from scep.message import CertRep, MessageType, PkiMessage, Received, ReplyTo
from signer.api import Hash, Signer

_LOG = logging.getLogger(__name__)


class Enrolment(Protocol):
    """What SCEP needs of `issuance.service.Issuance`."""

    async def submit(self, request: IssuanceRequest) -> Outcome: ...


class RegistrationAuthority:
    """One endpoint's: it answers whatever has a readable address, in its own name, encrypted to nobody but the signer."""

    def __init__(
        self,
        *,
        endpoint: ScepEndpoint,
        certificate: CertificateView,
        issuance: Enrolment,
        signer: Signer,
        challenges: Challenges,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._endpoint = endpoint
        self._certificate = certificate
        self._issuance = issuance
        self._signer = signer
        self._challenges = challenges
        self._random_bytes = random_bytes

    async def answer(self, received: Received, *, source_address: str) -> bytes:
        """A signed CertRep, DER. Raises Unavailable."""
        to = message.reply_to(received, self._endpoint)
        try:
            reply = await self._perform(message.authenticate(received, self._endpoint), to, source_address)
        except Refusal as refusal:
            reply = self._refused(to, refusal, source_address)
        except Rejection as rejection:
            reply = self._refused(to, from_rejection(rejection), source_address)
        return await message.sign_cert_rep(reply, self._certificate, signature=self._sign)

    async def _perform(self, request: PkiMessage, to: ReplyTo, source_address: str) -> CertRep:
        match request.type:
            case MessageType.PKCS_REQ:
                return await self._enrol(request, to, source_address)
            case MessageType.RENEWAL_REQ | MessageType.CERT_POLL | MessageType.GET_CERT | MessageType.GET_CRL:
                # They come later, each with its own check of who asks. Until then none of them does anything.
                raise Refusal(FailInfo.BAD_REQUEST, f"{request.type.name} is not served here; send a PKCSReq")
            case MessageType.CERT_REP:
                raise Refusal(FailInfo.BAD_REQUEST, "CertRep is an answer, not a request")
            case _:
                assert_never(request.type)

    async def _enrol(self, request: PkiMessage, to: ReplyTo, source_address: str) -> CertRep:
        """RFC 8894 §4.2. Every step can refuse; authorisation is a value that the request cannot be built without."""
        der, cipher = await self._open(request)
        csr = parse_csr(der, legacy_digests=self._endpoint.legacy_digests)
        authorization = await authorize(csr, self._endpoint, challenges=self._challenges, source_address=source_address)
        self._note_legacy(request, cipher, csr)
        outcome = await self._issuance.submit(self._issuance_request(request, csr, authorization))
        match outcome:
            case Issued(certificate):
                return message.success(
                    to, certificate.der, request.signer, cipher, nonce=self._nonce(), random_bytes=self._random_bytes
                )
            case Pending():
                return message.pending(to, nonce=self._nonce())
            case Rejected(rejection):
                raise rejection
            case _:
                assert_never(outcome)

    async def _open(self, request: PkiMessage) -> tuple[bytes, Cipher]:
        """The certification request inside, and the cipher to answer with. Raises Refusal."""
        try:
            enveloped = parse_enveloped(request.content)
            if not self._endpoint.takes_cipher(enveloped.cipher):
                cipher = enveloped.cipher.value
                raise Refusal(FailInfo.BAD_ALG, f"the message is encrypted with {cipher}, which is not accepted here; use AES")
            plaintext = await decrypt(enveloped, self._certificate, decrypt_key=self._decrypt_key)
            return message.open_request(plaintext, request.signer), enveloped.cipher
        except CmsError as error:
            raise from_cms(error) from error

    def _issuance_request(self, request: PkiMessage, csr: Csr, authorization: Authorization) -> IssuanceRequest:
        # The CSR's digest covers the key; the transaction id is the client's text, so it goes through a digest too.
        transaction = hashlib.sha256(f"{csr.sha256}/{request.transaction_id}".encode()).hexdigest()
        return IssuanceRequest(
            channel=Channel.SCEP,
            endpoint=self._endpoint.name,
            principal=authorization.principal,
            evidence=(authorization.evidence,),
            profile=authorization.profile,
            csr=csr,
            identifiers=csr.identifiers,
            common_name=csr.common_name,
            idempotency_key=f"scep/{self._endpoint.name}/{transaction}",
        )

    def _note_legacy(self, request: PkiMessage, cipher: Cipher, csr: Csr) -> None:
        """A device that still needs a legacy switch is worth a line: it may also be a downgrade on the way (GetCACaps is bare)."""
        if used := LEGACY & {request.digest.value, cipher.value, csr.signature_digest}:
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
        return self._random_bytes(16)

    async def _sign(self, data: bytes, digest: Digest) -> bytes:
        return await self._signer.ra_sign(self._endpoint.ra_key, data, Hash(digest.value))

    async def _decrypt_key(self, ciphertext: bytes, length: int) -> bytes:
        return await self._signer.ra_decrypt(self._endpoint.ra_key, ciphertext, length)
