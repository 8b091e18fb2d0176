"""The JWS inside keyChange and the one of an external account binding, against anything: a value or a Problem, nothing else."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from acmeserver.authentication import Acting
from acmeserver.jwk import parse_jwk
from acmeserver.jws import KeyJws, MacJws, parse_key_jws, parse_mac_jws
from acmeserver.keychange import parse_new_key
from acmeserver.messages import parse_key_change, parse_new_account
from acmeserver.problems import Problem
from acmeserver.urls import Urls
from pki.strict import base64url
from tests.helpers.acme_client import AccountKey, make_jws, to_json

OLD, NEW = AccountKey(), AccountKey()
URLS = Urls(base_url="https://ca.test", endpoint="default")
ACTING = Acting("id", parse_jwk(OLD.jwk), "")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
MEMBERS = st.dictionaries(st.sampled_from(["alg", "nonce", "url", "jwk", "kid", "crit", "b64"]), JSON)


def new_key(payload: bytes) -> Problem | None:
    try:
        assert parse_new_key(payload, ACTING, URLS) == parse_jwk(NEW.jwk)
    except Problem as problem:
        assert problem.status == 400
        json.dumps(problem.json())
        return problem
    return None


def test_the_right_one_is_taken() -> None:
    header = {"alg": "ES256", "jwk": NEW.jwk, "url": URLS.key_change}
    payload = {"account": URLS.account("id"), "oldKey": OLD.jwk}
    assert new_key(to_json(make_jws(NEW, header, to_json(payload)))) is None


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_octets_as_payload_of_key_change(payload: bytes) -> None:
    assert new_key(payload) is not None


@given(MEMBERS, st.sampled_from(["alg", "jwk", "url"]))
@settings(max_examples=300, deadline=None)
def test_any_inner_header_that_is_signed_for(changes: dict[str, Any], removed: str) -> None:
    header: dict[str, Any] = {"alg": "ES256", "jwk": NEW.jwk, "url": URLS.key_change}
    header.pop(removed)
    payload = {"account": URLS.account("id"), "oldKey": OLD.jwk}
    problem = new_key(to_json(make_jws(NEW, {**header, **changes}, to_json(payload))))
    assert problem is not None or removed in changes


@given(st.dictionaries(st.sampled_from(["account", "oldKey", "x"]), JSON))
@settings(max_examples=300, deadline=None)
def test_any_inner_payload_that_is_signed_for(payload: dict[str, Any]) -> None:
    header = {"alg": "ES256", "jwk": NEW.jwk, "url": URLS.key_change}
    assert new_key(to_json(make_jws(NEW, header, to_json(payload)))) is not None


@given(st.binary(max_size=100) | JSON.map(to_json))
@settings(max_examples=300, deadline=None)
def test_any_key_change_object(payload: bytes) -> None:
    try:
        parse_key_change(payload)
    except Problem as problem:
        assert problem.type.value == "malformed"


def mac_jws(value: dict[str, Any]) -> MacJws | Problem:
    try:
        return parse_mac_jws(value)
    except Problem as problem:
        assert problem.status == 400
        return problem


@given(st.dictionaries(st.sampled_from(["protected", "payload", "signature", "header"]), JSON))
@settings(max_examples=300, deadline=None)
def test_any_object_as_binding(value: dict[str, Any]) -> None:
    mac_jws(value)


@given(MEMBERS)
@settings(max_examples=300, deadline=None)
def test_any_header_of_a_binding(header: dict[str, Any]) -> None:
    found = mac_jws({"protected": base64url(to_json(header)), "payload": "", "signature": ""})
    if isinstance(found, MacJws):
        assert header.keys() == {"alg", "kid", "url"}
        assert found.algorithm.value in {"HS256", "HS384", "HS512"}


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_any_value_of_the_member(value: Any) -> None:
    try:
        wanted = parse_new_account(to_json({"externalAccountBinding": value}))
    except Problem as problem:
        assert problem.type.value == "malformed"
        return
    assert wanted.external_binding is None or isinstance(wanted.external_binding, dict)


@given(MEMBERS)
@settings(max_examples=200, deadline=None)
def test_no_text_is_a_jws_of_both_kinds(header: dict[str, Any]) -> None:
    """A MAC must never be taken for a signature, nor the other way round."""
    value = {"protected": base64url(to_json(header)), "payload": "", "signature": ""}
    try:
        inner: KeyJws | None = parse_key_jws(to_json(value))
    except Problem:
        inner = None
    assert inner is None or isinstance(mac_jws(value), Problem)
