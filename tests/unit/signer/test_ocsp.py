"""OCSP: what is asked, what is answered, and what other programs make of it."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from pki import der
from pki.certificate import assemble, signature_algorithm, verify_signature
from pki.clock import to_micros
from pki.reasons import Reason, Rejection, RevocationReason
from signer.crl import extension
from signer.ocsp import (
    MAX_REQUEST,
    Good,
    OcspError,
    OcspRequest,
    Revoked,
    Status,
    Unknown,
    build_ocsp_tbs,
    finish_ocsp,
    ocsp_error,
    parse_ocsp_request,
)
from tests.helpers.signing import BEGIN, authority, leaf

CA = authority()
NOW = to_micros(BEGIN)
LATER = to_micros(BEGIN + timedelta(days=4))
SERIAL = (1 << 158) + 5


def certificate() -> x509.Certificate:
    tbs = leaf(CA, serial=SERIAL)
    assert isinstance(CA.key, ec.EllipticCurvePrivateKey)
    signature = CA.key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    return x509.load_der_x509_certificate(assemble(tbs, signature_algorithm(CA.key.public_key()), signature))


def question(algorithm: hashes.HashAlgorithm | None = None, *, nonce: bytes | None = None) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate(), CA.certificate, algorithm or hashes.SHA256())
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def answer(request: OcspRequest, status: Status) -> bytes:
    tbs = build_ocsp_tbs(
        issuer_certificate=CA.certificate,
        request=request,
        status=status,
        produced_at=NOW,
        this_update=NOW,
        next_update=LATER,
    )
    assert isinstance(CA.key, ec.EllipticCurvePrivateKey)
    return finish_ocsp(tbs, issuer_certificate=CA.certificate, signature=CA.key.sign(tbs, ec.ECDSA(hashes.SHA256())))


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256()], ids=lambda algorithm: algorithm.name)  # noqa: S303  # clients use it
def test_a_question_names_certificate_and_issuer(algorithm: hashes.HashAlgorithm) -> None:
    request = parse_ocsp_request(question(algorithm))
    assert request.serial == SERIAL
    assert request.nonce is None
    assert request.is_for(CA.certificate)
    assert not request.is_for(authority(common_name="Another CA").certificate)


@pytest.mark.parametrize("size", [1, 32, 128])
def test_a_nonce_of_1_to_128_octets_comes_back(size: int) -> None:
    # RFC 9654 §2.1.
    nonce = bytes(range(size))
    request = parse_ocsp_request(question(nonce=nonce))
    read = ocsp.load_der_ocsp_response(answer(request, Good()))
    assert read.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce


@pytest.mark.parametrize("size", [0, 129])
def test_a_nonce_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(Rejection, match="1 to 128 octets") as caught:
        parse_ocsp_request(question(nonce=bytes(size)))
    assert caught.value.reason is Reason.MALFORMED


def raw_request(*requests: bytes, extensions: bytes = b"") -> bytes:
    tbs = der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, b"".join(requests)) + extensions)
    return der.encode(der.SEQUENCE, tbs)


def single(data: bytes) -> bytes:
    """The one Request element of an OCSPRequest."""
    tbs = next(der.children(der.whole(data, der.SEQUENCE).content))
    return next(der.children(next(der.children(tbs.content)).content)).raw


CRITICAL = der.encode(0xA2, der.encode(der.SEQUENCE, extension(b"\x06\x03\x2a\x03\x04", b"\x05\x00", critical=True)))

BAD_QUESTIONS = [
    ("empty", b"", "not the DER"),
    ("no DER", b"hello", "not the DER"),
    ("a certificate", leaf(CA), "not the DER"),
    ("no certificate", raw_request(), "OCSP request"),
    ("two certificates", raw_request(single(question()), single(question())), "exactly one"),
    ("bytes behind the end", question() + b"\0", "not the DER"),
    ("too long", bytes(MAX_REQUEST + 1), "longer than"),
    ("hashed with SHA-512", question(hashes.SHA512()), "SHA-1 or SHA-256"),
    ("hashed with nothing known", question().replace(bytes.fromhex("0609608648016503040201"), bytes.fromhex("0609608648016503040909")), "SHA-1 or"),
    ("an unknown critical extension", raw_request(single(question()), extensions=CRITICAL), "critical extension 1.2.3.4"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "data", "complaint"), BAD_QUESTIONS, ids=[row[0] for row in BAD_QUESTIONS])
def test_a_bad_question_is_malformed_and_says_why(what: str, data: bytes, complaint: str) -> None:
    with pytest.raises(Rejection, match=complaint) as caught:
        parse_ocsp_request(data)
    assert caught.value.reason is Reason.MALFORMED


@given(data=st.binary(max_size=200), at=st.integers(0, 60), octet=st.integers(0, 255))
def test_any_bytes_are_a_question_or_a_rejection(data: bytes, at: int, octet: int) -> None:
    good = bytearray(question(nonce=b"12345678"))
    good[at % len(good)] = octet
    for candidate in (data, bytes(good)):
        with suppress(Rejection):
            parse_ocsp_request(candidate)


def test_good_says_good() -> None:
    read = ocsp.load_der_ocsp_response(answer(parse_ocsp_request(question()), Good()))
    assert read.certificate_status is ocsp.OCSPCertStatus.GOOD
    assert read.serial_number == SERIAL
    assert (read.produced_at_utc, read.this_update_utc, read.next_update_utc) == (BEGIN, BEGIN, BEGIN + timedelta(days=4))
    assert list(read.extensions) == []
    public_key = CA.key.public_key()
    assert verify_signature(public_key, signature_algorithm(public_key), read.signature, read.tbs_response_bytes)


def test_revoked_says_when_and_why() -> None:
    read = ocsp.load_der_ocsp_response(answer(parse_ocsp_request(question()), Revoked(NOW, RevocationReason.KEY_COMPROMISE)))
    assert read.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert read.revocation_time_utc == BEGIN
    assert read.revocation_reason is x509.ReasonFlags.key_compromise


def test_revoked_without_a_reason_has_none() -> None:
    read = ocsp.load_der_ocsp_response(answer(parse_ocsp_request(question()), Revoked(NOW, RevocationReason.UNSPECIFIED)))
    assert read.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert read.revocation_reason is None


def test_unknown_says_unknown() -> None:
    read = ocsp.load_der_ocsp_response(answer(parse_ocsp_request(question()), Unknown()))
    assert read.certificate_status is ocsp.OCSPCertStatus.UNKNOWN


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OcspError.MALFORMED_REQUEST, ocsp.OCSPResponseStatus.MALFORMED_REQUEST),
        (OcspError.INTERNAL_ERROR, ocsp.OCSPResponseStatus.INTERNAL_ERROR),
        (OcspError.TRY_LATER, ocsp.OCSPResponseStatus.TRY_LATER),
        (OcspError.UNAUTHORIZED, ocsp.OCSPResponseStatus.UNAUTHORIZED),
    ],
)
def test_an_error_is_five_octets_that_say_which(error: OcspError, status: ocsp.OCSPResponseStatus) -> None:
    assert len(ocsp_error(error)) == 5
    assert ocsp.load_der_ocsp_response(ocsp_error(error)).response_status is status


@pytest.mark.parametrize(
    ("digest", "status", "said"),
    [
        ("-sha1", Good(), "leaf.pem: good"),
        ("-sha256", Good(), "leaf.pem: good"),
        ("-sha1", Revoked(NOW, RevocationReason.SUPERSEDED), "Reason: superseded"),
        ("-sha256", Unknown(), "leaf.pem: unknown"),
    ],
)
def test_openssl_asks_and_takes_the_answer(tmp_path: Path, digest: str, status: Status, said: str) -> None:
    (tmp_path / "ca.pem").write_bytes(CA.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "leaf.pem").write_bytes(certificate().public_bytes(Encoding.PEM))
    pair = ["openssl", "ocsp", digest, "-issuer", "ca.pem", "-cert", "leaf.pem"]
    subprocess.run([*pair, "-reqout", "request.der"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    request = parse_ocsp_request((tmp_path / "request.der").read_bytes())
    assert request.is_for(CA.certificate)
    assert request.nonce  # OpenSSL sends one
    (tmp_path / "response.der").write_bytes(answer(request, status))
    # The times of the test are not the machine's: -attime sets the chain's, -validity_period the answer's.
    times = ["-attime", str(NOW // 1_000_000), "-validity_period", "2000000000"]
    trust = ["-respin", "response.der", "-CAfile", "ca.pem", "-verify_other", "ca.pem"]
    # The question again, for its nonce; then without one, for OpenSSL to match and print the status.
    for words, expected in (
        (["openssl", "ocsp", "-reqin", "request.der", *trust, *times], ""),
        ([*pair, "-no_nonce", *trust, *times], said),
    ):
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
        assert "Response verify OK" in done.stderr
        assert "nonce" not in done.stderr.lower()  # it would warn
        assert expected in done.stdout
