"""CRLs, as far as relying parties learn of revocations by them: the publisher, and what was published.

A CRL is made when the last one gets old or when the number of revocations is not the one that it was made from. So a
revocation needs no message that could get lost, a publisher that missed one publishes at its next look, and two publishers
at once are harmless: the number is the primary key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from issuance import audit
from pki.certificate import verify_signature
from pki.clock import Clock, Micros, after
from pki.plan import Issuer
from pki.reasons import RevocationReason, Unavailable
from signer.api import Signer
from signer.crl import CrlEntry, build_crl_tbs, finish_crl
from storage.database import Conflict, Database, Row, Step

NEWEST_CRL_SQL = """
SELECT number, der, this_update, next_update, revocations FROM crl WHERE issuer = $1 ORDER BY number DESC LIMIT 1
"""
CRL_AT_SQL = "SELECT der FROM crl WHERE issuer = $1 AND this_update <= $2 ORDER BY number DESC LIMIT 1"
COUNT_SQL = "SELECT count(*) AS revocations FROM revocation WHERE issuer = $1"
# RFC 5280 §3.3: an entry stays until one CRL after the certificate's end has shown it.
ENTRIES_SQL = """
SELECT serial, revoked_at, reason FROM revocation WHERE issuer = $1 AND not_after >= $2 ORDER BY revoked_at, serial
"""
CRL_INSERT_SQL = """
INSERT INTO crl (issuer, number, der, this_update, next_update, revocations) VALUES ($1, $2, $3, $4, $5, $6)
"""
CRL_PRUNE_SQL = "DELETE FROM crl WHERE issuer = $1 AND number < $2"

LOOK_EVERY = timedelta(seconds=15)  # a revocation hurries its issuer's job, so this is only the wait of an unlucky one
KEEP_CRLS = 10
_BACKDATE = timedelta(minutes=5)  # thisUpdate for relying parties whose clocks are behind


@dataclass(frozen=True, slots=True)
class CrlSchedule:
    """`refresh`: a new CRL at the latest so long after the last; `lifetime`: nextUpdate after thisUpdate (BR 4.9.7: <= 10 d)."""

    refresh: timedelta
    lifetime: timedelta

    def __post_init__(self) -> None:
        if not timedelta(0) < self.refresh < self.lifetime:
            raise ValueError("a CRL has to be refreshed before its lifetime is over")


class PublishedCrls:
    """Those that were published, the last KEEP_CRLS of each issuer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, issuer: str, *, at: Micros) -> bytes | None:
        """DER of the newest whose thisUpdate is not after `at`; None when there is none."""
        row = await self._database.fetch_one(CRL_AT_SQL, issuer, at)
        return None if row is None else bytes(row["der"])


class CrlPublisher:
    """One look per call: publishes when there is something to say, and tells when to look again."""

    def __init__(
        self,
        *,
        issuers: Mapping[str, Issuer],
        schedules: Mapping[str, CrlSchedule],
        database: Database,
        signer: Signer,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._issuers = issuers
        self._schedules = schedules
        self._database = database
        self._signer = signer
        self._clock = clock
        self._new_id = new_id

    async def look(self, issuer: str) -> Micros | None:
        """Publish if due. Gives the time of the next look; None for an issuer that is not configured any more."""
        if issuer not in self._issuers:
            return None
        newest = await self._database.fetch_one(NEWEST_CRL_SQL, issuer)
        counted = await self._database.fetch_one(COUNT_SQL, issuer)
        revocations = int(counted["revocations"]) if counted else 0
        if self._due(newest, revocations, self._schedules[issuer]):
            await self._publish(self._issuers[issuer], newest, revocations)
        return after(self._clock.micros(), LOOK_EVERY)

    def _due(self, newest: Row | None, revocations: int, schedule: CrlSchedule) -> bool:
        if newest is None or newest["revocations"] != revocations:
            return True
        return self._clock.micros() >= after(Micros(newest["this_update"]), schedule.refresh + _BACKDATE)

    async def _publish(self, issuer: Issuer, newest: Row | None, revocations: int) -> None:
        now = self._clock.micros()
        this_update = after(now, -_BACKDATE)
        number = 1 if newest is None else newest["number"] + 1
        next_update = after(this_update, self._schedules[issuer.name].lifetime)
        # Entries up to the last CRL's time, so that each expired one has been on one CRL after its end.
        shown_since = this_update if newest is None else min(this_update, newest["this_update"])
        rows = await self._database.fetch(ENTRIES_SQL, issuer.name, shown_since)
        # A thread: a long list would hold up every other request of this worker.
        tbs = await asyncio.to_thread(_build, issuer, rows, number, this_update, next_update)
        signature = await self._signer.sign_crl(issuer.name, tbs)
        if not verify_signature(issuer.certificate.public_key(), issuer.algorithm, signature, tbs):
            raise Unavailable("signer (it gave a signature that does not verify)")
        crl = finish_crl(tbs, issuer_certificate=issuer.certificate, signature=signature)
        try:
            await self._database.write(
                # A row that came after the count makes the count differ at the next look, which publishes again.
                Step(CRL_INSERT_SQL, (issuer.name, number, crl, this_update, next_update, revocations)),
                Step(CRL_PRUNE_SQL, (issuer.name, number - KEEP_CRLS), rows=None),
                audit.record(
                    audit.Event.CRL_PUBLISHED,
                    record_id=self._new_id(),
                    at=now,
                    principal="system:publisher",
                    subject=f"crl:{issuer.name}/{number}",
                    detail={"entries": len(rows), "next_update": next_update},
                ),
            )
        except Conflict:
            return  # another node published this number meanwhile


def _build(issuer: Issuer, rows: Sequence[Row], number: int, this_update: Micros, next_update: Micros) -> bytes:
    entries = [CrlEntry(int(row["serial"], 16), Micros(row["revoked_at"]), RevocationReason(row["reason"])) for row in rows]
    return build_crl_tbs(
        issuer_certificate=issuer.certificate,
        entries=entries,
        number=number,
        this_update=this_update,
        next_update=next_update,
    )
