"""The HTTP client for servers that the configuration names, such as a SCEP webhook.

Law of this file: the server has to prove who it is, nobody in between hears anything, no redirect is followed, and nothing that it
sends is larger than a limit. What went wrong is said in words of ours, without an octet of question or answer.
"""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path

import aiohttp

from certwright.errors import Refused
from scep.services import AT_ONCE, HttpReply, HttpRequest, ServiceFailure

MAX_REPLY = 64 * 1024  # octets
KEPT = 4.0  # seconds that an idle connection is kept: many servers end it after 5, and what they end then is not asked again


class Outbound:
    """`scep.services.HttpClient`: one service's. Its connections are kept, and are this object's to close."""

    def __init__(self, context: ssl.SSLContext, *, timeout: timedelta, max_reply: int = MAX_REPLY) -> None:
        """Inside a running event loop. `context` from `tls_context`; `timeout` is for one request, the connection included."""
        self._max_reply = max_reply
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=AT_ONCE, keepalive_timeout=KEPT),
            timeout=aiohttp.ClientTimeout(total=timeout.total_seconds()),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # no proxy of somebody's environment hears what is asked
            auto_decompress=False,  # nothing small becomes large
            headers={"User-Agent": "certwright", "Accept": "application/json", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(self, request: HttpRequest) -> HttpReply:
        """Raises ServiceFailure."""
        try:
            async with self._session.request(
                request.method, request.url, data=request.body, headers=request.headers, allow_redirects=False
            ) as response:
                return HttpReply(response.status, await _bounded(response.content, self._max_reply))
        except (TimeoutError, OSError, UnicodeError, aiohttp.ClientError) as error:
            raise ServiceFailure(_why(error)) from None  # the library's own text may quote what came


async def _bounded(content: aiohttp.StreamReader, limit: int) -> bytes:
    received = bytearray()
    while part := await content.read(limit + 1 - len(received)):
        received += part
        if len(received) > limit:
            raise ServiceFailure(f"its answer is longer than {limit} octets")
    return bytes(received)


def _why(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as refused):
            return f"its TLS certificate is not accepted: {refused.verify_message}"
        case aiohttp.ClientConnectorSSLError():
            return "no TLS connection: it does not speak TLS, or none that is still secure"
        case aiohttp.ClientConnectorDNSError() | UnicodeError():  # the latter where the resolver cannot encode it (RFC 5890)
            return "its host name has no address"
        case aiohttp.ClientConnectorError():
            return f"no connection: {error.os_error.strerror or type(error.os_error).__name__}"
        case TimeoutError():
            return "it did not answer in time"
        case _:
            return f"it broke off, or does not speak HTTP ({type(error).__name__})"


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """TLS 1.2 and up, the host name checked; `ca_file` replaces the system's CAs. Raises Refused."""
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise Refused(f"{ca_file} cannot be used as CA certificates: {error.strerror or type(error).__name__}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
