"""Rate limits on both engines: the statement is the verdict, all buckets or none, and the answer says which and until when."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest

from acmeserver.limits import LimitRules, Limits
from acmeserver.problems import Problem, ProblemType
from issuance.buckets import TAKE_SQL, forget
from pki.clock import Micros
from pki.identifiers import parse_dns
from policy.limits import SKEW, Limit, take, terms
from storage.database import Conflict, Database, Step
from tests.helpers.clock import FakeClock

HOUR = timedelta(hours=1)
NAMES = (parse_dns("www.example.com"), parse_dns("mail.example.org"))


def limits(database: Database, **rules: object) -> Limits:
    return Limits(endpoint="default", rules=LimitRules(**rules), database=database)  # type: ignore[arg-type]  # what a test says


async def order(
    database: Database, at: Limits, now: Micros, *names: str, account: str = "a", renewal: bool = False
) -> Problem | None:
    """None when the steps of an order are taken, else the refusal."""
    identifiers = [parse_dns(name) for name in names]
    try:
        await database.write(*at.order_steps(account, identifiers, now, to_prove=identifiers, renewal=renewal))
    except Conflict:
        refusal = await at.order_refusal(account, identifiers, now, to_prove=identifiers, renewal=renewal)
        assert refusal is not None
        assert refusal.type is ProblemType.RATE_LIMITED
        assert refusal.status == 429
        return refusal
    return None


async def waiting(database: Database, count: int, *, account: str = "a", expires_at: int) -> None:
    """Authorizations that nobody has proved."""
    (row,) = await database.fetch("SELECT count(*) AS n FROM acme_authorization")
    for number in range(row["n"], row["n"] + count):
        sql = (
            "INSERT INTO acme_authorization (id, account_id, identifier_type, identifier, wildcard, status, token, challenges, "
            "chosen, error, evidence, validated_at, expires_at, lease_until, created_at) "
            "VALUES ($1, $2, 'dns', 'example.com', 0, 'pending', '', '[]', '', '', '', NULL, $3, 0, 0)"
        )
        await database.write(Step(sql, (f"z{number}", account, expires_at)))


async def rows(database: Database) -> int:
    (row,) = await database.fetch("SELECT count(*) AS n FROM rate_bucket")
    return int(row["n"])


@pytest.mark.parametrize("seed", range(5))
async def test_the_statement_decides_as_the_arithmetic_does(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    limit = Limit(chance.randint(1, 6), timedelta(seconds=chance.randint(1, 600)))
    now, tat = 1_795_000_000_000_000, None
    for _ in range(80):
        now += chance.choice([0, 0, 1, limit.interval // 2, limit.interval, 3 * limit.interval, -limit.interval, -(10**10)])
        at = terms(limit, Micros(now))
        new = take(tat, at)
        try:
            args = ("o", "n", at.now + at.interval, at.now, at.interval, at.latest, at.absurd)
            await database.write(Step(TAKE_SQL, args))
        except Conflict:
            assert new is None
        else:
            assert new is not None
            tat = new
        row = await database.fetch_one("SELECT tat FROM rate_bucket WHERE owner = 'o' AND name = 'n'")
        assert row is not None
        assert row["tat"] == tat


async def test_an_account_has_its_burst_and_is_told_when_there_is_more(database: Database, clock: FakeClock) -> None:
    at = limits(database, orders_per_account=Limit(3, HOUR), help="https://ca.test/limits")
    for _ in range(3):
        assert await order(database, at, clock.micros(), "www.example.com") is None
    refused = await order(database, at, clock.micros(), "www.example.com")
    assert refused is not None
    assert refused.retry_after == 1200
    assert "new orders of this account" in refused.detail
    assert "3 in 1h" in refused.detail
    assert refused.help_url == "https://ca.test/limits"
    assert await order(database, at, clock.micros(), "www.example.com", account="b") is None
    clock.advance(timedelta(seconds=1199))
    assert await order(database, at, clock.micros(), "www.example.com") is not None
    clock.advance(timedelta(seconds=1))
    assert await order(database, at, clock.micros(), "www.example.com") is None


async def test_an_order_that_one_name_refuses_takes_from_no_bucket(database: Database, clock: FakeClock) -> None:
    at = limits(database, orders_per_account=Limit(5, HOUR), orders_per_name=Limit(1, HOUR))
    assert await order(database, at, clock.micros(), "a.example.org") is None
    for _ in range(10):
        refused = await order(database, at, clock.micros(), "a.example.com", "b.example.org", account="b")
        assert refused is not None
        assert "example.org" in refused.detail
        assert refused.retry_after == 3600
    for name in ("a.one.com", "a.two.com", "a.three.com", "a.example.com", "a.four.com"):
        assert await order(database, at, clock.micros(), name, account="b") is None


async def test_of_a_crowd_at_once_exactly_the_burst_is_admitted(database: Database, clock: FakeClock) -> None:
    at = limits(database, orders_per_account=Limit(7, HOUR), orders_per_name=Limit(100, HOUR))
    names = ["a.example.com", "b.example.org", "c.example.net"]
    crowd = [order(database, at, clock.micros(), *random.sample(names, 3)) for _ in range(40)]
    assert sum(refused is None for refused in await asyncio.gather(*crowd)) == 7


async def test_a_renewal_in_its_window_is_not_counted_and_not_refused(database: Database, clock: FakeClock) -> None:
    at = limits(database, orders_per_account=Limit(1, HOUR), orders_per_name=Limit(1, HOUR), pending_authorizations=100)
    assert await order(database, at, clock.micros(), "www.example.com") is None
    for _ in range(50):  # everybody whose certificate is pulled forward
        assert await order(database, at, clock.micros(), "www.example.com", renewal=True) is None
    assert await order(database, at, clock.micros(), "www.example.com") is not None
    clock.advance(HOUR)
    assert await order(database, at, clock.micros(), "www.example.com") is None


async def test_a_name_that_failed_too_often_is_refused_to_that_account_alone(database: Database, clock: FakeClock) -> None:
    at = limits(database, failed_validations=Limit(3, HOUR))
    for _ in range(2):
        await database.write(*at.failure_steps("a", NAMES[0], clock.micros()))
    assert await order(database, at, clock.micros(), "www.example.com", "mail.example.org") is None
    await database.write(*at.failure_steps("a", NAMES[0], clock.micros()))
    refused = await order(database, at, clock.micros(), "mail.example.org", "www.example.com")
    assert refused is not None
    assert "www.example.com" in refused.detail
    assert refused.retry_after == 1200
    assert await order(database, at, clock.micros(), "*.www.example.com") is not None
    assert await order(database, at, clock.micros(), "mail.example.org") is None
    assert await order(database, at, clock.micros(), "www.example.com", account="b") is None
    assert await order(database, at, clock.micros(), "www.example.com", renewal=True) is not None
    clock.advance(timedelta(seconds=1200))
    assert await order(database, at, clock.micros(), "www.example.com") is None


async def test_a_thousand_failures_in_flight_lock_a_name_for_one_interval_and_never_open_it(
    database: Database, clock: FakeClock
) -> None:
    at = limits(database, failed_validations=Limit(2, HOUR))
    for number in range(300):
        await database.write(*at.failure_steps("a", NAMES[0], clock.micros()))
        if number >= 1:
            assert await order(database, at, clock.micros(), "www.example.com") is not None
    clock.advance(HOUR / 2)
    assert await order(database, at, clock.micros(), "www.example.com") is None


async def test_an_account_may_have_only_so_many_unproved_authorizations(database: Database, clock: FakeClock) -> None:
    at = limits(database, pending_authorizations=10)
    now = clock.micros()
    await waiting(database, 8, expires_at=now + 1_000_000)
    assert await order(database, at, now, "a.test", "b.test") is None
    refused = await order(database, at, now, "a.test", "b.test", "c.test")
    assert refused is not None
    assert "8 authorizations of this account are pending" in refused.detail
    assert refused.retry_after is not None
    await waiting(database, 2, expires_at=now + 1_000_000)
    assert await order(database, at, now, "a.test") is not None
    assert await order(database, at, now, "a.test", renewal=True) is not None
    assert await order(database, at, now, "a.test", account="b") is None
    clock.advance(timedelta(seconds=1))  # they expire
    assert await order(database, at, clock.micros(), "a.test") is None


async def test_accounts_are_counted_by_address_and_by_site(database: Database, clock: FakeClock) -> None:
    at = limits(database, accounts_per_address=Limit(2, HOUR))
    now = clock.micros()
    for address in ("2001:db8:1::1", "2001:db8:1:ffff::2", "192.0.2.1", "192.0.2.2"):
        await database.write(*at.account_steps(address, now))
    with pytest.raises(Conflict):
        await database.write(*at.account_steps("2001:db8:1:7::7", now))
    refused = await at.account_refusal("2001:db8:1:7::7", now)
    assert refused is not None
    assert "2001:db8:1::/48" in refused.detail
    assert refused.retry_after == 1800
    assert await at.account_refusal("192.0.2.1", now) is None


async def test_what_is_not_limited_costs_no_statement(database: Database, clock: FakeClock) -> None:
    at = limits(database)
    assert at.order_steps("a", NAMES, clock.micros(), to_prove=NAMES) == []
    assert at.account_steps("192.0.2.1", clock.micros()) == []
    assert at.failure_steps("a", NAMES[0], clock.micros()) == []
    assert await at.order_refusal("a", NAMES, clock.micros(), to_prove=NAMES) is None
    assert await at.account_refusal("192.0.2.1", clock.micros()) is None


async def test_buckets_of_a_flood_are_forgotten_when_they_are_full_again(database: Database, clock: FakeClock) -> None:
    at = limits(database, accounts_per_address=Limit(2, HOUR))
    for number in range(1500):
        await database.write(*at.account_steps(f"198.51.{number // 250}.{number % 250}", clock.micros()))
    assert await rows(database) == 1500
    assert await forget(database, clock.micros()) == 0
    clock.advance(HOUR / 2 + SKEW + timedelta(seconds=1))
    await database.write(*at.account_steps("192.0.2.1", clock.micros()))
    assert await forget(database, clock.micros()) == 1000  # bounded
    assert await forget(database, clock.micros()) == 500
    assert await forget(database, clock.micros()) == 0
    assert await rows(database) == 1
