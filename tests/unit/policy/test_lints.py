"""The lint gate: bytes that say anything but their plan are refused, and pkilint has read every shape once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pki.identifiers import DnsName, parse_ip
from pki.plan import CertificatePlan, Issuer, IssuerUrls, KeyUsageBit, build_tbs
from pki.reasons import Reason, Rejection
from policy.lints import LintGate, check_invariants, pkilint_linter
from tests.helpers.ca import START, TestCa
from tests.helpers.profiles import CLIENT_AUTH, SERVER_AUTH

CA = TestCa()
OTHER = TestCa()
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
SERIAL = 1 << 100
SIGNATURE = frozenset({KeyUsageBit.DIGITAL_SIGNATURE})

PLAN = CertificatePlan(
    issuer="issuing",
    profile="tls-server",
    profile_version="1",
    public_key=KEY,
    subject=(("CN", "a.example.com"),),
    identifiers=(DnsName("a.example.com"), parse_ip("192.0.2.1")),
    not_before=START,
    not_after=START + timedelta(days=47) - timedelta(seconds=1),
    key_usage=SIGNATURE,
    extended_key_usage=(SERVER_AUTH,),
    must_staple=False,
)


def refused(call: Callable[[], None]) -> str:
    with pytest.raises(Rejection) as rejection:
        call()
    assert rejection.value.reason is Reason.LINT_REFUSED
    return rejection.value.detail


def test_bytes_that_are_their_plan_pass() -> None:
    check_invariants(build_tbs(PLAN, CA.issuer, SERIAL), PLAN, CA.issuer, SERIAL)
    nameless = replace(PLAN, subject=())
    check_invariants(build_tbs(nameless, CA.issuer, SERIAL), nameless, CA.issuer, SERIAL)


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        (replace(PLAN, identifiers=(*PLAN.identifiers, DnsName("evil.example"))), "alternative names"),
        (replace(PLAN, identifiers=PLAN.identifiers[:1]), "alternative names"),
        (replace(PLAN, identifiers=(DnsName("a.example.com", wildcard=True), *PLAN.identifiers[1:])), "alternative names"),
        (replace(PLAN, identifiers=()), "extensions"),
        (replace(PLAN, subject=(("CN", "evil.example"),)), "subject"),
        (replace(PLAN, subject=(("O", "Evil"), *PLAN.subject)), "subject"),
        (replace(PLAN, subject=()), "subject"),
        (replace(PLAN, public_key=ec.generate_private_key(ec.SECP256R1()).public_key()), "public key"),
        (replace(PLAN, not_after=PLAN.not_after + timedelta(seconds=1)), "validity"),
        (replace(PLAN, not_before=PLAN.not_before - timedelta(seconds=1)), "validity"),
        (replace(PLAN, extended_key_usage=(CLIENT_AUTH,)), "purposes"),
        (replace(PLAN, extended_key_usage=(SERVER_AUTH, CLIENT_AUTH)), "purposes"),
        (replace(PLAN, key_usage=frozenset({KeyUsageBit.KEY_AGREEMENT})), "key usage"),
        (replace(PLAN, must_staple=True), "extensions"),
    ],
)
def test_bytes_that_say_something_else_are_refused(said: CertificatePlan, rule: str) -> None:
    tbs = build_tbs(said, CA.issuer, SERIAL)
    assert rule in refused(lambda: check_invariants(tbs, PLAN, CA.issuer, SERIAL))


def test_another_serial_or_issuer_is_refused() -> None:
    tbs = build_tbs(PLAN, CA.issuer, SERIAL)
    assert "serial" in refused(lambda: check_invariants(tbs, PLAN, CA.issuer, SERIAL + 1))
    elsewhere = IssuerUrls("http://evil.test/x.cer", CA.issuer.urls.ocsp, CA.issuer.urls.crl)
    for urls, rule in (
        (elsewhere, "information access"),
        (replace(CA.issuer.urls, crl="http://evil.test/x.crl"), "distribution"),
    ):
        other = Issuer("issuing", CA.certificate, (CA.root,), urls)
        assert rule in refused(partial(check_invariants, build_tbs(PLAN, other, SERIAL), PLAN, CA.issuer, SERIAL))
    foreign = build_tbs(PLAN, OTHER.issuer, SERIAL)
    assert "key identifier" in refused(lambda: check_invariants(foreign, PLAN, CA.issuer, SERIAL))


@pytest.mark.parametrize("serial", [1, (1 << 63) - 1, 1 << 159])
def test_a_serial_outside_64_to_159_bits_is_refused(serial: int) -> None:
    """RFC 5280 §4.1.2.2, BR 7.1.2.7: a CA's 63-bit serials cost it millions of certificates in 2019."""
    try:
        tbs = build_tbs(PLAN, CA.issuer, serial)
    except ValueError:  # the builder itself refuses more than 20 octets
        return
    assert "serial" in refused(lambda: check_invariants(tbs, PLAN, CA.issuer, serial))


@pytest.mark.parametrize(
    ("not_before", "not_after", "rule"),
    [
        (START, CA.certificate.not_valid_after_utc + timedelta(seconds=1), "outlives"),
        (CA.certificate.not_valid_before_utc - timedelta(seconds=1), START, "before its issuer"),
    ],
)
def test_a_validity_beyond_the_issuers_is_refused(not_before: datetime, not_after: datetime, rule: str) -> None:
    plan = replace(PLAN, not_before=not_before, not_after=not_after)
    tbs = build_tbs(plan, CA.issuer, SERIAL)
    assert rule in refused(lambda: check_invariants(tbs, plan, CA.issuer, SERIAL))


def test_an_ec_certificate_never_enciphers_keys() -> None:
    """BR 7.1.2.7.11. `cryptography` would build it without a word."""
    plan = replace(PLAN, key_usage=frozenset({KeyUsageBit.DIGITAL_SIGNATURE, KeyUsageBit.KEY_ENCIPHERMENT}))
    tbs = build_tbs(plan, CA.issuer, SERIAL)
    assert "does not fit its key" in refused(lambda: check_invariants(tbs, plan, CA.issuer, SERIAL))


class CountingLinter:
    def __init__(self, *findings: str) -> None:
        self.findings = list(findings)
        self.calls = 0

    def __call__(self, der: bytes) -> list[str]:
        self.calls += 1
        return self.findings


def check(gate: LintGate, plan: CertificatePlan, *, every: bool = False) -> None:
    gate.check(build_tbs(plan, CA.issuer, SERIAL), plan, CA.issuer, SERIAL, every=every)


def test_each_shape_is_linted_once_and_every_certificate_where_the_profile_says_so() -> None:
    linter = CountingLinter()
    gate = LintGate(linter=lambda: linter)
    other_names = replace(
        PLAN, identifiers=(DnsName("b.example.com"), parse_ip("192.0.2.9")), subject=(("CN", "b.example.com"),)
    )
    for plan in (PLAN, PLAN, other_names):
        check(gate, plan)
    assert linter.calls == 1  # other names of the same kinds are the same shape
    for number, plan in enumerate(
        [
            replace(PLAN, profile_version="2"),
            replace(PLAN, identifiers=PLAN.identifiers[:1]),
            replace(PLAN, identifiers=(DnsName("example.com", wildcard=True),)),
            replace(PLAN, subject=()),
            replace(PLAN, public_key=rsa.generate_private_key(65537, 2048).public_key()),
        ],
        start=2,
    ):
        check(gate, plan)
        assert linter.calls == number
    check(gate, PLAN, every=True)
    assert linter.calls == 7


def test_a_finding_refuses_every_time_and_is_named() -> None:
    linter = CountingLinter("WARNING pkix.something")
    gate = LintGate(linter=lambda: linter)
    for _ in range(2):
        assert "pkix.something" in refused(lambda: check(gate, PLAN))
    assert linter.calls == 2


def test_pkilint_passes_what_the_shipped_profiles_make() -> None:
    gate = LintGate()
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    both = frozenset({KeyUsageBit.DIGITAL_SIGNATURE, KeyUsageBit.KEY_ENCIPHERMENT})
    check(gate, PLAN)
    check(gate, replace(PLAN, subject=()))
    check(gate, replace(PLAN, identifiers=(DnsName("printer"),), subject=()))
    check(gate, replace(PLAN, identifiers=(DnsName("example.com", wildcard=True),), subject=()))
    check(gate, replace(PLAN, subject=(("CN", "router7"),), identifiers=(), public_key=rsa_key, key_usage=both))
    check(gate, replace(PLAN, subject=(("C", "US"), ("O", "Example Corp"), ("CN", "a.example.com"))))
    check(gate, replace(PLAN, must_staple=True))


def test_pkilint_finds_what_breaks_rfc_5280() -> None:
    """The naive certificate: no key identifiers, no key usage, a critical name beside a subject."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.example.com")])
    naive = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY)
        .serial_number(SERIAL)
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example.com")]), critical=True)
        .sign(CA.key, hashes.SHA256())
    )
    findings = pkilint_linter()(naive.public_bytes(Encoding.DER))
    assert sorted(findings) == [
        "ERROR pkix.authority_key_identifier_extension_absent",
        "WARNING pkix.certificate_skid_end_entity_missing",
        "WARNING pkix.san_extension_is_critical_non_empty_subject",
    ]
