"""Transactions (RFC 8894 §3.2.1.1) that outlive one message: what waits to be polled for, and what was opened by something that opens
only once.

Law of this file: a row is somebody's by the key that signs their messages, never by the transactionID alone, which all devices of
one make may share. What is in it was authorised when it was written; it holds no CSR, for the challenge is in that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType

import orjson

from issuance.request import (
    CertificateRole,
    Channel,
    DelegatedChallenge,
    Evidence,
    HeldCertificate,
    IssuanceRequest,
    OneTimeChallenge,
    ScepChallenge,
)
from pki import der
from pki.clock import Clock, after
from pki.csr import Csr, assemble_csr, load_public_key
from pki.identifiers import parse_identifier
from policy.principal import Principal, PrincipalKind
from scep.endpoint import Way
from storage.database import Database, Row, Step

REMEMBERED = timedelta(days=30)  # of approvals: a week to decide and a week to fetch, unless configured longer
AT_ONCE = 20  # transactions of one key

# One request at a time of one key and transactionID: a request of its own for something else takes its place.
REMEMBER_SQL = """
INSERT INTO scep_transaction (endpoint, transaction_id, signer_sha256, csr_sha256, spki, subject, names, way, allowed_by, profile,
    idempotency_key, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (endpoint, signer_sha256, transaction_id) DO UPDATE SET csr_sha256 = EXCLUDED.csr_sha256, spki = EXCLUDED.spki,
    subject = EXCLUDED.subject, names = EXCLUDED.names, way = EXCLUDED.way, allowed_by = EXCLUDED.allowed_by,
    profile = EXCLUDED.profile, idempotency_key = EXCLUDED.idempotency_key,
    created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at
"""
# The oldest of one key go when it has too many: else whoever takes a new transactionID for every try would fill the table.
MAKE_ROOM_SQL = """
DELETE FROM scep_transaction WHERE endpoint = $1 AND signer_sha256 = $2 AND transaction_id IN
    (SELECT transaction_id FROM scep_transaction WHERE endpoint = $1 AND signer_sha256 = $2 AND transaction_id <> $3
    ORDER BY created_at DESC, transaction_id LIMIT 1000 OFFSET $4)
"""
FIND_SQL = """
SELECT csr_sha256, spki, subject, names, way, allowed_by, profile, idempotency_key FROM scep_transaction
WHERE endpoint = $1 AND transaction_id = $2 AND signer_sha256 = $3 AND expires_at > $4
"""
FORGET_SQL = """
DELETE FROM scep_transaction WHERE (endpoint, transaction_id, signer_sha256) IN
    (SELECT endpoint, transaction_id, signer_sha256 FROM scep_transaction WHERE expires_at <= $1 LIMIT 1000)
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Whose transaction, where."""

    endpoint: str
    transaction_id: str
    signer_sha256: str  # hex, of the SubjectPublicKeyInfo that signs the messages


@dataclass(frozen=True, slots=True)
class Remembered:
    """`request` is what was asked and allowed; its CSR has no octets of its own any more, only what issuance needs."""

    way: Way
    request: IssuanceRequest


class Transactions:
    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def remember(self, place: Place, way: Way, request: IssuanceRequest, *also: Step) -> None:
        """Raises storage.database.Conflict when `also` does, and then nothing is written; Unavailable."""
        others = (place.endpoint, place.signer_sha256, place.transaction_id, AT_ONCE - 1)
        await self._database.write(*also, Step(MAKE_ROOM_SQL, others, rows=None), self._step(place, way, request))

    async def find(self, place: Place, *, source_address: str) -> Remembered | None:
        row = await self._database.fetch_one(
            FIND_SQL, place.endpoint, place.transaction_id, place.signer_sha256, self._clock.micros()
        )
        return None if row is None else _remembered(row, place, source_address)

    async def forget(self) -> None:
        """Those whose time is over; a thousand at a time."""
        await self._database.write(Step(FORGET_SQL, (self._clock.micros(),), rows=None))

    def _step(self, place: Place, way: Way, request: IssuanceRequest) -> Step:
        now, csr = self._clock.micros(), request.csr
        return Step(
            REMEMBER_SQL,
            (
                place.endpoint,
                place.transaction_id,
                place.signer_sha256,
                csr.sha256,
                csr.spki,
                csr.subject,
                orjson.dumps([identifier.tag for identifier in request.identifiers]).decode(),
                way.value,
                _allowed_by(request),
                request.profile,
                request.idempotency_key,
                now,
                after(now, REMEMBERED),
            ),
        )


def _remembered(row: Row, place: Place, source_address: str) -> Remembered:
    allowed = orjson.loads(row["allowed_by"])
    principal = Principal(
        PrincipalKind(allowed["kind"]), allowed["id"], frozenset(allowed["roles"]), source_address=source_address
    )
    csr = _csr(row)
    return Remembered(
        Way(row["way"]),
        IssuanceRequest(
            channel=Channel.SCEP,
            endpoint=place.endpoint,
            principal=principal,
            evidence=(_evidence(allowed["evidence"]),),
            profile=row["profile"],
            csr=csr,
            identifiers=tuple(parse_identifier(tag) for tag in orjson.loads(row["names"])),
            common_name=csr.common_name,
            idempotency_key=row["idempotency_key"],
        ),
    )


def _csr(row: Row) -> Csr:
    spki = bytes(row["spki"])
    found = assemble_csr(
        b"",
        public_key=load_public_key(spki),
        subject=der.whole(bytes(row["subject"]), der.SEQUENCE),
        signature_digest="",
        attributes={},
        extensions={},
    )
    return replace(found, sha256=row["csr_sha256"])


def _allowed_by(request: IssuanceRequest) -> str:
    principal = request.principal
    (evidence,) = request.evidence
    content = {
        "kind": principal.kind.value,
        "id": principal.id,
        "roles": sorted(principal.roles),
        "evidence": _as_json(evidence),
    }
    return orjson.dumps(content).decode()


def _as_json(evidence: Evidence) -> Mapping[str, str]:
    match evidence:
        case HeldCertificate(role, issuer, serial, sha256):
            return {"kind": "certificate", "role": role.value, "issuer": issuer, "serial": serial, "sha256": sha256}
        case ScepChallenge(credential_id) | OneTimeChallenge(credential_id) | DelegatedChallenge(credential_id):
            return {"kind": type(evidence).__name__, "credential": credential_id}
        case _:
            raise AssertionError(f"SCEP has no evidence {type(evidence).__name__}")


_CHALLENGES: Mapping[str, type[ScepChallenge | OneTimeChallenge | DelegatedChallenge]] = MappingProxyType(
    {kind.__name__: kind for kind in (ScepChallenge, OneTimeChallenge, DelegatedChallenge)}
)


def _evidence(content: Mapping[str, str]) -> Evidence:
    if content["kind"] == "certificate":
        role = CertificateRole(content["role"])
        return HeldCertificate(role, content["issuer"], content["serial"], content["sha256"])
    return _CHALLENGES[content["kind"]](content["credential"])
