"""A small HTTP/1.1 client, because the generator shares the machine with the server: aiohttp's would cost four times as much."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT = 60.0  # seconds for one request


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]  # names in lower case; of repeated ones the last
    body: bytes


class BenchError(Exception):
    """Something went wrong with one item; `kind` is what the errors are counted by."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Trusts the CA in the file; without one, whatever the machine trusts."""
    return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))


class Client:
    """One connection to one server, kept open, opened again when the server has closed it."""

    def __init__(self, url: str, tls: ssl.SSLContext | None, *, keep_alive: bool = True) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = tls if parts.scheme == "https" else None
        self._head = f"Host: {parts.netloc}\r\nUser-Agent: certwright-bench\r\n"
        self._keep_alive = keep_alive
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.requests = 0

    async def request(
        self, method: str, url: str, body: bytes | None = None, *, content_type: str = "", headers: str = ""
    ) -> Reply:
        """`headers`: whole lines with CRLF. Raises BenchError."""
        path = url[url.find("/", url.find("//") + 2) :] if "//" in url else url
        head = f"{method} {path} HTTP/1.1\r\n{self._head}{headers}"
        if body is not None:
            head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        message = head.encode("ascii") + b"\r\n" + (body or b"")
        self.requests += 1
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._exchange(message, head_only=method == "HEAD")
        except TimeoutError as error:
            self.close()
            raise BenchError("timeout", url) from error
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            self.close()
            raise BenchError("connection", f"{url}: {error}") from error

    async def _exchange(self, message: bytes, *, head_only: bool) -> Reply:
        fresh = self._streams is None
        try:
            return await self._once(message, head_only=head_only)
        except (ConnectionError, asyncio.IncompleteReadError):
            if fresh:
                raise
            self.close()  # an idle connection that the server has closed: once more
            return await self._once(message, head_only=head_only)

    async def _once(self, message: bytes, *, head_only: bool) -> Reply:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        reader, writer = self._streams
        writer.write(message)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        status = int(first.split(" ", 2)[1])
        body = b"" if head_only or status in {204, 304} else await _body(reader, headers)
        if not self._keep_alive or headers.get("connection", "").lower() == "close":
            self.close()
        return Reply(status, headers, body)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        parts = []
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readexactly(2)
        return b"".join(parts)
    return await reader.readexactly(int(headers.get("content-length", "0")))
