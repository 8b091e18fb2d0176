"""Who asks by CMC, and what they may do: a message carries its own authentication, whatever HTTP says (RFC 7030 §4.3.1).

Law of this file: there is one way for each message, chosen by what it is signed with, and none falls back to another:
  a certificate                the holder of one of this label's (renews itself), a manufacturer's device, an agent (RA)
  the key of its own request   identityProofV2 if it is there, else HTTP or TLS as in simpleenroll
  nothing (noSignature)        identityProofV2
Only `authorize` makes an Authority, and nothing is done without one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from est.authentication import Authenticator
from est.caller import Caller
from est.certificates import CertificateChecks
from est.cmc.failinfo import from_cms, from_rejection
from est.cmc.messages import CmcRefusal, FailInfo
from est.cmc.requests import Read
from est.connection import Connection
from est.endpoint import Authentication
from est.exchange import Exchange
from issuance.lockout import FailureLimits
from issuance.request import CertificateRole, HeldCertificate, SharedSecret
from issuance.sealed import SealedCredential
from pki import der
from pki.cms.errors import CmsError
from pki.cms.signatures import signer_key
from pki.cms.signed import SignedMessage, check_digest, verify_message
from pki.cms.types import CertificateView, Digest
from pki.reasons import Reason, Rejection
from policy.principal import Principal, PrincipalKind

_WEAK = frozenset({Digest.MD5, Digest.SHA1})
_SUBJECT_KEY_IDENTIFIER = "2.5.29.14"


class Standing(enum.Enum):
    """By which of the ways they came. Closed."""

    AGENT = "agent"  # a registration authority: speaks for others
    PREVIOUS = "previous"  # holds a certificate of this label: renews it
    DEVICE = "device"  # a manufacturer's certificate
    SECRET = "secret"  # noqa: S105  # a way, not a secret: identityProofV2
    TRANSPORT = "transport"  # as in simpleenroll


_STANDINGS: Mapping[CertificateRole, Standing] = MappingProxyType(
    {
        CertificateRole.AGENT: Standing.AGENT,
        CertificateRole.PREVIOUS: Standing.PREVIOUS,
        CertificateRole.DEVICE: Standing.DEVICE,
    }
)


@dataclass(frozen=True, slots=True)
class Authority:
    """`secret` is the one that identityProofV2 was made with: the requests have to be linked to it, too (§6.3)."""

    caller: Caller
    standing: Standing
    secret: str = field(default="", repr=False)

    @property
    def is_agent(self) -> bool:
        """Whether an agent has signed the message. Who only carries it, by TLS, has not read what it says of keys and certificates."""
        return self.standing is Standing.AGENT

    @property
    def signed_with(self) -> HeldCertificate | None:
        """The certificate that signs the message. That of the TLS connection is of who carries it, and need not be the sender's."""
        return None if self.standing is Standing.TRANSPORT else self.caller.held


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose key has signed a message. `certificate` is what the key was named by, if by one; its `spki` is in one spelling."""

    spki: bytes = field(repr=False)
    certificate: CertificateView | None = None

    @property
    def is_certified(self) -> bool:
        """By anybody else: a certificate that a client has made for its own key says nothing."""
        return self.certificate is not None and self.certificate.issuer != self.certificate.subject


@dataclass(frozen=True, slots=True)
class IdentityClaim:
    """The controls identification and identityProofV2 (§6.2); `is_by` says whether the proof was made with a secret."""

    identification: str
    is_by: Callable[[str], bool] = field(repr=False)


class SharedSecrets(Protocol):
    """What CMC needs of `issuance.cmc_secrets.CmcSecrets`."""

    async def check(
        self,
        *,
        endpoint: str,
        identification: str,
        is_right: Callable[[str], bool],
        address: str = ...,
        limits: FailureLimits = ...,
    ) -> SealedCredential: ...


def signer_by_certificate(message: SignedMessage) -> Signer | None:
    """Whose certificate is in the message, verified; None where there is none. Raises CmcRefusal."""
    info = message.signer_info
    if info is None:
        return None
    try:
        if info.digest in _WEAK:
            raise CmcRefusal(FailInfo.BAD_ALG, f"the message uses {info.digest.value}, which is not accepted here; use SHA-256")
        if info.proves_nothing:
            check_digest(message)
            return None
        certificate = message.signer_certificate()
        if certificate is None and info.key_identifier is None:  # §3.2: who has no certificate yet is named by the other form
            raise CmcRefusal(FailInfo.BAD_MESSAGE_CHECK, "the signer's certificate is not in the message")
        return None if certificate is None else _verified(message, certificate.spki, certificate)
    except CmsError as error:
        raise _cannot_be_checked(error) from error


def check_signer(message: SignedMessage, signer: Signer | None, requests: Sequence[Read]) -> None:
    """A signature by a key that nobody vouches for has to be by the key of a request, else it would prove nothing at all.

    Raises CmcRefusal.
    """
    if not message.is_signed or (signer is not None and signer.is_certified):
        return
    found = signer or _signer_by_request(message, requests)
    if requests and found.spki not in {one.csr.spki for one in requests}:
        raise CmcRefusal(
            FailInfo.BAD_IDENTITY,
            "the signer is nobody that is known here, nor has it the key of one of the certification requests",
        )


def _signer_by_request(message: SignedMessage, requests: Sequence[Read]) -> Signer:
    """§3.2: named by the subject key identifier that one of the requests asks for. Raises CmcRefusal."""
    assert message.signer_info is not None
    identifier = der.encode(der.OCTET_STRING, message.signer_info.key_identifier or b"")
    for one in requests:
        if one.csr.extensions.get(_SUBJECT_KEY_IDENTIFIER) == identifier:
            try:
                return _verified(message, one.csr.spki, None)
            except CmsError as error:
                raise _cannot_be_checked(error) from error
    raise CmcRefusal(
        FailInfo.BAD_MESSAGE_CHECK,
        "the signer's certificate is not in the message, and no certification request asks for the signer's key identifier",
    )


def _verified(message: SignedMessage, spki: bytes, certificate: CertificateView | None) -> Signer:
    key = signer_key(spki)
    verify_message(message, key)
    return Signer(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), certificate)


def _cannot_be_checked(error: CmsError) -> CmcRefusal:
    return from_cms(error) or CmcRefusal(FailInfo.BAD_MESSAGE_CHECK, error.detail)


class Authorizer:
    def __init__(self, *, authenticator: Authenticator, certificates: CertificateChecks, secrets: SharedSecrets) -> None:
        self._authenticator = authenticator
        self._certificates = certificates
        self._secrets = secrets

    async def authorize(
        self,
        exchange: Exchange,
        message: SignedMessage,
        signer: Signer | None,
        claim: IdentityClaim | None,
    ) -> Authority:
        """`signer` is the one whose certificate is in the message; others are held to their requests by `check_signer`.

        Raises CmcRefusal; Rejection(UNAUTHENTICATED) where HTTP has to ask for credentials; Unavailable.
        """
        if signer is not None and signer.is_certified:
            if claim is not None:
                text = "identityProofV2 stands in for a certificate; leave it out of a message that is signed with one"
                raise CmcRefusal(FailInfo.BAD_REQUEST, text)
            return await self._holder(exchange, message, signer)
        if claim is not None:
            return await self._knows_secret(exchange, claim)
        if not message.is_signed:
            raise CmcRefusal(FailInfo.BAD_MESSAGE_CHECK, "the message is not signed, and nothing in it says who sent it")
        return await self._by_transport(exchange)

    async def _holder(self, exchange: Exchange, message: SignedMessage, signer: Signer) -> Authority:
        """Their certificate is judged as one that came by TLS is: the signature shows that they have its key."""
        assert signer.certificate is not None
        endpoint, leaf = exchange.endpoint, signer.certificate.der
        try:
            caller = await self._certificates.holder(
                endpoint,
                Connection(chain=(leaf, *(one for one in message.certificates if one != leaf))),
                source_address=exchange.source_address,
                grace=endpoint.client_certificates.grace,
            )
        except Rejection as rejection:
            raise from_rejection(rejection) from rejection
        assert caller.held is not None
        standing = _STANDINGS[caller.held.role]
        if standing is not Standing.AGENT and Authentication.CERTIFICATE not in endpoint.authenticate:
            text = "this endpoint takes no certificates of clients; only a registration authority may sign with one"
            raise CmcRefusal(FailInfo.BAD_IDENTITY, text)
        return Authority(caller, standing)

    async def _knows_secret(self, exchange: Exchange, claim: IdentityClaim) -> Authority:
        """§6.2: an identification that nobody has and a proof that is wrong look alike."""
        try:
            found = await self._secrets.check(
                endpoint=exchange.endpoint.label,
                identification=claim.identification,
                is_right=claim.is_by,
                address=exchange.source_address,
                limits=failure_limits(exchange),
            )
        except Rejection as rejection:
            raise from_rejection(rejection) from rejection
        principal = Principal(PrincipalKind.CMC_CLIENT, found.id, found.roles, source_address=exchange.source_address)
        return Authority(Caller(principal, SharedSecret(found.id), found.profile), Standing.SECRET, found.secret.decode())

    async def _by_transport(self, exchange: Exchange) -> Authority:
        try:
            caller = await self._authenticator.caller(exchange)
        except Rejection as rejection:
            if rejection.reason is Reason.UNAUTHENTICATED:
                raise  # HTTP asks for credentials, as for every other operation
            raise from_rejection(rejection) from rejection
        return Authority(caller, Standing.TRANSPORT)


def failure_limits(exchange: Exchange) -> FailureLimits:
    """How many wrong secrets this label puts up with."""
    limits = exchange.endpoint.limits
    return FailureLimits(per_name=limits.failures_per_user, per_address=limits.failures_per_address)
