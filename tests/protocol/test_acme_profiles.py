"""Profiles that a client can choose (draft-ietf-acme-profiles), as certbot, lego and acmez read them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from acmeserver.directory import directory
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.urls import Urls
from pki.strict import parse_json
from policy.profiles import Profiles
from storage.database import Database
from tests.helpers.acme_client import BASE
from tests.helpers.acme_world import AcmeWorld, acme_world, profile, ready
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock) as world:
        yield world


async def test_the_directory_lists_every_profile_with_words_for_people(world: AcmeWorld) -> None:
    """acmez and certbot's --required-profile refuse a name that is not listed."""
    meta = (await world.client("choice").request("GET", f"{BASE}/acme/choice/directory")).json["meta"]
    assert meta["profiles"] == {"tls-server": "valid for 47 days", "short-lived": "valid for 47 days"}


async def test_where_there_is_no_choice_nothing_is_listed_and_orders_show_no_profile(world: AcmeWorld) -> None:
    client = await world.registered()
    content = (await client.request("GET", f"{BASE}/acme/directory")).json
    assert "profiles" not in content.get("meta", {})
    assert "profile" not in (await client.order("a.example.com")).json


def test_the_operators_own_words_are_shown_and_change_no_version() -> None:
    plain = profile("tls-server")
    told = replace(plain, description="for web servers")
    endpoint = AcmeEndpoint(name="default", profiles=("tls-server",))
    listed = parse_json(directory(endpoint, Urls(base_url=BASE, endpoint="default"), Profiles([told])))
    assert listed["meta"] == {"profiles": {"tls-server": "for web servers"}}
    assert told.version == plain.version  # else a better text would end every order that is under way
    assert replace(plain, must_staple=True).version != plain.version


async def test_where_the_only_profile_is_listed_orders_show_it(database: Database, clock: FakeClock) -> None:
    """draft-ietf-acme-profiles §4: a server that lists profiles says which one an order has."""
    told = Profiles([replace(profile("tls-server"), description="for web servers")])
    async with acme_world(
        database, clock, endpoints=[AcmeEndpoint(name="one", profiles=("tls-server",))], profiles=told
    ) as world:
        client = await world.registered("one")
        order = await ready(client, "a.example.com")
        assert (await client.post(order.location)).json["profile"] == "tls-server"


async def test_the_order_echoes_its_profile_every_time(world: AcmeWorld) -> None:
    client = await world.registered("choice")
    order = await ready(client, "a.example.com", profile="short-lived")
    final = await client.finalize(order, der_of(make_csr("a.example.com")))
    again = await client.post(order.location)
    assert [reply.json["profile"] for reply in (order, final, again)] == ["short-lived"] * 3


async def test_an_order_that_names_none_gets_the_first_and_is_told_so(world: AcmeWorld) -> None:
    client = await world.registered("choice")
    assert (await client.order("a.example.com")).json["profile"] == "tls-server"


@pytest.mark.parametrize("name", ["nope", "TLS_Server", "tls-server ", "", "../tls-server", "\u202etls-server", "x" * 400])
async def test_a_profile_that_is_not_listed_is_400_invalid_profile(world: AcmeWorld, name: str) -> None:
    """Only the listed spelling: an alias or another case would be echoed as something that nobody listed."""
    client = await world.registered("choice")
    reply = await client.order("a.example.com", profile=name)
    assert (reply.status, reply.problem) == (400, "invalidProfile")
    assert "tls-server, short-lived" in reply.json["detail"]


@pytest.mark.parametrize("value", [1, True, ["tls-server"], {}])
async def test_a_profile_that_is_no_string_is_malformed(world: AcmeWorld, value: object) -> None:
    client = await world.registered("choice")
    reply = await client.order("a.example.com", profile=value)
    assert (reply.status, reply.problem) == (400, "malformed")


async def test_a_profile_of_another_endpoint_is_unknown_here(world: AcmeWorld) -> None:
    client = await world.registered("default")
    assert (await client.order("a.example.com", profile="short-lived")).problem == "invalidProfile"
