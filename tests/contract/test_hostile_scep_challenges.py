"""Who gets by SCEP's challenges, or past what guards them, what nobody meant them to have. On both engines."""

from __future__ import annotations

from datetime import timedelta

from issuance.lockout import Attempt, FailureLimits, Lockouts
from pki.reasons import Rejection
from policy.limits import Limit
from storage.database import Database
from tests.helpers.clock import FakeClock

HERE = "192.0.2.7"
QUARTER = timedelta(minutes=15)


async def is_locked(lockouts: Lockouts, attempt: Attempt) -> bool:
    try:
        await lockouts.check(attempt)
    except Rejection:
        return True
    return False


async def test_failures_at_an_est_label_of_the_same_name_open_no_lock_of_scep_and_close_none(
    database: Database, clock: FakeClock
) -> None:
    """One bucket for two limits is none: what the slower one writes lies too far ahead for the faster one, which begins it anew."""
    lockouts = Lockouts(database=database, clock=clock)
    scep, est = (
        Attempt(kind, "default", "", HERE, FailureLimits(per_address=limit))
        for kind, limit in (("scep", Limit(5, timedelta(hours=4))), ("est-user", Limit(30, QUARTER)))
    )
    for _ in range(5):
        await lockouts.failed(scep)
    assert (await is_locked(lockouts, scep), await is_locked(lockouts, est)) == (True, False)
    await lockouts.failed(est)
    assert await is_locked(lockouts, scep)
    for _ in range(30):
        await lockouts.failed(est)
    page = Attempt("scep-user", "default", "somebody", HERE, scep.limits)
    assert (await is_locked(lockouts, est), await is_locked(lockouts, page)) == (True, True)
    clock.advance(timedelta(hours=1))
    assert (await is_locked(lockouts, est), await is_locked(lockouts, scep)) == (False, False)
