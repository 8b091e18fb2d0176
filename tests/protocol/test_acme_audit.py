"""Who came to exist, who got another key and who was told to: each is in the audit, in the transaction of the fact (BR 5.4.1)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from acmeserver.endpoint import AcmeEndpoint
from acmeserver.jwk import parse_jwk
from policy.principal import COMMAND_LINE
from storage.database import Database
from tests.helpers.acme_account import binding, change_key, external_keys, new_external_key, with_key
from tests.helpers.acme_client import AccountKey
from tests.helpers.acme_world import AcmeWorld, acme_world
from tests.helpers.clock import FakeClock

ENDPOINTS = (AcmeEndpoint(name="default", profiles=("tls-server",), external_account="optional"),)


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock, endpoints=ENDPOINTS) as world:
        yield world
        assert world.log.events == []


def thumbprint(key: AccountKey) -> str:
    return parse_jwk(key.jwk).thumbprint


async def recorded(database: Database, kind: str) -> list[tuple[str, str, str, dict[str, Any]]]:
    """(event, principal, subject, detail) of all events of one kind, oldest first."""
    rows = await database.fetch(
        "SELECT event, principal, subject, detail FROM audit WHERE event LIKE $1 ORDER BY at, id", f"{kind}%"
    )
    return [(row["event"], row["principal"], row["subject"], json.loads(row["detail"])) for row in rows]


async def test_an_account_that_is_made_is_recorded_once_with_its_key_and_where_it_came_from(world: AcmeWorld) -> None:
    client = await world.registered()
    assert (await client.register()).status == 200  # found, not made
    assert (await world.client().register(termsOfServiceAgreed="no")).status == 400
    who = f"acme-account:{client.kid.rpartition('/')[2]}"
    ((event, principal, subject, detail),) = await recorded(world.database, "account.")
    assert (event, principal, subject) == ("account.created", who, who)
    assert detail == {"endpoint": "default", "thumbprint": thumbprint(client.key), "external_key": "", "source": "127.0.0.1"}


async def test_the_external_key_of_an_account_is_in_its_record(world: AcmeWorld, clock: FakeClock) -> None:
    key = await new_external_key(world.database, clock, endpoint="default", names=("*.example.com",))
    client = world.client()
    assert (await client.register(externalAccountBinding=binding(client, key))).status == 201
    ((_, _, _, detail),) = await recorded(world.database, "account.created")
    assert detail["external_key"] == key.kid


async def test_a_change_of_key_and_a_deactivation_are_recorded(world: AcmeWorld) -> None:
    client, new = await world.registered(), AccountKey()
    old = thumbprint(client.key)
    assert (await change_key(client, new)).status == 200
    client = with_key(client, new)
    assert (await client.post(client.kid, {"status": "deactivated"})).status == 200
    ((_, _, changed_of, changed),) = await recorded(world.database, "account.key_changed")
    assert (changed["from"], changed["to"]) == (old, thumbprint(new))
    ((_, _, gone, _),) = await recorded(world.database, "account.deactivated")
    assert gone == changed_of


async def test_an_external_key_is_recorded_when_it_is_made_and_revoked_and_its_secret_never(
    world: AcmeWorld, clock: FakeClock
) -> None:
    key = await new_external_key(world.database, clock, endpoint="default", names=("*.example.com",))
    await external_keys(world.database, clock).revoke(key.kid, COMMAND_LINE)
    (made,) = await recorded(world.database, "external_key.created")
    (revoked,) = await recorded(world.database, "external_key.revoked")
    assert (made[0], made[1], made[2]) == ("external_key.created", "operator:command-line", f"external-key:{key.kid}")
    assert made[3]["names"] == ["*.example.com"]
    assert (revoked[0], revoked[2]) == ("external_key.revoked", f"external-key:{key.kid}")
    assert key.hmac_key not in json.dumps([made, revoked])
