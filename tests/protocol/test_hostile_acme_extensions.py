"""Attacks on what the extensions added, in front of the real pipeline: each asks for a little more than was granted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from acmeserver.account_keys import spki_sha256
from acmeserver.blocked_accounts import revoke_accounts
from acmeserver.endpoint import AcmeEndpoint, AutoRenewalRules, RenewalInfo
from acmeserver.jwk import parse_jwk
from acmeserver.limits import LimitRules
from acmeserver.renewal import CertId, render_cert_id
from issuance.blocklist import block
from issuance.caa import CaaChecker
from pki.clock import after, rfc3339
from pki.identifiers import DnsName
from policy.limits import Limit
from policy.principal import COMMAND_LINE
from storage.database import Database, Step
from tests.helpers.acme_account import binding, change_key, external_keys, new_external_key, with_key
from tests.helpers.acme_client import AccountKey, AcmeClient, Reply
from tests.helpers.acme_real import RealAcme, real_acme
from tests.helpers.acme_world import ready
from tests.helpers.ca import counter
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr
from tests.helpers.profiles import profile
from validation.caa import CaaEvidence, CaaOutcome, Permitted
from validation.outcome import FailureKind

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NAME = "a.example.com"
ENDPOINT = AcmeEndpoint(
    name="default",
    profiles=("tls-server", "strict"),
    challenges=("http-01", "dns-01"),
    external_account="optional",
    authorization_reuse=DAY,
    pre_authorization=True,
    subdomains=True,
    renewal_info=RenewalInfo(),
    roles=frozenset({"acme"}),
)
PROFILES = (replace(profile(), evidence_max_age=40 * DAY), profile("strict", methods_required=2))
TERMS = "https://ca.test/terms"


@asynccontextmanager
async def opened(
    database: Database, clock: FakeClock, *, caa: CaaChecker | None = None, **changes: Any
) -> AsyncIterator[RealAcme]:
    endpoint = replace(ENDPOINT, caa=caa is not None, **changes)
    async with real_acme(database, clock, endpoints=[endpoint], profiles=PROFILES, caa=caa) as world:
        yield world


@pytest.fixture
async def plain(database: Database, clock: FakeClock) -> AsyncIterator[RealAcme]:
    """Without external accounts, where nothing is read before the write."""
    async with opened(database, clock, external_account="none") as world:
        yield world


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[RealAcme]:
    async with opened(database, clock) as world:
        yield world


async def new_authz(client: AcmeClient, name: str = NAME) -> Reply:
    return await client.post(client.url("new-authz"), {"identifier": {"type": "dns", "value": name}})


async def finalized(client: AcmeClient, order: Reply, *names: str) -> Reply:
    return await client.finalize(order, der_of(make_csr(*(names or (NAME,)))))


async def certificate(client: AcmeClient, final: Reply) -> x509.Certificate:
    return x509.load_pem_x509_certificates((await client.post(final.json["certificate"])).body)[0]


def cert_id(leaf: x509.Certificate) -> str:
    key_identifier = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert key_identifier is not None
    return render_cert_id(CertId(key_identifier, f"{leaf.serial_number:x}"))


# ------------------------------------------------------------------------------------------------ newAuthz


async def test_a_deactivated_account_is_not_shown_what_it_has_proved(plain: RealAcme) -> None:
    """RFC 8555 §7.3.6: any request by its key is refused, that which would be answered from what is there already too."""
    client = await plain.registered()
    await ready(client, NAME)
    assert (await new_authz(client)).status == 200
    await client.post(client.kid, {"status": "deactivated"})
    reply = await new_authz(client)
    assert (reply.status, reply.problem) == (403, "unauthorized")


async def test_nor_is_whoever_still_has_the_old_key(plain: RealAcme) -> None:
    client = await plain.registered()
    await ready(client, NAME)
    assert (await change_key(client, AccountKey())).status == 200
    reply = await new_authz(client)
    assert (reply.status, reply.problem) == (403, "unauthorized")


async def test_nor_whoever_has_not_agreed_to_the_terms_in_force(database: Database, clock: FakeClock) -> None:
    async with opened(database, clock, external_account="none") as before:
        client = await before.registered()
        await ready(client, NAME)
    async with opened(database, clock, external_account="none", terms_of_service=TERMS) as today:
        reply = await new_authz(replace(client, http=today.http))
        assert (reply.status, reply.problem) == (403, "userActionRequired")


# ------------------------------------------------------------------------------------------------ authorizations that serve twice


async def test_one_proof_that_serves_two_names_of_an_order_is_in_it_once(world: RealAcme) -> None:
    """An ancestor's, used again for itself and for a name below it."""
    client = await world.registered()
    wanted = {"identifier": {"type": "dns", "value": "example.com"}, "subdomainAuthAllowed": True}
    ancestor = await client.post(client.url("new-authz"), wanted)
    await client.post(ancestor.json["challenges"][0]["url"], {})
    identifiers = [
        {"type": "dns", "value": "example.com"},
        {"type": "dns", "value": NAME, "ancestorDomain": "example.com"},
    ]
    order = await client.post(client.url("new-order"), {"identifiers": identifiers})
    assert (order.status, order.json["status"]) == (201, "ready"), order.body
    assert order.json["authorizations"] == [ancestor.location]
    assert (await finalized(client, order, "example.com", NAME)).json["status"] == "valid"


# ------------------------------------------------------------------------------------------------ what was taken back meanwhile


async def test_a_name_taken_from_the_external_key_is_not_certified_on_a_proof_either(
    world: RealAcme, database: Database, clock: FakeClock
) -> None:
    """The patterns of a key say what its accounts may ask for at all."""
    key = await new_external_key(database, clock, endpoint="default", names=("*.example.com",))
    client = world.client()
    await client.register(externalAccountBinding=binding(client, key))
    order = await client.order(NAME, profile="strict")
    for url, kind in zip(order.json["authorizations"], ("http-01", "dns-01"), strict=True):
        (challenge,) = (each for each in (await client.post(url)).json["challenges"] if each["type"] == kind)
        await client.post(challenge["url"], {})
    await database.write(Step("UPDATE acme_external_key SET names = '[\"b.example.com\"]'"))
    reply = await finalized(client, order)
    assert (reply.status, reply.problem) == (400, "rejectedIdentifier")
    assert world.issuing.signer.signed == []


async def test_nor_by_a_profile_that_was_taken_from_it(world: RealAcme, database: Database, clock: FakeClock) -> None:
    key = await new_external_key(database, clock, endpoint="default")
    client = world.client()
    await client.register(externalAccountBinding=binding(client, key))
    order = await ready(client, NAME)
    await database.write(Step("UPDATE acme_external_key SET profiles = '[\"strict\"]'"))
    assert (await finalized(client, order)).status == 403
    assert world.issuing.signer.signed == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"profiles": ("strict",)}, "invalidProfile"),
        ({"challenges": ("dns-01", "tls-alpn-01")}, "unauthorized"),
        ({"identifiers": ("ip",)}, "unsupportedIdentifier"),
    ],
)
async def test_what_the_endpoint_grants_no_more_is_not_granted_to_an_order_from_before(
    database: Database, clock: FakeClock, changes: dict[str, Any], problem: str
) -> None:
    """A profile, a method or a type that an operator takes away (for it was found to be broken) certifies nothing from then on."""
    async with opened(database, clock) as before:
        client = await before.registered()
        order = await ready(client, NAME)
    async with opened(database, clock, **changes) as today:
        for _ in range(1000):
            today.issuing.new_id()  # those of before are taken
        reply = await finalized(replace(client, http=today.http), order)
        assert reply.problem == problem
        assert today.issuing.signer.signed == []


# ------------------------------------------------------------------------------------------------ limits

LIMITS = LimitRules(
    orders_per_account=Limit(2, 30 * DAY),
    failed_validations=Limit(2, DAY),
    pending_authorizations=6,
)


async def test_a_certificate_that_its_owner_made_short_is_no_way_past_the_limits(database: Database, clock: FakeClock) -> None:
    """With a notAfter just ahead, a backdated certificate is in its window the moment it is made: and so would be the next."""
    async with opened(database, clock, limits=LIMITS) as world:
        client = await world.registered()

        async def brief(**members: Any) -> Reply:
            order = await client.order(NAME, notAfter=rfc3339(after(clock.micros(), timedelta(seconds=30))), **members)
            if order.status == 201:
                if order.json["status"] == "pending":
                    await client.authorize(order)
                final = await finalized(client, order)
                assert final.json["status"] == "valid"
                last.append(cert_id(await certificate(client, final)))
            return order

        last: list[str] = []
        await brief()
        await brief(replaces=last[-1])
        assert (await brief(replaces=last[-1])).problem == "rateLimited"
        # What it may have, once for each certificate that was counted, is one for as long as the profile says.
        order = await client.order(NAME, replaces=last[-1])
        assert order.status == 201
        last.append(cert_id(await certificate(client, await finalized(client, order))))
        assert (await client.order(NAME, replaces=last[-1])).problem == "rateLimited"


async def test_orders_that_renew_themselves_do_not_multiply_past_the_limits(database: Database, clock: FakeClock) -> None:
    """Each of their certificates would have let in another such order, and each of those again."""
    rules = AutoRenewalRules(min_lifetime=HOUR, max_duration=30 * DAY)
    async with opened(database, clock, limits=LIMITS, auto_renewal=rules) as world:
        client = await world.registered()

        def terms() -> dict[str, Any]:
            return {"auto-renewal": {"end-date": rfc3339(after(clock.micros(), 20 * DAY)), "lifetime": 3600}}

        order = await ready(client, NAME, **terms())
        final = await finalized(client, order)
        leaf = x509.load_pem_x509_certificates((await client.post(final.json["star-certificate"])).body)[0]
        assert (await client.order("b.example.com")).status == 201  # the second that is admitted
        clock.advance(timedelta(minutes=50))
        assert (await client.order(NAME, replaces=cert_id(leaf), **terms())).problem == "rateLimited"


async def test_two_authorizations_of_one_name_are_two_that_wait(database: Database, clock: FakeClock) -> None:
    async with opened(database, clock, limits=replace(LIMITS, orders_per_account=None)) as world:
        client = await world.registered()
        names = [f"n{number}.example.com" for number in range(4)]
        assert (await client.order(*names, profile="strict")).problem == "rateLimited"
        assert (await client.order(*names[:3], profile="strict")).status == 201
        assert (await client.order("b.example.com")).problem == "rateLimited"


async def test_what_needs_no_proof_does_not_wait_for_one(database: Database, clock: FakeClock) -> None:
    async with opened(database, clock, limits=replace(LIMITS, orders_per_account=None)) as world:
        client = await world.registered()
        await ready(client, NAME)
        assert (await client.order(*(f"n{number}.example.com" for number in range(6)))).status == 201
        assert (await client.order(NAME)).status == 201  # proved already


async def test_an_ancestor_that_fails_and_fails_is_not_asked_for_under_another_name(
    database: Database, clock: FakeClock
) -> None:
    async with opened(database, clock, limits=replace(LIMITS, orders_per_account=None)) as world:
        world.methods["dns-01"].failing["example.com"] = FailureKind.DNS
        client = await world.registered()

        async def below(label: str) -> Reply:
            identifier = {"type": "dns", "value": f"{label}.example.com", "ancestorDomain": "example.com"}
            return await client.post(client.url("new-order"), {"identifiers": [identifier]})

        for label in ("a", "b"):
            await client.authorize(await below(label))
        reply = await below("c")
        assert (reply.status, reply.problem) == (429, "rateLimited")
        assert "example.com" in reply.json["detail"]


# ------------------------------------------------------------------------------------------------ self-renewing orders

RULES = AutoRenewalRules(min_lifetime=DAY, max_duration=30 * DAY)


async def renewing(world: RealAcme, client: AcmeClient, clock: FakeClock, csr: bytes) -> Reply:
    terms = {"end-date": rfc3339(after(clock.micros(), 10 * DAY)), "lifetime": 86_400}
    order = await ready(client, NAME, **{"auto-renewal": terms})
    final = await client.finalize(order, csr)
    assert final.json["status"] == "valid", final.body
    return final


async def later(world: RealAcme, clock: FakeClock, span: timedelta) -> int:
    clock.advance(span)
    while await world.server.renew_stars():
        pass
    return len(world.issuing.signer.signed)


async def test_an_account_key_that_has_become_the_certificates_ends_the_renewals(database: Database, clock: FakeClock) -> None:
    """RFC 8555 §11.1, and finalize's rule: the key of a certificate is not its account's."""
    async with opened(database, clock, auto_renewal=RULES) as world:
        client = await world.registered()
        shared = ec.generate_private_key(ec.SECP256R1())
        await renewing(world, client, clock, der_of(make_csr(NAME, key=shared)))
        assert (await change_key(client, AccountKey(shared))).status == 200
        assert await later(world, clock, DAY) == 1


@pytest.mark.parametrize(
    ("changes", "renewed"), [({}, 1), ({"profiles": ("strict",)}, 0), ({"challenges": ("dns-01", "tls-alpn-01")}, 0)]
)
async def test_what_the_endpoint_grants_no_more_is_not_renewed(
    database: Database, clock: FakeClock, changes: dict[str, Any], renewed: int
) -> None:
    async with opened(database, clock, auto_renewal=RULES) as world:
        client = await world.registered()
        await renewing(world, client, clock, der_of(make_csr(NAME)))
    async with opened(database, clock, auto_renewal=RULES, **changes) as today:
        for _ in range(1000):
            today.issuing.new_id()  # those of before are taken
        assert await later(today, clock, DAY) == renewed


# ------------------------------------------------------------------------------------------------ keys that change meanwhile


class SlowCaa:
    """A name server of the attacker's: it permits everything, when it is let."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.asked, self.gate = asyncio.Event(), asyncio.Event()

    async def __call__(self, name: DnsName, *, account_url: str, methods: frozenset[str]) -> CaaOutcome:
        self.asked.set()
        await self.gate.wait()
        return Permitted("", CaaEvidence(str(name), "", (), (str(name),), "", False, 0, self._clock.micros()))


async def test_a_finalize_by_the_old_key_that_is_still_under_way_gets_nothing_after_the_change(
    database: Database, clock: FakeClock
) -> None:
    """Whoever stole a key could hold a finalize back as long as his name server likes, and be served when the key is long changed."""
    caa = SlowCaa(clock)
    async with opened(database, clock, caa=caa) as world:
        client = await world.registered()
        order = await ready(client, NAME)
        held = asyncio.create_task(finalized(client, order))
        await caa.asked.wait()
        new = AccountKey()
        assert (await change_key(client, new)).status == 200
        caa.gate.set()
        reply = await held
        assert reply.status == 403
        assert world.issuing.signer.signed == []
        again = await finalized(with_key(client, new), order)
        assert again.json["status"] == "valid"


async def test_an_external_key_that_is_revoked_while_a_renewal_is_under_way_ends_it(
    database: Database, clock: FakeClock
) -> None:
    caa = SlowCaa(clock)
    caa.gate.set()
    async with opened(database, clock, caa=caa, auto_renewal=RULES) as world:
        key = await new_external_key(database, clock, endpoint="default")
        client = world.client()
        await client.register(externalAccountBinding=binding(client, key))
        await renewing(world, client, clock, der_of(make_csr(NAME)))
        caa.gate.clear()
        caa.asked.clear()
        clock.advance(DAY)
        held = asyncio.create_task(world.server.renew_stars())
        await caa.asked.wait()
        await external_keys(database, clock).revoke(key.kid, principal=COMMAND_LINE)
        caa.gate.set()
        await held
        assert len(world.issuing.signer.signed) == 1


async def test_a_certificate_of_an_issuer_that_is_configured_no_more_is_not_there_and_no_bug(
    world: RealAcme, database: Database
) -> None:
    client = await world.registered()
    final = await finalized(client, await ready(client, NAME))
    for table in ("acme_order", "certificate"):
        await database.write(Step(f"UPDATE {table} SET issuer = 'retired'"))  # noqa: S608  # a constant
    for url in (final.json["certificate"], final.json["certificate"] + "/1"):
        assert (await client.post(url)).status == 404
    assert world.log.events == []


async def test_whoever_has_the_blocked_key_of_an_account_gets_nothing_more_in_its_name(
    world: RealAcme, database: Database, clock: FakeClock
) -> None:
    """An operator blocks a key because somebody else has it. The account that has it, and what it proved, are that one's, too."""
    client, other = await world.registered(), await world.registered()
    order = await ready(client, NAME)
    stolen = spki_sha256(parse_jwk(client.key.jwk))
    now, new_id = clock.micros(), counter("audit")
    await block(database, [stolen], reason="found", principal="operator:o", now=now, new_id=new_id)
    assert await revoke_accounts(database, [stolen], principal="operator:o", now=now, new_id=new_id) == 1
    for reply in (
        await finalized(client, order),
        await client.order(NAME),
        await new_authz(client),
        await client.post(client.kid),
        await change_key(client, AccountKey()),
    ):
        assert (reply.status, reply.problem) == (403, "unauthorized")
    assert world.issuing.signer.signed == []
    assert (await other.order(NAME)).status == 201
    (row,) = await world.issuing.rows("SELECT subject FROM audit WHERE event = 'account.revoked'")
    assert row["subject"] == f"acme-account:{client.kid.rpartition('/')[2]}"
    assert await revoke_accounts(database, [stolen], principal="operator:o", now=now, new_id=new_id) == 0
