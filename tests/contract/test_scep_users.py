"""Users of SCEP's challenge page: kept apart from everybody of the same name, and locked out as EST's are. On both engines."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest

from issuance.credentials import Credential, CredentialKind, Credentials
from issuance.lockout import FailureLimits
from issuance.scep_challenges import ScepChallenges, Terms
from pki.reasons import Reason, Rejection
from policy.limits import Limit
from policy.principal import COMMAND_LINE, Principal, PrincipalKind
from storage.database import Database
from tests.helpers.clock import FakeClock

HERE, THERE = "192.0.2.7", "198.51.100.9"
LIMITS = FailureLimits(per_name=Limit(2, timedelta(minutes=15)), per_address=Limit(4, timedelta(minutes=15)))


@pytest.fixture
def credentials(database: Database, clock: FakeClock) -> Credentials:
    return Credentials(database=database, clock=clock)


async def verdict(attempt: Coroutine[Any, Any, Credential]) -> Reason | Credential:
    try:
        return await attempt
    except Rejection as rejection:
        return rejection.reason


async def test_a_user_is_known_at_one_endpoint_by_the_last_password(credentials: Credentials) -> None:
    def check(password: str, *, user: str = "ndes", endpoint: str = "default") -> Coroutine[Any, Any, Reason | Credential]:
        return verdict(credentials.check_scep_user(endpoint=endpoint, user=user, password=password))

    await credentials.set_scep_user(endpoint="default", user="ndes", password="first")
    await credentials.set_scep_user(endpoint="default", user="ndes", password="second")
    known = Credential("scep:default/ndes", CredentialKind.SCEP_USER, "default", frozenset(), "")
    assert await check("second") == known
    strangers = [
        check("first"),
        check(""),
        check("second", endpoint="vpn"),
        check("second", endpoint="scep:default"),
        check("second", user="default/ndes"),
        check("second", user="NDES"),
        check("second", user=""),
    ]
    assert [await stranger for stranger in strangers] == [Reason.UNAUTHENTICATED] * len(strangers)
    await credentials.disable(CredentialKind.SCEP_USER, "scep:default/ndes")
    assert await check("second") is Reason.UNAUTHENTICATED


async def test_a_user_of_est_with_the_same_name_is_somebody_else(credentials: Credentials) -> None:
    await credentials.set_est_user(endpoint="default", user="a", password="est", roles=[], profile="")
    await credentials.set_scep_user(endpoint="default", user="a", password="scep")
    await credentials.check_est_user(endpoint="default", user="a", password="est")
    await credentials.check_scep_user(endpoint="default", user="a", password="scep")
    crossed = [
        credentials.check_est_user(endpoint="default", user="a", password="scep"),
        credentials.check_scep_user(endpoint="default", user="a", password="est"),
        credentials.check_scep_challenge(endpoint="default", challenge="scep"),
    ]
    assert [await verdict(attempt) for attempt in crossed] == [Reason.UNAUTHENTICATED] * 3


@pytest.mark.parametrize(
    ("endpoint", "user"), [("a/b", "c"), ("", "a"), ("default", ""), ("default", "a:b"), ("default", "\n")]
)
async def test_what_basic_cannot_carry_is_no_user(credentials: Credentials, endpoint: str, user: str) -> None:
    with pytest.raises(Rejection) as refused:
        await credentials.set_scep_user(endpoint=endpoint, user=user, password="password")
    assert refused.value.reason is Reason.MALFORMED


async def test_guessing_locks_the_name_from_this_address_and_then_the_address(
    credentials: Credentials, clock: FakeClock
) -> None:
    await credentials.set_scep_user(endpoint="default", user="a", password="right")
    await credentials.set_scep_user(endpoint="default", user="b", password="right")

    async def check(user: str, password: str, address: str = HERE) -> Reason | Credential:
        attempt = credentials.check_scep_user(endpoint="default", user=user, password=password, address=address, limits=LIMITS)
        return await verdict(attempt)

    assert [await check("a", f"wrong{n}") for n in range(2)] == [Reason.UNAUTHENTICATED] * 2
    assert await check("a", "right") is Reason.RATE_LIMITED
    assert isinstance(await check("a", "right", THERE), Credential)
    assert isinstance(await check("b", "right"), Credential)
    assert [await check("nobody", f"wrong{n}") for n in range(2)] == [Reason.UNAUTHENTICATED] * 2
    assert await check("b", "right") is Reason.RATE_LIMITED  # four from this address
    clock.advance(timedelta(minutes=15))
    assert isinstance(await check("a", "right"), Credential)


async def test_a_users_challenges_open_while_their_user_does_and_are_counted_until_used(
    credentials: Credentials, database: Database, clock: FakeClock
) -> None:
    challenges = ScepChallenges(database=database, clock=clock)
    await credentials.set_scep_user(endpoint="default", user="ndes", password="x")
    user = Principal(PrincipalKind.SCEP_USER, "scep:default/ndes", frozenset())
    other = Principal(PrincipalKind.SCEP_USER, "scep:default/other", frozenset())
    terms, hour = Terms("default", frozenset({"device"})), timedelta(hours=1)
    first, second, short = [
        await challenges.create(terms, lifetime=lifetime, made_by=user) for lifetime in (hour, hour, hour / 2)
    ]
    orphan = await challenges.create(terms, lifetime=hour, made_by=other)
    assert (await challenges.unused(user), await challenges.unused(other)) == (3, 0)
    assert await challenges.find(endpoint="default", challenge=first.challenge) is not None
    assert await challenges.find(endpoint="default", challenge=orphan.challenge) is None  # there is no such user

    await challenges.disable(first.id, by=COMMAND_LINE)
    clock.advance(hour / 2)
    assert await challenges.unused(user) == 1
    assert await challenges.find(endpoint="default", challenge=short.challenge) is None

    await credentials.disable(CredentialKind.SCEP_USER, "scep:default/ndes")
    assert await challenges.find(endpoint="default", challenge=second.challenge) is None
    await credentials.set_scep_user(endpoint="default", user="ndes", password="y")
    assert await challenges.find(endpoint="default", challenge=second.challenge) is None  # it came by another password
    assert await challenges.unused(user) == 0
