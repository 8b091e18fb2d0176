"""SCEP's transactions (RFC 8894 §3.2.1.1, §3.3.2) with the real pipeline, on both databases: whose they are, and what becomes of them."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from issuance.approvals import Verdict
from issuance.request import (
    CertificateRole,
    Channel,
    DelegatedChallenge,
    Evidence,
    HeldCertificate,
    IssuanceRequest,
    OneTimeChallenge,
    Rejected,
    ScepChallenge,
)
from pki.cms.types import read_certificate
from pki.csr import parse_csr
from pki.identifiers import Identifier, parse_dns, parse_ip
from pki.reasons import Reason
from policy.limits import Limit
from policy.principal import Principal, PrincipalKind
from scep.authorization import REFUSED as NOT_LET_IN
from scep.authorization import Asked, Authorization
from scep.endpoint import Renewal, ScepEndpoint, ScepLimits, Way
from scep.transactions import AT_ONCE, REMEMBERED, Place, Transactions
from storage.database import Conflict, Database, Step
from tests.helpers.clock import FakeClock
from tests.helpers.scep import SECRET, Answer, Message, csr, enveloped, pkcs_req, rsa_key, self_signed
from tests.helpers.scep_site import ROLES, ScepSite, poll, renewal, the_certificate

BAD_REQUEST, BAD_CERT_ID = "2", "4"
GRANTED, REFUSED, WAITS = "0", "2", "3"


@pytest.fixture
def site(database: Database, clock: FakeClock) -> ScepSite:
    return ScepSite(database, clock)


@pytest.fixture
def careful(site: ScepSite) -> ScepEndpoint:
    return site.endpoint(require_approval=True)


def waits(answer: Answer) -> None:
    assert (answer.status, answer.fail_info, answer.content) == (WAITS, None, b""), answer.text


def unknown(answer: Answer) -> None:
    assert (answer.status, answer.fail_info, answer.content) == (REFUSED, BAD_CERT_ID, b"")


# ---------------------------------------------------------------- polling


async def test_a_request_waits_is_polled_for_and_comes_when_somebody_agrees(
    site: ScepSite, careful: ScepEndpoint, clock: FakeClock
) -> None:
    request = pkcs_req(site.ca)
    waits(await site.ask(request, careful))
    decryptions = site.signer.decryptions
    for _ in range(3):
        clock.advance(timedelta(hours=1))
        waits(await site.ask(poll(site.ca, request), careful))
    await site.decide()
    asked = poll(site.ca, request)
    answer = await site.ask(asked, careful)
    certificate = the_certificate(answer, asked)
    assert certificate.public_key() == rsa_key("device").public_key()
    assert (answer.transaction_id, answer.recipient_nonce) == ("TX-1", b"p" * 16)
    assert await site.certificate(asked, careful) == certificate  # the answer may have been lost
    assert site.signer.decryptions == decryptions  # a poll is never opened
    assert await site.certificate(request, careful) == certificate  # §5.2: or the request comes again
    assert await site.certificates() == 1


async def test_a_repeated_request_is_as_good_as_a_poll(site: ScepSite, careful: ScepEndpoint) -> None:
    request = pkcs_req(site.ca)
    waits(await site.ask(request, careful))
    waits(await site.ask(replace(request, nonce=b"2" * 16), careful))
    await site.decide()  # there is one
    certificate = await site.certificate(request, careful)
    assert await site.certificate(poll(site.ca, request), careful) == certificate


async def test_what_was_denied_is_refused_with_the_reason_by_poll_and_by_request(site: ScepSite, careful: ScepEndpoint) -> None:
    request = pkcs_req(site.ca)
    waits(await site.ask(request, careful))
    await site.decide(Verdict.DENY, "no such device")
    for again in (poll(site.ca, request), request, poll(site.ca, request)):
        answer = await site.ask(again, careful)
        assert (answer.status, answer.fail_info) == (REFUSED, BAD_REQUEST)
        assert "no such device" in (answer.text or "")
    assert await site.certificates() == 0


async def test_a_renewal_waits_like_an_enrolment(site: ScepSite, careful: ScepEndpoint) -> None:
    """The one who polls has the key that signed the request, not the one that it is for."""
    held = await site.enrolled("dev1", "dev1.example.com")
    wanted = csr(rsa_key("next"), challenge=None)
    request = renewal(site.ca, held, rsa_key("dev1"), request=wanted)
    waits(await site.ask(request, careful))
    by_the_new_key = replace(poll(site.ca, request), key=rsa_key("next"), signer=self_signed(rsa_key("next")))
    unknown(await site.ask(by_the_new_key, careful))
    waits(await site.ask(poll(site.ca, request), careful))
    await site.decide()
    certificate = await site.certificate(poll(site.ca, request), careful)
    assert certificate.public_key() == rsa_key("next").public_key()
    record = await site.issuing.issuance.certificate(f"{certificate.serial_number:x}", issuer="issuing")
    assert record is not None
    by = f"tls-client:issuing/{held.serial_number:x}"
    assert (record.principal, record.channel, record.endpoint) == (by, "scep", "default")


async def test_a_renewal_that_waits_has_the_roles_that_renewals_have_today(site: ScepSite, careful: ScepEndpoint) -> None:
    held = await site.enrolled("dev1", "dev1.example.com")
    request = renewal(site.ca, held, rsa_key("dev1"))
    waits(await site.ask(request, careful))
    await site.decide()
    fewer = replace(careful, renewal=Renewal(frozenset({"fewer"})))
    assert (await site.ask(poll(site.ca, request), fewer)).status == REFUSED
    assert await site.certificates() == 1
    await site.certificate(poll(site.ca, request), careful)


async def test_a_renewal_that_waits_dies_with_the_certificate_that_it_renews(site: ScepSite, careful: ScepEndpoint) -> None:
    held = await site.enrolled("dev1", "dev1.example.com")
    request = renewal(site.ca, held, rsa_key("dev1"))
    waits(await site.ask(request, careful))
    await site.decide()
    await site.revoke(held)
    answer = await site.ask(poll(site.ca, request), careful)
    assert (answer.status, "is revoked" in (answer.text or "")) == (REFUSED, True)
    assert await site.certificates() == 1


async def test_a_poll_is_for_whoever_has_the_key_at_the_same_endpoint_and_by_the_same_id(
    site: ScepSite, careful: ScepEndpoint
) -> None:
    request = pkcs_req(site.ca)
    waits(await site.ask(request, careful))
    await site.decide()
    stranger = rsa_key("stranger")
    unknown(await site.ask(poll(site.ca, request, key=stranger, signer=self_signed(stranger)), careful))
    unknown(await site.ask(poll(site.ca, request), site.endpoint("other", require_approval=True)))
    unknown(await site.ask(poll(site.ca, request, transaction_id="TX-9"), careful))
    assert await site.certificates() == 0
    with_another_certificate = poll(site.ca, request, signer=self_signed(rsa_key("device"), "SCEP SIGNER"))
    assert (await site.certificate(with_another_certificate, careful)).public_key() == rsa_key("device").public_key()


async def test_a_poll_that_cannot_be_read_is_answered_like_any_other(site: ScepSite, careful: ScepEndpoint) -> None:
    """What would be opened might be another's message, and a padding error of it would show."""
    request = pkcs_req(site.ca)
    waits(await site.ask(request, careful))
    decryptions = site.signer.decryptions
    for content in (
        enveloped(b"", site.ca.ra),
        enveloped(b"garbage", site.ca.ra),
        enveloped(b"", site.ca.ra, encrypted_key=b"\x01" * 256),
        enveloped(b"", site.ca.ra, ciphertext=b"\x01" * 33),
        enveloped(b"", self_signed(rsa_key("stranger"), "somebody else")),
        enveloped(csr(rsa_key("stranger")), site.ca.ra),
    ):
        waits(await site.ask(poll(site.ca, request, content=content), careful))
    assert site.signer.decryptions == decryptions


async def test_what_was_asked_for_is_forgotten_in_the_end(site: ScepSite, careful: ScepEndpoint, clock: FakeClock) -> None:
    request, later = pkcs_req(site.ca), pkcs_req(site.ca, key=rsa_key("next"))
    waits(await site.ask(request, careful))
    clock.advance(REMEMBERED - timedelta(days=1))
    waits(await site.ask(poll(site.ca, request), careful))  # the approval's own time is over, so it was asked for anew
    waits(await site.ask(later, careful))
    clock.advance(timedelta(days=1))
    unknown(await site.ask(poll(site.ca, request), careful))
    await site.transactions.forget()
    (row,) = await site.issuing.rows("SELECT transaction_id, expires_at FROM scep_transaction")
    assert row["expires_at"] > clock.micros()
    waits(await site.ask(poll(site.ca, later), careful))


async def test_what_the_endpoint_says_today_counts_for_what_waits(site: ScepSite, careful: ScepEndpoint) -> None:
    request = pkcs_req(site.ca)
    waits(await site.ask(request, careful))
    full = replace(careful, require_approval=False, limits=ScepLimits(enrollments_per_caller=Limit(1, timedelta(days=1))))
    assert (await site.ask(pkcs_req(site.ca, key=rsa_key("next")), full)).status == GRANTED
    answer = await site.ask(poll(site.ca, request), full)
    assert (answer.status, "too many enrolments of this caller" in (answer.text or "")) == (REFUSED, True)
    assert (await site.ask(poll(site.ca, request), site.endpoint())).status == GRANTED


# ---------------------------------------------------------------- one transaction at a time


async def test_ids_that_all_devices_share_do_not_mix_them_up(site: ScepSite, careful: ScepEndpoint) -> None:
    requests = []
    for label in ("device", "next", "third"):
        content = enveloped(csr(rsa_key(label), common_name=label, sans=[f"{label}.example.com"]), site.ca.ra)
        requests.append(Message(key=rsa_key(label), content=content, transaction_id="SSCEP transactionId"))
        waits(await site.ask(requests[-1], careful))
        await site.decide()
    for request in requests:
        certificate = await site.certificate(poll(site.ca, request), careful)
        assert certificate.public_key() == request.key.public_key()
    assert await site.certificates() == 3


async def test_a_second_request_of_one_key_and_id_takes_the_place_of_the_first(site: ScepSite, careful: ScepEndpoint) -> None:
    first = pkcs_req(site.ca)
    second = replace(first, content=enveloped(csr(rsa_key("device"), common_name="dev2", sans=[]), site.ca.ra))
    waits(await site.ask(first, careful))
    await site.decide()
    waits(await site.ask(second, careful))
    waits(await site.ask(poll(site.ca, first), careful))
    await site.decide()
    certificate = await site.certificate(poll(site.ca, first), careful)
    assert certificate.subject.rfc4514_string() == "CN=dev2"
    assert (await site.certificate(first, careful)).subject.rfc4514_string() == "CN=dev1"  # for whoever still asks


async def test_the_same_csr_is_another_request_with_each_certificate_that_signs_it(site: ScepSite) -> None:
    """Clients that keep key and transactionID: RSA signs the CSR to the same octets. None of these is another's answer."""
    octets = csr(rsa_key("device"))
    first = Message(content=enveloped(octets, site.ca.ra))
    signers = [await site.certificate(first)]
    for message_type in ("19", "17"):
        request = renewal(
            site.ca,
            signers[-1],
            rsa_key("device"),
            message_type=message_type,
            request=octets,
            transaction_id="TX-1",
        )
        signers.append(await site.certificate(request))
        assert await site.certificate(request) == signers[-1]
    assert await site.certificate(first) == signers[0]
    assert len(set(signers)) == await site.certificates() == 3


async def test_a_certificate_that_has_expired_comes_back_by_its_challenge_and_by_nothing_else(
    site: ScepSite, clock: FakeClock
) -> None:
    octets = csr(rsa_key("device"))
    first = Message(content=enveloped(octets, site.ca.ra))
    held = await site.certificate(first)
    clock.advance(timedelta(days=48))
    again = renewal(site.ca, held, rsa_key("device"), message_type="19", request=octets, transaction_id="TX-1")
    assert "has expired" in ((await site.ask(replace(again, message_type="17"))).text or "")
    answer = await site.ask(first)  # a replay
    assert (answer.status, "it has expired" in (answer.text or "")) == (REFUSED, True)
    assert await site.certificates() == 1
    new = await site.certificate(again)
    assert await site.certificate(again) == new
    assert await site.certificates() == 2


async def test_a_request_that_comes_twice_at_once_is_one_certificate(site: ScepSite) -> None:
    request = pkcs_req(site.ca)
    answers = await asyncio.gather(*(site.ask(request) for _ in range(4)))
    assert {answer.status for answer in answers} <= {GRANTED, WAITS}
    certificate = await site.certificate(request)
    assert {the_certificate(answer, request) for answer in answers if answer.status == GRANTED} <= {certificate}
    for answer in answers:
        if answer.status == WAITS:
            assert await site.certificate(poll(site.ca, request)) == certificate
    assert await site.certificates() == 1


async def test_what_was_revoked_never_comes_again_by_a_replay(site: ScepSite) -> None:
    request = pkcs_req(site.ca)
    await site.revoke(await site.certificate(request))
    answer = await site.ask(request)
    assert (answer.status, "it was revoked" in (answer.text or "")) == (REFUSED, True)
    assert await site.certificates() == 1


# ---------------------------------------------------------------- renewal and revocation


async def test_a_certificate_that_is_revoked_between_the_check_and_the_intent_renews_nothing(site: ScepSite) -> None:
    held = await site.enrolled("dev1", "dev1.example.com")
    serial = f"{held.serial_number:x}"
    record = await site.issuing.issuance.certificate(serial, issuer="issuing")
    assert record is not None
    request = parse_csr(csr(rsa_key("dev1"), challenge=None))
    place = Place("default", "TX-2", "00")
    asked = Asked(site.endpoint(), place, request, "192.0.2.7", signed_with=f"issuing/{serial}")
    holder = await site.holders.find(read_certificate(held.public_bytes(Encoding.DER)))
    assert holder is not None
    await site.revoke(held)
    before = await site.issuing.rows("SELECT id FROM issuance")
    outcome = await site.enrolments.renew(asked, holder)
    assert isinstance(outcome, Rejected)
    assert (outcome.rejection.reason, "revoked" in outcome.rejection.detail) == (Reason.FORBIDDEN, True)
    assert await site.issuing.rows("SELECT id FROM issuance") == before
    answer = await site.ask(renewal(site.ca, held, rsa_key("dev1")))
    assert (answer.status, answer.text) == (REFUSED, "the certificate that signs this message is revoked")


async def test_policy_decides_about_renewals_by_their_roles(site: ScepSite) -> None:
    held = await site.enrolled("dev1", "dev1.example.com")
    answer = await site.ask(renewal(site.ca, held, rsa_key("dev1")), site.endpoint(renewal=Renewal(frozenset({"nobody"}))))
    assert (answer.status, answer.fail_info) == (REFUSED, BAD_REQUEST)
    assert await site.certificates() == 1


# ---------------------------------------------------------------- what opens only once


class OnceWay:
    """A challenge that is used up with the first transaction, as a row of the database says."""

    async def authorize(self, asked: Asked) -> Authorization | None:
        principal = Principal(PrincipalKind.SCEP_CLIENT, "once", ROLES, source_address=asked.source_address)
        used = Step(
            "INSERT INTO scep_challenge (id, secret_sha256, endpoint, roles, profile, made_by, created_at, expires_at, used_by)"
            " VALUES ('once', '', '', '', '', '', 0, 0, '')"
        )
        return Authorization(Way.ONE_TIME, principal, OneTimeChallenge("once"), once=(used,))


@pytest.fixture
def once(database: Database, clock: FakeClock) -> ScepSite:
    return ScepSite(database, clock, ways={Way.ONE_TIME: OnceWay()})


async def test_what_opens_once_does_not_open_again_for_the_certificate_that_it_made(once: ScepSite, clock: FakeClock) -> None:
    """The same octets, key and transactionID, signed with the certificate: neither it nor the challenge gets another one."""
    endpoint = once.endpoint(challenges=(Way.ONE_TIME,))
    octets = csr(rsa_key("device"))
    first = Message(content=enveloped(octets, once.ca.ra))
    held = await once.certificate(first, endpoint)
    assert await once.certificate(first, endpoint) == held
    again = renewal(once.ca, held, rsa_key("device"), message_type="19", request=octets, transaction_id="TX-1")
    not_renewing = replace(endpoint, renewal=Renewal())
    assert (await once.ask(again, not_renewing)).status == REFUSED
    clock.advance(timedelta(days=48))
    assert (await once.ask(again, endpoint)).status == REFUSED
    clock.advance(timedelta(days=48))
    assert (await once.ask(again, endpoint)).status == REFUSED
    assert await once.certificates() == 1


async def test_a_denial_stands_also_once_nobody_has_to_agree_any_more(once: ScepSite, clock: FakeClock) -> None:
    """For polls, and for what opens once; its challenge may have been taken back since: it was denied to keep it out."""
    for way, again in ((Way.STATIC, ()), (Way.ONE_TIME, (0,))):
        endpoint = once.endpoint(challenges=(way,), require_approval=True)
        request = pkcs_req(once.ca, key=rsa_key(way.value))
        waits(await once.ask(request, endpoint))
        await once.decide(Verdict.DENY, "no such device")
        once.challenges.right.clear()
        easy = replace(endpoint, require_approval=False)
        for message in (poll(once.ca, request), *(request for _ in again)):
            answer = await once.ask(message, easy)
            assert (answer.status, answer.fail_info) == (REFUSED, BAD_REQUEST), way
            assert "no such device" in (answer.text or "")
    clock.advance(REMEMBERED + timedelta(seconds=1))
    assert (await once.ask(poll(once.ca, request), easy)).status == REFUSED
    assert await once.certificates() == 0


class NoWay:
    async def authorize(self, _asked: Asked) -> Authorization | None:
        return None


async def test_a_password_that_was_taken_back_opens_nothing_again_and_what_it_opened_is_still_polled_for(
    database: Database, clock: FakeClock
) -> None:
    """Also where the endpoint has challenges that open once, whose requests are let in a second time."""
    site = ScepSite(database, clock, ways={Way.ONE_TIME: NoWay()})
    endpoint = site.endpoint(challenges=(Way.STATIC, Way.ONE_TIME), require_approval=True)
    request = pkcs_req(site.ca)
    waits(await site.ask(request, endpoint))
    site.challenges.right.clear()
    answer = await site.ask(request, endpoint)
    assert (answer.status, answer.text) == (REFUSED, NOT_LET_IN)
    waits(await site.ask(poll(site.ca, request), endpoint))


async def test_a_common_name_that_a_database_cannot_hold_is_refused_like_any_other(once: ScepSite) -> None:
    odd = Message(content=enveloped(csr(rsa_key("device"), common_name="a\0b"), once.ca.ra))
    answer = await once.ask(odd, once.endpoint(challenges=(Way.ONE_TIME,)))
    assert (answer.status, answer.fail_info) == (REFUSED, BAD_REQUEST)


# ---------------------------------------------------------------- rows

IDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)
ROLE_SETS = st.frozensets(st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=5), max_size=3)
IDENTIFIERS: st.SearchStrategy[Identifier] = st.sampled_from(
    [
        *map(parse_dns, ("a.example.com", "*.example.com", "xn--bcher-kva.example", f"{'a' * 63}.example")),
        *map(parse_ip, ("192.0.2.1", "2001:db8::1")),
    ]
)
CSRS = st.sampled_from(
    [
        parse_csr(csr(rsa_key("device"), common_name=common_name, sans=[]))
        for common_name in ("dev1", "Büro 7", "a\0b", '"quoted\\', "x" * 64)
    ]
)
EVIDENCE: st.SearchStrategy[Evidence] = st.one_of(
    st.builds(ScepChallenge, IDS),
    st.builds(OneTimeChallenge, IDS),
    st.builds(DelegatedChallenge, IDS),
    st.builds(HeldCertificate, st.sampled_from(CertificateRole), IDS, st.just("4d2"), st.just("00" * 32)),
)
PRINCIPALS = st.builds(Principal, st.sampled_from(PrincipalKind), IDS, ROLE_SETS, source_address=st.just("192.0.2.7"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_what_was_asked_and_allowed_survives_its_row(database: Database, clock: FakeClock, data: st.DataObject) -> None:
    request = IssuanceRequest(
        channel=Channel.SCEP,
        endpoint="default",
        principal=data.draw(PRINCIPALS),
        evidence=(data.draw(EVIDENCE),),
        profile=data.draw(IDS),
        csr=(asked := data.draw(CSRS)),
        identifiers=tuple(data.draw(st.lists(IDENTIFIERS, unique=True, max_size=4))),
        common_name=asked.common_name,
        idempotency_key=data.draw(IDS),
    )
    place, way = Place("default", data.draw(IDS), "00"), data.draw(st.sampled_from(Way))
    transactions = Transactions(database=database, clock=clock)
    await transactions.remember(place, way, request)
    found = await transactions.find(place, source_address="192.0.2.7")
    assert found is not None
    assert found.way is way
    kept = found.request.csr
    assert (kept.sha256, kept.spki, kept.subject, kept.public_key) == (
        asked.sha256,
        asked.spki,
        asked.subject,
        asked.public_key,
    )
    assert (kept.der, kept.challenge_password, kept.attributes) == (b"", None, {})
    assert replace(found.request, csr=asked) == request


async def test_one_key_has_so_many_transactions_and_its_oldest_go(
    site: ScepSite, careful: ScepEndpoint, clock: FakeClock
) -> None:
    """A client may take a new transactionID for each try."""
    somebody_else = pkcs_req(site.ca, key=rsa_key("next"))
    waits(await site.ask(somebody_else, careful))
    request = pkcs_req(site.ca)
    tries = [replace(request, transaction_id=f"TX-{number}") for number in range(AT_ONCE + 3)]
    for one in (*tries, tries[-1]):
        clock.advance(timedelta(seconds=1))
        waits(await site.ask(one, careful))
    for one in tries[:3]:
        unknown(await site.ask(poll(site.ca, one), careful))
    for one in (tries[3], tries[-1], somebody_else):
        waits(await site.ask(poll(site.ca, one), careful))
    assert len(await site.issuing.rows("SELECT endpoint FROM scep_transaction")) == AT_ONCE + 1


async def test_nothing_secret_is_in_a_row(site: ScepSite, careful: ScepEndpoint) -> None:
    waits(await site.ask(pkcs_req(site.ca), careful))
    (row,) = await site.issuing.rows("SELECT * FROM scep_transaction")
    octets = b"".join(value if isinstance(value, bytes) else str(value).encode() for value in dict(row).values())
    assert SECRET.encode() not in octets
    assert hashlib.sha256(SECRET.encode()).hexdigest().encode() not in octets


async def test_rows_of_a_conflict_are_not_written(database: Database, clock: FakeClock) -> None:
    transactions = Transactions(database=database, clock=clock)
    request = parse_csr(csr(rsa_key("device")))
    asked = IssuanceRequest(
        channel=Channel.SCEP,
        endpoint="default",
        principal=Principal(PrincipalKind.SCEP_CLIENT, "c", ROLES),
        evidence=(ScepChallenge("c"),),
        profile="device",
        csr=request,
        identifiers=(),
        idempotency_key="k",
    )
    used = Step("UPDATE scep_challenge SET used_at = 1 WHERE id = 'nosuch'")
    place = Place("default", "TX", "00")
    with pytest.raises(Conflict):
        await transactions.remember(place, Way.ONE_TIME, asked, used)
    assert await transactions.find(place, source_address="") is None
