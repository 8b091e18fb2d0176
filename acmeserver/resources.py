"""The resources of ACME (RFC 8555 §7.1): parse, use case, render.

Law of this file: the table `RESOURCES` is the whole signed surface. Each resource says what its requests are signed with;
there is no handler that a request reaches unsigned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

import orjson

from acmeserver import messages
from acmeserver.authentication import Acting, SignedBy, Signer
from acmeserver.problems import Problem, ProblemType
from acmeserver.server import AcmeServer, Served
from acmeserver.star_orders import StarCertificate
from acmeserver.states import ChallengeStatus, OrderStatus
from acmeserver.store import Account, Authorization, Order
from acmeserver.urls import CHAIN, CHALLENGE, ID, SERIAL
from acmeserver.views import account_view, authorization_view, challenge_view, order_view
from pki.clock import http_date

JSON = "application/json"
PEM_CHAIN = "application/pem-certificate-chain"
STAR_PATH = f"star-cert/{{id:{ID}}}"  # by GET, too, where an order allows it: http.py

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
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated request."""

    server: AcmeServer
    served: Served
    signer: Signer
    payload: bytes = field(repr=False)
    params: Mapping[str, str]
    source_address: str
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def acting(self) -> Acting:
        if self.signer.account_id is None:
            raise TypeError("the route table let a bare key through to a handler that wants an account")
        return Acting(self.signer.account_id, self.signer.jwk, self.source_address)


Handler = Callable[[Call], Awaitable[Answer]]


async def new_account(call: Call) -> Answer:
    wanted = messages.parse_new_account(call.payload)
    account, created = await call.served.accounts.register(call.signer.jwk, wanted, source_address=call.source_address)
    location = call.served.urls.account(account.id)
    return Answer(201 if created else 200, _account_body(call, account), location=location)


async def account(call: Call) -> Answer:
    if call.params["id"] != call.acting.account_id:
        raise Problem(ProblemType.UNAUTHORIZED, "this is another account's URL")
    updated = await call.served.accounts.update(call.acting, messages.parse_account_update(call.payload))
    return Answer(body=_account_body(call, updated), location=call.served.urls.account(updated.id))


async def account_orders(call: Call) -> Answer:
    messages.parse_read(call.payload)
    if call.params["id"] != call.acting.account_id:
        raise Problem(ProblemType.UNAUTHORIZED, "this is another account's URL")
    page, urls = await call.served.accounts.orders(call.acting, call.query.get("after")), call.served.urls
    following = ((urls.orders(call.acting.account_id, page.next), "next"),) if page.next else ()
    return Answer(body=orjson.dumps({"orders": [urls.order(each) for each in page.ids]}), links=following)


async def key_change(call: Call) -> Answer:
    changed = await call.served.key_changes.change(call.acting, call.payload)
    return Answer(body=_account_body(call, changed), location=call.served.urls.account(changed.id))


async def new_order(call: Call) -> Answer:
    wanted = messages.parse_new_order(call.payload)
    return _order_answer(call, await call.served.orders.create(call.acting, wanted), status=201)


async def new_authz(call: Call) -> Answer:
    found, created = await call.served.pre_authorizations.create(call.acting, messages.parse_new_authz(call.payload))
    answer = _authorization_answer(call, found)
    return replace(answer, status=201 if created else 200, location=call.served.urls.authorization(found.id))


async def order(call: Call) -> Answer:
    orders, order_id = call.served.orders, call.params["id"]
    if call.served.endpoint.auto_renewal is None:
        messages.parse_read(call.payload)
    elif messages.parse_order_update(call.payload):
        return _order_answer(call, await orders.cancel(call.acting, order_id))
    return _order_answer(call, await orders.read(call.acting, order_id))


async def finalize(call: Call) -> Answer:
    wanted = messages.parse_finalize(call.payload)
    return _order_answer(call, await call.served.orders.finalize(call.acting, call.params["id"], wanted))


async def authorization(call: Call) -> Answer:
    deactivate = messages.parse_authorization_update(call.payload)
    authorizations, authorization_id = call.served.authorizations, call.params["id"]
    found = await (authorizations.deactivate if deactivate else authorizations.read)(call.acting, authorization_id)
    return _authorization_answer(call, found)


async def challenge(call: Call) -> Answer:
    response = messages.parse_challenge_response(call.payload)
    authorizations, place = call.served.authorizations, (call.acting, call.params["id"], call.params["kind"])
    if response is None:
        return _challenge_answer(call, await authorizations.read_challenge(*place))
    return _challenge_answer(call, await authorizations.respond(*place, response))


async def certificate(call: Call) -> Answer:
    messages.parse_read(call.payload)
    number = int(call.params.get("chain", "0"))
    chain = await call.served.certificates.read(call.acting, call.params["serial"], number)
    # No rel="up": the chain is there already, and some clients would fetch and append it once more.
    links = tuple((url, "alternate") for url in chain.alternates)
    return Answer(body=chain.pem.encode("ascii"), content_type=PEM_CHAIN, links=links)


async def star_certificate(call: Call) -> Answer:
    messages.parse_read(call.payload)
    return star_answer(await call.served.stars.certificate(call.acting, call.params["id"]))


def star_answer(found: StarCertificate) -> Answer:
    """RFC 8739 §3.3: the times are told outside, too, in quotes, for clients that read no certificates."""
    times = (("Cert-Not-Before", found.not_before), ("Cert-Not-After", found.not_after))
    headers = tuple((name, f'"{http_date(at)}"') for name, at in times)
    return Answer(body=found.pem.encode("ascii"), content_type=PEM_CHAIN, headers=headers)


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


# The busiest first: they are tried in this order.
RESOURCES = (
    Resource(f"authz/{{id:{ID}}}", SignedBy.ACCOUNT, authorization),
    Resource(f"challenge/{{id:{ID}}}/{{kind:{CHALLENGE}}}", SignedBy.ACCOUNT, challenge),
    Resource(f"order/{{id:{ID}}}/finalize", SignedBy.ACCOUNT, finalize),
    Resource(f"order/{{id:{ID}}}", SignedBy.ACCOUNT, order),
    Resource(f"cert/{{serial:{SERIAL}}}", SignedBy.ACCOUNT, certificate),
    Resource("new-order", SignedBy.ACCOUNT, new_order),
    Resource("new-account", SignedBy.KEY, new_account),
    Resource(f"account/{{id:{ID}}}", SignedBy.ACCOUNT, account),
    Resource(f"account/{{id:{ID}}}/orders", SignedBy.ACCOUNT, account_orders),
    Resource(f"cert/{{serial:{SERIAL}}}/{{chain:{CHAIN}}}", SignedBy.ACCOUNT, certificate),
    Resource("new-authz", SignedBy.ACCOUNT, new_authz),
    Resource("revoke-cert", SignedBy.EITHER, revoke_cert),
    Resource("key-change", SignedBy.ACCOUNT, key_change),
    Resource(STAR_PATH, SignedBy.ACCOUNT, star_certificate),
)


def _account_body(call: Call, account: Account) -> bytes:
    return orjson.dumps(account_view(account, urls=call.served.urls, terms=call.served.endpoint.terms_of_service))


def _order_answer(call: Call, found: Order, *, status: int = 200) -> Answer:
    """With Location every time: some clients poll what the finalize response names there."""
    now, urls = call.server.clock.micros(), call.served.urls
    body = order_view(found, urls=urls, now=now, show_profile=call.served.shows_profile)
    retry_after = ORDER_RETRY if body["status"] == OrderStatus.PROCESSING.value else None
    return Answer(status, orjson.dumps(body), location=urls.order(found.id), retry_after=retry_after)


def _authorization_answer(call: Call, found: Authorization) -> Answer:
    now, in_flight = call.server.clock.micros(), call.server.validations.in_flight(found.id)
    issuers = call.served.endpoint.caa_identities
    body = authorization_view(found, urls=call.served.urls, issuer_domains=issuers, now=now, in_flight=in_flight)
    return Answer(body=orjson.dumps(body), retry_after=CHALLENGE_RETRY if in_flight else None)


def _challenge_answer(call: Call, found: Authorization) -> Answer:
    urls, in_flight = call.served.urls, call.server.validations.in_flight(found.id)
    issuers = call.served.endpoint.caa_identities
    body = challenge_view(found, call.params["kind"], urls=urls, issuer_domains=issuers, in_flight=in_flight)
    return Answer(
        body=orjson.dumps(body),
        links=((urls.authorization(found.id), "up"),),
        retry_after=CHALLENGE_RETRY if body["status"] == ChallengeStatus.PROCESSING.value else None,
    )
