"""How much one caller may have: token buckets by the generic cell rate algorithm (GCRA). Pure.

A bucket is one number: the theoretical arrival time (TAT), when it would be full again were nobody to come. `Limit("50/3h")`
admits a burst of 50, and then one each 216 seconds; over any span t never more than 50 + t / 216 s.

Law of this file: a refused request changes nothing, so asking too often costs the asker nothing but the answer; and a time in a
bucket that lies further ahead than any clock of ours can have put it is not believed (the clock was put back, or the limit
was tightened): such a bucket begins anew, so that nobody is locked out for as long as the clock was wrong.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never

from publicsuffixlist import PublicSuffixList

from pki.clock import Micros, after
from pki.identifiers import DnsName, Identifier, IpAddress

SKEW = timedelta(minutes=10)  # between the clocks of nodes
_MICROSECOND = timedelta(microseconds=1)
_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Limit:
    """`count` at once, and `count` in each `period` in the long run. Raises ValueError for what is no limit."""

    count: int
    period: timedelta

    def __post_init__(self) -> None:
        if self.count < 1 or self.interval < 1:
            raise ValueError("a limit admits at least one, and not more than one each microsecond")

    @property
    def interval(self) -> int:
        """Microseconds that one admission costs. Rounded up: the long run is never faster than what was said."""
        return -(-(self.period // _MICROSECOND) // self.count)

    @property
    def tolerance(self) -> int:
        """How far ahead of now a bucket's time may be for one more to be admitted, in microseconds."""
        return self.interval * (self.count - 1)


@dataclass(frozen=True, slots=True)
class Terms:
    """A limit at a moment: the numbers that decide, the same here and in SQL (issuance/buckets.py)."""

    now: Micros
    interval: int
    latest: Micros  # a bucket past this admits nobody
    absurd: Micros  # a bucket past this is not believed


def terms(limit: Limit, now: Micros) -> Terms:
    latest = Micros(now + limit.tolerance)
    return Terms(now, limit.interval, latest, Micros(after(latest, SKEW) + limit.interval))


def take(tat: Micros | None, at: Terms) -> Micros | None:
    """The bucket's new time when it admits one more, None when it does not. A bucket that is not there is full."""
    if tat is None or tat > at.absurd:
        return Micros(at.now + at.interval)
    if tat > at.latest:
        return None
    return Micros(max(tat, at.now) + at.interval)


def wait(tat: Micros | None, at: Terms) -> int:
    """Whole seconds until `take` admits one, 0 when it does now."""
    if tat is None or tat > at.absurd or tat <= at.latest:
        return 0
    return -(-(tat - at.latest) // _SECOND)


def address_key(address: str) -> str:
    """Whom an address stands for: an IPv4 address itself, the /48 of an IPv6 address (what one site is given, RFC 6177).

    What is no address (a socket's name) stands for itself.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped) if mapped is not None else str(ipaddress.ip_network((parsed, 48), strict=False))
    return str(parsed)


@functools.cache
def _suffixes() -> PublicSuffixList:
    """The list that the package brings along; a name below nothing in it counts its last label as the suffix."""
    return PublicSuffixList()


def is_public_suffix(name: DnsName) -> bool:
    """Is it one below which names belong to many (co.uk, github.io), or a last label?"""
    return _suffixes().privatesuffix(name.name) is None


def registered_names(identifiers: Iterable[Identifier]) -> tuple[str, ...]:
    """The registrable domains (eTLD+1) of some names, each once, sorted; of an IPv6 address its /64, of IPv4 the address."""
    return tuple(sorted({_registered(each) for each in identifiers}))


def _registered(identifier: Identifier) -> str:
    match identifier:
        case DnsName():
            name = str(identifier.base)
            return _suffixes().privatesuffix(name) or name
        case IpAddress(ipaddress.IPv6Address() as address):
            return str(ipaddress.ip_network((address, 64), strict=False))
        case IpAddress():
            return str(identifier)
        case _:
            assert_never(identifier)
