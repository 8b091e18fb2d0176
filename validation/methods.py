"""The methods by which control of a name is proved, each with its parts: one table for this server and for its perspectives."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Protocol

from pki.clock import Clock
from validation.challenge import Challenge
from validation.dns01 import dns01, dns_account01
from validation.dnspersist01 import dns_persist01
from validation.egress import Egress
from validation.http01 import http01
from validation.onion import onion_csr01
from validation.outcome import Outcome
from validation.resolver import Resolver
from validation.tlsalpn01 import tlsalpn01


class Method(Protocol):
    async def __call__(self, challenge: Challenge) -> Outcome:
        """Does the outbound traffic of one challenge; never raises for what the client or the network did."""


OFFLINE = frozenset({"onion-csr-01"})
"""Those that prove by a signature, and so look the same from everywhere."""


def local_methods(
    *, resolver: Resolver, egress: Egress, clock: Clock, http01_port: int, tlsalpn01_port: int
) -> Mapping[str, Method]:
    """Every method, as seen from this machine."""
    return {
        "http-01": partial(http01, resolver=resolver, egress=egress, clock=clock, port=http01_port),
        "dns-01": partial(dns01, resolver=resolver, clock=clock),
        "dns-account-01": partial(dns_account01, resolver=resolver, clock=clock),
        "dns-persist-01": partial(dns_persist01, resolver=resolver, clock=clock),
        "onion-csr-01": partial(onion_csr01, clock=clock),
        "tls-alpn-01": partial(tlsalpn01, resolver=resolver, egress=egress, clock=clock, port=tlsalpn01_port),
    }
