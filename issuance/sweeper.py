"""What a crash left behind. An intent past its lease may have been signed, and nobody will ever say so: its serial is revoked,
its order settled, and whoever waits may ask again and gets a new serial. Nothing is signed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from issuance import audit, ledger
from issuance.approval_requests import release_step
from issuance.request import Settler
from issuance.revocation import precaution_steps
from pki.clock import Clock, Micros
from pki.reasons import Reason, Rejection
from storage.database import Conflict, Database, Step


class Sweeper:
    def __init__(self, *, database: Database, settlers: Mapping[str, Settler], clock: Clock, new_id: Callable[[], str]) -> None:
        self._database = database
        self._ledger = ledger.Ledger(database)
        self._settlers = settlers
        self._clock = clock
        self._new_id = new_id

    async def sweep(self) -> int:
        """Settle what is overdue; gives how many. Several nodes may do this at once: the compare-and-set picks one."""
        swept = 0
        for overdue in await self._ledger.overdue(self._clock.micros()):
            try:
                await self._database.write(*self._steps(overdue, self._clock.micros()))
            except Conflict:
                continue
            swept += 1
        return swept

    def _steps(self, overdue: ledger.Overdue, now: Micros) -> Sequence[Step]:
        settled: Sequence[Step] = ()
        if overdue.origin is not None and overdue.origin.kind in self._settlers:
            rejection = Rejection(
                Reason.INTERRUPTED,
                "the server was interrupted while it signed; the serial it had taken is revoked",
                suggestions=["ask again"],
            )
            settled = self._settlers[overdue.origin.kind].failed(overdue.origin.id, rejection, now=now)
        return (
            ledger.abandoned_step(overdue.id, now),
            release_step(overdue.id),
            *precaution_steps(overdue.issuer, overdue.serial, overdue.not_after, now),
            audit.record(
                audit.Event.ISSUE_ABANDONED,
                record_id=self._new_id(),
                at=now,
                principal="system:sweeper",
                subject=f"certificate:{overdue.issuer}/{overdue.serial}",
                detail={"issuance": overdue.id, "why": "lease ran out"},
            ),
            *settled,
        )
