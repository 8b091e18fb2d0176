"""What the pipeline writes: intents before the signature, certificates after it. SQL and rows, no decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import orjson

from issuance.buckets import charge_steps
from issuance.request import (
    ApiKey,
    Approval,
    BasicPassword,
    BearerToken,
    ChallengeEvidence,
    DelegatedChallenge,
    DigestPassword,
    Evidence,
    HeldCertificate,
    IssuanceRequest,
    IssuedCertificate,
    OneTimeChallenge,
    Origin,
    PolicyOwnership,
    ScepChallenge,
    SharedSecret,
)
from pki.clock import Micros, to_micros
from pki.plan import CertificatePlan
from pki.reasons import Reason, Rejection, RevocationReason
from storage.database import Database, Row, Step
from validation.caa import CaaEvidence

INTENT_INSERT_SQL = """
INSERT INTO issuance (id, issuer, serial, state, lease_until, tbs, spki_sha256, profile, profile_version, names, protocol,
    endpoint, principal, evidence, origin_kind, origin_id, idempotency_key, request_sha256, not_before, not_after, created_at,
    caa)
VALUES ($1, $2, $3, 'issuing', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
"""
ISSUED_SQL = "UPDATE issuance SET state = 'issued', settled_at = $2 WHERE id = $1 AND state = 'issuing'"
ABANDONED_SQL = """
UPDATE issuance SET state = 'abandoned', settled_at = $2, idempotency_key = NULL WHERE id = $1 AND state = 'issuing'
"""
CERTIFICATE_INSERT_SQL = """
INSERT INTO certificate (issuer, serial, issuance_id, der, spki_sha256, profile, names, protocol, endpoint, principal,
    not_before, not_after, issued_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""
BY_IDEMPOTENCY_KEY_SQL = """
SELECT id, state, request_sha256, issuer, serial FROM issuance WHERE idempotency_key = $1
"""
OVERDUE_SQL = """
SELECT id, issuer, serial, not_after, origin_kind, origin_id FROM issuance
WHERE state = 'issuing' AND lease_until < $1 ORDER BY lease_until LIMIT 100
"""
BLOCKED_KEY_SQL = "SELECT reason FROM blocked_key WHERE spki_sha256 = $1"
# A guard: it has to touch no row. A key that is blocked at this moment undoes the intent that it rides with.
KEY_NOT_BLOCKED_SQL = "UPDATE blocked_key SET blocked_at = blocked_at WHERE spki_sha256 = $1"
# As above, for the certificate that a request rests on.
NOT_REVOKED_SQL = "UPDATE revocation SET revoked_at = revoked_at WHERE issuer = $1 AND serial = $2"
REVOKED_SQL = "SELECT revoked_at FROM revocation WHERE issuer = $1 AND serial = $2"

_CERTIFICATE = """
SELECT c.issuer, c.serial, c.der, c.profile, c.names, c.protocol, c.endpoint, c.principal, c.not_before, c.not_after, c.issued_at,
    r.revoked_at, r.reason
FROM certificate c LEFT JOIN revocation r ON r.issuer = c.issuer AND r.serial = c.serial
"""
BY_ISSUANCE_SQL = _CERTIFICATE + "WHERE c.issuance_id = $1"
# Whose it has to be, and by which issuer, is part of the question; '' is anybody's.
BY_SERIAL_SQL = (
    _CERTIFICATE
    + "WHERE c.serial = $1 AND ($2 = '' OR c.issuer = $2) AND ($3 = '' OR c.principal = $3) ORDER BY c.issued_at LIMIT 2"
)
NEWEST_SQL = _CERTIFICATE + "WHERE (c.issued_at, c.serial) < ($1, $2) ORDER BY c.issued_at DESC, c.serial DESC LIMIT $3"
NEWEST_OF_SQL = (
    _CERTIFICATE
    + "WHERE c.principal = $4 AND (c.issued_at, c.serial) < ($1, $2) ORDER BY c.issued_at DESC, c.serial DESC LIMIT $3"
)


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A stored certificate and what became of it."""

    certificate: IssuedCertificate
    principal: str
    names: tuple[str, ...]
    revoked_at: Micros | None
    reason: RevocationReason | None
    channel: str = ""  # by which it was asked for, Channel.value
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class Intent:
    """One attempt to issue: everything that is recorded before the signer is asked."""

    id: str
    serial: int
    tbs: bytes
    plan: CertificatePlan
    request: IssuanceRequest
    names: tuple[str, ...]  # tags, "dns:example.com"
    request_sha256: str
    lease_until: Micros
    caa: tuple[CaaEvidence, ...] = ()
    approval: Approval | None = None

    @property
    def serial_hex(self) -> str:
        return f"{self.serial:x}"

    @property
    def subject(self) -> str:
        """What the audit calls it."""
        return f"certificate:{self.plan.issuer}/{self.serial_hex}"


@dataclass(frozen=True, slots=True)
class Overdue:
    """An intent whose lease ran out."""

    id: str
    issuer: str
    serial: str
    not_after: Micros
    origin: Origin | None


def intent_steps(intent: Intent, now: Micros) -> Sequence[Step]:
    plan, request = intent.plan, intent.request
    row = Step(
        INTENT_INSERT_SQL,
        (
            intent.id,
            plan.issuer,
            intent.serial_hex,
            intent.lease_until,
            intent.tbs,
            request.csr.spki_sha256,
            plan.profile,
            plan.profile_version,
            orjson.dumps(intent.names).decode(),
            request.channel.value,
            request.endpoint,
            str(request.principal),
            orjson.dumps([*map(_evidence, request.evidence), *_approved(intent.approval)]).decode(),
            request.origin.kind if request.origin else "",
            request.origin.id if request.origin else "",
            request.idempotency_key,
            intent.request_sha256,
            to_micros(plan.not_before),
            to_micros(plan.not_after),
            now,
            orjson.dumps([evidence.as_json() for evidence in intent.caa]).decode() if intent.caa else "",
        ),
    )
    return (row, *charge_steps(request.charges, now), *guard_steps(request))


def guard_steps(request: IssuanceRequest) -> Sequence[Step]:
    """They undo the write that they ride with when the key is blocked, or a certificate that the request rests on is revoked."""
    return (
        Step(KEY_NOT_BLOCKED_SQL, (request.csr.spki_sha256,), rows=0),
        *(Step(NOT_REVOKED_SQL, (held.issuer, held.serial), rows=0) for held in _own_certificates(request)),
    )


def _approved(approval: Approval | None) -> Sequence[dict[str, object]]:
    if approval is None:
        return ()
    return ({"kind": "approval", "request": approval.id, "sha256": approval.digest, "by": approval.by, "at": approval.at},)


def _own_certificates(request: IssuanceRequest) -> Sequence[HeldCertificate]:
    return [evidence for evidence in request.evidence if isinstance(evidence, HeldCertificate) and evidence.issuer]


def _evidence(evidence: Evidence) -> dict[str, object]:
    match evidence:
        case ChallengeEvidence():
            content: dict[str, object] = {
                "kind": "challenge",
                "identifier": evidence.identifier.tag,
                "method": evidence.method,
                "authorization": evidence.authorization_id,
                "validated_at": evidence.validated_at,
            }
            if evidence.wildcard:
                content["wildcard"] = True
            if evidence.subdomains:
                content["subdomains"] = True
            if evidence.perspectives:
                content["perspectives"] = evidence.perspectives
            return content
        case PolicyOwnership():
            return {
                "kind": "ownership",
                "identifier": evidence.identifier.tag,
                "credential": evidence.credential_id,
                "authorization": evidence.authorization_id,
            }
        case HeldCertificate():
            return {
                "kind": "certificate",
                "role": evidence.role.value,
                "credential": evidence.credential_id,
                "sha256": evidence.sha256,
            }
        case (
            BasicPassword()
            | DigestPassword()
            | BearerToken()
            | SharedSecret()
            | ScepChallenge()
            | OneTimeChallenge()
            | DelegatedChallenge()
            | ApiKey()
        ):
            return {"kind": type(evidence).__name__, "credential": evidence.credential_id}
        case _:
            assert_never(evidence)


def issued_steps(intent: Intent, certificate: IssuedCertificate) -> Sequence[Step]:
    """The compare-and-set on the ledger, and the certificate. Lost when the sweeper was here before."""
    request = intent.request
    return (
        Step(ISSUED_SQL, (intent.id, certificate.issued_at)),
        Step(
            CERTIFICATE_INSERT_SQL,
            (
                certificate.issuer,
                certificate.serial,
                intent.id,
                certificate.der,
                request.csr.spki_sha256,
                certificate.profile,
                orjson.dumps(intent.names).decode(),
                request.channel.value,
                request.endpoint,
                str(request.principal),
                certificate.not_before,
                certificate.not_after,
                certificate.issued_at,
            ),
        ),
    )


def abandoned_step(issuance_id: str, now: Micros) -> Step:
    return Step(ABANDONED_SQL, (issuance_id, now))


def overdue(row: Row) -> Overdue:
    kind = row["origin_kind"]
    return Overdue(row["id"], row["issuer"], row["serial"], row["not_after"], Origin(kind, row["origin_id"]) if kind else None)


def record(row: Row) -> CertificateRecord:
    return CertificateRecord(
        certificate=IssuedCertificate(
            issuer=row["issuer"],
            serial=row["serial"],
            der=bytes(row["der"]),
            profile=row["profile"],
            not_before=row["not_before"],
            not_after=row["not_after"],
            issued_at=row["issued_at"],
        ),
        principal=row["principal"],
        names=tuple(orjson.loads(row["names"])),
        revoked_at=row["revoked_at"],
        reason=None if row["reason"] is None else RevocationReason(row["reason"]),
        channel=row["protocol"],
        endpoint=row["endpoint"],
    )


class Ledger:
    """Questions to the ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def guarded(self, request: IssuanceRequest) -> Rejection | None:
        """Why the steps of `guard_steps` undid a write, if it was them."""
        if await self._database.fetch_one(BLOCKED_KEY_SQL, request.csr.spki_sha256) is not None:
            return Rejection(
                Reason.BAD_PUBLIC_KEY,
                "this key is known to be compromised and gets no certificate again",
                suggestions=["make a new key"],
            )
        for held in _own_certificates(request):
            if await self._database.fetch_one(REVOKED_SQL, held.issuer, held.serial) is not None:
                return Rejection(
                    Reason.FORBIDDEN,
                    "the certificate that this request rests on is revoked",
                    suggestions=["enrol anew, with a password or another proof of who this is"],
                )
        return None

    async def attempt_with_key(self, idempotency_key: str) -> Row | None:
        return await self._database.fetch_one(BY_IDEMPOTENCY_KEY_SQL, idempotency_key)

    async def of_issuance(self, issuance_id: str) -> CertificateRecord | None:
        return _one(await self._database.fetch_one(BY_ISSUANCE_SQL, issuance_id))

    async def by_serial(self, serial: str, *, issuer: str | None, principal: str | None) -> CertificateRecord | None:
        """None too when two issuers have the same serial and none was named: better no answer than another's."""
        rows = await self._database.fetch(BY_SERIAL_SQL, serial, issuer or "", principal or "")
        return record(rows[0]) if len(rows) == 1 else None

    async def newest(self, *, principal: str | None, before: tuple[Micros, str], limit: int) -> Sequence[CertificateRecord]:
        arguments: list[Any] = [*before, limit]
        if principal is None:
            rows = await self._database.fetch(NEWEST_SQL, *arguments)
        else:
            rows = await self._database.fetch(NEWEST_OF_SQL, *arguments, principal)
        return [record(row) for row in rows]

    async def overdue(self, now: Micros) -> Sequence[Overdue]:
        return [overdue(row) for row in await self._database.fetch(OVERDUE_SQL, now)]


def _one(row: Row | None) -> CertificateRecord | None:
    return None if row is None else record(row)
