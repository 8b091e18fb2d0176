"""Which of several workers validates: a claim in the scratch store, so that fifty POSTs to three workers are one validation.

Law of this file: a claim is a courtesy, never a lock. Losing all of them costs a second look at a name, and what is true of the
authorization is decided by the compare-and-set that settles it.
"""

from __future__ import annotations

from datetime import timedelta

from pki.clock import Clock, after
from storage.database import Database, Step

TAKE_SQL = (
    "INSERT INTO validation_claim (authorization_id, holder, lease_until) VALUES ($1, $2, $3) "
    "ON CONFLICT (authorization_id) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until "
    "WHERE validation_claim.holder = excluded.holder OR validation_claim.lease_until <= $4 RETURNING holder"
)
RELEASE_SQL = "DELETE FROM validation_claim WHERE authorization_id = $1 AND holder = $2"
FORGET_SQL = "DELETE FROM validation_claim WHERE lease_until <= $1"


class Claims:
    """One worker's; `holder` is its own among all."""

    def __init__(self, *, database: Database, clock: Clock, holder: str) -> None:
        self._database = database
        self._clock = clock
        self._holder = holder

    async def take(self, authorization_id: str, lease: timedelta) -> bool:
        """Also renews what this worker holds. False: another worker is at it. Raises Unavailable."""
        now = self._clock.micros()
        args = (authorization_id, self._holder, after(now, lease), now)
        ((*taken,),) = await self._database.scratch.write(Step(TAKE_SQL, args, rows=None))
        return bool(taken)

    async def release(self, authorization_id: str) -> None:
        """Of a validation that came to nothing. One that was settled keeps its claim until it is over, so that a worker that
        read the authorization a moment before does not begin again.
        """
        await self._database.scratch.write(Step(RELEASE_SQL, (authorization_id, self._holder), rows=None))

    async def clean(self) -> None:
        await self._database.scratch.write(Step(FORGET_SQL, (self._clock.micros(),), rows=None))
