"""Challenges that open once over the REST API: who may make which, who sees them, and that nobody gains by them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from issuance.credentials import Credentials
from issuance.scep_challenges import ScepChallenges
from pki.identifiers import parse_dns
from pki.subject import parse_subject
from policy.profiles import Profiles
from policy.rules import Policy
from rest.http import RestServer, routes
from rest.scep_challenges import ChallengeDesk, Grants, Making
from storage.database import Database
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import SimulatedIssuance
from tests.helpers.profiles import device, profile

BASE = "https://ca.example.com:8443"
CHALLENGES = "/api/v1/scep/challenges"
POLICIES = (
    Policy("mdm", frozenset({"mdm"}), frozenset({"device"}), ("*.devices.example.com",), ("phone-*",)),
    Policy("approved", frozenset({"careful"}), frozenset({"device"}), ("*.careful.example.com",), (), require_approval=True),
)
ROUTER = {"names": ["dns:r1.devices.example.com"]}


@dataclass(slots=True)
class Site:
    client: TestClient[web.Request, web.Application]
    clock: FakeClock
    database: Database
    challenges: ScepChallenges
    keys: dict[str, str]

    async def post(self, body: dict[str, Any] | bytes, key: str = "mdm") -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        async with self.client.post(CHALLENGES, data=data, headers={"X-API-Key": self.keys[key]}) as response:
            return response.status, await response.json()

    async def get(self, query: str = "", key: str = "mdm") -> tuple[int, dict[str, Any]]:
        async with self.client.get(f"{CHALLENGES}{query}", headers={"X-API-Key": self.keys[key]}) as response:
            return response.status, await response.json()

    async def delete(self, challenge_id: str, key: str = "mdm") -> int:
        async with self.client.delete(f"{CHALLENGES}/{challenge_id}", headers={"X-API-Key": self.keys[key]}) as response:
            assert (response.status == 204) == (await response.read() == b"")
            return response.status

    async def ids(self, key: str) -> list[str]:
        _, page = await self.get(key=key)
        return [each["id"] for each in page["challenges"]]


@pytest.fixture
async def site(database: Database, clock: FakeClock) -> AsyncIterator[Site]:
    credentials = Credentials(database=database, clock=clock)
    challenges = ScepChallenges(database=database, clock=clock)
    keys = {"nobody": "cw_" + "0" * 16 + "_" + "A" * 43}
    for name, roles in (
        ("mdm", ["mdm"]),
        ("mdm2", ["mdm"]),
        ("careful", ["careful", "mdm-maker"]),
        ("admin", ["admin"]),
        ("other", ["other"]),
    ):
        keys[name] = await credentials.create_api_key(roles=roles, profile="", expires_at=None)
    server = RestServer(issuance=SimulatedIssuance(), credentials=credentials, base_url=BASE)
    desk = ChallengeDesk(
        endpoints={"default": Making("device", frozenset({"mdm", "mdm-maker"}))},
        challenges=challenges,
        grants=Grants(POLICIES, Profiles([device(), profile()])),
        authenticate=server.authenticate,
        clock=clock,
        base_url=BASE,
    )
    app = web.Application()
    app.add_routes(routes(server, desk.resources))
    async with TestClient(TestServer(app)) as client:
        yield Site(client, clock, database, challenges, keys)


async def test_a_maker_gets_a_challenge_with_their_own_roles_once(site: Site) -> None:
    status, made = await site.post({**ROUTER, "subject": "CN=phone-7,O=Example", "expires_in": 60})
    assert status == 201
    assert set(made) == {"id", "challenge", "endpoint", "expires_at"}
    found = await site.challenges.find(endpoint="default", challenge=made["challenge"])
    assert found is not None
    assert (found.terms.roles, found.terms.subject) == (frozenset({"mdm"}), parse_subject("O=Example,CN=phone-7"))
    assert found.terms.names == frozenset({parse_dns("r1.devices.example.com")})
    _, page = await site.get()
    (shown,) = page["challenges"]
    assert made["challenge"] not in str(page)
    assert (shown["id"], shown["status"], shown["names"]) == (made["id"], "open", ["dns:r1.devices.example.com"])
    assert shown["made_by"] == f"api-key:{site.keys['mdm'][3:19]}"
    site.clock.advance(timedelta(seconds=60))
    assert await site.challenges.find(endpoint="default", challenge=made["challenge"]) is None
    assert (await site.get())[1]["challenges"][0]["status"] == "expired"


async def test_nobody_makes_what_their_own_key_would_not_get(site: Site) -> None:
    """Whatever is refused leaves no challenge behind."""
    for body, key, status, slug in (
        (ROUTER, "nobody", 401, "unauthenticated"),
        (ROUTER, "other", 403, "forbidden"),
        (ROUTER, "admin", 403, "forbidden"),
        ({**ROUTER, "endpoint": "vpn"}, "mdm", 403, "forbidden"),
        ({**ROUTER, "endpoint": "nosuch\n"}, "mdm", 403, "forbidden"),
        ({"names": ["www.example.com"]}, "mdm", 400, "rejected-identifier"),
        ({"names": ["r1.devices.example.com", "www.example.com"]}, "mdm", 400, "rejected-identifier"),
        ({**ROUTER, "subject": "CN=router7"}, "mdm", 400, "rejected-identifier"),
        ({"subject": "CN=www.example.com"}, "mdm", 400, "rejected-identifier"),
        ({**ROUTER, "profile": "tls-server"}, "mdm", 403, "forbidden"),
        ({**ROUTER, "profile": "nosuch"}, "mdm", 400, "unknown-profile"),
        (ROUTER, "careful", 400, "rejected-identifier"),
        ({}, "mdm", 400, "malformed"),
        ({"names": []}, "mdm", 400, "malformed"),
        ({"subject": "O=Example"}, "mdm", 400, "bad-csr"),
        ({"subject": "dev1"}, "mdm", 400, "malformed"),
        ({"names": ["not a name"]}, "mdm", 400, "rejected-identifier"),
        ({"names": ["ip:300.1.1.1"]}, "mdm", 400, "rejected-identifier"),
        ({"names": "r1.devices.example.com"}, "mdm", 400, "malformed"),
        ({"names": ["r1.devices.example.com"] * 101}, "mdm", 400, "malformed"),
        ({**ROUTER, "expires_in": 0}, "mdm", 400, "malformed"),
        ({**ROUTER, "expires_in": 30 * 86400 + 1}, "mdm", 400, "malformed"),
        ({**ROUTER, "expires_in": "60"}, "mdm", 400, "malformed"),
        ({**ROUTER, "roles": ["admin"]}, "mdm", 400, "malformed"),
        ({**ROUTER, "expires_in": True}, "mdm", 400, "malformed"),
        ({**ROUTER, "expires_in": 60.5}, "mdm", 400, "malformed"),
        ({**ROUTER, "subject": "CN=phone-" + "7" * 2000}, "mdm", 400, "malformed"),
        ({**ROUTER, "profile": "\0"}, "mdm", 400, "unknown-profile"),
        ({"names": ["\0"]}, "mdm", 400, "rejected-identifier"),
        (b'{"subject": "CN=phone-\\ud800"}', "mdm", 400, "malformed"),
        (b'{"subject": "CN=phone-\\u0000"}', "mdm", 400, "malformed"),
        (b'{"names": ["a.devices.example.com"], "names": ["b.devices.example.com"]}', "mdm", 400, "malformed"),
        (b"[]", "mdm", 400, "malformed"),
        (b"", "mdm", 400, "malformed"),
    ):
        found, answer = await site.post(body, key)
        assert (found, answer["type"]) == (status, f"urn:certwright:problem:{slug}"), (body, answer)
    assert await site.challenges.list() == []


async def test_what_policy_grants_after_an_approval_may_be_asked_for(site: Site) -> None:
    status, _ = await site.post({"names": ["a.careful.example.com"]}, "careful")
    assert status == 201


async def test_a_maker_sees_and_ends_their_own_and_an_admin_everybodys(site: Site) -> None:
    mine, theirs = [(await site.post(ROUTER, key))[1]["id"] for key in ("mdm", "mdm2")]
    assert (await site.ids("mdm"), await site.ids("mdm2"), await site.ids("other")) == ([mine], [theirs], [])
    assert set(await site.ids("admin")) == {mine, theirs}
    for wrong in (theirs, "0" * 16, "x", "%00", "a" * 2000):
        assert await site.delete(wrong) == 404
    assert await site.delete(mine) == 204
    assert await site.delete(mine) == 404
    assert await site.delete(theirs, "admin") == 204
    events = await site.database.fetch("SELECT event, principal FROM audit WHERE event = 'scep_challenge.disabled'")
    assert {row["principal"] for row in events} == {f"api-key:{site.keys[key][3:19]}" for key in ("mdm", "admin")}
    _, page = await site.get(key="admin")
    assert [each["status"] for each in page["challenges"]] == ["disabled", "disabled"]


async def test_a_list_comes_in_pages(site: Site) -> None:
    made = []
    for _ in range(5):
        site.clock.advance(timedelta(seconds=1))
        made.append((await site.post(ROUTER))[1]["id"])
    seen: list[str] = []
    query = "?limit=2"
    while query:
        _, page = await site.get(query)
        seen += [each["id"] for each in page["challenges"]]
        query = f"?limit=2&cursor={page['next']}" if page["next"] else ""
    assert seen == made[::-1]
    for query in ("?cursor=x", "?limit=0", "?limit=2&limit=2", "?what=1"):
        assert (await site.get(query))[0] == 400


async def test_other_methods_are_named(site: Site) -> None:
    async with site.client.put(CHALLENGES) as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET, POST")
    async with site.client.get(f"{CHALLENGES}/{'0' * 16}") as response:
        assert (response.status, response.headers["Allow"]) == (405, "DELETE")
