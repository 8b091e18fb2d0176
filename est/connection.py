"""What is known of the connection that a request came by. Facts only: nothing in it has been verified by us.

Law of this file: TLS on our listener proves that the client holds the key of the certificate that it presented, and that this one
stands below some CA of some label. It says nothing about which label, about dates (they are not looked at there, for a label may
have a grace), about revocation. So nobody else asks TLS for a client's certificate: whoever wants one takes `Connection.chain` to
`est.certificates`.
"""

from __future__ import annotations

import _ssl
import enum
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

# Set by the edge for a request that a listed proxy has forwarded: what it says the client presented, DER, leaf first.
FORWARDED_CHAIN: web.RequestKey[tuple[bytes, ...]] = web.RequestKey("forwarded_client_chain", tuple)
MAX_CHAIN = 10  # certificates; a path has three or four


class BindingType(enum.Enum):
    """By their names in the IANA registry of channel bindings. Closed."""

    TLS_UNIQUE = "tls-unique"  # RFC 5929 §3: the first Finished message, in TLS 1.2
    TLS_EXPORTER = "tls-exporter"  # RFC 9266: keying material, in TLS 1.3


@dataclass(frozen=True, slots=True)
class ChannelBinding:
    """Octets that the two ends of one connection know, and no other connection has."""

    type: BindingType
    octets: bytes = field(repr=False)


class Exporter(Protocol):
    """`tls-exporter` of a connection; None where it has none."""

    def channel_binding(self, tls: ssl.SSLObject) -> bytes | None: ...


def no_binding() -> ChannelBinding | None:
    return None


@dataclass(frozen=True, slots=True)
class Connection:
    """`chain` is what the client presented (DER, leaf first), and that it holds the leaf's key. TLS, or a listed proxy, saw to
    the second; whether any of it is trusted here is the label's to say. `binding` gives the channel binding of this very
    connection, read when it is asked for; None where a proxy ends TLS, and where there is none that can be relied upon.
    """

    chain: tuple[bytes, ...] = field(default=(), repr=False)
    proxied: bool = False
    binding: Callable[[], ChannelBinding | None] = field(default=no_binding, repr=False, compare=False)


class Connections:
    """Nothing is remembered: reading a chain of two anew for each request takes 3 microseconds, looking it up 1."""

    def __init__(self, exporter: Exporter | None = None) -> None:
        self._exporter = exporter

    def of(self, request: web.Request) -> Connection:
        """Never raises: what cannot be had is not there."""
        forwarded = request.get(FORWARDED_CHAIN)
        if forwarded is not None:
            return Connection(chain=forwarded, proxied=True)
        tls = _tls(request)
        return Connection() if tls is None else Connection(chain=presented_chain(tls), binding=lambda: self.binding(tls))

    def binding(self, tls: ssl.SSLObject) -> ChannelBinding | None:
        """The one that this version of TLS defines. `get_channel_binding` has a value in TLS 1.3 as well, which binds nothing
        (RFC 8446 appendix C.5), and in a resumed session one that another connection can be made to have (RFC 7627 §1).
        """
        match tls.version():
            case "TLSv1.2" if not tls.session_reused:
                octets = tls.get_channel_binding("tls-unique")
                return ChannelBinding(BindingType.TLS_UNIQUE, octets) if octets else None
            case "TLSv1.3" if self._exporter is not None:
                octets = self._exporter.channel_binding(tls)
                return ChannelBinding(BindingType.TLS_EXPORTER, octets) if octets else None
            case _:
                return None


def presented_leaf(request: web.Request) -> bytes | None:
    """What whoever is at the other end of our TLS presented itself, DER."""
    tls = _tls(request)
    chain = () if tls is None else presented_chain(tls)
    return chain[0] if chain else None


def _tls(request: web.Request) -> ssl.SSLObject | None:
    tls = None if request.transport is None else request.transport.get_extra_info("ssl_object")
    return tls if isinstance(tls, ssl.SSLObject) else None


def presented_chain(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    """What the peer sent (DER, leaf first, at most MAX_CHAIN), in no proven relation but that the peer holds the leaf's key."""
    try:
        leaf = tls.getpeercert(binary_form=True)
    except (ValueError, ssl.SSLError):
        return ()
    try:
        chain = _whole_chain(tls)
    except (AttributeError, TypeError, ValueError, ssl.SSLError):  # private in part: what is not there is not there
        chain = ()
    if leaf is None or chain[:1] == (leaf,):
        return chain[:MAX_CHAIN]
    return (leaf,)


def _whole_chain(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    public: Callable[[], list[bytes]] | None = getattr(tls, "get_unverified_chain", None)  # Python 3.13
    if public is not None:
        return tuple(public())
    inner = tls._sslobj  # type: ignore[attr-defined]  # noqa: SLF001  # what 3.13 made public
    return tuple(one.public_bytes(_ssl.ENCODING_DER) for one in inner.get_unverified_chain() or ())
