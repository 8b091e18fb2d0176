"""What is sent around SCEP's messages by people who mean harm: heads without end, and addresses that are none."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from aiohttp import web

from certwright import listeners
from certwright.outbound import Outbound, tls_context
from scep.services import HttpRequest, ServiceFailure

SMALL = 8000  # octets: what a header may always have


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async def length(request: web.Request) -> web.Response:
        return web.Response(text=str(len(request.headers.get("X-Long", ""))))

    app = web.Application()
    app.router.add_get("/", length)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        runner = await listeners.start(app, [listening], None)
        yield listening.getsockname()[1]
        await runner.cleanup()


async def answered(port: int, octets: int, *, ended: bool) -> bytes:
    """The status line to a head with one header of so many octets; b"" where there is none within a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    end = b"\r\n\r\n" if ended else b""
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * octets + end)
    try:
        async with asyncio.timeout(1):
            return await reader.readline()
    except TimeoutError:
        return b""
    finally:
        writer.close()


async def test_a_head_keeps_little_memory_however_slowly_it_comes(port: int) -> None:
    """A hundred headers of 64 KiB each, and never an end, are 14 MiB of every connection."""
    assert (await answered(port, SMALL, ended=True)).startswith(b"HTTP/1.1 200 ")
    assert (await answered(port, 2 * SMALL, ended=False)).split()[1:2] == [b"400"]


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", "."])
async def test_a_host_name_that_is_none_is_a_failure_of_the_service(host: str) -> None:
    """The resolver refuses to encode it, with neither an OSError nor a ClientError."""
    client = Outbound(tls_context(None), timeout=timedelta(seconds=5))
    try:
        with pytest.raises(ServiceFailure, match="host name"):
            await client.send(HttpRequest("POST", f"https://{host}/hook", {}))
    finally:
        await client.close()
