"""Time that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pki.clock import Micros, after, to_micros


class FakeClock:
    """`pki.clock.Clock` for tests."""

    def __init__(self, start: datetime = datetime(2026, 11, 23, 12, tzinfo=UTC)) -> None:
        self._now = to_micros(start)

    def micros(self) -> Micros:
        return self._now

    def advance(self, span: timedelta) -> None:
        self._now = after(self._now, span)
