"""RFC 7617 and RFC 6750: what an Authorization header says, or the same refusal for everything else."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from issuance.httpauth import Authorization, BasicCredentials, challenge, parse_authorization, parse_basic, parse_bearer
from pki.reasons import Reason, Rejection


def token(text: str | bytes) -> str:
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


@pytest.mark.parametrize(
    ("header", "scheme", "rest"),
    [
        ("Basic YTpi", "basic", "YTpi"),
        ("bAsIc   YTpi  ", "basic", "YTpi"),  # RFC 9110 §11.1: schemes have no case
        ('Digest username="a", realm="b"', "digest", 'username="a", realm="b"'),
        ("Basic", "basic", ""),
        ("", "", ""),
    ],
)
def test_a_header_is_a_scheme_and_the_rest(header: str, scheme: str, rest: str) -> None:
    assert parse_authorization([header]) == Authorization(scheme, rest)


@pytest.mark.parametrize("headers", [[], ["Basic YTpi", "Basic YTpi"], ["Basic YTpi", "Bearer x"]])
def test_two_headers_are_nobodys_for_others_may_believe_the_other_one(headers: list[str]) -> None:
    with pytest.raises(Rejection) as refused:
        parse_authorization(headers)
    assert refused.value.reason is Reason.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("text", "user", "password"),
    [
        ("estuser:estpwd", "estuser", "estpwd"),
        ("a:b:c", "a", "b:c"),  # §2: the first colon divides
        ("a:", "a", ""),
        (":b", "", "b"),
        ("Aladdin:öpen sesame", "Aladdin", "öpen sesame"),
    ],
)
def test_user_and_password_are_read(text: str, user: str, password: str) -> None:
    assert parse_basic(token(text)) == BasicCredentials(user, password)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!!!",
        "YTpi=extra",
        "YTpi YTpi",
        token("no colon"),
        token(b"\xff\xfe:x"),
        token("a:b\0"),
        token("a\n:b"),
        "\udcff",
        "é",
    ],
)
def test_anything_else_is_one_and_the_same_refusal(text: str) -> None:
    with pytest.raises(Rejection) as refused:
        parse_basic(text)
    assert refused.value.reason is Reason.UNAUTHENTICATED
    assert refused.value.detail == "send one Authorization header, as its scheme has it (RFC 7617, RFC 6750)"


@pytest.mark.parametrize("text", ["cwe_0123456789abcdef_x", "mF_9.B5f-4.1JqM", "a+/~=="])
def test_a_bearer_token_is_one_b64token(text: str) -> None:
    assert parse_bearer(text) == text  # RFC 6750 §2.1


@pytest.mark.parametrize("text", ["", "a b", "a,b", '"a"', "=", "a=b", "é", "a\n", "\udcff"])
def test_what_is_no_b64token_is_refused(text: str) -> None:
    with pytest.raises(Rejection) as refused:
        parse_bearer(text)
    assert refused.value.reason is Reason.UNAUTHENTICATED


@given(st.one_of(st.text(), st.binary().map(token), st.text().map(lambda text: token(text.encode("utf-8", "replace")))))
def test_any_header_is_a_value_or_a_typed_error(header: str) -> None:
    assert isinstance(parse_authorization([header]), Authorization)
    with contextlib.suppress(Rejection):
        assert isinstance(parse_basic(header), BasicCredentials)
    with contextlib.suppress(Rejection):
        assert isinstance(parse_bearer(header), str)


def test_a_secret_is_not_in_a_repr() -> None:
    assert "sesame" not in repr(parse_basic(token("a:sesame")))
    assert "sesame" not in repr(parse_authorization(["Bearer sesame"]))


def test_the_realm_is_quoted() -> None:
    assert challenge("Basic", "estrealm") == 'Basic realm="estrealm"'
