"""What the store makes of accounts where the wire cannot show it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from acmeserver.authentication import Acting
from acmeserver.jwk import parse_jwk
from acmeserver.messages import AccountUpdate, NewAccount, parse_new_order
from acmeserver.problems import Problem
from storage.database import Database, Step
from tests.helpers.acme_client import AccountKey, integer
from tests.helpers.acme_world import AcmeWorld, acme_world
from tests.helpers.clock import FakeClock

WANTED = NewAccount(contact=(), terms_agreed=True, only_existing=False)
ORDER = parse_new_order(b'{"identifiers": [{"type": "dns", "value": "a.example.com"}]}')


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock) as world:
        yield world


async def test_a_key_that_anybody_can_factor_gets_no_account(world: AcmeWorld) -> None:
    modulus = 3 * ((1 << 2047) // 3 | 1)
    weak = parse_jwk({"kty": "RSA", "e": "AQAB", "n": integer(modulus)})
    with pytest.raises(Problem) as caught:
        await world.server.served["default"].accounts.register(weak, WANTED, source_address="192.0.2.1")
    assert caught.value.type.value == "badPublicKey"
    assert await world.database.fetch("SELECT id FROM acme_account") == []


async def test_a_key_that_the_account_has_no_more_can_do_nothing(world: AcmeWorld) -> None:
    """Another node changes the key; this one has the old key in its memory. Every statement looks at the present one."""
    client = await world.registered()
    order = await client.order("a.example.com")
    urls = (client.kid, order.location, order.json["authorizations"][0], client.url("cert/ab"))
    replace = "UPDATE acme_account SET thumbprint = 'another'"
    await world.database.write(Step(replace))
    for url in urls:
        reply = await client.post(url)
        assert (reply.status, reply.problem) == (403, "unauthorized"), url
    for url, payload in (
        (client.kid, {"status": "deactivated"}),
        (client.kid, {"contact": []}),
        (client.url("revoke-cert"), {"certificate": "AAAA"}),
        (order.json["authorizations"][0], {"status": "deactivated"}),
    ):
        assert (await client.post(url, payload)).problem == "unauthorized", url
    assert (await client.order("b.example.com")).problem == "unauthorized"
    (row,) = await world.database.fetch("SELECT status FROM acme_account")
    assert row["status"] == "valid"


async def test_an_account_that_was_never_there_can_do_nothing(world: AcmeWorld) -> None:
    nobody = Acting("nobody", parse_jwk(AccountKey().jwk), "")
    served = world.server.served["default"]
    for attempt in (
        served.accounts.update(nobody, AccountUpdate(contact=None, deactivate=True)),
        served.orders.create(nobody, ORDER),
        served.orders.read(nobody, "x"),
        served.authorizations.read(nobody, "x"),
    ):
        with pytest.raises(Problem) as caught:
            await attempt
        assert caught.value.type.value == "unauthorized"


async def test_an_order_is_one_write_and_all_of_it_or_nothing(world: AcmeWorld) -> None:
    client = await world.registered()
    await world.database.write(Step("UPDATE acme_account SET status = 'deactivated'"))
    assert (await client.order("a.example.com", "b.example.com")).status == 403
    for table in ("acme_order", "acme_authorization", "acme_order_authorization"):
        assert await world.database.fetch(f"SELECT * FROM {table}") == []  # noqa: S608  # a constant
