"""Shared secrets of CMC clients, checked (RFC 5272 §6.2): a proof made with one is right or wrong, and wrong ones are counted."""

from __future__ import annotations

from collections.abc import Callable

from issuance.lockout import LOCKS, NO_LIMITS, Attempt, FailureLimits, Lockouts, looked_up
from issuance.sealed import SealedCredential, SealedKind, SealedSecrets
from pki.clock import Clock
from pki.reasons import Reason, Rejection
from storage.database import Database

LOCKS_SQL = f"SELECT locks.* FROM {LOCKS}"  # noqa: S608  # constants only

_NOBODYS = b"there is no such secret"


class CmcSecrets:
    def __init__(self, *, database: Database, clock: Clock, sealed: SealedSecrets, lockouts: Lockouts) -> None:
        self._database = database
        self._clock = clock
        self._sealed = sealed
        self._lockouts = lockouts
        self._nobodys_box: bytes | None = None

    async def check(
        self,
        *,
        endpoint: str,
        identification: str,
        is_right: Callable[[str], bool],
        address: str = "",
        limits: FailureLimits = NO_LIMITS,
    ) -> SealedCredential:
        """`is_right` says whether what was sent goes with this secret; it is asked for an identification that nobody has, too.

        Raises Rejection: UNAUTHENTICATED, the same for every way to be wrong, or RATE_LIMITED; and Unavailable.
        """
        attempt = Attempt(SealedKind.CMC_SECRET.value, endpoint, identification, address, limits)
        return await self._lockouts.to_its_end(self._counted(attempt, is_right))

    async def _counted(self, attempt: Attempt, is_right: Callable[[str], bool]) -> SealedCredential:
        async with self._lockouts.turn(attempt):
            await looked_up(self._database, LOCKS_SQL, attempt, self._clock.micros())
            found = await self._sealed.cmc_secret(endpoint=attempt.endpoint, identification=attempt.name)
            secret = self._nobodys() if found is None else found.secret
            if not is_right(secret.decode()) or found is None:
                await self._lockouts.failed(attempt)
                raise Rejection(
                    Reason.UNAUTHENTICATED,
                    "identification and shared secret are not valid at this EST endpoint; ask an operator for a secret",
                )
            return found

    def _nobodys(self) -> bytes:
        """A box is opened for nobody, too, so that it takes as long."""
        place = SealedKind.CMC_SECRET, "", ""
        if self._nobodys_box is None:
            self._nobodys_box = self._sealed.sealed(*place, _NOBODYS)
        return self._sealed.opened(*place, self._nobodys_box)
