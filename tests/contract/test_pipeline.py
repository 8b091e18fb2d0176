"""The ten steps on both databases: what is issued is right, what is refused is refused by every way in, nothing is lost."""

from __future__ import annotations

import asyncio
import ipaddress
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from issuance.plan import make_plan, wanted_names
from issuance.request import (
    ApiKey,
    BasicPassword,
    ChallengeEvidence,
    Evidence,
    IssuanceRequest,
    Issued,
    Pending,
    Rejected,
    ScepChallenge,
)
from pki.clock import Micros, after, to_datetime
from pki.identifiers import DnsName, IpAddress, parse_dns
from pki.reasons import Reason, Rejection, RevocationReason, Unavailable
from policy.principal import Principal, PrincipalKind
from policy.rules import Policy
from signer.api import SignerRefused
from storage.database import Database, Step
from tests.helpers.ca import make_csr
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import PROGRAM, Issuing, JobSettler
from tests.helpers.profiles import device, profile

ACCOUNT = Principal(PrincipalKind.ACME_ACCOUNT, "a1", frozenset({"tester"}))


@pytest.fixture
def issuing(database: Database, clock: FakeClock) -> Issuing:
    return Issuing(database, clock)


async def refusal(issuing: Issuing, request: IssuanceRequest) -> Rejection:
    outcome = await issuing.issuance.submit(request)
    assert isinstance(outcome, Rejected), outcome
    assert await issuing.rows("SELECT * FROM certificate") == []
    assert issuing.signer.signed == []
    return outcome.rejection


def extension(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.Extension[x509.ExtensionType]:
    return certificate.extensions.get_extension_for_class(kind)


# ---------------------------------------------------------------- what a certificate says


async def test_a_server_certificate_says_what_the_profile_says_and_no_more(issuing: Issuing, clock: FakeClock) -> None:
    """RFC 5280 §4, every extension and every criticality."""
    certificate = await issuing.issued("A.example.com", "b.example.com")
    now = to_datetime(clock.micros())
    assert certificate.not_valid_before_utc == now - timedelta(minutes=5)
    # Both ends inclusive: 47 days are 47 x 86,400 seconds with the last one counted (BR 6.3.2).
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=47) - timedelta(seconds=1)
    assert certificate.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.example.com")])
    names = extension(certificate, x509.SubjectAlternativeName)
    assert names.value == x509.SubjectAlternativeName([x509.DNSName("a.example.com"), x509.DNSName("b.example.com")])
    assert not names.critical
    purposes = extension(certificate, x509.ExtendedKeyUsage)
    assert purposes.value == x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    assert not purposes.critical
    usage = extension(certificate, x509.KeyUsage)
    assert usage.critical
    assert isinstance(usage.value, x509.KeyUsage)
    assert usage.value.digital_signature
    assert not usage.value.key_encipherment
    constraints = extension(certificate, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=False, path_length=None)
    authority = extension(certificate, x509.AuthorityKeyIdentifier).value
    assert isinstance(authority, x509.AuthorityKeyIdentifier)
    assert authority.key_identifier == issuing.ca.issuer.key_identifier
    assert len(certificate.extensions) == 8
    certificate.verify_directly_issued_by(issuing.ca.certificate)


async def test_nothing_but_the_key_is_copied_from_the_request(issuing: Issuing) -> None:
    """The request asks to be a CA for twenty years with any purpose; the profile does not hear it."""
    key = ec.generate_private_key(ec.SECP256R1())
    hostile = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(
            x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Evil"), x509.NameAttribute(NameOID.COMMON_NAME, "My CA")])
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example.com")]), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=5), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), critical=True)
        .add_extension(x509.NameConstraints([x509.DNSName("x")], None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    certificate = await issuing.issued(csr=hostile)
    assert certificate.public_key() == key.public_key()
    assert [attribute.value for attribute in certificate.subject] == ["a.example.com"]
    assert extension(certificate, x509.BasicConstraints).value == x509.BasicConstraints(ca=False, path_length=None)
    assert len(certificate.extensions) == 8


async def test_a_subject_alternative_name_is_critical_exactly_without_a_subject(issuing: Issuing) -> None:
    """RFC 5280 §4.2.1.6; a name of more than 64 characters is no common name and is not cut to be one."""
    long = f"{'a' * 60}.example.com"
    certificate = await issuing.issued(long)
    assert list(certificate.subject) == []
    assert extension(certificate, x509.SubjectAlternativeName).critical


async def test_a_common_name_alone_is_a_name_that_is_asked_for(issuing: Issuing) -> None:
    """`openssl req -subj /CN=$(hostname -f)`, as old scripts do it."""
    certificate = await issuing.issued(csr=make_csr(common_name="Host.example.com"))
    names = extension(certificate, x509.SubjectAlternativeName).value
    assert names == x509.SubjectAlternativeName([x509.DNSName("host.example.com")])


async def test_a_device_is_known_by_its_common_name(issuing: Issuing) -> None:
    key = rsa.generate_private_key(65537, 2048)
    certificate = await issuing.issued(csr=make_csr(common_name="router7", key=key), profile="device")
    assert certificate.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "router7")])
    usage = extension(certificate, x509.KeyUsage).value
    assert isinstance(usage, x509.KeyUsage)
    assert usage.key_encipherment  # RSA can, and the profile wants it
    assert len(certificate.extensions) == 7  # no subjectAltName


async def test_a_device_that_calls_itself_a_host_needs_that_host_granted(database: Database, clock: FakeClock) -> None:
    """`router-*` grants names of devices; `router-1.evil.example` is a name of the DNS for whoever still reads CNs."""
    narrow = Policy(
        "devices",
        roles=frozenset({"tester"}),
        allowed_profiles=frozenset({"device"}),
        allowed_sans=("*.example.com",),
        allowed_common_names=("router-*", "192.*"),
    )
    issuing = Issuing(database, clock, policies=[narrow])
    for granted in ("router-1", "router-1.example.com"):
        assert await issuing.issued(csr=make_csr(common_name=granted), profile="device")
    for refused in ("router-1.evil.example", "192.0.2.1"):
        outcome = await issuing.issuance.submit(issuing.request(csr=make_csr(common_name=refused), profile="device"))
        assert isinstance(outcome, Rejected), refused
        assert outcome.rejection.reason is Reason.REJECTED_IDENTIFIER


async def test_addresses_are_certified_as_addresses(issuing: Issuing) -> None:
    identifiers = (DnsName("a.example.com"), IpAddress(ipaddress.ip_address("192.0.2.1")))
    certificate = await issuing.issued("a.example.com", identifiers=identifiers)
    names = extension(certificate, x509.SubjectAlternativeName).value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("192.0.2.1")]


async def test_a_certificate_never_outlives_its_issuer(database: Database, clock: FakeClock) -> None:
    issuing = Issuing(database, clock, profiles=[profile(validity=timedelta(days=5000), max_validity=timedelta(days=5000))])
    certificate = await issuing.issued("a.example.com")
    assert certificate.not_valid_after_utc == issuing.ca.certificate.not_valid_after_utc


# ---------------------------------------------------------------- what is refused, and that nothing is signed then


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"profile": "nosuch"}, Reason.UNKNOWN_PROFILE),
        ({"profile_version": "0" * 16}, Reason.UNKNOWN_PROFILE),
        ({"principal": Principal(PrincipalKind.API_KEY, "k", frozenset())}, Reason.FORBIDDEN),
        ({"profile": "caa"}, Reason.CAA_FORBIDS),
        ({"identifiers": ()}, Reason.BAD_CSR),
        ({"identifiers": tuple(DnsName(f"n{n}.example.com") for n in range(101))}, Reason.MALFORMED),
        ({"not_after": Micros(0)}, Reason.INVALID_VALIDITY),
        ({"profile": "device", "common_name": "bad\nname"}, Reason.REJECTED_IDENTIFIER),
    ],
)
async def test_a_request_against_a_rule_is_refused_before_anything_is_signed(
    issuing: Issuing, changes: dict[str, Any], reason: Reason
) -> None:
    assert (await refusal(issuing, issuing.request("a.example.com", **changes))).reason is reason
    (record,) = await issuing.rows("SELECT event, principal FROM audit")  # refusals are recorded (source document, RBAC)
    assert record["event"] == "issue.refused"


@pytest.mark.parametrize("seconds", [0, 1])
async def test_validity_is_held_to_the_second(issuing: Issuing, clock: FakeClock, seconds: int) -> None:
    """2021: every certificate of a large CA was one second too long since its launch."""
    not_before = after(clock.micros(), -timedelta(minutes=5))
    longest = after(not_before, timedelta(days=47) - timedelta(seconds=1))
    request = issuing.request("a.example.com", not_before=not_before, not_after=after(longest, timedelta(seconds=seconds)))
    outcome = await issuing.issuance.submit(request)
    assert isinstance(outcome, Issued if seconds == 0 else Rejected)


def proof(name: str, at: Micros, method: str = "http-01", *, wildcard: bool = False) -> ChallengeEvidence:
    return ChallengeEvidence(parse_dns(name), method, "authz", at, wildcard)


async def test_an_account_gets_only_names_that_it_has_proved(issuing: Issuing, clock: FakeClock) -> None:
    now = clock.micros()
    request = issuing.request("a.example.com", "b.example.com", principal=ACCOUNT, evidence=(proof("a.example.com", now),))
    rejection = await refusal(issuing, request)
    assert rejection.reason is Reason.NOT_VALIDATED
    assert [sub.identifier for sub in rejection.sub] == ["b.example.com"]


@pytest.mark.parametrize(
    ("age", "fresh"), [(timedelta(days=10), True), (timedelta(days=10, seconds=1), False), (timedelta(seconds=-1), False)]
)
async def test_a_proof_ages(issuing: Issuing, clock: FakeClock, age: timedelta, fresh: bool) -> None:
    evidence = (proof("a.example.com", after(clock.micros(), -age)),)
    outcome = await issuing.issuance.submit(issuing.request("a.example.com", principal=ACCOUNT, evidence=evidence))
    assert isinstance(outcome, Issued if fresh else Rejected)


async def test_a_wildcard_is_not_proved_by_http(issuing: Issuing, clock: FakeClock) -> None:
    """BR 3.2.2.4.19: HTTP proves a host, not the names below it."""
    by_http = (proof("example.com", clock.micros(), wildcard=True),)
    wildcard = issuing.request("*.example.com", principal=ACCOUNT, evidence=by_http)
    assert (await refusal(issuing, wildcard)).reason is Reason.NOT_VALIDATED
    by_dns = (proof("example.com", clock.micros(), "dns-01", wildcard=True),)
    assert await issuing.issued("*.example.com", principal=ACCOUNT, evidence=by_dns)


@pytest.mark.parametrize("evidence", [BasicPassword("u"), ScepChallenge("s"), ApiKey("k")])
@pytest.mark.parametrize("kind", PrincipalKind)
async def test_evidence_of_one_kind_is_no_evidence_for_another(
    issuing: Issuing, evidence: Evidence, kind: PrincipalKind
) -> None:
    """CVE-2025-44005: the credentials of one protocol selected another's. Every kind of principal x every evidence."""
    fits = {
        BasicPassword: PrincipalKind.EST_USER,
        ScepChallenge: PrincipalKind.SCEP_CLIENT,
        ApiKey: PrincipalKind.API_KEY,
    }[type(evidence)]
    principal = Principal(kind, "x", frozenset({"tester"}))
    outcome = await issuing.issuance.submit(issuing.request("a.example.com", principal=principal, evidence=(evidence,)))
    assert isinstance(outcome, Issued if kind is fits else Rejected)


def test_no_request_can_be_made_without_evidence(issuing: Issuing) -> None:
    with pytest.raises(ValueError, match="evidence"):
        issuing.request("a.example.com", evidence=())


async def test_a_compromised_key_is_never_certified_again(issuing: Issuing) -> None:
    """BR 6.1.1.3 (5)."""
    csr = make_csr("a.example.com")
    first = await issuing.issuance.submit(issuing.request(csr=csr))
    assert isinstance(first, Issued)
    await issuing.issuance.revoke(
        issuer="issuing", serial=first.certificate.serial, reason=RevocationReason.KEY_COMPROMISE, principal=PROGRAM
    )
    again = await issuing.issuance.submit(issuing.request(csr=csr))
    assert isinstance(again, Rejected)
    assert again.rejection.reason is Reason.BAD_PUBLIC_KEY


# ---------------------------------------------------------------- exactly once, and nothing lost


async def test_intent_and_certificate_and_both_audit_records_are_there(issuing: Issuing) -> None:
    certificate = await issuing.issued("a.example.com")
    (row,) = await issuing.rows("SELECT state, serial, tbs, principal, evidence FROM issuance")
    assert row["state"] == "issued"
    assert row["serial"] == f"{certificate.serial_number:x}"
    assert bytes(row["tbs"]) == certificate.tbs_certificate_bytes
    assert [record["event"] for record in await issuing.rows("SELECT event FROM audit ORDER BY at, id")] == [
        "issue.intent",
        "issue.done",
    ]
    assert issuing.observer.results == [("tls-server", "rest", "issued")]


async def test_fifty_submissions_for_one_order_make_one_certificate(issuing: Issuing) -> None:
    origin = await issuing.add_job("order-1")
    outcomes = await asyncio.gather(
        *(issuing.issuance.submit(issuing.request("a.example.com", origin=origin)) for _ in range(50))
    )
    assert sum(isinstance(outcome, Issued) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Rejected) for outcome in outcomes) == 49
    assert len(issuing.signer.signed) == 1
    assert await issuing.job("order-1") == JobSettler.ISSUED


async def test_the_same_key_and_request_give_the_same_certificate(issuing: Issuing) -> None:
    csr = make_csr("a.example.com")
    outcomes = await asyncio.gather(
        *(issuing.issuance.submit(issuing.request(csr=csr, idempotency_key="once")) for _ in range(20))
    )
    assert all(isinstance(outcome, Issued | Pending) for outcome in outcomes)
    again = await issuing.issuance.submit(issuing.request(csr=csr, idempotency_key="once"))
    assert isinstance(again, Issued)
    assert len(issuing.signer.signed) == 1
    other = await issuing.issuance.submit(issuing.request("b.example.com", idempotency_key="once"))
    assert isinstance(other, Rejected)
    assert other.rejection.reason is Reason.CONFLICT


async def test_a_serial_that_comes_twice_stops_the_second(issuing: Issuing) -> None:
    """A broken source of randomness: no duplicate leaves the house (BR 7.1.2.7)."""
    issuing.serials = [1 << 100, 1 << 100]
    await issuing.issued("a.example.com")
    with pytest.raises(Unavailable):
        await issuing.issuance.submit(issuing.request("b.example.com"))
    assert len(issuing.signer.signed) == 1


async def test_a_serial_below_64_bits_is_never_signed(issuing: Issuing) -> None:
    issuing.serials = [1 << 62]
    assert (await refusal(issuing, issuing.request("a.example.com"))).reason is Reason.LINT_REFUSED


async def test_without_the_signer_the_order_can_be_finalized_later_and_the_serial_is_spent(issuing: Issuing) -> None:
    origin = await issuing.add_job("order-1")

    def away(_: bytes) -> bytes:
        raise Unavailable("signer")

    issuing.signer.fail = away
    with pytest.raises(Unavailable):
        await issuing.issuance.submit(issuing.request("a.example.com", origin=origin))
    assert await issuing.job("order-1") == JobSettler.READY
    (revoked,) = await issuing.rows("SELECT precaution FROM revocation")
    assert revoked["precaution"] == 1
    issuing.signer.fail = None
    assert await issuing.issued("a.example.com", origin=origin)
    assert len(await issuing.rows("SELECT DISTINCT serial FROM issuance")) == 2


async def test_a_signature_that_does_not_verify_never_leaves(issuing: Issuing) -> None:
    origin = await issuing.add_job("order-1")
    issuing.signer.fail = lambda _: b"\x30\x06\x02\x01\x01\x02\x01\x01"
    with pytest.raises(Unavailable):
        await issuing.issuance.submit(issuing.request("a.example.com", origin=origin))
    assert await issuing.rows("SELECT * FROM certificate") == []
    assert [row["state"] for row in await issuing.rows("SELECT state FROM issuance")] == ["abandoned"]


async def test_what_the_signer_refuses_is_settled_and_reported_as_a_bug(issuing: Issuing) -> None:
    origin = await issuing.add_job("order-1")

    def refuse(_: bytes) -> bytes:
        raise SignerRefused("outside the envelope")

    issuing.signer.fail = refuse
    with pytest.raises(SignerRefused):
        await issuing.issuance.submit(issuing.request("a.example.com", origin=origin))
    assert await issuing.job("order-1") == JobSettler.FAILED


async def _crash_while_signing(issuing: Issuing) -> None:
    origin = await issuing.add_job("order-1")

    def die(_: bytes) -> bytes:
        raise asyncio.CancelledError

    issuing.signer.fail = die
    with pytest.raises(asyncio.CancelledError):
        await issuing.issuance.submit(issuing.request("a.example.com", origin=origin))
    issuing.signer.fail = None


async def test_the_sweeper_settles_what_a_crash_left_behind_once(issuing: Issuing, clock: FakeClock) -> None:
    await _crash_while_signing(issuing)
    assert await issuing.sweeper.sweep() == 0  # its lease is still good
    clock.advance(timedelta(seconds=31))
    assert sum(await asyncio.gather(*(issuing.sweeper.sweep() for _ in range(5)))) == 1
    assert await issuing.job("order-1") == JobSettler.FAILED
    (intent,) = await issuing.rows("SELECT serial, state FROM issuance")
    (revoked,) = await issuing.rows("SELECT serial, precaution FROM revocation")
    assert intent["state"] == "abandoned"
    assert (revoked["serial"], revoked["precaution"]) == (intent["serial"], 1)


async def test_a_certificate_that_comes_after_the_sweeper_is_not_released(issuing: Issuing, clock: FakeClock) -> None:
    """The slow worker lost its lease: what it signed is revoked already, and it must not say anything else."""
    origin = await issuing.add_job("order-1")
    swept = []

    async def sweeper() -> None:
        clock.advance(timedelta(seconds=31))
        swept.append(await issuing.sweeper.sweep())

    issuing.signer.meanwhile = sweeper
    outcome = await issuing.issuance.submit(issuing.request("a.example.com", origin=origin))
    assert swept == [1]
    assert isinstance(outcome, Rejected)
    assert outcome.rejection.reason is Reason.INTERRUPTED
    assert await issuing.rows("SELECT * FROM certificate") == []


async def test_revoking_twice_and_revoking_nothing_are_told_apart(issuing: Issuing) -> None:
    certificate = await issuing.issued("a.example.com")
    serial = f"{certificate.serial_number:x}"
    await issuing.issuance.revoke(issuer="issuing", serial=serial, reason=RevocationReason.SUPERSEDED, principal=PROGRAM)
    for wrong, reason, expected in [
        (serial, RevocationReason.SUPERSEDED, Reason.ALREADY_REVOKED),
        ("ff", RevocationReason.SUPERSEDED, Reason.NOT_FOUND),
        (serial, RevocationReason.CERTIFICATE_HOLD, Reason.BAD_REVOCATION_REASON),
        (serial, RevocationReason.CA_COMPROMISE, Reason.BAD_REVOCATION_REASON),
    ]:
        with pytest.raises(Rejection) as refused:
            await issuing.issuance.revoke(issuer="issuing", serial=wrong, reason=reason, principal=PROGRAM)
        assert refused.value.reason is expected
    record = await issuing.issuance.certificate(serial)
    assert record is not None
    assert record.reason is RevocationReason.SUPERSEDED


async def test_certificates_are_listed_newest_first_page_by_page_for_their_owner(issuing: Issuing, clock: FakeClock) -> None:
    for n in range(5):
        await issuing.issued(f"n{n}.example.com")
        clock.advance(timedelta(seconds=n % 2))  # two of each share an instant
    seen: list[str] = []
    before = None
    while page := await issuing.issuance.certificates(principal=str(PROGRAM), before=before, limit=2):
        seen += [record.names[0] for record in page]
        last = page[-1].certificate
        before = (last.issued_at, last.serial)
    assert sorted(seen) == [f"dns:n{n}.example.com" for n in range(5)]
    assert await issuing.issuance.certificates(principal="api-key:other") == []


async def test_a_certificate_is_found_by_its_owner_and_its_issuer_alone(issuing: Issuing) -> None:
    certificate = await issuing.issued("a.example.com")
    serial = f"{certificate.serial_number:x}"
    for question, found in [
        ({}, True),
        ({"principal": str(PROGRAM)}, True),
        ({"principal": "api-key:other"}, False),
        ({"issuer": "issuing", "principal": str(PROGRAM)}, True),
        ({"issuer": "other"}, False),
    ]:
        assert (await issuing.issuance.certificate(serial, **question) is not None) is found, question


def test_a_prepared_certificate_is_signed_once(issuing: Issuing) -> None:
    request = issuing.request("a.example.com")
    rules = issuing.rules.profiles.get("tls-server")
    names = wanted_names(request, rules)
    plan = make_plan(request, names, rules, issuing.ca.issuer, issuing.clock.micros())
    prepared = issuing.pipeline._prepare(request, names, plan, issuing.ca.issuer, rules, caa=(), approval=None)
    prepared.redeem()
    with pytest.raises(AssertionError):
        prepared.redeem()


async def test_a_write_that_the_database_refuses_leaves_no_audit_record_behind(issuing: Issuing, database: Database) -> None:
    origin = await issuing.add_job("order-1")
    await database.write(Step("UPDATE job SET attempts = 7 WHERE id = 'order-1'"))
    rejection = await refusal(issuing, issuing.request("a.example.com", origin=origin))
    assert rejection.reason is Reason.CONFLICT
    assert await issuing.rows("SELECT * FROM issuance") == []
    assert [row["event"] for row in await issuing.rows("SELECT event FROM audit")] == ["issue.refused"]


async def test_a_profile_that_wants_a_host_name_takes_no_device_name_instead(database: Database, clock: FakeClock) -> None:
    issuing = Issuing(database, clock, profiles=[device(require_san=True)])
    request = issuing.request(csr=make_csr(common_name="router 7"), profile="device")
    assert (await refusal(issuing, request)).reason is Reason.BAD_CSR
