"""One request at one endpoint, as every operation gets it."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from est.connection import Connection
from est.endpoint import EstEndpoint
from est.errors import HttpRefusal
from est.wire import MAX_BODY, certs_only, encode, wraps


@dataclass(frozen=True, slots=True)
class Exchange:
    endpoint: EstEndpoint
    operation: str
    request: web.Request
    connection: Connection

    @property
    def source_address(self) -> str:
        return self.request.remote or ""

    @property
    def content_type(self) -> str:
        return self.request.headers.get("Content-Type", "")

    async def body(self) -> bytes:
        """At most MAX_BODY octets, whatever the headers promise. Raises HttpRefusal(400, 413)."""
        body = bytearray()
        try:
            async for chunk in self.request.content.iter_chunked(64 * 1024):
                body += chunk
                if len(body) > MAX_BODY:
                    raise HttpRefusal(413, f"a request has at most {MAX_BODY} octets here\n")
        except (web.RequestPayloadError, ConnectionResetError):  # the client is gone, or its body is not what its headers say
            raise HttpRefusal(400, "the body did not arrive as its headers say; send it again\n") from None
        return bytes(body)

    def encoded(self, der: bytes) -> bytes:
        """Base64 in the form that this client reads."""
        user_agent = self.request.headers.get("User-Agent")
        return encode(der, wrapped=wraps(self.endpoint.base64_wrap, user_agent=user_agent))

    def certificates(self, *certificates: bytes) -> web.Response:
        return self.certs_only(certs_only(certificates))

    def certs_only(self, der: bytes) -> web.Response:
        """A certs-only message (RFC 7030 §4.2.3). Content-Type and encoding are matched octet by octet by old clients."""
        return web.Response(
            body=self.encoded(der),
            headers={
                "Content-Type": "application/pkcs7-mime; smime-type=certs-only",
                "Content-Transfer-Encoding": "base64",
            },
        )


def pending(seconds: int) -> web.Response:
    """§4.2.3: 202 with Retry-After. No body: some clients fail on the first octet of one."""
    return web.Response(status=202, headers={"Retry-After": str(seconds)})
