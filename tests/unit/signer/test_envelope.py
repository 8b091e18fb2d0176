"""Whatever the rest of the program decided, an issuer key signs a leaf inside its envelope and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pki import der
from pki.certificate import assemble, signature_algorithm
from pki.clock import Micros, to_micros
from pki.reasons import RevocationReason
from signer.api import SignerRefused
from signer.crl import CrlEntry, build_crl_tbs, extension, generalized_time
from signer.envelope import Limits
from signer.ocsp import OcspRequest, Revoked, build_ocsp_tbs, parse_ocsp_request
from signer.software import KeyKind
from tests.helpers.signing import BEGIN, LIFETIME, Builder, authority, key_usage, leaf

CA = authority()
LIMITS = Limits.of(CA.envelope())
NOW = to_micros(BEGIN)
LATER = to_micros(BEGIN + timedelta(days=4))
SECOND = timedelta(seconds=1)


def fields(tbs: bytes) -> list[bytes]:
    return [part.raw for part in der.children(der.whole(tbs, der.SEQUENCE).content)]


def sequence(*parts: bytes) -> bytes:
    return der.encode(der.SEQUENCE, b"".join(parts))


def with_field(at: int, value: bytes) -> Callable[[], bytes]:
    """A good leaf with one top-level field of its TBSCertificate replaced."""

    def make() -> bytes:
        parts = fields(leaf(CA))
        parts[at : at + 1] = [value] if value else []
        return sequence(*parts)

    return make


def serial(value: int) -> Callable[[], bytes]:
    return with_field(1, der.encode(der.INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)))


def with_extensions(*added: bytes) -> bytes:
    parts = fields(leaf(CA))
    inner = der.whole(der.whole(parts[-1], 0xA3).content, der.SEQUENCE).content
    parts[-1] = der.encode(0xA3, der.encode(der.SEQUENCE, inner + b"".join(added)))
    return sequence(*parts)


def other_name(builder: Builder) -> Builder:
    return builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Another CA")]))


def replaced(name: str, value: x509.ExtensionType | None, *, critical: bool = False) -> Callable[[], bytes]:
    return lambda: leaf(CA, replace={name: None if value is None else (value, critical)})


EC = signature_algorithm(CA.key.public_key())
RSA = signature_algorithm(authority(KeyKind.RSA_2048).key.public_key())

HOSTILE: list[tuple[str, Callable[[], bytes], str]] = [
    ("empty", lambda: b"", "not a TBSCertificate"),
    ("version 1", with_field(0, b""), "not a TBSCertificate of version 3"),
    ("version 2", with_field(0, der.encode(0xA0, b"\x02\x01\x01")), "version is not 3"),
    ("version 4", with_field(0, der.encode(0xA0, b"\x02\x01\x03")), "version is not 3"),
    ("serial 0", serial(0), "serial number"),
    ("serial negative", serial(-(1 << 100)), "serial number"),
    ("serial of 63 bits", serial((1 << 63) - 1), "serial number"),
    ("serial of 160 bits", serial(1 << 159), "serial number"),
    (
        "serial with leading zeros",
        with_field(1, der.encode(der.INTEGER, bytes(4) + b"\x7f" * 10)),
        "cannot be read|can be read",
    ),
    ("RSA named, EC key", with_field(2, RSA.der), "signature algorithm"),
    ("NULL parameters", with_field(2, EC.der.replace(b"\x30\x0a", b"\x30\x0c") + b"\x05\x00"), "signature algorithm"),
    ("another issuer", lambda: leaf(CA, change=lambda builder: other_name(_nameless(builder))), "issuer name"),
    (
        "issuer name in another string type",
        with_field(3, fields(leaf(CA))[3].replace(b"\x0c\x0fTest", b"\x13\x0fTest")),
        "issuer name",
    ),
    ("the CA's own key", lambda: leaf(CA, subject_key=CA.key.public_key()), "issuer's own"),
    ("one second too long", lambda: leaf(CA, end=BEGIN + LIFETIME), "longer than 47 days"),
    ("ten years", lambda: leaf(CA, end=BEGIN + timedelta(days=3650) - SECOND), "longer than 47 days"),
    (
        "beyond the issuer",
        lambda: leaf(CA, begin=BEGIN + timedelta(days=3640), end=BEGIN + timedelta(days=3650) + SECOND),
        "later than that of the issuer",
    ),
    (
        "ends before it begins",
        with_field(4, sequence(der.encode(0x17, b"261123120001Z"), der.encode(0x17, b"261123120000Z"))),
        "before notBefore",
    ),
    (
        "no such date",
        with_field(4, sequence(der.encode(0x17, b"261323120001Z"), der.encode(0x17, b"261323120000Z"))),
        "can be read",
    ),
    ("CA", replaced("constraints", x509.BasicConstraints(ca=True, path_length=None), critical=True), "basicConstraints"),
    ("CA, not critical", replaced("constraints", x509.BasicConstraints(ca=True, path_length=3)), "basicConstraints"),
    ("keyCertSign", replaced("usage", key_usage(key_cert_sign=True), critical=True), "keyCertSign"),
    ("cRLSign", replaced("usage", key_usage(crl_sign=True)), "keyCertSign or cRLSign"),
    ("no EKU", replaced("purposes", None), "no extended key usage"),
    ("OCSPSigning", replaced("purposes", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])), "1.3.6.1.5.5.7.3.9"),
    (
        "anyExtendedKeyUsage beside an allowed one",
        replaced(
            "purposes", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
        ),
        "2.5.29.37.0",
    ),
    ("no AKI", replaced("authority", None), "authority key identifier"),
    ("another AKI", replaced("authority", x509.AuthorityKeyIdentifier(b"\x08" * 20, None, None)), "authority key identifier"),
    (
        "AKI by name alone",
        replaced("authority", x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(CA.certificate.subject)], 1)),
        "authority key identifier",
    ),
    (
        "unknown and critical",
        replaced("more", x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), critical=True),
        "1.2.3.4 is critical",
    ),
    ("CT poison", replaced("more", x509.PrecertPoison(), critical=True), "is critical"),
    (
        "critical name constraints",
        replaced("more", x509.NameConstraints([x509.DNSName("example.com")], None), critical=True),
        "is critical",
    ),
    ("an extension twice", lambda: with_extensions(extension(b"\x06\x03\x55\x1d\x13", b"\x30\x00")), "can be read"),
    ("an extension that is none", lambda: with_extensions(b"\x30\x00"), "can be read"),
    ("policies that are none", lambda: with_extensions(extension(b"\x06\x03\x55\x1d\x20", b"\x05\x00")), "can be read"),
    ("bytes behind the end", lambda: leaf(CA) + b"\0", "bytes behind its end"),
    ("bytes inside the end", lambda: sequence(*fields(leaf(CA)), b"\x05\x00"), "not a TBSCertificate"),
    ("cut short", lambda: leaf(CA)[:-1], "not a TBSCertificate"),
    ("a whole certificate", lambda: assemble(leaf(CA), EC, b"12345678"), "not a TBSCertificate"),
    (
        "unique identifiers",
        lambda: sequence(*fields(leaf(CA))[:7], der.encode(0x81, b"\0\1"), fields(leaf(CA))[7]),
        "not a TBSCertificate",
    ),
    ("indefinite length", lambda: b"\x30\x80" + b"".join(fields(leaf(CA))) + b"\0\0", "not a TBSCertificate"),
]


def _nameless(builder: Builder) -> Builder:
    builder._issuer_name = None
    return builder


def test_a_leaf_inside_the_envelope_passes() -> None:
    LIMITS.check_certificate(leaf(CA))


@pytest.mark.parametrize("kind", list(KeyKind))
def test_a_leaf_of_every_kind_of_issuer_passes(kind: KeyKind) -> None:
    issuer = authority(kind)
    Limits.of(issuer.envelope()).check_certificate(leaf(issuer))


def test_the_longest_allowed_validity_counts_both_ends() -> None:
    # RFC 5280 §4.1.2.5: "from notBefore through notAfter, inclusive".
    LIMITS.check_certificate(leaf(CA, end=BEGIN + LIFETIME - SECOND))
    with pytest.raises(SignerRefused):
        LIMITS.check_certificate(leaf(CA, end=BEGIN + LIFETIME))


@pytest.mark.parametrize("number", [1 << 63, (1 << 159) - 1])
def test_the_smallest_and_the_greatest_serial_pass(number: int) -> None:
    LIMITS.check_certificate(leaf(CA, serial=number))


def test_a_leaf_that_ends_with_its_issuer_passes() -> None:
    end = CA.certificate.not_valid_after_utc
    LIMITS.check_certificate(leaf(CA, begin=end - timedelta(days=3), end=end))


def test_a_leaf_without_basic_constraints_passes() -> None:
    LIMITS.check_certificate(leaf(CA, replace={"constraints": None}))


@pytest.mark.parametrize(("what", "make", "rule"), HOSTILE, ids=[row[0] for row in HOSTILE])
def test_a_hostile_certificate_is_refused_by_the_rule_that_it_breaks(what: str, make: Callable[[], bytes], rule: str) -> None:
    with pytest.raises(SignerRefused, match=rule):
        LIMITS.check_certificate(make())


# ---------------------------------------------------------------- CRLs and OCSP answers


def crl(number: int = 1, **changes: object) -> bytes:
    entries = [CrlEntry((1 << 90) + serial, NOW, RevocationReason.SUPERSEDED) for serial in range(3)]
    arguments: dict[str, object] = {
        "issuer_certificate": CA.certificate,
        "entries": entries,
        "number": number,
        "this_update": NOW,
        "next_update": LATER,
        **changes,
    }
    return build_crl_tbs(**arguments)  # type: ignore[arg-type]  # what the rows of a table change


def crl_with(at: int, value: bytes) -> bytes:
    parts = fields(crl())
    parts[at : at + 1] = [value] if value else []
    return sequence(*parts)


def crl_extensions(*values: bytes) -> bytes:
    return crl_with(6, der.encode(0xA0, sequence(*values)))


AKI = extension(bytes.fromhex("0603551d23"), sequence(der.encode(0x80, b"\x07" * 20)))
NUMBER = extension(bytes.fromhex("0603551d14"), b"\x02\x01\x01")

HOSTILE_CRLS: list[tuple[str, Callable[[], bytes], str]] = [
    ("a certificate", lambda: leaf(CA), "not a TBSCertList"),
    ("a version 1 certificate", lambda: sequence(*fields(leaf(CA))[1:7]), "thisUpdate is no time"),
    (
        "an OCSP answer",
        lambda: answer(),  # noqa: PLW0108  # it is defined below
        "not a TBSCertList",
    ),
    ("version 1", lambda: crl_with(0, b""), "not a TBSCertList"),
    ("version 3", lambda: crl_with(0, b"\x02\x01\x02"), "version is not 2"),
    ("another algorithm", lambda: crl_with(1, RSA.der), "signature algorithm"),
    ("another issuer", lambda: crl_with(2, b"\x30\x00"), "issuer name"),
    ("no end", lambda: crl_with(4, b""), "nextUpdate"),
    ("ends when it begins", lambda: crl(next_update=NOW), "nextUpdate"),
    ("no number", lambda: crl_extensions(AKI), "CRL number"),
    ("no AKI", lambda: crl_extensions(NUMBER), "authority key identifier"),
    (
        "a delta",
        lambda: crl_extensions(AKI, NUMBER, extension(bytes.fromhex("0603551d1b"), b"\x02\x01\x01", critical=True)),
        "2.5.29.27",
    ),
    ("entries that are none", lambda: crl_with(5, sequence(b"\x05\x00")), "can be read"),
    ("bytes behind the end", lambda: crl() + b"\0", "bytes behind its end"),
    ("empty", lambda: b"", "not a TBSCertList"),
]


def ask(nonce: bytes | None = b"12345678") -> OcspRequest:
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(b"\1" * 32, b"\2" * 32, 77, hashes.SHA256())
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return parse_ocsp_request(builder.build().public_bytes(Encoding.DER))


def answer(issuer: x509.Certificate = CA.certificate, next_update: Micros | None = LATER) -> bytes:
    return build_ocsp_tbs(
        issuer_certificate=issuer,
        request=ask(),
        status=Revoked(NOW, RevocationReason.KEY_COMPROMISE),
        produced_at=NOW,
        this_update=NOW,
        next_update=next_update,
    )


def answer_with(at: int, value: bytes) -> bytes:
    parts = fields(answer())
    parts[at : at + 1] = [value] if value else []
    return sequence(*parts)


HOSTILE_ANSWERS: list[tuple[str, Callable[[], bytes], str]] = [
    ("a certificate", lambda: leaf(CA), "not an OCSP ResponseData"),
    ("a CRL", crl, "not an OCSP ResponseData"),
    ("another responder", lambda: answer(authority(KeyKind.EC_P384).certificate), "responder is not this key"),
    ("a responder by name", lambda: answer_with(0, der.encode(0xA1, LIMITS.subject)), "not an OCSP ResponseData"),
    ("no time", lambda: answer_with(1, b""), "not an OCSP ResponseData"),
    ("no answer in it", lambda: answer_with(2, b"\x30\x00"), "not an OCSP ResponseData"),
    ("two answers in it", lambda: answer_with(2, sequence(*2 * [der.whole(fields(answer())[2], 0x30).content])), "not an OCSP"),
    ("ends when it begins", lambda: answer(next_update=NOW), "nextUpdate"),
    (
        "a critical extension",
        lambda: answer_with(3, der.encode(0xA1, sequence(extension(b"\x06\x03\x2a\x03\x04", b"\x05\x00", critical=True)))),
        "critical|ResponseData",
    ),
    ("version 2", lambda: sequence(der.encode(0xA0, b"\x02\x01\x01"), *fields(answer())), "not an OCSP ResponseData"),
    ("bytes behind the end", lambda: answer() + b"\0", "not an OCSP ResponseData"),
    ("only a time", lambda: sequence(generalized_time(NOW)), "not an OCSP ResponseData"),
    ("empty", lambda: b"", "not an OCSP ResponseData"),
]


def test_our_own_crls_and_ocsp_answers_pass() -> None:
    LIMITS.check_crl(crl())
    LIMITS.check_crl(crl(entries=[]))
    LIMITS.check_crl(crl(distribution_point="http://ca.example.com/crl/issuing/3.crl"))
    LIMITS.check_ocsp(answer())
    LIMITS.check_ocsp(answer(next_update=None))


@pytest.mark.parametrize(("what", "make", "rule"), HOSTILE_CRLS, ids=[row[0] for row in HOSTILE_CRLS])
def test_a_hostile_crl_is_refused_by_the_rule_that_it_breaks(what: str, make: Callable[[], bytes], rule: str) -> None:
    with pytest.raises(SignerRefused, match=rule):
        LIMITS.check_crl(make())


@pytest.mark.parametrize(("what", "make", "rule"), HOSTILE_ANSWERS, ids=[row[0] for row in HOSTILE_ANSWERS])
def test_a_hostile_ocsp_answer_is_refused_by_the_rule_that_it_breaks(what: str, make: Callable[[], bytes], rule: str) -> None:
    with pytest.raises(SignerRefused, match=rule):
        LIMITS.check_ocsp(make())


# ---------------------------------------------------------------- anything at all

SEEDS = [leaf(CA), crl(), answer()]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(("flip", "cut", "put"))):
            case "flip":
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw(st.integers(1, 8))]
            case _:
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
        data = data or bytearray(b"\0")
    return bytes(data)


@settings(max_examples=400, deadline=None)
@given(data=st.one_of(st.binary(max_size=64), mutated()))
def test_any_bytes_pass_at_one_door_at_most_or_are_refused(data: bytes) -> None:
    passed = 0
    for check in (LIMITS.check_certificate, LIMITS.check_crl, LIMITS.check_ocsp):
        with suppress(SignerRefused):
            check(data)
            passed += 1
    assert passed <= 1


# ---------------------------------------------------------------- the envelope itself


@pytest.mark.parametrize(
    ("certificate", "complaint"),
    [
        (b"", "cannot be read"),
        (assemble(leaf(CA), EC, b"12345678"), "no subjectKeyIdentifier"),
        (
            assemble(leaf(CA, replace={"ski": (x509.SubjectKeyIdentifier(b"1"), False)}), EC, b"12345678"),
            "not that of a CA",
        ),
    ],
    ids=["nothing", "no SKI", "a leaf"],
)
def test_an_envelope_around_something_that_is_no_ca_is_refused(certificate: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Limits.of(replace(CA.envelope(), issuer_certificate=certificate))


def test_an_issuer_without_any_purpose_issues_nothing_and_still_says_what_it_revoked() -> None:
    """A CA that a successor has taken over from."""
    retired = Limits.of(replace(CA.envelope(), extended_key_usages=frozenset()))
    with pytest.raises(SignerRefused, match="is not allowed to this issuer"):
        retired.check_certificate(leaf(CA))
    retired.check_crl(crl())
