"""Passwords as an attacker without any sends them: every check has a bounded price, and so has the queue for it."""

from __future__ import annotations

import asyncio

import pytest

from issuance.credentials import Credentials
from pki.reasons import Reason, Rejection, Unavailable
from storage.database import Database
from tests.helpers.clock import FakeClock

# Canonical ordering (Unicode §3.11, D109) sorts marks by insertion: a long run the wrong way round is quadratic.
MARKS = "a" + "\N{COMBINING ACUTE ACCENT}" * 60_000 + "\N{COMBINING GRAVE ACCENT BELOW}" * 60_000


async def refusal(check: object) -> Rejection:
    assert asyncio.iscoroutine(check)
    with pytest.raises(Rejection) as refused:
        await asyncio.wait_for(check, 10)
    return refused.value


async def test_nobody_sorts_the_marks_of_a_stranger(database: Database, clock: FakeClock) -> None:
    """Sorting takes half a minute each, and `wait_for` would be late."""
    credentials = Credentials(database=database, clock=clock)
    for check in (
        credentials.check_est_user(endpoint="default", user=MARKS, password="x"),
        credentials.check_est_user(endpoint="default", user="x", password=MARKS),
        credentials.check_scep_challenge(endpoint="default", challenge=MARKS),
    ):
        assert (await refusal(check)).reason is Reason.UNAUTHENTICATED


async def test_a_password_of_marks_that_fits_is_still_one_in_every_spelling(database: Database, clock: FakeClock) -> None:
    credentials = Credentials(database=database, clock=clock)
    await credentials.set_est_user(endpoint="default", user="zoë", password="né" * 100, roles=["device"], profile="")
    found = await credentials.check_est_user(endpoint="default", user="zoe\u0308", password="ne\u0301" * 100)
    assert found.id == "default/zoë"


async def test_who_guesses_faster_than_scrypt_is_sent_away_and_holds_up_nobody_who_is_known(
    database: Database, clock: FakeClock
) -> None:
    credentials = Credentials(database=database, clock=clock, queue=5)
    await credentials.set_est_user(endpoint="default", user="router", password="correct horse", roles=["device"], profile="")
    await credentials.check_est_user(endpoint="default", user="router", password="correct horse")

    async def guess(number: int) -> type[Exception]:
        try:
            await credentials.check_est_user(endpoint="default", user="router", password=f"guess {number}")
        except (Rejection, Unavailable) as error:
            # Whoever was right before is served while the others wait.
            found = await credentials.check_est_user(endpoint="default", user="router", password="correct horse")
            assert found.id == "default/router"
            return type(error)
        raise AssertionError("a guess was right")

    outcomes = await asyncio.gather(*map(guess, range(30)))
    assert set(outcomes) == {Rejection, Unavailable}
    assert await guess(30) is Rejection  # the places are free again


async def test_who_guesses_at_one_kind_of_secret_takes_no_place_of_another(database: Database, clock: FakeClock) -> None:
    """SCEP is served to anybody, without a limit of failures: its guesses must not keep EST's users out."""
    credentials = Credentials(database=database, clock=clock, queue=5)
    await credentials.set_est_user(endpoint="default", user="router", password="correct horse", roles=["device"], profile="")
    guesses = [
        asyncio.create_task(credentials.check_scep_challenge(endpoint="default", challenge=f"guess {number}"))
        for number in range(30)
    ]
    await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)  # sent away: there are no places left
    found = await credentials.check_est_user(endpoint="default", user="router", password="correct horse")
    assert found.id == "default/router"
    outcomes = await asyncio.gather(*guesses, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Rejection, Unavailable}
