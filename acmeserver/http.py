"""ACME over HTTP (RFC 8555 §6): authenticate, parse, use case, render.

Law of this file: the table `RESOURCES` is the whole surface. Each resource says what its requests are signed with; there is
no handler that a request reaches unsigned, but the directory and newNonce. Every answer passes `_serve`, which alone adds the
headers and alone turns errors into problem documents.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import orjson
from aiohttp import web

from acmeserver import messages
from acmeserver.authentication import Acting, SignedBy, Signer
from acmeserver.endpoint import DEFAULT_ENDPOINT
from acmeserver.jws import MAX_BODY
from acmeserver.problems import Problem, ProblemType, from_rejection, from_unavailable, malformed, not_found
from acmeserver.server import AcmeServer, Served
from acmeserver.states import ChallengeStatus, OrderStatus
from acmeserver.store import Authorization, Order
from acmeserver.urls import CHALLENGE, ID, SERIAL
from acmeserver.views import account_view, authorization_view, challenge_view, order_view
from pki.reasons import Rejection, Unavailable

JOSE = "application/jose+json"
JSON = "application/json"
PROBLEM = "application/problem+json"
CHAIN = "application/pem-certificate-chain"

ORDER_RETRY = 3  # seconds
CHALLENGE_RETRY = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send; `_serve` adds what every answer has. `links` are (URL, relation)."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    location: str = ""
    links: tuple[tuple[str, str], ...] = ()
    retry_after: int | None = None
    allow: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated request."""

    server: AcmeServer
    served: Served
    signer: Signer
    payload: bytes = field(repr=False)
    params: Mapping[str, str]
    source_address: str

    @property
    def acting(self) -> Acting:
        if self.signer.account_id is None:
            raise TypeError("the route table let a bare key through to a handler that wants an account")
        return Acting(self.signer.account_id, self.signer.jwk, self.source_address)


Handler = Callable[[Call], Awaitable[Answer]]


async def new_account(call: Call) -> Answer:
    wanted = messages.parse_new_account(call.payload)
    account, created = await call.served.accounts.register(call.signer.jwk, wanted)
    location = call.served.urls.account(account.id)
    return Answer(201 if created else 200, orjson.dumps(account_view(account)), location=location)


async def account(call: Call) -> Answer:
    if call.params["id"] != call.acting.account_id:
        raise Problem(ProblemType.UNAUTHORIZED, "this is another account's URL")
    updated = await call.served.accounts.update(call.acting, messages.parse_account_update(call.payload))
    return Answer(body=orjson.dumps(account_view(updated)), location=call.served.urls.account(updated.id))


async def new_order(call: Call) -> Answer:
    wanted = messages.parse_new_order(call.payload)
    return _order_answer(call, await call.served.orders.create(call.acting, wanted), status=201)


async def order(call: Call) -> Answer:
    messages.parse_read(call.payload)
    return _order_answer(call, await call.served.orders.read(call.acting, call.params["id"]))


async def finalize(call: Call) -> Answer:
    wanted = messages.parse_finalize(call.payload)
    return _order_answer(call, await call.served.orders.finalize(call.acting, call.params["id"], wanted))


async def authorization(call: Call) -> Answer:
    deactivate = messages.parse_authorization_update(call.payload)
    authorizations, authorization_id = call.served.authorizations, call.params["id"]
    found = await (authorizations.deactivate if deactivate else authorizations.read)(call.acting, authorization_id)
    now, in_flight = call.server.clock.micros(), call.server.validations.in_flight(found.id)
    body = authorization_view(found, urls=call.served.urls, now=now, in_flight=in_flight)
    return Answer(body=orjson.dumps(body), retry_after=CHALLENGE_RETRY if in_flight else None)


async def challenge(call: Call) -> Answer:
    start = messages.parse_challenge_response(call.payload)
    authorizations = call.served.authorizations
    do = authorizations.respond if start else authorizations.read_challenge
    return _challenge_answer(call, await do(call.acting, call.params["id"], call.params["kind"]))


async def certificate(call: Call) -> Answer:
    messages.parse_read(call.payload)
    chain = await call.served.orders.certificate(call.acting, call.params["serial"])
    return Answer(body=chain.encode("ascii"), content_type=CHAIN)


async def revoke_cert(call: Call) -> Answer:
    wanted = messages.parse_revoke_cert(call.payload)
    if call.signer.account_id is None:
        await call.served.revocation.by_key(call.signer.jwk, wanted, source_address=call.source_address)
    else:
        await call.served.revocation.by_account(call.acting, wanted)
    return Answer()


@dataclass(frozen=True, slots=True)
class Resource:
    """A path below /acme/<endpoint>, and who may POST to it."""

    path: str
    signed_by: SignedBy
    handler: Handler


RESOURCES = (
    Resource("new-account", SignedBy.KEY, new_account),
    Resource("new-order", SignedBy.ACCOUNT, new_order),
    Resource("revoke-cert", SignedBy.EITHER, revoke_cert),
    Resource(f"account/{{id:{ID}}}", SignedBy.ACCOUNT, account),
    Resource(f"order/{{id:{ID}}}", SignedBy.ACCOUNT, order),
    Resource(f"order/{{id:{ID}}}/finalize", SignedBy.ACCOUNT, finalize),
    Resource(f"authz/{{id:{ID}}}", SignedBy.ACCOUNT, authorization),
    Resource(f"challenge/{{id:{ID}}}/{{kind:{CHALLENGE}}}", SignedBy.ACCOUNT, challenge),
    Resource(f"cert/{{serial:{SERIAL}}}", SignedBy.ACCOUNT, certificate),
)


def routes(server: AcmeServer) -> list[web.RouteDef]:
    """Everything under /acme."""
    table = [
        web.route("*", "/acme/directory", _directory(server)),
        web.route("*", "/acme/{endpoint}/directory", _directory(server)),
        web.route("*", "/acme/{endpoint}/new-nonce", _new_nonce(server)),
    ]
    table += [web.route("*", f"/acme/{{endpoint}}/{each.path}", _signed(server, each)) for each in RESOURCES]
    table.append(web.route("*", "/acme/{endpoint}/{tail:.*}", _nowhere(server)))
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
    return Call(server, served, signer, payload, request.match_info, request.remote or "")


async def _body(request: web.Request) -> bytes:
    """The body, or as much of it as shows that it is too long."""
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > MAX_BODY:
                raise malformed(f"the request is longer than {MAX_BODY} octets", status=413)
    except (web.RequestPayloadError, web.HTTPBadRequest) as error:
        raise malformed("the request body did not arrive whole") from error
    return bytes(body)


async def _serve(
    server: AcmeServer, request: web.Request, produce: _Produce, *, index: bool = True, nonce: bool = False
) -> web.StreamResponse:
    """The one edge: answer or problem, and the headers of all answers (§6.5, §7.1)."""
    served = server.served.get(request.match_info.get("endpoint", DEFAULT_ENDPOINT))
    try:
        answer = await produce(served) if served is not None else _refused(request, not_found("ACME endpoint"))
    except Problem as problem:
        answer = _refused(request, problem)
    except Rejection as rejection:
        answer = _refused(request, from_rejection(rejection))
    except Unavailable as outage:
        answer = _problem_answer(from_unavailable(outage))
    except Exception:  # the outermost edge: a bug is logged, and the client learns only where to ask
        request_id = str(request.get("request_id") or server.new_id())
        server.log.exception("acme.internal_error", request_id=request_id, method=request.method, path=request.path)
        answer = _bug_answer(request_id)
    response = _response(answer)
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
    terms = ((problem.terms_of_service, "terms-of-service"),) if problem.terms_of_service else ()
    return Answer(
        problem.status,
        orjson.dumps(problem.json()),
        PROBLEM,
        links=terms,
        retry_after=problem.retry_after,
        allow=problem.allow,
    )


def _bug_answer(request_id: str) -> Answer:
    return _problem_answer(Problem(ProblemType.SERVER_INTERNAL, f"internal error; the server's log has it as {request_id}"))


def _only(request: web.Request, *methods: str) -> None:
    if request.method not in methods:
        allow = ", ".join(methods)
        raise Problem(ProblemType.MALFORMED, f"this resource takes {allow} (RFC 8555 §6.3)", status=405, allow=allow)


def _order_answer(call: Call, found: Order, *, status: int = 200) -> Answer:
    """With Location every time: some clients poll what the finalize response names there."""
    now, urls = call.server.clock.micros(), call.served.urls
    body = order_view(found, urls=urls, now=now, show_profile=len(call.served.endpoint.profiles) > 1)
    retry_after = ORDER_RETRY if body["status"] == OrderStatus.PROCESSING.value else None
    return Answer(status, orjson.dumps(body), location=urls.order(found.id), retry_after=retry_after)


def _challenge_answer(call: Call, found: Authorization) -> Answer:
    urls, in_flight = call.served.urls, call.server.validations.in_flight(found.id)
    body = challenge_view(found, call.params["kind"], urls=urls, in_flight=in_flight)
    return Answer(
        body=orjson.dumps(body),
        links=((urls.authorization(found.id), "up"),),
        retry_after=CHALLENGE_RETRY if body["status"] == ChallengeStatus.PROCESSING.value else None,
    )
