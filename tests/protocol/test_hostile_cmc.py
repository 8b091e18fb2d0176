"""Full CMC by people who mean harm: each story is an attack, and its name says what becomes of it."""

from __future__ import annotations

import base64
import hmac
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from storage.open import open_database
from tests.helpers import cmc
from tests.helpers.authorities import Authority, certify, ec_key, name, purposes
from tests.helpers.clock import FakeClock
from tests.helpers.cmc import SignerOf, control, crm, crmf, csr, pki_data, read_reply, signed, tcr
from tests.helpers.cmc_world import CA, RA, ROLES, SECRET, CmcWorld
from tests.helpers.scep import integer, octets, oid, retag, rsa_key, self_signed, seq

SUCCESS, FAILED = 0, 2
BAD_ALG, BAD_MESSAGE_CHECK, BAD_REQUEST, BAD_CERT_ID = 0, 1, 2, 4
BAD_IDENTITY, NO_POP, POP_FAILED, TRY_LATER = 7, 8, 9, 12
STRANGERS = Authority("Strangers")


@pytest.fixture
async def world(tmp_path: Path, clock: FakeClock) -> AsyncIterator[CmcWorld]:
    database = await open_database(f"sqlite://{tmp_path}/certwright.db", migrate=True)
    async with CmcWorld(database, clock) as world:
        yield world
    await database.close()


async def by_tls(world: CmcWorld, message: bytes, carrier: SignerOf, *, label: str = "default") -> cmc.Reply:
    """The message over a connection for which somebody, who need not have written it, has presented their certificate."""
    headers = {
        "Content-Type": "application/pkcs7-mime; smime-type=CMC-request",
        "X-Test-Chain": base64.b64encode(carrier.named.public_bytes(Encoding.DER)).decode(),
    }
    reply = await world.est.post("fullcmc", base64.b64encode(message), headers, label=label)
    return read_reply(reply.text.encode(), by=RA)


async def test_what_an_agent_carries_by_tls_speaks_for_no_key_that_it_has_not_signed_for(world: CmcWorld) -> None:
    """RFC 5272 §6.8, RFC 4211 §4: the agent's word is its signature; a device's own message is the device's, whoever carries it."""
    device, another = ec_key("device key"), ec_key("another key")
    verified = crm(crmf(2, another, pop=cmc.RA_VERIFIED))
    reply = await by_tls(world, signed(pki_data(requests=[tcr(1, csr(device)), verified]), SignerOf(device)), world.agent())
    assert reply.about(2).fail_info == POP_FAILED
    witness = control(5, cmc.LRA_POP_WITNESS, seq(integer(0), seq(integer(2))))
    vouched = pki_data([witness], [tcr(1, csr(device)), crm(crmf(2, another))])
    reply = await by_tls(world, signed(vouched, SignerOf(device)), world.agent())
    assert reply.about(2).fail_info == POP_FAILED
    assert await world.intents() == 0


async def test_what_an_agent_carries_by_tls_revokes_nothing_that_is_not_its_senders(world: CmcWorld) -> None:
    holder, device = await world.holder(), ec_key("device key")
    data = pki_data([revoke(holder.named)], [tcr(1, csr(device))])
    reply = await by_tls(world, signed(data, SignerOf(device)), world.agent())
    assert (reply.about(1).status, reply.about(5).fail_info) == (SUCCESS, BAD_CERT_ID)


async def test_what_a_holder_carries_by_tls_does_not_revoke_the_holders_certificate(world: CmcWorld) -> None:
    """RFC 5272 §6.11: who revokes signs the message. A gateway that enrols what is behind it has not said that it gives up its own."""
    gateway, device = await world.holder("gateways"), ec_key("device key")
    for asked in ([tcr(1, csr(device))], []):
        carried = signed(pki_data([revoke(gateway.named)], asked), SignerOf(device, self_signed(device)))
        reply = await by_tls(world, carried, gateway, label="gateways")
        assert reply.about(5).fail_info == BAD_CERT_ID
    found = await world.est.issuing.issuance.certificate(f"{gateway.named.serial_number:x}")
    assert found is not None
    assert found.revoked_at is None


@pytest.mark.parametrize("number", [1 << 32, 1 << 20_000, -1, -(1 << 20_000)], ids=["33 bits", "20001 bits", "-1", "negative"])
@pytest.mark.parametrize("kind", ["lraPOPWitness", "decryptedPOP"])
async def test_a_reference_that_is_no_body_part_is_refused_whoever_sends_it(world: CmcWorld, kind: str, number: int) -> None:
    """RFC 5272 §3.2.2: a BodyPartID is at most 4294967295. Python writes no number of more than 4300 digits."""
    reference = {
        "lraPOPWitness": control(5, cmc.LRA_POP_WITNESS, seq(integer(0), seq(integer(number)))),
        "decryptedPOP": control(5, cmc.DECRYPTED_POP, seq(integer(number), seq(oid(cmc.HMAC_SHA256)), octets(b"x"))),
    }[kind]
    reply = await world.send(signed(pki_data([reference], [tcr(1, csr(ec_key("device key")))]), cmc.Unsigned()), status=400)
    assert reply.about(5).fail_info == BAD_REQUEST


@pytest.mark.parametrize(
    "controls",
    [
        pytest.param([control(5, cmc.LRA_POP_WITNESS, seq(integer(0), seq(*map(integer, range(2, 10_000)))))], id="references"),
        pytest.param([control(part, f"1.2.3.{part}", octets(b"")) for part in range(2, 900)], id="controls"),
    ],
)
async def test_what_is_wrong_in_a_thousand_places_is_said_in_a_few_words(world: CmcWorld, controls: list[bytes]) -> None:
    reply = await world.send(signed(pki_data(controls, [tcr(1, csr(ec_key("device key")))]), cmc.Unsigned()), status=400)
    assert [len(each.text) < 200 for each in reply.said] == [True]


async def test_who_renews_and_revokes_in_one_message_can_send_it_again(world: CmcWorld) -> None:
    """Whoever misses a response sends the message again; one that had revoked its own signer would be nobody's."""
    holder, key = await world.holder(), ec_key("next key")
    message = signed(pki_data([revoke(holder.named)], [tcr(1, csr(key))]), holder)
    first, again = await world.send(message, status=200), await world.send(message, status=200)
    assert first.certificate_of(key) == again.certificate_of(key)
    assert again.about(5).fail_info == BAD_REQUEST
    assert (await world.send(signed(pki_data([revoke(holder.named)]), holder), status=200)).about(5).status == SUCCESS


async def test_an_agent_replaces_a_devices_certificate_in_one_message(world: CmcWorld) -> None:
    holder, key = await world.holder(), ec_key("next key")
    reply = await world.send(signed(pki_data([revoke(holder.named)], [tcr(1, csr(key))]), world.agent()), status=200)
    assert reply.about(5).status == SUCCESS
    assert reply.certificate_of(key)


@pytest.mark.parametrize(
    ("modulus", "exponent"), [((1 << 2047) + 2, 65537), ((1 << 4095) + 1, (1 << 80) + 1)], ids=["even", "exponent"]
)
async def test_a_key_that_is_none_gets_no_challenge(world: CmcWorld, modulus: int, exponent: int) -> None:
    public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    asked = [crm(_crmf_of(2, public)), tcr(3, csr(ec_key("device key")))]
    reply = await world.send(signed(pki_data(requests=asked), world.agent()), status=400)
    assert reply.about(2).fail_info == BAD_ALG
    assert await world.intents() == 0


async def test_nothing_is_computed_with_a_strangers_requests_before_it_is_known_who_asks(world: CmcWorld) -> None:
    """A hundred signatures in one message are a tenth of a second. That these are wrong is told to nobody who is not known."""
    key = ec_key("device key")
    broken = [tcr(part, csr(key)[:-1] + b"\0") for part in range(1, 101)]
    data = pki_data(requests=broken)
    assert (await world.post(base64.b64encode(signed(data, SignerOf(key)))))[0] == 401
    assert (await world.send(signed(data, cmc.Unsigned()), status=400)).about(0).fail_info == BAD_MESSAGE_CHECK
    assert (await world.send(signed(data, world.agent(by=STRANGERS)), status=403)).about(0).fail_info == BAD_IDENTITY
    claim = [
        control(201, cmc.IDENTIFICATION, cmc.text("device-7")),
        control(202, cmc.IDENTITY_PROOF_V2, cmc.identity_proof(b"a guess at the secret", "device-7", broken)),
    ]
    reply = await world.send(signed(pki_data(claim, broken), cmc.Unsigned()), status=403)
    assert reply.about(0).fail_info == BAD_IDENTITY
    assert (await world.send(signed(data, world.agent()), status=400)).about(1).fail_info == BAD_REQUEST


async def test_what_is_counted_of_wrong_passphrases_does_not_tell_which_certificates_there_are(world: CmcWorld) -> None:
    await world.sealed.set_cmc_secret(
        endpoint="guarded", identification="device-7", roles=ROLES, profile="", expires_at=None, secret=SECRET
    )
    key, random = ec_key("device key"), b"r" * 64
    requests = [tcr(1, csr(key, link=(SECRET.encode(), random)))]
    controls = [
        control(11, cmc.IDENTIFICATION, cmc.text("device-7")),
        control(12, cmc.IDENTITY_PROOF_V2, cmc.identity_proof(SECRET.encode(), "device-7", requests)),
        control(13, cmc.POP_LINK_RANDOM, octets(random)),
    ]
    reply = await world.send(signed(pki_data(controls, requests), SignerOf(key)), label="guarded", status=200)
    nobodys = world.agent()
    assert nobodys.certificate is not None
    for certificate in (nobodys.certificate, reply.certificate_of(key)):
        guesses = [revoke(certificate, part, secret=b"a guess") for part in range(1, 5)]
        answer = await world.send(signed(pki_data(guesses)), label="guarded")
        assert [each.fail_info for each in answer.said] == [BAD_IDENTITY] * 3 + [TRY_LATER]
        other = revoke(world.agent("another").named, secret=b"a guess")
        assert (await world.send(signed(pki_data([other])), label="guarded")).about(5).fail_info == BAD_IDENTITY


# ---------------------------------------------------------------------- attacks that found nothing


async def test_a_certificate_whose_response_cannot_be_signed_is_there_when_the_message_comes_again(world: CmcWorld) -> None:
    key, ra = ec_key("device key"), world.signer.key
    data = pki_data([control(11, cmc.TRANSACTION_ID, integer(7))], [tcr(1, csr(key))])
    world.signer.key = None
    assert (await world.post(base64.b64encode(signed(data, world.agent()))))[0] == 500
    [made] = await world.est.issuing.rows("SELECT serial FROM certificate")
    world.signer.key = ra
    reply = await world.send(signed(data, world.agent()), status=200)
    assert f"{reply.certificate_of(key).serial_number:x}" == made["serial"]


async def test_who_takes_an_agents_name_and_serial_is_no_agent(world: CmcWorld) -> None:
    """Two certificates of one issuer and serial in the bag: whose key signed is who is asked about, whichever comes first."""
    agent, key = world.agent(), ec_key("attacker")
    assert agent.certificate is not None
    forged = certify(
        agent.certificate.subject,
        key.public_key(),
        by=(agent.certificate.issuer, ec_key("attacker's CA")),
        extensions=(purposes(cmc.CMC_RA.dotted_string),),
        serial=agent.certificate.serial_number,
    )
    data = pki_data(requests=[tcr(1, csr(ec_key("device key")))])
    for one in (SignerOf(key, forged), SignerOf(key, agent.certificate)):
        reply = await world.send(signed(data, one, more=[agent.certificate, forged]))
        assert reply.about(0).status == FAILED
    assert await world.intents() == 0


async def test_two_senders_of_one_transaction_get_a_certificate_each_and_never_each_others(world: CmcWorld) -> None:
    request = [tcr(1, csr(ec_key("device key")))]
    data = pki_data([control(11, cmc.TRANSACTION_ID, integer(7))], request)
    replies = [
        await world.send(signed(data, world.agent(one)), label=label) for one in ("a", "b") for label in ("default", "other")
    ]
    assert len({reply.certificate_of(ec_key("device key")).serial_number for reply in replies}) == 4


async def test_nobody_chooses_the_key_identifier_of_a_certificate(world: CmcWorld) -> None:
    victim, key = await world.holder(), ec_key("device key")
    builder = x509.CertificateSigningRequestBuilder().subject_name(name("dev1"))
    builder = builder.add_extension(x509.SubjectKeyIdentifier(cmc.key_identifier(victim.key)), critical=False)
    request = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    made = (await world.send(signed(pki_data(requests=[tcr(1, request)]), world.agent()))).certificate_of(key)
    assert made.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest == cmc.key_identifier(key)


async def test_an_answer_to_one_challenge_proves_no_other_key(world: CmcWorld) -> None:
    """RFC 5272 §6.7: even for the same sender, in the same hour, under the same body part."""
    first, second = rsa_key("first"), rsa_key("second")
    challenged = [crm(crmf(2, key, pop=cmc.CHALLENGE_RESPONSE)) for key in (first, second)]
    reply = await world.send(signed(pki_data(requests=challenged[:1]), world.agent()), status=200)
    [challenge] = reply.controls[cmc.ENCRYPTED_POP]
    value, request = cmc.open_challenge(challenge, first)
    for asked, status in ((challenged[1], 400), (challenged[0], 200)):
        proof = hmac.digest(value, asked if status == 400 else request, "sha256")
        answer = control(5, cmc.DECRYPTED_POP, seq(integer(2), seq(oid(cmc.HMAC_SHA256)), octets(proof)))
        await world.send(signed(pki_data([answer], [asked]), world.agent()), status=status)
    assert await world.certificates() == 1


async def test_one_request_without_its_link_refuses_all_that_come_with_the_secret(world: CmcWorld) -> None:
    """RFC 5272 §6.3: each of them has to be linked, or a stranger's request could be put among them."""
    random = b"r" * 64
    requests = [
        tcr(1, csr(ec_key("device key"), link=(SECRET.encode(), random))),
        tcr(2, csr(ec_key("stranger's key"))),
    ]
    controls = [
        control(11, cmc.IDENTIFICATION, cmc.text("device-7")),
        control(12, cmc.IDENTITY_PROOF_V2, cmc.identity_proof(SECRET.encode(), "device-7", requests)),
        control(13, cmc.POP_LINK_RANDOM, octets(random)),
    ]
    reply = await world.send(signed(pki_data(controls, requests), cmc.Unsigned()), status=400)
    assert reply.about(2).fail_info == NO_POP
    assert await world.intents() == 0


async def test_passphrases_are_counted_one_by_one_in_one_message(world: CmcWorld) -> None:
    holder = await world.holder("guarded")
    guesses = [revoke(holder.named, part, secret=b"guess %d" % part) for part in range(1, 9)]
    reply = await world.send(signed(pki_data(guesses)), label="guarded")
    assert [each.fail_info for each in reply.said] == [BAD_IDENTITY] * 3 + [TRY_LATER] * 5


def _crmf_of(body_part: int, public: rsa.RSAPublicKey) -> bytes:
    key = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    template = retag(0xA5, seq(name("dev1").public_bytes())) + retag(0xA6, key)
    return seq(seq(integer(body_part), seq(template)))


def revoke(certificate: x509.Certificate, body_part: int = 5, *, secret: bytes | None = None) -> bytes:
    issuer = CA.certificate.subject.public_bytes()
    return control(body_part, cmc.REVOKE_REQUEST, cmc.revoke_request(issuer, certificate.serial_number, secret=secret))
