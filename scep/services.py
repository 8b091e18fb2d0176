"""What SCEP needs to ask somebody else's server: one request, one bounded reply, so many at once, each in its time.

Law of this file: whatever is not a clear answer is a ServiceFailure, and that lets nobody in. Its text is for the log: it says what
happened, and holds no octet of what was sent or received.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import orjson

T = TypeVar("T")

AT_ONCE = 16  # questions of one endpoint, per worker

NOT_CHECKED = "the challenge password could not be checked; ask again later, or ask whoever runs this SCEP endpoint"


class ServiceFailure(Exception):
    """No answer that can be relied on. `why` is for the log."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """Headers and body hold secrets."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class HttpReply:
    """Whatever the status: a redirect is a reply, and nobody follows it."""

    status: int
    body: bytes = field(repr=False)

    def json_object(self) -> Mapping[str, Any]:
        """The body as a JSON object (RFC 8259 §4). Raises ServiceFailure."""
        try:
            found = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise ServiceFailure("its answer is not JSON") from None  # the error quotes the answer
        if not isinstance(found, dict):
            raise ServiceFailure("its answer is not a JSON object")
        return found


class HttpClient(Protocol):
    async def send(self, request: HttpRequest) -> HttpReply:
        """Raises ServiceFailure: not reached, not who it should be, or more than it may say."""


class Turns:
    """So many at once, and each has the same time from when it came, waiting included: who is slow keeps nobody longer than that."""

    def __init__(self, *, timeout: timedelta, at_once: int = AT_ONCE) -> None:
        self._seconds = timeout.total_seconds()
        self._slots = asyncio.Semaphore(at_once)

    async def run(self, question: Callable[[], Awaitable[T]]) -> T:
        """Raises ServiceFailure, also when the time is over."""
        try:
            async with asyncio.timeout(self._seconds), self._slots:
                return await question()
        except TimeoutError:
            raise ServiceFailure(f"it did not answer within {self._seconds:g} s") from None
