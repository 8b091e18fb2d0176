"""Full CMC requests over EST (RFC 7030 §4.3): a signed message in, and whatever becomes of it, a signed response out.

Law of this file: whoever can be answered is answered by CMC; only what is no CMS message at all gets plain text, and only HTTP asks
for HTTP's credentials.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from typing import Protocol

from aiohttp import web

from est.authentication import Authenticator
from est.certificates import CertificateChecks
from est.cmc import replies
from est.cmc.asked import Asked, read_asked
from est.cmc.authorization import (
    Authorizer,
    IdentityClaim,
    SharedSecrets,
    Signer,
    check_signer,
    signer_by_certificate,
)
from est.cmc.challenges import Challenges
from est.cmc.codec import encode_response, parse_pki_data
from est.cmc.failinfo import from_cms
from est.cmc.messages import CmcRefusal, FailInfo
from est.cmc.possession import Possessions
from est.cmc.processing import Processor, Report
from est.cmc.proofs import proves_identity
from est.cmc.replies import Echo
from est.cmc.repository import Certificates, Crls, Repository
from est.cmc.requests import read
from est.cmc.values import RevokeRequest
from est.cmc.waiting import Tokens
from est.endpoint import RegistrationKey
from est.enroll import Enroller
from est.errors import HttpRefusal
from est.exchange import Exchange
from pki.clock import Clock
from pki.cms.errors import CmsError, CmsProblem
from pki.cms.signed import SignedMessage, certificates_only, parse_message, sign
from pki.cms.types import PKI_DATA, PKI_RESPONSE, Digest, read_certificate
from pki.sealing import Sealer
from signer.api import Hash

_LOG = logging.getLogger(__name__)
_WEAK = frozenset({Digest.MD5, Digest.SHA1})
_TYPES = frozenset({"", "application/pkcs7-mime", "application/x-pkcs7-mime", "application/cms", "application/octet-stream"})
_ARMOUR = re.compile(rb"-----BEGIN [A-Z0-9 ]+-----([A-Za-z0-9+/=\s]*)-----END ")


class RegistrationSigner(Protocol):
    """What CMC needs of `signer.api.Signer`."""

    async def ra_sign(self, key: str, data: bytes, digest: Hash) -> bytes: ...


class FullCmc:
    def __init__(
        self, *, authorizer: Authorizer, processor: Processor, challenges: Challenges, signer: RegistrationSigner
    ) -> None:
        self._authorizer = authorizer
        self._processor = processor
        self._challenges = challenges
        self._signer = signer

    async def handle(self, exchange: Exchange) -> web.Response:
        """Raises HttpRefusal, Rejection(UNAUTHENTICATED), Unavailable."""
        key = exchange.endpoint.registration_key
        if not exchange.endpoint.full_cmc or key is None:
            raise HttpRefusal(501, "full CMC requests are not served here; enrol at simpleenroll\n")
        _check_type(exchange.content_type)
        body = _unwrap(await exchange.body())
        echo, asked = Echo(), None
        try:
            message = _parse(body)
            data = parse_pki_data(message.content)
            echo = replies.echo_of(data)
            signer = signer_by_certificate(message)
            asked = read_asked(data)
            report = await self._perform(exchange, message, signer, asked, echo)
        except CmcRefusal as refusal:
            report = Report()
            report.refuse(refusal, *refusal.body_parts)
        _log(exchange, report)
        return await self._answer(exchange, key, asked, echo, report)

    async def _perform(
        self, exchange: Exchange, message: SignedMessage, signer: Signer | None, asked: Asked, echo: Echo
    ) -> Report:
        """Raises CmcRefusal for what refuses the whole message, Rejection(UNAUTHENTICATED), Unavailable."""
        nonce = asked.recipient_nonce
        if nonce is not None and not self._challenges.made(nonce.octets, (exchange.endpoint.label, echo.context)):
            raise CmcRefusal(FailInfo.BAD_REQUEST, "recipientNonce is not one that this server gave in this transaction")
        if not message.is_signed and _is_revocation_by_secret(asked):
            return await self._processor.revoke_by_secret(exchange, asked)
        authority = await self._authorizer.authorize(exchange, message, signer, _claim(asked))
        requests = [read(one) for one in asked.requests]
        check_signer(message, signer, requests)
        return await self._processor.perform(exchange, asked, requests, authority, digest=_digest(message))

    async def _answer(
        self, exchange: Exchange, key: RegistrationKey, asked: Asked | None, echo: Echo, report: Report
    ) -> web.Response:
        chain = exchange.endpoint.ca_certificates if report.certificates else ()
        bag = [*report.certificates, *chain]
        if asked is not None and replies.is_simple(asked, report):
            return exchange.certs_only(certificates_only(bag, report.crls))

        async def signature(data: bytes, digest: Digest) -> bytes:
            return await self._signer.ra_sign(key.name, data, Hash(digest.value))

        nonce = self._challenges.nonce((exchange.endpoint.label, echo.context))
        der = await sign(
            encode_response(replies.response(report, echo, nonce=nonce)),
            (),
            certificate=read_certificate(key.certificate),
            digest=Digest.SHA256,
            signature=signature,
            content_type=PKI_RESPONSE,
            others=bag,
            crls=report.crls,
        )
        headers = {
            "Content-Type": "application/pkcs7-mime; smime-type=CMC-response",
            "Content-Transfer-Encoding": "base64",
        }
        if report.retry_after is not None:
            headers["Retry-After"] = str(report.retry_after)
        return web.Response(status=replies.http_status(report), body=exchange.encoded(der), headers=headers)


def full_cmc(
    *,
    authenticator: Authenticator,
    certificates: CertificateChecks,
    enroller: Enroller,
    register: Certificates,
    crls: Crls,
    secrets: SharedSecrets,
    signer: RegistrationSigner,
    sealing_keys: Sequence[bytes],
    clock: Clock,
    random_bytes: Callable[[int], bytes],
) -> FullCmc:
    """All of this room, put together. `sealing_keys` are those of the secrets in the database."""
    challenges = Challenges(sealing_keys, clock=clock, random_bytes=random_bytes)
    return FullCmc(
        authorizer=Authorizer(authenticator=authenticator, certificates=certificates, secrets=secrets),
        processor=Processor(
            enroller=enroller,
            repository=Repository(certificates=register, crls=crls, secrets=secrets, clock=clock),
            possessions=Possessions(challenges, random_bytes=random_bytes),
            tokens=Tokens(Sealer(sealing_keys, random=random_bytes)),
            clock=clock,
        ),
        challenges=challenges,
        signer=signer,
    )


def _check_type(content_type: str) -> None:
    """RFC 7030 §4.3.1, RFC 5273 Table 1."""
    media_type, _, parameters = content_type.partition(";")
    named = re.search(r'smime-type\s*=\s*"?([^";\s]*)', parameters, re.IGNORECASE)
    if media_type.strip().lower() not in _TYPES or (named is not None and named[1].lower() != "cmc-request"):
        raise HttpRefusal(415, "send the request as Content-Type: application/pkcs7-mime; smime-type=CMC-request\n")


def _unwrap(body: bytes) -> bytes:
    """DER from base64, wrapped or not, or armoured; or plain (RFC 8951 §3 ignores what the header says of it)."""
    if body.startswith(b"\x30"):
        return body
    armoured = _ARMOUR.search(body)
    try:
        found = base64.b64decode(b"".join((body if armoured is None else armoured[1]).split()), validate=True)
    except binascii.Error:
        found = b""
    if not found:
        raise HttpRefusal(400, "this is no CMC request: send a CMS SignedData (RFC 5272) in base64\n")
    return found


def _parse(body: bytes) -> SignedMessage:
    """Raises CmcRefusal for what is wrong with a message that can be answered, HttpRefusal for what is none."""
    try:
        message = parse_message(body)
    except CmsError as error:
        refusal = from_cms(error)
        if refusal is None:
            status = 413 if error.problem is CmsProblem.TOO_LARGE else 400
            raise HttpRefusal(status, f"this is no CMC request that can be answered: {error.detail}\n") from error
        raise refusal from error
    if message.content_type != PKI_DATA:
        raise CmcRefusal(FailInfo.BAD_REQUEST, "what is signed is no PKIData (RFC 5272 section 3.2.1)")
    return message


def _claim(asked: Asked) -> IdentityClaim | None:
    """Raises CmcRefusal: BAD_ALG, BAD_IDENTITY."""
    proof = asked.proof
    if proof is None:
        return None
    if {proof.digest, proof.mac} & _WEAK:
        raise CmcRefusal(FailInfo.BAD_ALG, "identityProofV2 has to use SHA-256 or better")
    if asked.identification is None:
        raise CmcRefusal(FailInfo.BAD_IDENTITY, "identityProofV2 needs the control identification: whose secret is it?")
    name = asked.identification.name
    return IdentityClaim(name, lambda secret: proves_identity(proof, secret, name, asked.request_sequence))


def _is_revocation_by_secret(asked: Asked) -> bool:
    """§6.11: "the unsigned message consisting of a SignedData with no signatures"."""
    if asked.requests or not asked.actions or asked.proof is not None:
        return False
    return all(isinstance(one, RevokeRequest) and one.passphrase is not None for _, one in asked.actions)


def _digest(message: SignedMessage) -> bytes:
    """Of all that the signer has signed, in one order: what anybody may change on the way makes no other message of it."""
    info = message.signer_info
    attributes = {} if info is None else info.attributes
    parts = (message.content, *(part for kind in sorted(attributes) for part in (kind, attributes[kind].raw)))
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()


def _log(exchange: Exchange, report: Report) -> None:
    """Many clients show no more than a number."""
    for each in report.statuses:
        if each.fail_info is not None:
            _LOG.info(
                "EST endpoint %s: CMC of %s refused: %s: %s",
                exchange.endpoint.label,
                exchange.source_address,
                each.fail_info.name,
                each.text,
            )
