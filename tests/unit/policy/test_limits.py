"""Token buckets: never more than a burst and its rate, whatever the clock does."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import Micros
from pki.identifiers import parse_dns, parse_ip
from policy.limits import SKEW, Limit, address_key, registered_names, take, terms, wait

START = Micros(1_795_000_000_000_000)
SECOND = 1_000_000
LIMITS = st.builds(
    Limit, count=st.integers(1, 50), period=st.integers(1, 86_400).map(lambda seconds: timedelta(seconds=seconds))
)
PAUSES = st.lists(st.integers(0, 600 * SECOND), min_size=1, max_size=150)


def admitted(limit: Limit, pauses: list[int]) -> list[int]:
    """When somebody who asks after each pause is admitted."""
    now, tat, times = int(START), None, []
    for pause in pauses:
        now += pause
        new = take(tat, terms(limit, Micros(now)))
        if new is not None:
            tat = new
            times.append(now)
    return times


@given(LIMITS, PAUSES)
def test_no_window_admits_more_than_a_burst_and_the_rate(limit: Limit, pauses: list[int]) -> None:
    times = admitted(limit, pauses)
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= limit.count + (times[last] - start) // limit.interval


@given(LIMITS, PAUSES)
def test_who_stays_below_the_rate_is_never_refused(limit: Limit, pauses: list[int]) -> None:
    patient = [max(pause, limit.interval) for pause in pauses]
    assert len(admitted(limit, patient)) == len(patient)


@given(LIMITS)
def test_a_full_bucket_admits_its_burst_at_once_and_not_one_more(limit: Limit) -> None:
    assert len(admitted(limit, [0] * (limit.count + 5))) == limit.count


@given(LIMITS, PAUSES)
def test_a_refused_one_is_admitted_when_it_was_told_and_not_a_second_earlier(limit: Limit, pauses: list[int]) -> None:
    now, tat = int(START), None
    for pause in pauses:
        now += pause
        at = terms(limit, Micros(now))
        new = take(tat, at)
        if new is not None:
            tat = new
            assert wait(tat, at) == wait(new, at)
            continue
        seconds = wait(tat, at)
        assert seconds >= 1
        assert take(tat, terms(limit, Micros(now + seconds * SECOND))) is not None
        assert take(tat, terms(limit, Micros(now + (seconds - 1) * SECOND))) is None


@given(LIMITS, PAUSES)
def test_a_bucket_never_goes_back_and_never_leaves_what_is_believed(limit: Limit, pauses: list[int]) -> None:
    now, tat = int(START), Micros(0)
    for pause in pauses:
        now += pause
        at = terms(limit, Micros(now))
        new = take(tat, at)
        if new is not None:
            assert tat < new <= at.absurd
            tat = new


@given(LIMITS, st.integers(0, 10 * 365 * 86_400 * SECOND))
def test_a_clock_that_was_put_back_locks_nobody_out_for_longer_than_the_skew(limit: Limit, back: int) -> None:
    tat: Micros | None = None
    for _ in range(limit.count):
        tat = take(tat, terms(limit, START))
    earlier = terms(limit, Micros(START - back))
    assert wait(tat, earlier) <= (limit.interval + SKEW // timedelta(microseconds=1)) // SECOND + 1


@given(LIMITS, st.integers(1, SKEW // timedelta(microseconds=1)))
def test_a_neighbours_clock_that_is_a_little_behind_gives_no_second_burst(limit: Limit, behind: int) -> None:
    tat: Micros | None = None
    for _ in range(limit.count):
        tat = take(tat, terms(limit, START))
    assert take(tat, terms(limit, Micros(START - behind))) is None


@pytest.mark.parametrize(
    ("count", "period"), [(0, timedelta(hours=1)), (-1, timedelta(hours=1)), (1, timedelta(0)), (1, timedelta(hours=-1))]
)
def test_a_limit_that_admits_nobody_or_everybody_is_none(count: int, period: timedelta) -> None:
    with pytest.raises(ValueError, match="a limit"):
        Limit(count, period)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2::7", "2001:db8:1::/48"),
        ("2001:db8:1:ffff:ffff::1", "2001:db8:1::/48"),
        ("2001:db8:2::1", "2001:db8:2::/48"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/48"),
        ("", ""),
    ],
)
def test_an_ipv6_site_is_one_caller_however_many_addresses_it_has(address: str, key: str) -> None:
    assert address_key(address) == key


def test_names_are_counted_where_somebody_registered_them() -> None:
    names = [
        "a.example.com",
        "*.b.example.com",
        "x.example.co.uk",
        "host.internal.test",
        "localhost",
        "user.github.io",
        "co.uk",
    ]
    assert registered_names([parse_dns(name) for name in names]) == (
        "co.uk",
        "example.co.uk",
        "example.com",
        "internal.test",
        "localhost",
        "user.github.io",
    )
    assert registered_names([parse_ip("192.0.2.1"), parse_ip("2001:db8::1"), parse_ip("2001:db8::2")]) == (
        "192.0.2.1",
        "2001:db8::/64",
    )
