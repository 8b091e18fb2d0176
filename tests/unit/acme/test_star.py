"""When the certificates of a self-renewing order begin and end (RFC 8739 §3.5), and what terms are granted."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acmeserver.endpoint import AutoRenewalRules
from acmeserver.messages import parse_new_order
from acmeserver.problems import Problem, ProblemType
from acmeserver.star import MAX_SECONDS, Slot, Terms, WantedAutoRenewal, first_slot, grant, slot_from, terms_from
from pki.clock import Micros, after, rfc3339, to_micros
from tests.helpers.acme_client import to_json
from tests.helpers.acme_world import profile

DAY = 86_400
NOW = to_micros(datetime(2016, 1, 10, tzinfo=UTC))
RULES = AutoRenewalRules(min_lifetime=timedelta(days=1), max_duration=timedelta(days=30), allow_get=True)
SERVER = profile("tls-server")


def wanted(*, days: float = 10, lifetime: int = 4 * DAY, adjust: int = 0, start: float | None = None) -> WantedAutoRenewal:
    begin = None if start is None else after(NOW, timedelta(days=start))
    return WantedAutoRenewal(begin, after(NOW, timedelta(days=days)), lifetime, adjust, allow_get=True)


def slots(terms: Terms) -> list[Slot]:
    found = [first_slot("o", terms, "c", NOW)]
    while not found[-1].following.beyond:
        found.append(found[-1].following)
    return found


def test_the_example_of_the_rfc() -> None:
    """§3.5: four days, three of them as adjustment, ten days in all."""
    terms = grant(wanted(adjust=3 * DAY), RULES, SERVER, NOW)
    assert [(rfc3339(slot.not_before)[:10], rfc3339(slot.not_after)[:10]) for slot in slots(terms)] == [
        ("2016-01-10", "2016-01-14"),
        ("2016-01-11", "2016-01-18"),
        ("2016-01-15", "2016-01-20"),
    ]


terms_of_any_size = st.builds(
    Terms,
    start=st.none(),
    end=st.integers(1, 400).map(lambda days: after(NOW, timedelta(days=days))),
    lifetime=st.integers(3600, 30 * DAY),
    pad=st.just(0),
    allow_get=st.booleans(),
).flatmap(
    lambda terms: st.integers((terms.lifetime + 1) // 2, terms.lifetime).map(
        lambda pad: Terms(terms.start, terms.end, terms.lifetime, pad, terms.allow_get)
    )
)


@given(terms_of_any_size)
def test_every_certificate_is_there_before_half_of_the_last_one_is_over_and_none_outlives_the_order(terms: Terms) -> None:
    """§3.3, §3.5."""
    row = slots(terms)[:50]
    assert row[0].not_before == NOW
    for slot in row:
        assert slot.not_before < slot.not_after <= terms.end
    for one, following in itertools.pairwise(row):
        assert following.not_before <= one.nominal + terms.lifetime * 500_000
        assert following.not_before >= one.nominal
        assert following.not_after >= one.not_after  # no gap


@given(terms_of_any_size, st.integers(0, 300), st.integers(0, 400 * DAY))
def test_after_an_outage_the_slot_of_today_is_next_and_never_an_earlier_one(terms: Terms, number: int, late: int) -> None:
    slot, now = first_slot("o", terms, "c", NOW).at(number), Micros(NOW + late * 1_000_000)
    current = slot.current(now)
    assert current.number >= number
    if not current.beyond and current.number > number:
        assert current.nominal <= now < current.nominal + terms.lifetime * 1_000_000


@given(terms_of_any_size, st.integers(0, 10**6))
def test_what_travels_with_an_issuance_comes_back_whole(terms: Terms, number: int) -> None:
    slot = first_slot("An_order-1", terms, "ab" * 32, NOW).at(number)
    assert slot_from(slot.origin) == slot
    assert terms_from(terms.text()) == terms


def test_the_adjustment_is_at_least_half_a_lifetime_and_at_most_a_whole_one() -> None:
    assert [grant(wanted(adjust=adjust), RULES, SERVER, NOW).pad for adjust in (0, 3 * DAY, 9 * DAY)] == [
        2 * DAY,
        3 * DAY,
        4 * DAY,
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lifetime": DAY - 1}, "lifetime is at least 86400"),
        ({"days": 30.1}, "too far ahead"),
        ({"days": 0}, "end-date"),
        ({"days": -1}, "end-date"),
        ({"start": 2.1}, "48 hours"),
        ({"start": 2, "days": 1}, "end-date"),
        ({"start": -5, "days": 26}, "too far ahead"),
        ({"lifetime": 32 * DAY}, "valid for"),  # with its half it is longer than the profile's 47 days
        ({"lifetime": 30 * DAY, "adjust": 20 * DAY}, "valid for"),
    ],
)
def test_terms_that_are_not_granted(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Problem, match=said) as caught:
        grant(wanted(**changes), RULES, SERVER, NOW)
    assert (caught.value.type, caught.value.status) == (ProblemType.MALFORMED, 400)


def test_an_unsigned_get_is_granted_only_where_the_endpoint_offers_it() -> None:
    closed = AutoRenewalRules(min_lifetime=RULES.min_lifetime, max_duration=RULES.max_duration)
    assert grant(wanted(), RULES, SERVER, NOW).json()["allow-certificate-get"] is True
    assert "allow-certificate-get" not in grant(wanted(), closed, SERVER, NOW).json()


GOOD = {"end-date": "2016-02-01T00:00:00Z", "lifetime": 345_600}


@pytest.mark.parametrize(
    "value",
    [
        1,
        [],
        "x",
        {},
        {"lifetime": 1},
        {"end-date": GOOD["end-date"]},
        {**GOOD, "lifetime": "345600"},
        {**GOOD, "lifetime": 1.5},
        {**GOOD, "lifetime": True},
        {**GOOD, "lifetime": 0},
        {**GOOD, "lifetime": -1},
        {**GOOD, "lifetime": MAX_SECONDS + 1},
        {**GOOD, "lifetime-adjust": -1},
        {**GOOD, "lifetime-adjust": None},
        {**GOOD, "lifetime-adjust": 10**30},
        {**GOOD, "end-date": "tomorrow"},
        {**GOOD, "end-date": 1},
        {**GOOD, "start-date": "2016-13-01T00:00:00Z"},
        {**GOOD, "allow-certificate-get": "yes"},
    ],
)
def test_what_is_no_auto_renewal_object_is_malformed(value: object) -> None:
    order = {"identifiers": [{"type": "dns", "value": "a.example.com"}], "auto-renewal": value}
    with pytest.raises(Problem) as caught:
        parse_new_order(to_json(order))
    assert caught.value.type is ProblemType.MALFORMED


@pytest.mark.parametrize("member", ["notBefore", "notAfter"])
def test_an_order_that_renews_itself_has_no_times_of_its_own(member: str) -> None:
    """§3.1.1: MUST be refused."""
    order = {"identifiers": [{"type": "dns", "value": "a.example.com"}], "auto-renewal": GOOD, member: "2016-02-01T00:00:00Z"}
    with pytest.raises(Problem, match="notBefore or notAfter"):
        parse_new_order(to_json(order))
