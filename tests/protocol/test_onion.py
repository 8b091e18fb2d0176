"""Certificates for onion services as an ACME client asks for them (RFC 9799)."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from functools import partial

import pytest

from acmeserver.endpoint import AcmeEndpoint
from pki.strict import base64url
from storage.database import Database
from tests.helpers.acme_client import AcmeClient, Reply
from tests.helpers.acme_world import ENDPOINTS, AcmeWorld, acme_world
from tests.helpers.ca import make_csr
from tests.helpers.clock import FakeClock
from tests.helpers.onion import OnionService
from validation.onion import onion_csr01

ONION = AcmeEndpoint(
    name="onion",
    profiles=("tls-server",),
    challenges=("http-01", "dns-01", "onion-csr-01"),
    roles=frozenset({"acme"}),
    subdomains=True,
)


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    methods = {"onion-csr-01": partial(onion_csr01, clock=clock)}
    async with acme_world(database, clock, endpoints=(*ENDPOINTS, ONION), real_methods=methods) as world:
        yield world


@pytest.fixture
async def client(world: AcmeWorld) -> AcmeClient:
    return await world.registered("onion")


@pytest.fixture
def service() -> OnionService:
    return OnionService()


async def only_challenge(client: AcmeClient, order: Reply) -> dict[str, str]:
    authorization = await client.post(order.json["authorizations"][0])
    (challenge,) = authorization.json["challenges"]
    return dict(challenge)


@pytest.mark.parametrize("label", ["", "www.", "*."])
async def test_a_service_gets_its_certificate(client: AcmeClient, service: OnionService, label: str) -> None:
    name = label + service.name
    order = await client.order(name)
    assert order.status == 201, order.body
    challenge = await only_challenge(client, order)
    assert challenge.keys() == {"type", "url", "status", "nonce"}
    assert challenge["type"] == "onion-csr-01"
    csr = service.csr(base64.b64decode(challenge["nonce"], validate=True))
    answered = await client.post(challenge["url"], {"csr": base64url(csr)})
    assert (answered.status, answered.json["status"]) == (200, "valid"), answered.body
    assert answered.json["nonce"] == challenge["nonce"]
    final = await client.finalize(order, make_csr(name))
    assert (final.status, final.json["status"]) == (200, "valid"), final.body


async def test_the_key_of_the_name_is_not_the_certificates(client: AcmeClient, service: OnionService) -> None:
    """RFC 9799 §3.2."""
    order = await client.order(service.name)
    challenge = await only_challenge(client, order)
    csr = service.csr(base64.b64decode(challenge["nonce"]))
    assert (await client.post(challenge["url"], {"csr": base64url(csr)})).json["status"] == "valid"
    final = await client.finalize(order, make_csr(service.name, key=service.key))
    assert (final.status, final.problem) == (400, "badCSR")
    assert "make another" in final.json["detail"]


async def test_one_challenges_answer_is_not_anothers(client: AcmeClient, service: OnionService) -> None:
    first = await only_challenge(client, await client.order(service.name))
    second = await only_challenge(client, await client.order(service.name))
    assert first["nonce"] != second["nonce"]
    csr = service.csr(base64.b64decode(first["nonce"]))
    refused = await client.post(second["url"], {"csr": base64url(csr)})
    assert refused.json["status"] == "invalid"
    assert refused.json["error"]["type"].endswith(":incorrectResponse")
    assert "nonce" in refused.json["error"]["detail"]


async def test_a_wrong_answer_ends_authorization_and_order(client: AcmeClient, service: OnionService) -> None:
    order = await client.order(service.name)
    challenge = await only_challenge(client, order)
    assert (await client.post(challenge["url"], {})).json["status"] == "invalid"
    assert (await client.post(order.location)).json["status"] == "invalid"


@pytest.mark.parametrize("endpoint", ["default", "choice"])
async def test_an_endpoint_that_does_not_list_the_challenge_takes_no_onions(
    world: AcmeWorld, service: OnionService, endpoint: str
) -> None:
    client = await world.registered(endpoint)
    for name in (service.name, f"www.{service.name}", f"*.{service.name}"):
        reply = await client.order(name)
        assert (reply.status, reply.problem) == (400, "rejectedIdentifier")
        assert "onion-csr-01" in reply.json["detail"]


async def test_no_other_name_is_offered_the_challenge(client: AcmeClient) -> None:
    authorization = await client.post((await client.order("a.example.com")).json["authorizations"][0])
    assert {each["type"] for each in authorization.json["challenges"]} == {"http-01", "dns-01"}
    url = authorization.json["challenges"][0]["url"].rpartition("/")[0] + "/onion-csr-01"
    assert (await client.post(url, {"csr": "AAAA"})).status == 404


@pytest.mark.parametrize("name", ["expyuzz4wqqyqhjn.onion", f"{'a' * 56}.onion", "example.onion"])
async def test_a_name_that_is_no_key_is_no_name(client: AcmeClient, name: str) -> None:
    reply = await client.order(name)
    assert (reply.status, reply.problem) == (400, "rejectedIdentifier")


async def test_an_onion_is_not_authorized_by_its_ancestor(client: AcmeClient, service: OnionService) -> None:
    """RFC 9444 is for names in the DNS; what could not be issued in the end is not begun."""
    identifier = {"type": "dns", "value": f"www.{service.name}", "ancestorDomain": service.name}
    reply = await client.post(client.url("new-order"), {"identifiers": [identifier]})
    assert (reply.status, reply.problem) == (400, "rejectedIdentifier")
    assert "no ancestor" in reply.json["detail"]
