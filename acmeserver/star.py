"""Orders that renew themselves (RFC 8739): their terms, and which certificate of an order is due when. Pure.

Law of this file: an order is a row of slots of one lifetime each. Which slot is meant travels with the issuance (`Slot.origin`),
so whoever settles it, at once or after a crash, needs to look nothing up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson

from acmeserver.endpoint import AutoRenewalRules
from acmeserver.problems import Problem, malformed
from pki.clock import Micros, after, rfc3339
from policy.profiles import Profile

ORIGIN = "acme-star"
SOONEST_START = timedelta(hours=48)  # no certificate is made earlier than that before it begins (BR 7.1.2.7)
MAX_SECONDS = 10**9

_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class WantedAutoRenewal:
    """The `auto-renewal` object of newOrder (RFC 8739 §3.1.1). Seconds, as there."""

    start: Micros | None
    end: Micros
    lifetime: int
    lifetime_adjust: int
    allow_get: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """What was granted. `pad` is how long before its slot a certificate is there: at least half a lifetime (§3.3)."""

    start: Micros | None
    end: Micros
    lifetime: int
    pad: int
    allow_get: bool

    def longest(self, now: Micros) -> tuple[Micros, Micros]:
        """NotBefore and notAfter of a certificate as long as any of the order, about now."""
        begin = Micros(now + _SECOND)
        return begin, Micros(begin + (self.lifetime + self.pad - 1) * _SECOND)

    def text(self) -> str:
        """For the order's row."""
        return orjson.dumps([self.start, self.end, self.lifetime, self.pad, self.allow_get]).decode()

    def json(self) -> dict[str, Any]:
        """For the client, who learns from `lifetime` and `lifetime-adjust` how often to come."""
        content: dict[str, Any] = {}
        if self.start is not None:
            content["start-date"] = rfc3339(self.start)
        content["end-date"] = rfc3339(self.end)
        content["lifetime"] = self.lifetime
        content["lifetime-adjust"] = self.pad
        if self.allow_get:
            content["allow-certificate-get"] = True
        return content


def terms_from(text: str) -> Terms:
    """The inverse of `Terms.text`."""
    return Terms(*orjson.loads(text))


def grant(wanted: WantedAutoRenewal, rules: AutoRenewalRules, profile: Profile, now: Micros) -> Terms:
    """The terms of a new order. Raises Problem, and says which member has to be another."""
    start = wanted.start if wanted.start is not None else now
    if start > after(now, SOONEST_START):
        raise _refused("start-date lies more than 48 hours ahead; order then")
    if wanted.end <= max(start, now):
        raise _refused("end-date lies before the start, or in the past")
    if wanted.end > after(now, rules.max_duration) or wanted.end > after(start, rules.max_duration):
        raise _refused(
            f"end-date lies too far ahead; orders renew themselves for {_seconds(rules.max_duration)} seconds at most"
        )
    if wanted.lifetime < _seconds(rules.min_lifetime):
        raise _refused(f"lifetime is at least {_seconds(rules.min_lifetime)} seconds here")
    # §3.5 with f = 1/2. A certificate is published at its own notBefore, so a longer adjustment means an earlier publication.
    pad = max(min(wanted.lifetime, wanted.lifetime_adjust), (wanted.lifetime + 1) // 2)
    longest = _seconds(profile.max_validity) - 1  # notAfter is inclusive
    if wanted.lifetime + pad > longest:
        raise _refused(
            f"a certificate of profile {profile.name} is valid for {longest} seconds at most, of which lifetime is two thirds or less"
        )
    return Terms(wanted.start, wanted.end, wanted.lifetime, pad, wanted.allow_get and rules.allow_get)


def _seconds(span: timedelta) -> int:
    return int(span.total_seconds())


def _refused(what: str) -> Problem:
    return malformed(f"auto-renewal: {what}")


def parse_auto_renewal(value: Any, times: Mapping[str, Micros | None]) -> WantedAutoRenewal:
    """`times` are the parsed start-date and end-date. Raises Problem(malformed)."""
    end = times["end-date"]
    if end is None:
        raise _refused("end-date is missing")
    adjust = value.get("lifetime-adjust", 0)
    for name, number, least in (("lifetime", value.get("lifetime"), 1), ("lifetime-adjust", adjust, 0)):
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= MAX_SECONDS:
            raise _refused(f"{name} is missing or no number of seconds")
    allow_get = value.get("allow-certificate-get", False)
    if not isinstance(allow_get, bool):
        raise _refused("allow-certificate-get is no boolean")
    return WantedAutoRenewal(times["start-date"], end, value["lifetime"], adjust, allow_get)


@dataclass(frozen=True, slots=True)
class Slot:
    """One certificate of an order: the `number`-th (RFC 8739 §3.5, i). `csr` stands for the key that all of them have."""

    order_id: str
    number: int
    first_at: Micros
    ends_at: Micros
    lifetime: int
    pad: int
    csr: str

    @property
    def nominal(self) -> Micros:
        """nrd[i]."""
        return Micros(self.first_at + self.number * self.lifetime * _SECOND)

    @property
    def not_before(self) -> Micros:
        """Also when it is published. The first one does not begin before the order does."""
        return self.first_at if self.number == 0 else Micros(self.nominal - self.pad * _SECOND)

    @property
    def not_after(self) -> Micros:
        return min(Micros(self.nominal + self.lifetime * _SECOND), self.ends_at)

    @property
    def beyond(self) -> bool:
        """Past the order's end: there is no such certificate."""
        return self.nominal >= self.ends_at

    @property
    def following(self) -> Slot:
        return self.at(self.number + 1)

    def at(self, number: int) -> Slot:
        return Slot(self.order_id, number, self.first_at, self.ends_at, self.lifetime, self.pad, self.csr)

    def current(self, now: Micros) -> Slot:
        """The slot itself, or after an outage the one of today: those in between would begin in the past."""
        return self.at(max(self.number, (now - self.first_at) // (self.lifetime * _SECOND)))

    @property
    def origin(self) -> str:
        numbers = (self.number, self.first_at, self.ends_at, self.lifetime, self.pad)
        return "/".join((self.order_id, *map(str, numbers), self.csr))


def slot_from(origin: str) -> Slot:
    """The inverse of `Slot.origin`."""
    order_id, number, first_at, ends_at, lifetime, pad, csr = origin.split("/")
    return Slot(order_id, int(number), Micros(int(first_at)), Micros(int(ends_at)), int(lifetime), int(pad), csr)


def first_slot(order_id: str, terms: Terms, csr: str, now: Micros) -> Slot:
    """In whole seconds, as certificates count."""
    first_at = Micros(max(terms.start or 0, now) // _SECOND * _SECOND)
    return Slot(order_id, 0, first_at, terms.end, terms.lifetime, terms.pad, csr)
