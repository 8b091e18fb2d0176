"""Renewal (RFC 8894 §2.3, §3.3.1.2): which certificates renew themselves, as what, and what nobody learns by trying."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from issuance.plan import names_wanted
from issuance.request import CertificateRole, Channel, HeldCertificate, IssuanceRequest, Pending, ScepChallenge
from pki.clock import Micros, after
from policy.limits import Limit
from policy.principal import PrincipalKind
from policy.profiles import Profiles
from scep.endpoint import Renewal, ScepEndpoint, ScepLimits
from tests.helpers import scep as other
from tests.helpers.profiles import device
from tests.helpers.scep import SECRET, Answer, Message, csr, enveloped, pkcs_req, rsa_key
from tests.helpers.scep_simulators import KnownChallenges
from tests.helpers.scep_site import ROLES, renewal, the_certificate
from tests.helpers.scep_world import ScepWorld, scep_world

BAD_MESSAGE_CHECK, BAD_REQUEST = "1", "2"
UNREADABLE = "the encrypted content cannot be read"
DAY = timedelta(days=1)


@pytest.fixture
async def site() -> AsyncIterator[ScepWorld]:
    challenges = KnownChallenges({("default", SECRET), ("other", SECRET)})
    async with scep_world(challenges=challenges) as world:
        yield world


def endpoint(site: ScepWorld, name: str = "default", grace: timedelta = timedelta(0), **changes: Any) -> ScepEndpoint:
    return replace(site.ca.endpoint(name=name), renewal=Renewal(ROLES, grace), **changes)


async def ask(site: ScepWorld, request: Message, at: ScepEndpoint | None = None) -> Answer:
    return await site.ask(request, endpoint=at or endpoint(site))


async def enrolled(site: ScepWorld, label: str = "device", at: ScepEndpoint | None = None) -> x509.Certificate:
    """By its first PKCSReq; what the pipeline was asked for is forgotten."""
    request = pkcs_req(site.ca, key=rsa_key(label))
    certificate = the_certificate(await ask(site, request, at), request)
    site.issuance.requests.clear()
    site.challenges.asked.clear()
    return certificate


def record(site: ScepWorld, held: x509.Certificate, **changes: Any) -> None:
    """What the ledger has of it becomes something else."""
    serial = f"{held.serial_number:x}"
    site.issuance.records[serial] = replace(site.issuance.records[serial], **changes)


def dates(site: ScepWorld, held: x509.Certificate, *, begin: timedelta, end: timedelta) -> None:
    now = site.clock.micros()
    certificate = site.issuance.records[f"{held.serial_number:x}"].certificate
    record(site, held, certificate=replace(certificate, not_before=after(now, begin), not_after=after(now, end)))


# ---------------------------------------------------------------- what a renewal is


@pytest.mark.parametrize("new_key", ["device", "next"], ids=["the same key", "another key"])
@pytest.mark.parametrize("message_type", ["17", "19"])
async def test_a_certificate_of_the_endpoint_renews_itself_by_both_types(
    site: ScepWorld, message_type: str, new_key: str
) -> None:
    """sscep and certmonger renew by PKCSReq, strongSwan by RenewalReq; the answer is encrypted to the certificate that signs."""
    held = await enrolled(site)
    request = renewal(
        site.ca, held, rsa_key("device"), message_type=message_type, request=csr(rsa_key(new_key), challenge=None)
    )
    new = the_certificate(await ask(site, request), request)
    assert new != held
    assert new.public_key() == rsa_key(new_key).public_key()
    (asked,) = site.issuance.requests
    (evidence,) = asked.evidence
    assert isinstance(evidence, HeldCertificate)
    assert (evidence.role, evidence.issuer, evidence.serial) == (
        CertificateRole.PREVIOUS,
        "issuing",
        f"{held.serial_number:x}",
    )
    assert (asked.principal.kind, asked.principal.id, asked.principal.roles) == (
        PrincipalKind.TLS_CLIENT,
        evidence.credential_id,
        ROLES,
    )
    assert (asked.channel, asked.endpoint, asked.profile) == (Channel.SCEP, "default", "device")
    assert site.challenges.asked == []
    assert site.counts.authorizations[-1] == ("default", "renewal", "allowed")


async def test_a_renewal_gets_the_profile_of_what_it_renews(site: ScepWorld) -> None:
    site.profiles = Profiles([device(), replace(device(), name="special")])
    held = await enrolled(site)
    certificate = site.issuance.records[f"{held.serial_number:x}"].certificate
    record(site, held, certificate=replace(certificate, profile="special"))
    assert (await ask(site, renewal(site.ca, held, rsa_key("device")))).status == "0"
    assert site.issuance.requests[0].profile == "special"


async def test_a_profile_that_is_gone_renews_nothing(site: ScepWorld) -> None:
    held = await enrolled(site)
    site.profiles = Profiles([replace(device(), name="another")])
    answer = await ask(site, renewal(site.ca, held, rsa_key("device")))
    assert (answer.status, answer.fail_info, site.issuance.requests) == ("2", BAD_REQUEST, [])


async def test_the_first_csr_again_is_a_new_certificate_for_each_certificate_that_signs_it(site: ScepWorld) -> None:
    """RSA signs a CSR to the same octets every time, and clients keep key and transactionID: a renewal must not get the old
    certificate back. Repeated, it is the same request."""
    octets = csr(rsa_key("device"))
    first = Message(content=enveloped(octets, site.ca.ra))
    held = [the_certificate(await ask(site, first), first)]
    for message_type in ("19", "17", "19"):
        request = renewal(
            site.ca, held[-1], rsa_key("device"), request=octets, message_type=message_type, transaction_id="TX-1"
        )
        new = the_certificate(await ask(site, request), request)
        again = the_certificate(await ask(site, replace(request, nonce=b"2" * 16)), request)
        assert again == new
        held.append(new)
    assert len(set(held)) == 4
    assert the_certificate(await ask(site, first), first) == held[0]


# ---------------------------------------------------------------- who renews nothing

Signer = tuple[x509.Certificate, rsa.RSAPrivateKey]


async def _expired(site: ScepWorld) -> Signer:
    held = await enrolled(site)
    dates(site, held, begin=-2 * DAY, end=-timedelta(microseconds=1))
    return held, rsa_key("device")


async def _not_yet_valid(site: ScepWorld) -> Signer:
    held = await enrolled(site)
    dates(site, held, begin=DAY, end=2 * DAY)
    return held, rsa_key("device")


async def _of_another_endpoint(site: ScepWorld) -> Signer:
    return await enrolled(site, at=endpoint(site, "other")), rsa_key("device")


async def _by_another_door(site: ScepWorld) -> Signer:
    held = await enrolled(site)
    record(site, held, channel=Channel.EST.value)
    return held, rsa_key("device")


async def _revoked(site: ScepWorld) -> Signer:
    held = await enrolled(site)
    record(site, held, revoked_at=Micros(1))
    return held, rsa_key("device")


async def _of_another_ca_of_the_same_name(site: ScepWorld) -> Signer:
    await enrolled(site)
    stranger = rsa_key("stranger")
    return other.certificate("dev1", rsa_key("device").public_key(), "Test CA", stranger), rsa_key("device")


async def _with_the_serial_of_another(site: ScepWorld) -> Signer:
    held, stranger = await enrolled(site), rsa_key("stranger")
    return other.certificate("dev1", stranger.public_key(), "Test CA", stranger, serial=held.serial_number), stranger


async def _the_ca(site: ScepWorld) -> Signer:
    await enrolled(site)
    return site.ca.certificate, site.ca.key


async def _the_registration_authority(site: ScepWorld) -> Signer:
    await enrolled(site)
    return site.ca.ra, site.ca.ra_key


async def _made_by_itself(site: ScepWorld) -> Signer:
    await enrolled(site)
    return other.self_signed(rsa_key("device")), rsa_key("device")


KINDS: dict[str, tuple[Callable[[ScepWorld], Any], str]] = {
    "expired": (_expired, "it has expired"),
    "not yet valid": (_not_yet_valid, "it is not valid yet"),
    "of another endpoint": (_of_another_endpoint, "it was not issued by this SCEP endpoint"),
    "by another door": (_by_another_door, "it was not issued by this SCEP endpoint"),
    "revoked": (_revoked, "is revoked"),
    "of another CA of the same name": (_of_another_ca_of_the_same_name, "did not issue it"),
    "with the serial of another": (_with_the_serial_of_another, "did not issue it"),
    "the CA's own": (_the_ca, "did not issue it"),
    "the registration authority's": (_the_registration_authority, "did not issue it"),
    "made by the device itself": (_made_by_itself, "was issued here; this one was not"),
}
OF_OURS_BUT_NOT_NOW = {"expired", "not yet valid", "of another endpoint", "by another door", "made by the device itself"}


@pytest.mark.parametrize("kind", KINDS)
async def test_no_other_certificate_renews_anything(site: ScepWorld, kind: str) -> None:
    """Without a challenge nothing reaches the pipeline, whatever the type; and what is in a RenewalReq is not even looked at."""
    make, why = KINDS[kind]
    held, key = await make(site)
    for message_type, request in (("17", None), ("19", None), ("17", csr(rsa_key("next"))), ("19", csr(rsa_key("next")))):
        before = site.signer.decryptions
        answer = await ask(site, renewal(site.ca, held, key, message_type=message_type, request=request))
        assert (answer.status, answer.content) == ("2", b""), message_type
        if message_type == "17":
            assert (answer.fail_info, site.signer.decryptions) == (BAD_REQUEST, before)
            assert why in (answer.text or "")
        elif request is not None and kind in OF_OURS_BUT_NOT_NOW:
            assert (answer.fail_info, answer.text) == (BAD_MESSAGE_CHECK, UNREADABLE)
        else:
            assert answer.fail_info == BAD_REQUEST
    assert site.issuance.requests == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pkcsreq_with_the_right_challenge_does_not_need_the_certificate_that_signs_it(
    site: ScepWorld, kind: str
) -> None:
    """A device whose certificate has expired signs with it all the same. One that is revoked, or not what it says, opens nothing."""
    held, key = await KINDS[kind][0](site)
    for message_type in ("17", "19"):
        request = renewal(site.ca, held, key, message_type=message_type, challenge=SECRET)
        answer = await ask(site, request)
        granted = message_type == "19" and kind in OF_OURS_BUT_NOT_NOW
        assert answer.status == ("0" if granted else "2"), message_type
    assert [one.evidence for one in site.issuance.requests] == (
        [(ScepChallenge("default"),)] if kind in OF_OURS_BUT_NOT_NOW else []
    )


async def test_a_challenge_lets_nobody_ask_for_the_key_of_another(site: ScepWorld) -> None:
    """Who holds a certificate sends a captured request of somebody else, whose challenge is right: it is not looked at."""
    captured = csr(rsa_key("victim"), common_name="victim", sans=["victim.example.com"])
    for prepare in (enrolled, None):
        held, key = (await prepare(site), rsa_key("device")) if prepare else await _expired(site)
        for message_type in ("17", "19"):
            answer = await ask(site, renewal(site.ca, held, key, message_type=message_type, request=captured))
            assert answer.status == "2"
            assert "victim" not in (answer.text or "")
    assert (site.issuance.requests, site.challenges.asked) == ([], [])


async def test_where_nothing_is_renewed_a_certificate_is_no_help(site: ScepWorld) -> None:
    held = await enrolled(site)
    without = site.ca.endpoint()
    for message_type in ("17", "19"):
        answer = await ask(site, renewal(site.ca, held, rsa_key("device"), message_type=message_type), without)
        assert (answer.status, answer.fail_info) == ("2", BAD_REQUEST)
    assert "nothing is renewed at this SCEP endpoint" in (answer.text or "")
    assert site.issuance.requests == []
    request = renewal(site.ca, held, rsa_key("device"), message_type="19", challenge=SECRET)
    assert the_certificate(await ask(site, request, without), request) != held


async def test_the_grace_is_how_long_after_its_end_a_certificate_renews_itself(site: ScepWorld) -> None:
    held = await enrolled(site)
    dates(site, held, begin=-2 * DAY, end=timedelta(0))
    for late, grace, status in (
        (timedelta(0), timedelta(0), "0"),  # notAfter is inclusive
        (timedelta(microseconds=1), timedelta(0), "2"),
        (7 * DAY, 7 * DAY, "0"),
        (7 * DAY + timedelta(microseconds=1), 7 * DAY, "2"),
    ):
        dates(site, held, begin=-2 * DAY, end=-late)
        answer = await ask(site, renewal(site.ca, held, rsa_key("device")), endpoint(site, grace=grace))
        assert answer.status == status, late


async def test_the_grace_does_not_move_the_beginning(site: ScepWorld) -> None:
    held, key = await _not_yet_valid(site)
    assert (await ask(site, renewal(site.ca, held, key), endpoint(site, grace=7 * DAY))).status == "2"


# ---------------------------------------------------------------- names

CHANGES: dict[str, dict[str, Any]] = {
    "another common name": {"common_name": "dev2"},
    "one name more": {"sans": ["dev1.example.com", "secret.example.com"]},
    "another name": {"sans": ["secret.example.com"]},
    "no names": {"sans": []},
    "a name that is none": {"sans": ["secret_.example.com"]},
    "a common name that is none": {"common_name": "secret\u200b"},
}


@pytest.mark.parametrize("change", CHANGES)
async def test_other_names_are_no_renewal_and_are_not_told(site: ScepWorld, change: str) -> None:
    held = await enrolled(site)
    for new_key in ("device", "next"):
        for message_type in ("17", "19"):
            asked = csr(rsa_key(new_key), **{"challenge": None, **CHANGES[change]})
            answer = await ask(site, renewal(site.ca, held, rsa_key("device"), message_type=message_type, request=asked))
            assert (answer.status, answer.fail_info) == ("2", BAD_REQUEST if "none" not in change else answer.fail_info)
            if new_key == "next":  # perhaps somebody else's
                assert "secret" not in (answer.text or "")
    assert site.issuance.requests == []


async def test_whatever_a_request_for_another_key_asks_for_the_refusal_is_the_same(site: ScepWorld) -> None:
    held = await enrolled(site)
    answers = [
        await ask(site, renewal(site.ca, held, rsa_key("device"), request=csr(rsa_key("next"), **change)))
        for change in CHANGES.values()
        if change != CHANGES["a name that is none"]  # that is no certification request
    ]
    assert len({(answer.status, answer.fail_info, answer.text, len(answer.der)) for answer in answers}) == 1


async def test_other_names_are_an_enrolment_by_challenge_which_a_renewalreq_never_is(site: ScepWorld) -> None:
    held = await enrolled(site)
    for message_type, challenge, status in (("17", SECRET, "2"), ("19", "guess", "2"), ("19", SECRET, "0")):
        request = renewal(site.ca, held, rsa_key("device"), message_type=message_type, common_name="dev2", challenge=challenge)
        assert (await ask(site, request)).status == status, (message_type, challenge)
    (asked,) = site.issuance.requests
    assert asked.evidence == (ScepChallenge("default"),)


async def test_the_rest_of_a_subject_and_the_order_of_names_do_not_matter(site: ScepWorld) -> None:
    """What was certified is in the ledger; O=Proto was never in the certificate."""
    request = Message(content=enveloped(csr(rsa_key("device"), sans=["a.example.com", "b.example.com"]), site.ca.ra))
    held = the_certificate(await ask(site, request), request)
    request = renewal(site.ca, held, rsa_key("device"), sans=["B.example.com", "a.example.com"])
    assert the_certificate(await ask(site, request), request) != held


async def test_where_the_profile_lets_names_change_they_change_for_the_same_key_only(site: ScepWorld) -> None:
    """A request for another key may be anybody's: nothing but the names that the signer has counts in it."""
    site.profiles = Profiles([device(subject_change=True)])
    held = await enrolled(site)
    request = renewal(site.ca, held, rsa_key("device"), common_name="dev2", sans=["dev2.example.com"])
    assert (await ask(site, request)).status == "0"
    (asked,) = site.issuance.requests
    assert names_wanted(asked.identifiers, asked.common_name, device()).tags == ("dns:dev2.example.com", "cn:dev2")
    foreign = csr(rsa_key("next"), common_name="dev2", sans=["dev2.example.com"])
    answer = await ask(site, renewal(site.ca, held, rsa_key("device"), request=foreign))
    assert (answer.status, "other names" in (answer.text or "")) == ("2", True)
    assert (await ask(site, renewal(site.ca, held, rsa_key("device"), request=csr(rsa_key("next"))))).status == "0"


# ---------------------------------------------------------------- limits


def _callers(requests: list[IssuanceRequest]) -> list[str]:
    return [charge.bucket.name for request in requests for charge in request.charges]


async def test_renewals_count_for_whoever_has_these_names(site: ScepWorld) -> None:
    """The principal of a renewal is a certificate, so each would be another caller."""
    limited = endpoint(site, limits=ScepLimits(enrollments_per_caller=Limit(5, DAY)))
    held = await enrolled(site)
    for _ in range(2):
        request = renewal(site.ca, held, rsa_key("device"), transaction_id=f"TX-{held.serial_number}")
        held = the_certificate(await ask(site, request, limited), request)
    site.issuance.script.append(Pending("i-1", 30))
    waiting = renewal(site.ca, held, rsa_key("device"), transaction_id="waits")
    assert (await ask(site, waiting, limited)).status == "3"
    assert (await ask(site, replace(waiting, message_type="20"), limited)).status == "0"
    first, *others = _callers(site.issuance.requests)
    assert first.startswith("names:")
    assert others == [first] * 3
    site.issuance.requests.clear()
    challenge = pkcs_req(site.ca, key=rsa_key("next"))
    await ask(site, challenge, limited)
    assert _callers(site.issuance.requests) == ["scep-client:default"]
    record(site, held, names=("cn:else",))
    assert (await ask(site, renewal(site.ca, held, rsa_key("device"), common_name="else", sans=[]), limited)).status == "0"
    assert _callers(site.issuance.requests)[-1] not in {first, "scep-client:default"}
