"""The http-01 challenge (RFC 8555 §8.3; for IP addresses RFC 8738 §4): fetch the token's URL and compare.

Law of this file: whatever the network does, an Outcome is returned within the deadline. Every hop resolves its host once and
connects to an address that came out of that, through `Egress`; nothing that the server sent comes back in an outcome except
redirect targets, escaped. The limits are Boulder's. No proxy, no cookies, no cache, no environment variables.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from pki.clock import Clock
from pki.identifiers import DnsName, Identifier, IpAddress, parse_dns, shown
from pki.reasons import Rejection
from validation.challenge import Challenge
from validation.egress import Egress
from validation.httpwire import MAX_BODY, REDIRECTS, BadResponse, Response, ResponseReader
from validation.outcome import FailureKind, Outcome
from validation.reach import Failure, Reach, attempt
from validation.resolver import Resolver
from validation.tls import converse, validation_context

MAX_REDIRECTS = 10
MAX_PATH = 2000  # octets of path and query that a redirect may have
DEADLINE = 10.0  # seconds for everything
REDIRECT_PORTS = frozenset({80, 443})
USER_AGENT = "Certwright (ACME http-01 validation; RFC 8555)"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PATH = "/.well-known/acme-challenge/"


async def http01(
    challenge: Challenge,
    *,
    resolver: Resolver,
    egress: Egress,
    clock: Clock,
    port: int = 80,
    redirect_ports: frozenset[int] = REDIRECT_PORTS,
    deadline: float = DEADLINE,
) -> Outcome:
    """One attempt. `deadline` in seconds; redirects may also go to `port`.

    Raises ValueError only for a caller's mistake: a wildcard, or a key authorization that would not fit into MAX_BODY.
    """
    identifier, key_authorization = challenge.identifier, challenge.key_authorization
    if challenge.wildcard or (isinstance(identifier, DnsName) and identifier.wildcard):
        raise ValueError("http-01 cannot prove control of a wildcard (RFC 8555 §8.3)")
    if len(key_authorization) >= MAX_BODY:
        raise ValueError(f"a key authorization of {MAX_BODY} or more characters")
    reach = Reach(resolver, egress, deadline)
    first = _Target("http", identifier, port, _PATH + challenge.token)

    async def proof() -> None:
        await _follow(reach, first, key_authorization, redirect_ports | {port})

    return await attempt("http-01", challenge, reach, proof, clock=clock, deadline=deadline)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where one hop goes. `path` with its query, as it goes onto the wire."""

    scheme: str
    host: Identifier
    port: int
    path: str

    @property
    def authority(self) -> str:
        """RFC 9110 §7.2: no default port; IPv6 in brackets."""
        bracketed = isinstance(self.host, IpAddress) and self.host.address.version == 6
        host = f"[{self.host}]" if bracketed else str(self.host)
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    def request(self) -> bytes:
        """`Accept` and `User-Agent` because mod_security's rules refuse requests without them."""
        return (
            f"GET {self.path} HTTP/1.1\r\nHost: {self.authority}\r\nUser-Agent: {USER_AGENT}\r\n"
            "Accept: */*\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
        ).encode("ascii")


async def _follow(reach: Reach, target: _Target, key_authorization: str, ports: frozenset[int]) -> None:
    """Returns when control is proved. Raises Failure."""
    seen = {target.url}
    while True:
        connection = await reach.connect(target.host, target.port)
        reach.wait_for(f"the answer of {shown(target.url)}")
        response = await _exchange(target, connection)
        reach.status = response.status
        if response.status not in REDIRECTS:
            return _compare(target, response, key_authorization)
        if len(reach.redirects) == MAX_REDIRECTS:
            raise Failure(FailureKind.REDIRECT, f"there are more than {MAX_REDIRECTS} redirects")
        target = _redirected(target, response.location, ports)
        reach.redirects.append(shown(target.url))
        if target.url in seen:
            raise Failure(FailureKind.REDIRECT, f"{shown(target.url)} redirects in a circle")
        seen.add(target.url)


def _compare(target: _Target, response: Response, key_authorization: str) -> None:
    """RFC 8555 §8.3: status 200, and the body is the key authorization; white space may follow it."""
    url = shown(target.url)
    if response.status != 200:
        raise Failure(FailureKind.UNAUTHORIZED, f"{url} answered with status {response.status}, not 200")
    if response.coded:
        raise Failure(FailureKind.UNAUTHORIZED, f"{url} answered with a content coding, although none was accepted")
    if len(response.body) >= MAX_BODY:
        raise Failure(FailureKind.UNAUTHORIZED, f"the content of {url} is longer than any key authorization")
    if response.body.rstrip() != key_authorization.encode("ascii"):
        raise Failure(
            FailureKind.UNAUTHORIZED,
            f"the content of {url} is not the key authorization: it needs the token, a dot and the account key's thumbprint",
        )


def _redirected(base: _Target, location: bytes | None, ports: frozenset[int]) -> _Target:
    """Raises Failure(REDIRECT) for a target that we do not follow."""
    if location is None:
        raise Failure(FailureKind.REDIRECT, f"{shown(base.url)} redirects without a Location header")
    text = location.decode("latin-1")

    def refused(why: str) -> Failure:
        return Failure(FailureKind.REDIRECT, f"the redirect to {shown(text)} is not followed: {why}")

    if not text or not all("!" <= character <= "~" for character in text):
        raise refused("it is not a URL")
    try:
        parts = urlsplit(urljoin(base.url, text))
        port = parts.port
    except ValueError as error:
        raise refused("it is not a URL") from error
    if parts.scheme not in _DEFAULT_PORTS:
        raise refused("only http and https are")
    if "@" in parts.netloc:
        raise refused("it holds a user name")
    host = _host(parts.hostname or "")
    if host is None:
        raise refused("its host is neither a DNS name nor an IP address")
    port = _DEFAULT_PORTS[parts.scheme] if port is None else port
    if port not in ports:
        raise refused(f"port {port} is not one of {', '.join(map(str, sorted(ports)))}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if len(path) > MAX_PATH:
        raise refused(f"its path is longer than {MAX_PATH} octets")
    return _Target(parts.scheme, host, port, path)


def _host(text: str) -> Identifier | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        scoped = isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None
        return None if scoped else IpAddress(address)
    try:
        name = parse_dns(text)
    except Rejection:
        return None
    return None if name.wildcard else name


class _Exchange(asyncio.Protocol):
    """Reads one response. `done` gets it, or Failure."""

    def __init__(self, done: asyncio.Future[Response]) -> None:
        self._reader = ResponseReader()
        self._done = done

    def data_received(self, data: bytes) -> None:
        if self._done.done():
            return
        try:
            response = self._reader.feed(data)
        except BadResponse as error:
            self._fail(FailureKind.RESPONSE, str(error))
        else:
            if response is not None:
                self._done.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done.done():
            return
        if exc is not None:
            self._fail(FailureKind.CONNECTION, "the server broke the connection")
            return
        try:
            self._done.set_result(self._reader.end())
        except BadResponse as error:
            self._fail(FailureKind.RESPONSE, str(error))

    def _fail(self, kind: FailureKind, detail: str) -> None:
        self._done.set_exception(Failure(kind, detail))


async def _exchange(target: _Target, connection: socket.socket) -> Response:
    """Sends the request over `connection`, which is closed in any case. Raises Failure."""
    done: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    tls = validation_context("http/1.1") if target.scheme == "https" else None
    server_name = "" if isinstance(target.host, IpAddress) else str(target.host)  # RFC 6066 §3: no addresses
    transport = await converse(connection, lambda: _Exchange(done), tls=tls, server_name=server_name, whom=shown(target.url))
    try:
        transport.write(target.request())
        return await done
    except Failure as error:
        raise Failure(error.kind, f"{shown(target.url)}: {error.detail}") from error
    finally:
        transport.abort()  # not close(): a TLS goodbye may take as long as the server likes
