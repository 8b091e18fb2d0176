"""One worker: composes its objects, serves the inherited sockets, runs jobs, and drains when it is told to."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import ssl
from collections.abc import Collection, Coroutine
from contextlib import AsyncExitStack

import uvloop

from certwright import listeners
from certwright.compose import Composition, compose, expected_keys
from certwright.compose_jobs import schedule
from certwright.config import Config
from certwright.errors import Refused
from certwright.exporter import TlsInternals
from certwright.listeners import Listener
from certwright.logs import Log
from certwright.supervisor import Assignment
from pki.clock import SystemClock
from pki.reasons import Unavailable
from storage.schema import SchemaError

EX_OK, EX_FAILED, EX_CONFIG = 0, 1, 78
DRAIN = 20.0  # seconds that requests in flight have at SIGTERM
HASTE = 0.3  # and at Ctrl-C: whoever sits before it waits for nobody's half-sent body


class CannotStart(Exception):
    """The text says what to change."""


def work(assignment: Assignment) -> int:
    """`certwright.supervisor.Work`."""
    log = Log(clock=SystemClock(), process=f"worker-{assignment.number}")
    log.take_over_logging()
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # clients' keys and secrets pass through this memory
        uvloop.run(_serve(assignment, log))
    except (CannotStart, Refused, SchemaError, Unavailable, OSError) as error:
        log.event("error", "cannot start", why=str(error))
        return EX_CONFIG
    return EX_OK


async def _serve(assignment: Assignment, log: Log) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    hasty = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, _hurry, hasty, stop)
    loop.add_reader(assignment.life, _gone, loop, assignment.life, stop)
    config, clock = assignment.config, SystemClock()
    async with AsyncExitStack() as closing:
        composition = await compose(config, assignment.signer_path, clock=clock, log=log, closing=closing)
        if not await _unless_stopped(_prepare(config, composition, log), stop):
            return
        jobs = [asyncio.create_task(runner.run(stop)) for runner in composition.runners]
        runners = [
            await listeners.start(
                composition.apps[listener],
                bound,
                _checked_context(config, listener, composition.internals),
                max_field=listeners.MAX_FORWARDED if listener is Listener.MTLS else listeners.MAX_FIELD,
            )
            for listener, bound in assignment.sockets.items()
        ]
        os.write(assignment.ready, b"ready\n")
        os.close(assignment.ready)
        warm = asyncio.create_task(asyncio.to_thread(composition.warm_up))
        await stop.wait()
        patience = HASTE if hasty.is_set() else DRAIN
        await listeners.stop(runners, composition.traffic, patience)
        await _end(jobs, patience)
        await asyncio.gather(warm, return_exceptions=True)


def _hurry(hasty: asyncio.Event, stop: asyncio.Event) -> None:
    """Ctrl-C."""
    hasty.set()
    stop.set()


def _gone(loop: asyncio.AbstractEventLoop, life: int, stop: asyncio.Event) -> None:
    """The supervisor is."""
    loop.remove_reader(life)
    stop.set()


async def _prepare(config: Config, composition: Composition, log: Log) -> None:
    await _check_keys(config, composition)
    await _first_crls(composition, log)
    await schedule(composition.jobs, composition.issuers, SystemClock())


async def _unless_stopped(doing: Coroutine[None, None, None], stop: asyncio.Event) -> bool:
    """Whether it was done; a start that waits for a part that is away can be ended like anything else."""
    task, stopped = asyncio.create_task(doing), asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False
    task.result()
    return True


async def _end(jobs: Collection[asyncio.Task[None]], patience: float) -> None:
    """Jobs under way may finish; those that take too long are left to their leases."""
    _, late = await asyncio.wait(jobs, timeout=patience)
    for task in late:
        task.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)


def _context(config: Config, listener: Listener, internals: TlsInternals | None) -> ssl.SSLContext | None:
    match listener:
        case Listener.HTTPS:
            return listeners.server_context(config.tls_certificate, config.tls_key)
        case Listener.MTLS:
            anchors = listeners.client_anchors(config)
            return listeners.client_certificate_context(config.tls_certificate, config.tls_key, anchors, internals)
        case Listener.HTTP | Listener.METRICS:
            return None


def _checked_context(config: Config, listener: Listener, internals: TlsInternals | None) -> ssl.SSLContext | None:
    """OpenSSL's own words name no file. Raises CannotStart, OSError."""
    try:
        return _context(config, listener, internals)
    except ssl.SSLError as error:
        raise CannotStart(
            f"{config.tls_key} is not the key of {config.tls_certificate}, or is encrypted; see `tls` in {config.file}"
        ) from error


async def _check_keys(config: Config, composition: Composition) -> None:
    """A key that is not its certificate's would make certificates that nobody can verify. Raises CannotStart, Unavailable."""
    for key, expected in expected_keys(config).items():
        if await composition.signer.public_key(key) != expected:
            raise CannotStart(f"the signer's key {key!r} is not the one in its certificate; see `issuers` in {config.file}")


async def _first_crls(composition: Composition, log: Log) -> None:
    """So that every certificate's CRL is there from the first request on."""
    for issuer in composition.issuers:
        try:
            await composition.publisher.look(issuer)
        except Unavailable as outage:
            log.warning("no CRL yet", issuer=issuer, why=outage.what)
