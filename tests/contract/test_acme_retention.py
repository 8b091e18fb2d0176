"""What ACME leaves behind is removed in time, in bounded pieces; what a CRL, an auditor or a client needs is not, at any tick."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta

import pytest
from cryptography import x509

from acmeserver.retention import Kept, Retention
from issuance.crl import CrlPublisher, CrlSchedule
from pki.clock import Micros, after, to_micros
from pki.reasons import RevocationReason
from storage.database import Database, Step
from tests.helpers.acme_client import Reply
from tests.helpers.acme_world import AcmeWorld, acme_world, issued, ready
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import PROGRAM, Issuing
from validation.outcome import FailureKind

DAY = timedelta(days=1)
KEPT = Kept(unfinished=10 * DAY, issued=100 * DAY)
ACME = ("acme_account", "acme_order", "acme_order_authorization", "acme_authorization")
SACRED = ("issuance", "certificate", "revocation", "crl", "audit", "blocked_key")

INSERT_ORDER = (
    "INSERT INTO acme_order (id, account_id, status, identifiers, profile, profile_version, not_before, not_after, expires_at, "
    "error, issuer, serial, created_at) VALUES ($1, 'a', $2, '[]', '', '', NULL, NULL, $3, '', $4, $5, 0)"
)
INSERT_AUTHORIZATION = (
    "INSERT INTO acme_authorization (id, account_id, identifier_type, identifier, wildcard, status, token, challenges, "
    "chosen, error, evidence, validated_at, expires_at, lease_until, created_at) "
    "VALUES ($1, 'a', 'dns', 'a.example.com', 0, $2, '', '[]', '', '', '', NULL, $3, 0, 0)"
)
INSERT_LINK = "INSERT INTO acme_order_authorization (order_id, authorization_id, position) VALUES ($1, $2, 0)"
INSERT_CERTIFICATE = (
    "INSERT INTO certificate (issuer, serial, issuance_id, der, spki_sha256, profile, names, protocol, endpoint, principal, "
    "not_before, not_after, issued_at) VALUES ($1, $2, $2, $3, '', '', '[]', 'acme', '', '', 0, $4, 0)"
)
INSERT_STAR = (
    "INSERT INTO acme_star (order_id, account_id, endpoint, state, csr, csr_sha256, number, begun, first_at, next_at, ends_at, "
    "get_allowed, issuer, serial, failures, created_at) VALUES ($1, 'a', '', 'active', $2, '', 0, 0, 0, 0, $3, 0, '', '', 0, 0)"
)


def retention(database: Database, clock: FakeClock, **sizes: int) -> Retention:
    return Retention(database=database, clock=clock, kept=KEPT, **sizes)


async def all_of_it(at: Retention) -> int:
    """How many turns it took."""
    turns = 1
    while not await at.turn():
        turns += 1
    return turns


async def counts(database: Database, *tables: str) -> Mapping[str, int]:
    found = {}
    for table in tables:
        (row,) = await database.fetch(f"SELECT count(*) AS n FROM {table}")  # noqa: S608  # a table of ours
        found[table] = int(row["n"])
    return found


async def ids(database: Database, table: str) -> set[str]:
    return {row["id"] for row in await database.fetch(f"SELECT id FROM {table}")}  # noqa: S608  # a table of ours


async def order(
    database: Database,
    name: str,
    *,
    status: str = "open",
    expires_at: Micros,
    certificate: Micros | None = None,
    proof: str = "",
) -> None:
    """With one authorization of its own, or the one called `proof`; `certificate` is when its certificate ends."""
    issuer, serial = ("issuing", f"5e{name}") if certificate is not None else ("", "")
    steps = [Step(INSERT_ORDER, (name, status, expires_at, issuer, serial)), Step(INSERT_LINK, (name, proof or f"z{name}"))]
    if certificate is not None:
        steps.append(Step(INSERT_CERTIFICATE, (issuer, serial, b"\x30\x00", certificate)))
    if not proof:
        steps.append(Step(INSERT_AUTHORIZATION, (f"z{name}", "valid" if status == "valid" else "pending", expires_at)))
    await database.write(*steps)


async def test_what_came_to_nothing_goes_when_its_time_is_over_and_not_before(database: Database, clock: FakeClock) -> None:
    async with acme_world(database, clock) as world:
        client = await world.registered()
        await client.order("pending.example.com", "too.example.com")
        await ready(client, "proved.example.com")
        world.http01.failing["bad.example.com"] = FailureKind.DNS
        await _refused(world, "bad.example.com")
        before = await counts(database, *ACME)
        clock.advance(7 * DAY + KEPT.unfinished)  # everything expired that long ago, to the microsecond
        await all_of_it(retention(database, clock))
        assert await counts(database, *ACME) == before
        clock.advance(timedelta(microseconds=1))
        await all_of_it(retention(database, clock))
        assert await counts(database, *ACME) == {**dict.fromkeys(ACME, 0), "acme_account": 2}


async def _refused(world: AcmeWorld, name: str) -> None:
    client = await world.registered()
    reply = await client.order(name)
    (url,) = reply.json["authorizations"]
    await client.post((await client.post(url)).json["challenges"][0]["url"], {})


async def test_an_order_and_its_proof_stay_as_long_as_its_certificate_and_longer(database: Database, clock: FakeClock) -> None:
    now = clock.micros()
    ends = after(now, 400 * DAY)
    await order(database, "long", status="valid", expires_at=after(now, 7 * DAY), certificate=ends)
    await order(database, "second", status="valid", expires_at=after(now, 7 * DAY), certificate=ends, proof="zlong")
    await order(database, "nothing", expires_at=after(now, 7 * DAY), proof="zlong")  # of the same proof, and never finalized
    clock.advance(400 * DAY + KEPT.issued)
    await all_of_it(retention(database, clock))
    assert await ids(database, "acme_order") == {"long", "second"}
    assert await ids(database, "acme_authorization") == {"zlong"}
    clock.advance(timedelta(microseconds=1))
    await all_of_it(retention(database, clock))
    assert await counts(database, *ACME) == dict.fromkeys(ACME, 0)
    assert await counts(database, "certificate") == {"certificate": 2}


async def test_an_order_that_is_being_signed_is_the_sweepers(database: Database, clock: FakeClock) -> None:
    await order(database, "busy", status="processing", expires_at=clock.micros())
    clock.advance(1000 * DAY)
    await all_of_it(retention(database, clock))
    assert await ids(database, "acme_order") == {"busy"}
    assert await ids(database, "acme_authorization") == {"zbusy"}


async def test_an_order_that_renews_itself_stays_until_after_its_end_date(database: Database, clock: FakeClock) -> None:
    ends = after(clock.micros(), 365 * DAY)
    await order(database, "star", status="valid", expires_at=clock.micros())
    await database.write(
        Step(INSERT_STAR, ("star", b"", ends)),
        Step("INSERT INTO acme_star_certificate (issuer, serial, order_id, number) VALUES ('issuing', '77', 'star', 0)"),
        Step(INSERT_CERTIFICATE, ("issuing", "77", b"\x30\x00", ends)),
    )
    star = ("acme_order", "acme_star", "acme_star_certificate")
    clock.advance(365 * DAY + KEPT.issued)
    await all_of_it(retention(database, clock))
    assert await counts(database, *star) == dict.fromkeys(star, 1)
    clock.advance(timedelta(microseconds=1))
    await all_of_it(retention(database, clock))
    assert await counts(database, *star) == dict.fromkeys(star, 0)


async def test_an_order_that_was_to_renew_itself_and_never_began_is_unfinished(database: Database, clock: FakeClock) -> None:
    await order(database, "star", expires_at=clock.micros())
    await database.write(Step(INSERT_STAR, ("star", b"", after(clock.micros(), 365 * DAY))))
    await database.write(Step("UPDATE acme_star SET state = 'waiting' WHERE order_id = 'star'"))
    star = ("acme_order", "acme_authorization", "acme_star")
    clock.advance(KEPT.unfinished)
    await all_of_it(retention(database, clock))
    assert await counts(database, *star) == dict.fromkeys(star, 1)
    clock.advance(timedelta(microseconds=1))
    await all_of_it(retention(database, clock))
    assert await counts(database, *star) == dict.fromkeys(star, 0)


async def test_a_replacement_is_remembered_as_long_as_what_was_replaced(database: Database, clock: FakeClock) -> None:
    ends = after(clock.micros(), 10 * DAY)
    await database.write(
        Step("INSERT INTO acme_replacement (issuer, serial, order_id, created_at) VALUES ('issuing', '5eold', 'new', 0)"),
        Step(INSERT_CERTIFICATE, ("issuing", "5eold", b"\x30\x00", ends)),
    )
    clock.advance(10 * DAY + KEPT.issued)
    await all_of_it(retention(database, clock))
    assert await counts(database, "acme_replacement") == {"acme_replacement": 1}
    clock.advance(timedelta(microseconds=1))
    await all_of_it(retention(database, clock))
    assert await counts(database, "acme_replacement") == {"acme_replacement": 0}


async def test_a_large_table_is_gone_through_in_pieces_and_to_its_end(database: Database, clock: FakeClock) -> None:
    now = clock.micros()
    for number in range(60):
        if number % 3:
            await order(database, f"{number:03}", expires_at=now)
        else:
            await order(database, f"{number:03}", status="valid", expires_at=now, certificate=after(now, 365 * DAY))
    clock.advance(11 * DAY)
    at = retention(database, clock, batch=7, batches=2)
    assert await all_of_it(at) > 5
    left = await ids(database, "acme_order")
    assert left == {f"{number:03}" for number in range(0, 60, 3)}
    assert await ids(database, "acme_authorization") == {f"z{name}" for name in left}
    assert await all_of_it(at) >= 1  # and again from the beginning


async def test_two_workers_that_forget_how_far_they_were_come_to_the_same_end(database: Database, clock: FakeClock) -> None:
    for number in range(40):
        await order(database, f"{number:03}", expires_at=clock.micros())
    clock.advance(11 * DAY)
    first, second = (retention(database, clock, batch=5, batches=3) for _ in range(2))
    await asyncio.gather(all_of_it(first), all_of_it(second))
    await all_of_it(retention(database, clock))
    assert await counts(database, *ACME) == dict.fromkeys(ACME, 0)


async def test_what_a_client_still_uses_is_there_after_every_pass(database: Database, clock: FakeClock) -> None:
    async with acme_world(database, clock) as world:
        client = await world.registered()
        done, finalized = await issued(client, "a.example.com")
        certificate: Reply = await client.post(finalized.json["certificate"])
        (found,) = x509.load_pem_x509_certificates(certificate.body)[:1]
        row = ("issuing", f"{found.serial_number:x}", b"\x30\x00", to_micros(found.not_valid_after_utc))
        await database.write(Step(INSERT_CERTIFICATE, row))
        at = retention(database, clock)
        for _ in range(60):
            await all_of_it(at)
            assert (await client.post(finalized.json["certificate"])).status == 200
            clock.advance(DAY)
        assert (await client.post(done.location)).status == 404  # expired, as before


@pytest.mark.parametrize("reason", [RevocationReason.SUPERSEDED, RevocationReason.KEY_COMPROMISE])
async def test_collecting_at_every_tick_until_after_the_end_drops_no_revocation(
    database: Database, clock: FakeClock, reason: RevocationReason
) -> None:
    """acme-wire §5: entries dropped early, and tidied revoked-unexpired certificates. With the shortest retention there is."""
    issuing = Issuing(database, clock)
    publisher = CrlPublisher(
        issuers=issuing.rules.issuers,
        schedules={"issuing": CrlSchedule(refresh=DAY, lifetime=4 * DAY)},
        database=database,
        signer=issuing.signer,
        clock=clock,
        new_id=issuing.new_id,
    )
    certificate = await issuing.issued("a.example.com")
    serial = f"{certificate.serial_number:x}"
    steps = [Step(INSERT_ORDER, ("o", "valid", clock.micros(), "issuing", serial)), Step(INSERT_LINK, ("o", "z"))]
    await database.write(*steps, Step(INSERT_AUTHORIZATION, ("z", "valid", clock.micros())))
    await issuing.issuance.revoke(issuer="issuing", serial=serial, reason=reason, principal=PROGRAM)
    at = Retention(database=database, clock=clock, kept=Kept(unfinished=timedelta(0), issued=timedelta(0)), batch=1)
    while clock.micros() <= to_micros(certificate.not_valid_after_utc) + DAY // timedelta(microseconds=1):
        before = await counts(database, *SACRED)
        await all_of_it(at)
        assert await counts(database, *SACRED) == before
        await publisher.look("issuing")
        (newest,) = await database.fetch("SELECT der FROM crl ORDER BY number DESC LIMIT 1")
        crl = x509.load_der_x509_crl(bytes(newest["der"]))
        assert crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
        if clock.micros() <= to_micros(certificate.not_valid_after_utc):
            assert await ids(database, "acme_order") == {"o"}
            assert await ids(database, "acme_authorization") == {"z"}
        clock.advance(DAY / 2)
    assert await counts(database, *ACME) == dict.fromkeys(ACME, 0)
    assert await counts(database, "revocation", "certificate", "issuance") == {"revocation": 1, "certificate": 1, "issuance": 1}
