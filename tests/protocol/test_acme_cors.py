"""ACME from web pages: silent unless the endpoint lists the page's origin, and never with credentials."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from acmeserver.endpoint import AcmeEndpoint
from acmeserver.resources import RESOURCES
from storage.database import Database
from tests.helpers.acme_client import JOSE, Reply
from tests.helpers.acme_world import AcmeWorld, acme_world
from tests.helpers.clock import FakeClock

PORTAL, STRANGER = "https://portal.example.com", "https://evil.example.net"
EXPOSED = {"Link", "Replay-Nonce", "Location", "Retry-After"}  # acme-wire §2 no. 10
ENDPOINTS = (
    AcmeEndpoint(name="default", profiles=("tls-server",)),
    AcmeEndpoint(name="open", profiles=("tls-server",), cors=("*",)),
    AcmeEndpoint(name="portal", profiles=("tls-server",), cors=(PORTAL, "http://localhost:3000")),
)


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock, endpoints=ENDPOINTS) as world:
        yield world


def said(reply: Reply) -> set[str]:
    """What an answer says to browsers about origins."""
    return {name for name in reply.headers if name.lower().startswith("access-control-")}


async def preflight(world: AcmeWorld, endpoint: str, path: str, *, origin: str | None = PORTAL, wants: str = "POST") -> Reply:
    client = world.client(endpoint)
    headers = {"Access-Control-Request-Method": wants, "Access-Control-Request-Headers": "content-type"}
    return await client.request("OPTIONS", client.url(path), headers=headers | ({"Origin": origin} if origin else {}))


PATHS = [
    *(each.path.split("{")[0] + "abcdefghijklmnopqrstuv" if "{" in each.path else each.path for each in RESOURCES),
    "new-nonce",
    "directory",
]


async def test_without_a_word_in_the_configuration_no_page_is_told_anything(world: AcmeWorld) -> None:
    for path in ("new-order", "new-nonce", "directory"):
        refused = await preflight(world, "default", path)
        assert (refused.status, said(refused)) == (405, set())
    directory = await world.client().request("GET", world.client().url("directory"), headers={"Origin": PORTAL})
    assert said(directory) == set()
    assert "Vary" not in directory.headers


@pytest.mark.parametrize("endpoint", ["open", "portal"])
async def test_a_listed_page_may_ask_beforehand_and_read_what_it_needs(world: AcmeWorld, endpoint: str) -> None:
    for path, methods in (
        ("new-order", "POST"),
        ("new-account", "POST"),
        ("new-nonce", "HEAD, GET"),
        ("directory", "GET, HEAD"),
    ):
        asked = await preflight(world, endpoint, path)
        assert asked.status == 204
        assert asked.body == b""
        assert asked.headers["Access-Control-Allow-Methods"] == methods
        assert asked.headers["Access-Control-Allow-Headers"] == "Content-Type"
        assert asked.headers["Access-Control-Allow-Origin"] == ("*" if endpoint == "open" else PORTAL)
        assert "Access-Control-Allow-Credentials" not in asked.headers
    client = world.client(endpoint)
    nonce = await client.request("HEAD", client.url("new-nonce"), headers={"Origin": PORTAL})
    assert set(nonce.headers["Access-Control-Expose-Headers"].split(", ")) == EXPOSED
    assert nonce.headers["Replay-Nonce"]


async def test_a_page_that_is_not_listed_is_told_nothing_and_no_cache_mixes_them_up(world: AcmeWorld) -> None:
    for origin in (STRANGER, "null", "https://portal.example.com.evil.example.net", "http://portal.example.com", None):
        asked = await preflight(world, "portal", "new-order", origin=origin)
        assert (asked.status, said(asked)) == (405, set())
        assert asked.headers["Vary"] == "Origin"
    client = world.client("portal")
    listed = await client.request("GET", client.url("directory"), headers={"Origin": "http://localhost:3000"})
    assert listed.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert listed.headers["Vary"] == "Origin"


async def test_problems_can_be_read_by_a_listed_page_too(world: AcmeWorld) -> None:
    client = world.client("portal")
    url = client.url("new-order")
    refused = await client.request("POST", url, body=b"{}", headers={"Content-Type": JOSE, "Origin": PORTAL})
    assert refused.problem == "malformed"
    assert refused.headers["Access-Control-Allow-Origin"] == PORTAL


async def test_a_plain_options_is_no_question_of_a_browser(world: AcmeWorld) -> None:
    client = world.client("open")
    plain = await client.request("OPTIONS", client.url("new-order"), headers={"Origin": PORTAL})
    assert plain.status == 405
    assert plain.headers["Allow"] == "POST"


@pytest.mark.parametrize("path", PATHS)
async def test_no_resource_allows_credentials_and_none_is_reached_by_asking(world: AcmeWorld, path: str) -> None:
    for endpoint in ("default", "open", "portal"):
        asked = await preflight(world, endpoint, path)
        assert asked.status in {204, 404, 405}
        assert "Access-Control-Allow-Credentials" not in asked.headers
        assert asked.headers.get("Access-Control-Allow-Origin") == (
            None if endpoint == "default" else {"open": "*"}.get(endpoint, PORTAL)
        )
