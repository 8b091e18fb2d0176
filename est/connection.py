"""What is known of the connection that a request came by. Facts only: nothing in it has been verified by us."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web

# Set by the edge for a request that a listed proxy has forwarded: what it says the client presented, DER, leaf first.
FORWARDED_CHAIN = "forwarded_client_chain"


@dataclass(frozen=True, slots=True)
class Connection:
    """`chain` is what the client presented (DER, leaf first), and that it holds the leaf's key. TLS, or a listed proxy, saw to
    the second; whether any of it is trusted here is the label's to say. `bindings` are the channel bindings of this very
    connection (octets), any of which a request may carry; none where a proxy ends TLS.
    """

    chain: tuple[bytes, ...] = field(default=(), repr=False)
    proxied: bool = False
    bindings: tuple[bytes, ...] = field(default=(), repr=False)


def connection_of(request: web.Request) -> Connection:
    """Never raises: what cannot be had is not there."""
    forwarded: tuple[bytes, ...] | None = request.get(FORWARDED_CHAIN)
    if forwarded is not None:
        return Connection(chain=forwarded, proxied=True)
    tls = None if request.transport is None else request.transport.get_extra_info("ssl_object")
    leaf = None if tls is None else tls.getpeercert(binary_form=True)
    return Connection(chain=() if leaf is None else (leaf,))
