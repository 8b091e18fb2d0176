"""Renewal information (RFC 9773) on the wire: the question, the window, and orders that replace a certificate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from acmeserver.endpoint import RenewalInfo
from acmeserver.problems import Problem
from acmeserver.renewal import CertId, parse_cert_id, render_cert_id, retry_after, suggested_window
from issuance.renewal import RenewalRecord, Window
from pki.clock import Micros, after, to_micros
from pki.identifiers import parse_dns
from pki.reasons import RevocationReason
from pki.strict import base64url
from policy.principal import Principal, PrincipalKind
from storage.database import Database
from tests.helpers.acme_client import BASE, AcmeClient, Reply
from tests.helpers.acme_world import AcmeWorld, acme_world, ready
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import START, der_of, make_csr
from validation.outcome import FailureKind

DAY = 86_400_000_000


@pytest.fixture
async def world(database: Database) -> AsyncIterator[AcmeWorld]:
    """At the time of the simulated issuance."""
    async with acme_world(database, FakeClock(datetime(2027, 1, 15, 8, 30, tzinfo=UTC))) as world:
        yield world


@pytest.fixture
async def client(world: AcmeWorld) -> AcmeClient:
    return await world.registered("choice")


async def certified(world: AcmeWorld, client: AcmeClient, *names: str) -> str:
    """A new certificate's identifier, as a client makes it from the certificate."""
    final = await client.finalize(await ready(client, *names), der_of(make_csr(*names)))
    chain = (await client.post(final.json["certificate"])).body
    certificate = x509.load_pem_x509_certificates(chain)[0]
    key_identifier = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert key_identifier is not None
    return render_cert_id(CertId(key_identifier, f"{certificate.serial_number:x}"))


async def ask(client: AcmeClient, cert_id: str, *, endpoint: str = "choice", method: str = "GET") -> Reply:
    return await client.request(method, f"{BASE}/acme/{endpoint}/renewal-info/{cert_id}")


def moved(world: AcmeWorld, span: timedelta) -> None:
    clock = world.server.clock
    assert isinstance(clock, FakeClock)
    clock.advance(span)


# ------------------------------------------------------------------------------------------------ the identifier


def test_the_example_of_the_rfc_is_read_as_it_says() -> None:
    """RFC 9773 §4.1: a serial with a leading 00."""
    cert_id = parse_cert_id("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE")
    assert cert_id.key_identifier.hex() == "69885b6b87464041e1b37b847ba0ae2cde01c8d4"
    assert cert_id.serial == "87654321"
    assert render_cert_id(cert_id) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.",
        ".AIdlQyE",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE.",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ=.AIdlQyE=",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE=",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyF",  # bits set past the end
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ. AIdlQyE",
        "aYhba4dGQEHhs3uEe6CuLN4ByN+.AIdlQyE",
        f"{base64url(b'k' * 20)}.{base64url(b'')}",
        f"{base64url(b'k' * 20)}.{base64url(bytes(1))}",  # zero
        f"{base64url(b'k' * 20)}.{base64url(bytes([0x87, 1]))}",  # negative
        f"{base64url(b'k' * 20)}.{base64url(bytes([0, 0x7F]))}",  # not in its shortest form
        f"{base64url(b'k' * 20)}.{base64url(b'1' * 21)}",
        f"{base64url(b'k' * 65)}.{base64url(b'1')}",
    ],
)
def test_what_is_no_identifier_is_malformed(text: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_cert_id(text)
    assert caught.value.status == 400


@given(st.binary(min_size=1, max_size=64), st.integers(1, 2**159 - 1))
def test_every_identifier_has_one_spelling(key_identifier: bytes, serial: int) -> None:
    cert_id = CertId(key_identifier, f"{serial:x}")
    assert parse_cert_id(render_cert_id(cert_id)) == cert_id


@given(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=120) | st.from_regex(r"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,30}")
)
def test_any_text_is_an_identifier_that_comes_back_or_a_problem(text: str) -> None:
    try:
        cert_id = parse_cert_id(text)
    except Problem as problem:
        assert problem.status == 400
    else:
        assert render_cert_id(cert_id) == text


# ------------------------------------------------------------------------------------------------ the window


def record(*, days: float = 47, revoked_at: Micros | None = None, pulled: Window | None = None) -> RenewalRecord:
    end = Micros(int(START + days * DAY) - 1_000_000)
    return RenewalRecord("issuing", "1", "acme-account:a", ("dns:a.example.com",), START, end, revoked_at, pulled, "")


@pytest.mark.parametrize("days", [1 / 24, 1, 6, 47, 398])
def test_the_window_lies_in_the_last_third_and_ends_well_before_the_certificate(days: float) -> None:
    one = record(days=days)
    window = suggested_window(one, RenewalInfo())
    lifetime = int(days * DAY)
    assert window.start == START + lifetime * 66 // 100
    assert window.end == START + lifetime * 83 // 100
    assert window == suggested_window(one, RenewalInfo())


@given(
    st.integers(1, 400 * 86_400),
    st.integers(0, 100),
    st.integers(0, 100),
    st.none() | st.tuples(st.integers(-(10**6), 10**8), st.integers(60, 10**6)),
    st.none() | st.integers(0, 10**7),
)
def test_the_end_always_comes_after_the_start(
    seconds: int, start: int, end: int, pulled: tuple[int, int] | None, revoked: int | None
) -> None:
    """RFC 9773 §4.2: a server MUST NOT serve anything else."""
    at = None if pulled is None else Micros(START + pulled[0] * 1_000_000)
    one = record(
        days=seconds / 86_400,
        pulled=None if at is None or pulled is None else Window(at, after(at, timedelta(seconds=pulled[1]))),
        revoked_at=None if revoked is None else Micros(START + revoked * 1_000_000),
    )
    window = suggested_window(one, RenewalInfo(window_start=min(start, end), window_end=max(start, end)))
    assert window.start < window.end


def test_a_revoked_certificate_is_to_be_renewed_now() -> None:
    at = after(START, timedelta(days=3))
    window = suggested_window(record(revoked_at=at, pulled=Window(START, at)), RenewalInfo())
    assert window.end <= at


def test_a_pulled_renewal_is_earlier_and_never_later() -> None:
    own = suggested_window(record(), RenewalInfo())
    early = Window(after(START, timedelta(days=2)), after(START, timedelta(days=3)))
    assert suggested_window(record(pulled=early), RenewalInfo()) == early
    assert (
        suggested_window(record(pulled=Window(after(own.end, timedelta(1)), after(own.end, timedelta(2)))), RenewalInfo())
        == own
    )
    long = Window(after(START, timedelta(days=2)), after(START, timedelta(days=300)))
    assert suggested_window(record(pulled=long), RenewalInfo()) == Window(long.start, own.end)


def test_clients_come_back_at_six_hours_more_or_less_and_sooner_for_a_short_life() -> None:
    rules = RenewalInfo()
    assert [retry_after(record(), rules, random) for random in (0, 65535)] == [int(21_600 * 0.8), int(21_600 * 1.2)]
    assert retry_after(record(days=1), rules, 32768) == pytest.approx(7200, abs=2)
    assert retry_after(record(days=1 / 1440), rules, 0) == 60


# ------------------------------------------------------------------------------------------------ the question


async def test_the_directory_names_it_without_a_slash_and_only_where_it_is_configured(world: AcmeWorld) -> None:
    client = world.client()
    assert (await client.request("GET", f"{BASE}/acme/choice/directory")).json[
        "renewalInfo"
    ] == f"{BASE}/acme/choice/renewal-info"
    assert "renewalInfo" not in (await client.request("GET", f"{BASE}/acme/directory")).json


async def test_it_answers_everybody_right_after_issuance(world: AcmeWorld, client: AcmeClient) -> None:
    """acmez asks as soon as it has the certificate."""
    reply = await ask(world.client(), await certified(world, client, "a.example.com"))
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert 21_600 * 0.8 <= int(reply.headers["Retry-After"]) <= 21_600 * 1.2
    assert reply.json == {"suggestedWindow": {"start": "2027-02-15T08:28:48Z", "end": "2027-02-23T08:14:24Z"}}
    assert "Replay-Nonce" not in reply.headers
    assert f'<{BASE}/acme/choice/directory>;rel="index"' in reply.links


async def test_head_is_get_without_the_body_and_nothing_else_is_taken(world: AcmeWorld, client: AcmeClient) -> None:
    cert_id = await certified(world, client, "a.example.com")
    assert (await ask(client, cert_id, method="HEAD")).status == 200
    for method in ("POST", "PUT", "DELETE"):
        reply = await ask(client, cert_id, method=method)
        assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")


async def test_an_unknown_certificate_is_404_and_garbage_400(world: AcmeWorld, client: AcmeClient) -> None:
    cert_id = await certified(world, client, "a.example.com")
    own = parse_cert_id(cert_id)
    other_key = render_cert_id(CertId(b"k" * 20, own.serial))  # the serial of one of ours, by another issuer
    other_serial = render_cert_id(CertId(own.key_identifier, "7fffff"))
    for unknown in (other_key, other_serial):
        reply = await ask(client, unknown)
        assert (reply.status, reply.problem) == (404, "malformed")
    for garbage in (f"{cert_id}=", f"{cert_id}%3D", "x", "a.b.c", "%00.%00", cert_id.replace(".", "%2E%2E")):
        reply = await ask(client, garbage)
        assert (reply.status, reply.problem) == (400, "malformed"), garbage
    assert (await ask(client, cert_id, endpoint="default")).status == 404
    assert (await ask(client, "")).status == 404


async def test_revocation_moves_the_window_into_the_past(world: AcmeWorld, client: AcmeClient) -> None:
    final = await client.finalize(await ready(client, "a.example.com"), der_of(make_csr("a.example.com")))
    chain = (await client.post(final.json["certificate"])).body
    certificate = x509.load_pem_x509_certificates(chain)[0]
    cert_id = render_cert_id(CertId(world.issuance.ca.key_identifier, f"{certificate.serial_number:x}"))
    der = chain.decode().split("-----")[2].replace("\n", "").replace("+", "-").replace("/", "_").rstrip("=")
    assert (await client.post(client.url("revoke-cert"), {"certificate": der, "reason": 4})).status == 200
    window = (await ask(client, cert_id)).json["suggestedWindow"]
    assert datetime.fromisoformat(window["start"]) < datetime.fromisoformat(window["end"])
    assert to_micros(datetime.fromisoformat(window["end"])) <= world.server.clock.micros()


async def test_a_pulled_renewal_says_why(world: AcmeWorld, client: AcmeClient) -> None:
    cert_id = await certified(world, client, "a.example.com")
    now = world.server.clock.micros()
    window = Window(now, after(now, timedelta(hours=24)))
    world.issuance.pulls[parse_cert_id(cert_id).serial] = (window, "https://ca.test/incident")
    assert (await ask(client, cert_id)).json == {
        "suggestedWindow": {"start": "2027-01-15T08:30:00Z", "end": "2027-01-16T08:30:00Z"},
        "explanationURL": "https://ca.test/incident",
    }


# ------------------------------------------------------------------------------------------------ replaces


async def test_an_order_says_what_it_replaces_every_time_it_is_read(world: AcmeWorld, client: AcmeClient) -> None:
    cert_id = await certified(world, client, "a.example.com", "b.example.com")
    order = await ready(client, "b.example.com", "c.example.com", replaces=cert_id)  # one name in common is enough
    final = await client.finalize(order, der_of(make_csr("b.example.com", "c.example.com")))
    assert final.json["status"] == "valid"
    assert [one.json["replaces"] for one in (order, final, await client.post(order.location))] == [cert_id] * 3


async def test_a_certificate_is_replaced_once(world: AcmeWorld, client: AcmeClient) -> None:
    """409, upon which lego orders again without `replaces`."""
    cert_id = await certified(world, client, "a.example.com")
    assert (await client.order("a.example.com", replaces=cert_id)).status == 201
    again = await client.order("a.example.com", replaces=cert_id)
    assert (again.status, again.problem) == (409, "alreadyReplaced")
    assert (await client.order("a.example.com")).status == 201


async def test_of_many_orders_at_once_one_replaces_it(world: AcmeWorld, client: AcmeClient) -> None:
    cert_id = await certified(world, client, "a.example.com")
    replies = await asyncio.gather(*(client.order("a.example.com", replaces=cert_id) for _ in range(20)))
    assert sorted(reply.status for reply in replies) == [201] + [409] * 19
    rows = await world.database.fetch("SELECT order_id FROM acme_replacement")
    (winner,) = [reply for reply in replies if reply.status == 201]
    assert [row["order_id"] for row in rows] == [winner.location.rpartition("/")[2]]
    orders = await world.database.fetch("SELECT id FROM acme_order WHERE replaces <> ''")
    assert len(orders) == 1  # what lost left nothing


async def test_an_order_that_fails_gives_the_certificate_free(world: AcmeWorld, client: AcmeClient) -> None:
    """RFC 9773 §5: marked as replaced by an order that is not invalid."""
    cert_id = await certified(world, client, "a.example.com")
    world.http01.failing["a.example.com"] = FailureKind.UNAUTHORIZED
    failed = await ready(client, "a.example.com", replaces=cert_id)
    assert (await client.post(failed.location)).json["status"] == "invalid"
    del world.http01.failing["a.example.com"]
    replies = await asyncio.gather(*(client.order("a.example.com", replaces=cert_id) for _ in range(10)))
    assert sorted(reply.status for reply in replies) == [201] + [409] * 9


async def test_an_order_past_its_time_gives_the_certificate_free(world: AcmeWorld, client: AcmeClient) -> None:
    cert_id = await certified(world, client, "a.example.com")
    assert (await client.order("a.example.com", replaces=cert_id)).status == 201
    moved(world, timedelta(days=7))
    assert (await client.order("a.example.com", replaces=cert_id)).status == 201


async def test_an_order_that_was_finalized_keeps_it_for_ever(world: AcmeWorld, client: AcmeClient) -> None:
    cert_id = await certified(world, client, "a.example.com")
    await client.finalize(await ready(client, "a.example.com", replaces=cert_id), der_of(make_csr("a.example.com")))
    moved(world, timedelta(days=20))
    assert (await client.order("a.example.com", replaces=cert_id)).problem == "alreadyReplaced"


async def test_only_ones_own_certificate_can_be_replaced(world: AcmeWorld, client: AcmeClient) -> None:
    cert_id = await certified(world, client, "a.example.com")
    stranger = await world.registered("choice")
    reply = await stranger.order("a.example.com", replaces=cert_id)
    assert (reply.status, reply.problem) == (403, "unauthorized")
    assert await world.database.fetch("SELECT * FROM acme_replacement") == []


async def test_the_order_has_a_name_in_common_with_what_it_replaces(world: AcmeWorld, client: AcmeClient) -> None:
    cert_id = await certified(world, client, "a.example.com")
    reply = await client.order("b.example.com", "www.a.example.com", replaces=cert_id)
    assert (reply.status, reply.problem) == (400, "malformed")


async def test_replaces_is_parsed_as_strictly_as_the_question(world: AcmeWorld, client: AcmeClient) -> None:
    cert_id = await certified(world, client, "a.example.com")
    for value in (f"{cert_id}=", "x", "", 1, ["x"]):
        reply = await client.order("a.example.com", replaces=value)
        assert (reply.status, reply.problem) == (400, "malformed"), value
    unknown = render_cert_id(CertId(world.issuance.ca.key_identifier, "7fffff"))
    assert (await client.order("a.example.com", replaces=unknown)).status == 404


async def test_an_endpoint_without_renewal_information_does_not_know_the_member(world: AcmeWorld) -> None:
    """RFC 8555 §7.1: it is ignored, and a client that sends it anyway gets its certificate."""
    client = await world.registered()
    order = await client.order("a.example.com", replaces="anything at all")
    assert order.status == 201
    assert "replaces" not in order.json


@pytest.mark.parametrize(("kind", "asked_for"), [(PrincipalKind.OPERATOR, True), (PrincipalKind.ACME_ACCOUNT, False)])
async def test_who_revoked_it_decides_whether_its_replacement_was_asked_for(
    world: AcmeWorld, client: AcmeClient, kind: PrincipalKind, *, asked_for: bool
) -> None:
    """An incident's renewals pass the limits; whoever issues and revokes in turn does not."""
    cert_id = parse_cert_id(await certified(world, client, "a.example.com"))
    await world.issuance.revoke(
        issuer="issuing",
        serial=cert_id.serial,
        reason=RevocationReason.SUPERSEDED,
        principal=Principal(kind, "somebody", frozenset()),
    )
    renewals, account = world.server.served["choice"].renewals, client.kid.rpartition("/")[2]
    found = await renewals.predecessor(render_cert_id(cert_id), account_id=account, identifiers=[parse_dns("a.example.com")])
    assert found is not None
    assert found.in_window is asked_for
