"""Back-off: full jitter, doubled, capped."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from storage.jobs import backoff


def test_it_doubles_up_to_its_cap() -> None:
    spans = [backoff(attempts, lambda: 1.0).total_seconds() for attempts in (0, 1, 2, 3, 9, 10, 11, 10_000)]
    assert spans == [2, 2, 4, 8, 512, 600, 600, 600]


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
@settings(max_examples=100)
def test_it_lies_between_nothing_and_its_cap(attempts: int, chance: float) -> None:
    assert timedelta() <= backoff(attempts, lambda: chance) <= timedelta(minutes=10)
