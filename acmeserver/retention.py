"""What ACME leaves behind, removed when nobody needs it any more: orders, authorizations, and what hangs on them.

Law of this file: `certificate`, `issuance`, `revocation`, `crl`, `audit` and `blocked_key` are never written here, so nothing that a
CRL, an OCSP answer or an auditor reads depends on what is removed (in 2021 another CA's tidying took revoked certificates off
its CRL). An order that had a certificate stays, with the authorizations that it was granted on, until `issued` after that certificate's
end; what came to nothing stays until `unfinished` after its own. Each statement looks at no more than a batch of rows by primary
key: no index is kept for this job alone but one, and no request waits long behind it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta

from issuance.buckets import forget
from pki.clock import Clock, Micros, after
from storage.database import Database, Step, Value

# $1 is the last key of the batch before, the parameter after the key the size of a batch. In `delete` the keys of both ends
# come first.
ORDER_PAGE_SQL = "SELECT id FROM acme_order WHERE id > $1 ORDER BY id LIMIT $2"
# `processing` is the sweeper's to settle. A STAR order (RFC 8739) makes certificates until its end-date, once it has begun.
ORDER_DELETE_SQL = (
    "DELETE FROM acme_order WHERE id > $1 AND id <= $2 AND status <> 'processing' AND expires_at < $3 "
    "AND NOT EXISTS (SELECT 1 FROM certificate c WHERE c.serial = acme_order.serial AND c.issuer = acme_order.issuer "
    "AND c.not_after >= $4) "
    "AND NOT EXISTS (SELECT 1 FROM acme_star s WHERE s.order_id = acme_order.id AND s.ends_at >= $4 "
    "AND (s.state <> 'waiting' OR s.begun = 1)) RETURNING id"
)
# An order comes and goes with its links in one transaction, so a link without an order is one that was left behind here.
LINK_PAGE_SQL = (
    "SELECT order_id, authorization_id FROM acme_order_authorization WHERE (order_id, authorization_id) > ($1, $2) "
    "ORDER BY order_id, authorization_id LIMIT $3"
)
LINK_DELETE_SQL = (
    "DELETE FROM acme_order_authorization WHERE (order_id, authorization_id) > ($1, $2) "
    "AND (order_id, authorization_id) <= ($3, $4) AND NOT EXISTS (SELECT 1 FROM acme_order o WHERE o.id = acme_order_authorization.order_id) RETURNING order_id"
)
AUTHORIZATION_PAGE_SQL = "SELECT id FROM acme_authorization WHERE id > $1 ORDER BY id LIMIT $2"
AUTHORIZATION_DELETE_SQL = (
    "DELETE FROM acme_authorization WHERE id > $1 AND id <= $2 AND expires_at < $3 AND NOT EXISTS "
    "(SELECT 1 FROM acme_order_authorization oa WHERE oa.authorization_id = acme_authorization.id) RETURNING id"
)
STAR_PAGE_SQL = "SELECT order_id FROM acme_star WHERE order_id > $1 ORDER BY order_id LIMIT $2"
STAR_DELETE_SQL = (
    "DELETE FROM acme_star WHERE order_id > $1 AND order_id <= $2 "
    "AND (ends_at < $3 OR (state = 'waiting' AND begun = 0)) "
    "AND NOT EXISTS (SELECT 1 FROM acme_order o WHERE o.id = acme_star.order_id) RETURNING order_id"
)
STAR_CERTIFICATE_PAGE_SQL = (
    "SELECT issuer, serial FROM acme_star_certificate WHERE (issuer, serial) > ($1, $2) ORDER BY issuer, serial LIMIT $3"
)
STAR_CERTIFICATE_DELETE_SQL = (
    "DELETE FROM acme_star_certificate WHERE (issuer, serial) > ($1, $2) AND (issuer, serial) <= ($3, $4) AND NOT EXISTS "
    "(SELECT 1 FROM certificate c WHERE c.serial = acme_star_certificate.serial AND c.issuer = acme_star_certificate.issuer "
    "AND c.not_after >= $5) RETURNING serial"
)
REPLACEMENT_PAGE_SQL = (
    "SELECT issuer, serial FROM acme_replacement WHERE (issuer, serial) > ($1, $2) ORDER BY issuer, serial LIMIT $3"
)
# Of a certificate that has ended: nothing can replace it any more.
REPLACEMENT_DELETE_SQL = (
    "DELETE FROM acme_replacement WHERE (issuer, serial) > ($1, $2) AND (issuer, serial) <= ($3, $4) AND NOT EXISTS "
    "(SELECT 1 FROM certificate c WHERE c.serial = acme_replacement.serial AND c.issuer = acme_replacement.issuer "
    "AND c.not_after >= $5) RETURNING serial"
)

BATCH = 500  # rows that one statement looks at
BATCHES = 20  # of a turn: a job has a lease, and others want the database, too

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Walk:
    """Through a table by its primary key. `before` are the times that `delete` takes after the keys."""

    page: str
    delete: str
    key: int  # columns
    before: tuple[str, ...]


# In this order: what hangs on an order is free when the order is gone.
_WALKS = {
    "orders": _Walk(ORDER_PAGE_SQL, ORDER_DELETE_SQL, 1, ("unfinished", "issued")),
    "links": _Walk(LINK_PAGE_SQL, LINK_DELETE_SQL, 2, ()),
    "authorizations": _Walk(AUTHORIZATION_PAGE_SQL, AUTHORIZATION_DELETE_SQL, 1, ("unfinished",)),
    "renewing orders": _Walk(STAR_PAGE_SQL, STAR_DELETE_SQL, 1, ("issued",)),
    "their certificates": _Walk(STAR_CERTIFICATE_PAGE_SQL, STAR_CERTIFICATE_DELETE_SQL, 2, ("issued",)),
    "replacements": _Walk(REPLACEMENT_PAGE_SQL, REPLACEMENT_DELETE_SQL, 2, ("issued",)),
}


@dataclass(frozen=True, slots=True)
class Kept:
    """`unfinished`: after the expiry of what had no certificate; `issued`: after the end of the certificate."""

    unfinished: timedelta = timedelta(days=30)
    issued: timedelta = timedelta(days=730)


class Retention:
    """Remembers in memory how far it has come; whoever forgets that begins anew, which costs time and nothing else."""

    def __init__(self, *, database: Database, clock: Clock, kept: Kept, batch: int = BATCH, batches: int = BATCHES) -> None:
        self._database = database
        self._clock = clock
        self._kept = kept
        self._batch = batch
        self._batches = batches
        self._todo: list[str] = []
        self._last: tuple[Value, ...] = ()

    async def turn(self) -> bool:
        """A piece of the work; True when all tables have been gone through. Raises Unavailable (then go on later)."""
        now = self._clock.micros()
        if not self._todo:
            self._begin(list(_WALKS))
        gone: dict[str, int] = {}
        for _ in range(self._batches):
            name = self._todo[0]
            gone[name] = gone.get(name, 0) + await self._step(_WALKS[name], now)
            if not self._todo:
                break
        else:
            return self._told(gone, done=False)
        while buckets := await forget(self._database, now):
            gone["buckets"] = gone.get("buckets", 0) + buckets
        return self._told(gone, done=True)

    def _begin(self, names: list[str]) -> None:
        self._todo = names
        self._last = ("",) * _WALKS[names[0]].key if names else ()

    async def _step(self, walk: _Walk, now: Micros) -> int:
        rows = await self._database.fetch(walk.page, *self._last, self._batch)
        if not rows:
            self._begin(self._todo[1:])
            return 0
        first, self._last = self._last, tuple(rows[-1].values())
        limits = {"unfinished": after(now, -self._kept.unfinished), "issued": after(now, -self._kept.issued)}
        step = Step(walk.delete, (*first, *self._last, *(limits[each] for each in walk.before)), rows=None)
        (deleted,) = await self._database.write(step)
        return len(deleted)

    def _told(self, gone: dict[str, int], *, done: bool) -> bool:
        removed = ", ".join(f"{count} {name}" for name, count in gone.items() if count)
        if removed:
            _LOG.info("retention removed %s", removed)
        return done
