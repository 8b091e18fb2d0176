"""One running server for all the clients: made by `certwright init`, started by `certwright serve`, told nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from interop.support import Site, certwright, free_ports, read_env_file, short_directory, stopped_at_the_end
from tests.helpers.dns import DnsServer

# scepclient sends nothing newer, whatever GetCACaps says; an administrator with such devices allows it by name.
LEGACY = ["sha1", "des-ede3-cbc", "des-cbc"]


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
    """A server with the defaults of `init`, but for the ports, the resolver and the algorithms of old SCEP devices."""
    with short_directory() as directory, dns_server() as dns:
        https, mtls, http, metrics, http01, unused = free_ports(6)
        ca = directory / "ca"
        ports = [("https", https), ("mtls", mtls), ("http", http), ("metrics", metrics), ("http01", http01)]
        options = [argument for name, port in ports for argument in (f"--{name}-port", str(port))]
        certwright("init", "--dir", ca, *options, home=directory)
        configure(ca / "certwright.yaml", resolver=dns.address)
        with stopped_at_the_end("serve", "--config", ca / "certwright.yaml", home=directory):
            yield Site(
                directory=ca,
                bootstrap=read_env_file(ca / "bootstrap.env"),
                http01_port=http01,
                unused_port=unused,
                zone=dns.__setitem__,
            )


def configure(file: Path, *, resolver: str) -> None:
    yaml = YAML()
    document = yaml.load(file)
    document["validation"]["resolver"] = [resolver]
    document["endpoints"]["scep"]["default"]["legacy"] = LEGACY
    yaml.dump(document, file)


@pytest.fixture
def home() -> Iterator[Path]:
    """A client's home directory."""
    with short_directory() as directory:
        yield directory
