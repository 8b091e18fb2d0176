"""What a subscriber runs besides its ACME client: the web server that answers http-01, and the DNS server for its names."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import cast

_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_PREFIX = b"GET /.well-known/acme-challenge/"


class Challenges:
    """Token -> key authorization, served at one port of 127.0.0.1 and ::1."""

    def __init__(self) -> None:
        self._answers: dict[bytes, bytes] = {}
        self._servers: list[asyncio.Server] = []
        self.fetches = 0

    def add(self, token: str, key_authorization: str) -> None:
        body = key_authorization.encode("ascii")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self._answers[token.encode("ascii")] = head.encode("ascii") + body

    def remove(self, token: str) -> None:
        self._answers.pop(token.encode("ascii"), None)

    async def start(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        for host in ("127.0.0.1", "::1"):
            self._servers.append(await loop.create_server(lambda: _Fetch(self), host, port, backlog=512))

    def stop(self) -> None:
        for server in self._servers:
            server.close()

    def answer(self, request: bytes) -> bytes:
        self.fetches += 1
        token = request.removeprefix(_PREFIX).partition(b" ")[0]
        return self._answers.get(token, _NOT_FOUND)


class _Fetch(asyncio.Protocol):
    def __init__(self, challenges: Challenges) -> None:
        self._challenges = challenges
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._transport is not None and b"\r\n\r\n" in self._received:
            self._transport.write(self._challenges.answer(self._received))
            self._transport.close()


class LoopbackDns(asyncio.DatagramProtocol):
    """Answers every A with 127.0.0.1 and everything else with no data."""

    def __init__(self) -> None:
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.find(b"\0", 12) + 5  # the question: a name, its type and class
        if self._transport is None or len(data) < 17 or end < 17:
            return
        is_a = data[end - 4 : end - 2] == b"\0\1"
        head = data[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0"
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + ipaddress.IPv4Address("127.0.0.1").packed
        self._transport.sendto(head + data[12:end] + (record if is_a else b""), addr)


async def start_dns(port: int) -> asyncio.DatagramTransport:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(LoopbackDns, local_addr=("127.0.0.1", port))
    return transport
