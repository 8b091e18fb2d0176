"""The three DNS methods through ACME, from newOrder to certificate: our server, our resolver, a real DNS server between them."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import pytest

from acmeserver.endpoint import AcmeEndpoint
from acmeserver.jwk import parse_jwk
from pki.clock import after, rfc3339
from storage.database import Database
from tests.helpers.acme_client import BASE, AcmeClient, Reply
from tests.helpers.acme_world import AcmeWorld, acme_world
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr
from tests.helpers.world import World
from validation.dns01 import account_label
from validation.dnspersist01 import hashed_uri
from validation.methods import local_methods

METHODS = ("dns-persist-01", "dns-01", "dns-account-01")
ENDPOINTS = (
    AcmeEndpoint(name="default", profiles=("tls-server",), challenges=METHODS, caa_identities=("ca.test", "ca.example")),
    AcmeEndpoint(name="plain", profiles=("tls-server",), challenges=("dns-01",)),
)
NAMES = ("example.com", "*.example.com")
PREFIX = f"{BASE}/acme/default/account-hash/"


@dataclass(frozen=True, slots=True)
class Scene:
    acme: AcmeWorld
    world: World
    client: AcmeClient
    clock: FakeClock

    @property
    def thumbprint(self) -> str:
        return parse_jwk(self.client.key.jwk).thumbprint

    def digest(self, token: str) -> str:
        octets = hashlib.sha256(f"{token}.{self.thumbprint}".encode()).digest()
        return base64.urlsafe_b64encode(octets).decode().rstrip("=")

    async def challenges(self, order: Reply, kind: str) -> list[dict[str, str]]:
        """One of each authorization."""
        found = []
        for url in order.json["authorizations"]:
            offered = (await self.client.post(url)).json["challenges"]
            found += [each for each in offered if each["type"] == kind]
        return found

    async def answer(self, order: Reply, kind: str) -> list[Reply]:
        return [await self.client.post(each["url"], {}) for each in await self.challenges(order, kind)]

    async def finish(self, order: Reply) -> None:
        """The order is ready, and becomes a certificate."""
        again = await self.client.post(order.location)
        assert again.json["status"] == "ready", again.body
        done = await self.client.finalize(order, der_of(make_csr(*NAMES)))
        assert done.json["status"] == "valid", done.body
        assert (await self.client.post(done.json["certificate"])).body.startswith(b"-----BEGIN CERTIFICATE-----")


@pytest.fixture
async def scene(database: Database, clock: FakeClock) -> AsyncIterator[Scene]:
    async with World() as world:
        methods = local_methods(resolver=world.resolver(), egress=world.egress(), clock=clock, http01_port=9, tlsalpn01_port=9)
        async with acme_world(database, clock, endpoints=ENDPOINTS, real_methods=methods) as acme:
            yield Scene(acme, world, await acme.registered(), clock)


async def test_a_name_and_its_wildcard_are_proved_in_one_order_by_two_records_at_one_name(scene: Scene) -> None:
    order = await scene.client.order(*NAMES)
    tokens = [each["token"] for each in await scene.challenges(order, "dns-01")]
    assert len(set(tokens)) == 2
    scene.world.dns.txt("_acme-challenge.example.com", "something else", *map(scene.digest, tokens))
    assert [reply.json["status"] for reply in await scene.answer(order, "dns-01")] == ["valid", "valid"]
    await scene.finish(order)


async def test_one_record_does_not_prove_two_authorizations(scene: Scene) -> None:
    order = await scene.client.order(*NAMES)
    first, second = await scene.challenges(order, "dns-01")
    scene.world.dns.txt("_acme-challenge.example.com", scene.digest(first["token"]))
    assert (await scene.client.post(first["url"], {})).json["status"] == "valid"
    refused = (await scene.client.post(second["url"], {})).json
    assert refused["status"] == "invalid"
    assert "none is the expected value" in refused["error"]["detail"]
    assert (await scene.client.post(order.location)).json["status"] == "invalid"


async def test_an_account_proves_at_its_own_label(scene: Scene) -> None:
    order = await scene.client.order(*NAMES)
    tokens = [each["token"] for each in await scene.challenges(order, "dns-account-01")]
    place = f"_{account_label(scene.client.kid)}._acme-challenge.example.com"
    scene.world.dns.txt(place, *map(scene.digest, tokens))
    await scene.answer(order, "dns-account-01")
    assert {name for name, _ in scene.world.dns.queries} == {place}
    await scene.finish(order)


async def test_what_a_record_needs_is_in_the_directory_before_there_is_an_order(scene: Scene) -> None:
    """draft-ietf-acme-dns-persist-02 §3.2, §4.1."""
    meta = (await scene.client.request("GET", "/acme/default/directory")).json["meta"]
    assert meta["issuerDomainNames"] == meta["caaIdentities"] == ["ca.test", "ca.example"]
    assert meta["accountHashPrefix"] == PREFIX
    assert "meta" not in (await scene.client.request("GET", "/acme/plain/directory")).json


async def test_the_challenge_with_lists_comes_last_and_so_do_its_lists(scene: Scene) -> None:
    """acme.sh takes what stands between `"challenges":[` and the first `]`."""
    order = await scene.client.order("example.com")
    reply = await scene.client.post(order.json["authorizations"][0])
    *flat, persist = reply.json["challenges"]
    assert [each["type"] for each in flat] == ["dns-01", "dns-account-01"]
    assert list(persist) == ["type", "url", "status", "issuer-domain-names", "issuerDomainNames"]  # it has no token
    assert persist["issuerDomainNames"] == persist["issuer-domain-names"] == ["ca.test", "ca.example"]
    grepped = re.search(rb'"challenges":\[[^]]*]', reply.body)
    assert grepped is not None
    assert all(each["url"].encode() in grepped[0] for each in (*flat, persist))


@pytest.mark.parametrize("hashed", [None, "example.com", "*"])
async def test_one_record_that_stays_proves_a_name_and_its_wildcard_again_and_again(scene: Scene, hashed: str | None) -> None:
    account = scene.client.kid if hashed is None else hashed_uri(PREFIX, hashed, scene.thumbprint, scene.client.kid)
    scene.world.dns.txt("_validation-persist.example.com", f"ca.example; accounturi={account}; policy=wildcard")
    for _ in range(2):
        order = await scene.client.order(*NAMES)
        assert [reply.json["status"] for reply in await scene.answer(order, "dns-persist-01")] == ["valid", "valid"]
        await scene.finish(order)


async def test_another_accounts_record_proves_nothing(scene: Scene) -> None:
    other = await scene.acme.registered()
    scene.world.dns.txt("_validation-persist.example.com", f"ca.test; accounturi={other.kid}; policy=wildcard")
    order = await scene.client.order("example.com")
    (reply,) = await scene.answer(order, "dns-persist-01")
    assert reply.json["status"] == "invalid"
    assert reply.json["error"]["type"].endswith(":unauthorized")
    assert "another account" in reply.json["error"]["detail"]


async def test_an_authorization_ends_when_its_record_says(scene: Scene) -> None:
    """§4.1 item 5: neither the authorization nor what rests on it outlives persistUntil."""
    until = after(scene.clock.micros(), timedelta(hours=1))
    seconds = until // 1_000_000
    scene.world.dns.txt("_validation-persist.example.com", f"ca.test; accounturi={scene.client.kid}; persistUntil={seconds}")
    order = await scene.client.order("example.com")
    (reply,) = await scene.answer(order, "dns-persist-01")
    assert reply.json["status"] == "valid"
    authorization = order.json["authorizations"][0]
    assert (await scene.client.post(authorization)).json["expires"] == rfc3339(until)
    scene.clock.advance(timedelta(hours=1, seconds=1))
    assert (await scene.client.post(authorization)).status == 404
    refused = await scene.client.finalize(order, der_of(make_csr("example.com")))
    assert refused.status == 403
    assert refused.problem == "orderNotReady"
