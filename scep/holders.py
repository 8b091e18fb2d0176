"""Clients that sign with a certificate of ours: whose it is, and whether it may renew itself (RFC 8894 §2.3, §3.3.1.2).

Law of this file: a certificate that says that it is from a CA of ours is what the ledger has, octet by octet and not revoked, or its
message is refused. What a renewal is for is what was certified before: the names in the ledger, whatever else a subject says.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import orjson

from issuance.plan import names_wanted
from issuance.request import CertificateRole, Channel, HeldCertificate, IssuanceRequest
from issuance.service import CertificateRecord
from pki.clock import Clock, after
from pki.cms.types import CertificateView
from pki.reasons import Reason, Rejection
from policy.principal import Principal, PrincipalKind
from policy.profiles import Profile, Profiles
from scep.authorization import Asked, Authorization
from scep.endpoint import ScepEndpoint, Way
from scep.failinfo import FailInfo, Refusal

ENROL = "enrol anew, with a challenge password"


class Register(Protocol):
    """What is known of our own certificates: of `issuance.service.Issuance`."""

    def claimed_issuers(self, *, name: bytes, key_identifier: bytes | None) -> frozenset[str]: ...

    async def certificate(
        self, serial: str, *, issuer: str | None = None, principal: str | None = None
    ) -> CertificateRecord | None: ...


@dataclass(frozen=True, slots=True)
class Holder:
    """Whoever has the key of a certificate of ours, which is not revoked; perhaps of another endpoint, perhaps expired."""

    record: CertificateRecord

    @property
    def held(self) -> HeldCertificate:
        certificate = self.record.certificate
        sha256 = hashlib.sha256(certificate.der).hexdigest()
        return HeldCertificate(CertificateRole.PREVIOUS, certificate.issuer, certificate.serial, sha256)

    def is_of(self, endpoint: ScepEndpoint) -> bool:
        return self.record.channel == Channel.SCEP.value and self.record.endpoint == endpoint.name


class Holders:
    def __init__(self, *, register: Register, profiles: Profiles, clock: Clock) -> None:
        self._register = register
        self._profiles = profiles
        self._clock = clock

    async def find(self, signer: CertificateView) -> Holder | None:
        """None for a certificate that is not ours, such as the one that a device makes for itself.

        Raises Refusal for one that only says so, and for a revoked one.
        """
        issuers = self._register.claimed_issuers(name=signer.issuer, key_identifier=None)
        for issuer in sorted(issuers):
            record = await self._register.certificate(f"{signer.serial:x}", issuer=issuer)
            if record is not None and record.certificate.der == signer.der:
                if record.revoked_at is not None:
                    raise Refusal(FailInfo.BAD_REQUEST, "the certificate that signs this message is revoked")
                return Holder(record)
        if issuers:
            raise Refusal(
                FailInfo.BAD_REQUEST,
                "the certificate that signs this message names a CA of this server, which did not issue it",
            )
        return None

    def obstacle(self, holder: Holder | None, endpoint: ScepEndpoint) -> Rejection | None:
        """Why this certificate renews nothing here, whatever is asked for. Known before a message is opened, and told then: whoever
        may not ask for other keys learns nothing of what is inside.
        """
        if holder is None:
            return Rejection(
                Reason.FORBIDDEN,
                "a RenewalReq is signed with a certificate that was issued here; this one was not",
                suggestions=[ENROL],
            )
        if not endpoint.renewal.roles:
            return _refused("nothing is renewed at this SCEP endpoint")
        try:
            self.check_in_time(holder, endpoint)
        except Rejection as rejection:
            return rejection
        return None

    def check_in_time(self, holder: Holder, endpoint: ScepEndpoint) -> None:
        """Issued here, and neither too early nor too late. Raises Rejection(FORBIDDEN)."""
        certificate, now = holder.record.certificate, self._clock.micros()
        if not holder.is_of(endpoint):
            raise _refused("it was not issued by this SCEP endpoint")
        if now < certificate.not_before:
            raise _refused("it is not valid yet")
        if now > after(certificate.not_after, endpoint.renewal.grace):
            raise _refused("it has expired")

    def renewal(self, holder: Holder, asked: Asked) -> Authorization:
        """What a certificate of this endpoint opens: one for its own names, or for others where the profile lets them change.

        A request for another key may have been captured from somebody else and proves nothing about who asks, so it changes no
        names, and no refusal of it tells what it asks for. Raises Rejection: FORBIDDEN, UNKNOWN_PROFILE, those of names.
        """
        endpoint, record = asked.endpoint, holder.record
        if (obstacle := self.obstacle(holder, endpoint)) is not None:
            raise obstacle
        profile = self._profiles.get(record.certificate.profile)
        if _other_names(asked, record, profile) and not (profile.subject_change and asked.own_key):
            raise _refused(
                "the request is for other names than it has", "ask for the same subject and subjectAltName, or enrol anew"
            )
        held = holder.held
        principal = Principal(
            PrincipalKind.TLS_CLIENT, held.credential_id, endpoint.renewal.roles, source_address=asked.source_address
        )
        return Authorization(Way.RENEWAL, principal, held, record.certificate.profile)

    async def caller(self, request: IssuanceRequest) -> str:
        """Who a request counts for. Who renews is another principal with the next certificate, and the same caller: the one that has
        these names.
        """
        for held in request.evidence:
            if isinstance(held, HeldCertificate):
                record = await self._register.certificate(held.serial, issuer=held.issuer)
                if record is not None:
                    return f"names:{hashlib.sha256(orjson.dumps(sorted(record.names))).hexdigest()}"
        return str(request.principal)


def _other_names(asked: Asked, record: CertificateRecord, profile: Profile) -> bool:
    """Raises Rejection for names that are none, in a request for the key that signs."""
    try:
        wanted = names_wanted(asked.csr.identifiers, asked.csr.common_name, profile)
    except Rejection:
        if asked.own_key:
            raise
        return True
    return set(wanted.tags) != set(record.names)


def _refused(why: str, *suggestions: str) -> Rejection:
    return Rejection(
        Reason.FORBIDDEN,
        f"the certificate that signs this message opens nothing here: {why}",
        suggestions=suggestions or [ENROL],
    )
