"""Certification requests: what devices send is read, what is wrong is named, and nothing raises late."""

from __future__ import annotations

import base64
import contextlib
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AttributeOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pki import der
from pki.csr import MAX_CSR, Csr, parse_csr
from pki.identifiers import DnsName, parse_ip
from pki.reasons import Reason, Rejection
from tests.helpers.ca import make_csr

KEY = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)


def refused(data: bytes) -> Rejection:
    with pytest.raises(Rejection) as rejection:
        parse_csr(data)
    return rejection.value


@pytest.mark.parametrize("key", [KEY, RSA, ed25519.Ed25519PrivateKey.generate()], ids=["ec", "rsa", "ed25519"])
def test_a_request_of_every_kind_of_key_is_read(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
) -> None:
    csr = parse_csr(make_csr("B.example.com", "a.example.com", "b.example.com", common_name="b.example.com", key=key))
    assert csr.identifiers == (DnsName("b.example.com"), DnsName("a.example.com"))  # canonical, in order, once each
    assert csr.common_name == "b.example.com"
    assert csr.spki == key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_pem_is_read_with_any_line_breaks_even_with_none() -> None:
    """`curl -d @file` takes the newlines out."""
    binary = make_csr("a.example.com")
    text = base64.b64encode(binary)
    for body in (text, b"\r\n".join(text[at : at + 64] for at in range(0, len(text), 64))):
        pem = b"-----BEGIN CERTIFICATE REQUEST-----" + body + b"-----END CERTIFICATE REQUEST-----"
        assert parse_csr(pem).der == binary
    assert (
        parse_csr(b"-----BEGIN NEW CERTIFICATE REQUEST-----\n" + text + b"\n-----END NEW CERTIFICATE REQUEST-----\n").der
        == binary
    )


def _rebuild(csr: bytes, attributes: list[bytes], key: ec.EllipticCurvePrivateKey) -> bytes:
    """The same request with other attributes, as they are given, signed again."""
    info, algorithm, _ = der.children(der.whole(csr, der.SEQUENCE).content)
    version, subject, spki, _ = der.children(info.content)
    changed = der.encode(der.SEQUENCE, version.raw + subject.raw + spki.raw + der.encode(0xA0, b"".join(attributes)))
    signature = key.sign(changed, ec.ECDSA(hashes.SHA256()))
    return der.encode(der.SEQUENCE, changed + algorithm.raw + der.encode(der.BIT_STRING, b"\0" + signature))


def _attributes(csr: bytes) -> list[bytes]:
    info = next(der.children(der.whole(csr, der.SEQUENCE).content))
    return [element.raw for element in der.children(list(der.children(info.content))[3].content)]


def _with_challenge(secret: bytes) -> bytes:
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dev1")]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("dev1.example.com")]), critical=False)
        .add_attribute(AttributeOID.CHALLENGE_PASSWORD, secret)
        .sign(KEY, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def test_attributes_in_another_order_than_der_wants_are_read() -> None:
    """strongSwan's: `cryptography` refuses them with InvalidSetOrdering."""
    sorted_csr = _with_challenge(b"s3cret")
    turned = _rebuild(sorted_csr, _attributes(sorted_csr)[::-1], KEY)
    assert _attributes(turned) != _attributes(sorted_csr)
    for data in (sorted_csr, turned):
        csr = parse_csr(data)
        assert csr.challenge_password == "s3cret"
        assert csr.identifiers == (DnsName("dev1.example.com"),)


def test_the_challenge_password_is_in_no_repr() -> None:
    assert "s3cret" not in repr(parse_csr(_with_challenge(b"s3cret")))


def test_a_repeated_attribute_is_refused() -> None:
    """Two readers could take two different ones."""
    csr = _with_challenge(b"s3cret")
    one = _attributes(csr)
    assert "twice" in refused(_rebuild(csr, [*one, one[0]], KEY)).detail


def _openssl_csr(path: Path, *options: str) -> bytes:
    command = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=x"]
    subprocess.run([*command, "-out", str(path), *options], check=True, capture_output=True)
    return path.read_bytes()


@pytest.mark.parametrize("digest", ["sha1", "md5"])
def test_a_weak_digest_is_named_and_not_called_a_bad_signature(digest: str, tmp_path: Path) -> None:
    csr = _openssl_csr(tmp_path / "r.pem", f"-{digest}")
    rejection = refused(csr)
    assert rejection.reason is Reason.WEAK_ALGORITHM
    assert digest.upper() in rejection.detail
    assert parse_csr(csr, legacy_digests={digest}).signature_digest == digest


def test_rsassa_pss_is_verified(tmp_path: Path) -> None:
    pss = ("-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:-1")
    assert parse_csr(_openssl_csr(tmp_path / "r.pem", "-sha384", *pss)).signature_digest == "sha384"


def test_a_signature_by_another_key_is_no_proof_of_possession() -> None:
    csr = bytearray(make_csr("a.example.com"))
    at = csr.index(b"a.example.com")
    csr[at] = ord("b")
    assert refused(bytes(csr)).reason is Reason.BAD_CSR
    other = ec.generate_private_key(ec.SECP256R1())
    assert "not by the key" in refused(_rebuild(make_csr("a.example.com"), [], other)).detail


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (x509.RFC822Name("a@example.com"), "rfc822Name"),
        (x509.UniformResourceIdentifier("https://example.com"), "uniformResourceIdentifier"),
        (x509.RegisteredID(x509.ObjectIdentifier("1.2.3")), "registeredID"),
        (x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a"), "otherName"),
    ],
)
def test_names_that_are_not_issued_are_refused_and_not_dropped(name: x509.GeneralName, kind: str) -> None:
    """CVE-2026-105818 was such a name, copied without a check."""
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example.com"), name]), critical=False)
        .sign(KEY, hashes.SHA256())
    )
    rejection = refused(csr.public_bytes(Encoding.DER))
    assert rejection.reason is Reason.UNSUPPORTED_IDENTIFIER
    assert kind in rejection.detail


def test_addresses_are_read() -> None:
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(parse_ip("2001:db8::1").address)]), critical=False)
        .sign(KEY, hashes.SHA256())
    )
    assert parse_csr(csr.public_bytes(Encoding.DER)).identifiers == (parse_ip("2001:db8::1"),)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x80\x00\x00",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAA\n-----END CERTIFICATE REQUEST-----\n",
        make_csr("a.example.com") + b"\0",
        b"\x30" * (3 * MAX_CSR),
        b"\x30\x84\x7f\xff\xff\xff",
        b"\x30\x03\x02\x01\x00",
    ],
)
def test_what_is_no_request_is_a_bad_csr(data: bytes) -> None:
    assert refused(data).reason is Reason.BAD_CSR


def test_five_thousand_nested_elements_end_in_a_refusal() -> None:
    nested = b""
    for _ in range(5000):
        nested = der.encode(der.SEQUENCE, nested)
    assert refused(nested).reason is Reason.BAD_CSR


def test_a_huge_rsa_key_is_refused_before_any_arithmetic() -> None:
    numbers = rsa.RSAPublicNumbers(65537, (1 << 16383) | 1)
    spki = numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    info, algorithm, _ = der.children(der.whole(make_csr("a.example.com", key=RSA), der.SEQUENCE).content)
    version, subject, _, attributes = der.children(info.content)
    changed = der.encode(der.SEQUENCE, version.raw + subject.raw + spki + attributes.raw)
    signature = RSA.sign(changed, padding.PKCS1v15(), hashes.SHA256())
    data = der.encode(der.SEQUENCE, changed + algorithm.raw + der.encode(der.BIT_STRING, b"\0" + signature))
    assert refused(data).reason is Reason.BAD_PUBLIC_KEY


@given(st.binary(max_size=300))
def test_random_bytes_are_a_request_or_a_rejection(data: bytes) -> None:
    _value_or_rejection(data)


_SAMPLE = _with_challenge(b"s3cret")


@given(st.integers(0, len(_SAMPLE) - 1), st.binary(min_size=1, max_size=4))
@settings(max_examples=400)
def test_a_damaged_request_is_a_request_or_a_rejection(at: int, splice: bytes) -> None:
    _value_or_rejection(_SAMPLE[:at] + splice + _SAMPLE[at + len(splice) :])
    _value_or_rejection(_SAMPLE[:at] + splice + _SAMPLE[at:])


def _value_or_rejection(data: bytes) -> None:
    with contextlib.suppress(Rejection):
        assert isinstance(parse_csr(data), Csr)


def test_what_stands_beside_names_and_key_is_kept_for_whoever_looks_for_proofs() -> None:
    csr = parse_csr(_with_challenge(b"secret"))
    assert set(csr.attributes) == {"1.2.840.113549.1.9.7", "1.2.840.113549.1.9.14"}
    assert csr.attributes["1.2.840.113549.1.9.7"][-6:] == b"secret"
    assert csr.extensions["2.5.29.17"] == x509.SubjectAlternativeName([x509.DNSName("dev1.example.com")]).public_bytes()
    assert "secret" not in repr(csr)
