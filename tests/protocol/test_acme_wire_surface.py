"""The whole surface of an ACME endpoint: what may be reached how, by every route, verb, spelling and header (RFC 8555 §6, §7.1).

Default deny: what an unsigned request may get is listed here, and everything else in the route table must refuse it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web
from yarl import URL

from acmeserver.http import routes
from acmeserver.problems import PROBLEMS, ProblemType, default_status
from acmeserver.resources import RESOURCES
from issuance.request import Rejected
from pki.reasons import Reason, Rejection, Unavailable
from pki.strict import base64url
from storage.database import Database
from storage.open import open_database
from tests.helpers.acme_client import BASE, AcmeClient, Reply, make_jws, to_json
from tests.helpers.acme_world import AcmeWorld, acme_world, issued, ready
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr


@pytest.fixture
async def world(clock: FakeClock, tmp_path: object) -> AsyncIterator[AcmeWorld]:
    database = await open_database(f"sqlite://{tmp_path}/certwright.db", migrate=True)
    async with acme_world(database, clock) as world:
        yield world
    await database.close()


@pytest.fixture
async def client(world: AcmeWorld) -> AcmeClient:
    return await world.registered()


# ------------------------------------------------------------------------------------------------ unsigned

# What anybody may GET. Whoever adds a route that needs no signature comes here and says why nobody's data is in it.
PUBLIC = {
    "/acme/directory": "the same for everybody",
    "/acme/{endpoint}/directory": "the same for everybody",
    "/acme/{endpoint}/new-nonce": "a fresh random value",
    "/acme/{endpoint}/renewal-info/{certificate}": "times of a certificate that the asker names; RFC 9773 §4.1 wants no signature",
}
VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "get", "post")


def templates(world: AcmeWorld) -> list[str]:
    app = web.Application()
    app.add_routes(routes(world.server))
    return sorted({resource.canonical for resource in app.router.resources()})


def concrete(template: str) -> str:
    """A path that the template's route answers, for an object that nobody has."""
    values = {"endpoint": "default", "chain": "1"}
    return re.sub(r"\{(\w+)(?:[^{}]|\{[^{}]*\})*\}", lambda found: values.get(found[1], "ab"), template)


async def test_every_route_refuses_an_unsigned_request_but_for_the_public_ones(world: AcmeWorld) -> None:
    found = templates(world)
    assert set(PUBLIC) <= set(found)
    assert len(found) > len(RESOURCES)
    nobody = world.client()
    for template in found:
        for verb in VERBS:
            for body in (None, b"{}", b'{"protected":"e30","payload":"","signature":""}'):
                reply = await nobody.request(
                    verb, concrete(template), body=body, headers={"Content-Type": "application/jose+json"}
                )
                if template in PUBLIC and verb.upper() in {"GET", "HEAD"}:
                    assert reply.status in ({404} if "renewal-info" in template else {200, 204}), (template, verb)
                else:
                    assert 400 <= reply.status < 500, (template, verb)
    for table in ("acme_account", "acme_order", "acme_authorization"):
        assert await world.database.fetch(f"SELECT id FROM {table}") == []  # noqa: S608  # a constant
    assert world.log.events == []


async def test_every_route_refuses_a_request_that_a_stranger_signed(world: AcmeWorld) -> None:
    """By a key without an account: new-account takes it, and revoke-cert if it is the certificate's; nothing else does."""
    stranger = world.client()
    for each in RESOURCES:
        url = f"{BASE}{concrete('/acme/{endpoint}/' + each.path)}"
        payload = {} if each.path != "new-account" else {"onlyReturnExisting": True}
        reply = await stranger.post(url, payload, jwk=True)
        assert 400 <= reply.status < 500, each.path
        stranger.kid = stranger.url("account/AAAAAAAAAAAAAAAAAAAAAA")
        assert (await stranger.post(url, payload)).status == 400, each.path
    assert await world.database.fetch("SELECT id FROM acme_account") == []


# ------------------------------------------------------------------------------------------------ spellings

SPELLINGS: dict[str, Callable[[str], str]] = {
    "a slash behind": lambda path: path + "/",
    "two slashes": lambda path: path.replace("/acme/", "/acme//"),
    "a slash in front": lambda path: "/" + path,
    "a parameter": lambda path: path + ";x",
    "a parameter inside": lambda path: path.replace("/acme/", "/acme;x/"),
    "an escaped slash": lambda path: "%2f".join(path.rsplit("/", 1)),
    "an escaped slash in capitals": lambda path: "%2F".join(path.rsplit("/", 1)),
    "an escaped slash behind": lambda path: path + "%2f",
    "an escape of an escape": lambda path: "%252f".join(path.rsplit("/", 1)),
    "a backslash": lambda path: "\\".join(path.rsplit("/", 1)),
    "a dot": lambda path: path + "/.",
    "dots": lambda path: path + "/../" + path.rpartition("/")[2],
    "a NUL": lambda path: path + "%00",
    "a space": lambda path: path + "%20",
    "capitals": lambda path: path.replace("/acme/", "/ACME/"),
    "an endpoint in capitals": lambda path: path.replace("/default/", "/DEFAULT/"),
    "enable": lambda path: path + "/enable",
    "a suffix": lambda path: path + ".json",
}


async def send_as_it_is(client: AcmeClient, path: str, jws: object) -> int:
    """The status; and no library on the way puts the path in order."""
    origin = str(client.http.make_url("/")).rstrip("/")
    url, headers = URL(origin + path, encoded=True), {"Content-Type": "application/jose+json"}
    async with client.http.session.post(url, data=to_json(jws), headers=headers, allow_redirects=False) as response:
        return response.status


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS.keys())
async def test_another_spelling_of_a_path_reaches_nothing_even_when_it_is_signed(
    world: AcmeWorld, client: AcmeClient, spell: Callable[[str], str]
) -> None:
    """The signature is right and over this very spelling; a proxy in front may have let it through for what it looks like."""
    order = await ready(client, "a.example.com")
    csr = {"csr": base64url(der_of(make_csr("a.example.com")))}
    authorization = order.json["authorizations"][0]
    for url, payload in (
        (client.kid, {"status": "deactivated"}),
        (client.url("new-order"), {"identifiers": [{"type": "dns", "value": "b.example.com"}]}),
        (order.location, b""),
        (order.json["finalize"], csr),
        (authorization, {"status": "deactivated"}),
    ):
        path = spell(url.removeprefix(BASE))
        jws = make_jws(
            client.key, await client.header(BASE + path), payload if isinstance(payload, bytes) else to_json(payload)
        )
        for body in (jws, {**jws, "signature": ""}):
            assert 400 <= await send_as_it_is(client, path, body) < 500, path
    assert (await client.post(client.kid)).json["status"] == "valid"
    assert (await client.post(order.location)).json["status"] == "ready"
    assert world.issuance.requests == []
    assert len(await world.database.fetch("SELECT id FROM acme_order")) == 1


async def test_a_query_changes_nothing_and_is_part_of_what_is_signed(client: AcmeClient) -> None:
    """RFC 8555 §6.4: the url of the header is that of the request, its query too."""
    for query in ("?", "?x", "?kid=x&url=y", "?/acme/default/new-order"):
        path = client.kid.removeprefix(BASE) + query
        unsigned_query = await client.send(path, make_jws(client.key, await client.header(client.kid), b""))
        assert query == "?" or (unsigned_query.status, unsigned_query.problem) == (403, "unauthorized")


# ------------------------------------------------------------------------------------------------ headers that lie

FORGED = (
    {"Host": "evil.test"},
    {"X-Forwarded-Host": "evil.test", "X-Forwarded-Proto": "http", "X-Forwarded-Port": "80", "X-Forwarded-Prefix": "/evil"},
    {"Forwarded": "for=10.0.0.1;host=evil.test;proto=http"},
    {"X-Original-URL": "/acme/directory", "X-Rewrite-URL": "/acme/evil"},
    {"X-HTTP-Method-Override": "GET", "X-Method-Override": "DELETE", "X-HTTP-Method": "PUT"},
    {"X-Forwarded-For": "evil.test", "X-Real-IP": "evil.test", "Via": "evil.test"},
    {"Origin": "https://evil.test", "Referer": "https://evil.test/"},
)


@pytest.mark.parametrize("forged", FORGED, ids=[next(iter(each)) for each in FORGED])
async def test_no_header_of_a_request_gets_into_a_url_of_an_answer(
    world: AcmeWorld, client: AcmeClient, forged: dict[str, str]
) -> None:
    """An account's URL is its identity (RFC 8657 accounturi): whoever could choose its host could choose the identity."""

    async def post(url: str, payload: object) -> Reply:
        content = payload if isinstance(payload, bytes) else to_json(payload)
        return await client.send(url, make_jws(client.key, await client.header(url), content), headers=forged)

    directory = await client.request("GET", "/acme/directory", headers=forged)
    assert all(str(url).startswith(f"{BASE}/acme/") for name, url in directory.json.items() if name != "meta")
    order = await post(client.url("new-order"), {"identifiers": [{"type": "dns", "value": "a.example.com"}]})
    authorization = await post(order.json["authorizations"][0], b"")
    challenge = await post(authorization.json["challenges"][0]["url"], {})
    final = await post(order.json["finalize"], {"csr": base64url(der_of(make_csr("a.example.com")))})
    chain = await post(final.json["certificate"], b"")
    replies = (directory, order, authorization, challenge, final, chain)
    assert [reply.status for reply in replies] == [200, 201, 200, 200, 200, 200]
    for reply in replies:
        said = reply.body + repr(dict(reply.headers)).encode() + repr(reply.links).encode()
        assert b"evil" not in said
        assert b"http://" not in said
    assert world.http01.calls[0][0] == "a.example.com"


async def test_the_url_that_is_signed_is_ours_even_if_the_host_header_agrees_with_another(client: AcmeClient) -> None:
    """A proxy that passes a client's Host on must not make a JWS for another CA good here (RFC 8555 §6.4)."""
    theirs = client.kid.replace("ca.test:8443", "other-ca.test")
    jws = make_jws(client.key, await client.header(theirs), to_json({"status": "deactivated"}))
    for headers in ({"Host": "other-ca.test"}, {"X-Forwarded-Host": "other-ca.test", "X-Forwarded-Proto": "https"}):
        reply = await client.send(client.kid.removeprefix(BASE), jws, headers=headers)
        assert reply.status in {400, 403}
        jws = make_jws(client.key, await client.header(theirs), to_json({"status": "deactivated"}))
    assert (await client.post(client.kid)).json["status"] == "valid"


# ------------------------------------------------------------------------------------------------ answers


async def test_every_answer_to_a_signed_request_has_nonce_index_and_no_store(world: AcmeWorld, client: AcmeClient) -> None:
    """RFC 8555 §6.5, §7.1: success or failure of every resource, an outage and a bug too; each nonce is new."""
    order, final = await issued(client, "a.example.com")
    open_order = await ready(client, "b.example.com")
    csr = der_of(make_csr("b.example.com"))
    chain = (await client.post(final.json["certificate"])).body.decode().split("-----")[2]
    certificate = chain.replace("\n", "").replace("+", "-").replace("/", "_").rstrip("=")
    replies = [await client.post(client.url("revoke-cert"), {"certificate": certificate})]
    for outcome in (Unavailable("signer"), RuntimeError("bug"), Rejected(Rejection(Reason.FORBIDDEN, "no"))):
        world.issuance.script.append(outcome)
        replies.append(await client.finalize(open_order, csr))
    for each in RESOURCES:
        url = f"{BASE}{concrete('/acme/{endpoint}/' + each.path)}"
        payloads: tuple[object, ...] = (b"", {}, b"[")
        for payload in payloads:
            replies += [await client.post(url, payload), await client.post(url, payload, jwk=True)]
        replies += [await client.post(url, nonce="AAAA"), await client.send(url, b"{"), await client.send(url, b"x" * 50_001)]
        replies.append(await client.request("POST", url, body=b"", headers={"Content-Type": "text/plain"}))
    assert {200, 400, 403, 404, 413, 415, 500, 503} <= {reply.status for reply in replies}
    nonces = [reply.headers["Replay-Nonce"] for reply in replies]
    assert len(set(nonces)) == len(nonces)
    for reply in replies:
        assert re.fullmatch("[A-Za-z0-9_-]{20,}", reply.headers["Replay-Nonce"])
        assert f'<{BASE}/acme/directory>;rel="index"' in reply.links
        assert reply.headers["Cache-Control"] == "no-store"
        if reply.status >= 400:
            assert reply.problem
    assert order.location


async def test_only_the_directory_has_no_index_link(world: AcmeWorld) -> None:
    """RFC 8555 §7.1."""
    nobody = world.client()
    for template in templates(world):
        reply = await nobody.request("GET", concrete(template))
        assert (reply.links == ()) == template.endswith("directory"), template


async def test_what_is_allowed_is_said_where_a_verb_is_not(world: AcmeWorld) -> None:
    """RFC 9110 §15.5.6; type and status as clients key off them."""
    for template in templates(world):
        for verb in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            reply = await world.client().request(verb, concrete(template))
            if reply.status == 404:
                assert "tail" in template or template == "/acme"
                continue
            assert (reply.status, reply.problem) == (405, "malformed")
            expected = {"GET", "HEAD"} if template in PUBLIC else {"POST"}
            assert set(reply.headers["Allow"].split(", ")) == expected, template


# ------------------------------------------------------------------------------------------------ the status map

STATUSES = {
    ProblemType.CAA: 403,
    ProblemType.ORDER_NOT_READY: 403,
    ProblemType.UNAUTHORIZED: 403,
    ProblemType.RATE_LIMITED: 429,
    ProblemType.SERVER_INTERNAL: 500,
}


@pytest.mark.parametrize("reason", Reason)
async def test_every_refusal_from_below_is_a_problem_with_the_status_that_clients_know(
    world: AcmeWorld, client: AcmeClient, reason: Reason
) -> None:
    """RFC 8555 §6.7; at newOrder and at finalize, through HTTP. `detail` and `subproblems` say what and which."""
    kind = PROBLEMS[reason][0]
    status = 404 if reason is Reason.NOT_FOUND else STATUSES.get(kind, 400)
    assert default_status(kind) == STATUSES.get(kind, 400)
    order = await ready(client, "a.example.com")
    rejection = Rejection(reason, "because of this", suggestions=["do that"], retry_after=17 if status == 429 else None)
    world.issuance.script.append(Rejected(rejection))
    world.policy.refuse(rejection)
    replies = [await client.order("a.example.com"), await client.finalize(order, der_of(make_csr("a.example.com")))]
    for reply in replies:
        assert (reply.status, reply.problem) == (status, kind.value)
        assert "because of this" in reply.json["detail"]
        assert reply.headers.get("Retry-After") == ("17" if status == 429 else None)
    assert world.log.events == []


async def test_a_bug_tells_nothing_but_where_to_ask(world: AcmeWorld, client: AcmeClient) -> None:
    order = await ready(client, "a.example.com")
    world.issuance.script.append(RuntimeError("postgresql://secret@10.0.0.1"))
    reply = await client.finalize(order, der_of(make_csr("a.example.com")))
    assert (reply.status, reply.problem) == (500, "serverInternal")
    assert set(reply.json) == {"type", "status", "detail"}
    assert "10.0.0.1" not in reply.body.decode()


async def test_the_database_of_the_test_is_the_one_that_is_looked_at(world: AcmeWorld, client: AcmeClient) -> None:
    """The tests above that count rows prove nothing if they count others."""
    await client.order("a.example.com")
    database: Database = world.database
    assert len(await database.fetch("SELECT id FROM acme_order")) == 1
    assert len(await database.fetch("SELECT id FROM acme_account")) == 1
