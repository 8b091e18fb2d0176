"""EST over HTTP (RFC 7030 §3.2): which endpoint, which operation, and what a refusal looks like. Every response has a Content-Length.

Law of this file: nothing is read from a client before TLS is certain, and no body before its sender is known.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiohttp import web
from multidict import CIMultiDict

from est.cmc.service import FullCmc
from est.connection import Connections
from est.csrattrs import csr_attributes
from est.endpoint import DEFAULT, METHODS, EstEndpoint
from est.enroll import Enroller
from est.errors import STATUS, HttpRefusal, explanation, retry_after
from est.exchange import Exchange
from est.secrets import SecretChecks
from est.serverkeygen import KeyGeneration
from est.wire import certs_only
from pki.reasons import Reason, Rejection
from policy.profiles import Profiles

_LOG = logging.getLogger(__name__)

Operation = Callable[[Exchange], Awaitable[web.Response]]


class EstServer:
    """All EST endpoints of a server, by label."""

    def __init__(
        self,
        *,
        endpoints: Mapping[str, EstEndpoint],
        profiles: Profiles,
        enroller: Enroller,
        key_generation: KeyGeneration,
        full_cmc: FullCmc,
        connections: Connections,
        secrets: SecretChecks,
    ) -> None:
        self._secrets = secrets
        self._connections = connections
        self._endpoints = dict(endpoints)
        self._ca_certificates = {label: certs_only(endpoint.ca_certificates) for label, endpoint in endpoints.items()}
        self._csr_attributes = {
            label: csr_attributes(endpoint, profiles.get(endpoint.profile)) for label, endpoint in endpoints.items()
        }
        self._operations: Mapping[str, Operation] = {
            "cacerts": self._cacerts,
            "simpleenroll": enroller.simple_enroll,
            "simplereenroll": enroller.simple_reenroll,
            "serverkeygen": key_generation.handle,
            "fullcmc": full_cmc.handle,
            "csrattrs": self._csrattrs,
        }

    async def handle(self, request: web.Request) -> web.Response:
        """Every refusal becomes its response. Outages and bugs pass on to the listener: 503 and 500 look alike everywhere."""
        endpoint = self._endpoints.get(request.match_info.get("label", DEFAULT))
        try:
            return await self._answer(request, endpoint)
        except HttpRefusal as refusal:
            _log_refusal(request, refusal.text)
            headers = {} if refusal.allow is None else {"Allow": refusal.allow}
            return web.Response(status=refusal.status, text=refusal.text, headers=headers)
        except Rejection as rejection:
            _log_refusal(request, explanation(rejection))
            if endpoint is None or rejection.reason is not Reason.UNAUTHENTICATED:
                return _refused(rejection, ())
            return _refused(rejection, self._secrets.challenges(endpoint, rejection))

    async def _answer(self, request: web.Request, endpoint: EstEndpoint | None) -> web.Response:
        operation = request.match_info["operation"]
        if endpoint is None or operation not in METHODS:
            raise HttpRefusal(404, "there is no such EST endpoint or operation here\n")
        if not request.secure:
            raise HttpRefusal(403, "EST is served over https only (RFC 7030 section 3.3)\n")
        method = METHODS[operation]
        if request.method != method:
            raise HttpRefusal(405, f"use {method} for {operation}\n", allow=method)
        return await self._operations[operation](Exchange(endpoint, operation, request, self._connections.of(request)))

    async def _cacerts(self, exchange: Exchange) -> web.Response:
        return exchange.certs_only(self._ca_certificates[exchange.endpoint.label])

    async def _csrattrs(self, exchange: Exchange) -> web.Response:
        attributes = self._csr_attributes[exchange.endpoint.label]
        if attributes is None:
            # RFC 7030 §4.5.2: 204 and 404 both say that there is nothing to heed; BouncyCastle fails on the body of a 404.
            return web.Response(status=204)
        return web.Response(
            body=exchange.encoded(attributes),
            headers={"Content-Type": "application/csrattrs", "Content-Transfer-Encoding": "base64"},
        )


def routes(server: EstServer) -> list[web.RouteDef]:
    """Methods are told apart by the handler, so that a 405 speaks as EST does."""
    return [
        web.route("*", "/.well-known/est/{operation}", server.handle),
        web.route("*", "/.well-known/est/{label}/{operation}", server.handle),
    ]


def _log_refusal(request: web.Request, why: str) -> None:
    """What the client was told, or would have been: a 401 has no body, and many clients show none."""
    _LOG.info("request %s refused: %s", request.get("request_id", ""), why.strip())


def _refused(rejection: Rejection, challenges: Sequence[str]) -> web.Response:
    status = STATUS[rejection.reason]
    headers: CIMultiDict[str] = CIMultiDict()
    if (seconds := retry_after(rejection)) is not None:
        headers["Retry-After"] = str(seconds)
    if status == 401:
        for challenge in challenges:
            headers.add("WWW-Authenticate", challenge)
        return web.Response(status=401, headers=headers)
    return web.Response(status=status, text=explanation(rejection), headers=headers)
