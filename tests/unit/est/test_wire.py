"""RFC 7030 §4 and RFC 8951 §3: what bodies look like, and what is made of those that do not."""

from __future__ import annotations

import base64
import contextlib

import pytest
from cryptography.hazmat.primitives.serialization import pkcs7
from hypothesis import given
from hypothesis import strategies as st

from est.endpoint import Base64Wrap, EstEndpoint
from est.errors import HttpRefusal
from est.wire import certs_only, check_csr_type, encode, wraps
from pki.csr import parse_csr, unwrap_csr
from pki.reasons import Reason, Rejection
from tests.helpers.issuance_simulator import ThrowAwayCa, der_of, make_csr, pem_of

CSR = make_csr("device.example.com")
DER = der_of(CSR)
PEM = pem_of(CSR).encode()


@pytest.mark.parametrize(
    "body",
    [
        DER,
        base64.b64encode(DER),
        base64.b64encode(DER) + b"\n",
        base64.encodebytes(DER),
        base64.encodebytes(DER).replace(b"\n", b"\r\n"),
        b"\r\n  " + base64.encodebytes(DER),
        PEM,
        PEM.replace(b"\n", b"\r\n"),
        PEM.replace(b"\n", b""),
        PEM.replace(b"CERTIFICATE REQUEST", b"NEW CERTIFICATE REQUEST"),
        b"Certificate Request:\n    Data:\n" + b" " * 300 + b"\n" + PEM,
    ],
    ids=["der", "one-line", "line", "wrapped", "crlf", "indented", "pem", "pem-crlf", "pem-no-breaks", "pem-new", "pem-text"],
)
def test_every_form_that_clients_send_is_the_same_request(body: bytes) -> None:
    assert parse_csr(unwrap_csr(body)).der == DER


@pytest.mark.parametrize("body", [b"", b" \r\n", b"{}", b"not base64!", b"MII=A", b"\xff\xfe", b"=="])
def test_a_body_that_is_nothing_of_the_kind_is_malformed_and_told_what_to_send(body: bytes) -> None:
    with pytest.raises(Rejection) as refused:
        unwrap_csr(body)
    assert refused.value.reason is Reason.MALFORMED
    assert "PKCS#10" in refused.value.detail


@given(st.binary(max_size=300))
def test_any_octets_are_a_value_or_a_typed_error(body: bytes) -> None:
    with contextlib.suppress(Rejection):
        parse_csr(unwrap_csr(body))


@given(st.binary(max_size=300), st.booleans())
def test_what_is_encoded_reads_back_in_both_forms(der: bytes, wrapped: bool) -> None:
    text = encode(der, wrapped=wrapped)
    assert base64.b64decode(text) == der
    assert max((len(line) for line in text.split(b"\n")), default=0) <= (76 if wrapped else 10_000)
    assert wrapped or b"\n" not in text


@pytest.mark.parametrize(
    "content_type",
    ["", "application/pkcs10", "Application/PKCS10; charset=utf-8", "application/x-www-form-urlencoded", "text/plain"],
)
def test_types_that_clients_send_for_a_request_are_taken(content_type: str) -> None:
    check_csr_type(content_type)


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/html", "multipart/mixed; boundary=x", "application/pkcs7-mime"]
)
def test_a_type_that_is_no_request_is_415_and_told_which_is(content_type: str) -> None:
    with pytest.raises(HttpRefusal) as refused:
        check_csr_type(content_type)
    assert refused.value.status == 415
    assert "application/pkcs10" in refused.value.text


@pytest.mark.parametrize(
    ("setting", "user_agent", "wrapped"),
    [
        (Base64Wrap.AUTO, None, False),  # strongSwan sends none, and fails on line breaks before 5.9.11
        (Base64Wrap.AUTO, "curl/7.88.1", True),  # `openssl base64 -d` fails without them
        (Base64Wrap.AUTO, "", True),
        (Base64Wrap.WRAPPED, None, True),
        (Base64Wrap.UNWRAPPED, "libest 3.2.0p", False),
    ],
)
def test_line_breaks_go_to_those_who_can_read_them(setting: Base64Wrap, user_agent: str | None, wrapped: bool) -> None:
    assert wraps(setting, user_agent=user_agent) is wrapped


def test_certs_only_holds_exactly_the_certificates_given() -> None:
    ca, other = ThrowAwayCa(), ThrowAwayCa()
    inside = pkcs7.load_der_pkcs7_certificates(certs_only([ca.der, other.der]))
    assert set(inside) == {ca.certificate, other.certificate}


def test_an_endpoint_without_trust_anchors_or_with_a_realm_that_breaks_the_header_is_not_made() -> None:
    with pytest.raises(ValueError, match="no CA certificate"):
        EstEndpoint(label="default", profile="device", ca_certificates=())
    for realm in ('a"b', "a\\b", "a\r\nb", "ä"):
        with pytest.raises(ValueError, match="realm"):
            EstEndpoint(label="default", profile="device", ca_certificates=(b"x",), realm=realm)
