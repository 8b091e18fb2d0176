"""Asking one perspective: HTTPS with both certificates checked, one answer of bounded size in bounded time, and always a Verdict."""

from __future__ import annotations

import asyncio
import ssl
from typing import Self

import aiohttp

from validation.outcome import Verdict
from validation.perspectivewire import (
    CAA,
    CAA_KINDS,
    KINDS,
    MAX_ANSWER,
    VALIDATE,
    CaaQuestion,
    Question,
    WireError,
    decode_answer,
    encode_caa_question,
    encode_question,
)

DEADLINE = 15.0  # seconds; a perspective itself takes 10 for an attempt
CAA_DEADLINE = 25.0  # and 20 for CAA
CONNECTIONS = 1024  # more than the server attempts at once: who waits for one waits on his deadline, and then it is a "no"


class HttpsPerspective:
    """`url` is https://host:port of an agent. Its connections are kept, and are this object's to close."""

    def __init__(
        self, name: str, url: str, context: ssl.SSLContext, *, deadline: float = DEADLINE, caa_deadline: float = CAA_DEADLINE
    ) -> None:
        """Inside a running event loop. `context` from `client_context`."""
        self.name = name
        self._url = url
        self._deadline = deadline
        self._caa_deadline = caa_deadline
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # no proxy of somebody's environment hears what is asked
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def validate(self, question: Question) -> Verdict:
        return await self._ask(VALIDATE, encode_question(question), KINDS, self._deadline)

    async def caa(self, question: CaaQuestion) -> Verdict:
        return await self._ask(CAA, encode_caa_question(question), CAA_KINDS, self._caa_deadline)

    async def _ask(self, path: str, body: bytes, kinds: frozenset[str], deadline: float) -> Verdict:
        try:
            async with asyncio.timeout(deadline):
                status, said = await self._post(path, body)
            if status != 200:
                return self._silent(f"it answered with status {status}")
            answer = decode_answer(said, asked=body, kinds=kinds)
        except TimeoutError:
            return self._silent(f"it did not answer within {deadline:g} s")
        except WireError as error:
            return self._silent(f"its answer cannot be read: {error}")
        except (OSError, aiohttp.ClientError) as error:
            return self._silent(f"it cannot be reached ({type(error).__name__})")
        return Verdict(self.name, agrees=answer.agrees, detail=answer.detail, kind=answer.kind, tried=answer.tried)

    async def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        async with self._session.post(self._url + path, data=body, headers=headers, allow_redirects=False) as response:
            return response.status, await _bounded(response.content)

    def _silent(self, why: str) -> Verdict:
        return Verdict(self.name, agrees=False, detail=why)


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    """All of the body, or its first MAX_ANSWER + 1 octets."""
    received = bytearray()
    while len(received) <= MAX_ANSWER and (part := await content.read(MAX_ANSWER + 1 - len(received))):
        received += part
    return bytes(received)


def client_context(*, ca_file: str, certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.3; the agent's certificate has to be one of `ca_file` for the host of its URL. Raises OSError, SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=ca_file)
    context.load_cert_chain(certificate, key, password="")  # or OpenSSL asks the terminal for one, and waits
    return context
