"""What CMC's controls do (RFC 5272 §6), around the real pipeline and its database."""

from __future__ import annotations

import asyncio
import base64
import hmac
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from issuance.approvals import Verdict
from issuance.request import BasicPassword
from pki.clock import to_datetime
from pki.reasons import Unavailable
from policy.principal import COMMAND_LINE, Principal, PrincipalKind
from storage.open import open_database
from tests.helpers import cmc
from tests.helpers.authorities import ec_key
from tests.helpers.clock import FakeClock
from tests.helpers.cmc import SignerOf, Unsigned, control, csr, pki_data, signed, tcr
from tests.helpers.cmc_world import CA, OLD_CA, ROLES, SECRET, CmcWorld
from tests.helpers.scep import asn1_content, children, integer, octets, oid, rsa_key, self_signed, seq

SUCCESS, FAILED, PENDING, POP_REQUIRED, PARTIAL = 0, 2, 3, 6, 7
BAD_ALG, BAD_REQUEST, BAD_TIME, BAD_CERT_ID = 0, 2, 3, 4
BAD_IDENTITY, POP_FAILED, UNSUPPORTED_EXT = 7, 9, 5
ISSUER = CA.certificate.subject.public_bytes()
KEY_COMPROMISE, SUPERSEDED, CA_COMPROMISE = 1, 4, 2


@pytest.fixture
async def world(tmp_path: Path, clock: FakeClock) -> AsyncIterator[CmcWorld]:
    database = await open_database(f"sqlite://{tmp_path}/certwright.db", migrate=True)
    async with CmcWorld(database, clock) as world:
        yield world
    await database.close()


async def is_revoked(world: CmcWorld, certificate: x509.Certificate) -> bool:
    record = await world.est.issuing.issuance.certificate(f"{certificate.serial_number:x}")
    assert record is not None
    return record.revoked_at is not None


# ---------------------------------------------------------------------- replay


async def test_a_message_that_is_replayed_gets_the_same_certificate_and_never_a_second_one(world: CmcWorld) -> None:
    message = signed(pki_data(requests=[tcr(1, csr(ec_key("device key")))]), world.agent())
    await asyncio.gather(*(world.send(message) for _ in range(3)))  # who is not first may be told to ask again: 202
    replies = [await world.send(message, status=200) for _ in range(2)]
    assert len({reply.certificate_of(ec_key("device key")) for reply in replies}) == 1
    assert await world.certificates() == 1


async def test_who_only_turns_around_what_is_signed_replays_the_same_message(world: CmcWorld) -> None:
    """RFC 5652 §5.4: attributes are signed in DER order, whatever order they are sent in."""
    message = signed(pki_data(requests=[tcr(1, csr(ec_key("device key")))]), world.agent())
    info = children(children(asn1_content(message))[-1])[0]
    attributes = children(info)[3]
    one, other = children(attributes)
    turned = message.replace(one + other, other + one)
    assert turned != message
    for each in (message, turned):
        await world.send(each, status=200)
    assert await world.certificates() == 1


async def test_a_transaction_that_is_sent_again_with_a_new_nonce_gets_the_same_certificate(world: CmcWorld) -> None:
    request = tcr(1, csr(ec_key("device key")))
    for nonce in (b"1" * 16, b"2" * 16):
        controls = [control(5, cmc.TRANSACTION_ID, integer(7)), control(6, cmc.SENDER_NONCE, octets(nonce))]
        await world.send(signed(pki_data(controls, [request]), world.agent()), status=200)
    assert await world.certificates() == 1


async def test_another_transaction_is_another_certificate(world: CmcWorld) -> None:
    request = tcr(1, csr(ec_key("device key")))
    for number in (7, 8):
        await world.send(
            signed(pki_data([control(5, cmc.TRANSACTION_ID, integer(number))], [request]), world.agent()), status=200
        )
    assert await world.certificates() == 2


async def test_what_a_shared_secret_vouches_for_is_one_certificate_in_whatever_transaction_it_is_put(world: CmcWorld) -> None:
    """Nobody signs the controls there: who has seen the message could write others."""
    requests = [tcr(1, csr(ec_key("device key"), link=(SECRET.encode(), b"R" * 64)))]
    proof = [
        control(901, cmc.IDENTIFICATION, cmc.text("device-7")),
        control(902, cmc.IDENTITY_PROOF_V2, cmc.identity_proof(SECRET.encode(), "device-7", requests)),
        control(903, cmc.POP_LINK_RANDOM, octets(b"R" * 64)),
    ]
    for number in (7, 8):
        controls = [*proof, control(5, cmc.TRANSACTION_ID, integer(number))]
        await world.send(signed(pki_data(controls, requests), Unsigned()), status=200)
    assert await world.certificates() == 1


async def test_our_nonce_counts_in_its_transaction_and_in_no_other(world: CmcWorld) -> None:
    first = [control(5, cmc.TRANSACTION_ID, integer(7)), control(6, cmc.SENDER_NONCE, octets(b"1" * 16))]
    reply = await world.send(signed(pki_data(first, [tcr(1, csr(ec_key("device key")))]), world.agent()), status=200)
    [ours] = reply.controls[cmc.SENDER_NONCE]
    for number, status in ((7, 200), (8, 400)):
        answer = [control(5, cmc.TRANSACTION_ID, integer(number)), control(7, cmc.RECIPIENT_NONCE, ours)]
        await world.send(signed(pki_data(answer, [tcr(1, csr(ec_key("device key")))]), world.agent()), status=status)


# ---------------------------------------------------------------------- revokeRequest


def revoke(
    certificate: x509.Certificate, reason: int = SUPERSEDED, *, secret: bytes | None = None, issuer: bytes = ISSUER
) -> bytes:
    return control(5, cmc.REVOKE_REQUEST, cmc.revoke_request(issuer, certificate.serial_number, reason, secret=secret))


async def test_an_agent_revokes_what_the_label_has_issued(world: CmcWorld) -> None:
    """§6.11: "A Full PKI Response MUST be returned for a revocation request"."""
    holder = await world.holder()
    reply = await world.send(signed(pki_data([revoke(holder.named)]), world.agent()), status=200)
    assert (reply.full, reply.about(5).status) == (True, SUCCESS)
    assert await is_revoked(world, holder.named)
    reply = await world.send(signed(pki_data([revoke(holder.named)]), world.agent()), status=400)
    assert reply.about(5).fail_info == BAD_REQUEST


async def test_the_holder_revokes_the_certificate_that_signs(world: CmcWorld) -> None:
    holder = await world.holder()
    await world.send(signed(pki_data([revoke(holder.named, KEY_COMPROMISE)]), holder), status=200)
    assert await is_revoked(world, holder.named)


async def test_nobody_revokes_the_certificate_of_somebody_else(world: CmcWorld) -> None:
    """Foreign, unknown and another's are one answer: who may ask learns nothing of the rest."""
    mine, others = await world.holder(), await world.holder(common_name="dev2", key=ec_key("other holder"))
    elsewhere = await world.holder("other", key=ec_key("elsewhere"))
    unknown = cmc.revoke_request(ISSUER, 12345, SUPERSEDED)
    foreign = revoke(others.named, issuer=world.agent().named.issuer.public_bytes())
    texts = set()
    for signer, asked in (
        (mine, revoke(others.named)),
        (world.device(), revoke(others.named)),
        (world.agent(), revoke(elsewhere.named)),
        (world.agent(), control(5, cmc.REVOKE_REQUEST, unknown)),
        (world.agent(), foreign),
    ):
        reply = await world.send(signed(pki_data([asked]), signer), status=400)
        assert reply.about(5).fail_info == BAD_CERT_ID
        texts.add(reply.about(5).text)
    assert len(texts) == 1
    assert not await is_revoked(world, others.named)
    assert not await is_revoked(world, elsewhere.named)


async def test_a_certificate_of_the_ca_that_the_label_had_before_is_the_labels_still(world: CmcWorld) -> None:
    """docs/est.md: what this label issued, whichever of our CAs it was by. Its holder and the agents revoke it."""
    name = OLD_CA.certificate.subject.public_bytes()
    alice, evidence = Principal(PrincipalKind.EST_USER, "default/alice", ROLES), (BasicPassword("default/alice"),)
    for of_holder in (True, False):
        der = await world.est.enrolled("default", common_name="dev1", profile="old", principal=alice, evidence=evidence)
        made = x509.load_der_x509_certificate(der)
        signer = SignerOf(ec_key("subscriber"), made) if of_holder else world.agent()
        for label, issuer, status in (("other", name, 400), ("default", ISSUER, 400), ("default", name, 200)):
            wanted = control(5, cmc.GET_CERT, cmc.get_cert(issuer, made.serial_number))
            await world.send(signed(pki_data([wanted]), world.agent()), label=label, status=status)
        reply = await world.send(signed(pki_data([revoke(made, issuer=name)]), signer), status=200)
        assert reply.about(5).status == SUCCESS
        assert await is_revoked(world, made)


async def test_a_reason_that_is_the_cas_to_give_revokes_nothing(world: CmcWorld) -> None:
    holder = await world.holder()
    for reason in (CA_COMPROMISE, 6, 7, 99):
        reply = await world.send(signed(pki_data([revoke(holder.named, reason)]), world.agent()), status=400)
        assert reply.about(5).fail_info == BAD_REQUEST
    assert not await is_revoked(world, holder.named)


async def enrolled_by_secret(world: CmcWorld, key: cmc.Key) -> x509.Certificate:
    requests = [tcr(1, csr(key, link=(SECRET.encode(), b"R" * 64)))]
    controls = [
        control(901, cmc.IDENTIFICATION, cmc.text("device-7")),
        control(902, cmc.IDENTITY_PROOF_V2, cmc.identity_proof(SECRET.encode(), "device-7", requests)),
        control(903, cmc.POP_LINK_RANDOM, octets(b"R" * 64)),
    ]
    return (await world.send(signed(pki_data(controls, requests), SignerOf(key)))).certificate_of(key)


async def test_who_has_lost_the_key_revokes_by_the_shared_secret(world: CmcWorld) -> None:
    """§6.11: "the unsigned message consisting of a SignedData with no signatures"."""
    certificate = await enrolled_by_secret(world, ec_key("device key"))
    reply = await world.send(signed(pki_data([revoke(certificate, secret=SECRET.encode())])), status=200)
    assert reply.about(5).status == SUCCESS
    assert await is_revoked(world, certificate)


async def test_an_agent_that_hands_on_a_secret_needs_none(world: CmcWorld) -> None:
    holder = await world.holder()
    await world.send(signed(pki_data([revoke(holder.named, secret=b"whatever the device said")]), world.agent()), status=200)
    assert await is_revoked(world, holder.named)


async def test_a_wrong_secret_revokes_nothing_and_tells_nothing_of_what_exists(world: CmcWorld) -> None:
    mine, others = await enrolled_by_secret(world, ec_key("device key")), (await world.holder()).named
    said = set()
    for certificate, secret in ((mine, b"wrong"), (others, SECRET.encode()), (world.agent().named, SECRET.encode())):
        reply = await world.send(signed(pki_data([revoke(certificate, secret=secret)])), status=403)
        said.add((reply.about(5).fail_info, reply.about(5).text))
    assert len(said) == 1
    assert not await is_revoked(world, mine)
    assert not await is_revoked(world, others)


async def test_an_unsigned_message_revokes_and_does_nothing_else(world: CmcWorld) -> None:
    certificate = await enrolled_by_secret(world, ec_key("device key"))
    more = control(6, cmc.GET_CRL, seq(ISSUER))
    reply = await world.send(signed(pki_data([revoke(certificate, secret=SECRET.encode()), more])), status=400)
    assert reply.about(0).status == FAILED
    assert not await is_revoked(world, certificate)


async def test_nothing_is_revoked_when_its_successor_is_not_issued(world: CmcWorld) -> None:
    holder = await world.holder()
    refused = tcr(1, csr(ec_key("device key"), "www.example.org"))
    reply = await world.send(signed(pki_data([revoke(holder.named)], [refused]), world.agent()))
    assert (reply.about(1).status, reply.about(5).fail_info) == (FAILED, BAD_REQUEST)
    assert not await is_revoked(world, holder.named)


# ---------------------------------------------------------------------- getCert, getCRL, confirmCertAcceptance


async def test_a_certificate_of_the_label_is_fetched_in_a_simple_response(world: CmcWorld) -> None:
    """§6.9: "the response should be a Simple PKI Response"."""
    holder = await world.holder()
    wanted = control(5, cmc.GET_CERT, cmc.get_cert(ISSUER, holder.named.serial_number))
    reply = await world.send(signed(pki_data([wanted]), world.device()), status=200)
    assert (reply.full, holder.named in reply.certificates) == (False, True)


async def test_what_the_label_has_not_issued_is_not_fetched_and_looks_like_nothing(world: CmcWorld) -> None:
    elsewhere = await world.holder("other")
    texts = set()
    for issuer, serial in (
        (ISSUER, elsewhere.named.serial_number),
        (ISSUER, 4711),
        (ISSUER, -1),
        (elsewhere.named.subject.public_bytes(), elsewhere.named.serial_number),
    ):
        wanted = control(5, cmc.GET_CERT, cmc.get_cert(issuer, serial))
        reply = await world.send(signed(pki_data([wanted]), world.agent()), status=400)
        assert reply.about(5).fail_info == BAD_CERT_ID
        texts.add(reply.about(5).text)
    assert len(texts) == 1


async def test_who_is_nobody_fetches_nothing(world: CmcWorld) -> None:
    holder = await world.holder()
    wanted = control(5, cmc.GET_CERT, cmc.get_cert(ISSUER, holder.named.serial_number))
    key = ec_key("stranger")
    stranger = SignerOf(key, self_signed(key))
    reply = await world.send(signed(pki_data([wanted]), stranger), label="closed", status=403)
    assert holder.named not in reply.certificates


async def test_the_newest_crl_is_fetched_in_a_simple_response(world: CmcWorld, clock: FakeClock) -> None:
    wanted = control(5, cmc.GET_CRL, seq(ISSUER))
    reply = await world.send(signed(pki_data([wanted]), world.device()), status=400)
    assert reply.about(5).fail_info == BAD_CERT_ID, "there is none yet"
    await world.publisher.look("issuing")
    reply = await world.send(signed(pki_data([wanted]), world.device()), status=200)
    [crl] = reply.crls
    assert (reply.full, crl.issuer) == (False, CA.certificate.subject)
    assert crl.last_update_utc <= to_datetime(clock.micros())
    foreign = control(5, cmc.GET_CRL, seq(world.agent().named.issuer.public_bytes()))
    reply = await world.send(signed(pki_data([foreign]), world.device()), status=400)
    assert reply.about(5).fail_info == BAD_CERT_ID


async def test_a_confirmation_is_answered_in_full(world: CmcWorld) -> None:
    """§6.14: "Servers MUST return a Full PKI Response for a Confirm Certificate Acceptance control"."""
    holder = await world.holder()
    for serial, status in ((holder.named.serial_number, 200), (4711, 400)):
        confirmed = control(5, cmc.CONFIRM_CERT_ACCEPTANCE, seq(ISSUER, integer(serial)))
        reply = await world.send(signed(pki_data([confirmed]), holder), status=status)
        assert (reply.full, reply.about(5).fail_info) == (True, None if status == 200 else BAD_CERT_ID)


# ---------------------------------------------------------------------- possession


def decrypted(reply: cmc.Reply, key: rsa.RSAPrivateKey, body_part: int) -> bytes:
    """The answer to the one challenge of a response (§6.7)."""
    [challenge] = reply.controls[cmc.ENCRYPTED_POP]
    value, request = cmc.open_challenge(challenge, key)
    proof = hmac.digest(value, request, "sha256")
    return control(20, cmc.DECRYPTED_POP, seq(integer(body_part), seq(oid(cmc.HMAC_SHA256)), octets(proof)))


async def test_a_key_that_signs_nothing_is_proved_by_what_it_decrypts(world: CmcWorld) -> None:
    """§6.7: four steps, and nothing is issued before the last."""
    key = rsa_key("encryption only")
    requests = [cmc.crm(cmc.crmf(1, key, pop=cmc.CHALLENGE_RESPONSE)), tcr(2, csr(ec_key("device key")))]
    asked = await world.send(signed(pki_data(requests=requests), world.agent()), status=200)
    assert asked.about(1).status == POP_REQUIRED
    assert asked.about(2).status == FAILED
    assert await world.intents() == 0
    answer = signed(pki_data([decrypted(asked, key, 1)], requests), world.agent())
    reply = await world.send(answer, status=200)
    assert reply.certificate_of(key)
    assert reply.certificate_of(ec_key("device key"))


async def test_an_answer_counts_for_its_request_its_sender_and_its_hour(world: CmcWorld, clock: FakeClock) -> None:
    key, other = rsa_key("encryption only"), rsa_key("another")
    request = cmc.crm(cmc.crmf(1, key, pop=cmc.CHALLENGE_RESPONSE))
    asked = await world.send(signed(pki_data(requests=[request]), world.agent()), status=200)
    answer = decrypted(asked, key, 1)
    for requests, signer, fail_info in (
        ([cmc.crm(cmc.crmf(1, other, pop=cmc.CHALLENGE_RESPONSE))], world.agent(), POP_FAILED),
        ([cmc.crm(cmc.crmf(1, key, "more.example.com", pop=cmc.CHALLENGE_RESPONSE))], world.agent(), POP_FAILED),
        ([request], world.agent("another agent"), POP_FAILED),
    ):
        reply = await world.send(signed(pki_data([answer], requests), signer), status=400)
        assert reply.about(1).fail_info == fail_info
    reply = await world.send(signed(pki_data([answer], [request]), world.agent()), label="other", status=400)
    assert reply.about(1).fail_info == POP_FAILED, "it was made at another label"
    clock.advance(timedelta(hours=3))
    reply = await world.send(signed(pki_data([answer], [request]), world.agent()), status=400)
    assert reply.about(1).fail_info == BAD_TIME
    assert await world.intents() == 0


async def test_a_key_that_signs_crmf_proves_itself(world: CmcWorld) -> None:
    for key in (ec_key("device key"), rsa_key("device")):
        request = cmc.crm(cmc.crmf(1, key, "a.example.com", sign=key))
        reply = await world.send(signed(pki_data(requests=[request]), world.agent()), status=200)
        names = reply.certificate_of(key).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["a.example.com"]


@pytest.mark.parametrize("way", ["raVerified", "lraPOPWitness"])
async def test_an_agent_vouches_for_a_key(world: CmcWorld, way: str) -> None:
    """RFC 4211 §4, RFC 5272 §6.8."""
    key = rsa_key("encryption only")
    witness = control(5, cmc.LRA_POP_WITNESS, seq(integer(0), seq(integer(1))))
    controls, pop = ([], cmc.RA_VERIFIED) if way == "raVerified" else ([witness], None)
    reply = await world.send(signed(pki_data(controls, [cmc.crm(cmc.crmf(1, key, pop=pop))]), world.agent()), status=200)
    assert reply.certificate_of(key)


# ---------------------------------------------------------------------- batches and approvals


async def test_in_a_batch_each_request_has_its_own_status(world: CmcWorld) -> None:
    keys = [ec_key(f"device {number}") for number in (1, 2, 3)]
    requests = [
        tcr(1, csr(keys[0], "a.example.com")),
        tcr(2, csr(keys[1], "www.example.org")),
        tcr(3, csr(keys[2], "c.example.com")),
    ]
    reply = await world.send(signed(pki_data(requests=requests), world.agent()), status=200)
    assert [reply.about(number).status for number in (1, 2, 3)] == [SUCCESS, FAILED, SUCCESS]
    assert reply.about(2).fail_info == BAD_REQUEST
    assert reply.certificate_of(keys[0]) != reply.certificate_of(keys[2])
    assert await world.certificates() == 2


async def approve_all(world: CmcWorld) -> None:
    for request in await world.est.issuing.approvals.newest():
        await world.est.issuing.approvals.decide(request.id, Verdict.APPROVE, approver=COMMAND_LINE)


async def test_what_waits_for_an_approval_is_asked_for_by_its_token(world: CmcWorld) -> None:
    """§6.13. RFC 7030 §4.2.3: 202 and Retry-After while it waits."""
    key = ec_key("device key")
    message = signed(pki_data(requests=[tcr(1, csr(key))]), world.agent())
    reply = await world.send(message, label="waiting", status=202)
    assert reply.about(1).status == PENDING
    token = reply.about(1).token
    assert token is not None
    query = signed(pki_data([control(9, cmc.QUERY_PENDING, octets(token))]), world.agent())
    again = await world.send(query, label="waiting", status=202)
    assert (again.about(9).status, again.about(9).token) == (PENDING, None)
    await approve_all(world)
    done = await world.send(query, label="waiting", status=200)
    assert done.about(9).status == SUCCESS
    assert done.certificate_of(key) == (await world.send(message, label="waiting", status=200)).certificate_of(key)
    assert await world.certificates() == 1


async def test_a_token_is_of_use_to_who_got_it_and_where_it_was_given(world: CmcWorld) -> None:
    message = signed(pki_data(requests=[tcr(1, csr(ec_key("device key")))]), world.agent())
    token = (await world.send(message, label="waiting", status=202)).about(1).token
    assert token is not None
    await approve_all(world)
    for octets_, signer, label in (
        (token, world.agent("another agent"), "waiting"),
        (token, world.agent(), "default"),
        (token[:-1] + bytes((token[-1] ^ 1,)), world.agent(), "waiting"),
        (b"", world.agent(), "waiting"),
    ):
        query = signed(pki_data([control(9, cmc.QUERY_PENDING, octets(octets_))]), signer)
        reply = await world.send(query, label=label, status=400)
        assert reply.about(9).fail_info == BAD_REQUEST
    assert await world.certificates() == 0


async def test_a_batch_of_which_some_waits_is_partial(world: CmcWorld) -> None:
    """§6.1.3: "The requester is responsible to poll back for the unfulfilled portions"."""
    first, second = ec_key("device 1"), ec_key("device 2")
    alone = signed(pki_data(requests=[tcr(1, csr(first, "a.example.com"))]), world.agent())
    await world.send(alone, label="waiting", status=202)
    await approve_all(world)
    both = pki_data(requests=[tcr(1, csr(first, "a.example.com")), tcr(2, csr(second, "b.example.com"))])
    reply = await world.send(signed(both, world.agent()), label="waiting", status=200)
    assert (reply.about(1).status, reply.about(2).status, reply.about(0).status) == (SUCCESS, PENDING, PARTIAL)
    assert reply.about(0).token == reply.about(2).token is not None
    assert reply.certificate_of(first)


async def test_what_is_denied_is_told_to_who_asks(world: CmcWorld) -> None:
    message = signed(pki_data(requests=[tcr(1, csr(ec_key("device key")))]), world.agent())
    token = (await world.send(message, label="waiting", status=202)).about(1).token
    assert token is not None
    [request] = await world.est.issuing.approvals.newest()
    await world.est.issuing.approvals.decide(request.id, Verdict.DENY, approver=COMMAND_LINE, comment="not this one")
    query = signed(pki_data([control(9, cmc.QUERY_PENDING, octets(token))]), world.agent())
    reply = await world.send(query, label="waiting", status=403)
    assert "not this one" in reply.about(9).text
    assert await world.certificates() == 0


# ---------------------------------------------------------------------- the rest of what can be said


async def test_an_outage_in_the_middle_of_a_batch_leaves_nothing_lost(world: CmcWorld) -> None:
    keys = [ec_key(f"device {number}") for number in (1, 2)]
    requests = [tcr(1, csr(keys[0], "a.example.com")), tcr(2, csr(keys[1], "b.example.com"))]
    message = signed(pki_data([control(5, cmc.TRANSACTION_ID, integer(3))], requests), world.agent())

    def away(_: bytes) -> bytes:
        raise Unavailable("signer")

    async def after_the_first() -> None:
        if world.est.issuing.signer.signed:
            world.est.issuing.signer.fail = away

    world.est.issuing.signer.meanwhile = after_the_first
    status, _, _ = await world.post(base64.b64encode(message))
    assert status >= 500, "the listener makes it 503: test_outage.py"
    assert await world.certificates() == 1
    world.est.issuing.signer.fail = world.est.issuing.signer.meanwhile = None
    reply = await world.send(message, status=200)
    assert [reply.about(number).status for number in (1, 2)] == [SUCCESS, SUCCESS]
    assert reply.certificate_of(keys[0]) != reply.certificate_of(keys[1])
    assert await world.certificates() == 2


async def test_a_name_of_a_kind_that_is_not_issued_is_an_unsupported_extension(world: CmcWorld) -> None:
    reply = await world.send(
        signed(pki_data(requests=[tcr(1, cmc.csr_for_mail(ec_key("device key")))]), world.agent()), status=400
    )
    assert reply.about(1).fail_info == UNSUPPORTED_EXT


async def test_a_status_from_a_client_is_taken_note_of(world: CmcWorld) -> None:
    """§6.7 step 3: a client that gives up says so."""
    gives_up = control(5, cmc.STATUS_INFO_V2, seq(integer(FAILED), seq(integer(1)), integer(POP_FAILED)))
    reply = await world.send(signed(pki_data([gives_up]), world.agent()), status=200)
    assert reply.about(0).status == SUCCESS


async def test_the_response_is_signed_by_the_registration_authority_and_openssl_says_so(
    world: CmcWorld, tmp_path: Path
) -> None:
    controls = [control(5, cmc.TRANSACTION_ID, integer(1))]
    message = signed(pki_data(controls, [tcr(1, csr(ec_key("device key")))]), world.agent())
    _, _, text = await world.post(message)
    cmc.verify_with_openssl(text.encode(), world.ra, tmp_path)
