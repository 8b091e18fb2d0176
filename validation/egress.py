"""Where validation traffic may go: the one door to the network, and the list of places that it does not open to.

Law of this file: an address is judged as the number that will be connected to, never as text or name, and a connection is
made to exactly the address that was judged. Every entry of the IANA special-purpose registries is refused, also the few
that IANA calls globally reachable (as Boulder does: no subscriber's web server lives there), unless the operator permits it
with `validation.allow_networks`. An IPv4 address inside an IPv6 address is judged too: both must be permitted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Iterator

IpAddr = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# https://www.iana.org/assignments/iana-ipv4-special-registry, state of 2026, without blocks that lie inside a listed block,
# and with multicast, which has a registry of its own.
SPECIAL_V4: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "this network, RFC 791"),
    ("10.0.0.0/8", "private use, RFC 1918"),
    ("100.64.0.0/10", "shared address space, RFC 6598"),
    ("127.0.0.0/8", "loopback, RFC 1122"),
    ("169.254.0.0/16", "link local, RFC 3927"),
    ("172.16.0.0/12", "private use, RFC 1918"),
    ("192.0.0.0/24", "IETF protocol assignments, RFC 6890"),
    ("192.0.2.0/24", "documentation, RFC 5737"),
    ("192.31.196.0/24", "AS112, RFC 7535"),
    ("192.52.193.0/24", "AMT, RFC 7450"),
    ("192.88.99.0/24", "6to4 relay, RFC 7526"),
    ("192.168.0.0/16", "private use, RFC 1918"),
    ("192.175.48.0/24", "AS112, RFC 7534"),
    ("198.18.0.0/15", "benchmarking, RFC 2544"),
    ("198.51.100.0/24", "documentation, RFC 5737"),
    ("203.0.113.0/24", "documentation, RFC 5737"),
    ("224.0.0.0/4", "multicast, RFC 5771"),
    ("240.0.0.0/4", "reserved, RFC 1112"),
)
# https://www.iana.org/assignments/iana-ipv6-special-registry, state of 2026, likewise, with what was withdrawn from it
# (IPv4-compatible, site local). Whatever else is not global unicast, 2000::/3, is refused without an entry.
SPECIAL_V6: tuple[tuple[str, str], ...] = (
    ("::/128", "unspecified, RFC 4291"),
    ("::1/128", "loopback, RFC 4291"),
    ("::/96", "IPv4-compatible, RFC 4291"),
    ("::ffff:0:0/96", "IPv4-mapped, RFC 4291"),
    ("64:ff9b::/96", "NAT64, RFC 6052"),
    ("64:ff9b:1::/48", "local NAT64, RFC 8215"),
    ("100::/64", "discard only, RFC 6666"),
    ("100:0:0:1::/64", "dummy prefix, RFC 9780"),
    ("2001::/32", "Teredo, RFC 4380"),
    ("2001::/23", "IETF protocol assignments, RFC 2928"),
    ("2001:db8::/32", "documentation, RFC 3849"),
    ("2002::/16", "6to4, RFC 3056"),
    ("2620:4f:8000::/48", "AS112, RFC 7534"),
    ("3fff::/20", "documentation, RFC 9637"),
    ("5f00::/16", "segment routing, RFC 9602"),
    ("fc00::/7", "unique local, RFC 4193"),
    ("fe80::/10", "link local, RFC 4291"),
    ("fec0::/10", "site local, RFC 3879"),
    ("ff00::/8", "multicast, RFC 4291"),
)
_GLOBAL_UNICAST = 0b001  # the first three bits of 2000::/3


class Refused(Exception):
    """The address is special-purpose and not permitted. The text may be shown."""


class Egress:
    """Judges addresses and opens connections to those that it permits."""

    def __init__(self, *, allow_networks: Iterable[str] = ()) -> None:
        """`allow_networks`: "10.0.0.0/8", "fd00::/8", or single addresses. Raises ValueError for other text."""
        networks = [ipaddress.ip_network(text) for text in allow_networks]
        self._allowed = {version: _ranges((n, "") for n in networks if n.version == version) for version in (4, 6)}
        self._special = {
            4: _ranges((ipaddress.IPv4Network(text), name) for text, name in SPECIAL_V4),
            6: _ranges((ipaddress.IPv6Network(text), name) for text, name in SPECIAL_V6),
        }

    def refusal(self, address: IpAddr) -> str | None:
        """None when we may connect to `address`, else why not."""
        for judged in (address, *embedded(address)):
            why = self._refusal(judged)
            if why is not None:
                return why if judged is address else f"{address} stands for {judged}: {why}"
        return None

    def _refusal(self, address: IpAddr) -> str | None:
        number = int(address)
        if any(first <= number <= last for first, last, _ in self._allowed[address.version]):
            return None
        for first, last, name in self._special[address.version]:
            if first <= number <= last:
                return f"{address} is a special-purpose address ({name})"
        if address.version == 6 and number >> 125 != _GLOBAL_UNICAST:
            return f"{address} is a special-purpose address (not global unicast, RFC 4291)"
        return None

    async def connect(self, address: IpAddr, port: int) -> socket.socket:
        """A connected, non-blocking TCP socket. Raises Refused before any packet is sent, or OSError.

        The socket is the caller's to close.
        """
        why = self.refusal(address)
        if why is not None:
            raise Refused(why)
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
        except BaseException:  # cancelled included: nobody else knows of the socket yet
            connection.close()
            raise
        return connection


def embedded(address: IpAddr) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses that packets to this IPv6 address may end up at.

    In 64:ff9b:1::/48 only the /96 form is read; the others (RFC 6052 §2.2) then look like 0.0.0.x and stay refused.
    """
    if address.version == 4:
        return
    number = int(address)
    low = number & 0xFFFFFFFF
    top = number >> 32
    mapped = top in {0xFFFF, 0xFFFF0000, 0x64FF9B << 64}  # ::ffff:0:0/96, ::ffff:0:0:0/96 (RFC 7915), 64:ff9b::/96
    if mapped or (top == 0 and low > 1) or number >> 80 == 0x64FF9B0001:
        yield ipaddress.IPv4Address(low)
    elif number >> 112 == 0x2002:
        yield ipaddress.IPv4Address((number >> 80) & 0xFFFFFFFF)
    elif number >> 96 == 0x20010000:  # RFC 4380 §4: the server, and the client with all bits turned over
        yield ipaddress.IPv4Address((number >> 64) & 0xFFFFFFFF)
        yield ipaddress.IPv4Address(low ^ 0xFFFFFFFF)
    elif top & 0xFDFFFFFF == 0x5EFE:  # ISATAP in any prefix, RFC 5214 §6.1; the bit left out says "globally unique"
        yield ipaddress.IPv4Address(low)


def _ranges(networks: Iterable[tuple[_Network, str]]) -> tuple[tuple[int, int, str], ...]:
    """First and last address as numbers: ten times as fast to search as networks."""
    return tuple((int(network[0]), int(network[-1]), f"{network}, {name}") for network, name in networks)
