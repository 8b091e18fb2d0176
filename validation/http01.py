"""The http-01 challenge (RFC 8555 §8.3; for IP addresses RFC 8738 §4): fetch the token's URL and compare.

Law of this file: whatever the network does, an Outcome is returned within the deadline. Every hop resolves its host once and
connects to an address that came out of that, through `Egress`; nothing that the server sent comes back in an outcome except
redirect targets, escaped. The limits are Boulder's. No proxy, no cookies, no cache, no environment variables.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from pki.clock import Clock
from pki.identifiers import DnsName, Identifier, IpAddress, parse_dns, shown
from pki.reasons import Rejection
from validation.challenge import Challenge
from validation.egress import Egress, IpAddr, Refused
from validation.httpwire import MAX_BODY, REDIRECTS, BadResponse, Response, ResponseReader
from validation.outcome import AttemptEvidence, Failed, FailureKind, Outcome, Proved
from validation.resolver import LookupFailed, Resolver

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
    started = clock.micros()
    attempt = _Attempt(resolver, egress, redirect_ports | {port}, deadline)
    failure: _Failure | None = None
    try:
        async with asyncio.timeout(deadline):
            await attempt.run(_Target("http", identifier, port, _PATH + challenge.token), key_authorization)
    except TimeoutError:
        failure = _Failure(attempt.late, f"{attempt.doing} took too long; the whole attempt has {deadline:g} s")
    except _Failure as raised:
        failure = raised
    evidence = AttemptEvidence(
        method="http-01",
        identifier=str(identifier),
        resolver=attempt.asked,
        resolved=tuple(map(str, attempt.resolved)),
        tried=tuple(map(str, attempt.tried)),
        redirects=tuple(attempt.redirects),
        status=attempt.status,
        started=started,
        finished=clock.micros(),
    )
    if failure is None:
        return Proved(evidence)
    return Failed(failure.kind, f"http-01 for {identifier}: {failure.detail}", evidence)


class _Failure(Exception):
    """Ends an attempt; never leaves this file."""

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


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


class _Attempt:
    """The hops of one attempt, and what is known of them so far, for the evidence."""

    def __init__(self, resolver: Resolver, egress: Egress, ports: frozenset[int], deadline: float) -> None:
        self._resolver = resolver
        self._egress = egress
        self._ports = ports
        self._ends = asyncio.get_running_loop().time() + deadline
        self.doing = "the start"
        self.late = FailureKind.TIMEOUT  # the kind of failure when the deadline passes now
        self.asked = ""
        self.resolved: list[IpAddr] = []
        self.tried: list[IpAddr] = []
        self.redirects: list[str] = []
        self.status: int | None = None

    async def run(self, target: _Target, key_authorization: str) -> None:
        """Returns when control is proved. Raises _Failure."""
        seen = {target.url}
        while True:
            response = await self._fetch(target)
            self.status = response.status
            if response.status not in REDIRECTS:
                return _compare(target, response, key_authorization)
            if len(self.redirects) == MAX_REDIRECTS:
                raise _Failure(FailureKind.REDIRECT, f"there are more than {MAX_REDIRECTS} redirects")
            target = _redirected(target, response.location, self._ports)
            self.redirects.append(shown(target.url))
            if target.url in seen:
                raise _Failure(FailureKind.REDIRECT, f"{shown(target.url)} redirects in a circle")
            seen.add(target.url)

    async def _fetch(self, target: _Target) -> Response:
        addresses = await self._addresses(target.host)
        connection = await self._dial(target, addresses)
        self.late, self.doing = FailureKind.TIMEOUT, f"the answer of {shown(target.url)}"
        return await _exchange(target, connection)

    async def _addresses(self, host: Identifier) -> Sequence[IpAddr]:
        """At most one of each family, IPv6 first, only such as we may connect to."""
        match host:
            case IpAddress(address):
                found: list[IpAddr] = [address]
            case DnsName(name):
                self.late, self.doing = FailureKind.DNS, f"the DNS look-up for {name}"
                try:
                    answer = await self._resolver.addresses(name)
                except LookupFailed as error:
                    self.asked = error.resolver
                    raise _Failure(FailureKind.DNS, str(error)) from error
                self.asked = answer.resolver
                found = [*answer.v6, *answer.v4]
        self.resolved += found
        permitted = [address for address in found if self._egress.refusal(address) is None]
        if not permitted:
            raise _Failure(FailureKind.REFUSED_ADDRESS, _no_address(host, [self._egress.refusal(address) for address in found]))
        first = permitted[0]
        other = next((address for address in permitted if address.version == 4), first)
        return (first,) if other is first else (first, other)

    async def _dial(self, target: _Target, addresses: Sequence[IpAddr]) -> socket.socket:
        """IPv6, then IPv4 only when IPv6 gave no connection; a dead IPv6 address leaves IPv4 half of the time left."""
        *preferred, last = addresses
        for address in preferred:
            try:
                async with asyncio.timeout((self._ends - asyncio.get_running_loop().time()) / 2):
                    return await self._connect(target, address)
            except (OSError, Refused):  # OSError includes TimeoutError
                continue
        try:
            return await self._connect(target, last)
        except Refused as error:  # cannot be, for _addresses judged it by the same rules
            raise _Failure(FailureKind.REFUSED_ADDRESS, str(error)) from error
        except OSError as error:
            tried = " and ".join(map(str, addresses))
            raise _Failure(
                FailureKind.CONNECTION, f"no connection to {tried}, port {target.port}: {os.strerror(error.errno or 0)}"
            ) from error

    async def _connect(self, target: _Target, address: IpAddr) -> socket.socket:
        self.late, self.doing = FailureKind.TIMEOUT, f"the connection to {address}, port {target.port},"
        self.tried.append(address)
        return await self._egress.connect(address, target.port)


def _no_address(host: Identifier, reasons: Sequence[str | None]) -> str:
    why = "; ".join(reason for reason in reasons[:3] if reason)
    return (
        f"{host} has no address that may be validated: {why}. The CA's operator can permit networks (validation.allow_networks)"
    )


def _compare(target: _Target, response: Response, key_authorization: str) -> None:
    """RFC 8555 §8.3: status 200, and the body is the key authorization; white space may follow it."""
    url = shown(target.url)
    if response.status != 200:
        raise _Failure(FailureKind.UNAUTHORIZED, f"{url} answered with status {response.status}, not 200")
    if response.coded:
        raise _Failure(FailureKind.UNAUTHORIZED, f"{url} answered with a content coding, although none was accepted")
    if len(response.body) >= MAX_BODY:
        raise _Failure(FailureKind.UNAUTHORIZED, f"the content of {url} is longer than any key authorization")
    if response.body.rstrip() != key_authorization.encode("ascii"):
        raise _Failure(
            FailureKind.UNAUTHORIZED,
            f"the content of {url} is not the key authorization: it needs the token, a dot and the account key's thumbprint",
        )


def _redirected(base: _Target, location: bytes | None, ports: frozenset[int]) -> _Target:
    """Raises _Failure(REDIRECT) for a target that we do not follow."""
    if location is None:
        raise _Failure(FailureKind.REDIRECT, f"{shown(base.url)} redirects without a Location header")
    text = location.decode("latin-1")

    def refused(why: str) -> _Failure:
        return _Failure(FailureKind.REDIRECT, f"the redirect to {shown(text)} is not followed: {why}")

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
    """Reads one response. `done` gets it, or _Failure."""

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
        self._done.set_exception(_Failure(kind, detail))


async def _exchange(target: _Target, connection: socket.socket) -> Response:
    """Sends the request over `connection`, which is closed in any case. Raises _Failure."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Response] = loop.create_future()

    tls = _tls() if target.scheme == "https" else None
    server_name = "" if isinstance(target.host, IpAddress) else str(target.host)  # RFC 6066 §3: no addresses
    try:
        transport, _ = await loop.create_connection(
            lambda: _Exchange(done), sock=connection, ssl=tls, server_hostname=None if tls is None else server_name
        )
    except OSError as error:
        connection.close()
        why = error.reason if isinstance(error, ssl.SSLError) and error.reason else "the server broke the connection"
        raise _Failure(FailureKind.TLS, f"no TLS session with {shown(target.url)}: {why}") from error
    except BaseException:  # cancelled: the socket is nobody else's yet
        connection.close()
        raise
    try:
        transport.write(target.request())
        return await done
    except _Failure as error:
        raise _Failure(error.kind, f"{shown(target.url)}: {error.detail}") from error
    finally:
        transport.abort()  # not close(): a TLS goodbye may take as long as the server likes


def _tls() -> ssl.SSLContext:
    """TLS 1.2 or better, any certificate: the target may be asking for its first one (RFC 8555 §8.3 wants none verified)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
