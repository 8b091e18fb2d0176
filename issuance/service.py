"""The one door. Every front end calls `Issuance.submit`; nothing else reaches the pipeline."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from issuance import audit, renewal
from issuance.ledger import CertificateRecord, Ledger
from issuance.pipeline import Pipeline, Rules
from issuance.request import IssuanceRequest, Issued, IssuedCertificate, Outcome, Pending, Rejected
from issuance.revocation import block_key_steps, revoke_steps
from pki.certificate import pem
from pki.clock import Clock, Micros
from pki.reasons import SUBSCRIBER_REASONS, Reason, Rejection, RevocationReason
from policy.principal import Principal
from storage.database import Conflict, Database

__all__ = ["CertificateRecord", "Issuance", "Observer"]

MAX_PROFILE = 100  # characters of what a stranger calls a profile; the audit is kept for years
REMEMBERED = 1000  # certificates, about 1 KiB each
_END_OF_TIME = (Micros(sys.maxsize), "")


class Observer(Protocol):
    """Who counts. `result` is issued, pending or the reason's value: bounded, as metric labels must be."""

    def outcome(self, *, profile: str, channel: str, result: str) -> None: ...


class Issuance:
    def __init__(
        self,
        *,
        pipeline: Pipeline,
        rules: Rules,
        database: Database,
        clock: Clock,
        new_id: Callable[[], str],
        observer: Observer,
    ) -> None:
        self._pipeline = pipeline
        self._rules = rules
        self._database = database
        self._ledger = Ledger(database)
        self._clock = clock
        self._new_id = new_id
        self._observer = observer
        self._newest: dict[tuple[str, str], bytes] = {}  # oldest first
        self._of_key: dict[bytes, set[str]] = {}
        self._of_name: dict[bytes, set[str]] = {}
        for name, issuer in rules.issuers.items():
            self._of_key.setdefault(issuer.key_identifier, set()).add(name)
            self._of_name.setdefault(issuer.subject_der, set()).add(name)

    async def submit(self, request: IssuanceRequest) -> Outcome:
        """One request through all ten steps. Raises Unavailable; a refusal comes back as `Rejected` and is in the audit."""
        outcome: Outcome
        try:
            outcome = await self._pipeline.issue(request)
            if isinstance(outcome, Issued):
                self._remember(outcome.certificate)
        except Rejection as rejection:
            await self._record_refusal(request, rejection)
            outcome = Rejected(rejection)
        self._count(request, outcome)
        return outcome

    async def foresee(self, request: IssuanceRequest) -> Pending | Rejected | None:
        """Before costly work for a request: what `submit` would say, if that is known to be no certificate. It is counted and recorded
        as said. None promises nothing. Raises Unavailable.
        """
        outcome: Pending | Rejected | None
        try:
            outcome = await self._pipeline.foresee(request)
        except Rejection as rejection:
            await self._record_refusal(request, rejection)
            outcome = Rejected(rejection)
        if outcome is not None:
            self._count(request, outcome)
        return outcome

    def _count(self, request: IssuanceRequest, outcome: Outcome) -> None:
        self._observer.outcome(profile=self._known(request.profile), channel=request.channel.value, result=_result(outcome))

    def _known(self, profile: str) -> str:
        try:
            return self._rules.profiles.get(profile).name
        except Rejection:
            return "unknown"

    async def _record_refusal(self, request: IssuanceRequest, rejection: Rejection) -> None:
        await self._database.write(
            audit.record(
                audit.Event.ISSUE_REFUSED,
                record_id=self._new_id(),
                at=self._clock.micros(),
                principal=str(request.principal),
                subject=f"csr:{request.csr.sha256}",
                detail={
                    "reason": rejection.reason.value,
                    "detail": rejection.detail,
                    "profile": request.profile[:MAX_PROFILE],
                    "names": [identifier.tag for identifier in request.identifiers],
                    "channel": request.channel.value,
                    "endpoint": request.endpoint,
                    "source": request.principal.source_address,
                },
            )
        )

    async def revoke(self, *, issuer: str, serial: str, reason: RevocationReason, principal: Principal) -> None:
        """Durable on return; CRL and OCSP follow within seconds. Whether `principal` may is the caller's check.

        A compromised key is blocked also when its certificate is revoked already.

        Raises Rejection: NOT_FOUND, ALREADY_REVOKED, BAD_REVOCATION_REASON.
        """
        if reason not in SUBSCRIBER_REASONS:
            raise Rejection(
                Reason.BAD_REVOCATION_REASON,
                f"{reason.name.lower()} is not a reason that may be given",
                suggestions=[f"use one of: {', '.join(str(int(known)) for known in sorted(SUBSCRIBER_REASONS))}"],
            )
        record = await self.certificate(serial, issuer=issuer)
        if record is None:
            raise Rejection(Reason.NOT_FOUND, "there is no such certificate")
        now = self._clock.micros()
        try:
            await self._database.write(
                *revoke_steps(record, reason=reason, principal=str(principal), now=now, audit_id=self._new_id())
            )
        except Conflict:
            if reason is RevocationReason.KEY_COMPROMISE:
                await self._database.write(*block_key_steps(record, principal=str(principal), now=now, audit_id=self._new_id()))
            raise Rejection(Reason.ALREADY_REVOKED, f"certificate {serial} is revoked already") from None
        self._database.notify("jobs")

    async def certificate(
        self, serial: str, *, issuer: str | None = None, principal: str | None = None
    ) -> CertificateRecord | None:
        """`principal` finds only what was issued to it; None finds everybody's."""
        return await self._ledger.by_serial(serial, issuer=issuer, principal=principal)

    def claimed_issuers(self, *, name: bytes, key_identifier: bytes | None) -> frozenset[str]:
        """Which of our issuers a certificate says that it is from, by issuer name (DER) or key identifier; none: it is foreign.

        Only what it says: whether it is one of theirs is whether the ledger has it, octet by octet.
        """
        by_key: set[str] = set() if key_identifier is None else self._of_key.get(key_identifier, set())
        return frozenset(self._of_name.get(name, set()) | by_key)

    async def certificates(
        self, *, principal: str | None = None, before: tuple[Micros, str] | None = None, limit: int = 100
    ) -> Sequence[CertificateRecord]:
        """Newest first; `before` is (issued_at, serial) of the last one seen."""
        return await self._ledger.newest(principal=principal, before=before or _END_OF_TIME, limit=limit)

    async def renewal(self, *, key_identifier: bytes, serial: str) -> renewal.RenewalRecord | None:
        """What the renewal of a certificate depends on; `key_identifier` is its issuer's, as in its AKI extension."""
        issuers = self._of_key.get(key_identifier)
        return None if issuers is None else await renewal.find(self._database, serial, issuers=issuers)

    def alternates(self, issuer: str) -> int:
        """How many other chains there are for this issuer's certificates."""
        above = self._rules.issuers.get(issuer)
        return 0 if above is None else len(above.alternate_pems)

    async def chain(self, *, issuer: str, serial: str, alternate: int = 0) -> str | None:
        """The chain of a certificate as `chain_pem` gives it, or an alternate one (from 1). Whose it is, is the caller's check.

        None also for an issuer that is not configured any more: nobody here knows what is above it.

        Most are fetched once, right after they were made, and none ever changes: so the newest are remembered.
        """
        if issuer not in self._rules.issuers:
            return None
        der = self._newest.get((issuer, serial))
        if der is not None:
            return self._chain(issuer, der, alternate)
        record = await self.certificate(serial, issuer=issuer)
        return None if record is None else self._chain(issuer, record.certificate.der, alternate)

    def _remember(self, certificate: IssuedCertificate) -> None:
        self._newest[certificate.issuer, certificate.serial] = certificate.der
        if len(self._newest) > REMEMBERED:
            del self._newest[next(iter(self._newest))]

    def chain_pem(self, certificate: IssuedCertificate) -> str:
        """Leaf first, then its issuers without the root."""
        return self._chain(certificate.issuer, certificate.der)

    def _chain(self, issuer: str, der: bytes, alternate: int = 0) -> str:
        above = self._rules.issuers[issuer]
        return pem(der) + (above.alternate_pems[alternate - 1] if alternate else above.chain_pem)


def _result(outcome: Outcome) -> str:
    match outcome:
        case Issued():
            return "issued"
        case Pending():
            return "pending"
        case Rejected(rejection):
            return rejection.reason.value
