"""ACME over HTTP (RFC 8555 §6): the directory, nonces, and the way of every signed request to its resource and back.

Law of this file: what a request may reach unsigned is named here, and all else is in the table of `resources.py`. Every
answer passes `_serve`, which alone adds the headers and alone turns errors into problem documents.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

import orjson
from aiohttp import web

from acmeserver import cors
from acmeserver.authentication import SignedBy
from acmeserver.endpoint import DEFAULT_ENDPOINT
from acmeserver.jws import MAX_BODY
from acmeserver.problems import Problem, ProblemType, from_rejection, from_unavailable, malformed, not_found
from acmeserver.resources import RESOURCES, STAR_PATH, Answer, Call, Resource, star_answer
from acmeserver.server import AcmeServer, Served
from pki.reasons import Rejection, Unavailable

JOSE = "application/jose+json"
PROBLEM = "application/problem+json"


def routes(server: AcmeServer) -> list[web.RouteDef]:
    """Everything under /acme."""
    table = [
        web.route("*", "/acme/directory", _directory(server)),
        web.route("*", "/acme/{endpoint}/directory", _directory(server)),
        web.route("*", "/acme/{endpoint}/new-nonce", _new_nonce(server)),
        web.route("*", "/acme/{endpoint}/renewal-info/{certificate}", _renewal_info(server)),
    ]
    for each in RESOURCES:
        if each.path == STAR_PATH:  # beside the signed POST
            table += [web.get(f"/acme/{{endpoint}}/{STAR_PATH}", _star_certificate(server))]
        table.append(web.route("*", f"/acme/{{endpoint}}/{each.path}", _signed(server, each)))
    table += [web.route("*", path, _nowhere(server)) for path in ("/acme/{endpoint}/{tail:.*}", "/acme/{tail:.*}", "/acme")]
    return table


_LOG = logging.getLogger(__name__)
_Route = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Produce = Callable[[Served], Awaitable[Answer]]


def _directory(server: AcmeServer) -> _Route:
    async def handle(request: web.Request) -> web.StreamResponse:
        async def produce(served: Served) -> Answer:
            _only(request, "GET", "HEAD")
            return Answer(body=served.directory)

        return await _serve(server, request, produce, index=False)

    return handle


def _new_nonce(server: AcmeServer) -> _Route:
    async def handle(request: web.Request) -> web.StreamResponse:
        async def produce(_: Served) -> Answer:
            _only(request, "HEAD", "GET")
            return Answer(200 if request.method == "HEAD" else 204)  # §7.2

        return await _serve(server, request, produce, nonce=True)

    return handle


def _renewal_info(server: AcmeServer) -> _Route:
    """RFC 9773 §4.1: a plain GET, for its answer is the same for everybody."""

    async def handle(request: web.Request) -> web.StreamResponse:
        async def produce(served: Served) -> Answer:
            _only(request, "GET", "HEAD")
            body, retry_after = await served.renewals.info(request.match_info["certificate"])
            return Answer(body=body, retry_after=retry_after)

        return await _serve(server, request, produce)

    return handle


def _star_certificate(server: AcmeServer) -> _Route:
    """RFC 8739 §3.4: unsigned, of an order whose account has asked for that."""

    async def handle(request: web.Request) -> web.StreamResponse:
        async def produce(served: Served) -> Answer:
            return star_answer(await served.stars.open_certificate(request.match_info["id"]))

        return await _serve(server, request, produce)

    return handle


def _signed(server: AcmeServer, resource: Resource) -> _Route:
    async def handle(request: web.Request) -> web.StreamResponse:
        async def produce(served: Served) -> Answer:
            _only(request, "POST")
            return await resource.handler(await _authenticated(server, served, request, resource.signed_by))

        return await _serve(server, request, produce)

    return handle


def _nowhere(server: AcmeServer) -> _Route:
    async def handle(request: web.Request) -> web.StreamResponse:
        async def produce(_: Served) -> Answer:
            raise not_found("resource")

        return await _serve(server, request, produce)

    return handle


async def _authenticated(server: AcmeServer, served: Served, request: web.Request, signed_by: SignedBy) -> Call:
    if request.content_type != JOSE:
        raise malformed(f"requests have the Content-Type {JOSE} (RFC 8555 §6.2)", status=415)
    if "Replay-Nonce" in request.headers:
        raise malformed("a request carries its nonce in the JWS, not in a Replay-Nonce header")
    signer, payload = await server.authenticator.authenticate(
        body=await _body(request),
        url=served.urls.absolute(request.raw_path),
        urls=served.urls,
        endpoint=served.endpoint.name,
        signed_by=signed_by,
    )
    return Call(server, served, signer, payload, request.match_info, request.remote or "", request.query)


async def _body(request: web.Request) -> bytes:
    """The body, or as much of it as shows that it is too long."""
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > MAX_BODY:
                raise malformed(f"the request is longer than {MAX_BODY} octets", status=413)
    except (web.RequestPayloadError, web.HTTPBadRequest, ConnectionResetError) as error:
        raise malformed("the request body did not arrive whole") from error
    return bytes(body)


async def _serve(
    server: AcmeServer, request: web.Request, produce: _Produce, *, index: bool = True, nonce: bool = False
) -> web.StreamResponse:
    """The one edge: answer or problem, and the headers of all answers (§6.5, §7.1)."""
    served = server.served.get(request.match_info.get("endpoint", DEFAULT_ENDPOINT))
    listed, origin = served.endpoint.cors if served is not None else (), request.headers.get("Origin")
    more: Mapping[str, str] | None = None
    try:
        answer = await produce(served) if served is not None else _refused(request, not_found("ACME endpoint"))
    except Problem as problem:
        if problem.allow and request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            more = cors.preflight(listed, origin, problem.allow)
        answer = _refused(request, problem) if more is None else Answer(204)
    except Rejection as rejection:
        answer = _refused(request, from_rejection(rejection))
    except Unavailable as outage:
        _LOG.warning("request %s cannot be served now: %s", request.get("request_id", ""), outage.what)
        answer = _problem_answer(from_unavailable(outage))
    except Exception:  # the outermost edge: a bug is logged, and the client learns only where to ask
        request_id = str(request.get("request_id") or server.new_id())
        server.log.exception("acme.internal_error", request_id=request_id, method=request.method, path=request.path)
        answer = _bug_answer(request_id)
    response = _response(answer)
    response.headers.update({**cors.allowed(listed, origin), **(more or {})})
    if index and served is not None:
        response.headers.add("Link", _link(served.urls.directory, "index"))
    if nonce or request.method == "POST":
        await _add_nonce(server, response)
    return response


async def _add_nonce(server: AcmeServer, response: web.Response) -> None:
    try:
        response.headers["Replay-Nonce"] = await server.nonces.issue()
    except Unavailable:
        return  # the answer is the 503 of the same outage, or was made before it began


def _response(answer: Answer) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    if answer.body:
        headers["Content-Type"] = answer.content_type
    if answer.location:
        headers["Location"] = answer.location
    if answer.retry_after is not None:
        headers["Retry-After"] = str(answer.retry_after)
    if answer.allow:
        headers["Allow"] = answer.allow
    headers.update(answer.headers)
    response = web.Response(status=answer.status, body=answer.body, headers=headers)
    for url, relation in answer.links:
        response.headers.add("Link", _link(url, relation))
    return response


def _link(url: str, relation: str) -> str:
    """One header line for each, quoted: lego and uacme read them so."""
    return f'<{url}>;rel="{relation}"'


def _refused(request: web.Request, problem: Problem) -> Answer:
    """Told to the client, and to the log, for many clients show no more than the type."""
    why = "; ".join([problem.detail, *(part.detail for part in problem.sub)])
    _LOG.info("request %s refused: %s: %s", request.get("request_id", ""), problem.type.value, why)
    return _problem_answer(problem)


def _problem_answer(problem: Problem) -> Answer:
    links = ((problem.terms_of_service, "terms-of-service"), (problem.help_url, "help"))
    return Answer(
        problem.status,
        orjson.dumps(problem.json()),
        PROBLEM,
        location=problem.location,
        links=tuple(link for link in links if link[0]),
        retry_after=problem.retry_after,
        allow=problem.allow,
    )


def _bug_answer(request_id: str) -> Answer:
    return _problem_answer(Problem(ProblemType.SERVER_INTERNAL, f"internal error; the server's log has it as {request_id}"))


def _only(request: web.Request, *methods: str) -> None:
    if request.method not in methods:
        allow = ", ".join(methods)
        raise Problem(ProblemType.MALFORMED, f"this resource takes {allow} (RFC 8555 §6.3)", status=405, allow=allow)
