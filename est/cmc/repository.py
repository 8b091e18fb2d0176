"""Certificates and CRLs that exist, as a CMC client may ask for them (RFC 5272 §6.9 to §6.11, §6.14).

Law of this file: a label speaks of certificates that were asked for at this label, and of no others. One of another label, one of another
CA and one that nobody has issued are one answer, badCertId: whoever may ask learns nothing of the rest.
"""

from __future__ import annotations

import hmac
from typing import Protocol

from est.cmc.authorization import Authority, SharedSecrets, failure_limits
from est.cmc.failinfo import from_rejection
from est.cmc.messages import CmcRefusal, FailInfo
from est.cmc.values import ConfirmCertAcceptance, GetCert, GetCrl, RevokeRequest
from est.endpoint import EstEndpoint
from est.exchange import Exchange
from issuance.request import CertificateRole, Channel
from issuance.service import CertificateRecord
from pki.clock import Clock, Micros
from pki.cms.types import read_certificate
from pki.reasons import Rejection, RevocationReason
from policy.principal import Principal, PrincipalKind


class Certificates(Protocol):
    """What CMC needs of `issuance.service.Issuance`."""

    def claimed_issuers(self, *, name: bytes, key_identifier: bytes | None) -> frozenset[str]: ...

    async def certificate(
        self, serial: str, *, issuer: str | None = None, principal: str | None = None
    ) -> CertificateRecord | None: ...

    async def revoke(self, *, issuer: str, serial: str, reason: RevocationReason, principal: Principal) -> None: ...


class Crls(Protocol):
    """What CMC needs of `issuance.revocation.PublishedCrls`."""

    async def find(self, issuer: str, *, at: Micros) -> bytes | None: ...


class Repository:
    def __init__(self, *, certificates: Certificates, crls: Crls, secrets: SharedSecrets, clock: Clock) -> None:
        self._certificates = certificates
        self._crls = crls
        self._secrets = secrets
        self._clock = clock

    async def certificate(self, endpoint: EstEndpoint, wanted: GetCert | ConfirmCertAcceptance) -> bytes:
        """DER. Raises CmcRefusal(BAD_CERT_ID)."""
        return (await self._find(endpoint, wanted.issuer, wanted.serial)).certificate.der

    async def crl(self, endpoint: EstEndpoint, wanted: GetCrl) -> bytes:
        """DER of the newest, or of the newest at the time that is asked for. Raises CmcRefusal(BAD_CERT_ID)."""
        now = self._clock.micros()
        at = now if wanted.at is None else min(now, Micros(wanted.at * 1_000_000))
        found = await self._crls.find(endpoint.issuer, at=at) if _is_issuer(endpoint, wanted.issuer) else None
        if found is None:
            raise CmcRefusal(FailInfo.BAD_CERT_ID, "there is no CRL of this issuer here, or none of that time")
        return found

    async def revoke(self, exchange: Exchange, wanted: RevokeRequest, authority: Authority | None) -> None:
        """For an agent, for the holder who signs with the very certificate, and for who has the shared secret that it was issued on
        (§6.11). Raises CmcRefusal, Unavailable.
        """
        endpoint = exchange.endpoint
        try:
            if wanted.passphrase is not None and not (authority is not None and authority.is_agent):
                record, principal = await self._by_secret(exchange, wanted, wanted.passphrase)
            else:
                record, principal = await self._by_authority(endpoint, wanted, authority)
            certificate = record.certificate
            await self._certificates.revoke(
                issuer=certificate.issuer, serial=certificate.serial, reason=wanted.reason, principal=principal
            )
        except Rejection as rejection:
            raise from_rejection(rejection) from rejection

    async def _by_authority(
        self, endpoint: EstEndpoint, wanted: RevokeRequest, authority: Authority | None
    ) -> tuple[CertificateRecord, Principal]:
        record = await self._find(endpoint, wanted.issuer, wanted.serial)
        if authority is None or not (authority.is_agent or _holds(authority, record)):
            raise _no_such_certificate()
        return record, authority.caller.principal

    async def _by_secret(
        self, exchange: Exchange, wanted: RevokeRequest, passphrase: bytes
    ) -> tuple[CertificateRecord, Principal]:
        """A wrong secret and a certificate that there is not are one answer, and both are counted as failures."""
        endpoint = exchange.endpoint
        try:
            record = await self._find(endpoint, wanted.issuer, wanted.serial)
        except CmcRefusal:
            record = None
        kind, _, owner = ("", "", "") if record is None else record.principal.partition(":")
        label, _, identification = owner.partition("/")
        known = record is not None and kind == PrincipalKind.CMC_CLIENT.value and label == endpoint.label
        found = await self._secrets.check(
            endpoint=endpoint.label,
            # Nobody is called that, and it is counted for this one certificate, as it would be for its owner.
            identification=identification if known else f":{wanted.serial:x}",
            is_right=lambda secret: hmac.compare_digest(secret.encode(), passphrase),
            address=exchange.source_address,
            limits=failure_limits(exchange),
        )
        if record is None:
            raise AssertionError("a name with a colon has a secret")
        principal = Principal(PrincipalKind.CMC_CLIENT, found.id, found.roles, source_address=exchange.source_address)
        return record, principal

    async def _find(self, endpoint: EstEndpoint, issuer: bytes, serial: int) -> CertificateRecord:
        """By whichever of our CAs: a label may have had another one before, and a credential a profile of another."""
        for name in sorted(self._certificates.claimed_issuers(name=issuer, key_identifier=None)):
            record = await self._certificates.certificate(f"{serial:x}", issuer=name)
            if record is not None and (record.channel, record.endpoint) == (Channel.EST.value, endpoint.label):
                return record
        raise _no_such_certificate()


def _is_issuer(endpoint: EstEndpoint, name: bytes) -> bool:
    return read_certificate(endpoint.ca_certificates[0]).subject == name


def _holds(authority: Authority, record: CertificateRecord) -> bool:
    held = authority.signed_with
    if held is None or held.role is not CertificateRole.PREVIOUS:
        return False
    return (held.issuer, held.serial) == (record.certificate.issuer, record.certificate.serial)


def _no_such_certificate() -> CmcRefusal:
    return CmcRefusal(FailInfo.BAD_CERT_ID, "this label has issued no such certificate, or none that the sender may speak for")
