"""The REST API over HTTP: authenticate, parse, ask the pipeline, render.

Law of this file: no body is read before its sender is known, and whose certificates somebody may see or revoke is part of the
question to the ledger (`owner`), never a comparison after it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, assert_never

from aiohttp import web
from pydantic import BaseModel

from issuance.credentials import Credential
from issuance.request import ApiKey, Channel, IssuanceRequest, Issued, IssuedCertificate, Outcome, Pending, Rejected
from issuance.service import CertificateRecord
from pki.clock import Micros
from pki.csr import parse_csr
from pki.reasons import Reason, Rejection, RevocationReason, Unavailable
from policy.principal import Principal, PrincipalKind
from rest import messages, problems
from rest.accept import pem_type
from rest.auth import presented_key
from rest.openapi import describe

_LOG = logging.getLogger(__name__)

ADMIN = "admin"  # the role that sees and revokes everybody's certificates
MAX_BODY = 256 * 1024  # octets
_NO_STORE = {"Cache-Control": "no-store"}


class Certificates(Protocol):
    """What REST needs of `issuance.service.Issuance`."""

    async def submit(self, request: IssuanceRequest) -> Outcome: ...

    async def revoke(self, *, issuer: str, serial: str, reason: RevocationReason, principal: Principal) -> None: ...

    async def certificate(
        self, serial: str, *, issuer: str | None = None, principal: str | None = None
    ) -> CertificateRecord | None: ...

    async def certificates(
        self, *, principal: str | None = None, before: tuple[Micros, str] | None = None, limit: int = 100
    ) -> Sequence[CertificateRecord]: ...

    def chain_pem(self, certificate: IssuedCertificate) -> str: ...


class ApiKeys(Protocol):
    """What REST needs of `issuance.credentials.Credentials`."""

    async def check_api_key(self, presented: str) -> Credential: ...


Handler = Callable[[web.Request], Awaitable[web.Response]]


class RestServer:
    """`base_url` (without a slash at its end) begins every URL that is given out."""

    def __init__(self, *, issuance: Certificates, credentials: ApiKeys, base_url: str) -> None:
        self._issuance = issuance
        self._credentials = credentials
        self._base_url = base_url.rstrip("/")
        self._description = describe(self._base_url)

    # ------------------------------------------------------------------ use cases

    async def issue(self, request: web.Request) -> web.Response:
        credential, principal = await self.authenticate(request)
        query = messages.read_query(list(request.query.items()), known=frozenset({"profile"}))
        key = messages.parse_idempotency_key(request.headers.getall("Idempotency-Key", []))
        wanted = messages.read_wanted(
            await read_body(request), content_type=request.headers.get("Content-Type", ""), profile=query.get("profile")
        )
        csr = parse_csr(wanted.csr)
        outcome = await self._issuance.submit(
            IssuanceRequest(
                channel=Channel.REST,
                endpoint="",
                principal=principal,
                evidence=(ApiKey(credential.id),),
                profile=credential.profile if wanted.profile is None else wanted.profile,
                csr=csr,
                identifiers=csr.identifiers,
                common_name=csr.common_name,
                not_before=wanted.not_before,
                not_after=wanted.not_after,
                idempotency_key=None if key is None else f"rest/{principal}/{key}",
            )
        )
        match outcome:
            case Issued(certificate):
                return self._issued(request, certificate)
            case Pending(waiting_for, seconds):
                answer = messages.PendingAnswer(id=waiting_for, retry_after=seconds)
                return json_answer(answer, status=202, headers={"Retry-After": str(seconds)})
            case Rejected(rejection):
                raise rejection
            case _:
                assert_never(outcome)

    async def show(self, request: web.Request) -> web.Response:
        _, principal = await self.authenticate(request)
        messages.read_query(list(request.query.items()), known=frozenset())
        record = await self._record(request, principal)
        chain = self._issuance.chain_pem(record.certificate)
        if media_type := _pem_type(request):
            return _pem(chain, media_type)
        return json_answer(messages.detail(record, chain=chain))

    async def list(self, request: web.Request) -> web.Response:
        _, principal = await self.authenticate(request)
        query = messages.read_query(list(request.query.items()), known=frozenset({"limit", "cursor"}))
        limit = messages.parse_limit(query.get("limit"))
        before = messages.decode_cursor(query["cursor"]) if "cursor" in query else None
        # One more than asked for tells whether there is a next page.
        records = await self._issuance.certificates(principal=owner(principal), before=before, limit=limit + 1)
        page = records[:limit]
        following = None
        if len(records) > limit:
            following = messages.encode_cursor((page[-1].certificate.issued_at, page[-1].certificate.serial))
        return json_answer(messages.CertificateList(certificates=[messages.summary(record) for record in page], next=following))

    async def revoke(self, request: web.Request) -> web.Response:
        _, principal = await self.authenticate(request)
        messages.read_query(list(request.query.items()), known=frozenset())
        record = await self._record(request, principal)
        reason = messages.read_revocation(await read_body(request))
        issuer, serial = record.certificate.issuer, record.certificate.serial
        await self._issuance.revoke(issuer=issuer, serial=serial, reason=reason, principal=principal)
        revoked = await self._issuance.certificate(serial, issuer=issuer)
        return json_answer(messages.summary(revoked or record))

    async def openapi(self, _request: web.Request) -> web.Response:
        return web.json_response(self._description)

    # ------------------------------------------------------------------ shared

    async def authenticate(self, request: web.Request) -> tuple[Credential, Principal]:
        headers = request.headers
        key = presented_key(api_key=headers.getall("X-API-Key", []), authorization=headers.getall("Authorization", []))
        credential = await self._credentials.check_api_key(key)
        principal = Principal(
            kind=PrincipalKind.API_KEY,
            id=credential.id,
            roles=credential.roles,
            source_address=request.remote or "",
        )
        return credential, principal

    async def _record(self, request: web.Request, principal: Principal) -> CertificateRecord:
        """The certificate of this URL, if it is theirs; somebody else's and nobody's look the same."""
        serial = messages.parse_serial(request.match_info["serial"])
        record = await self._issuance.certificate(serial, principal=owner(principal))
        if record is None:
            raise messages.no_such_certificate()
        return record

    def _issued(self, request: web.Request, certificate: IssuedCertificate) -> web.Response:
        chain = self._issuance.chain_pem(certificate)
        headers = {"Location": f"{self._base_url}/api/v1/certificates/{certificate.serial}"}
        if media_type := _pem_type(request):
            return _pem(chain, media_type, status=201, headers=headers)
        return json_answer(messages.issued_answer(certificate, chain=chain), status=201, headers=headers)


def routes(server: RestServer, more: Mapping[str, Mapping[str, Handler]] | None = None) -> list[web.RouteDef]:
    """Every path below /api/v1 answers as the API does, also those that are not there. `more` are other resources, by path."""
    resources: Mapping[str, Mapping[str, Handler]] = {
        "/api/v1/certificates": {"GET": server.list, "POST": server.issue},
        "/api/v1/certificates/{serial}": {"GET": server.show},
        "/api/v1/certificates/{serial}/revoke": {"POST": server.revoke},
        "/api/openapi.json": {"GET": server.openapi},
        **(more or {}),
        "/api/v1": {},
        "/api/v1/{tail:.*}": {},
    }
    return [web.route("*", path, _edge(methods)) for path, methods in resources.items()]


def _edge(methods: Mapping[str, Handler]) -> Handler:
    """The outermost edge: every refusal becomes its problem document, and what nobody expected a bare 500."""

    async def handle(request: web.Request) -> web.Response:
        try:
            return await _dispatch(request, methods)
        except problems.HttpRefusal as refusal:
            headers = {} if refusal.allow is None else {"Allow": refusal.allow}
            return _problem(request, refusal.problem.http_status, refusal.document(), headers)
        except Rejection as rejection:
            return _refused(request, rejection)
        except Unavailable as outage:
            _LOG.warning("unavailable: %s", outage.what)
            members = problems.render(
                problems.UNAVAILABLE, slug="unavailable", detail="a part of this server is away; try again"
            )
            return _problem(request, 503, members, {"Retry-After": str(outage.retry_after)})
        except Exception:  # noqa: BLE001  # the outermost edge: no text of ours leaves with a bug
            _LOG.exception("request %s failed", request.get("request_id", ""))
            members = problems.render(problems.INTERNAL, slug="internal", detail="Internal error occurred")
            return _problem(request, 500, members, {})

    return handle


async def _dispatch(request: web.Request, methods: Mapping[str, Handler]) -> web.Response:
    if not methods:
        raise Rejection(Reason.NOT_FOUND, "there is nothing at this path", suggestions=["see /api/openapi.json"])
    handler = methods.get("GET" if request.method == "HEAD" else request.method)
    if handler is None:
        allow = ", ".join(sorted(methods))
        raise problems.HttpRefusal(405, "method-not-allowed", "Method not allowed", f"use {allow} here", allow=allow)
    return await handler(request)


def owner(principal: Principal) -> str | None:
    """Whose certificates they may see and revoke; None is everybody's."""
    return None if ADMIN in principal.roles else str(principal)


async def read_body(request: web.Request) -> bytes:
    """At most MAX_BODY octets, whatever the headers promise. Raises HttpRefusal(413), Rejection(MALFORMED)."""
    body = bytearray()
    try:
        async for chunk in request.content.iter_chunked(64 * 1024):
            body += chunk
            if len(body) > MAX_BODY:
                raise problems.HttpRefusal(413, "too-large", "Too large", f"a body has at most {MAX_BODY} octets here")
    except (web.RequestPayloadError, ConnectionResetError):  # the client is gone, or its body is not what its headers say
        raise Rejection(Reason.MALFORMED, "the body did not arrive as its headers say; send it again") from None
    return bytes(body)


def _pem_type(request: web.Request) -> str | None:
    return pem_type(",".join(request.headers.getall("Accept", [])))


def json_answer(answer: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status,
        text=answer.model_dump_json(),
        content_type="application/json",
        headers={**_NO_STORE, **(headers or {})},
    )


def _pem(text: str, media_type: str, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=text, content_type=media_type, headers={**_NO_STORE, **(headers or {})})


def _refused(request: web.Request, rejection: Rejection) -> web.Response:
    problem = problems.PROBLEMS[rejection.reason]
    headers: dict[str, str] = {}
    if (seconds := problems.retry_after(rejection)) is not None:
        headers["Retry-After"] = str(seconds)
    if problem.http_status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="certwright"'
    return _problem(request, problem.http_status, problems.document(rejection), headers)


def _problem(request: web.Request, status: int, members: problems.Document, headers: Mapping[str, str]) -> web.Response:
    if isinstance(request_id := request.get("request_id"), str):
        members["request_id"] = request_id
    if status < 500:
        _LOG.info("request %s refused: %s", request_id or "", members.get("detail", ""))
    return web.Response(
        status=status, text=json.dumps(members), content_type=problems.CONTENT_TYPE, headers={**_NO_STORE, **headers}
    )
