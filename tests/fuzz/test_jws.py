"""The JWS parser against anything: a value or a Problem, nothing else; and against josepy, for what is right."""

from __future__ import annotations

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from josepy.jwk import JWK
from josepy.jws import JWS

from acmeserver.jwk import parse_jwk, verify
from acmeserver.jws import Jws, parse_jws
from acmeserver.problems import Problem
from pki.strict import base64url, from_base64url, parse_json
from tests.helpers.acme_client import AccountKey, make_jws, to_json

KEYS = (
    AccountKey(ec.generate_private_key(ec.SECP256R1())),
    AccountKey(ec.generate_private_key(ec.SECP384R1())),
    AccountKey(ec.generate_private_key(ec.SECP521R1())),
    AccountKey(rsa.generate_private_key(65537, 2048)),
)
ED25519 = AccountKey(ed25519.Ed25519PrivateKey.generate())
GOOD = make_jws(KEYS[0], {"alg": "ES256", "nonce": "AAAA", "url": "https://ca.test/x", "jwk": KEYS[0].jwk}, b"{}")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
TEXT = st.text(st.characters(codec="utf-8"))


def outcome(body: bytes) -> Jws | Problem:
    try:
        jws = parse_jws(body)
        if jws.jwk is not None:
            verify(jws.jwk, jws.algorithm, jws.signature, jws.signed)
    except Problem as problem:
        assert problem.status in {400, 413}
        json.dumps(problem.json())
        return problem
    return jws


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes(body: bytes) -> None:
    outcome(body)


@given(st.dictionaries(st.sampled_from(["protected", "payload", "signature", "header"]), JSON))
@settings(max_examples=300, deadline=None)
def test_any_envelope(body: dict[str, Any]) -> None:
    outcome(json.dumps(body).encode())


@given(
    st.dictionaries(st.sampled_from(["alg", "nonce", "url", "jwk", "kid", "crit", "b64"]), JSON),
    st.sampled_from(["alg", "nonce", "url", "jwk", "kid"]),
)
@settings(max_examples=300, deadline=None)
def test_any_protected_header_that_is_signed_for(changes: dict[str, Any], removed: str) -> None:
    header: dict[str, Any] = {"alg": "ES256", "nonce": "AAAA", "url": "https://ca.test/x", "jwk": KEYS[0].jwk}
    header.pop(removed, None)
    outcome(to_json(make_jws(KEYS[0], {**header, **changes}, b"{}")))


@given(
    st.sampled_from([*KEYS, ED25519]),
    st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e", "alg", "use"]), JSON, min_size=1),
)
@settings(max_examples=300, deadline=None)
def test_any_jwk(key: AccountKey, changes: dict[str, Any]) -> None:
    try:
        jwk = parse_jwk({**key.jwk, **changes})
    except Problem:
        return
    assert parse_jwk(json.loads(jwk.text)) == jwk


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_right_request_with_one_octet_changed_is_never_taken_for_another(position: int, octet: int) -> None:
    body = bytearray(to_json(GOOD))
    body[position % len(body)] = octet
    seen, right = outcome(bytes(body)), outcome(to_json(GOOD))
    assert isinstance(right, Jws)
    assert isinstance(seen, Problem) or (seen.signed, seen.signature) == (right.signed, right.signature)


@given(st.sampled_from(KEYS), TEXT, st.text(st.characters(codec="ascii"), min_size=1), st.binary(max_size=16))
@settings(max_examples=100, deadline=None)
def test_what_josepy_signs_is_read_as_josepy_reads_it(key: AccountKey, payload: str, url: str, nonce: bytes) -> None:
    header = {"alg": key.alg, "nonce": base64url(nonce), "url": url, "jwk": key.jwk}
    body = make_jws(key, header, payload.encode())
    ours = outcome(to_json(body))
    theirs = JWS.from_json(body)
    assert isinstance(ours, Jws)
    assert ours.jwk is not None
    jwk = JWK.from_json(key.jwk)
    assert isinstance(jwk, JWK)
    assert theirs.verify(jwk)
    assert theirs.payload == ours.payload == payload.encode()
    assert base64url(jwk.thumbprint()) == ours.jwk.thumbprint


@given(st.binary(max_size=100))
@settings(max_examples=200, deadline=None)
def test_base64url_there_and_back(data: bytes) -> None:
    assert from_base64url(base64url(data)) == data


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_our_json_is_pythons_where_both_take_it(value: Any) -> None:
    text = json.dumps(value)
    try:
        assert json.dumps(parse_json(text.encode())) == text
    except ValueError:
        assert "NaN" in text or "Infinity" in text or "\\u" in text
