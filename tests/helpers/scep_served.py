"""SCEP's HTTP front end over a simulated pipeline, on a port of loopback, with the limits that the real listeners have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import ClientSession, web

from certwright.listeners import MAX_BODY, MAX_LINE
from scep.endpoint import ScepEndpoint
from scep.http import routes
from tests.helpers.scep import ScepCa
from tests.helpers.scep_simulators import SimulatedIssuance, SoftwareSigner
from tests.helpers.scep_world import ScepWorld


@dataclass(frozen=True, slots=True)
class RawReply:
    """A response down to its octets."""

    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.split(b" ")[1])

    @property
    def content_type(self) -> bytes:
        """As sscep reads it: the rest of the line."""
        (value,) = [line[14:] for line in self.head.split(b"\r\n") if line.startswith(b"Content-Type: ")]
        return value


@dataclass(slots=True)
class Site:
    origin: str
    port: int
    world: ScepWorld
    http: ClientSession
    runner: web.AppRunner

    @property
    def ca(self) -> ScepCa:
        return self.world.ca

    @property
    def issuance(self) -> SimulatedIssuance:
        return self.world.issuance

    @property
    def signer(self) -> SoftwareSigner:
        return self.world.signer

    async def get(self, path: str) -> tuple[int, str, bytes]:
        async with self.http.get(f"{self.origin}{path}") as response:
            return response.status, response.headers.get("Content-Type", ""), await response.read()

    async def post(self, body: bytes, path: str = "/scep?operation=PKIOperation", **headers: str) -> tuple[int, str, bytes]:
        async with self.http.post(f"{self.origin}{path}", data=body, headers=headers) as response:
            return response.status, response.headers.get("Content-Type", ""), await response.read()

    async def raw(self, request: bytes) -> bytes:
        """What comes back until the server ends the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def raw_reply(self, request: bytes) -> RawReply:
        head, _, body = (await self.raw(request)).partition(b"\r\n\r\n")
        return RawReply(head, body)


@asynccontextmanager
async def served(world: ScepWorld, *endpoints: ScepEndpoint) -> AsyncIterator[Site]:
    async with ClientSession() as http:
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes(routes(world.server(*endpoints)))
        runner = web.AppRunner(app, access_log=None, max_line_size=MAX_LINE, max_field_size=MAX_LINE)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        try:
            yield Site(f"http://127.0.0.1:{port}", port, world, http, runner)
        finally:
            await runner.cleanup()
