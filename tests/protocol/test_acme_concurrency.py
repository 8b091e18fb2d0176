"""Many at once, slow, or dead in between: compare-and-set decides, and nothing hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from pki.reasons import Unavailable
from storage.database import Conflict, Database
from tests.helpers.acme_client import AcmeClient
from tests.helpers.acme_world import ENDPOINTS, AcmeWorld, acme_world
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr
from validation.outcome import FailureKind


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock) as world:
        yield world


@pytest.fixture
async def impatient(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    """Challenge POSTs wait for nothing, and validations for their gate."""
    async with acme_world(database, clock, hold=timedelta(0)) as world:
        world.http01.gate.clear()
        yield world


async def challenge_of(client: AcmeClient, order_url: str) -> tuple[str, str]:
    authorization = (await client.post(order_url)).json["authorizations"][0]
    return authorization, (await client.post(authorization)).json["challenges"][0]["url"]


async def land(world: AcmeWorld) -> None:
    """Let the validations end."""
    world.http01.gate.set()
    await world.server.drain()


async def test_of_fifty_finalizes_one_makes_a_certificate_and_the_others_are_order_not_ready(world: AcmeWorld) -> None:
    client = await world.registered()
    order = await client.order("a.example.com")
    await client.authorize(order)
    csr = der_of(make_csr("a.example.com"))
    replies = await asyncio.gather(*(client.finalize(order, csr) for _ in range(50)))
    winners = [reply for reply in replies if reply.status == 200]
    assert len(winners) == len(world.issuance.records) == 1
    assert winners[0].json["status"] == "valid"
    assert {(reply.status, reply.problem) for reply in replies if reply.status != 200} == {(403, "orderNotReady")}


async def test_fifty_challenge_posts_are_one_validation(world: AcmeWorld) -> None:
    client = await world.registered()
    world.http01.gate.clear()
    order = await client.order("a.example.com")
    _, challenge = await challenge_of(client, order.location)
    posts = [asyncio.create_task(client.post(challenge, {})) for _ in range(50)]
    await world.http01.started.wait()
    world.http01.gate.set()
    assert {(await post).json["status"] for post in posts} == {"valid"}
    assert len(world.http01.calls) == 1


async def test_one_key_registering_many_times_at_once_has_one_account(world: AcmeWorld) -> None:
    client = world.client()
    replies = await asyncio.gather(*(client.register() for _ in range(10)))
    assert sorted(reply.status for reply in replies) == [200] * 9 + [201]
    assert len({reply.location for reply in replies}) == 1


async def test_one_nonce_sent_many_times_at_once_is_good_once(world: AcmeWorld) -> None:
    client = await world.registered()
    nonce = await client.nonce()
    replies = await asyncio.gather(*(client.post(client.kid, nonce=nonce) for _ in range(20)))
    assert sorted(reply.status for reply in replies) == [200] + [400] * 19
    assert {reply.problem for reply in replies if reply.status == 400} == {"badNonce"}


async def test_a_slow_validation_is_processing_with_retry_after_and_a_job_for_whoever_survives(impatient: AcmeWorld) -> None:
    client = await impatient.registered()
    order = await client.order("a.example.com")
    authorization, challenge = await challenge_of(client, order.location)
    for _ in range(2):
        reply = await client.post(challenge, {})
        assert (reply.status, reply.json["status"], reply.headers["Retry-After"]) == (200, "processing", "1")
    read = await client.post(authorization)
    assert read.json["status"] == "pending"  # certbot takes anything else for final
    assert read.json["challenges"][0]["status"] == "processing"
    assert [list(each) for each in read.json["challenges"]] == [["type", "url", "status", "token"]]
    jobs = await impatient.database.fetch("SELECT id, payload FROM job")
    assert [(row["id"], row["payload"]) for row in jobs] == [(authorization.rpartition("/")[2], "http-01")]
    await land(impatient)
    assert (await client.post(authorization)).json["status"] == "valid"
    assert (await client.post(order.location)).json["status"] == "ready"


async def abandoned(world: AcmeWorld) -> tuple[AcmeClient, str, str]:
    """Whose validation was under way when the worker died, with its authorization and challenge."""
    client = await world.registered()
    order = await client.order("a.example.com")
    authorization, challenge = await challenge_of(client, order.location)
    await client.post(challenge, {})
    await world.server.close()  # cancelled, as by a signal
    return client, authorization, challenge


async def test_a_validation_of_a_worker_that_died_is_resumed_by_its_job(
    impatient: AcmeWorld, database: Database, clock: FakeClock
) -> None:
    client, authorization, _ = await abandoned(impatient)
    async with acme_world(database, clock) as survivor:
        authorization_id = authorization.rpartition("/")[2]
        await survivor.server.resume_validation(authorization_id, "http-01")
        assert (await client.post(authorization)).json["status"] == "valid"
        await survivor.server.resume_validation(authorization_id, "http-01")  # there is nothing left to do
        assert survivor.http01.calls == impatient.http01.calls


async def test_a_job_does_not_use_a_method_that_the_operator_has_taken_away(
    impatient: AcmeWorld, database: Database, clock: FakeClock
) -> None:
    _, authorization, _ = await abandoned(impatient)
    endpoints = [replace(each, challenges=("dns-01",)) for each in ENDPOINTS]
    async with acme_world(database, clock, endpoints=endpoints) as other:
        await other.server.resume_validation(authorization.rpartition("/")[2], "http-01")
        assert other.http01.calls == []


async def test_resuming_what_is_not_there_does_nothing(world: AcmeWorld) -> None:
    await world.server.resume_validation("nobody", "http-01")
    assert world.http01.calls == []


async def test_a_worker_that_died_before_it_wrote_a_job_costs_the_client_one_more_post(
    impatient: AcmeWorld, database: Database, clock: FakeClock
) -> None:
    client, _, challenge = await abandoned(impatient)
    async with acme_world(database, clock) as survivor:
        elsewhere = AcmeClient(survivor.http, key=client.key, kid=client.kid)
        assert (await elsewhere.post(challenge, {})).json["status"] == "valid"


async def test_of_two_workers_that_validate_the_first_result_counts(
    impatient: AcmeWorld, database: Database, clock: FakeClock
) -> None:
    client = await impatient.registered()
    order = await client.order("a.example.com")
    authorization, challenge = await challenge_of(client, order.location)
    await client.post(challenge, {})  # waits at its gate in the first worker
    async with acme_world(database, clock) as quick:
        quick.http01.failing["a.example.com"] = FailureKind.DNS
        elsewhere = AcmeClient(quick.http, key=client.key, kid=client.kid)
        assert (await elsewhere.post(challenge, {})).json["status"] == "invalid"
    await land(impatient)
    assert (await client.post(authorization)).json["status"] == "invalid"
    assert (await client.post(challenge, {})).json["error"]["type"].endswith(":dns")


async def test_an_authorization_given_up_during_its_validation_stays_given_up(impatient: AcmeWorld) -> None:
    client = await impatient.registered()
    order = await client.order("a.example.com")
    authorization, challenge = await challenge_of(client, order.location)
    await client.post(challenge, {})
    assert (await client.post(authorization, {"status": "deactivated"})).json["status"] == "deactivated"
    await land(impatient)
    assert (await client.post(authorization)).json["status"] == "deactivated"


async def test_an_outage_during_validation_is_503_and_the_next_post_tries_again(world: AcmeWorld) -> None:
    client = await world.registered()
    order = await client.order("a.example.com")
    _, challenge = await challenge_of(client, order.location)
    world.http01.raises.append(Unavailable("database"))
    assert (await client.post(challenge, {})).status == 503
    assert (await client.post(challenge, {})).json["status"] == "valid"
    assert world.log.events == []


async def test_a_bug_in_a_background_validation_is_logged_and_the_challenge_stays_pending(impatient: AcmeWorld) -> None:
    client = await impatient.registered()
    order = await client.order("a.example.com")
    _, challenge = await challenge_of(client, order.location)
    impatient.http01.raises.append(RuntimeError("bug"))
    await client.post(challenge, {})
    await land(impatient)
    assert [event for event, _ in impatient.log.events] == ["acme.validation_failed"]
    assert (await client.post(challenge)).json["status"] == "pending"


async def test_an_account_deactivated_while_its_order_is_ready_gets_no_certificate(world: AcmeWorld) -> None:
    """The finalize's compare-and-set looks again, whatever its caller has read before."""
    client = await world.registered()
    order = await client.order("a.example.com")
    await client.authorize(order)
    settler = world.issuance.settler
    order_id = order.location.rpartition("/")[2]
    await client.post(client.kid, {"status": "deactivated"})
    with pytest.raises(Conflict):
        await world.database.write(*settler.began(order_id, now=world.server.clock.micros()))
    assert world.issuance.records == {}
