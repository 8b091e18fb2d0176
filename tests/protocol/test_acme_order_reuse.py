"""The same order asked for twice: where the endpoint says so, the open one is given again, and nothing that is only alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from acmeserver.endpoint import AcmeEndpoint, RenewalInfo
from acmeserver.limits import LimitRules
from pki.clock import after, rfc3339
from pki.reasons import Reason, Rejection
from policy.limits import Limit
from policy.profiles import Profiles
from storage.database import Database
from tests.helpers.acme_client import AcmeClient
from tests.helpers.acme_world import AcmeWorld, acme_world, profile, ready
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr
from tests.helpers.profiles import profile as profile_with
from validation.outcome import FailureKind

NAME = "a.example.com"
PROFILES = Profiles(
    [
        profile("tls-server"),
        profile_with("strict", methods_required=2),
        profile_with("fresh", evidence_max_age=timedelta(days=1)),
    ]
)
ENDPOINT = AcmeEndpoint(
    name="same",
    profiles=("tls-server", "strict", "fresh"),
    challenges=("http-01", "dns-01"),
    identifiers=("dns", "ip"),
    order_reuse=True,
    subdomains=True,
    renewal_info=RenewalInfo(),
)
COUNTED = replace(ENDPOINT, name="counted", limits=LimitRules(orders_per_account=Limit(2, timedelta(hours=1))))
ENDPOINTS = (AcmeEndpoint(name="default", profiles=("tls-server",)), ENDPOINT, COUNTED)


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock, endpoints=ENDPOINTS, profiles=PROFILES) as world:
        yield world


@pytest.fixture
async def client(world: AcmeWorld) -> AcmeClient:
    return await world.registered("same")


@pytest.mark.parametrize("name", [NAME, "*.example.com", "192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("profile", ["tls-server", "fresh"])
async def test_an_order_that_is_open_is_given_again_and_counted_once(world: AcmeWorld, name: str, profile: str) -> None:
    """A client that was restarted goes on where it was. Of its two orders in an hour it has used one."""
    client = await world.registered("counted")
    first = await client.order(name, profile=profile)
    for _ in range(5):
        again = await client.order(name, profile=profile)
        assert (again.status, again.location, again.json) == (201, first.location, first.json)
    await client.authorize(first)
    proved = await client.order(name, profile=profile)
    assert (proved.location, proved.json["status"]) == (first.location, "ready")
    assert (await client.order("other.example.com")).status == 201


async def test_two_methods_are_still_two_authorizations(client: AcmeClient) -> None:
    first = await client.order(NAME, profile="strict")
    assert len(first.json["authorizations"]) == 2
    assert (await client.order(NAME, profile="strict")).location == first.location


async def test_where_nobody_asked_for_it_every_order_is_new(world: AcmeWorld) -> None:
    client = await world.registered()
    assert (await client.order(NAME)).location != (await client.order(NAME)).location


async def test_another_account_gets_its_own(world: AcmeWorld, client: AcmeClient) -> None:
    first = await client.order(NAME)
    assert (await (await world.registered("same")).order(NAME)).location != first.location


async def test_what_is_only_alike_is_another_order(client: AcmeClient, clock: FakeClock) -> None:
    first = await client.order(NAME, "b.example.com")
    until = rfc3339(after(clock.micros(), timedelta(days=1)))
    clock.advance(timedelta(seconds=1))  # the others are newer
    ancestor = {
        "identifiers": [{"type": "dns", "value": name, "ancestorDomain": "example.com"} for name in (NAME, "b.example.com")]
    }
    alike = (
        await client.order(NAME, "b.example.com", profile="fresh"),
        await client.order(NAME, "b.example.com", notAfter=until),
        await client.order(NAME),
        await client.order(NAME, "B.example.com"),  # echoed as it was sent
        await client.post(client.url("new-order"), ancestor),
    )
    assert {reply.status for reply in alike} == {201}
    assert len({first.location, *(reply.location for reply in alike)}) == 6
    assert (await client.order(NAME, "b.example.com")).location == first.location


async def test_what_has_ended_is_not_given_again(world: AcmeWorld, client: AcmeClient) -> None:
    finalized = await ready(client, NAME)
    assert (await client.finalize(finalized, der_of(make_csr(NAME)))).json["status"] == "valid"
    world.http01.failing[NAME] = FailureKind.UNAUTHORIZED
    failed = await client.order(NAME)
    assert failed.location != finalized.location
    await client.authorize(failed)
    client = await world.registered("same")
    given_up = await client.order(NAME)
    await client.post(given_up.json["authorizations"][0], {"status": "deactivated"})
    assert (await client.order(NAME)).location != given_up.location


async def test_an_order_that_failed_by_its_second_name_is_not_given_again(world: AcmeWorld, client: AcmeClient) -> None:
    world.http01.failing["b.example.com"] = FailureKind.UNAUTHORIZED
    failed = await client.order(NAME, "b.example.com")
    await client.authorize(failed)
    assert (await client.order(NAME, "b.example.com")).location != failed.location


@pytest.mark.parametrize(("age", "same"), [(timedelta(hours=22, minutes=59), True), (timedelta(hours=23, seconds=1), False)])
async def test_a_proof_that_would_soon_be_stale_is_none(
    client: AcmeClient, clock: FakeClock, age: timedelta, *, same: bool
) -> None:
    """Else whoever asks again would be `ready` for ever, and refused at each finalize."""
    first = await ready(client, NAME, profile="fresh")
    clock.advance(age)
    assert ((await client.order(NAME, profile="fresh")).location == first.location) is same


@pytest.mark.parametrize(
    ("age", "same"), [(timedelta(days=6, hours=22), True), (timedelta(days=6, hours=23, seconds=1), False)]
)
async def test_an_order_that_ends_within_the_hour_is_not_given_again(
    client: AcmeClient, clock: FakeClock, age: timedelta, *, same: bool
) -> None:
    first = await client.order(NAME)
    clock.advance(age)
    assert ((await client.order(NAME)).location == first.location) is same


CHANGED = {
    "a challenge fewer": (replace(ENDPOINT, challenges=("http-01",)), PROFILES),
    "another version of the profile": (
        replace(ENDPOINT, profiles=("tls-server",)),
        Profiles([replace(profile("tls-server"), must_staple=True)]),
    ),
    "orders are not given again": (replace(ENDPOINT, order_reuse=False), PROFILES),
}


@pytest.mark.parametrize("what", CHANGED)
async def test_what_the_operator_changed_is_not_given_again(database: Database, clock: FakeClock, what: str) -> None:
    async with acme_world(database, clock, endpoints=ENDPOINTS, profiles=PROFILES) as world:
        client = await world.registered("same")
        first = await client.order(NAME)
    endpoint, profiles = CHANGED[what]
    async with acme_world(database, clock, endpoints=[endpoint], profiles=profiles) as world:
        later = AcmeClient(world.http, client.key, client.endpoint, client.kid)
        reply = await later.order(NAME)
        assert (reply.status, reply.location == first.location) == (201, False)


async def test_who_may_order_nothing_is_given_nothing(database: Database, clock: FakeClock) -> None:
    async with acme_world(database, clock, endpoints=ENDPOINTS, profiles=PROFILES) as world:
        client = await world.registered("same")
        first = await client.order(NAME)
        new_terms = replace(ENDPOINT, terms_of_service="https://ca.test/terms-2")
    async with acme_world(database, clock, endpoints=[new_terms], profiles=PROFILES) as world:
        client = AcmeClient(world.http, client.key, client.endpoint, client.kid)
        assert (await client.order(NAME)).problem == "userActionRequired"
        await client.post(client.kid, {"termsOfServiceAgreed": True})
        assert (await client.order(NAME)).location == first.location
        await client.post(client.kid, {"status": "deactivated"})
        refused = await client.order(NAME)
        assert (refused.status, refused.problem) == (403, "unauthorized")


async def test_what_policy_refuses_today_is_not_given_again(world: AcmeWorld, client: AcmeClient) -> None:
    await client.order(NAME)
    world.policy.refuse(Rejection(Reason.FORBIDDEN, "not any more"))
    assert (await client.order(NAME)).status == 403
