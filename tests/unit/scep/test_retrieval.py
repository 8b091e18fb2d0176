"""GetCert and GetCRL (RFC 8894 §3.3.4, §3.3.5): for clients of the endpoint, and nothing learnt by asking wrongly."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from issuance.crl import CRL_INSERT_SQL
from issuance.request import Channel
from pki.clock import Micros, after
from scep.endpoint import Renewal, ScepEndpoint
from scep.retrieval import NOTHING
from storage.database import Step
from tests.helpers import scep as other
from tests.helpers.scep import SECRET, Answer, Message, csr, enveloped, integer, name, pkcs_req, rsa_key, self_signed, seq
from tests.helpers.scep_simulators import KnownChallenges
from tests.helpers.scep_site import ROLES, by_issuer_and_serial, opened, the_certificate
from tests.helpers.scep_world import ScepWorld, scep_world

BAD_MESSAGE_CHECK, BAD_REQUEST, BAD_CERT_ID = "1", "2", "4"
GET_CERT, GET_CRL = "21", "22"
DAY = timedelta(days=1)


@pytest.fixture
async def site() -> AsyncIterator[ScepWorld]:
    challenges = KnownChallenges({("default", SECRET), ("other", SECRET)})
    async with scep_world(challenges=challenges) as world:
        yield world


def endpoint(site: ScepWorld, label: str = "default") -> ScepEndpoint:
    return replace(site.ca.endpoint(name=label), renewal=Renewal(ROLES))


async def enrolled(site: ScepWorld, label: str = "device", at: str = "default") -> x509.Certificate:
    request = pkcs_req(site.ca, key=rsa_key(label))
    return the_certificate(await site.ask(request, endpoint=endpoint(site, at)), request)


def names(certificate: x509.Certificate) -> bytes:
    return other.issuer_and_serial(certificate)


def asks(site: ScepWorld, held: x509.Certificate, message_type: str, inside: bytes, label: str = "device") -> Message:
    return by_issuer_and_serial(site.ca, held, rsa_key(label), message_type, inside)


async def answered(site: ScepWorld, request: Message) -> Answer:
    return await site.ask(request, endpoint=endpoint(site))


async def publish(site: ScepWorld, number: int, *, issuer: str = "issuing", this_update: timedelta = -DAY) -> bytes:
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name("Test CA"))
        .last_update(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        .next_update(dt.datetime(2036, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.CRLNumber(number), critical=False)
        .sign(site.ca.key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    at = after(site.clock.micros(), this_update)
    await site.database.write(Step(CRL_INSERT_SQL, (issuer, number, made, at, after(at, 10 * DAY), 0)))
    return made


# ---------------------------------------------------------------- what is given


async def test_a_client_gets_every_certificate_of_its_endpoint(site: ScepWorld) -> None:
    """Its own again, and those of others: they are no secret, and whoever asks has one, too. One that is revoked, too."""
    held, theirs = await enrolled(site), await enrolled(site, "next")
    serial = f"{theirs.serial_number:x}"
    for revoked_at in (None, Micros(1)):
        site.issuance.records[serial] = replace(site.issuance.records[serial], revoked_at=revoked_at)
        for wanted in (held, theirs):
            request = asks(site, held, GET_CERT, names(wanted))
            answer = await answered(site, request)
            assert answer.transaction_id == "SSCEP transactionId"
            assert the_certificate(answer, request) == wanted


async def test_the_newest_published_crl_comes_alone(site: ScepWorld) -> None:
    held = await enrolled(site)
    await publish(site, 1, this_update=-2 * DAY)
    newest = await publish(site, 2)
    await publish(site, 3, this_update=DAY)  # not yet
    for serial in (held.serial_number, 4711):  # whose revocation is looked for does not matter: CRLs are whole
        inside = seq(held.issuer.public_bytes(), integer(serial))
        request = asks(site, held, GET_CRL, inside)
        contents = opened(await answered(site, request), request)
        assert contents.certificates == ()
        assert [crl.public_bytes(Encoding.DER) for crl in contents.crls] == [newest]


async def test_constant_transaction_ids_are_no_transaction(site: ScepWorld) -> None:
    held = await enrolled(site)
    mine = asks(site, held, GET_CERT, names(held))
    await answered(site, mine)
    waiting = await answered(site, replace(mine, message_type="20"))
    assert (waiting.status, waiting.fail_info) == ("2", BAD_CERT_ID)


# ---------------------------------------------------------------- what is not


async def test_everything_that_can_be_wrong_with_what_is_asked_for_is_one_answer(site: ScepWorld) -> None:
    """Whoever holds a certificate may send a captured message of somebody else; no answer tells what is in it."""
    held = await enrolled(site)
    elsewhere = await enrolled(site, "next", at="other")
    by_est = await enrolled(site, "third")
    serial = f"{by_est.serial_number:x}"
    site.issuance.records[serial] = replace(site.issuance.records[serial], channel=Channel.EST.value)
    issuer, ra = held.issuer.public_bytes(), site.ca.ra
    good = names(held)
    inside: dict[str, bytes] = {
        "an unknown serial": seq(issuer, integer(4711)),
        "serial 0": seq(issuer, integer(0)),
        "a negative serial": seq(issuer, integer(-held.serial_number)),
        "a certificate of another endpoint": names(elsewhere),
        "a certificate of another door": names(by_est),
        "the registration authority's": names(ra),
        "the CA's": names(site.ca.certificate),
        "a serial as long as a book": seq(issuer, integer(1 << 9000)),
        "a serial of a hundred octets": seq(issuer, integer(held.serial_number + (1 << 800))),
        "an unknown issuer": seq(name("Nobody").public_bytes(), integer(held.serial_number)),
        "an empty name": seq(seq(), integer(held.serial_number)),
        "something behind it": good + b"\0",
        "something in it": seq(issuer, integer(held.serial_number), integer(1)),
        "cut short": good[:-1],
        "no serial": seq(issuer),
        "the other way round": seq(integer(held.serial_number), issuer),
        "garbage": b"garbage",
        "deep garbage": b"\x30\x80" * 500,
        "nothing": b"",
        "somebody's request": csr(rsa_key("victim"), common_name="victim"),
    }
    contents = {what: enveloped(plain, ra) for what, plain in inside.items()}
    contents |= {
        "a broken encrypted key": enveloped(good, ra, encrypted_key=b"\x01" * 256),
        "another content key": enveloped(good, ra, cek=os.urandom(16)),
        "bad padding": enveloped(good, ra, ciphertext=os.urandom(1024)),
        "half a block": enveloped(good, ra, ciphertext=os.urandom(1025)),
    }
    of_our_ca = dict(list(inside.items())[:7])  # whose CRL is everybody's
    await publish(site, 1)
    seen = set()
    for what, content in contents.items():
        for message_type in (GET_CERT,) if what in of_our_ca else (GET_CERT, GET_CRL):
            answer = await answered(site, replace(asks(site, held, message_type, b""), content=content))
            assert (answer.status, answer.fail_info, answer.text) == ("2", BAD_CERT_ID, NOTHING), (what, message_type)
            seen.add((len(answer.der), answer.content))
    assert len(seen) == 1
    assert (site.challenges.asked.count(("default", SECRET)), len(site.issuance.requests)) == (2, 3)  # the enrolments


async def signers(site: ScepWorld) -> Sequence[tuple[str, x509.Certificate, str]]:
    held, elsewhere, late, revoked = [
        await enrolled(site, label, at)
        for label, at in (("device", "default"), ("next", "other"), ("third", "default"), ("fourth", "default"))
    ]
    serial, now = f"{late.serial_number:x}", site.clock.micros()
    ended = replace(site.issuance.records[serial].certificate, not_after=after(now, -DAY))
    site.issuance.records[serial] = replace(site.issuance.records[serial], certificate=ended)
    serial = f"{revoked.serial_number:x}"
    site.issuance.records[serial] = replace(site.issuance.records[serial], revoked_at=Micros(1))
    forged = other.certificate("dev1", rsa_key("device").public_key(), "Test CA", rsa_key("stranger"))
    assert held.issuer == forged.issuer
    return (
        ("device", self_signed(rsa_key("device")), "was issued here"),
        ("device", forged, "did not issue it"),
        ("next", elsewhere, "was not issued by this SCEP endpoint"),
        ("third", late, "has expired"),
        ("fourth", revoked, "is revoked"),
    )


async def test_strangers_read_nothing_and_nothing_of_theirs_is_opened(site: ScepWorld) -> None:
    """A directory of all devices is not for whoever makes himself a key."""
    wanted = await enrolled(site)
    await publish(site, 1)
    for label, signer, why in await signers(site):
        for message_type in (GET_CERT, GET_CRL):
            before = site.signer.decryptions
            answer = await answered(site, asks(site, signer, message_type, names(wanted), label))
            assert (answer.status, answer.fail_info, answer.content) == ("2", BAD_REQUEST, b""), why
            assert why in (answer.text or "")
            assert site.signer.decryptions == before


async def test_a_message_to_another_certificate_says_so(site: ScepWorld) -> None:
    held = await enrolled(site)
    request = replace(
        asks(site, held, GET_CERT, b""), content=enveloped(names(held), self_signed(rsa_key("stranger"), "old RA"))
    )
    answer = await answered(site, request)
    assert (answer.status, answer.fail_info) == ("2", BAD_MESSAGE_CHECK)
