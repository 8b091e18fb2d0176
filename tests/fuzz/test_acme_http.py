"""Whole HTTP requests to the ACME routes: whatever comes, a typed answer. Never a 500, never a line about a bug in the log.

Half of them are signed as they should be, so that what is drawn reaches the handlers and not only the parsers before them.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acmeserver.problems import URN, ProblemType
from pki.strict import base64url
from storage.open import open_database
from tests.helpers.acme_client import BASE, AccountKey, AcmeClient, Reply, make_jws, to_json
from tests.helpers.acme_world import ENDPOINTS, AcmeWorld, acme_world, issued
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "1000"))
SETTINGS = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Everything that an endpoint can be told to do.
ENDPOINT = replace(
    ENDPOINTS[2],
    name="default",
    terms_of_service=None,
    identifiers=("dns", "ip"),
    external_account="optional",
    pre_authorization=True,
    subdomains=True,
    cors=("https://page.test",),
)


@dataclass(slots=True)
class Target:
    world: AcmeWorld
    client: AcmeClient
    urls: tuple[str, ...]  # of resources and of objects that are there
    certificate: str

    async def send(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> Reply:
        return await self.client.request(method, url, body=body, headers=headers)


async def opened(folder: Path, closing: AsyncExitStack) -> Target:
    database = await open_database(f"sqlite://{folder}/certwright.db", migrate=True)
    closing.push_async_callback(database.close)
    world = await closing.enter_async_context(acme_world(database, FakeClock(), endpoints=(ENDPOINT,)))
    client = await world.registered()
    order, final = await issued(client, "a.example.com")
    waiting = await client.order("b.example.com", "192.0.2.1")
    challenge = (await client.post(waiting.json["authorizations"][0])).json["challenges"][0]["url"]
    pem = (await client.post(final.json["certificate"])).body.decode().split("-----")[2]
    directory = (await client.request("GET", "/acme/directory")).json
    urls = [url for name, url in directory.items() if name != "meta"]
    urls += [f"{client.kid}/orders", order.location, order.json["finalize"], waiting.location, waiting.json["finalize"]]
    urls += [*waiting.json["authorizations"], challenge, final.json["certificate"], final.json["certificate"] + "/1"]
    return Target(world, client, tuple(urls), pem.replace("\n", "").replace("+", "-").replace("/", "_").rstrip("="))


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as running:
        yield running


@pytest.fixture(scope="module")
def target(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    closing = AsyncExitStack()
    yield runner.run(opened(tmp_path_factory.mktemp("http"), closing))
    runner.run(closing.aclose())


KNOWN = {URN + kind.value for kind in ProblemType}


def judge(target: Target, reply: Reply, what: object) -> None:
    assert reply.status < 500, (what, reply.body)
    assert not 300 <= reply.status < 400, what
    if reply.status >= 400 and reply.body:
        assert reply.headers["Content-Type"] == "application/problem+json", (what, reply.body)
        content = json.loads(reply.body)
        assert content["status"] == reply.status
        assert content["type"] in KNOWN
        assert content["detail"]
    assert target.world.log.events == [], what


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
TEXTS = st.text(max_size=30) | st.sampled_from(
    ("", "dns", "ip", "a.example.com", "*.example.com", "192.0.2.1", "::1", "tls-server")
)
IDENTIFIER = st.fixed_dictionaries(
    {}, optional={"type": TEXTS | JSON, "value": TEXTS | JSON, "ancestorDomain": TEXTS | JSON, "subdomainAuthAllowed": JSON}
)
TIME = st.datetimes().map(lambda at: at.isoformat() + "Z") | st.sampled_from(
    ("9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00Z")
)
OCTETS = st.binary(max_size=60).map(base64url)
MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "identifiers": st.lists(IDENTIFIER | JSON, max_size=4) | JSON,
    "identifier": IDENTIFIER | JSON,
    "profile": TEXTS | JSON,
    "notBefore": TIME | JSON,
    "notAfter": TIME | JSON,
    "replaces": TEXTS | st.tuples(OCTETS, OCTETS).map(".".join) | JSON,
    "auto-renewal": st.dictionaries(st.sampled_from(("start-date", "end-date", "lifetime", "lifetime-adjust")), TIME | JSON)
    | JSON,
    "contact": st.lists(TEXTS.map("mailto:{}".format) | JSON, max_size=3) | JSON,
    "termsOfServiceAgreed": JSON,
    "onlyReturnExisting": JSON,
    "externalAccountBinding": st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("protected", "payload", "signature"), OCTETS | JSON)
    ),
    "csr": OCTETS | JSON | st.just(base64url(der_of(make_csr("b.example.com")))),
    "certificate": OCTETS | JSON,
    "reason": JSON,
    "status": st.sampled_from(("valid", "canceled", "revoked")) | JSON,
    "keyAuthorization": TEXTS,
    "account": TEXTS | JSON,
    "oldKey": JSON,
}
PAYLOAD = (
    st.fixed_dictionaries({}, optional=MEMBERS).map(to_json)
    | JSON.map(to_json)
    | st.binary(max_size=60)
    | st.sampled_from((b"", b"{}", b"null", b"[]", b'{"status":"deactivated"}'))
)
METHOD = st.sampled_from(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"))
HEADERS = st.dictionaries(
    st.sampled_from(
        (
            "Content-Type",
            "Accept",
            "Accept-Encoding",
            "Origin",
            "Access-Control-Request-Method",
            "Replay-Nonce",
            "Range",
            "If-None-Match",
            "X-Forwarded-For",
            "Cookie",
            "Authorization",
        )
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
    | st.sampled_from(("application/jose+json", "https://page.test", "POST", "*/*", "bytes=0-")),
    max_size=4,
)


@SETTINGS
@given(
    st.data(),
    METHOD,
    st.text(st.sampled_from("/.;?&=%2Ff-_~acmedfultnwor0189"), max_size=40) | st.none(),
    HEADERS,
    st.none() | st.binary(max_size=200) | JSON.map(to_json),
)
def test_any_unsigned_request_gets_a_typed_answer_and_nothing_else(
    runner: asyncio.Runner,
    target: Target,
    data: st.DataObject,
    method: str,
    path: str | None,
    headers: dict[str, str],
    body: bytes | None,
) -> None:
    url = data.draw(st.sampled_from(target.urls)) if path is None else f"{BASE}/acme/{path.lstrip('/')}"
    reply = runner.run(target.send(method, url, body, headers))
    judge(target, reply, (method, url))
    if reply.status < 400 and method not in {"GET", "HEAD"}:
        assert (method, reply.status, reply.body) == (
            "OPTIONS",
            204,
            b"",
        )  # a browser's question, answered without doing anything


@SETTINGS
@given(st.data(), PAYLOAD)
def test_any_payload_that_is_signed_as_it_should_be_gets_a_typed_answer(
    runner: asyncio.Runner, target: Target, data: st.DataObject, payload: bytes
) -> None:
    url = data.draw(st.sampled_from(target.urls))
    by_key = data.draw(st.booleans()) if url.endswith(("new-account", "revoke-cert")) else False

    async def attempt() -> Reply:
        jws = make_jws(AccountKey() if by_key else target.client.key, await target.client.header(url), payload)
        if by_key:
            client = AcmeClient(target.client.http)
            jws = make_jws(client.key, await client.header(url, jwk=True), payload)
        return await target.client.send(url, jws)

    judge(target, runner.run(attempt()), (url, payload))


@settings(SETTINGS, max_examples=EXAMPLES // 4)
@given(
    st.data(),
    st.dictionaries(st.sampled_from(("alg", "url", "jwk", "kid", "nonce", "payload")), TEXTS | JSON, max_size=3),
    PAYLOAD,
)
def test_any_inner_jws_of_key_change_and_of_an_external_account_gets_a_typed_answer(
    runner: asyncio.Runner, target: Target, data: st.DataObject, changes: dict[str, Any], inner: bytes
) -> None:
    """What is inside is another request of its own: it must be as strict, and do nothing when it is not right."""
    new, outer = AccountKey(), target.client.url("new-account")
    account = AcmeClient(target.client.http)
    is_key_change = data.draw(st.booleans())

    async def attempt() -> Reply:
        if is_key_change:
            url = target.client.url("key-change")
            content = data_or(inner, {"account": target.client.kid, "oldKey": target.client.key.jwk})
            nested = make_jws(new, {"alg": "ES256", "url": url, "jwk": new.jwk, **changes}, content)
            if not changes and content != inner:
                return await target.client.post(target.client.kid)  # that one is right, and would change the key
            return await target.client.post(url, nested)
        nested = make_jws(new, {"alg": "HS256", "url": outer, "kid": "nobody", **changes}, inner)
        return await account.post(outer, {"externalAccountBinding": nested}, jwk=True)

    reply = runner.run(attempt())
    judge(target, reply, (changes, inner))
    if (
        is_key_change and reply.status == 200 and changes
    ):  # only what is ignored was changed: it was right, and the key is another
        target.client.key = new
    still = runner.run(target.client.post(target.client.kid))
    assert still.status == 200
    if not is_key_change:
        assert reply.status >= 400


def data_or(inner: bytes, right: dict[str, Any]) -> bytes:
    """Drawn content now and then, else the right one with what was drawn besides."""
    try:
        members = json.loads(inner)
    except ValueError:
        return inner
    return to_json({**members, **right}) if isinstance(members, dict) else inner
