"""The JWS envelope and the keys in it: RFC 8555 §6.2, RFC 7515, 7517, 7518, 7638, 8037; what is lenient and what is not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from acmeserver.jwk import ALGORITHMS, Algorithm, load_jwk, parse_jwk, verify
from acmeserver.jws import MAX_BODY, Jws, parse_jws
from acmeserver.problems import Problem
from pki.strict import base64url, from_base64url, parse_json
from tests.helpers.acme_client import AccountKey, integer, make_jws, to_json

KEY = AccountKey()
RSA = AccountKey(rsa.generate_private_key(65537, 2048))
HEADER: dict[str, Any] = {"alg": "ES256", "nonce": "AAAA", "url": "https://ca.test/x", "jwk": KEY.jwk}


def signed(**changes: Any) -> dict[str, str]:
    """A right JWS, then changes of its protected header; None removes a member."""
    header = {name: value for name, value in {**HEADER, **changes}.items() if value is not None}
    return make_jws(KEY, header, b"{}")


def problem_of(body: bytes | dict[str, Any]) -> str:
    with pytest.raises(Problem) as caught:
        parse_jws(body if isinstance(body, bytes) else to_json(body))
    return caught.value.type.value


def checked(body: dict[str, str]) -> Jws:
    jws = parse_jws(to_json(body))
    assert jws.jwk is not None
    verify(jws.jwk, jws.algorithm, jws.signature, jws.signed)
    return jws


def test_a_right_request_is_read_and_verified() -> None:
    jws = checked(signed())
    assert (jws.algorithm, jws.nonce, jws.url, jws.kid, jws.payload) == (
        Algorithm.ES256,
        "AAAA",
        "https://ca.test/x",
        None,
        b"{}",
    )


def test_a_kid_in_place_of_the_key() -> None:
    jws = parse_jws(to_json(signed(jwk=None, kid="https://ca.test/acme/account/1")))
    assert (jws.kid, jws.jwk) == ("https://ca.test/acme/account/1", None)


# ------------------------------------------------------------------------------------------------ the envelope


@pytest.mark.parametrize(
    "change",
    [
        {"header": {}},
        {"header": {"alg": "none"}},
        {"signatures": []},
        {"extra": 1},
        {"payload": 1},
        {"protected": None},
        {"signature": ["AAAA"]},
    ],
)
def test_only_the_three_members_of_a_flattened_jws(change: dict[str, Any]) -> None:
    assert problem_of({**signed(), **change}) == "malformed"


@pytest.mark.parametrize("member", ["protected", "payload", "signature"])
def test_each_of_the_three_members_is_needed(member: str) -> None:
    body = signed()
    del body[member]
    assert problem_of(body) == "malformed"


def test_general_and_compact_serialization_are_refused() -> None:
    body = signed()
    general = {"payload": body["payload"], "signatures": [{"protected": body["protected"], "signature": body["signature"]}]}
    assert problem_of(general) == "malformed"
    assert problem_of(".".join((body["protected"], body["payload"], body["signature"])).encode()) == "malformed"


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"x"', b"{", b"\xff{}", b"\xef\xbb\xbf{}", b"{}{}", b"[" * 200_000])
def test_what_is_no_json_object_is_malformed(body: bytes) -> None:
    assert problem_of(body) == "malformed"


def test_a_member_given_twice_is_refused_in_envelope_header_and_key() -> None:
    body = signed()
    twice = json.dumps(body)[:-1] + ', "payload": ""}'
    assert problem_of(twice.encode()) == "malformed"
    header = json.dumps(HEADER)
    for raw in (header[:-1] + ', "alg": "ES256"}', header.replace('"kty"', '"crv": "P-256", "kty"')):
        assert problem_of(make_jws(KEY, raw.encode(), b"{}")) == "malformed"


@pytest.mark.parametrize(
    "raw", [b'{"alg": NaN}', b'{"alg": Infinity}', b'{"alg": "\\ud800"}', b'{"alg": ' + b"9" * 5000 + b"}", b'{"a":' * 33 + b"1" + b"}" * 33]
)  # fmt: skip
def test_what_json_libraries_take_and_json_does_not_is_malformed(raw: bytes) -> None:
    assert problem_of(make_jws(KEY, raw, b"{}")) == "malformed"


def test_a_body_of_50000_octets_is_the_longest() -> None:
    filler = base64.urlsafe_b64encode(bytes(MAX_BODY)).decode()
    body = to_json({**signed(), "payload": filler})
    assert problem_of(body) == "malformed"
    with pytest.raises(Problem) as caught:
        parse_jws(body)
    assert caught.value.status == 413


@pytest.mark.parametrize("member", ["protected", "payload", "signature"])
@pytest.mark.parametrize(
    "spoil", [lambda text: text + "=", lambda text: text + "\n", lambda text: " " + text, lambda text: text + "+/"]
)
def test_base64url_has_no_padding_no_space_and_its_own_alphabet(member: str, spoil: Any) -> None:
    body = signed()
    assert problem_of({**body, member: spoil(body[member])}) == "malformed"


def test_bits_past_the_end_of_base64url_are_refused() -> None:
    """Otherwise one signature has many spellings."""
    assert from_base64url("AA") == b"\0"
    for text in ("AB", "AAB", "A"):
        with pytest.raises(ValueError, match="base64url"):
            from_base64url(text)


# ------------------------------------------------------------------------------------------------ the protected header


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"alg": None}, "malformed"),
        ({"alg": 1}, "malformed"),
        ({"alg": "none"}, "badSignatureAlgorithm"),
        ({"alg": "HS256"}, "badSignatureAlgorithm"),
        ({"alg": "PS256"}, "badSignatureAlgorithm"),
        ({"alg": "RS1"}, "badSignatureAlgorithm"),
        ({"alg": "es256"}, "badSignatureAlgorithm"),
        ({"nonce": None}, "badNonce"),
        ({"nonce": 7}, "malformed"),
        ({"nonce": "a+b/"}, "malformed"),
        ({"nonce": "AAAA="}, "malformed"),
        ({"url": None}, "malformed"),
        ({"url": 7}, "malformed"),
        ({"jwk": None}, "malformed"),
        ({"kid": "x"}, "malformed"),
        ({"jwk": None, "kid": 7}, "malformed"),
        ({"crit": ["b64"], "b64": False}, "malformed"),
        ({"crit": []}, "malformed"),
        ({"b64": False}, "malformed"),
        ({"b64": True}, "malformed"),
        ({"jwk": "text"}, "badPublicKey"),
        ({"jwk": []}, "badPublicKey"),
    ],
)
def test_a_wrong_protected_header_is_refused_by_its_own_type(changes: dict[str, Any], problem: str) -> None:
    assert problem_of(signed(**changes)) == problem


def test_bad_signature_algorithm_lists_what_is_taken() -> None:
    """RFC 8555 §6.2."""
    with pytest.raises(Problem) as caught:
        parse_jws(to_json(signed(alg="HS256")))
    assert caught.value.json()["algorithms"] == list(ALGORITHMS) == ["ES256", "ES384", "ES512", "RS256", "EdDSA"]


def test_unknown_header_parameters_are_ignored() -> None:
    checked(signed(typ="JOSE", x5u="http://169.254.169.254/", cty="x"))


# ------------------------------------------------------------------------------------------------ keys


def bad_key(**members: Any) -> str:
    with pytest.raises(Problem) as caught:
        parse_jwk({name: value for name, value in members.items() if value is not None})
    assert caught.value.type.value == "badPublicKey"
    return caught.value.detail


def with_zero(text: str) -> str:
    return base64url(b"\0" + from_base64url(text))


@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
def test_a_key_that_shows_its_private_half_is_refused(member: str) -> None:
    assert "private" in bad_key(**KEY.jwk, **{member: "AAAA"})


def test_symmetric_keys_are_refused() -> None:
    bad_key(kty="oct", k="AAAA")
    bad_key(kty="oct")


@pytest.mark.parametrize(
    "changes",
    [
        {"kty": None},
        {"kty": "ec"},
        {"kty": ["EC"]},
        {"crv": "P-192"},
        {"crv": "secp256k1"},
        {"crv": ["P-256"]},
        {"crv": None},
        {"x": None},
        {"x": ""},
        {"x": 7},
        {"x": "AAAA"},
        {"x": with_zero(KEY.jwk["x"])},
        {"y": KEY.jwk["x"]},
        {"y": KEY.jwk["y"] + "="},
        {"crv": "P-384"},
    ],
)
def test_an_ec_key_is_a_point_of_its_curve_in_full_length(changes: dict[str, Any]) -> None:
    bad_key(**{**KEY.jwk, **changes})


def test_rsa_keys_have_2048_to_4096_bits_and_a_decent_exponent() -> None:
    assert isinstance(RSA.key, rsa.RSAPrivateKey)
    numbers = RSA.key.public_key().public_numbers()
    n, e = RSA.jwk["n"], RSA.jwk["e"]
    for changes in (
        {"n": integer((1 << 2047) - 1)},
        {"n": integer((1 << 4096) + 1)},
        {"n": integer(numbers.n + 1)},
        {"n": with_zero(n)},
        {"n": ""},
        {"e": integer(3)},
        {"e": integer(65536)},
        {"e": integer(1)},
        {"e": with_zero(e)},
        {"e": integer((1 << 40) + 1)},
    ):
        bad_key(**{**RSA.jwk, **changes})


@pytest.mark.parametrize("changes", [{"crv": "X25519"}, {"crv": "Ed448"}, {"x": "AAAA"}, {"x": None}])
def test_the_okp_key_is_ed25519(changes: dict[str, Any]) -> None:
    bad_key(**{**AccountKey(ed25519.Ed25519PrivateKey.generate()).jwk, **changes})


def test_the_alg_of_a_jwk_must_not_contradict_the_header() -> None:
    assert problem_of(signed(jwk={**KEY.jwk, "alg": "ES384"})) == "badSignatureAlgorithm"
    checked(signed(jwk={**KEY.jwk, "alg": "ES256", "use": "sig", "kid": "mine"}))


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    """§3.1's example; its extra members do not count."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMst"
        "n64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1"
        "n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    jwk = parse_jwk({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"})
    assert jwk.thumbprint == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_the_thumbprint_of_an_ed25519_key_is_that_of_rfc_8037() -> None:
    """Appendix A.3."""
    jwk = parse_jwk({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
    assert jwk.thumbprint == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_a_stored_key_reads_back_as_it_was() -> None:
    for key in (KEY, RSA, AccountKey(ed25519.Ed25519PrivateKey.generate())):
        jwk = parse_jwk(key.jwk)
        assert load_jwk(jwk.text) == jwk
        assert json.loads(jwk.text) == key.jwk


# ------------------------------------------------------------------------------------------------ signatures


def refused(key: AccountKey, algorithm: Algorithm, signature: bytes, data: bytes) -> str:
    with pytest.raises(Problem) as caught:
        verify(parse_jwk(key.jwk), algorithm, signature, data)
    return caught.value.type.value


def test_a_signature_by_another_key_or_over_other_bytes_is_refused() -> None:
    good = KEY.sign(b"data")
    assert refused(KEY, Algorithm.ES256, AccountKey().sign(b"data"), b"data") == "malformed"
    assert refused(KEY, Algorithm.ES256, good, b"Data") == "malformed"
    for signature in (b"", bytes(64), good[:-3], good + b"\0", bytes(1000)):
        assert refused(KEY, Algorithm.ES256, signature, b"data") == "malformed"


def test_the_alg_must_be_the_keys_own() -> None:
    """Never RS256 with an EC key, nor ES256 with P-384."""
    for algorithm in (Algorithm.RS256, Algorithm.ES384, Algorithm.EDDSA):
        assert refused(KEY, algorithm, KEY.sign(b"data"), b"data") == "badSignatureAlgorithm"
    assert refused(RSA, Algorithm.ES256, RSA.sign(b"data"), b"data") == "badSignatureAlgorithm"


def test_a_der_signature_is_no_jws_signature() -> None:
    r, s = KEY.sign(b"data")[:32], KEY.sign(b"data")[32:]
    der = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    assert refused(KEY, Algorithm.ES256, der, b"data") == "malformed"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()], ids=lambda curve: str(curve.name))
@pytest.mark.parametrize(("of_r", "of_s"), [(True, False), (False, True)])
def test_leading_zeros_that_macos_dropped_are_put_back(curve: ec.EllipticCurve, *, of_r: bool, of_s: bool) -> None:
    key = AccountKey(ec.generate_private_key(curve))
    half = (curve.key_size + 7) // 8
    signature = next(
        each for each in (key.sign(b"data") for _ in range(100_000)) if (each[0] == 0) is of_r and (each[half] == 0) is of_s
    )
    stripped = signature[:half].removeprefix(b"\0" * of_r) + signature[half:].removeprefix(b"\0" * of_s)
    assert len(stripped) == len(signature) - 1
    verify(parse_jwk(key.jwk), Algorithm(key.alg), stripped, b"data")
    assert refused(key, Algorithm(key.alg), stripped, b"other") == "malformed"


# ------------------------------------------------------------------------------------------------ strict JSON


def test_32_levels_are_the_deepest_and_brackets_in_strings_do_not_count() -> None:
    assert parse_json(b"[" * 32 + b"]" * 32) is not None
    with pytest.raises(ValueError, match="levels"):
        parse_json(b"[" * 33 + b"]" * 33)
    assert parse_json(b'["' + b"[{" * 1000 + b'\\"["]') == ["[{" * 1000 + '"[']
    assert len(parse_json(b"[" + b",".join([b"{}"] * 1000) + b"]")) == 1000


def test_a_string_that_never_ends_is_no_reason_to_think_long() -> None:
    with pytest.raises(ValueError, match=r"Unterminated"):
        parse_json(b"[" * 20 + b'"' + b'\\"{{' * 12_000)
