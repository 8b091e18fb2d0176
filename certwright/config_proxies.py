"""`proxies` of certwright.yaml: who may end TLS in front of the mtls listener, and what must fit together."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from certwright import config_schema
from certwright.proxies import HEADERS, IpNetwork, Proxy, SourceHeader, Spelling
from certwright.yaml_positions import Place

Note = Callable[[Place, str], None]

_NAMED_BY_CUSTOM = frozenset({Spelling.NGINX, Spelling.HAPROXY})
_MAPPED_BITS = 96  # of ::ffff:0:0/96 (RFC 4291 §2.5.5.2)
LINKED = (
    "a proxy ends the TLS connection that a proof of possession would be linked to: say off or optional, or take `proxies` away"
)


def _mapped(network: IpNetwork) -> ipaddress.IPv4Network | None:
    first = network.network_address
    if not isinstance(first, ipaddress.IPv6Address) or first.ipv4_mapped is None or network.prefixlen < _MAPPED_BITS:
        return None
    return ipaddress.IPv4Network((first.ipv4_mapped, network.prefixlen - _MAPPED_BITS))


def proxy_settings(given: Sequence[config_schema.Proxy], note: Note) -> tuple[Proxy, ...]:
    """What is wrong goes to `note(place below proxies, message)`."""
    taken: list[IpNetwork] = []
    proxies: list[Proxy] = []
    for index, one in enumerate(given):
        networks = tuple(map(ipaddress.ip_network, one.addresses))
        for at, network in enumerate(networks):
            place = (index, "addresses", at)
            if network.prefixlen == 0:
                note(place, "that is everybody: whoever is listed here can be any client; name the proxies")
            if (inside := _mapped(network)) is not None:
                note(place, f"{network} is IPv4 inside IPv6, which is taken for what it is: write it as {inside}")
            if any(network.version == other.version and network.overlaps(other) for other in taken):
                note(place, f"{network} is listed already: a proxy has one entry")
            taken.append(network)
        spelling = Spelling(one.client_certificate)
        if one.header is not None and spelling not in _NAMED_BY_CUSTOM:
            note((index, "header"), f"{spelling.value} has a name of its own: {HEADERS[spelling]}")
        source = None if one.source_address is None else SourceHeader(one.source_address)
        proxies.append(Proxy(networks, spelling, one.header or HEADERS[spelling], source))
    return tuple(proxies)
