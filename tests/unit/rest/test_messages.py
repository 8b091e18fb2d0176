"""One reading of every body, and errors that name the field."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import Micros
from pki.csr import parse_csr
from pki.reasons import SUBSCRIBER_REASONS, Reason, Rejection, RevocationReason
from rest import messages
from rest.messages import parse_object
from tests.helpers.issuance_simulator import der_of, make_csr, pem_of

CSR = make_csr("www.example.com")
DER = der_of(CSR)
PEM = pem_of(CSR)
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def read(body: bytes, content_type: str = JSON, profile: str | None = None) -> messages.Wanted:
    return messages.read_wanted(body, content_type=content_type, profile=profile)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (json.dumps({"csr": PEM}).encode(), JSON),
        (json.dumps({"csr": PEM.replace("\n", "")}).encode(), JSON),
        (json.dumps({"csr": base64.b64encode(DER).decode()}).encode(), "application/json; charset=utf-8"),
        (json.dumps({"csr": PEM}).encode(), FORM),  # curl -d '{...}'
        (b"\n " + json.dumps({"csr": PEM}).encode(), ""),
        (PEM.encode(), "application/x-pem-file"),
        (PEM.replace("\n", "").encode(), FORM),  # curl -d @file drops the line breaks
        (DER, "application/pkcs10"),
        (base64.b64encode(DER), "application/pkcs10"),
    ],
)
def test_every_form_that_programs_send_is_the_same_request(body: bytes, content_type: str) -> None:
    assert parse_csr(read(body, content_type).csr).der == DER


def test_json_carries_profile_and_validity() -> None:
    body = {"csr": PEM, "profile": "tls_server", "not_before": "2027-01-15T08:00:00Z", "not_after": "2027-01-16T10:00:00+02:00"}
    wanted = read(json.dumps(body).encode())
    assert wanted.profile == "tls_server"
    assert (wanted.not_before, wanted.not_after) == (1_800_000_000_000_000, 1_800_086_400_000_000)


def test_a_plain_request_names_its_profile_in_the_query() -> None:
    assert read(PEM.encode(), "", profile="device").profile == "device"
    with pytest.raises(Rejection, match="profile: name it in the JSON body"):
        read(json.dumps({"csr": PEM}).encode(), profile="device")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "csr: Field required"),
        ({"csr": 1}, "csr: Input should be a valid string"),
        ({"csr": None}, "csr: "),
        ({"csr": ["x"]}, "csr: "),
        ({"csr": ""}, "csr: it is empty"),
        ({"csr": "ä"}, "csr: neither PEM nor base64"),
        ({"csr": "?"}, "csr: neither PEM nor DER nor base64"),
        ({"csr": "\ud800"}, "half of a surrogate pair"),
        ({"csr": PEM, "profil": "x"}, "profil: Extra inputs are not permitted"),
        ({"csr": PEM, "profile": True}, "profile: "),
        ({"csr": PEM, "not_after": 1}, "not_after: "),
        ({"csr": PEM, "not_after": "tomorrow"}, "not_after: "),
        ({"csr": PEM, "not_after": "2027-01-15T08:00:00"}, "not_after: "),
        ({"csr": PEM, "not_after": "2027-02-30T08:00:00Z"}, "not_after: "),
        ({"csr": PEM, "not_after": "1969-12-31T23:59:59Z"}, "not_after: "),
        ({"csr": PEM, "not_after": "9999-12-31T23:59:59-23:59"}, "not_after: "),
        ({"csr": PEM, "\u202e\n": 1}, "u202e"),
    ],
)
def test_a_field_that_is_wrong_is_named(body: dict[str, object], says: str) -> None:
    with pytest.raises(Rejection) as refused:
        read(json.dumps(body).encode())
    assert refused.value.reason is Reason.MALFORMED
    assert says in refused.value.detail
    assert refused.value.detail.isprintable()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"x"',
        b"null",
        b"{",
        b'{"csr": "x", "csr": "y"}',
        b'{"csr": NaN}',
        b'{"csr": Infinity}',
        b'{"csr": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"a": ' * 33 + b"1" + b"}" * 33,
        b'{"a": ' + b"[" * 100_000,
        b'{"a": ' + b"1" * 5000 + b"}",
        b'{"csr": "a\nb"}',
        PEM.encode(),
    ],
    ids=range(15),
)
def test_json_with_two_readings_or_none_is_malformed(body: bytes) -> None:
    with pytest.raises(Rejection) as refused:
        parse_object(body)
    assert refused.value.reason is Reason.MALFORMED


def test_brackets_inside_strings_are_no_depth() -> None:
    assert parse_object(json.dumps({"a": "[{" * 50 + '"\\'}).encode()) == {"a": "[{" * 50 + '"\\'}


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
def test_any_body_is_a_value_or_a_typed_error(body: bytes) -> None:
    for content_type in (JSON, ""):
        with contextlib.suppress(Rejection):
            read(body, content_type)


_JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["csr", "profile", "not_before", "not_after", "reason", "x"]), _JSON_VALUES, max_size=4))
def test_any_json_is_a_value_or_a_typed_error(body: dict[str, object]) -> None:
    encoded = json.dumps(body).encode()
    for parse in (read, messages.read_revocation):
        with contextlib.suppress(Rejection):
            parse(encoded)


# ---------------------------------------------------------------- revocation


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", RevocationReason.UNSPECIFIED),
        (b"{}", RevocationReason.UNSPECIFIED),
        (b'{"reason": 1}', RevocationReason.KEY_COMPROMISE),
        (b'{"reason": "keyCompromise"}', RevocationReason.KEY_COMPROMISE),
        (b'{"reason": "key_compromise"}', RevocationReason.KEY_COMPROMISE),
        (b'{"reason": "CESSATION-OF-OPERATION"}', RevocationReason.CESSATION_OF_OPERATION),
    ],
)
def test_a_reason_is_a_number_or_a_name(body: bytes, reason: RevocationReason) -> None:
    assert messages.read_revocation(body) is reason


def test_reasons_that_are_the_cas_to_say_and_those_that_are_none_are_refused() -> None:
    others = [reason.value for reason in RevocationReason if reason not in SUBSCRIBER_REASONS]
    refused_ones: list[int | str] = [*others, 7, -1, 10**30, "certificateHold", "because", "", "1"]
    for given_reason in refused_ones:
        with pytest.raises(Rejection) as refused:
            messages.parse_reason(given_reason)
        assert refused.value.reason is Reason.BAD_REVOCATION_REASON
        assert "keyCompromise (1)" in refused.value.suggestions[0]


def test_every_reason_of_the_subscriber_is_taken_by_name_and_number() -> None:
    for reason in SUBSCRIBER_REASONS:
        assert messages.parse_reason(reason.value) is reason
        assert messages.parse_reason(messages.REASON_NAMES[reason]) is reason


# ---------------------------------------------------------------- names, serials, queries


@pytest.mark.parametrize(
    ("text", "serial"), [("a11", "a11"), ("0A11", "a11"), ("0a:11", "a11"), ("0", "0"), ("f" * 40, "f" * 40)]
)
def test_a_serial_is_read_as_openssl_prints_it(text: str, serial: str) -> None:
    assert messages.parse_serial(text) == serial


@pytest.mark.parametrize("text", ["", ":", "xyz", "-1", "f" * 41, "a 1", "\u0661"])
def test_what_is_no_serial_is_found_nowhere(text: str) -> None:
    with pytest.raises(Rejection) as refused:
        messages.parse_serial(text)
    assert refused.value.reason is Reason.NOT_FOUND


@pytest.mark.parametrize("text", ["0", "-1", "1001", "1e2", "", "10 ", "\u0663"])
def test_a_limit_out_of_bounds_is_malformed(text: str) -> None:
    with pytest.raises(Rejection, match="limit: a number from 1 to 1000"):
        messages.parse_limit(text)


def test_a_limit_within_bounds_or_none() -> None:
    assert [messages.parse_limit(text) for text in (None, "1", "1000")] == [100, 1, 1000]


def test_query_parameters_are_known_and_there_once() -> None:
    assert messages.read_query([("limit", "1")], known=frozenset({"limit"})) == {"limit": "1"}
    for pairs in ([("limits", "1")], [("limit", "1"), ("limit", "1")]):
        with pytest.raises(Rejection, match="query parameter"):
            messages.read_query(pairs, known=frozenset({"limit"}))


@pytest.mark.parametrize("values", [["a", "b"], [""], ["a b"], ["ä"], ["x" * 129], ["\udcff"]])
def test_an_idempotency_key_that_is_not_one_plain_word_is_malformed(values: list[str]) -> None:
    with pytest.raises(Rejection, match="Idempotency-Key"):
        messages.parse_idempotency_key(values)


@given(st.integers(0, 253_402_300_799_000_000), st.from_regex(r"[0-9a-f]{1,40}", fullmatch=True))
def test_a_cursor_reads_back(at: int, serial: str) -> None:
    before = (Micros(at), serial)
    assert messages.decode_cursor(messages.encode_cursor(before)) == before


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda b: base64.urlsafe_b64encode(b).decode())))
def test_any_cursor_is_a_position_with_this_one_spelling_or_a_typed_error(text: str) -> None:
    try:
        before = messages.decode_cursor(text)
    except Rejection as refused:
        assert refused.reason is Reason.MALFORMED  # both ways out are right
    else:
        assert messages.encode_cursor(before) == text
