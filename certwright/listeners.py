"""Sockets, TLS contexts and the edge that every HTTP request passes: who listens where, and how.

Law of this file: the parent binds, the workers inherit. A worker never binds, so none can be without its socket. What TLS finds
out about a client's certificate opens nothing by itself: the store is everybody's, and dates are not looked at there.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import ipaddress
import os
import secrets
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from certwright.config import Config, Listen
from certwright.errors import BindError
from certwright.exporter import TlsInternals
from certwright.logs import Log
from certwright.metrics import Metrics
from certwright.proxies import BadForwarding, Proxies
from pki.reasons import Unavailable

MAX_BODY = 1 << 20  # front ends set their own, lower limits
MAX_FIELD = 8190  # octets of a header; there may be 128 of them, and a head that does not end is kept for KEEP_ALIVE
MAX_FORWARDED = 65536  # the same on the listener where a proxy may put a client's whole chain into one
MAX_LINE = 65536  # SCEP by GET carries a whole message in the query; sscep's own buffer is 16 KiB
KEEP_ALIVE = 75.0  # seconds, also for the head of the first request on a connection
BODY_TIMEOUT = 30.0  # seconds from the head of a request to the last octet of its body
LAST_WORDS = 1.0  # seconds for the octets of answers that `Traffic.drain` has waited for
HANDSHAKE_TIMEOUT = 10.0  # seconds from the accepted connection to the end of the TLS handshake
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which Python's VerifyFlags do not name
_FIRST_ACTIVATED = 3  # sd_listen_fds(3)


class Listener(enum.Enum):
    HTTPS = "https"
    MTLS = "mtls"
    HTTP = "http"
    METRICS = "metrics"


Sockets = Mapping[Listener, list[socket.socket]]


def bind(listen: Listen, environment: Mapping[str, str]) -> Sockets:
    """Listening sockets for every listener that has an address; those that systemd hands over come first. Raises BindError."""
    sockets = activated(environment)
    for listener in Listener:
        address = getattr(listen, listener.value)
        if listener not in sockets and address is not None:
            sockets[listener] = _bind(listener, *address)
    return sockets


def activated(environment: Mapping[str, str]) -> dict[Listener, list[socket.socket]]:
    """Socket activation: LISTEN_FDNAMES names each socket after its listener. Raises BindError."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = int(environment.get("LISTEN_FDS", "0"))
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    sockets: dict[Listener, list[socket.socket]] = {}
    for offset in range(count):
        name = names[offset] if offset < len(names) else ""
        try:
            listener = Listener(name)
        except ValueError:
            known = ", ".join(one.value for one in Listener)
            raise BindError(f"socket activation: {name!r} is no listener; set FileDescriptorName= to one of {known}") from None
        sock = socket.socket(fileno=_FIRST_ACTIVATED + offset)
        sock.set_inheritable(False)
        sockets.setdefault(listener, []).append(sock)
    return sockets


def beyond_loopback(sockets: Sockets) -> list[str]:
    """The listeners that somebody else than this machine may reach, as far as their sockets tell."""
    return sorted({listener.value for listener, some in sockets.items() for one in some if not _is_on_loopback(one)})


def _is_on_loopback(sock: socket.socket) -> bool:
    """A Unix socket is not: it leads to a proxy, and that leads anywhere."""
    inet = sock.family in {socket.AF_INET, socket.AF_INET6}
    return inet and ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


def _bind(listener: Listener, host: str, port: int) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BindError(f"listen.{listener.value}: {host!r} is no address of this machine ({error.strerror})") from error
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError:
            continue  # a kernel without IPv6
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
        except OSError as error:
            sock.close()
            if sockets and family == socket.AF_INET6:
                continue  # localhost where IPv6 is off
            hint = "; is another certwright running?" if error.strerror == "Address already in use" else ""
            raise BindError(f"listen.{listener.value}: cannot listen on {host} port {port}: {error.strerror}{hint}") from error
        sock.listen(1024)
        sock.settimeout(0)
        sockets.append(sock)
    if not sockets:
        raise BindError(f"listen.{listener.value}: cannot listen on {host} port {port}")
    return sockets


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and later, and never a request for a client certificate: SCEP clients fail on it. Raises OSError, SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(certificate, key, password="")  # or OpenSSL asks the terminal for one, and waits
    context.set_alpn_protocols(["http/1.1"])
    return context


def client_certificate_context(
    certificate: Path, key: Path, anchors: Iterable[bytes], internals: TlsInternals | None
) -> ssl.SSLContext:
    """Asks for a client certificate, and takes any below one of `anchors` (DER): some label's, and est.certificates finds out whose.

    No list of CA names is sent (RFC 5246 §7.4.4 allows that): it would tell strangers whom we trust, grow with every label, and
    a device that enrols has one certificate to choose from.
    """
    context = server_context(certificate, key)
    context.verify_mode = ssl.CERT_OPTIONAL
    # The issuing CAs are the anchors, not their root: what another CA below it made is no client of ours.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    # A label may let a certificate renew itself after its end, so TLS must let it pass; est.certificates looks at the dates.
    context.verify_flags |= NO_CHECK_TIME
    context.load_verify_locations(cadata=b"".join(dict.fromkeys(anchors)))
    # No connection resumes another one: it would come without its chain (OpenSSL keeps the leaf alone), and in TLS 1.2
    # with a channel binding that a man in the middle can choose (RFC 7627 §1).
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    if internals is not None:
        internals.keep_no_sessions(context)
        # What a certificate is made for is looked at with the label (pki.path), which can say what is wrong; a handshake cannot.
        internals.take_every_purpose(context)
    return context


def client_anchors(config: Config) -> list[bytes]:
    """Every CA (DER) whose certificates open some label."""
    anchors = [issuer.certificate for issuer in config.issuers.values()]
    for label in config.est.values():
        anchors += [*label.anchors, *label.agent_anchors]
    return anchors


class Traffic:
    """The requests in flight of one worker. `drain` waits for them; until then their bodies may still arrive."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        self._in_flight += 1
        self._idle.clear()

    def end(self, response: web.StreamResponse | None) -> None:
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()
        if self._draining and response is not None:
            response.force_close()

    async def drain(self, patience: float) -> None:
        """From now on every answer ends its connection. Returns when none is owed, or after `patience` seconds."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._idle.wait()


def application(
    listener: Listener,
    routes: Iterable[web.RouteDef],
    *,
    log: Log,
    metrics: Metrics,
    traffic: Traffic,
    proxies: Proxies | None = None,
) -> web.Application:
    """`proxies` may stand before this listener; on one without, nobody's word counts."""
    app = web.Application(middlewares=[_edge(listener, log, metrics, traffic, proxies)], client_max_size=MAX_BODY)
    app.add_routes(routes)
    return app


async def stop(runners: Iterable[web.AppRunner], traffic: Traffic, patience: float) -> None:
    """Accept no more, wait for the requests in flight, then end every connection.

    aiohttp's own shutdown drops what still arrives of a body, so the waiting is ours.
    """
    runners = list(runners)
    for runner in runners:
        for site in list(runner.sites):
            await site.stop()
    await traffic.drain(patience)
    await asyncio.gather(*(runner.cleanup() for runner in runners))


async def start(
    app: web.Application,
    sockets: Iterable[socket.socket],
    context: ssl.SSLContext | None,
    *,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
    max_field: int = MAX_FIELD,
) -> web.AppRunner:
    """Begin to accept."""
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=False,  # an issuance does not stop half-way because its client left
        keepalive_timeout=KEEP_ALIVE,
        max_line_size=MAX_LINE,
        max_field_size=max_field,
        auto_decompress=False,  # no client of ours compresses, and a bomb would
        shutdown_timeout=LAST_WORDS,
    )
    await runner.setup()
    for sock in sockets:
        await _Site(runner, sock.dup(), context, handshake_timeout).start()
    return runner


class _Site(web.SockSite):
    """aiohttp's own leaves the handshake a minute, and offers no other."""

    def __init__(
        self, runner: web.AppRunner, sock: socket.socket, context: ssl.SSLContext | None, handshake_timeout: float
    ) -> None:
        super().__init__(runner, sock, ssl_context=context, backlog=1024)
        self._handshake_timeout = None if context is None else handshake_timeout

    async def start(self) -> None:
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None  # the runner is set up
        self._server = await asyncio.get_running_loop().create_server(
            server,
            sock=self._sock,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=self._handshake_timeout,
        )


def _edge(listener: Listener, log: Log, metrics: Metrics, traffic: Traffic, proxies: Proxies | None) -> Middleware:
    """What surrounds every handler: request id, one log line, counters, and an answer whatever happens."""
    name = listener.value
    seconds = metrics.request_seconds.labels(name)

    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = secrets.token_hex(8)
        request["request_id"] = request_id
        started = time.perf_counter()
        watch = _watch_body(request)
        response: web.StreamResponse | None = None
        traffic.begin()
        try:
            if proxies is not None:
                request = proxies.receive(request)
            response = await _answer(request, handler, log)
        except BadForwarding as bad:
            log.warning("bad forwarding", request_id=request_id, proxy=request.remote, why=str(bad))
            response = web.Response(status=400, text=f"{bad}\n")
        finally:
            traffic.end(response)
            if watch is not None:
                watch.cancel()
        if request.method == "CONNECT":
            # The length of its body means nothing (RFC 9110 §9.3.6), so what follows may be somebody's body or the next request.
            response.force_close()
        response.headers["X-Request-Id"] = request_id
        response.headers["Server"] = "certwright"
        took = time.perf_counter() - started
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "none"
        seconds.observe(took)
        metrics.requests.labels(name, route, _method(request.method), f"{response.status // 100}xx").inc()
        _log_request(log, name, request, response, took)
        return response

    return edge


def _log_request(log: Log, listener: str, request: web.Request, response: web.StreamResponse, took: float) -> None:
    """One line; `took` is in seconds."""
    log.info(
        "request",
        request_id=request["request_id"],
        listener=listener,
        method=request.method,
        path=request.rel_url.raw_path[:500],
        status=response.status,
        milliseconds=round(took * 1000, 2),
        source=request.remote,
    )


async def _answer(request: web.Request, handler: Handler, log: Log) -> web.StreamResponse:
    """Front ends answer everything that they expect; this is for the rest."""
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        headers = {"Allow": refusal.headers["Allow"]} if "Allow" in refusal.headers else {}
        return web.Response(status=refusal.status, text=f"{refusal.reason}\n", headers=headers)
    except web.RequestPayloadError:
        return web.Response(status=400, text="the body did not arrive as its headers say\n")
    except Unavailable as outage:
        log.warning("unavailable", request_id=request["request_id"], what=outage.what)
        return web.Response(status=503, headers={"Retry-After": str(outage.retry_after)})
    except Exception as error:  # noqa: BLE001  # the outermost edge: a bug answers with a bare 500
        log.bug("request failed", error, request_id=request["request_id"])
        return web.Response(status=500)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


def _method(method: str) -> str:
    return method if method in _METHODS else "other"


def _watch_body(request: web.Request) -> asyncio.TimerHandle | None:
    """Who sends a body drop by drop loses the connection; aiohttp itself would wait for ever."""
    if not request.can_read_body:
        return None

    def give_up() -> None:
        if not request.content.is_eof() and request.transport is not None:
            request.transport.abort()

    return asyncio.get_running_loop().call_later(BODY_TIMEOUT, give_up)
