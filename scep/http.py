"""SCEP over HTTP (RFC 8894 §4): find the endpoint and the operation, hand on the message, render what comes back.

Law of this file: what has a readable address gets a signed CertRep, for clients show nothing else; only what cannot be
addressed gets a 400 in plain text. This listener never asks for a TLS client certificate (macOS and Windows break on it).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from aiohttp import web

from pki.cms.ber import MAX_LENGTH
from pki.cms.errors import CmsError, CmsProblem
from pki.reasons import Unavailable
from scep import cacerts, message
from scep.authority import Desk, RegistrationAuthority
from scep.endpoint import ScepEndpoint
from scep.wire import Operation, decode_message, endpoint_of, parse_query

_LOG = logging.getLogger(__name__)


class HttpRefusal(Exception):
    """There is nobody to send a CertRep to. `text` is for a human with curl; `allow` are the methods that a 405 must name."""

    def __init__(self, status: int, text: str, *, allow: str | None = None) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.allow = allow


@dataclass(frozen=True, slots=True)
class _Ready:
    """An endpoint with everything that never changes made once."""

    capabilities: str
    ca_certificates: cacerts.Shown
    next_certificates: cacerts.NextCaCertificates
    authority: RegistrationAuthority


class ScepServer:
    """All SCEP endpoints of a server, by name."""

    def __init__(self, *, endpoints: Mapping[str, ScepEndpoint], desk: Desk) -> None:
        self._ready = {
            name: _Ready(
                capabilities="".join(f"{capability}\n" for capability in endpoint.capabilities()),
                ca_certificates=cacerts.current(endpoint),
                next_certificates=cacerts.NextCaCertificates(endpoint, desk.signer),
                authority=RegistrationAuthority(endpoint, desk),
            )
            for name, endpoint in endpoints.items()
        }

    async def handle(self, request: web.Request) -> web.Response:
        """The outermost edge: every refusal becomes its response, and what nobody expected a bare 500."""
        try:
            return await self._answer(request)
        except HttpRefusal as refusal:
            return _refused(request, refusal.status, refusal.text, allow=refusal.allow)
        except CmsError as error:
            status = 413 if error.problem is CmsProblem.TOO_LARGE else 400
            return _refused(request, status, f"this is no SCEP message that can be answered: {error.detail}")
        except Unavailable as outage:
            _LOG.warning("unavailable: %s", outage.what)
            return web.Response(status=503, headers={"Retry-After": str(outage.retry_after)})
        except Exception:  # noqa: BLE001  # the outermost edge: logged with its traceback, told to nobody
            _LOG.exception("request %s failed", request.get("request_id", ""))
            return web.Response(status=500, headers=_request_id(request))

    async def _answer(self, request: web.Request) -> web.Response:
        _, _, raw_query = request.raw_path.partition("?")
        ready = self._endpoint(request.match_info.get("path", ""))
        query = parse_query(raw_query)
        match _operation(query):
            case Operation.GET_CA_CAPS:
                return web.Response(text=ready.capabilities)
            case Operation.GET_CA_CERT:
                # Whatever CA identifier `message` holds: clients send "0", "default", a trustpoint's name or nothing.
                return _shown(ready.ca_certificates)
            case Operation.GET_NEXT_CA_CERT:
                following = await ready.next_certificates.shown()
                if following is None:
                    raise HttpRefusal(404, "there is no next CA certificate yet")
                return _shown(following)
            case Operation.PKI_OPERATION:
                received = message.parse(await _message(request, query))
                body = await ready.authority.answer(received, source_address=request.remote or "")
                # By GET, too, an answer is for one message, once.
                headers = {"Cache-Control": "no-store"}
                return web.Response(body=body, content_type="application/x-pki-message", headers=headers)
            case operation:
                assert_never(operation)

    def _endpoint(self, path: str) -> _Ready:
        name = endpoint_of(path, self._ready)
        if name is None:
            raise HttpRefusal(404, "there is no SCEP endpoint of this name here; ask the administrator for the URL")
        return self._ready[name]


_PATHS = (
    "/scep",
    "/scep/{path:.*}",
    "/cgi-bin/pkiclient.exe",  # IOS, where it was told nothing but a host
    "/certsrv/mscep",  # NDES, in the two spellings that people type: Windows does not tell them apart
    "/certsrv/mscep/{path:.*}",
    "/CertSrv/mscep",
    "/CertSrv/mscep/{path:.*}",
)


def routes(server: ScepServer) -> list[web.RouteDef]:
    return [route for path in _PATHS for route in (web.get(path, server.handle), web.post(path, server.handle))]


def _operation(query: Mapping[str, bytes]) -> Operation:
    value = query.get("operation", b"").decode("latin-1")
    try:
        return Operation(value)
    except ValueError:
        known = ", ".join(operation.value for operation in Operation)
        raise HttpRefusal(400, f"the parameter operation must be one of {known}") from None


async def _message(request: web.Request, query: Mapping[str, bytes]) -> bytes:
    """The octets of a PKIOperation, by GET or POST (RFC 8894 §4.1). Its Content-Type is not looked at: each client has its own."""
    if request.method == "HEAD":  # aiohttp has it do what GET does; whoever wants the answer of a PKIOperation wants its body
        raise HttpRefusal(405, "PKIOperation is by GET or POST", allow="GET, POST")
    if request.method != "POST":
        if "message" not in query:
            raise HttpRefusal(400, "PKIOperation by GET needs the parameter message")
        try:
            return decode_message(query["message"])
        except ValueError as error:
            raise HttpRefusal(400, str(error)) from None
    body = bytearray()
    try:
        async for chunk in request.content.iter_chunked(64 * 1024):
            body += chunk
            if len(body) > MAX_LENGTH:
                raise HttpRefusal(413, f"a SCEP message has at most {MAX_LENGTH} octets here")
    except (web.RequestPayloadError, ConnectionResetError):  # the client is gone, or its body is not what its headers say
        raise HttpRefusal(400, "the body did not arrive as its headers say; send it again") from None
    if not body:
        raise HttpRefusal(400, "the body is empty; a PKIOperation by POST carries the message there")
    return bytes(body)


def _shown(shown: cacerts.Shown) -> web.Response:
    return web.Response(body=shown.body, content_type=shown.content_type)


def _refused(request: web.Request, status: int, why: str, *, allow: str | None = None) -> web.Response:
    _LOG.info("request %s refused: %s", request.get("request_id", ""), why)
    return web.Response(status=status, text=f"{why}\n", headers={} if allow is None else {"Allow": allow})


def _request_id(request: web.Request) -> dict[str, str]:
    request_id = request.get("request_id")
    return {"X-Request-Id": request_id} if isinstance(request_id, str) else {}
