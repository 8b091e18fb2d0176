"""Whose is it? Two accounts, every object URL, every verb (the defect that ACME servers share)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from pki.strict import base64url
from storage.database import Database
from tests.helpers.acme_client import AcmeClient
from tests.helpers.acme_world import AcmeWorld, acme_world
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr


@dataclass(frozen=True, slots=True)
class Objects:
    """URLs of one account's objects, in every state that matters."""

    account: str
    pending_order: str
    ready_order: str
    valid_order: str
    pending_authorization: str
    valid_authorization: str
    pending_challenge: str
    valid_challenge: str
    certificate: str


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock) as world:
        yield world


async def make_objects(owner: AcmeClient) -> Objects:
    pending, ready, valid = [await owner.order("a.example.com") for _ in range(3)]
    await owner.authorize(ready)
    await owner.authorize(valid)
    final = await owner.finalize(valid, der_of(make_csr("a.example.com")))
    waiting, proved = [str(order.json["authorizations"][0]) for order in (pending, valid)]
    challenges = [str((await owner.post(url)).json["challenges"][0]["url"]) for url in (waiting, proved)]
    return Objects(
        account=owner.kid,
        pending_order=pending.location,
        ready_order=ready.location,
        valid_order=valid.location,
        pending_authorization=waiting,
        valid_authorization=proved,
        pending_challenge=challenges[0],
        valid_challenge=challenges[1],
        certificate=final.json["certificate"],
    )


PAYLOADS: tuple[object, ...] = (b"", {}, {"status": "deactivated"}, {"contact": ["mailto:thief@example.com"]})

# What a stranger's well-formed request gets; other people's orders and certificates do not exist for it.
VERDICTS = {
    "account": 403,
    "pending_order": 404,
    "ready_order": 404,
    "valid_order": 404,
    "pending_authorization": 403,
    "valid_authorization": 403,
    "pending_challenge": 403,
    "valid_challenge": 403,
    "certificate": 404,
}


async def snapshot(database: Database) -> list[object]:
    tables = ("acme_account", "acme_order", "acme_authorization")
    return [[dict(row) for row in await database.fetch(f"SELECT * FROM {table} ORDER BY id")] for table in tables]  # noqa: S608  # a constant


@pytest.mark.parametrize("same_endpoint", [True, False])
async def test_a_stranger_can_neither_read_nor_change_anything(world: AcmeWorld, *, same_endpoint: bool) -> None:
    owner = await world.registered()
    objects = await make_objects(owner)
    stranger = await world.registered("default" if same_endpoint else "other")
    before, calls = await snapshot(world.database), len(world.http01.calls)
    for name, verdict in VERDICTS.items():
        url: str = getattr(objects, name)
        url = url if same_endpoint else url.replace("/acme/default/", "/acme/other/")
        statuses = {(await stranger.post(url, payload)).status for payload in PAYLOADS}
        assert statuses <= {verdict, 400}, name
        assert verdict in statuses, name
    csr = der_of(make_csr("a.example.com"))
    for order in (objects.pending_order, objects.ready_order, objects.valid_order):
        url = order if same_endpoint else order.replace("/acme/default/", "/acme/other/")
        reply = await stranger.post(f"{url}/finalize", {"csr": base64url(csr)})
        assert reply.status == 404
    assert await snapshot(world.database) == before
    assert len(world.http01.calls) == calls
    assert len(world.issuance.requests) == 1


async def test_the_owner_can_do_all_of_it(world: AcmeWorld) -> None:
    """The matrix above proves nothing if its URLs are wrong."""
    owner = await world.registered()
    objects = await make_objects(owner)
    for name in VERDICTS:
        assert (await owner.post(getattr(objects, name))).status == 200, name


async def test_a_stranger_cannot_sign_with_anothers_kid(world: AcmeWorld) -> None:
    owner = await world.registered()
    thief = AcmeClient(world.http, kid=owner.kid)
    reply = await thief.post(owner.kid, {"status": "deactivated"})
    assert (reply.status, reply.problem) == (400, "malformed")
    assert (await owner.post(owner.kid)).json["status"] == "valid"


@pytest.mark.parametrize("kind", ["order", "authz", "cert", "account"])
async def test_what_does_not_exist_is_not_found(world: AcmeWorld, kind: str) -> None:
    client = await world.registered()
    reply = await client.post(client.url(f"{kind}/abcdef0123"))
    assert reply.status == (403 if kind == "account" else 404)
