"""EST over HTTP (RFC 7030 §3.2): authenticate, parse, ask the pipeline, render. Every response has a Content-Length.

Law of this file: nothing is read from a client before TLS is certain, and no body before its sender is known.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol, assert_never

from aiohttp import web

from est.auth import challenge, parse_basic
from est.endpoint import DEFAULT, Authentication, EstEndpoint
from est.errors import STATUS, HttpRefusal, explanation, retry_after
from est.wire import MAX_BODY, certs_only, check_csr_type, encode, wraps
from issuance.credentials import Credential
from issuance.request import BasicPassword, Channel, IssuanceRequest, Issued, Outcome, Pending, Rejected
from pki.csr import parse_csr, unwrap_csr
from pki.reasons import Reason, Rejection
from policy.principal import Principal, PrincipalKind

_LOG = logging.getLogger(__name__)
METHODS: Mapping[str, str] = {
    "cacerts": "GET",
    "simpleenroll": "POST",
    "simplereenroll": "POST",
    "serverkeygen": "POST",
    "fullcmc": "POST",
    "csrattrs": "GET",
}
_NOT_SERVED: Mapping[str, tuple[int, str]] = {
    "simplereenroll": (501, "re-enrolment is not served here yet; enrol anew at simpleenroll\n"),
    "serverkeygen": (501, "keys are not made here; make one and enrol at simpleenroll\n"),
    "fullcmc": (501, "full CMC requests are not served here; enrol at simpleenroll\n"),
    # RFC 7030 §4.5.2: 404 says that there is no list of attributes to heed.
    "csrattrs": (404, "no attributes are asked for in certification requests here\n"),
}


class Enrolment(Protocol):
    """What EST needs of `issuance.service.Issuance`."""

    async def submit(self, request: IssuanceRequest) -> Outcome: ...


class Passwords(Protocol):
    """What EST needs of `issuance.credentials.Credentials`."""

    async def check_est_user(self, *, endpoint: str, user: str, password: str) -> Credential: ...


class EstServer:
    """All EST endpoints of a server, by label."""

    def __init__(self, *, endpoints: Mapping[str, EstEndpoint], issuance: Enrolment, credentials: Passwords) -> None:
        self._endpoints = dict(endpoints)
        self._ca_certificates = {label: certs_only(endpoint.ca_certificates) for label, endpoint in endpoints.items()}
        self._issuance = issuance
        self._credentials = credentials

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
            return _refused(rejection, endpoint)

    async def _answer(self, request: web.Request, endpoint: EstEndpoint | None) -> web.Response:
        operation = request.match_info["operation"]
        if endpoint is None or operation not in METHODS:
            raise HttpRefusal(404, "there is no such EST endpoint or operation here\n")
        if not request.secure:
            raise HttpRefusal(403, "EST is served over https only (RFC 7030 section 3.3)\n")
        if operation in _NOT_SERVED:
            raise HttpRefusal(*_NOT_SERVED[operation])
        method = METHODS[operation]
        if request.method != method:
            raise HttpRefusal(405, f"use {method} for {operation}\n", allow=method)
        if operation == "cacerts":
            return _certificates(request, endpoint, self._ca_certificates[endpoint.label])
        return await self._simple_enrol(request, endpoint)

    async def _simple_enrol(self, request: web.Request, endpoint: EstEndpoint) -> web.Response:
        credential = await self._authenticate(request, endpoint)
        check_csr_type(request.headers.get("Content-Type", ""))
        csr = parse_csr(unwrap_csr(await _body(request)))
        principal = Principal(
            kind=PrincipalKind.EST_USER,
            id=credential.id,
            roles=credential.roles,
            source_address=request.remote or "",
        )
        outcome = await self._issuance.submit(
            IssuanceRequest(
                channel=Channel.EST,
                endpoint=endpoint.label,
                principal=principal,
                evidence=(BasicPassword(credential.id),),
                profile=credential.profile or endpoint.profile,
                csr=csr,
                identifiers=csr.identifiers,
                common_name=csr.common_name,
            )
        )
        match outcome:
            case Issued(certificate):
                # §4.2.3: the certs-only message holds the issued certificate and nothing else.
                return _certificates(request, endpoint, certs_only([certificate.der]))
            case Pending(_, seconds):
                return web.Response(status=202, headers={"Retry-After": str(seconds)})
            case Rejected(rejection):
                raise rejection
            case _:
                assert_never(outcome)

    async def _authenticate(self, request: web.Request, endpoint: EstEndpoint) -> Credential:
        if Authentication.BASIC not in endpoint.authenticate:
            raise Rejection(Reason.FORBIDDEN, "this endpoint takes no passwords")
        basic = parse_basic(request.headers.getall("Authorization", []))
        return await self._credentials.check_est_user(endpoint=endpoint.label, user=basic.user, password=basic.password)


def routes(server: EstServer) -> list[web.RouteDef]:
    """Methods are told apart by the handler, so that a 405 speaks as EST does."""
    return [
        web.route("*", "/.well-known/est/{operation}", server.handle),
        web.route("*", "/.well-known/est/{label}/{operation}", server.handle),
    ]


async def _body(request: web.Request) -> bytes:
    """At most MAX_BODY octets, whatever the headers promise. Raises HttpRefusal(413)."""
    body = bytearray()
    async for chunk in request.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > MAX_BODY:
            raise HttpRefusal(413, f"a certification request has at most {MAX_BODY} octets here\n")
    return bytes(body)


def _certificates(request: web.Request, endpoint: EstEndpoint, der: bytes) -> web.Response:
    wrapped = wraps(endpoint.base64_wrap, user_agent=request.headers.get("User-Agent"))
    return web.Response(
        body=encode(der, wrapped=wrapped),
        headers={
            "Content-Type": "application/pkcs7-mime; smime-type=certs-only",
            "Content-Transfer-Encoding": "base64",
        },
    )


def _log_refusal(request: web.Request, why: str) -> None:
    """What the client was told, or would have been: a 401 has no body, and many clients show none."""
    _LOG.info("request %s refused: %s", request.get("request_id", ""), why.strip())


def _refused(rejection: Rejection, endpoint: EstEndpoint | None) -> web.Response:
    status = STATUS[rejection.reason]
    seconds = retry_after(rejection)
    headers = {} if seconds is None else {"Retry-After": str(seconds)}
    if status == 401 and endpoint is not None:
        return web.Response(status=401, headers=headers | {"WWW-Authenticate": challenge(endpoint.realm)})
    return web.Response(status=status, text=explanation(rejection), headers=headers)
