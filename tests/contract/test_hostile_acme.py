"""What an attacker with an account, or with none, sends to ACME: never a 500, never more than it may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from acmeserver.validations import MOST_AT_ONCE, MOST_IN_FLIGHT, MOST_OF_ONE
from pki.strict import base64url
from storage.database import Database
from tests.helpers.acme_world import AcmeWorld, acme_world
from tests.helpers.ca import TestCa
from tests.helpers.clock import FakeClock

P256 = bytes.fromhex("06082a8648ce3d030107")
NO_CURVE = bytes.fromhex("06082a8648ce3d030177")


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock) as opened:
        yield opened


@pytest.mark.parametrize("member", ["notBefore", "notAfter"])
@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z"])
async def test_a_time_that_no_certificate_can_say_is_malformed(world: AcmeWorld, member: str, time: str) -> None:
    """In UTC these lie outside the years that RFC 3339 writes with four digits, or before the epoch."""
    client = await world.registered()
    reply = await client.order("www.example.com", **{member: time})
    assert (reply.status, reply.problem) == (400, "malformed")
    assert world.log.events == []


async def test_the_last_second_of_rfc_5280_can_be_asked_for(world: AcmeWorld) -> None:
    """§4.1.2.5: 99991231235959Z."""
    client = await world.registered()
    reply = await client.order("www.example.com", notAfter="9999-12-31T23:59:59Z")
    assert reply.status == 201
    assert reply.json["notAfter"] == "9999-12-31T23:59:59Z"


async def test_a_certificate_with_a_key_of_an_unknown_kind_is_not_one_of_ours(world: AcmeWorld) -> None:
    client = await world.registered()
    odd = TestCa().certificate.public_bytes(Encoding.DER).replace(P256, NO_CURVE)
    for jwk in (False, True):
        reply = await client.post(client.url("revoke-cert"), {"certificate": base64url(odd)}, jwk=jwk)
        assert (reply.status, reply.problem) == (400, "malformed")
    assert world.log.events == []


async def test_validations_that_hang_are_so_many_and_no_more(database: Database, clock: FakeClock) -> None:
    """Each holds sockets for up to ten seconds, and accounts cost nothing: without an end to them the worker has no file left."""
    async with acme_world(database, clock, hold=timedelta(0)) as world:
        world.http01.gate.clear()
        replies, challenges = [], []
        for number in range(MOST_IN_FLIGHT // MOST_OF_ONE + 1):
            client = await world.registered()
            order = await client.order(*(f"n{name}.m{number}.example.com" for name in range(MOST_OF_ONE)))
            urls = [url.replace("/authz/", "/challenge/") + "/http-01" for url in order.json["authorizations"]]
            challenges += [(client, url) for url in urls]
            replies += [await client.post(url, {}) for url in urls]
        assert {reply.status for reply in replies[:MOST_IN_FLIGHT]} == {200}
        assert {reply.status for reply in replies[MOST_IN_FLIGHT:]} == {503}
        assert replies[-1].headers["Retry-After"]
        client, url = challenges[-1]
        assert (await client.post(url)).json["status"] == "pending"  # nothing is lost: it may be sent again
        client, url = challenges[0]
        again = await client.post(url, {})  # and whose validation is under way already is told so
        assert (again.status, again.json["status"]) == (200, "processing")
        assert len(world.http01.calls) == MOST_AT_ONCE
        world.http01.gate.set()
        await world.server.drain()
        assert len(world.http01.calls) == MOST_IN_FLIGHT
        client, url = challenges[-1]
        assert (await client.post(url, {})).status == 200
        assert world.log.events == []
