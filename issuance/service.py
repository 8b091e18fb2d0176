"""The one door. Every front end calls `Issuance.submit`; nothing else reaches the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from issuance.request import IssuanceRequest, IssuedCertificate, Outcome
from pki.clock import Micros
from pki.reasons import RevocationReason
from policy.principal import Principal


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A stored certificate and what became of it."""

    certificate: IssuedCertificate
    principal: str
    names: tuple[str, ...]
    revoked_at: Micros | None
    reason: RevocationReason | None


class Issuance:
    async def submit(self, request: IssuanceRequest) -> Outcome:
        raise NotImplementedError

    async def revoke(self, *, issuer: str, serial: str, reason: RevocationReason, principal: Principal) -> None:
        """Raises Rejection: NOT_FOUND, ALREADY_REVOKED, BAD_REVOCATION_REASON. Whether `principal` may is the caller's check."""
        raise NotImplementedError

    async def certificate(self, serial: str, *, issuer: str | None = None) -> CertificateRecord | None:
        raise NotImplementedError

    async def certificates(
        self, *, principal: str | None = None, before: tuple[Micros, str] | None = None, limit: int = 100
    ) -> Sequence[CertificateRecord]:
        """Newest first; `before` is (issued_at, serial) of the last one seen."""
        raise NotImplementedError

    def chain_pem(self, certificate: IssuedCertificate) -> str:
        """Leaf first, then its issuers without the root."""
        raise NotImplementedError
