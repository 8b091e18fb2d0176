"""Names that an external account key owns: no challenge to do, and the pipeline's own look at it when the certificate is made."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from acmeserver.endpoint import AcmeEndpoint
from acmeserver.external_keys import NewKey
from acmeserver.ownership import ExternalOwnership
from pki.identifiers import Identifier, parse_dns, parse_ip
from policy.principal import COMMAND_LINE, Principal, PrincipalKind
from policy.rules import Policy
from storage.database import Database, Step
from tests.helpers.acme_account import binding, external_keys, new_external_key
from tests.helpers.acme_client import AcmeClient
from tests.helpers.acme_real import RealAcme, real_acme
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr
from tests.helpers.profiles import profile

NAMES = ("*.example.com", "10.1.0.0/16")
ENDPOINTS = (
    AcmeEndpoint(
        name="default",
        profiles=("tls-server", "strict", "watched"),
        challenges=("http-01", "dns-01"),
        identifiers=("dns", "ip"),
        external_account="optional",
        authorization_reuse=timedelta(days=5),
        pre_authorization=True,
        roles=frozenset({"acme"}),
    ),
)
PROFILES = (profile(), profile("strict", methods_required=2), profile("watched", perspectives_required=2))
POLICIES = (Policy("all", frozenset({"acme", "team"}), frozenset({"tls-server", "strict", "watched"}), ("*",)),)


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[RealAcme]:
    async with real_acme(database, clock, endpoints=ENDPOINTS, profiles=PROFILES, policies=POLICIES) as world:
        yield world


@pytest.fixture
async def key(database: Database, clock: FakeClock) -> NewKey:
    return await new_external_key(database, clock, endpoint="default", names=NAMES, roles=("team",), reusable=True)


@pytest.fixture
async def client(world: RealAcme, key: NewKey) -> AcmeClient:
    client = world.client()
    reply = await client.register(externalAccountBinding=binding(client, key))
    assert reply.status == 201, reply.body
    return client


async def test_an_order_for_owned_names_is_ready_at_once_and_its_certificate_says_why(
    world: RealAcme, client: AcmeClient, key: NewKey
) -> None:
    order = await client.order("a.example.com", "10.1.2.3")
    assert (order.status, order.json["status"]) == (201, "ready")
    for url in order.json["authorizations"]:
        authorization = (await client.post(url)).json
        assert (authorization["status"], authorization["challenges"]) == ("valid", [])
    only = await client.order("a.example.com")
    assert (await client.finalize(only, der_of(make_csr("a.example.com")))).json["status"] == "valid"
    (row,) = await world.issuing.rows("SELECT evidence, principal FROM issuance")
    (evidence,) = json.loads(row["evidence"])
    assert (evidence["kind"], evidence["identifier"], evidence["credential"]) == ("ownership", "dns:a.example.com", key.kid)
    assert world.methods["http-01"].calls == world.methods["dns-01"].calls == []


async def test_the_wildcard_of_the_pattern_is_owned_as_policy_has_it(client: AcmeClient) -> None:
    """`*.example.com` grants every label in that place, and so the star that stands for them (policy/names.py)."""
    order = await client.order("*.example.com")
    assert order.json["status"] == "ready"
    authorization = (await client.post(order.json["authorizations"][0])).json
    assert authorization["wildcard"] is True
    assert (await client.finalize(order, der_of(make_csr("*.example.com")))).json["status"] == "valid"


async def test_other_names_are_not_the_accounts_to_ask_for(client: AcmeClient) -> None:
    for name in ("example.com", "a.b.example.com", "evil-example.com", "10.2.0.1"):
        reply = await client.order("a.example.com", name)
        assert (reply.status, reply.problem) == (400, "rejectedIdentifier")
        assert [share["identifier"]["value"] for share in reply.json["subproblems"]] == [name]


async def test_who_is_bound_to_nobody_proves_every_name(world: RealAcme, key: NewKey) -> None:
    stranger = await world.registered()
    order = await stranger.order("a.example.com")
    assert order.json["status"] == "pending"


async def test_a_key_without_names_owns_none_and_refuses_none(world: RealAcme, database: Database, clock: FakeClock) -> None:
    made = await new_external_key(database, clock, endpoint="default")
    client = world.client()
    await client.register(externalAccountBinding=binding(client, made))
    order = await client.order("a.example.com")
    assert order.json["status"] == "pending"
    await client.authorize(order)
    assert (await client.finalize(order, der_of(make_csr("a.example.com")))).json["status"] == "valid"


async def test_a_key_revoked_between_order_and_finalize_gives_nothing(
    world: RealAcme, client: AcmeClient, key: NewKey, database: Database, clock: FakeClock
) -> None:
    order = await client.order("a.example.com")
    await external_keys(database, clock).revoke(key.kid, COMMAND_LINE)
    reply = await client.finalize(order, der_of(make_csr("a.example.com")))
    assert reply.status == 403
    assert world.issuing.signer.signed == []
    assert (await client.order("a.example.com")).status == 403


async def test_a_name_taken_from_the_key_between_order_and_finalize_is_not_certified(
    world: RealAcme, client: AcmeClient, database: Database
) -> None:
    """Whatever wrote it there: the key's own row is read."""
    order = await client.order("a.example.com")
    await database.write(Step("UPDATE acme_external_key SET names = '[\"b.example.com\"]'"))
    reply = await client.finalize(order, der_of(make_csr("a.example.com")))
    assert (reply.status, reply.problem) == (400, "rejectedIdentifier")
    assert "a.example.com" in reply.json["detail"]
    assert world.issuing.signer.signed == []


@pytest.mark.parametrize("wanted", ["strict", "watched"])
async def test_a_profile_that_wants_more_than_one_look_wants_it_of_owned_names_too(client: AcmeClient, wanted: str) -> None:
    assert (await client.order("a.example.com", profile=wanted)).json["status"] == "pending"


async def test_what_is_owned_is_made_anew_for_each_order_and_never_taken_for_proved(client: AcmeClient) -> None:
    first, second = await client.order("a.example.com"), await client.order("a.example.com")
    assert first.json["authorizations"] != second.json["authorizations"]


async def test_an_owned_name_is_valid_at_newauthz_as_well(client: AcmeClient) -> None:
    made = await client.post(client.url("new-authz"), {"identifier": {"type": "dns", "value": "a.example.com"}})
    assert (made.status, made.json["status"]) == (201, "valid")


async def test_who_is_asked_says_nothing_for_whom_it_does_not_know(
    world: RealAcme, client: AcmeClient, key: NewKey, database: Database
) -> None:
    register, account = ExternalOwnership(database), client.kid.rpartition("/")[2]
    names: set[Identifier] = {parse_dns("a.example.com"), parse_dns("example.com"), parse_ip("10.1.0.1")}
    mine = Principal(PrincipalKind.ACME_ACCOUNT, account, frozenset())
    assert set(await register.owned(mine, {key.kid}, names)) == names - {parse_dns("example.com")}
    for principal, keys in [
        (mine, {"another-key"}),
        (Principal(PrincipalKind.ACME_ACCOUNT, "nobody", frozenset()), {key.kid}),
        (Principal(PrincipalKind.API_KEY, account, frozenset()), {key.kid}),
        (Principal(PrincipalKind.EST_USER, account, frozenset()), {key.kid}),
    ]:
        assert list(await register.owned(principal, keys, names)) == []
    await client.post(client.kid, {"status": "deactivated"})
    assert list(await register.owned(mine, {key.kid}, names)) == []
