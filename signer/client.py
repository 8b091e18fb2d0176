"""The worker's side of the socket: `api.Signer` over one connection, any number of requests under way.

A request that was sent is never sent again: the signer may have signed it. Only the next one opens a new connection.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import cast

from pki.cms.transport import KeyTransport
from pki.reasons import Unavailable
from signer.api import Hash, SignerRefused, TransportUnavailable
from signer.wire import (
    FrameReader,
    Operation,
    Request,
    Response,
    Verdict,
    WireError,
    encode_request,
    parse_response,
)

_MAX_ANSWER = 64 * 1024  # octets of one frame
_STRANGERS_AT_ONCE = 64  # requests of one worker; the signer takes 256 of each
_BY_STRANGERS = frozenset({Operation.RA_SIGN, Operation.RA_DECRYPT})


def _away(why: str) -> Unavailable:
    """Clients of the server learn the name of the part; the log of the server also learns why."""
    unavailable = Unavailable("signer")
    unavailable.add_note(why)
    return unavailable


class _Connection(asyncio.Protocol):
    """One connection, and the requests that wait for an answer on it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._frames = FrameReader(_MAX_ANSWER)
        self._waiting: dict[int, asyncio.Future[Response]] = {}
        self._farewell: Response | None = None

    @property
    def alive(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass

    def data_received(self, data: bytes) -> None:
        try:
            for header, payload in self._frames.feed(data):
                self._answered(parse_response(header, payload))
        except WireError:
            self.close()

    def _answered(self, response: Response) -> None:
        if response.id == 0:
            self._farewell = response
            return
        future = self._waiting.pop(response.id, None)
        if future is not None and not future.done():
            future.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio calls it so
        self._transport = None
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if future.done():
                continue
            if self._farewell is None:
                future.set_exception(_away("the connection ended before the answer came"))
            else:
                future.set_result(self._farewell)

    def send(self, request: Request) -> asyncio.Future[Response]:
        """Raises Unavailable when there is no connection any more."""
        if self._transport is None:
            raise _away("the connection has ended")
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = future
        self._transport.write(encode_request(request))
        return future

    def forget(self, request: Request) -> None:
        self._waiting.pop(request.id, None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class SignerClient:
    """Implements `api.Signer`. `timeout` is in seconds, for each request, connecting included."""

    def __init__(self, path: Path, *, timeout: float = 10) -> None:
        self._path = path
        self._timeout = timeout
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._ids = itertools.count(1)
        self._turns = asyncio.Semaphore(_STRANGERS_AT_ONCE)

    async def public_key(self, key: str) -> bytes:
        return await self._call(Operation.PUBLIC_KEY, key)

    async def sign_certificate(self, key: str, tbs: bytes) -> bytes:
        return await self._call(Operation.SIGN_CERTIFICATE, key, tbs)

    async def sign_crl(self, key: str, tbs: bytes) -> bytes:
        return await self._call(Operation.SIGN_CRL, key, tbs)

    async def sign_ocsp(self, key: str, tbs: bytes) -> bytes:
        return await self._call(Operation.SIGN_OCSP, key, tbs)

    async def sign_announcement(self, key: str, attributes: bytes) -> bytes:
        return await self._call(Operation.SIGN_ANNOUNCEMENT, key, attributes)

    async def ra_sign(self, key: str, data: bytes, digest: Hash) -> bytes:
        return await self._call(Operation.RA_SIGN, key, data, digest=digest)

    async def ra_decrypt(self, key: str, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        return await self._call(Operation.RA_DECRYPT, key, ciphertext, length=length, transport=transport)

    async def ping(self) -> None:
        await self._call(Operation.PING, "")

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _call(
        self,
        operation: Operation,
        key: str,
        payload: bytes = b"",
        *,
        digest: Hash | None = None,
        length: int | None = None,
        transport: KeyTransport | None = None,
    ) -> bytes:
        request = Request(
            id=next(self._ids),
            operation=operation,
            key=key,
            milliseconds=max(1, int(self._timeout * 1000)),
            payload=payload,
            digest=digest,
            length=length,
            transport=transport,
        )
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(self._timeout), self._turn(operation):
                connection = await self._connected()
                response = await connection.send(request)
        except TimeoutError:
            raise _away(f"no answer within {self._timeout} s") from None
        finally:
            if connection is not None:
                connection.forget(request)
        match response.verdict:
            case Verdict.OK:
                return response.payload
            case Verdict.REFUSED:
                raise SignerRefused(response.detail)
            case Verdict.NO_TRANSPORT:
                raise TransportUnavailable(response.detail)
            case Verdict.UNAVAILABLE:
                raise _away(response.detail)
            case Verdict.FAILED:
                raise RuntimeError(f"the signer failed at {operation.value}: {response.detail}")

    def _turn(self, operation: Operation) -> AbstractAsyncContextManager[object]:
        """What strangers cause waits here, where whoever gives up is gone: the signer reads no more than so many of a connection, and
        would do first what nobody waits for any more.
        """
        return self._turns if operation in _BY_STRANGERS else nullcontext()

    async def _connected(self) -> _Connection:
        connection = self._connection
        if connection is not None and connection.alive:
            return connection
        async with self._connecting:
            if self._connection is not None and self._connection.alive:  # somebody else was first
                return self._connection
            try:
                _, opened = await asyncio.get_running_loop().create_unix_connection(_Connection, str(self._path))
            except OSError as error:
                raise _away(f"{self._path}: {error.strerror or error}") from None
            self._connection = opened
            return opened
