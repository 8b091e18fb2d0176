"""Accounts (RFC 8555 §7.3) sentence by sentence, where test_acme_wire.py has not said it: terms that change, the list of orders."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from acmeserver.accounts import Accounts
from acmeserver.authentication import Acting
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.jwk import parse_jwk
from acmeserver.urls import Urls
from storage.database import Database, Step
from tests.helpers.acme_client import BASE, AcmeClient, Reply
from tests.helpers.acme_world import AcmeWorld, acme_world, issued, ready
from tests.helpers.clock import FakeClock
from tests.helpers.databases import second_node
from tests.helpers.issuance_simulator import der_of, make_csr
from validation.outcome import FailureKind

OLD, NEW = "https://ca.test/terms-1", "https://ca.test/terms-2"
NO_TERMS = (
    AcmeEndpoint(name="default", profiles=("tls-server",), pre_authorization=True),
    AcmeEndpoint(name="other", profiles=("tls-server",)),
)
WITH_OLD = (replace(NO_TERMS[0], terms_of_service=OLD),)
WITH_NEW = (replace(NO_TERMS[0], terms_of_service=NEW),)


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock, endpoints=NO_TERMS) as world:
        yield world
        assert world.log.events == []


@asynccontextmanager
async def after_restart(
    url: str, clock: FakeClock, client: AcmeClient, endpoints: tuple[AcmeEndpoint, ...]
) -> AsyncIterator[AcmeClient]:
    """The same account before a server with another configuration."""
    async with second_node(url) as database, acme_world(database, clock, endpoints=endpoints) as world:
        yield replace(client, http=world.http)
        assert world.log.events == []


def must_agree(reply: Reply, terms: str) -> None:
    """RFC 8555 §7.3.3."""
    assert (reply.status, reply.problem) == (403, "userActionRequired")
    assert f'<{terms}>;rel="terms-of-service"' in reply.links
    assert reply.json["instance"] == terms
    assert terms in reply.json["detail"]


# ------------------------------------------------------------------------------------------------ terms of service


async def test_new_terms_stop_what_makes_something_new_until_they_are_agreed_to(
    database: Database, database_url: str, clock: FakeClock
) -> None:
    async with acme_world(database, clock, endpoints=WITH_OLD) as world:
        client = await world.registered()
        order = await ready(client, "a.example.com")
    csr = der_of(make_csr("a.example.com"))
    identifier = {"type": "dns", "value": "c.example.com"}
    async with after_restart(database_url, clock, client, WITH_NEW) as later:
        must_agree(await later.order("a.example.com"), NEW)
        must_agree(await later.finalize(order, csr), NEW)
        must_agree(await later.post(later.url("new-authz"), {"identifier": identifier}), NEW)
        assert "termsOfServiceAgreed" not in (await later.post(later.kid)).json
        assert (await later.post(order.location)).json["status"] == "ready"  # it may look
        agreed = await later.post(later.kid, {"termsOfServiceAgreed": True})
        assert (agreed.status, agreed.json["termsOfServiceAgreed"]) == (200, True)
        assert (await later.order("a.example.com")).status == 201
        assert (await later.finalize(order, csr)).status == 200


async def test_an_old_agreement_is_not_renewed_by_a_client_that_echoes_its_account(
    database: Database, database_url: str, clock: FakeClock
) -> None:
    """certbot sends back the whole account to change a contact; nobody has read the new terms by that."""
    async with acme_world(database, clock, endpoints=WITH_OLD) as world:
        client = await world.registered()
    async with after_restart(database_url, clock, client, WITH_NEW) as later:
        account = (await later.post(later.kid)).json
        changed = await later.post(later.kid, {**account, "contact": ["mailto:b@example.com"]})
        assert changed.json["contact"] == ["mailto:b@example.com"]
        must_agree(await later.order("a.example.com"), NEW)


async def test_contacts_and_consent_can_change_in_one_request(database: Database, database_url: str, clock: FakeClock) -> None:
    async with acme_world(database, clock, endpoints=WITH_OLD) as world:
        client = await world.registered()
    async with after_restart(database_url, clock, client, WITH_NEW) as later:
        both = await later.post(later.kid, {"contact": ["mailto:b@example.com"], "termsOfServiceAgreed": True})
        assert (both.json["contact"], both.json["termsOfServiceAgreed"]) == (["mailto:b@example.com"], True)
        assert (await later.post(later.kid)).json == both.json


async def test_terms_that_come_later_are_to_be_agreed_to(world: AcmeWorld, database_url: str, clock: FakeClock) -> None:
    client = await world.registered()
    async with after_restart(database_url, clock, client, WITH_OLD) as later:
        must_agree(await later.order("a.example.com"), OLD)
        await later.post(later.kid, {"termsOfServiceAgreed": True})
        assert (await later.order("a.example.com")).status == 201


async def test_a_consent_cannot_be_taken_back_by_saying_false(database: Database, clock: FakeClock) -> None:
    """§7.3.2: other updates of the field are ignored."""
    async with acme_world(database, clock, endpoints=WITH_OLD) as world:
        client = await world.registered()
        assert (await client.post(client.kid, {"termsOfServiceAgreed": False})).json["termsOfServiceAgreed"] is True
        assert (await client.order("a.example.com")).status == 201


async def test_a_registration_without_consent_is_told_where_to_read(database: Database, clock: FakeClock) -> None:
    async with acme_world(database, clock, endpoints=WITH_OLD) as world:
        must_agree(await world.client().register(termsOfServiceAgreed=False), OLD)


async def test_where_no_terms_are_configured_none_are_asked_for(world: AcmeWorld) -> None:
    client = world.client()
    created = await client.register(termsOfServiceAgreed=False)
    assert created.status == 201
    assert "termsOfServiceAgreed" not in created.json
    assert (await client.order("a.example.com")).status == 201


# ------------------------------------------------------------------------------------------------ what an update ignores


async def test_a_client_cannot_give_itself_a_binding_or_a_status(world: AcmeWorld) -> None:
    client = await world.registered()
    before = (await client.post(client.kid)).json
    for change in ({"externalAccountBinding": {"a": 1}}, {"status": "revoked"}, {"status": "valid"}, {"orders": "x"}):
        assert (await client.post(client.kid, change)).json == before, change


async def test_a_deactivated_account_is_not_made_again_by_its_key(world: AcmeWorld) -> None:
    """§7.3.6: no way back; §7.3.1: nor a way to find it."""
    client = await world.registered()
    assert (await client.post(client.kid, {"status": "deactivated"})).json["status"] == "deactivated"
    for wanted in ({}, {"onlyReturnExisting": True}):
        refused = await client.register(**wanted)
        assert (refused.status, refused.problem) == (403, "unauthorized")
    assert (await client.post(f"{client.kid}/orders")).problem == "unauthorized"


# ------------------------------------------------------------------------------------------------ the list of orders


async def orders_of(client: AcmeClient) -> list[str]:
    account = (await client.post(client.kid)).json
    reply = await client.post(account["orders"])
    assert reply.status == 200, reply.body
    listed: list[str] = reply.json["orders"]
    return listed


async def test_the_list_has_the_accounts_own_orders_newest_first(world: AcmeWorld, clock: FakeClock) -> None:
    client, other = await world.registered(), await world.registered()
    assert await orders_of(client) == []
    made = []
    for name in ("a", "b", "c"):
        clock.advance(timedelta(seconds=1))
        made.append((await client.order(f"{name}.example.com")).location)
        await other.order("a.example.com")
    assert await orders_of(client) == made[::-1]
    for url in made:
        assert (await client.post(url)).status == 200


async def test_the_list_is_of_one_endpoint(world: AcmeWorld) -> None:
    here = await world.registered()
    there = replace(here, endpoint="other")
    await there.register()
    await here.order("a.example.com")
    assert await orders_of(there) == []


async def test_another_accounts_list_is_refused(world: AcmeWorld) -> None:
    client, other = await world.registered(), await world.registered()
    refused = await other.post(f"{client.kid}/orders")
    assert (refused.status, refused.problem) == (403, "unauthorized")


async def test_the_list_leaves_out_what_is_invalid_and_what_is_past(world: AcmeWorld, clock: FakeClock) -> None:
    """§7.1.2.1: SHOULD include pending orders, SHOULD NOT include invalid ones; an expired order is 404 here."""
    client = await world.registered()
    pending = await client.order("pending.example.com")
    prepared = await ready(client, "ready.example.com")
    done, _ = await issued(client, "valid.example.com")
    world.http01.failing["bad.example.com"] = FailureKind.UNAUTHORIZED
    failed = await client.order("bad.example.com")
    await client.authorize(failed)
    given_up = await client.order("given-up.example.com")
    await client.post(given_up.json["authorizations"][0], {"status": "deactivated"})
    assert (await client.post(given_up.location)).json["status"] == "invalid"
    assert set(await orders_of(client)) == {pending.location, prepared.location, done.location}
    clock.advance(timedelta(days=7))
    assert await orders_of(client) == []


async def test_the_list_is_read_by_post_as_get_alone(world: AcmeWorld) -> None:
    client = await world.registered()
    assert (await client.post(f"{client.kid}/orders", {})).problem == "malformed"


async def test_pages_follow_each_other_and_miss_none(world: AcmeWorld, clock: FakeClock) -> None:
    client = await world.registered()
    made = [(await client.order(f"n{at}.example.com")).location.rpartition("/")[2] for at in range(7)]  # at one moment
    account_id = client.kid.rpartition("/")[2]
    accounts = Accounts(
        endpoint=NO_TERMS[0],
        urls=Urls(base_url=BASE, endpoint="default"),
        database=world.database,
        clock=clock,
        new_id=lambda: "unused",
        external_keys=None,
        orders_a_page=3,
    )
    acting = Acting(account_id, parse_jwk(client.key.jwk), "")
    seen: list[str] = []
    cursor, pages = None, 0
    while True:
        page = await accounts.orders(acting, cursor)
        seen += page.ids
        pages += 1
        if not page.next:
            break
        cursor = page.next
    assert (sorted(seen), pages) == (sorted(made), 3)


async def test_a_long_list_has_a_link_to_the_next_page(world: AcmeWorld) -> None:
    client = await world.registered()
    account_id = client.kid.rpartition("/")[2]
    copy = (
        "INSERT INTO acme_order (id, account_id, status, identifiers, profile, profile_version, not_before, not_after, "
        "expires_at, error, issuer, serial, created_at) VALUES ($1, $2, 'open', '[]', '', '', NULL, NULL, $3, '', '', '', $4)"
    )
    steps = [Step(copy, (f"order-{at:03}", account_id, 2**62, at)) for at in range(150)]
    await world.database.write(*steps)
    first = await client.post(f"{client.kid}/orders")
    assert len(first.json["orders"]) == 100
    (link,) = [link for link in first.links if link.endswith(';rel="next"')]
    url = link.partition(">")[0].removeprefix("<")
    second = await client.post(url)
    assert len(second.json["orders"]) == 50
    assert not [link for link in second.links if 'rel="next"' in link]
    assert len({*first.json["orders"], *second.json["orders"]}) == 150


@pytest.mark.parametrize("cursor", ["x", "1", "1.", "-1.a", "1.a.b", "01.a", f"{10**30}.a", "1.%00", "%C2%B9.a", ""])
async def test_a_page_that_there_is_not_is_malformed(world: AcmeWorld, cursor: str) -> None:
    client = await world.registered()
    reply = await client.post(f"{client.kid}/orders?after={cursor}")
    assert (reply.status, reply.problem) == (400, "malformed")
