"""How clients read what they are sent: their own habits of parsing, applied to our answers (RFC 8555 §6, §7)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
from cryptography import x509

from issuance.request import Pending
from pki.reasons import Reason, Rejection, Unavailable
from storage.database import Database
from tests.helpers.acme_client import AcmeClient, Reply
from tests.helpers.acme_world import AcmeWorld, acme_world, issued, ready
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr
from validation.outcome import FailureKind


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock) as world:
        yield world


@pytest.fixture
async def client(world: AcmeWorld) -> AcmeClient:
    return await world.registered("choice")


# ------------------------------------------------------------------------------------------------ acme.sh


def acme_sh_entry(authorization: Reply, kind: str) -> str:
    """Its greps: the array up to the first "]", then the entry from "{" to the first "}" after the type."""
    text = authorization.body.decode().replace("\n", "").replace(" ", "")
    array = re.search(r'"challenges":\[[^]]*]', text)
    assert array is not None, text
    entry = re.search(rf'[^{{]*"type":"{kind}"[^}}]*', array[0])
    assert entry is not None, array[0]
    return entry[0]


def grepped(text: str, member: str) -> str:
    found = re.search(rf'"{member}":"([^"]*)', text)
    assert found is not None, text
    return found[1]


@pytest.mark.parametrize("kind", ["http-01", "dns-01"])
async def test_acme_sh_finds_token_and_url_of_each_challenge_with_its_greps(client: AcmeClient, kind: str) -> None:
    """No nested array before the end of `challenges`, no nested object in a pending challenge."""
    order = await client.order("a.example.com")
    authorization = await client.post(order.json["authorizations"][0])
    entry = acme_sh_entry(authorization, kind)
    (challenge,) = [each for each in authorization.json["challenges"] if each["type"] == kind]
    assert grepped(entry, "token") == challenge["token"]
    assert grepped(entry, "url") == challenge["url"]
    assert grepped(entry, "status") == "pending"


async def test_acme_sh_finds_url_and_status_of_a_challenge_that_failed(world: AcmeWorld, client: AcmeClient) -> None:
    """The nested error comes after everything that is looked for; its own `type` and `status` are not taken for the challenge's."""
    world.http01.failing["a.example.com"] = FailureKind.CONNECTION
    order = await client.order("a.example.com")
    url = order.json["authorizations"][0]
    (challenge,) = [each for each in (await client.post(url)).json["challenges"] if each["type"] == "http-01"]
    await client.post(challenge["url"], {})
    entry = acme_sh_entry(await client.post(url), "http-01")
    assert grepped(entry, "status") == "invalid"
    assert grepped(entry, "url") == challenge["url"]


async def test_acme_sh_finds_finalize_and_certificate_in_one_line_of_json(client: AcmeClient) -> None:
    order, final = await issued(client, "a.example.com")
    for reply in (order, final):
        text = reply.body.decode()
        assert "\n" not in text
        assert grepped(text, "finalize") == reply.json["finalize"]
        assert re.search(r'"authorizations":\[[^\[]*]', text)
    assert grepped(final.body.decode(), "certificate") == final.json["certificate"]


# ------------------------------------------------------------------------------------------------ Go


async def test_go_polls_the_location_that_finalize_names_until_it_is_valid(world: AcmeWorld, client: AcmeClient) -> None:
    """x/crypto/acme, and with it cert-manager, has no other URL to poll after a finalize."""
    order = await ready(client, "a.example.com")
    world.issuance.script.append(Pending("issuance", retry_after=1))
    csr = der_of(make_csr("a.example.com"))
    reply = await client.finalize(order, csr)
    assert reply.json["status"] == "processing"
    assert reply.location == order.location
    final = await client.finalize(order, csr)  # the simulator wrote nothing, so the order is still ready
    polled = await client.post(final.location)
    assert (polled.json["status"], polled.location) == ("valid", order.location)


async def test_acmez_reads_only_its_three_media_types(world: AcmeWorld, client: AcmeClient) -> None:
    order, final = await issued(client, "a.example.com")
    authorization = await client.post(order.json["authorizations"][0])
    documents = [order, final, authorization, await client.post(client.kid)]
    assert {reply.headers["Content-Type"] for reply in documents} == {"application/json"}
    chain = await client.post(final.json["certificate"])
    assert chain.headers["Content-Type"] == "application/pem-certificate-chain"
    world.issuance.script.append(Unavailable("signer"))
    waiting = await ready(client, "b.example.com")
    problems = [
        await client.finalize(waiting, der_of(make_csr("b.example.com"))),
        await client.post(client.url("nowhere")),
        await client.request("GET", client.kid),
        await client.send(client.kid, b""),
        await client.send(client.kid, b"x" * 50_001),
    ]
    for reply in problems:
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.json["status"] == reply.status


async def test_an_authorization_has_no_status_that_acmez_does_not_know(world: AcmeWorld, client: AcmeClient) -> None:
    """RFC 8555 §7.1.6; and certbot takes whatever is not "pending" for final, so it is never "processing"."""
    world.http01.failing["bad.example.com"] = FailureKind.DNS
    seen = set()
    for name, update in (("a.example.com", None), ("bad.example.com", None), ("b.example.com", {"status": "deactivated"})):
        order = await client.order(name)
        url = order.json["authorizations"][0]
        seen.add((await client.post(url)).json["status"])
        challenges = {each["type"]: each["url"] for each in (await client.post(url)).json["challenges"]}
        await client.post(challenges["http-01"], {})
        if update is not None:
            await client.post(url, update)
        seen.add((await client.post(url)).json["status"])
    assert seen == {"pending", "valid", "invalid", "deactivated"}


LEGO_LINK = re.compile('<(.+?)>(?:;[^;]+)*?;\\s*rel="(.+?)"')


async def test_lego_and_uacme_find_relations_line_by_line(client: AcmeClient) -> None:
    """lego wants the quotes; uacme looks at one header line for one relation; nobody splits at commas."""
    order = await client.order("a.example.com")
    authorization = order.json["authorizations"][0]
    challenge = (await client.post(authorization)).json["challenges"][0]["url"]
    payloads: tuple[object, ...] = (b"", {})
    for payload in payloads:
        reply = await client.post(challenge, payload)
        found = [LEGO_LINK.fullmatch(line) for line in reply.links]
        relations = {match[2]: match[1] for match in found if match is not None}
        assert len(relations) == len(found) == 2
        assert relations["up"] == authorization
        assert relations["index"].endswith("/acme/choice/directory")


# ------------------------------------------------------------------------------------------------ certbot


async def test_certbot_gets_the_challenge_that_it_answered_and_the_way_up(client: AcmeClient) -> None:
    """It fails hard without rel=up, and where the body's URL is not the one it posted to."""
    order = await client.order("a.example.com")
    authorization = order.json["authorizations"][0]
    for challenge in (await client.post(authorization)).json["challenges"]:
        reply = await client.post(challenge["url"], {})
        assert (reply.status, reply.json["url"], reply.json["type"]) == (200, challenge["url"], challenge["type"])
        assert f'<{authorization}>;rel="up"' in reply.links


async def test_what_is_no_conflict_of_keys_or_renewals_is_not_409(world: AcmeWorld, client: AcmeClient) -> None:
    """certbot takes any 409 for "your key has an account already" and never reads the body; it is for that and for RFC 9773 alone."""
    order, _ = await issued(client, "a.example.com")
    csr = der_of(make_csr("a.example.com"))
    again = [await client.finalize(order, csr), await client.post(order.json["authorizations"][0], {"status": "deactivated"})]
    again.append(await client.post(order.json["authorizations"][0], {"status": "deactivated"}))
    world.policy.refuse(Rejection(Reason.CONFLICT, "somebody else was first"))
    again.append(await client.order("a.example.com"))
    assert [reply.status for reply in again] == [403, 200, 400, 403]


async def test_a_key_that_has_an_account_finds_it_whole_and_unchanged(client: AcmeClient) -> None:
    """RFC 8555 §7.3.1: 200 with Location and the account; what the request says besides changes nothing."""
    known = await client.post(client.kid)
    for wanted in ({}, {"onlyReturnExisting": True}, {"contact": ["mailto:other@example.com"]}):
        found = await client.register(**wanted)
        assert (found.status, found.location, found.json) == (200, client.kid, known.json)


# ------------------------------------------------------------------------------------------------ waiting


async def test_every_retry_after_is_a_small_whole_number_of_seconds(
    world: AcmeWorld,
) -> None:
    """certbot misreads dates; acme.sh takes all digits together, and gives up above 600."""
    client = await world.registered()
    order = await ready(client, "a.example.com")
    csr = der_of(make_csr("a.example.com"))
    replies = []
    for outcome in (Pending("issuance", retry_after=30), Unavailable("signer"), Unavailable("database", retry_after=20)):
        world.issuance.script.append(outcome)
        replies.append(await client.finalize(order, csr))
    world.policy.refuse(Rejection(Reason.RATE_LIMITED, "slow down", retry_after=60))
    replies.append(await client.order("b.example.com"))
    for reply in replies:
        assert re.fullmatch("[0-9]{1,3}", reply.headers["Retry-After"])
        assert 1 <= int(reply.headers["Retry-After"]) <= 600


async def test_an_answer_that_asks_for_no_waiting_has_no_retry_after(client: AcmeClient) -> None:
    order, final = await issued(client, "a.example.com")
    settled = [order, final, await client.post(order.location), await client.post(order.json["authorizations"][0])]
    settled.append(await client.post(final.json["certificate"]))
    assert all("Retry-After" not in reply.headers for reply in settled)


# ------------------------------------------------------------------------------------------------ certificates


async def test_a_chain_is_pem_and_nothing_else_with_the_leaf_first(world: AcmeWorld, client: AcmeClient) -> None:
    """RFC 8555 §9.1: no text between; each certifies the one before it; the leaf is of the CSR's key."""
    order = await ready(client, "a.example.com")
    csr = make_csr("a.example.com")
    final = await client.finalize(order, der_of(csr))
    body = (await client.post(final.json["certificate"])).body.decode("ascii")
    block = "-----BEGIN CERTIFICATE-----\n(?:[A-Za-z0-9+/=]{1,64}\n)+-----END CERTIFICATE-----\n"
    assert re.fullmatch(f"(?:{block})+", body)
    leaf, issuer = x509.load_pem_x509_certificates(body.encode())
    assert leaf.public_key() == csr.public_key()
    leaf.verify_directly_issued_by(issuer)
    assert issuer == world.issuance.ca.certificate


async def test_a_certificate_can_be_fetched_again_and_again_the_same(client: AcmeClient) -> None:
    _, final = await issued(client, "a.example.com")
    assert len({(await client.post(final.json["certificate"])).body for _ in range(3)}) == 1


# ------------------------------------------------------------------------------------------------ echoes


@pytest.mark.parametrize(
    "identifiers",
    [
        [{"type": "dns", "value": "WWW.Example.COM"}],
        [{"type": "dns", "value": "xn--bcher-kva.example.com"}, {"type": "dns", "value": "XN--BCHER-KVA.example.org"}],
        [{"type": "ip", "value": "2001:db8:0:0:0:0:0:1"}, {"type": "ip", "value": "192.0.2.1"}],
        [{"type": "dns", "value": "b.example.com"}, {"type": "dns", "value": "a.example.com"}],
    ],
)
async def test_an_order_echoes_its_identifiers_letter_by_letter_to_its_end(
    world: AcmeWorld, identifiers: list[dict[str, str]]
) -> None:
    """lego compares type and value as text and aborts where they differ."""
    client = await world.registered()
    order = await client.post(client.url("new-order"), {"identifiers": identifiers})
    assert order.json["identifiers"] == identifiers
    assert (await client.post(order.location)).json["identifiers"] == identifiers
    await client.authorize(order)
    assert (await client.post(order.location)).json["identifiers"] == identifiers


async def test_an_order_is_ready_in_the_moment_in_which_its_last_authorization_is_valid(
    world: AcmeWorld, client: AcmeClient
) -> None:
    """cert-manager looks once; an order that is pending with valid authorizations strands it."""
    order = await client.order("a.example.com", "b.example.com")
    for number, url in enumerate(order.json["authorizations"]):
        challenge = (await client.post(url)).json["challenges"][0]["url"]
        assert (await client.post(challenge, {})).json["status"] == "valid"
        assert (await client.post(order.location)).json["status"] == ("pending", "ready")[number]
    assert world.log.events == []
