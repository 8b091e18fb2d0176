"""Revocation: steps for the ledger. How relying parties learn of it: crl.py."""

from __future__ import annotations

from collections.abc import Sequence

from issuance import audit
from issuance.ledger import CertificateRecord
from pki.clock import Micros
from pki.reasons import RevocationReason
from storage.database import Step

REVOCATION_INSERT_SQL = """
INSERT INTO revocation (issuer, serial, revoked_at, reason, not_after, principal, precaution) VALUES ($1, $2, $3, $4, $5, $6, 0)
"""
PRECAUTION_INSERT_SQL = """
INSERT INTO revocation (issuer, serial, revoked_at, reason, not_after, principal, precaution)
VALUES ($1, $2, $3, 0, $4, 'system:pipeline', 1) ON CONFLICT (issuer, serial) DO NOTHING
"""
BLOCK_KEY_SQL = """
INSERT INTO blocked_key (spki_sha256, reason, blocked_at)
SELECT spki_sha256, 'key-compromise', CAST($3 AS BIGINT) FROM certificate WHERE issuer = $1 AND serial = $2
ON CONFLICT (spki_sha256) DO NOTHING
"""
HURRY_SQL = "UPDATE job SET run_at = $2 WHERE dedupe = $1 AND run_at > $2"


def job_key(issuer: str) -> str:
    """The `dedupe` of an issuer's publishing job."""
    return f"crl/{issuer}"


def precaution_steps(issuer: str, serial: str, not_after: Micros, now: Micros) -> Sequence[Step]:
    """For a serial that may have been signed without our learning of it."""
    return Step(PRECAUTION_INSERT_SQL, (issuer, serial, now, not_after), rows=None), _hurry_step(issuer, now)


def _hurry_step(issuer: str, now: Micros) -> Step:
    """The next CRL now, and not at the publisher's next look."""
    return Step(HURRY_SQL, (job_key(issuer), now), rows=None)


def revoke_steps(
    record: CertificateRecord, *, reason: RevocationReason, principal: str, now: Micros, audit_id: str
) -> Sequence[Step]:
    """Conflict when it is revoked already. A compromised key is never certified again (BR 6.1.1.3 (5))."""
    certificate = record.certificate
    key = (certificate.issuer, certificate.serial)
    steps = [
        Step(REVOCATION_INSERT_SQL, (*key, now, int(reason), certificate.not_after, principal)),
        audit.record(
            audit.Event.REVOKED,
            record_id=audit_id,
            at=now,
            principal=principal,
            subject=f"certificate:{certificate.issuer}/{certificate.serial}",
            detail={"reason": reason.name.lower(), "names": record.names},
        ),
        _hurry_step(certificate.issuer, now),
    ]
    if reason is RevocationReason.KEY_COMPROMISE:
        steps.append(_block_key_step(record, now))
    return steps


def block_key_steps(record: CertificateRecord, *, principal: str, now: Micros, audit_id: str) -> Sequence[Step]:
    """For a compromise that is told when the certificate is revoked already, perhaps by whoever stole its key."""
    certificate = record.certificate
    return (
        _block_key_step(record, now),
        audit.record(
            audit.Event.KEY_BLOCKED,
            record_id=audit_id,
            at=now,
            principal=principal,
            subject=f"certificate:{certificate.issuer}/{certificate.serial}",
            detail={"reason": RevocationReason.KEY_COMPROMISE.name.lower()},
        ),
    )


def _block_key_step(record: CertificateRecord, now: Micros) -> Step:
    return Step(BLOCK_KEY_SQL, (record.certificate.issuer, record.certificate.serial, now), rows=None)
