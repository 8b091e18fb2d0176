"""Clients that sign with a certificate of ours: whose it is, and whether it may renew itself (RFC 8894 §2.3, §3.3.1.2).

Law of this file: a certificate that says that it is from a CA of ours is what the ledger has, octet by octet and not revoked, or its
message is refused. What a renewal is for is what was certified before: the names in the ledger, whatever else a subject says.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from issuance.plan import names_wanted
from issuance.request import CertificateRole, Channel, HeldCertificate
from issuance.service import CertificateRecord
from pki.clock import Clock, after
from pki.cms.types import CertificateView
from pki.reasons import Reason, Rejection
from policy.principal import Principal, PrincipalKind
from policy.profiles import Profiles
from scep.authorization import Asked, Authorization
from scep.endpoint import ScepEndpoint, Way
from scep.failinfo import FailInfo, Refusal


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
        """What a certificate of this endpoint opens: one for exactly its own names. Raises Rejection: FORBIDDEN, and those of names."""
        endpoint, record = asked.endpoint, holder.record
        if not endpoint.renewal.roles:
            raise _refused("nothing is renewed at this SCEP endpoint")
        self.check_in_time(holder, endpoint)
        profile = self._profiles.get(record.certificate.profile)
        wanted = names_wanted(asked.csr.identifiers, asked.csr.common_name, profile)
        if set(wanted.tags) != set(record.names) and not profile.subject_change:
            # Without the names: what was asked for came encrypted, perhaps by somebody else.
            raise _refused(
                "the request is for other names than it has", "ask for the same subject and subjectAltName, or enrol anew"
            )
        held = HeldCertificate(
            CertificateRole.PREVIOUS,
            record.certificate.issuer,
            record.certificate.serial,
            hashlib.sha256(record.certificate.der).hexdigest(),
        )
        principal = Principal(
            PrincipalKind.TLS_CLIENT, held.credential_id, endpoint.renewal.roles, source_address=asked.source_address
        )
        return Authorization(Way.RENEWAL, principal, held, record.certificate.profile)


def _refused(why: str, *suggestions: str) -> Rejection:
    return Rejection(
        Reason.FORBIDDEN,
        f"the certificate that signs this message renews nothing here: {why}",
        suggestions=suggestions or ["enrol anew, with a challenge password"],
    )
