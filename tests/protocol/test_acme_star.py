"""Orders that renew themselves (RFC 8739) on the wire, with the real pipeline behind them, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acmeserver.star import ORIGIN as STAR
from acmeserver.star import Slot
from acmeserver.star_settlement import StarSettler
from issuance.request import Channel
from pki.clock import Micros, after, http_date, rfc3339, to_micros
from pki.reasons import RevocationReason, Unavailable
from pki.strict import base64url
from policy.profiles import Profiles
from signer.api import SignerRefused
from storage.database import Conflict, Database, Step
from tests.helpers.acme_client import BASE, AcmeClient, Reply
from tests.helpers.acme_world import RememberedErrors, ScriptedMethod, ScriptedPolicy, make_server, ready
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr
from tests.helpers.issuing import PROGRAM
from tests.helpers.star_world import DAY, ENDPOINT, HOUR, PROFILE, World, star_world


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[World]:
    async with star_world(database, clock) as world:
        yield world


@pytest.fixture
async def client(world: World) -> AcmeClient:
    return await world.registered()


def leaf(reply: Reply) -> x509.Certificate:
    return x509.load_pem_x509_certificates(reply.body)[0]


# ------------------------------------------------------------------------------------------------ ordering


async def test_the_directory_says_what_may_be_asked_for_and_nothing_where_it_is_off(world: World) -> None:
    client = AcmeClient(world.http)
    expected = {"min-lifetime": 86_400, "max-duration": 2_592_000}
    for endpoint, meta in (("default", {**expected, "allow-certificate-get": True}), ("closed", expected), ("off", None)):
        content = (await client.request("GET", f"{BASE}/acme/{endpoint}/directory")).json
        assert content.get("meta", {}).get("auto-renewal") == meta


async def test_an_order_shows_its_terms_and_a_star_certificate_in_place_of_a_certificate(
    world: World, client: AcmeClient
) -> None:
    terms = await world.terms(**{"lifetime-adjust": 86_400 * 3})
    order = await ready(client, "a.example.com", **{"auto-renewal": terms})
    assert order.json["auto-renewal"] == terms  # granted as asked; without a GET that nobody asked for
    assert order.json["status"] == "pending"
    final = await client.finalize(order, der_of(make_csr("a.example.com")))
    assert final.json["status"] == "valid"
    assert "certificate" not in final.json
    url = final.json["star-certificate"]
    assert url == f"{BASE}/acme/default/star-cert/{order.location.rpartition('/')[2]}"
    assert final.json["expires"] == terms["end-date"]  # §3.3: it is valid until then
    assert (await client.post(order.location)).json == final.json


async def test_a_shorter_adjustment_than_half_a_lifetime_is_made_half(world: World, client: AcmeClient) -> None:
    """§3.1.1: the server may adjust it, and tells so."""
    order = await client.order("a.example.com", **{"auto-renewal": await world.terms()})
    assert order.json["auto-renewal"]["lifetime-adjust"] == 2 * 86_400


async def test_where_it_is_off_the_member_is_not_known_and_the_order_an_ordinary_one(world: World) -> None:
    client = await world.registered("off")
    order = await client.order("a.example.com", **{"auto-renewal": await world.terms()})
    assert order.status == 201
    assert "auto-renewal" not in order.json
    assert (await client.post(order.location, {"status": "canceled"})).problem == "malformed"
    assert (await client.post(client.url(f"star-cert/{order.location.rpartition('/')[2]}"))).status == 404


@pytest.mark.parametrize("changes", [{"days": 31}, {"lifetime": 86_399}, {"lifetime": 40 * 86_400}, {"lifetime": "4d"}])
async def test_terms_that_are_not_granted_are_malformed_and_leave_nothing(
    world: World, client: AcmeClient, changes: dict[str, Any]
) -> None:
    reply = await client.order("a.example.com", **{"auto-renewal": await world.terms(**changes)})
    assert (reply.status, reply.problem) == (400, "malformed")
    for table in ("acme_order", "acme_star"):
        assert await world.database.fetch(f"SELECT * FROM {table}") == []  # noqa: S608  # a constant


async def test_policy_is_asked_about_certificates_as_long_as_they_will_be(world: World, client: AcmeClient) -> None:
    """Not about the profile's own validity: a policy for short lives grants short lives that follow each other."""
    await client.order("a.example.com", **{"auto-renewal": await world.terms()})
    ((not_before, not_after),) = world.policy.times
    assert not_before is not None
    assert not_after is not None
    assert not_after - not_before == (6 * 86_400 - 1) * 1_000_000


# ------------------------------------------------------------------------------------------------ renewing


async def test_certificates_follow_each_other_to_the_end_date_for_one_key(world: World, client: AcmeClient) -> None:
    """§3.5: 4 + 4 + 2 days, each published two days before it is due."""
    begin = world.clock.micros()
    order, final = await world.issued(client)
    url = final.json["star-certificate"]
    for _ in range(11 * 24):
        await world.later(HOUR)
        if world.clock.micros() < after(begin, 10 * DAY):
            now = await client.post(url)
            served, at = leaf(now), world.clock.micros()
            assert to_micros(served.not_valid_before_utc) <= at < to_micros(served.not_valid_after_utc)
    leaves = await world.leaves()
    days = [
        tuple((to_micros(at) - begin) / 86_400_000_000 for at in (one.not_valid_before_utc, one.not_valid_after_utc))
        for one in leaves
    ]
    assert days == [(0, 4), (2, 8), (6, 10)]
    assert len({one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for one in leaves}) == 1
    rows = await world.database.fetch("SELECT number FROM acme_star_certificate ORDER BY number")
    assert [row["number"] for row in rows] == [0, 1, 2]
    assert (await client.post(order.location)).status == 404  # past its end


async def test_every_certificate_is_in_the_ledger_and_the_audit_with_its_evidence(world: World, client: AcmeClient) -> None:
    await world.issued(client)
    await world.later(2 * DAY)
    rows = await world.issuing.rows("SELECT origin_kind, evidence, protocol, profile_version FROM issuance ORDER BY created_at")
    assert [row["origin_kind"] for row in rows] == [STAR, STAR]
    assert [row["protocol"] for row in rows] == [Channel.ACME.value] * 2
    assert rows[0]["evidence"] == rows[1]["evidence"] != "[]"
    done = await world.issuing.rows("SELECT event FROM audit WHERE event = 'issue.done'")
    assert len(done) == 2


async def test_many_workers_at_once_make_one_certificate_of_a_slot(world: World, client: AcmeClient) -> None:
    await world.issued(client)
    world.clock.advance(2 * DAY + HOUR)
    await asyncio.gather(*(world.server.renew_stars() for _ in range(20)))
    assert len(await world.leaves()) == 2
    assert (await world.star())["number"] == 2
    assert len(world.issuing.signer.signed) == 2  # nothing was signed only to be thrown away


async def test_a_slot_is_begun_once_and_only_while_everything_it_stands_on_does(world: World, client: AcmeClient) -> None:
    """The guards of the compare-and-set itself, whatever was looked at before."""
    order, _ = await world.issued(client)
    star, now = await world.star(), world.clock.micros()
    slot = Slot(star["order_id"], 1, star["first_at"], star["ends_at"], 4 * 86_400, 2 * 86_400, star["csr_sha256"])
    settler, write = StarSettler(), world.database.write

    async def refused(slot: Slot = slot, at: Micros = now) -> bool:
        try:
            await write(*settler.began(slot.origin, now=at))
        except Conflict:
            return True
        await write(*settler.released(slot.origin, now=at))
        return False

    assert not await refused()
    await write(*settler.began(slot.origin, now=now))
    assert await refused()  # it is begun
    await write(*settler.released(slot.origin, now=now))
    for wrong in (slot.at(0), slot.at(2), replace(slot, csr="0" * 64), replace(slot, order_id="another")):
        assert await refused(wrong)
    assert await refused(at=slot.ends_at)
    for table, column, bad, good in (
        ("acme_authorization", "status", "deactivated", "valid"),
        ("acme_account", "status", "deactivated", "valid"),
        ("acme_order", "status", "canceled", "valid"),
        ("acme_star", "state", "canceled", "active"),
    ):
        await write(Step(f"UPDATE {table} SET {column} = $1", (bad,)))  # noqa: S608  # constants
        assert await refused(), table
        await write(Step(f"UPDATE {table} SET {column} = $1", (good,)))  # noqa: S608  # constants
        assert not await refused(), table
    assert order.status == 201


async def test_many_finalizes_at_once_make_one_certificate_and_its_key_is_the_one_that_stays(
    world: World, client: AcmeClient
) -> None:
    order = await ready(client, "a.example.com", **{"auto-renewal": await world.terms()})
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(10)]
    csrs = [der_of(make_csr("a.example.com", key=key)) for key in keys]
    replies = await asyncio.gather(*(client.finalize(order, csr) for csr in csrs))
    assert {reply.status for reply in replies} <= {200, 403}
    while not await world.leaves():
        # Each may have had its CSR overwritten by the next before it began; then nobody was first, and they ask again.
        assert (await client.finalize(order, csrs[0])).status in {200, 403}
    await world.later(2 * DAY)
    first, second = await world.leaves()
    assert first.public_key() == second.public_key()


async def test_a_future_start_date_is_when_the_first_certificate_begins(world: World, client: AcmeClient) -> None:
    start = after(world.clock.micros(), DAY)
    _, final = await world.issued(client, **{"start-date": rfc3339(start)})
    assert final.json["auto-renewal"]["start-date"] == rfc3339(start)
    (first,) = await world.leaves()
    assert to_micros(first.not_valid_before_utc) == start


async def test_after_an_outage_the_slot_of_the_day_is_made_and_the_missed_ones_are_not(
    world: World, client: AcmeClient
) -> None:
    begin = world.clock.micros()
    await world.issued(client, days=28)
    await world.later(13 * DAY)  # slots 1 (4-8) and 2 (8-12) are past
    last = (await world.leaves())[-1]
    assert to_micros(last.not_valid_after_utc) == after(begin, 16 * DAY)
    assert to_micros(last.not_valid_before_utc) <= world.clock.micros()
    assert len(await world.leaves()) == 2
    assert (await world.star())["number"] == 4
    await world.later(DAY)
    assert to_micros((await world.leaves())[-1].not_valid_after_utc) == after(begin, 20 * DAY)


async def test_a_signer_that_is_away_is_asked_again(world: World, client: AcmeClient) -> None:
    def away(_: bytes) -> bytes:
        raise Unavailable("signer")

    _, final = await world.issued(client)
    world.issuing.signer.fail = away
    world.clock.advance(2 * DAY + HOUR)
    with pytest.raises(Unavailable):
        await world.server.renew_stars()
    assert (await world.star())["begun"] == 0
    world.issuing.signer.fail = None
    await world.later(timedelta(minutes=1))
    assert len(await world.leaves()) == 2
    assert (await client.post(final.json["star-certificate"])).status == 200


async def test_an_order_that_meets_a_bug_does_not_hold_up_the_others(
    world: World, client: AcmeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A signer that refuses what the pipeline has prepared is one."""
    await world.issued(client, "a.example.com")
    await world.issued(client, "b.example.com")
    refused: list[bytes] = []

    def first_only(tbs: bytes) -> bytes:
        world.issuing.signer.fail = None
        refused.append(tbs)
        raise SignerRefused("no")

    world.issuing.signer.fail = first_only
    await world.later(2 * DAY)
    assert len(refused) == 1
    assert len(await world.leaves()) == 3
    assert "could not be renewed" in caplog.text
    await world.later(timedelta(minutes=2))
    assert len(await world.leaves()) == 4


async def test_a_signer_that_is_away_at_finalize_leaves_the_order_ready(world: World, client: AcmeClient) -> None:
    def away(_: bytes) -> bytes:
        raise Unavailable("signer")

    world.issuing.signer.fail = away
    order = await ready(client, "a.example.com", **{"auto-renewal": await world.terms()})
    csr = der_of(make_csr("a.example.com"))
    assert (await client.finalize(order, csr)).status == 503
    assert (await client.post(order.location)).json["status"] == "ready"
    world.issuing.signer.fail = None
    assert (await client.finalize(order, csr)).json["status"] == "valid"


async def test_a_worker_that_dies_between_intent_and_record_is_swept_and_the_slot_is_made_anew(
    world: World, client: AcmeClient
) -> None:
    """Its serial is revoked, for it may have been signed; the order goes on with another."""

    async def die() -> None:
        raise KeyboardInterrupt

    _, final = await world.issued(client)
    world.clock.advance(2 * DAY)
    world.issuing.signer.meanwhile = die
    with pytest.raises(KeyboardInterrupt):
        await world.server.renew_stars()
    world.issuing.signer.meanwhile = None
    assert (await world.star())["begun"] == 1
    await world.later(timedelta(seconds=20))
    assert len(await world.leaves()) == 1  # it is somebody's still
    world.clock.advance(timedelta(seconds=20))
    assert await world.issuing.sweeper.sweep() == 1
    await world.later(2 * timedelta(minutes=1))
    assert len(await world.leaves()) == 2
    (row,) = await world.issuing.rows("SELECT precaution FROM revocation")
    assert row["precaution"] == 1
    assert (await client.post(final.json["star-certificate"])).status == 200


async def test_a_worker_that_dies_in_finalize_leaves_an_invalid_order(world: World, client: AcmeClient) -> None:
    async def die() -> None:
        raise SignerRefused("no")

    order = await ready(client, "a.example.com", **{"auto-renewal": await world.terms()})
    world.issuing.signer.meanwhile = die
    reply = await client.finalize(order, der_of(make_csr("a.example.com")))
    assert reply.status == 500
    assert (await client.post(order.location)).json["status"] == "invalid"
    await world.later(DAY)
    assert await world.leaves() == []


# ------------------------------------------------------------------------------------------------ what ends it


async def test_a_deactivated_account_gets_no_further_certificate(world: World, client: AcmeClient) -> None:
    await world.issued(client)
    assert (await client.post(client.kid, {"status": "deactivated"})).status == 200
    await world.later(3 * DAY)
    assert len(await world.leaves()) == 1


async def test_an_authorization_that_is_given_up_ends_the_renewals(world: World, client: AcmeClient) -> None:
    order, _ = await world.issued(client, "a.example.com", "b.example.com")
    gone = await client.post(order.json["authorizations"][1], {"status": "deactivated"})
    assert gone.status == 200
    await world.later(3 * DAY)
    assert len(await world.leaves()) == 1
    assert (await world.star())["failures"] == 1


async def test_a_proof_that_is_too_old_for_the_profile_makes_no_certificate(database: Database, clock: FakeClock) -> None:
    """The configuration refuses such a pair; the pipeline would refuse the certificate nevertheless."""
    async with star_world(database, clock, made_by=replace(PROFILE, evidence_max_age=DAY)) as world:
        await world.issued(await world.registered())
        await world.later(3 * DAY)
        assert len(await world.leaves()) == 1
        (row,) = await world.issuing.rows("SELECT detail FROM audit WHERE event = 'issue.refused'")
        assert "not-validated" in row["detail"]


async def test_a_profile_that_the_endpoint_has_no_more_makes_no_certificate(world: World, client: AcmeClient) -> None:
    """The configuration was read again meanwhile."""
    await world.issued(client)
    other = replace(PROFILE, name="other")
    server = make_server(
        world.database,
        world.clock,
        issuance=world.issuing.issuance,
        policy=ScriptedPolicy(),
        methods=[ScriptedMethod("http-01", world.clock)],
        log=RememberedErrors(),
        endpoints=[replace(ENDPOINT, profiles=("other",))],
        profiles=Profiles([PROFILE, other]),
    )
    world.clock.advance(2 * DAY)
    await server.renew_stars()
    assert len(await world.leaves()) == 1
    assert (await world.star())["failures"] == 1
    await server.close()


async def test_where_it_was_switched_off_nothing_is_renewed(world: World, client: AcmeClient) -> None:
    await world.issued(client)
    server = make_server(
        world.database,
        world.clock,
        issuance=world.issuing.issuance,
        policy=ScriptedPolicy(),
        methods=[ScriptedMethod("http-01", world.clock)],
        log=RememberedErrors(),
        endpoints=[replace(ENDPOINT, auto_renewal=None)],
        profiles=Profiles([PROFILE]),
    )
    assert not server.has_stars
    world.clock.advance(2 * DAY)
    await server.renew_stars()
    assert len(await world.leaves()) == 1
    await server.close()


async def test_a_key_that_was_compromised_gets_no_further_certificate(world: World, client: AcmeClient) -> None:
    """An operator revokes and blocks; then the renewals fail, and say why in the audit."""
    await world.issued(client)
    (first,) = await world.leaves()
    await world.issuing.issuance.revoke(
        issuer="issuing",
        serial=f"{first.serial_number:x}",
        reason=RevocationReason.KEY_COMPROMISE,
        principal=PROGRAM,
    )
    await world.later(3 * DAY)
    assert len(await world.leaves()) == 1
    assert (await world.star())["failures"] == 1


async def test_refusals_are_repeated_ever_more_slowly(world: World, client: AcmeClient) -> None:
    order, _ = await world.issued(client)
    await client.post(order.json["authorizations"][0], {"status": "deactivated"})
    world.clock.advance(2 * DAY)
    waits = []
    for _ in range(9):
        await world.later(timedelta(0))
        star = await world.star()
        waits.append((star["next_at"] - world.clock.micros()) // 60_000_000)
        world.clock.advance(timedelta(minutes=waits[-1]))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


# ------------------------------------------------------------------------------------------------ cancellation


async def test_a_canceled_order_is_canceled_for_good(world: World, client: AcmeClient) -> None:
    """§3.1.2."""
    order, final = await world.issued(client, **{"allow-certificate-get": True})
    reply = await client.post(order.location, {"status": "canceled"})
    assert (reply.status, reply.json["status"]) == (200, "canceled")
    assert "star-certificate" not in reply.json
    assert reply.location == order.location
    for fetched in (
        await client.post(final.json["star-certificate"]),
        await client.request("GET", final.json["star-certificate"]),
    ):
        assert (fetched.status, fetched.problem) == (403, "autoRenewalCanceled")
    again = await client.post(order.location, {"status": "canceled"})
    assert (again.status, again.problem) == (400, "autoRenewalCancellationInvalid")
    await world.later(3 * DAY)
    assert len(await world.leaves()) == 1


async def test_only_a_valid_order_with_auto_renewal_can_be_canceled(world: World, client: AcmeClient) -> None:
    pending = await client.order("a.example.com", **{"auto-renewal": await world.terms()})
    ordinary = await client.order("a.example.com")
    for order in (pending, ordinary):
        reply = await client.post(order.location, {"status": "canceled"})
        assert (reply.status, reply.problem) == (400, "autoRenewalCancellationInvalid")
        assert (await client.post(order.location)).json["status"] == "pending"
    payloads: tuple[object, ...] = ({}, {"status": "valid"}, {"status": "deactivated"}, [], "canceled")
    for payload in payloads:
        assert (await client.post(pending.location, payload)).problem == "malformed"


async def test_a_stranger_can_neither_cancel_nor_fetch(world: World, client: AcmeClient) -> None:
    order, final = await world.issued(client)
    stranger, elsewhere = await world.registered(), await world.registered("closed")
    for who, change in ((stranger, "/default/"), (elsewhere, "/closed/")):
        cancel = await who.post(order.location.replace("/default/", change), {"status": "canceled"})
        fetch = await who.post(final.json["star-certificate"].replace("/default/", change))
        assert (cancel.status, fetch.status) == (404, 404)
    assert (await client.request("GET", final.json["star-certificate"])).status == 404  # nobody asked for that
    assert (await client.post(order.location)).json["status"] == "valid"


async def test_a_certificate_that_is_being_signed_while_its_order_is_canceled_is_never_released(
    world: World, client: AcmeClient
) -> None:
    """§3.1.2: after the cancellation nothing more is issued. Its serial is revoked by the sweeper."""
    order, _ = await world.issued(client)

    async def cancel() -> None:
        world.issuing.signer.meanwhile = None
        assert (await client.post(order.location, {"status": "canceled"})).status == 200

    world.clock.advance(2 * DAY)
    world.issuing.signer.meanwhile = cancel
    await world.server.renew_stars()
    assert len(await world.leaves()) == 1
    world.clock.advance(timedelta(minutes=1))
    assert await world.issuing.sweeper.sweep() == 1
    assert len(await world.issuing.rows("SELECT * FROM revocation WHERE precaution = 1")) == 1
    assert (await client.post(order.location)).json["status"] == "canceled"
    await world.later(DAY)
    assert len(await world.leaves()) == 1


# ------------------------------------------------------------------------------------------------ fetching


async def test_the_certificate_comes_with_its_times_in_quotes(world: World, client: AcmeClient) -> None:
    """§3.3: equal to the certificate's, for clients that read none."""
    _, final = await world.issued(client, **{"allow-certificate-get": True})
    url = final.json["star-certificate"]
    for reply in (await client.post(url), await client.request("GET", url)):
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/pem-certificate-chain")
        one = leaf(reply)
        assert reply.headers["Cert-Not-Before"] == f'"{http_date(to_micros(one.not_valid_before_utc))}"'
        assert reply.headers["Cert-Not-After"] == f'"{http_date(to_micros(one.not_valid_after_utc))}"'
        assert len(x509.load_pem_x509_certificates(reply.body)) == 2
    head = await client.request("HEAD", url)
    assert (head.status, head.body) == (200, b"")
    assert (await client.request("PUT", url)).status == 405


async def test_an_unsigned_get_needs_both_sides(world: World) -> None:
    """§3.4: the endpoint offers it, the order asks for it; else it is as if nothing were there."""
    for endpoint, asked, status in (("default", True, 200), ("default", False, 404), ("closed", True, 404)):
        client = await world.registered(endpoint)
        _, final = await world.issued(client, **{"allow-certificate-get": asked})
        assert final.json["auto-renewal"].get("allow-certificate-get", False) == (status == 200)
        assert (await client.request("GET", final.json["star-certificate"])).status == status
        assert (await client.post(final.json["star-certificate"])).status == 200
    for unknown in ("abcdef", "x" * 64):
        assert (await client.request("GET", f"{BASE}/acme/default/star-cert/{unknown}")).status == 404


async def test_an_order_that_is_not_finalized_has_no_certificate_yet(world: World, client: AcmeClient) -> None:
    terms = await world.terms(**{"allow-certificate-get": True})
    order = await client.order("a.example.com", **{"auto-renewal": terms})
    url = client.url(f"star-cert/{order.location.rpartition('/')[2]}")
    assert (await client.post(url)).status == 404
    assert (await client.request("GET", url)).status == 404


async def test_past_the_end_date_the_certificate_is_gone_with_its_reason(world: World, client: AcmeClient) -> None:
    _, final = await world.issued(client, **{"allow-certificate-get": True})
    await world.later(10 * DAY)
    for reply in (
        await client.post(final.json["star-certificate"]),
        await client.request("GET", final.json["star-certificate"]),
    ):
        assert (reply.status, reply.problem) == (403, "autoRenewalExpired")


async def test_its_certificates_are_not_revoked_but_canceled(world: World, client: AcmeClient) -> None:
    """§3.1.3: 403, for every one of them, and only for who could have revoked it else."""
    await world.issued(client)
    await world.later(2 * DAY)
    for one in await world.leaves():
        payload = {"certificate": base64url(one.public_bytes(Encoding.DER)), "reason": 4}
        reply = await client.post(client.url("revoke-cert"), payload)
        assert (reply.status, reply.problem) == (403, "autoRenewalRevocationNotSupported")
        stranger = await world.registered()
        assert (await stranger.post(stranger.url("revoke-cert"), payload)).problem == "unauthorized"
    assert await world.issuing.rows("SELECT * FROM revocation") == []
