"""CRLs as bytes, read back by cryptography and by OpenSSL."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from pki.clock import Micros, to_datetime, to_micros
from pki.reasons import RevocationReason
from signer.crl import CrlEntry, build_crl_tbs, finish_crl
from tests.helpers.signing import BEGIN, Authority, authority

NOW = to_micros(BEGIN)
LATER = to_micros(BEGIN + timedelta(days=4))
CA = authority()


def signed(issuer: Authority, tbs: bytes) -> bytes:
    assert isinstance(issuer.key, ec.EllipticCurvePrivateKey)
    signature = issuer.key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    return finish_crl(tbs, issuer_certificate=issuer.certificate, signature=signature)


def crl(*entries: CrlEntry, number: int = 1, shard: str | None = None) -> bytes:
    tbs = build_crl_tbs(
        issuer_certificate=CA.certificate,
        entries=entries,
        number=number,
        this_update=NOW,
        next_update=LATER,
        distribution_point=shard,
    )
    return signed(CA, tbs)


def test_a_crl_says_who_when_and_which_number() -> None:
    read = x509.load_der_x509_crl(crl(number=(1 << 64) + 1))
    assert read.issuer == CA.certificate.subject
    assert (read.last_update_utc, read.next_update_utc) == (BEGIN, BEGIN + timedelta(days=4))
    assert read.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == (1 << 64) + 1
    authority_key = read.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert authority_key.value.key_identifier == b"\x07" * 20
    assert not any(found.critical for found in read.extensions)
    assert len(read) == 0
    public_key = CA.key.public_key()
    assert read.is_signature_valid(public_key)


def test_an_entry_without_a_reason_has_no_extension() -> None:
    # RFC 5280 §5.3.1: "the reason code CRL entry extension SHOULD be absent instead of using the unspecified (0) reasonCode".
    entry = x509.load_der_x509_crl(crl(CrlEntry(5, NOW, RevocationReason.UNSPECIFIED)))[0]
    assert list(entry.extensions) == []
    assert entry.revocation_date_utc == BEGIN


@pytest.mark.parametrize(
    ("reason", "flag"),
    [
        (RevocationReason.KEY_COMPROMISE, x509.ReasonFlags.key_compromise),
        (RevocationReason.CA_COMPROMISE, x509.ReasonFlags.ca_compromise),
        (RevocationReason.AFFILIATION_CHANGED, x509.ReasonFlags.affiliation_changed),
        (RevocationReason.SUPERSEDED, x509.ReasonFlags.superseded),
        (RevocationReason.CESSATION_OF_OPERATION, x509.ReasonFlags.cessation_of_operation),
        (RevocationReason.CERTIFICATE_HOLD, x509.ReasonFlags.certificate_hold),
        (RevocationReason.PRIVILEGE_WITHDRAWN, x509.ReasonFlags.privilege_withdrawn),
        (RevocationReason.AA_COMPROMISE, x509.ReasonFlags.aa_compromise),
    ],
)
def test_every_other_reason_is_written_down(reason: RevocationReason, flag: x509.ReasonFlags) -> None:
    entry = x509.load_der_x509_crl(crl(CrlEntry(5, NOW, reason)))[0]
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason is flag


def test_remove_from_crl_is_for_deltas_and_refused() -> None:
    with pytest.raises(ValueError, match="delta"):
        crl(CrlEntry(5, NOW, RevocationReason.REMOVE_FROM_CRL))


@pytest.mark.parametrize("serial", [0, -1, 1 << 159])
def test_a_serial_that_no_certificate_has_is_refused(serial: int) -> None:
    with pytest.raises(ValueError, match="serial"):
        crl(CrlEntry(serial, NOW, RevocationReason.UNSPECIFIED))


def test_a_shard_names_its_distribution_point_critically() -> None:
    uri = "http://ca.example.com/crl/issuing/7.crl"
    found = x509.load_der_x509_crl(crl(shard=uri)).extensions.get_extension_for_class(x509.IssuingDistributionPoint)
    assert found.critical  # RFC 5280 §5.2.5: "Although the extension is critical ..."
    assert found.value.full_name == [x509.UniformResourceIdentifier(uri)]


@given(
    serials=st.lists(st.integers(1, (1 << 159) - 1), max_size=40),
    moments=st.integers(to_micros(datetime(1990, 1, 1, tzinfo=UTC)), to_micros(datetime(2120, 1, 1, tzinfo=UTC))),
)
@settings(max_examples=60, deadline=None)
def test_every_serial_and_date_comes_back(serials: list[int], moments: int) -> None:
    # Dates from 2050 on are GeneralizedTime (RFC 5280 §5.1.2.4).
    at = Micros(moments)
    read = x509.load_der_x509_crl(crl(*(CrlEntry(serial, at, RevocationReason.UNSPECIFIED) for serial in serials)))
    assert [entry.serial_number for entry in read] == serials
    assert {entry.revocation_date_utc for entry in read} <= {to_datetime(at)}


def test_openssl_takes_the_crl_and_its_signature(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(CA.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "crl.der").write_bytes(
        crl(CrlEntry(0xABCDEF, NOW, RevocationReason.KEY_COMPROMISE), CrlEntry(1, NOW, RevocationReason.UNSPECIFIED))
    )
    done = subprocess.run(
        ["openssl", "crl", "-in", "crl.der", "-inform", "DER", "-CAfile", "ca.pem", "-noout", "-text"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "verify OK" in done.stderr
    assert "Serial Number: ABCDEF" in done.stdout
    assert "Key Compromise" in done.stdout


def test_the_issuer_name_is_copied_byte_for_byte() -> None:
    # A name that a re-encoder would write differently (PrintableString, where cryptography prefers UTF8String).
    key = ec.generate_private_key(ec.SECP256R1())
    attribute = x509.NameAttribute(x509.NameOID.COMMON_NAME, "Old CA", _type=x509.name._ASN1Type.PrintableString)
    name = x509.Name([attribute])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(BEGIN)
        .not_valid_after(BEGIN + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier(b"\x01" * 20), critical=False)
        .sign(key, hashes.SHA256())
    )
    tbs = build_crl_tbs(issuer_certificate=certificate, entries=[], number=1, this_update=NOW, next_update=LATER)
    assert b"\x13\x06Old CA" in tbs
