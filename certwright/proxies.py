"""Who may end TLS in front of the mtls listener, and what they say of the client: its certificate and its address.

Law of this file: a header counts from a listed address only, in the one spelling that is configured for it, once. What it says is
no more than that: est.certificates verifies the chain as if it had come by TLS. That the client holds the key is the proxy's word.
"""

from __future__ import annotations

import base64
import binascii
import enum
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import unquote_to_bytes

from aiohttp import web
from cryptography import x509
from multidict import CIMultiDictProxy

from est.connection import FORWARDED_CHAIN, MAX_CHAIN, presented_leaf
from pki.clock import Clock, Micros, after

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

RFC9440_CHAIN = "Client-Cert-Chain"
QUIET = timedelta(minutes=1)  # between two log lines about strangers


class Spelling(enum.Enum):
    """How a proxy writes the client's certificate. Closed."""

    RFC9440 = "rfc9440"  # :base64 of DER:, and the rest of the chain in a header of its own
    NGINX = "nginx"  # $ssl_client_escaped_cert: PEM, percent-encoded
    HAPROXY = "haproxy"  # %[ssl_c_der,base64]
    ENVOY = "envoy"  # Cert="..." and Chain="...": PEM, percent-encoded


class SourceHeader(enum.Enum):
    """Where a proxy writes the client's address. Closed."""

    FORWARDED = "forwarded"  # RFC 7239
    X_FORWARDED_FOR = "x-forwarded-for"


# What each spelling's header is called; where custom has it otherwise, too, the configuration says so.
HEADERS: Mapping[Spelling, str] = {
    Spelling.RFC9440: "Client-Cert",
    Spelling.NGINX: "X-SSL-Client-Cert",
    Spelling.HAPROXY: "X-SSL-Client-Cert",
    Spelling.ENVOY: "X-Forwarded-Client-Cert",
}


@dataclass(frozen=True, slots=True)
class Proxy:
    """`header` is the one that carries the certificate; `source` the one that carries the address, if any is believed."""

    networks: tuple[IpNetwork, ...]
    spelling: Spelling
    header: str
    source: SourceHeader | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """`chain` is () where the client presented nothing: what the proxy itself presented is never its client's. `source` is None
    where nothing was said of the address that can be believed.
    """

    chain: tuple[bytes, ...]
    source: str | None


class BadForwarding(Exception):
    """What a listed proxy says cannot be taken. The text is for whoever runs it, and has nothing of the header in it."""


class Proxies:
    """The listed ones. Without any, nothing is believed, and still somebody who tries is noticed."""

    def __init__(
        self, proxies: Sequence[Proxy], *, clock: Clock, ignored: Callable[[], None], warn: Callable[[str], None]
    ) -> None:
        """`ignored` counts each certificate of a stranger, `warn` is told a stranger's address once in a while."""
        self._proxies = tuple(proxies)
        self._clock = clock
        self._ignored = ignored
        self._warn = warn
        self._quiet_until = Micros(0)
        self._watched = frozenset(HEADERS.values()) | {proxy.header for proxy in proxies}

    def receive(self, request: web.Request) -> web.Request:
        """The request as the front ends shall see it. Raises BadForwarding."""
        presented = presented_leaf(request) if self._proxies else None
        said = self.said(request.remote or "", request.headers, presented=presented)
        if said is None:
            return request
        if said.source is not None and request.transport is not None:  # aiohttp clones no request whose connection is gone
            request = request.clone(remote=said.source)
        request[FORWARDED_CHAIN] = said.chain
        return request

    def said(self, remote: str, headers: CIMultiDictProxy[str], *, presented: bytes | None) -> Said | None:
        """What comes from the address `remote`, whose own TLS certificate is `presented`; None where that is no proxy of ours.
        Raises BadForwarding.
        """
        peer = _address(remote)
        proxy = None if peer is None else self._listed(peer)
        if proxy is None:
            if any(header in headers for header in self._watched):
                self._note_stranger(remote)
            return None
        chain = forwarded_chain(proxy, headers)
        if chain and presented is not None and presented != chain[0]:
            raise BadForwarding("the proxy presented a certificate of its own and forwards another one; it must not do both")
        return Said(chain, None if proxy.source is None else self._source(proxy.source, headers))

    def _listed(self, address: IpAddress) -> Proxy | None:
        return next((proxy for proxy in self._proxies if any(address in network for network in proxy.networks)), None)

    def _source(self, header: SourceHeader, headers: CIMultiDictProxy[str]) -> str | None:
        """Each hop wrote down who came to it, the last one at the end: the first that is none of ours is the client, and what
        stands before it is the client's invention. None where the nearest hop wrote nothing that can be read.
        """
        found: IpAddress | None = None
        for hop in reversed(hops(header, headers)):
            address = _address(hop)
            if address is None:
                break
            found = address
            if self._listed(address) is None:
                break
        return None if found is None else str(found)

    def _note_stranger(self, remote: str) -> None:
        self._ignored()
        now = self._clock.micros()
        if now >= self._quiet_until:
            self._quiet_until = after(now, QUIET)
            self._warn(remote)


# ---------------------------------------------------------------------- the client's certificate


def forwarded_chain(proxy: Proxy, headers: CIMultiDictProxy[str]) -> tuple[bytes, ...]:
    """DER, leaf first; () where the client presented nothing. Raises BadForwarding."""
    given = headers.getall(proxy.header, [])
    if len(given) > 1:
        raise BadForwarding(f"{proxy.header} came twice; the proxy has to replace what a client sends, not to add to it")
    chain = _read(proxy.spelling, given[0] if given else None, headers)
    if len(chain) > MAX_CHAIN:
        raise BadForwarding(f"{proxy.header} has more than {MAX_CHAIN} certificates")
    for der in chain:
        try:
            x509.load_der_x509_certificate(der)
        except (ValueError, x509.InvalidVersion):
            raise BadForwarding(f"{proxy.header} holds no X.509 certificate") from None
    return chain


def _read(spelling: Spelling, value: str | None, headers: CIMultiDictProxy[str]) -> tuple[bytes, ...]:
    match spelling:
        case Spelling.RFC9440:
            return read_rfc9440(value, headers.getall(RFC9440_CHAIN, []))
        case Spelling.NGINX:
            return read_nginx(value)
        case Spelling.HAPROXY:
            return read_haproxy(value)
        case Spelling.ENVOY:
            return read_envoy(value)


_BYTE_SEQUENCE = re.compile(r"[ \t]*:([A-Za-z0-9+/]*={0,2}):[ \t]*")


def read_rfc9440(leaf: str | None, above: Sequence[str]) -> tuple[bytes, ...]:
    """RFC 9440 §2.2, 2.3: an Item and a List (in one header or several) of Byte Sequences (RFC 8941 §3.3.5)."""
    if leaf is None:
        if above:
            raise BadForwarding(f"{RFC9440_CHAIN} came without Client-Cert (RFC 9440 section 2.3)")
        return ()
    members = [member for line in above for member in line.split(",")]
    return tuple(_byte_sequence(text) for text in (leaf, *members))


def _byte_sequence(text: str) -> bytes:
    match = _BYTE_SEQUENCE.fullmatch(text)
    if match is None:
        raise BadForwarding("Client-Cert and Client-Cert-Chain hold :base64: (RFC 9440 section 2.1)")
    bare = match[1].rstrip("=")
    return _base64(bare + "=" * (-len(bare) % 4))  # RFC 8941 §4.2.7: padding may be missing


def read_nginx(value: str | None) -> tuple[bytes, ...]:
    if value is None or not value:
        return ()
    chain = _escaped_pem(value)
    if len(chain) != 1:
        raise BadForwarding("the header holds not exactly one certificate; use $ssl_client_escaped_cert")
    return chain


def read_haproxy(value: str | None) -> tuple[bytes, ...]:
    return (_base64(value),) if value else ()


def read_envoy(value: str | None) -> tuple[bytes, ...]:
    """One element, which is one hop: two would be two clients, and the first of them anybody's word. `Chain` begins with the leaf."""
    if value is None:
        return ()
    pairs = _xfcc_element(value)
    if pairs is None:
        raise BadForwarding(
            "X-Forwarded-Client-Cert is not one element of key=value pairs; set forward_client_cert_details: SANITIZE_SET"
        )
    for key in ("cert", "chain"):
        if sum(name == key for name, _ in pairs) > 1:
            raise BadForwarding(f"X-Forwarded-Client-Cert has {key.title()} twice")
    found = dict(pairs)
    leaf = _escaped_pem(found["cert"]) if "cert" in found else ()
    chain = _escaped_pem(found["chain"]) if "chain" in found else leaf
    if len(leaf) > 1 or not chain:
        raise BadForwarding(
            "X-Forwarded-Client-Cert has no certificate; set_current_client_cert_details: {cert: true, chain: true}"
        )
    if leaf and leaf != chain[:1]:
        raise BadForwarding("in X-Forwarded-Client-Cert, Chain does not begin with Cert")
    return chain


_XFCC_PAIR = re.compile(r'[ \t]*([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;]*))[ \t]*')


def _xfcc_element(text: str) -> list[tuple[str, str]] | None:
    """The pairs, keys in lower case; None where it is anything else than one element."""
    pairs: list[tuple[str, str]] = []
    at = 0
    while True:
        match = _XFCC_PAIR.match(text, at)
        if match is None:
            return None
        quoted, bare = match[2], match[3]
        pairs.append((match[1].lower(), bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)))
        at = match.end()
        if at == len(text):
            return pairs
        if text[at] != ";":
            return None
        at += 1


_PEM = re.compile(rb"\s*-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----\s*")


def _escaped_pem(text: str) -> tuple[bytes, ...]:
    """Certificates in PEM with nothing between them, percent-encoded; a plus is a plus."""
    try:
        data = unquote_to_bytes(text.encode("ascii"))
    except UnicodeEncodeError:
        raise BadForwarding("the header is not ASCII") from None
    found: list[bytes] = []
    at = 0
    while at < len(data):
        match = _PEM.match(data, at)
        if match is None:
            raise BadForwarding("the header holds no percent-encoded PEM certificate")
        found.append(_base64(b"".join(match[1].split()).decode("ascii")))
        at = match.end()
    return tuple(found)


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise BadForwarding("the header that carries the client's certificate is not base64") from None


# ---------------------------------------------------------------------- the client's address


def hops(header: SourceHeader, headers: CIMultiDictProxy[str]) -> list[str]:
    """As written, the nearest hop last. Several headers are one list (RFC 9110 §5.3). Raises BadForwarding."""
    match header:
        case SourceHeader.X_FORWARDED_FOR:
            return [hop.strip() for line in headers.getall("X-Forwarded-For", []) for hop in line.split(",")]
        case SourceHeader.FORWARDED:
            return [hop for line in headers.getall("Forwarded", []) for hop in _forwarded(line)]


_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 §5.6.2 calls it a token
_FORWARDED_PAIR = re.compile(rf'[ \t]*({_WORD})=(?:({_WORD})|"((?:[^"\\]|\\.)*)")[ \t]*')


def _forwarded(line: str) -> list[str]:
    """The `for=` of each element (RFC 7239 §4), "" where it has none. Read whole: a quoted Host may have commas in it that a client
    chose.
    """
    found = [""]
    at = 0
    while True:
        match = _FORWARDED_PAIR.match(line, at)
        if match is None:
            raise BadForwarding("Forwarded is not as RFC 7239 section 4 has it; the proxy has to replace what it cannot read")
        if match[1].lower() == "for":
            found[-1] = match[2] or re.sub(r"\\(.)", r"\1", match[3] or "")
        at = match.end()
        if at == len(line):
            return found
        if line[at] == ",":
            found.append("")
        elif line[at] != ";":
            raise BadForwarding("Forwarded is not as RFC 7239 section 4 has it; the proxy has to replace what it cannot read")
        at += 1


_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")


def _address(text: str) -> IpAddress | None:
    """With or without a port; an IPv4 address inside an IPv6 one is the IPv4 address. None for what is no address."""
    match = _WITH_PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address((match[1] or match[2]) if match else text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
