"""Full CMC (RFC 7030 §4.3, RFC 5272) through the whole pipeline, by a client that is written with other code than ours."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from storage.open import open_database
from tests.helpers import cmc
from tests.helpers.authorities import CLIENT_AUTH, START, Authority, certify, ec_key, name, purposes
from tests.helpers.clock import FakeClock
from tests.helpers.cmc import SignerOf, Unsigned, csr, pki_data, signed, tcr
from tests.helpers.cmc_world import CA, REGISTRARS, SECRET, CmcWorld
from tests.helpers.scep import integer, octets, self_signed

SUCCESS, FAILED, PENDING, NO_SUPPORT, POP_REQUIRED, PARTIAL = 0, 2, 3, 4, 6, 7
BAD_ALG, BAD_MESSAGE_CHECK, BAD_REQUEST, BAD_TIME, BAD_CERT_ID, UNSUPPORTED_EXT = range(6)
BAD_IDENTITY, NO_POP, POP_FAILED, TRY_LATER = 7, 8, 9, 12


@pytest.fixture
async def world(tmp_path: Path, clock: FakeClock) -> AsyncIterator[CmcWorld]:
    database = await open_database(f"sqlite://{tmp_path}/certwright.db", migrate=True)
    async with CmcWorld(database, clock) as world:
        yield world
    await database.close()


async def test_an_agent_gets_a_certificate_for_a_device_in_a_simple_response(world: CmcWorld) -> None:
    """RFC 5272 §3.2: "Simple PKI Response if the enrollment was successful and only certificates are returned"."""
    key = ec_key("device key")
    reply = await world.send(signed(pki_data(requests=[tcr(1, csr(key, "a.example.com"))]), world.agent()), status=200)
    assert not reply.full
    assert reply.certificate_of(key).subject.rfc4514_string() == "CN=dev1"
    assert await world.certificates() == 1


async def test_with_a_transaction_the_response_is_a_full_one_and_has_its_number_and_nonces(world: CmcWorld) -> None:
    key = ec_key("device key")
    controls = [
        cmc.control(11, cmc.TRANSACTION_ID, integer(77)),
        cmc.control(12, cmc.SENDER_NONCE, octets(b"n" * 16)),
        cmc.control(13, cmc.DATA_RETURN, octets(b"shelf 7")),
        cmc.control(14, cmc.REG_INFO, octets(b"anything")),
    ]
    reply = await world.send(signed(pki_data(controls, [tcr(1, csr(key))]), world.agent()), status=200)
    assert reply.full
    assert reply.about(1).status == SUCCESS
    assert reply.controls[cmc.TRANSACTION_ID] == (integer(77),)
    assert reply.controls[cmc.RECIPIENT_NONCE] == (octets(b"n" * 16),)
    assert reply.controls[cmc.DATA_RETURN] == (octets(b"shelf 7"),)
    [ours] = reply.controls[cmc.SENDER_NONCE]
    assert ours != octets(b"n" * 16)
    assert reply.certificate_of(key)


# ---------------------------------------------------------------------- four ways to be somebody


def controls_of_secret(
    requests: list[bytes], *, secret: str = SECRET, identification: str = "device-7", random: bytes = b"R" * 64
) -> list[bytes]:
    return [
        cmc.control(901, cmc.IDENTIFICATION, cmc.text(identification)),
        cmc.control(902, cmc.IDENTITY_PROOF_V2, cmc.identity_proof(secret.encode(), identification, requests)),
        cmc.control(903, cmc.POP_LINK_RANDOM, octets(random)),
    ]


def linked(key: cmc.Key, *, secret: str = SECRET, random: bytes = b"R" * 64) -> bytes:
    return csr(key, link=(secret.encode(), random))


async def test_the_holder_of_a_certificate_renews_it_with_a_new_key(world: CmcWorld) -> None:
    holder, new = await world.holder(), ec_key("new key")
    reply = await world.send(signed(pki_data(requests=[tcr(1, csr(new))]), holder), status=200)
    assert reply.certificate_of(new).subject == holder.named.subject
    assert await world.certificates() == 2


async def test_a_renewal_is_for_the_names_of_the_certificate_and_for_no_others(world: CmcWorld) -> None:
    """As simplereenroll (RFC 7030 §4.2.2); RFC 5272 §6.3.3: "The client copies all of the naming information"."""
    holder = await world.holder()
    for others in (csr(ec_key("new key"), common_name="dev2"), csr(ec_key("new key"), "more.example.com")):
        reply = await world.send(signed(pki_data(requests=[tcr(1, others)]), holder), status=403)
        assert reply.about(1).fail_info == BAD_IDENTITY
        assert "differs" in reply.about(1).text
    assert await world.certificates() == 1


async def test_a_manufacturers_device_enrols(world: CmcWorld) -> None:
    key = ec_key("device key")
    reply = await world.send(signed(pki_data(requests=[tcr(1, csr(key))]), world.device()), status=200)
    assert reply.certificate_of(key)


@pytest.mark.parametrize("signer", ["its own key", "nobody"])
async def test_who_knows_the_shared_secret_enrols(world: CmcWorld, signer: str) -> None:
    """RFC 5272 §6.2.1; signed with the key of its own request (§3.2), or by nobody (Appendix C.1)."""
    key = ec_key("device key")
    requests = [tcr(1, linked(key))]
    by = SignerOf(key) if signer == "its own key" else Unsigned()
    reply = await world.send(signed(pki_data(controls_of_secret(requests), requests), by), status=200)
    assert reply.certificate_of(key)
    [row] = await world.est.issuing.rows("SELECT principal, evidence FROM issuance")
    assert row["principal"] == "cmc-client:default/device-7"
    assert "SharedSecret" in row["evidence"]


async def test_http_says_who_sends_what_its_own_key_has_signed(world: CmcWorld) -> None:
    key = ec_key("device key")
    message = signed(pki_data(requests=[tcr(1, csr(key))]), SignerOf(key))
    reply = await world.send(message, auth=("alice", "password"), status=200)
    assert reply.certificate_of(key)


async def test_without_credentials_http_asks_for_them_and_nothing_is_issued(world: CmcWorld) -> None:
    """RFC 7030 §3.2.3; a 401 has no body, for there are clients that stop reading at its first octet."""
    key = ec_key("device key")
    message = signed(pki_data(requests=[tcr(1, csr(key))]), SignerOf(key))
    for auth in (None, ("alice", "wrong")):
        status, headers, text = await world.post(base64.b64encode(message), auth=auth)
        assert (status, text) == (401, "")
        assert "Basic" in headers["WWW-Authenticate"]
    assert await world.intents() == 0


async def test_the_wrong_password_is_no_matter_for_an_agent(world: CmcWorld) -> None:
    """RFC 7030 §4.3.1: the message carries its own authentication, and none of HTTP's stands in for it or against it."""
    reply = await world.send(
        signed(pki_data(requests=[tcr(1, csr(ec_key("device key")))]), world.agent()), auth=("alice", "wrong"), status=200
    )
    assert reply.certificates


# ---------------------------------------------------------------------- nobody


async def _stranger(world: CmcWorld) -> SignerOf:
    return world.agent(by=Authority("Strangers"))


async def _agent_without_the_purpose(world: CmcWorld) -> SignerOf:
    key = ec_key("agent")
    return SignerOf(key, x509.load_der_x509_certificate(REGISTRARS.leaf("agent", purposes(CLIENT_AUTH), key=key)))


async def _expired_agent(world: CmcWorld) -> SignerOf:
    return world.agent(begin=START, end=START + timedelta(days=1))


async def _revoked(world: CmcWorld) -> SignerOf:
    holder = await world.holder()
    await world.est.revoke(holder.named.public_bytes(Encoding.DER))
    return holder


async def _of_another_label(world: CmcWorld) -> SignerOf:
    return await world.holder("other")


async def _made_by_itself(world: CmcWorld) -> SignerOf:
    key = ec_key("holder")
    return SignerOf(key, self_signed(key, "dev1"))


async def _looks_like_ours(world: CmcWorld) -> SignerOf:
    """The issuer's name, another issuer's key."""
    key = ec_key("forger")
    forged = certify(name("dev1"), key.public_key(), by=(CA.certificate.subject, ec_key("forger's ca")))
    return SignerOf(key, forged)


async def _another_key_signs(world: CmcWorld) -> SignerOf:
    agent = world.agent()
    agent.signs_for = ec_key("somebody else")
    return agent


@pytest.mark.parametrize(
    ("who", "fail_info"),
    [
        (_stranger, BAD_IDENTITY),
        (_agent_without_the_purpose, BAD_IDENTITY),
        (_expired_agent, BAD_IDENTITY),
        (_revoked, BAD_IDENTITY),
        (_of_another_label, BAD_IDENTITY),
        (_made_by_itself, BAD_IDENTITY),
        (_looks_like_ours, BAD_IDENTITY),
        (_another_key_signs, BAD_MESSAGE_CHECK),
    ],
)
async def test_who_is_nobody_here_gets_a_signed_refusal_and_nothing_else(
    world: CmcWorld, who: Callable[[CmcWorld], Awaitable[SignerOf]], fail_info: int
) -> None:
    signer = await who(world)
    before = await world.certificates(), await world.intents()
    message = signed(pki_data(requests=[tcr(1, csr(ec_key("device key")))]), signer)
    reply = await world.send(message, auth=("alice", "password"), status=403 if fail_info == BAD_IDENTITY else 400)
    [said] = reply.said
    assert (said.status, said.fail_info, said.body_parts) == (FAILED, fail_info, (0,))
    assert not reply.certificates[1:]  # that of our own signer alone
    assert (await world.certificates(), await world.intents()) == before


async def test_a_label_without_certificates_takes_agents_and_no_holders(world: CmcWorld) -> None:
    key = ec_key("device key")
    holder = await world.holder("passwords")
    reply = await world.send(signed(pki_data(requests=[tcr(1, csr(key))]), holder), label="passwords", status=403)
    assert reply.about(0).fail_info == BAD_IDENTITY


async def test_a_label_that_takes_certificates_alone_has_no_401(world: CmcWorld) -> None:
    key = ec_key("device key")
    reply = await world.send(signed(pki_data(requests=[tcr(1, csr(key))]), SignerOf(key)), label="closed", status=403)
    assert reply.about(0).fail_info == BAD_IDENTITY


def _wrong_secret(key: cmc.Key) -> tuple[list[bytes], list[bytes]]:
    requests = [tcr(1, linked(key))]
    return controls_of_secret(requests, secret="something else, long enough"), requests


def _unknown_identification(key: cmc.Key) -> tuple[list[bytes], list[bytes]]:
    requests = [tcr(1, linked(key))]
    return controls_of_secret(requests, identification="device-8"), requests


def _no_identification(key: cmc.Key) -> tuple[list[bytes], list[bytes]]:
    requests = [tcr(1, linked(key))]
    return controls_of_secret(requests)[1:], requests


def _proof_over_other_requests(key: cmc.Key) -> tuple[list[bytes], list[bytes]]:
    return controls_of_secret([tcr(1, linked(ec_key("another")))]), [tcr(1, linked(key))]


def _no_link(key: cmc.Key) -> tuple[list[bytes], list[bytes]]:
    requests = [tcr(1, csr(key))]
    return controls_of_secret(requests), requests


def _no_random(key: cmc.Key) -> tuple[list[bytes], list[bytes]]:
    requests = [tcr(1, linked(key))]
    return controls_of_secret(requests)[:2], requests


def _link_by_another_secret(key: cmc.Key) -> tuple[list[bytes], list[bytes]]:
    requests = [tcr(1, linked(key, secret="somebody else's, long enough"))]
    return controls_of_secret(requests), requests


def _link_over_other_random(key: cmc.Key) -> tuple[list[bytes], list[bytes]]:
    requests = [tcr(1, linked(key, random=b"r" * 64))]
    return controls_of_secret(requests), requests


@pytest.mark.parametrize(
    ("wrong", "body_part", "fail_info"),
    [
        (_wrong_secret, 0, BAD_IDENTITY),
        (_unknown_identification, 0, BAD_IDENTITY),
        (_no_identification, 0, BAD_IDENTITY),
        (_proof_over_other_requests, 0, BAD_IDENTITY),
        (_no_link, 1, NO_POP),
        (_no_random, 1, NO_POP),
        (_link_by_another_secret, 1, POP_FAILED),
        (_link_over_other_random, 1, POP_FAILED),
    ],
)
async def test_a_shared_secret_vouches_for_what_it_was_used_for_and_for_nothing_else(
    world: CmcWorld, wrong: Callable[[cmc.Key], tuple[list[bytes], list[bytes]]], body_part: int, fail_info: int
) -> None:
    key = ec_key("device key")
    reply = await world.send(signed(pki_data(*wrong(key)), SignerOf(key)))
    assert reply.about(body_part).fail_info == fail_info
    assert SECRET not in " ".join(said.text for said in reply.said)
    assert await world.intents() == 0


async def test_who_guesses_secrets_is_made_to_wait(world: CmcWorld) -> None:
    key = ec_key("device key")
    requests = [tcr(1, linked(key))]
    right = signed(pki_data(controls_of_secret(requests), requests), SignerOf(key))
    wrong = signed(pki_data(controls_of_secret(requests, secret="wrong"), requests), SignerOf(key))
    for _ in range(3):
        assert (await world.send(wrong, label="guarded")).about(0).fail_info == BAD_IDENTITY
    reply = await world.send(right, label="guarded", status=429)
    assert reply.about(0).fail_info == TRY_LATER
    assert await world.intents() == 0


async def test_a_secret_of_one_label_opens_no_other(world: CmcWorld) -> None:
    key = ec_key("device key")
    requests = [tcr(1, linked(key))]
    message = signed(pki_data(controls_of_secret(requests), requests), SignerOf(key))
    reply = await world.send(message, label="other", status=403)
    assert reply.about(0).fail_info == BAD_IDENTITY


async def test_a_request_that_another_key_signed_for_is_nobodys(world: CmcWorld) -> None:
    """The signature of PKIData by a key that is not of the request would prove nothing."""
    requests = [tcr(1, linked(ec_key("device key")))]
    other = ec_key("somebody else")
    message = signed(pki_data(controls_of_secret(requests), requests), SignerOf(other, self_signed(other, "dev1")))
    reply = await world.send(message, status=403)
    assert reply.about(0).fail_info == BAD_IDENTITY
    assert await world.intents() == 0
