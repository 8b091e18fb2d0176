"""Whose is it? Two accounts, every object URL, every verb (the defect that ACME servers share).

What belongs to somebody else is answered as what is not there: status, headers and text are the same, so no answer tells.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from acmeserver.endpoint import AcmeEndpoint, AutoRenewalRules, RenewalInfo
from acmeserver.http import routes
from acmeserver.resources import RESOURCES
from acmeserver.settlement import ORIGIN, OrderSettler
from acmeserver.star import ORIGIN as STAR
from acmeserver.star_settlement import StarSettler
from pki.strict import base64url
from policy.profiles import Profiles
from storage.database import Database
from tests.helpers.acme_client import BASE, AcmeClient, Http, Reply
from tests.helpers.acme_world import RememberedErrors, ScriptedMethod, ScriptedPolicy, make_server, ready
from tests.helpers.ca import TestCa
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr
from tests.helpers.issuing import Issuing
from tests.helpers.profiles import profile

Objects = dict[str, str]
"""URLs of one account's objects, in every state that matters."""

# Everything that an endpoint can have. A self-renewing order's certificate is nobody else's where GET is not allowed.
ENDPOINT = AcmeEndpoint(
    name="default",
    profiles=("tls-server",),
    roles=frozenset({"tester"}),
    renewal_info=RenewalInfo(),
    auto_renewal=AutoRenewalRules(min_lifetime=timedelta(days=1), max_duration=timedelta(days=30)),
    pre_authorization=True,
    authorization_reuse=timedelta(days=1),
)


@dataclass(slots=True)
class World:
    http: Http
    database: Database
    http01: ScriptedMethod
    log: RememberedErrors
    clock: FakeClock

    def client(self, endpoint: str = "default") -> AcmeClient:
        return AcmeClient(self.http, endpoint=endpoint)

    async def registered(self, endpoint: str = "default") -> AcmeClient:
        client = self.client(endpoint)
        assert (await client.register()).status == 201
        return client


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[World]:
    """The real pipeline, with another chain to its root, behind two endpoints that are alike."""
    ca = TestCa()
    ca.issuer = replace(ca.issuer, alternates=((ca.certificate, ca.root),))
    issuing = Issuing(database, clock, ca=ca, profiles=(profile(),), settlers={ORIGIN: OrderSettler(), STAR: StarSettler()})
    http01, log = ScriptedMethod("http-01", clock), RememberedErrors()
    http01.gate.set()
    server = make_server(
        database,
        clock,
        issuance=issuing.issuance,
        policy=ScriptedPolicy(),
        methods=(http01,),
        log=log,
        endpoints=(ENDPOINT, replace(ENDPOINT, name="other")),
        profiles=Profiles(issuing.profiles),
    )
    app = web.Application()
    app.add_routes(routes(server))
    async with TestClient(TestServer(app)) as http:
        yield World(http, database, http01, log, clock)
    await server.close()
    assert log.events == []


async def make_objects(owner: AcmeClient) -> Objects:
    """The pending ones are for names that were not proved before: else their authorizations would be used again."""
    pending, valid = await owner.order("pending.example.com"), await ready(owner, "a.example.com")
    final = await owner.finalize(valid, der_of(make_csr("a.example.com")))
    waiting = await ready(owner, "a.example.com")
    renewing = await ready(
        owner, "star.example.com", **{"auto-renewal": {"end-date": "2026-12-13T00:00:00Z", "lifetime": 345600}}
    )
    star = await owner.finalize(renewing, der_of(make_csr("star.example.com")))
    identifier = {"type": "dns", "value": "pre.example.com"}
    beforehand = await owner.post(owner.url("new-authz"), {"identifier": identifier})
    unproved, proved = [str(order.json["authorizations"][0]) for order in (pending, valid)]
    challenges = [str((await owner.post(url)).json["challenges"][0]["url"]) for url in (unproved, proved)]
    return {
        "account": owner.kid,
        "list of orders": f"{owner.kid}/orders",
        "pending order": pending.location,
        "ready order": waiting.location,
        "valid order": valid.location,
        "renewing order": renewing.location,
        "pending order's finalize": pending.json["finalize"],
        "ready order's finalize": waiting.json["finalize"],
        "valid order's finalize": valid.json["finalize"],
        "pending authorization": unproved,
        "valid authorization": proved,
        "authorization without an order": beforehand.location,
        "pending challenge": challenges[0],
        "valid challenge": challenges[1],
        "certificate": final.json["certificate"],
        "alternate chain": f"{final.json['certificate']}/1",
        "renewing certificate": star.json["star-certificate"],
    }


# What the owner may not do to an object with an empty payload, because it is no object to read.
UNREADABLE = re.compile("finalize$")

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def payloads() -> tuple[object, ...]:
    """Everything that does something to one of its own objects."""
    csr = base64url(der_of(make_csr("a.example.com")))
    status = ({"status": "deactivated"}, {"status": "canceled"})
    return (b"", {}, *status, {"contact": ["mailto:thief@example.com"]}, {"csr": csr})


def missing(url: str) -> str:
    """The same kind of URL, of an object that nobody has."""
    path = url.removeprefix(f"{BASE}/acme/")
    endpoint, kind, identifier, *rest = path.split("/")
    nothing = "f" * len(identifier) if kind == "cert" else "A" * len(identifier)
    return f"{BASE}/acme/" + "/".join((endpoint, kind, nothing, *rest))


def seen(reply: Reply) -> tuple[object, ...]:
    """All that a client can see of an answer, but for what is new every time."""
    headers = {name: value for name, value in reply.headers.items() if name not in {"Replay-Nonce", "Date"}}
    assert ("Replay-Nonce" in reply.headers) == (reply.status != 405)
    return (reply.status, headers, reply.links, reply.body)


async def snapshot(database: Database) -> list[object]:
    tables = (
        "acme_account",
        "acme_order",
        "acme_authorization",
        "acme_order_authorization",
        "acme_star",
        "issuance",
        "certificate",
        "job",
    )
    return [sorted(str(dict(row)) for row in await database.fetch(f"SELECT * FROM {table}")) for table in tables]  # noqa: S608  # a constant


def test_every_object_of_the_route_table_is_attacked_here() -> None:
    """Whoever adds a resource with an id in its path adds one to `make_objects`."""
    kinds = {re.sub(r"\{(?:[^{}]|\{[^{}]*\})*\}", "*", each.path) for each in RESOURCES if "{" in each.path}
    assert kinds == {
        "account/*",
        "account/*/orders",
        "order/*",
        "order/*/finalize",
        "authz/*",
        "challenge/*/*",
        "cert/*",
        "cert/*/*",
        "star-cert/*",
    }


@pytest.mark.parametrize("same_endpoint", [True, False])
async def test_a_stranger_sees_anothers_object_as_one_that_is_not_there(world: World, *, same_endpoint: bool) -> None:
    owner = await world.registered()
    objects = await make_objects(owner)
    stranger = await world.registered("default" if same_endpoint else "other")
    before, calls = await snapshot(world.database), len(world.http01.calls)
    for name, url in objects.items():
        place = url if same_endpoint else url.replace("/acme/default/", "/acme/other/")
        for payload in payloads():
            theirs, nobodys = await stranger.post(place, payload), await stranger.post(missing(place), payload)
            assert seen(theirs) == seen(nobodys), (name, payload)
            assert theirs.status in {403, 404} if payload == b"" and not UNREADABLE.search(name) else theirs.status >= 400
    assert await snapshot(world.database) == before
    assert len(world.http01.calls) == calls


async def test_what_is_not_ones_own_is_404_but_for_the_account_which_is_403(world: World) -> None:
    objects = await make_objects(await world.registered())
    stranger = await world.registered()
    csr = {"csr": base64url(der_of(make_csr("a.example.com")))}
    for name, url in objects.items():
        reply = await stranger.post(url, csr if UNREADABLE.search(name) else b"")
        expected = (403, "unauthorized") if name in {"account", "list of orders"} else (404, "malformed")
        assert (reply.status, reply.problem) == expected, name


async def test_no_unsigned_verb_tells_what_is_there(world: World) -> None:
    objects = await make_objects(await world.registered())
    nobody = world.client()
    before = await snapshot(world.database)
    for name, url in objects.items():
        for verb in VERBS:
            for body in (None, b"{}"):
                theirs = await nobody.request(verb, url, body=body)
                nobodys = await nobody.request(verb, missing(url), body=body)
                open_to_all = name == "renewing certificate" and verb in {
                    "GET",
                    "HEAD",
                }  # RFC 8739 §3.4: if both sides allow it
                assert theirs.status in ({404} if open_to_all else {405, 415}), (name, verb)
                headers = [
                    {key: value for key, value in each.headers.items() if key not in {"Replay-Nonce", "Date"}}
                    for each in (theirs, nobodys)
                ]
                assert (theirs.status, headers[0], theirs.body) == (nobodys.status, headers[1], nobodys.body), (name, verb)
    assert await snapshot(world.database) == before


async def test_the_owner_can_do_all_of_it(world: World) -> None:
    """The tests above prove nothing if their URLs are wrong."""
    owner = await world.registered()
    for name, url in (await make_objects(owner)).items():
        if not UNREADABLE.search(name):
            assert (await owner.post(url)).status == 200, name
        reply = await owner.post(missing(url), {} if name.endswith("finalize") else b"")
        assert reply.status in {400, 403, 404}, name


async def test_a_stranger_cannot_sign_with_anothers_kid(world: World) -> None:
    owner = await world.registered()
    thief = AcmeClient(world.http, kid=owner.kid)
    reply = await thief.post(owner.kid, {"status": "deactivated"})
    assert (reply.status, reply.problem) == (400, "malformed")
    assert (await owner.post(owner.kid)).json["status"] == "valid"


async def test_one_key_with_two_accounts_cannot_reach_from_one_endpoint_into_the_other(world: World) -> None:
    """The same key, a kid of endpoint A, a URL of endpoint B: neither side may confuse them."""
    here = await world.registered()
    there = AcmeClient(world.http, key=here.key, endpoint="other")
    assert (await there.register()).status == 201
    objects = await make_objects(here)
    for name, url in objects.items():
        moved = url.replace("/acme/default/", "/acme/other/")
        assert (await there.post(url)).problem == "accountDoesNotExist", name  # B's kid at A
        assert (await here.post(moved)).problem == "accountDoesNotExist", name  # A's kid at B
        if not UNREADABLE.search(name):
            assert (await there.post(moved)).status in {403, 404}, name  # B's kid at B, A's object


async def test_a_deactivated_account_sees_nothing_of_its_own_any_more(world: World) -> None:
    """RFC 8555 §7.3.6: no request of it is authorized, and what it owned is as closed as what it never had."""
    owner = await world.registered()
    objects = await make_objects(owner)
    assert (await owner.post(owner.kid, {"status": "deactivated"})).status == 200
    before = await snapshot(world.database)
    for name, url in objects.items():
        for payload in payloads():
            theirs, nobodys = await owner.post(url, payload), await owner.post(missing(url), payload)
            assert theirs.status >= 400, name
            if theirs.status != 400:
                assert theirs.problem == "unauthorized", name
            if name not in {"account", "list of orders"}:
                assert seen(theirs) == seen(nobodys), name
    assert await snapshot(world.database) == before
