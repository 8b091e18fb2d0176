"""When a certificate should be renewed: what the ledger knows of it, and decisions that pull whole sets of renewals forward.

A decision is one row that describes the set (issuer, profile, span of issuance), not one row for each certificate: a million
certificates are pulled forward in one write, and a question about one of them is still one look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

import orjson

from issuance import audit
from pki.clock import Clock, Micros, after, rfc3339
from pki.reasons import Reason, Rejection
from policy.principal import Principal
from storage.database import Conflict, Database, Row, Step

RENEWAL_SQL = """
SELECT c.issuer, c.serial, c.principal, c.names, c.not_before, c.not_after, r.revoked_at, r.principal AS revoked_by,
    p.window_start, p.window_end, p.explanation_url
FROM certificate c LEFT JOIN revocation r ON r.issuer = c.issuer AND r.serial = c.serial
LEFT JOIN renewal_pull p ON p.issuer = c.issuer AND (p.profile = '' OR p.profile = c.profile)
    AND c.issued_at >= p.issued_from AND c.issued_at < p.issued_before AND p.withdrawn_at = 0
WHERE c.serial = $1 ORDER BY p.window_start, p.id LIMIT 100
"""
PULL_INSERT_SQL = """
INSERT INTO renewal_pull (id, issuer, profile, issued_from, issued_before, window_start, window_end, explanation_url, principal,
    created_at, withdrawn_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0)
"""
PULLS_SQL = """
SELECT id, issuer, profile, issued_from, issued_before, window_start, window_end, explanation_url, principal, created_at,
    withdrawn_at FROM renewal_pull ORDER BY created_at, id
"""
PULL_WITHDRAW_SQL = "UPDATE renewal_pull SET withdrawn_at = $2 WHERE id = $1 AND withdrawn_at = 0"
PULLED_COUNT_SQL = """
SELECT count(*) AS certificates FROM certificate c LEFT JOIN revocation r ON r.issuer = c.issuer AND r.serial = c.serial
WHERE c.issuer = $1 AND ($2 = '' OR c.profile = $2) AND c.issued_at >= $3 AND c.issued_at < $4 AND c.not_after > $5
    AND r.serial IS NULL
"""

SHORTEST_WINDOW = timedelta(minutes=1)  # whole seconds are served, and the end has to come after the start


@dataclass(frozen=True, slots=True)
class Window:
    """RFC 9773 §4.2: `start` is before `end`."""

    start: Micros
    end: Micros


@dataclass(frozen=True, slots=True)
class RenewalRecord:
    """What a renewal depends on. `names` are tags such as "dns:example.com"; `pulled` is the earliest decision about it."""

    issuer: str
    serial: str
    principal: str
    names: tuple[str, ...]
    not_before: Micros
    not_after: Micros
    revoked_at: Micros | None
    pulled: Window | None
    explanation_url: str
    revoked_by: str = ""  # "kind:id"


@dataclass(frozen=True, slots=True)
class Pull:
    """A decision: certificates of `issuer` (and `profile`, unless ''), issued in [issued_from, issued_before), have `window`."""

    id: str
    issuer: str
    profile: str
    issued_from: Micros
    issued_before: Micros
    window: Window
    explanation_url: str
    principal: str
    created_at: Micros
    withdrawn_at: Micros  # 0: in force


async def find(database: Database, serial: str, *, issuers: Collection[str]) -> RenewalRecord | None:
    """The certificate with this serial, of one of `issuers` (several have one key when a CA was certified anew)."""
    for row in await database.fetch(RENEWAL_SQL, serial):
        if row["issuer"] in issuers:
            return _record(row)
    return None


class Renewals:
    """What an operator does about renewals."""

    def __init__(self, *, database: Database, clock: Clock, new_id: Callable[[], str]) -> None:
        self._database = database
        self._clock = clock
        self._new_id = new_id

    async def pull(
        self,
        *,
        issuer: str,
        profile: str,
        issued_from: Micros,
        issued_before: Micros,
        within: timedelta,
        explanation_url: str,
        principal: Principal,
    ) -> tuple[Pull, int]:
        """Decide it, from now on; gives the decision and how many living certificates it is about. Raises Rejection."""
        now = self._clock.micros()
        if not issued_from < issued_before <= now:
            raise Rejection(
                Reason.MALFORMED,
                "a set of certificates is those that were issued between two times in the past",
                suggestions=["what is issued from now on is made right, and would otherwise be renewed again and again"],
            )
        if within < SHORTEST_WINDOW:
            raise Rejection(Reason.MALFORMED, "give the clients at least a minute, and better a day: they come one by one")
        window = Window(now, after(now, within))
        pull = Pull(
            self._new_id(), issuer, profile, issued_from, issued_before, window, explanation_url, str(principal), now, Micros(0)
        )
        counted = await self._database.fetch_one(PULLED_COUNT_SQL, issuer, profile, issued_from, issued_before, now)
        certificates = int(counted["certificates"]) if counted else 0
        await self._database.write(*self._pull_steps(pull, certificates))
        return pull, certificates

    async def withdraw(self, pull_id: str, principal: Principal) -> None:
        """Back to the ordinary windows. Raises Rejection(NOT_FOUND)."""
        now = self._clock.micros()
        record = audit.record(
            audit.Event.RENEWALS_PULL_WITHDRAWN,
            record_id=self._new_id(),
            at=now,
            principal=str(principal),
            subject=f"renewal-pull:{pull_id}",
            detail={},
        )
        try:
            await self._database.write(Step(PULL_WITHDRAW_SQL, (pull_id, now)), record)
        except Conflict:
            raise Rejection(Reason.NOT_FOUND, "there is no such decision, or it was withdrawn already") from None

    async def list(self) -> Sequence[Pull]:
        """All that were ever made, oldest first."""
        return [_pull(row) for row in await self._database.fetch(PULLS_SQL)]

    def _pull_steps(self, pull: Pull, certificates: int) -> Sequence[Step]:
        terms = (pull.issuer, pull.profile, pull.issued_from, pull.issued_before, pull.window.start, pull.window.end)
        return (
            Step(PULL_INSERT_SQL, (pull.id, *terms, pull.explanation_url, pull.principal, pull.created_at)),
            audit.record(
                audit.Event.RENEWALS_PULLED,
                record_id=self._new_id(),
                at=pull.created_at,
                principal=pull.principal,
                subject=f"renewal-pull:{pull.id}",
                detail={
                    "issuer": pull.issuer,
                    "profile": pull.profile,
                    "issued_from": rfc3339(pull.issued_from),
                    "issued_before": rfc3339(pull.issued_before),
                    "window_end": rfc3339(pull.window.end),
                    "explanation_url": pull.explanation_url,
                    "certificates": certificates,
                },
            ),
        )


def _record(row: Row) -> RenewalRecord:
    pulled = None if row["window_start"] is None else Window(row["window_start"], row["window_end"])
    return RenewalRecord(
        issuer=row["issuer"],
        serial=row["serial"],
        principal=row["principal"],
        names=tuple(orjson.loads(row["names"])),
        not_before=row["not_before"],
        not_after=row["not_after"],
        revoked_at=row["revoked_at"],
        pulled=pulled,
        explanation_url=row["explanation_url"] or "",
        revoked_by=row["revoked_by"] or "",
    )


def _pull(row: Row) -> Pull:
    window = Window(row["window_start"], row["window_end"])
    return Pull(
        row["id"],
        row["issuer"],
        row["profile"],
        row["issued_from"],
        row["issued_before"],
        window,
        row["explanation_url"],
        row["principal"],
        row["created_at"],
        row["withdrawn_at"],
    )
