"""One running server for all the clients: made by `certwright init`, started by `certwright serve`, told nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from interop.support import Site, short_directory
from tests.helpers.dns import DnsServer
from tests.helpers.server import Server


@contextmanager
def dns_server() -> Iterator[DnsServer]:
    """The tests here are plain functions that wait for programs, so the DNS server lives in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="interop-dns")
    thread.start()
    try:
        server = DnsServer()
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(timeout=10)
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(timeout=10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A server with the defaults of `init`, but for its ports and the DNS server that it asks."""
    with dns_server() as dns, Server(resolver=dns.address) as server:
        yield Site(root=server.ca_file, bootstrap=server.environment, http01_port=server.http01_port, zone=dns.__setitem__)


@pytest.fixture
def home() -> Iterator[Path]:
    """A client's home directory."""
    with short_directory() as directory:
        yield directory
