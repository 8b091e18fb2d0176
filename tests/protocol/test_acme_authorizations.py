"""ACME authorizations on the wire: used again, made before there is an order, for whole subtrees, for names that need no proof."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from acmeserver.endpoint import AcmeEndpoint
from issuance.request import ChallengeEvidence
from pki.identifiers import parse_dns
from policy.profiles import Profiles
from storage.database import Database
from tests.helpers.acme_client import AcmeClient, Reply
from tests.helpers.acme_world import AcmeWorld, acme_world, profile, ready
from tests.helpers.clock import FakeClock
from tests.helpers.counted import CountedDatabase
from tests.helpers.issuance_simulator import der_of, make_csr
from tests.helpers.profiles import profile as profile_with
from validation.outcome import FailureKind

BOTH = ("http-01", "dns-01")
PROFILES = Profiles(
    [
        profile("tls-server"),
        profile_with("strict", methods_required=2),
        profile_with("fresh", evidence_max_age=timedelta(days=2)),
    ]
)
ENDPOINTS = (
    AcmeEndpoint(name="default", profiles=("tls-server",), challenges=BOTH),
    AcmeEndpoint(
        name="again",
        profiles=("tls-server", "strict", "fresh"),
        challenges=BOTH,
        identifiers=("dns", "ip"),
        authorization_reuse=timedelta(days=5),
        pre_authorization=True,
        subdomains=True,
    ),
    AcmeEndpoint(name="http", profiles=("tls-server",), authorization_reuse=timedelta(days=5)),
    AcmeEndpoint(name="known", profiles=("tls-server", "strict"), challenges=BOTH, external_account="optional"),
)


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock, endpoints=ENDPOINTS, profiles=PROFILES) as world:
        yield world


@pytest.fixture
async def client(world: AcmeWorld) -> AcmeClient:
    return await world.registered("again")


async def prove(client: AcmeClient, url: str, kind: str) -> None:
    for challenge in (await client.post(url)).json["challenges"]:
        if challenge["type"] == kind:
            assert (await client.post(challenge["url"], {})).json["status"] == "valid"
            return
    raise AssertionError(f"{kind} is not offered")


async def new_authz(client: AcmeClient, value: str, **members: Any) -> Reply:
    return await client.post(client.url("new-authz"), {"identifier": {"type": "dns", "value": value}, **members})


# ------------------------------------------------------------------------------------------------ used again


async def test_what_was_proved_serves_the_next_order_and_what_was_not_is_asked_for(client: AcmeClient) -> None:
    first = await ready(client, "a.example.com")
    second = await client.order("a.example.com", "b.example.com")
    kept, asked = second.json["authorizations"]
    assert kept == first.json["authorizations"][0]
    assert (await client.post(kept)).json["status"] == "valid"
    assert (await client.post(asked)).json["status"] == "pending"
    assert second.json["status"] == "pending"
    third = await client.order("a.example.com")
    assert third.json["status"] == "ready"
    assert (await client.finalize(third, der_of(make_csr("a.example.com")))).json["status"] == "valid"


async def test_an_order_ends_with_the_first_of_its_authorizations(client: AcmeClient, clock: FakeClock) -> None:
    first = await ready(client, "a.example.com")
    expires = (await client.post(first.json["authorizations"][0])).json["expires"]
    clock.advance(timedelta(days=1))
    second = await client.order("a.example.com", "b.example.com")
    assert second.json["expires"] == expires


async def test_nothing_is_used_again_where_nobody_asked_for_it(world: AcmeWorld) -> None:
    client = await world.registered()
    first = await ready(client, "a.example.com")
    assert (await client.order("a.example.com")).json["authorizations"] != first.json["authorizations"]


async def test_another_account_has_nothing_of_it(world: AcmeWorld, client: AcmeClient) -> None:
    await ready(client, "a.example.com")
    assert (await (await world.registered("again")).order("a.example.com")).json["status"] == "pending"


async def test_a_pending_authorization_is_not_shared(client: AcmeClient) -> None:
    """Or the failure of one order would be that of the other."""
    first, second = await client.order("a.example.com"), await client.order("a.example.com")
    assert first.json["authorizations"] != second.json["authorizations"]


@pytest.mark.parametrize(("age", "reused"), [(timedelta(days=4, hours=23), True), (timedelta(days=5, seconds=1), False)])
async def test_a_proof_is_used_again_as_long_as_configured(
    client: AcmeClient, clock: FakeClock, age: timedelta, reused: bool
) -> None:
    await ready(client, "a.example.com")
    clock.advance(age)
    assert (await client.order("a.example.com")).json["status"] == ("ready" if reused else "pending")


@pytest.mark.parametrize(
    ("age", "reused"), [(timedelta(days=1, hours=22), True), (timedelta(days=1, hours=23, seconds=1), False)]
)
async def test_a_proof_that_the_profile_would_soon_find_stale_is_not_used_again(
    client: AcmeClient, clock: FakeClock, age: timedelta, reused: bool
) -> None:
    """Else the client would be ready, and refused when it finalizes an hour later."""
    await ready(client, "a.example.com", profile="fresh")
    clock.advance(age)
    order = await client.order("a.example.com", profile="fresh")
    assert order.json["status"] == ("ready" if reused else "pending")


async def test_given_up_or_failed_it_is_not_used_again(world: AcmeWorld, client: AcmeClient) -> None:
    first = await ready(client, "a.example.com")
    await client.post(first.json["authorizations"][0], {"status": "deactivated"})
    assert (await client.order("a.example.com")).json["status"] == "pending"
    world.http01.failing["b.example.com"] = FailureKind.TLS
    await client.authorize(await client.order("b.example.com"))
    assert (await client.order("b.example.com")).json["status"] == "pending"


async def test_a_proof_of_the_name_is_none_of_its_wildcard_nor_the_other_way_round(client: AcmeClient) -> None:
    order = await client.order("example.com")
    await prove(client, order.json["authorizations"][0], "dns-01")
    assert (await client.order("*.example.com")).json["status"] == "pending"
    order = await client.order("*.example.org")
    await prove(client, order.json["authorizations"][0], "dns-01")
    assert (await client.order("example.org")).json["status"] == "pending"
    assert (await client.order("*.example.org")).json["status"] == "ready"


async def test_a_proof_by_a_method_that_is_offered_no_more_is_not_used_again(
    world: AcmeWorld, client: AcmeClient, clock: FakeClock
) -> None:
    """The operator has taken dns-01 out of the configuration."""
    order = await client.order("a.example.com")
    await prove(client, order.json["authorizations"][0], "dns-01")
    fewer = AcmeEndpoint(name="again", profiles=("tls-server",), challenges=("http-01",), authorization_reuse=timedelta(days=5))
    async with acme_world(world.database, clock, endpoints=(fewer,), profiles=PROFILES) as restarted:
        same = AcmeClient(restarted.http, key=client.key, endpoint="again", kid=client.kid)
        assert (await same.order("a.example.com")).json["status"] == "pending"


async def test_a_hundred_names_are_found_again(client: AcmeClient) -> None:
    names = [f"n{number}.example.com" for number in range(25)]
    first = await ready(client, *names)
    second = await client.order(*names)
    assert second.json["status"] == "ready"
    assert second.json["authorizations"] == first.json["authorizations"]


# ------------------------------------------------------------------------------------------------ newAuthz (RFC 8555 §7.4.1)


async def test_a_name_authorized_beforehand_makes_the_order_ready_at_once(client: AcmeClient) -> None:
    directory = (await client.request("GET", client.url("directory"))).json
    assert directory["newAuthz"] == client.url("new-authz")
    made = await new_authz(client, "a.example.com")
    assert (made.status, made.json["status"]) == (201, "pending")
    assert (await client.post(made.location)).json == made.json
    await prove(client, made.location, "http-01")
    again = await new_authz(client, "a.example.com")
    assert (again.status, again.location, again.json["status"]) == (200, made.location, "valid")
    order = await client.order("a.example.com")
    assert (order.json["status"], order.json["authorizations"]) == ("ready", [made.location])


async def test_where_it_is_off_it_is_not_there(world: AcmeWorld) -> None:
    client = await world.registered()
    assert "newAuthz" not in (await client.request("GET", client.url("directory"))).json
    assert (await new_authz(client, "a.example.com")).status == 404


async def test_no_wildcard_can_be_authorized_beforehand(client: AcmeClient) -> None:
    reply = await new_authz(client, "*.example.com")
    assert (reply.status, reply.problem) == (400, "malformed")
    assert "order" in reply.json["detail"]


@pytest.mark.parametrize("payload", [{}, {"identifier": None}, {"identifier": {"type": "dns"}}, {"identifier": []}])
async def test_a_new_authz_without_an_identifier_is_malformed(client: AcmeClient, payload: object) -> None:
    reply = await client.post(client.url("new-authz"), payload)
    assert (reply.status, reply.problem) == (400, "malformed")


async def test_a_deactivated_account_makes_none(world: AcmeWorld, client: AcmeClient) -> None:
    await client.post(client.kid, {"status": "deactivated"})
    assert (await new_authz(client, "a.example.com")).status == 403
    assert await world.database.fetch("SELECT id FROM acme_authorization") == []


# ------------------------------------------------------------------------------------------------ subdomains (RFC 9444)


def below(name: str, ancestor: str) -> dict[str, str]:
    return {"type": "dns", "value": name, "ancestorDomain": ancestor}


async def order_below(client: AcmeClient, *identifiers: dict[str, str], **members: Any) -> Reply:
    return await client.post(client.url("new-order"), {"identifiers": list(identifiers), **members})


async def test_an_ancestor_is_proved_in_the_dns_for_all_names_below(world: AcmeWorld, client: AcmeClient) -> None:
    directory = (await client.request("GET", client.url("directory"))).json
    assert directory["meta"]["subdomainAuthAllowed"] is True
    order = await order_below(
        client,
        below("a.example.org", "example.org"),
        below("b.c.example.org", "EXAMPLE.org"),
        below("*.example.org", "example.org"),
    )
    assert order.status == 201, order.body
    (url,) = order.json["authorizations"]
    authorization = (await client.post(url)).json
    assert authorization["identifier"] == {"type": "dns", "value": "example.org"}
    assert authorization["subdomainAuthAllowed"] is True
    assert "wildcard" not in authorization
    assert [each["type"] for each in authorization["challenges"]] == ["dns-01"]
    await prove(client, url, "dns-01")
    final = await client.finalize(order, der_of(make_csr("a.example.org", "b.c.example.org", "*.example.org")))
    assert final.json["status"] == "valid"
    (evidence,) = world.issuance.requests[0].evidence
    assert isinstance(evidence, ChallengeEvidence)
    assert (evidence.identifier, evidence.subdomains) == (parse_dns("example.org"), True)


async def test_an_ancestor_may_be_authorized_beforehand(client: AcmeClient) -> None:
    made = await new_authz(client, "example.org", subdomainAuthAllowed=True)
    assert made.json["subdomainAuthAllowed"] is True
    await prove(client, made.location, "dns-01")
    order = await order_below(client, below("a.example.org", "example.org"))
    assert (order.json["status"], order.json["authorizations"]) == ("ready", [made.location])
    inside = {"identifier": {"type": "dns", "value": "example.org", "subdomainAuthAllowed": True}}
    assert (await client.post(client.url("new-authz"), inside)).location == made.location


async def test_an_authorization_of_the_name_alone_is_none_for_what_is_below(client: AcmeClient) -> None:
    made = await new_authz(client, "example.org")
    assert "subdomainAuthAllowed" not in made.json
    await prove(client, made.location, "dns-01")
    assert (await order_below(client, below("a.example.org", "example.org"))).json["status"] == "pending"


@pytest.mark.parametrize(
    ("name", "ancestor"),
    [
        ("a.co.uk", "co.uk"),  # a public suffix
        ("me.github.io", "github.io"),
        ("a.example.org", "org"),
        ("printer.internal", "internal"),
        ("a.example.org", "example.com"),
        ("evil-example.org", "example.org"),
        ("example.org", "a.example.org"),
        ("a.example.org", "*.example.org"),
        ("a.example.org", "not a name"),
    ],
)
async def test_what_is_no_ancestor_or_belongs_to_many_is_refused(client: AcmeClient, name: str, ancestor: str) -> None:
    reply = await order_below(client, below(name, ancestor))
    assert (reply.status, reply.problem) == (400, "rejectedIdentifier")


async def test_nor_may_a_public_suffix_be_authorized_beforehand(client: AcmeClient) -> None:
    assert (await new_authz(client, "co.uk", subdomainAuthAllowed=True)).problem == "rejectedIdentifier"


async def test_an_ancestor_that_is_no_text_is_malformed(client: AcmeClient) -> None:
    for ancestor in (1, ["example.org"], "x" * 513):
        reply = await client.post(
            client.url("new-order"), {"identifiers": [{"type": "dns", "value": "a.example.org", "ancestorDomain": ancestor}]}
        )
        assert (reply.status, reply.problem) == (400, "malformed")


async def test_where_subdomains_are_not_authorized_the_member_is_unknown_and_ignored(world: AcmeWorld) -> None:
    client = await world.registered()
    directory = (await client.request("GET", client.url("directory"))).json
    assert "subdomainAuthAllowed" not in directory.get("meta", {})
    order = await order_below(client, below("a.example.org", "example.org"))
    authorization = (await client.post(order.json["authorizations"][0])).json
    assert authorization["identifier"]["value"] == "a.example.org"
    assert "subdomainAuthAllowed" not in authorization


# ------------------------------------------------------------------------------------------------ several methods for one name


async def test_two_methods_are_two_authorizations_with_nothing_in_common(world: AcmeWorld, client: AcmeClient) -> None:
    order = await client.order("a.example.com", profile="strict")
    first, second = order.json["authorizations"]
    offers = [[each["type"] for each in (await client.post(url)).json["challenges"]] for url in (first, second)]
    assert offers == [["http-01"], ["dns-01"]]
    await client.authorize(order)
    assert (await client.finalize(order, der_of(make_csr("a.example.com")))).json["status"] == "valid"
    methods = {each.method for each in world.issuance.requests[0].evidence if isinstance(each, ChallengeEvidence)}
    assert methods == set(BOTH)
    again = await client.order("a.example.com", profile="strict")
    assert (again.json["status"], again.json["authorizations"]) == ("ready", [first, second])


async def test_one_of_two_methods_is_not_enough(client: AcmeClient) -> None:
    order = await client.order("a.example.com", profile="strict")
    await prove(client, order.json["authorizations"][0], "http-01")
    assert (await client.post(order.location)).json["status"] == "pending"
    assert (await client.finalize(order, der_of(make_csr("a.example.com")))).problem == "orderNotReady"


async def test_a_name_that_cannot_be_proved_so_often_is_refused_when_it_is_ordered(client: AcmeClient) -> None:
    """A wildcard has the DNS only, an address never."""
    reply = await client.order("a.example.com", "*.example.com", "192.0.2.1", profile="strict")
    assert (reply.status, reply.problem) == (400, "rejectedIdentifier")
    assert [share["identifier"]["value"] for share in reply.json["subproblems"]] == ["*.example.com", "192.0.2.1"]


# ------------------------------------------------------------------------------------------------ identifiers by type


async def test_an_endpoint_issues_for_the_types_that_it_lists(world: AcmeWorld, client: AcmeClient) -> None:
    assert (await client.order("192.0.2.1")).status == 201
    other = await world.registered()
    reply = await other.order("192.0.2.1")
    assert (reply.status, reply.problem) == (400, "unsupportedIdentifier")
    assert "use dns" in reply.json["detail"]


async def test_an_onion_is_never_proved_in_the_dns(world: AcmeWorld) -> None:
    name = "bbcweb3hytmzhn5d532owbu6oqadra5z3ar726vq5kgwwn6aucdccrad.onion"  # RFC 9799 §2
    client = await world.registered()
    assert (await client.order(name)).problem == "rejectedIdentifier"
    assert (await client.order(f"*.{name}")).problem == "rejectedIdentifier"


# ------------------------------------------------------------------------------------------------ what it costs


async def test_an_issuance_reads_and_writes_as_often_as_it_did_where_nothing_is_configured(
    database: Database, clock: FakeClock
) -> None:
    """Four durable writes; newOrder reads nothing. Round trips are what an issuance costs on PostgreSQL."""
    counted = CountedDatabase(database)
    async with acme_world(counted, clock, endpoints=ENDPOINTS, profiles=PROFILES) as world:
        for endpoint, reads in (("default", 0), ("again", 1), ("known", 1)):
            client = await world.registered(endpoint)
            await ready(client, "warm.example.com")  # the account's key is known from here on
            counted.forget()
            order = await client.order("a.example.com", "b.example.com")
            assert (len(counted.reads), len(counted.writes)) == (reads, 1), endpoint
            assert len(counted.writes[0]) == 1 + 2 * 2
            counted.forget()
            url = order.json["authorizations"][0]
            await prove(client, url, "http-01")
            assert (len(counted.reads), [len(steps) for steps in counted.writes]) == (2, [1])


async def test_to_use_a_hundred_authorizations_again_costs_a_read_for_ten(database: Database, clock: FakeClock) -> None:
    counted = CountedDatabase(database)
    async with acme_world(counted, clock, endpoints=ENDPOINTS, profiles=PROFILES) as world:
        client = await world.registered("again")
        names = [f"n{number}.example.com" for number in range(20)]
        await ready(client, *names)
        counted.forget()
        assert (await client.order(*names)).json["status"] == "ready"
        assert (len(counted.reads), [len(steps) for steps in counted.writes]) == (2, [21])


# ------------------------------------------------------------------------------------------------ what an order says of them


async def test_an_invalid_order_has_a_share_of_its_error_for_each_name_that_failed(
    world: AcmeWorld, database: Database
) -> None:
    client = await world.registered()
    world.http01.failing |= {"a.example.com": FailureKind.DNS, "b.example.com": FailureKind.TLS}
    order = await client.order("a.example.com", "b.example.com", "c.example.com")
    first, *rest = order.json["authorizations"]
    challenge = (await client.post(first)).json["challenges"][0]
    await client.post(challenge["url"], {})
    error = (await client.post(order.location)).json["error"]
    assert error["type"] == "urn:ietf:params:acme:error:dns"
    assert [share["identifier"]["value"] for share in error["subproblems"]] == ["a.example.com"]
    for url in rest:  # one may go on: another order may want what is proved
        await client.post((await client.post(url)).json["challenges"][0]["url"], {})
    error = (await client.post(order.location)).json["error"]
    assert error["type"] == "urn:ietf:params:acme:error:compound"
    shares = {share["identifier"]["value"]: share["type"].rpartition(":")[2] for share in error["subproblems"]}
    assert shares == {"a.example.com": "dns", "b.example.com": "tls"}
    assert all("status" not in share for share in error["subproblems"])


async def test_a_deactivated_authorization_is_named_by_its_order(client: AcmeClient) -> None:
    order = await client.order("a.example.com")
    await client.post(order.json["authorizations"][0], {"status": "deactivated"})
    error = (await client.post(order.location)).json["error"]
    assert error["detail"] == "the authorization for a.example.com is deactivated"
    assert error["subproblems"][0]["identifier"] == {"type": "dns", "value": "a.example.com"}
