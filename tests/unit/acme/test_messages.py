"""Payloads: each member has its type, what is unknown is ignored, and nothing but a Problem comes out of a bad one."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeserver import messages
from acmeserver.problems import Problem, WireIdentifier
from pki.clock import rfc3339

PARSERS: tuple[Callable[[bytes], object], ...] = (
    messages.parse_new_account,
    messages.parse_account_update,
    messages.parse_authorization_update,
    messages.parse_challenge_response,
    messages.parse_new_order,
    messages.parse_finalize,
    messages.parse_revoke_cert,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
MEMBERS = st.sampled_from(
    [
        "contact",
        "status",
        "termsOfServiceAgreed",
        "onlyReturnExisting",
        "identifiers",
        "type",
        "value",
        "profile",
        "csr",
        "notBefore",
        "notAfter",
        "certificate",
        "reason",
    ]
)


@given(st.binary(max_size=200) | st.dictionaries(MEMBERS, JSON).map(lambda value: json.dumps(value).encode()))
@settings(max_examples=300, deadline=None)
def test_any_payload_is_a_value_or_a_problem(payload: bytes) -> None:
    for parse in PARSERS:
        try:
            parse(payload)
        except Problem as problem:
            assert problem.status in {400, 403}


def problem_of(parse: Callable[[bytes], object], value: object) -> str:
    with pytest.raises(Problem) as caught:
        parse(json.dumps(value).encode())
    return caught.value.type.value


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"contact": "mailto:a@example.com"},
        {"contact": [1]},
        {"termsOfServiceAgreed": "true"},
        {"onlyReturnExisting": 1},
        {"contact": [f"mailto:a{n}@example.com" for n in range(11)]},
    ],
)
def test_a_bad_new_account_is_malformed(value: object) -> None:
    assert problem_of(messages.parse_new_account, value) == "malformed"


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"identifiers": []},
        {"identifiers": {}},
        {"identifiers": ["a.example.com"]},
        {"identifiers": [{"type": "dns"}]},
        {"identifiers": [{"type": "dns", "value": 1}]},
        {"identifiers": [{"type": "dns", "value": "a" * 600}]},
        {"identifiers": [{"type": "dns", "value": "a"}], "profile": 1},
        {"identifiers": [{"type": "dns", "value": "a"}], "notBefore": 1},
        {"identifiers": [{"type": "dns", "value": "a"}], "notBefore": "2026-01-01"},
        {"identifiers": [{"type": "dns", "value": "a"}], "notBefore": "2026-01-01T00:00:00"},
        {"identifiers": [{"type": "dns", "value": "a"}], "notAfter": "2026-13-01T00:00:00Z"},
        {"identifiers": [{"type": "dns", "value": "a"}], "notAfter": "0000-01-01T00:00:00Z"},
    ],
)
def test_a_bad_new_order_is_malformed(value: object) -> None:
    assert problem_of(messages.parse_new_order, value) == "malformed"


def test_what_is_unknown_is_ignored() -> None:
    value = {"identifiers": [{"type": "dns", "value": "a", "extra": []}], "replaces": "x", "later": {}}
    order = messages.parse_new_order(json.dumps(value).encode())
    assert order.identifiers == (WireIdentifier("dns", "a"),)


@pytest.mark.parametrize("text", ["2026-12-01T00:00:00Z", "2026-12-01T01:30:00+01:30", "2026-11-30T23:00:00.000-01:00"])
def test_times_are_read_with_their_zone(text: str) -> None:
    value = {"identifiers": [{"type": "dns", "value": "a"}], "notBefore": text}
    order = messages.parse_new_order(json.dumps(value).encode())
    assert order.not_before is not None
    assert rfc3339(order.not_before) == "2026-12-01T00:00:00Z"


@pytest.mark.parametrize("csr", ["+/==", "AA AA", "-----BEGIN CERTIFICATE REQUEST-----", "A", "AB"])
def test_a_csr_that_is_not_base64url_is_bad_csr(csr: str) -> None:
    assert problem_of(messages.parse_finalize, {"csr": csr}) == "badCSR"


def test_an_empty_payload_on_a_challenge_is_a_read_and_an_object_starts_it() -> None:
    assert messages.parse_challenge_response(b"") is None
    assert messages.parse_challenge_response(b"{}") == ()
    assert problem_of(messages.parse_challenge_response, []) == "malformed"


def test_the_only_status_that_changes_anything_is_deactivated() -> None:
    """RFC 8555 §7.3.2; an authorization's update (§7.5.2) is that status and nothing else."""
    assert messages.parse_account_update(b'{"status": "deactivated"}').deactivate
    assert messages.parse_authorization_update(b'{"status": "deactivated"}')
    for status in ("valid", "revoked", ["deactivated"], 1):
        assert not messages.parse_account_update(json.dumps({"status": status}).encode()).deactivate
        assert problem_of(messages.parse_authorization_update, {"status": status}) == "malformed"
