"""HTTP by hand: a connection to one listener, http.client's or a raw socket, and what comes back."""

from __future__ import annotations

import contextlib
import email.message
import http.client
import select
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.helpers.server import PATIENCE


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: email.message.Message
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def media_type(self) -> str:
        return (self.headers.get("Content-Type") or "").partition(";")[0].strip()


class Wire:
    """One listener. The connection is kept, and made anew when the server has closed it meanwhile."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None, *, timeout: float = PATIENCE) -> None:
        self.port = port
        self.context = context
        self.timeout = timeout
        self._connection: http.client.HTTPConnection | None = None

    def send(self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Sent once, whatever happens. Raises OSError and http.client.HTTPException."""
        if self._connection is not None and self._is_stale(self._connection):
            self.close()
        return self._send(method, target, body, headers or {})

    @staticmethod
    def _is_stale(connection: http.client.HTTPConnection) -> bool:
        """Whether the server has closed it since the last answer."""
        return connection.sock is not None and bool(select.select([connection.sock], [], [], 0)[0])

    @property
    def local_port(self) -> int:
        """Ours, of the connection that is kept."""
        assert self._connection is not None
        return int(self._connection.sock.getsockname()[1])

    def _send(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        if self._connection is None:
            self._connection = (
                http.client.HTTPConnection("localhost", self.port, timeout=self.timeout)
                if self.context is None
                else http.client.HTTPSConnection("localhost", self.port, timeout=self.timeout, context=self.context)
            )
        try:
            self._connection.request(method, target, body, {"Connection": "keep-alive", **headers})
            response = self._connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def socket(self) -> Iterator[socket.socket]:
        """A connection of one's own, for what http.client would not send."""
        with socket.create_connection(("localhost", self.port), timeout=self.timeout) as plain:
            if self.context is None:
                yield plain
            else:
                with self.context.wrap_socket(plain, server_hostname="localhost") as secure:
                    yield secure

    def raw(self, *parts: bytes, end: bool = True) -> bytes:
        """Everything that comes back until the server closes. `end`: we say that nothing follows (not possible in TLS)."""
        with self.socket() as connection:
            return converse(connection, *parts, end=end and self.context is None)


def converse(connection: socket.socket, *parts: bytes, end: bool = True) -> bytes:
    received = bytearray()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        for part in parts:
            connection.sendall(part)
    if end:
        with contextlib.suppress(OSError):  # it is not connected any more
            connection.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)
