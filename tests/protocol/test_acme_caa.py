"""CAA over ACME, from a real DNS server to the wire (RFC 8659, RFC 8657; assurance: the defects of 2015 and 2020)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial

import pytest

from acmeserver.endpoint import AcmeEndpoint
from pki.clock import Clock
from pki.identifiers import DnsName
from storage.database import Database
from tests.helpers.acme_client import AcmeClient, Reply
from tests.helpers.acme_real import RealAcme, real_acme
from tests.helpers.acme_world import ready
from tests.helpers.clock import FakeClock
from tests.helpers.dns import DnsFault, DnsServer
from tests.helpers.issuance_simulator import der_of, make_csr
from tests.helpers.profiles import profile
from validation.caa import CaaOutcome, check_caa
from validation.resolver import DnsResolver

BOTH = ("http-01", "dns-01")
ENDPOINTS = (
    AcmeEndpoint(
        name="default",
        profiles=("tls-server",),
        challenges=BOTH,
        caa=True,
        caa_identities=("ca.test",),
        roles=frozenset({"acme"}),
    ),
    AcmeEndpoint(name="profile", profiles=("careful", "tls-server"), challenges=BOTH, roles=frozenset({"acme"})),
)
PROFILES = (profile(), profile("careful", caa=True))


async def ask(name: DnsName, *, account_url: str, methods: frozenset[str], server: DnsServer, clock: Clock) -> CaaOutcome:
    return await check_caa(
        name.name,
        wildcard=name.wildcard,
        resolver=DnsResolver([server.address], timeout=0.3, tries=1),
        issuer_domains=["ca.test"],
        account_url=account_url,
        methods=methods,
        clock=clock,
    )


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    async with DnsServer() as server:
        server.secure = None  # a zone that DNSSEC proves, so that its denials are believed
        yield server


@pytest.fixture
async def world(database: Database, clock: FakeClock, dns: DnsServer) -> AsyncIterator[RealAcme]:
    caa = partial(ask, server=dns, clock=clock)
    async with real_acme(database, clock, endpoints=ENDPOINTS, profiles=PROFILES, caa=caa) as world:
        yield world


@pytest.fixture
async def client(world: RealAcme) -> AcmeClient:
    return await world.registered()


async def finalized(client: AcmeClient, *names: str, **members: str) -> Reply:
    order = await ready(client, *names, **members)
    return await client.finalize(order, der_of(make_csr(*names)))


async def test_a_name_whose_records_name_this_ca_is_certified_and_the_record_says_what_was_found(
    world: RealAcme, client: AcmeClient, dns: DnsServer
) -> None:
    dns.caa("example.com", '0 issue "ca.test"')
    assert (await finalized(client, "a.example.com")).json["status"] == "valid"
    (row,) = await world.issuing.rows("SELECT caa FROM issuance")
    (found,) = json.loads(row["caa"])
    assert (found["name"], found["domain"]) == ("a.example.com", "example.com")
    assert "ca.test" in found["records"][0]


async def test_a_name_whose_records_name_another_is_refused_with_type_caa_and_the_order_stays_ready(
    world: RealAcme, client: AcmeClient, dns: DnsServer
) -> None:
    dns.caa("example.com", '0 issue "other.test"')
    order = await ready(client, "a.example.com")
    reply = await client.finalize(order, der_of(make_csr("a.example.com")))
    assert (reply.status, reply.problem) == (403, "caa")
    assert [share["identifier"]["value"] for share in reply.json["subproblems"]] == ["a.example.com"]
    assert (await client.post(order.location)).json["status"] == "ready"
    (refusal,) = await world.issuing.rows("SELECT detail FROM audit WHERE event = 'issue.refused'")
    assert json.loads(refusal["detail"])["reason"] == "caa-forbids"
    dns.caa("example.com", '0 issue "ca.test"')
    assert (await client.finalize(order, der_of(make_csr("a.example.com")))).json["status"] == "valid"


async def test_of_three_names_the_second_is_forbidden_eight_hours_after_it_was_proved(
    world: RealAcme, client: AcmeClient, dns: DnsServer, clock: FakeClock
) -> None:
    """2020-02-29: a CA looked at one name three times. Each is looked at, when the certificate is made."""
    names = ("a.example.com", "b.example.com", "c.example.com")
    for name in names:
        dns.caa(name, '0 issue "ca.test"')
    order = await ready(client, *names)
    clock.advance(timedelta(hours=8, seconds=1))
    dns.caa("b.example.com", '0 issue ";"')
    reply = await client.finalize(order, der_of(make_csr(*names)))
    assert (reply.status, reply.problem) == (403, "caa")
    assert [share["identifier"]["value"] for share in reply.json["subproblems"]] == ["b.example.com"]
    assert world.issuing.signer.signed == []


@pytest.mark.parametrize("fault", [DnsFault.SERVFAIL, DnsFault.SILENT, DnsFault.REFUSED])
async def test_no_answer_is_no_permission(world: RealAcme, client: AcmeClient, dns: DnsServer, fault: DnsFault) -> None:
    """2015: what could not be looked up was taken for allowed."""
    dns.faults["a.example.com"] = fault
    reply = await finalized(client, "a.example.com")
    assert (reply.status, reply.problem) == (403, "caa")
    assert "Retry-After" in reply.headers
    assert world.issuing.signer.signed == []


async def test_issuewild_is_for_wildcards(client: AcmeClient, dns: DnsServer) -> None:
    dns.caa("example.com", '0 issue "ca.test"', '0 issuewild ";"')
    assert (await finalized(client, "example.com")).json["status"] == "valid"
    reply = await finalized(client, "*.example.com")
    assert reply.problem == "caa"
    assert reply.json["subproblems"][0]["identifier"]["value"] == "*.example.com"


async def test_the_account_is_known_by_its_url(world: RealAcme, client: AcmeClient, dns: DnsServer) -> None:
    """RFC 8657 §3."""
    dns.caa("a.example.com", f'0 issue "ca.test; accounturi={client.kid}"')
    other = await world.registered()
    assert (await finalized(other, "a.example.com")).problem == "caa"
    assert (await finalized(client, "a.example.com")).json["status"] == "valid"


async def test_the_method_is_the_one_that_proved_control(client: AcmeClient, dns: DnsServer) -> None:
    """RFC 8657 §4."""
    dns.caa("a.example.com", '0 issue "ca.test; validationmethods=dns-01"')
    assert (await finalized(client, "a.example.com")).problem == "caa"  # by http-01, which comes first
    dns.caa("a.example.com", '0 issue "ca.test; validationmethods=dns-01,http-01"')
    assert (await finalized(client, "a.example.com")).json["status"] == "valid"


async def test_a_profile_may_ask_for_it_where_the_endpoint_does_not(world: RealAcme, dns: DnsServer) -> None:
    dns.caa("a.example.com", '0 issue "other.test"')
    client = await world.registered("profile")
    assert (await finalized(client, "a.example.com")).problem == "caa"
    assert (await finalized(client, "a.example.com", profile="tls-server")).json["status"] == "valid"


async def test_the_directory_says_how_records_name_this_ca(world: RealAcme, client: AcmeClient) -> None:
    directory = (await client.request("GET", client.url("directory"))).json
    assert directory["meta"]["caaIdentities"] == ["ca.test"]
