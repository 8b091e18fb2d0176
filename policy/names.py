"""Which names a policy grants: patterns that mean one thing each.

    *                  any name at all (a challenge may still have to prove it)
    www.example.com    that name
    *.example.com      exactly one label in front; not the name itself, not two labels, not evil-example.com
    **.example.com     one label or more in front
    192.0.2.7          that address
    10.0.0.0/8         every address of the network

A wildcard certificate for *.example.com is granted by `*.example.com`, by a `**.` above it and by `*`, nothing else.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pki.identifiers import DnsName, Identifier, IpAddress, parse_dns, shown
from pki.reasons import Reason, Rejection

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class AnyName:
    def matches(self, identifier: Identifier) -> bool:  # noqa: ARG002  # that is its point
        return True


@dataclass(frozen=True, slots=True)
class DnsPattern:
    """`suffix` are the fixed labels; in front of them `at_least` .. `at_most` labels of any kind (None: no limit)."""

    suffix: str
    at_least: int
    at_most: int | None

    def matches(self, identifier: Identifier) -> bool:
        if not isinstance(identifier, DnsName):
            return False
        # A wildcard stands for one label of any kind, so it is granted where every such label would be.
        name = f"*.{identifier.name}" if identifier.wildcard else identifier.name
        if self.at_least == 0:
            return name == self.suffix
        if not name.endswith("." + self.suffix):
            return False
        in_front = name[: -len(self.suffix) - 1].count(".") + 1
        return in_front >= self.at_least and (self.at_most is None or in_front <= self.at_most)


@dataclass(frozen=True, slots=True)
class IpPattern:
    network: Network

    def matches(self, identifier: Identifier) -> bool:
        return isinstance(identifier, IpAddress) and identifier.address in self.network


NamePattern = AnyName | DnsPattern | IpPattern


def parse_pattern(text: str) -> NamePattern:
    """Raises ValueError with what is wrong, for the configuration's error message."""
    if text == "*":
        return AnyName()
    try:
        return IpPattern(ipaddress.ip_network(text))
    except ValueError:
        if "/" in text:
            raise ValueError(f"{text!r} is not a network: write its first address, as in 10.0.0.0/8") from None
    stars = 2 if text.startswith("**.") else 1 if text.startswith("*.") else 0
    rest = text[stars + 1 :] if stars else text
    try:
        suffix = parse_dns(rest).name if "*" not in rest else None
    except Rejection as rejection:
        raise ValueError(f"{text!r} is not a pattern of names: {rejection.detail}") from None
    if suffix is None:
        raise ValueError(f"{text!r} is not a pattern of names: stars stand at its front only, as in *.example.com")
    return DnsPattern(suffix, at_least=min(stars, 1), at_most=None if stars == 2 else stars)


def granted(identifier: Identifier, patterns: Iterable[NamePattern]) -> bool:
    return any(pattern.matches(identifier) for pattern in patterns)


# A device's own name: what serial numbers, host names, MAC addresses and user names are made of. Nothing that a directory, a
# shell or a log would read as more than text.
_DEVICE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._:@/-]{0,62}[A-Za-z0-9])?")


def check_device_name(text: str) -> str:
    """Raises Rejection(REJECTED_IDENTIFIER)."""
    if not _DEVICE_NAME.fullmatch(text):
        raise Rejection(
            Reason.REJECTED_IDENTIFIER,
            f"common name {shown(text)} is no device name: use 1 to 64 letters, digits, spaces and . _ : @ / - between them",
        )
    return text


def text_matches(text: str, patterns: Iterable[str]) -> bool:
    """Common-name patterns: `*` stands for any run of characters, everything else for itself, case included."""
    return any(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) for pattern in patterns)
