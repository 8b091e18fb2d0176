"""`certwright perspective`: a remote agent that validates on behalf of a server elsewhere (CA/B BR 3.2.2.9).

Law of this file: whoever has no certificate of the configured CA gets no HTTP at all; what is asked is read strictly; what is
answered is a verdict and where it was looked for, never what was found there. The agent keeps nothing, and needs no database.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import uvloop
from aiohttp import web

from certwright.config_values import parse_address
from certwright.errors import BindError, Refused
from certwright.failures import DONE
from certwright.listeners import server_context
from certwright.logs import Log
from pki.clock import Clock, SystemClock
from validation.caa import Forbidden, Permitted, check_caa
from validation.egress import Egress
from validation.methods import Method, local_methods
from validation.outcome import Outcome, Proved
from validation.perspectivewire import (
    CAA,
    MAX_QUESTION,
    VALIDATE,
    WireError,
    decode_caa_question,
    decode_question,
    encode_answer,
    encode_caa_answer,
)
from validation.resolver import DnsResolver, Resolver, SystemResolver

HANDSHAKE_TIMEOUT = 5.0  # seconds
BODY_TIMEOUT = 5.0  # seconds: a question is a few hundred octets
DRAIN = 12.0  # seconds that attempts under way have at SIGTERM
JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Of the command line, already parsed. `listen` is "ADDRESS:PORT"."""

    listen: str
    certificate: Path
    key: Path
    client_ca: Path
    resolvers: tuple[str, ...] = ()  # empty: the system's
    require_dnssec: bool = False  # of every answer of the resolvers
    http01_port: int = 80
    tlsalpn01_port: int = 443
    allow_networks: tuple[str, ...] = ()
    at_once: int = 1024  # each worker of a server has up to 256 attempts under way


class Agent:
    """The two questions, answered from where this machine is. At most `at_once` at the same time; others are told to come back."""

    def __init__(self, *, methods: Mapping[str, Method], resolver: Resolver, clock: Clock, log: Log, at_once: int) -> None:
        self._methods = methods
        self._resolver = resolver
        self._clock = clock
        self._log = log
        self._free = at_once

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_QUESTION)
        app.add_routes([web.post(VALIDATE, self._validate), web.post(CAA, self._caa)])
        return app

    async def _validate(self, request: web.Request) -> web.Response:
        try:
            asked = await _body(request)
            question = decode_question(asked)
        except WireError as error:
            return _refusal(400, str(error))
        method = self._methods.get(question.method)
        if method is None:
            return _refusal(400, f"this perspective knows the methods {', '.join(self._methods)}")
        with self._place() as free:
            if not free:
                return _refusal(503, "too many questions at once")
            started = time.perf_counter()
            try:
                outcome = await method(question.challenge)
            except (ValueError, TypeError) as error:  # the method cannot prove such a challenge, whatever the network says
                return _refusal(400, str(error))
        self._note(question.method, str(question.challenge.identifier), _result(outcome), started, request)
        return web.Response(body=encode_answer(asked, outcome), content_type=JSON)

    async def _caa(self, request: web.Request) -> web.Response:
        try:
            asked = await _body(request)
            question = decode_caa_question(asked)
        except WireError as error:
            return _refusal(400, str(error))
        with self._place() as free:
            if not free:
                return _refusal(503, "too many questions at once")
            started = time.perf_counter()
            outcome = await check_caa(
                question.name.name,
                wildcard=question.name.wildcard,
                resolver=self._resolver,
                issuer_domains=question.issuer_domains,
                account_url=question.account_url,
                methods=question.methods,
                clock=self._clock,
            )
        kind = "" if isinstance(outcome, Permitted) else "forbidden" if isinstance(outcome, Forbidden) else "failed"
        self._note("caa", str(question.name), kind or "permitted", started, request)
        return web.Response(body=encode_caa_answer(asked, kind=kind, detail=outcome.detail), content_type=JSON)

    @contextlib.contextmanager
    def _place(self) -> Iterator[bool]:
        if self._free == 0:
            yield False
            return
        self._free -= 1
        try:
            yield True
        finally:
            self._free += 1

    def _note(self, method: str, identifier: str, result: str, started: float, request: web.Request) -> None:
        """One line a question, without its token."""
        took = round((time.perf_counter() - started) * 1000, 2)
        self._log.info("asked", method=method, identifier=identifier, result=result, milliseconds=took, source=request.remote)


def run(options: Options) -> int:
    """Until SIGTERM or SIGINT. Raises BindError, Refused."""
    log = Log(clock=SystemClock(), process="perspective")
    log.take_over_logging()
    agent = _agent(options, SystemClock(), log)
    context = agent_context(options)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # as `serve` does
    listening = _listen(options.listen)
    try:
        uvloop.run(_serve(agent, listening, context, log))
    finally:
        listening.close()
    return DONE


async def _serve(agent: Agent, listening: socket.socket, context: ssl.SSLContext, log: Log) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        agent.application(), access_log=None, auto_decompress=False, keepalive_timeout=75.0, shutdown_timeout=DRAIN
    )
    await runner.setup()
    if runner.server is None:
        raise AssertionError("a runner that was set up has a server")
    # Not by a Site: the handshake is all that a stranger gets, and a Site gives him a minute for it.
    server = await loop.create_server(
        runner.server, sock=listening, ssl=context, backlog=256, ssl_handshake_timeout=HANDSHAKE_TIMEOUT
    )
    host, port = listening.getsockname()[:2]
    log.info("ready", listen=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    await stop.wait()
    server.close()
    await runner.cleanup()


def _agent(options: Options, clock: Clock, log: Log) -> Agent:
    if options.require_dnssec and not options.resolvers:
        raise Refused("--require-dnssec: name the resolver that validates, with --resolver")
    try:
        resolver: Resolver = (
            DnsResolver(options.resolvers, require_secure=options.require_dnssec) if options.resolvers else SystemResolver()
        )
        egress = Egress(allow_networks=options.allow_networks)
    except ValueError as error:
        raise Refused(f"--resolver or --allow-network: {error}") from error
    methods = local_methods(
        resolver=resolver,
        egress=egress,
        clock=clock,
        http01_port=options.http01_port,
        tlsalpn01_port=options.tlsalpn01_port,
    )
    return Agent(methods=methods, resolver=resolver, clock=clock, log=log, at_once=options.at_once)


def agent_context(options: Options) -> ssl.SSLContext:
    """TLS 1.3, and nobody without a certificate by the CA. Raises Refused."""
    for path in (options.certificate, options.key, options.client_ca):
        if not path.is_file():
            raise Refused(f"there is no file {path}")
    try:
        context = server_context(options.certificate, options.key)
    except ssl.SSLError as error:
        raise Refused(f"{options.key} is not the key of {options.certificate}, or is encrypted") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=str(options.client_ca))
    except ssl.SSLError as error:
        raise Refused(f"{options.client_ca} holds no CA certificate in PEM") from error
    return context


def _listen(text: str) -> socket.socket:
    try:
        host, port = parse_address(text)
    except ValueError as error:
        raise Refused(f"--listen: {error}") from error
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=256, reuse_port=False)
    except OSError as error:
        raise BindError(f"--listen: cannot listen on {text}: {error.strerror}") from error
    listening.settimeout(0)
    return listening


async def _body(request: web.Request) -> bytes:
    """Raises WireError."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except TimeoutError as error:
        raise WireError("the question did not arrive in time") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise WireError(f"it is longer than {MAX_QUESTION} octets") from error


def _refusal(status: int, why: str) -> web.Response:
    return web.json_response({"error": why}, status=status)


def _result(outcome: Outcome) -> str:
    return "proved" if isinstance(outcome, Proved) else outcome.kind.value
