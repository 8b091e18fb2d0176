"""A server that strangers may send anything to, and what has to be true of it afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from certwright.compose import compose
from certwright.config import load
from certwright.listeners import Listener
from certwright.logs import Log
from pki.clock import SystemClock
from tests.helpers.books import Books, Watch, counted
from tests.helpers.front_doors import Door, Doors
from tests.helpers.neighbourhood import Neighbourhood
from tests.helpers.server import Server
from tests.helpers.wanted import Wanted
from tests.helpers.wire import Wire


@dataclass(slots=True)
class Site:
    server: Server
    doors: Doors
    watch: Watch
    templates: Mapping[Listener, list[str]]  # every path that the server routes
    wires: Mapping[Listener, Wire]


async def routes(server: Server) -> dict[Listener, list[str]]:
    """The route tables of a worker, from its own composition root."""
    clock = SystemClock()
    async with AsyncExitStack() as closing:
        log = Log(clock=clock, process="test")
        made = await compose(load(server.config_file), Path("/dev/null"), clock=clock, log=log, closing=closing)
        return {
            listener: sorted({resource.canonical for resource in app.router.resources()}) for listener, app in made.apps.items()
        }


@contextmanager
def opened() -> Iterator[Site]:
    with Neighbourhood() as around, Server(resolver=around.dns.address, http01_port=around.http.port) as server:
        doors = Doors(server, around)
        doors.secrets.account.register()
        metrics = Wire(server.metrics_port)
        wires = {
            Listener.HTTPS: doors.https,
            Listener.MTLS: doors.mtls,
            Listener.HTTP: doors.http,
            Listener.METRICS: metrics,
        }
        yield Site(server, doors, Watch(Books(server)), asyncio.run(routes(server)), wires)
        metrics.close()
        doors.close()


@contextmanager
def unharmed(site: Site, folder: Path) -> Iterator[Site]:
    """Nothing came of what is done inside: no certificate, no intent, no traceback, no 500; and it serves as before."""
    site.watch.begin()
    yield site
    site.watch.nothing_happened()
    reply = site.doors.ask(Door.REST_PEM, Wanted())
    site.doors.certificate(Door.REST_PEM, reply, Wanted(), folder)
    logged = sum(line.get("status", 0) >= 500 for line in site.server.log_lines() if line.get("event") == "request")
    unserved = sum(line.get("status") == 501 for line in site.server.log_lines())
    assert logged == unserved == counted(site.server, "5xx")  # EST's 501s and nothing else
