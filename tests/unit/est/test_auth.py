"""RFC 7617: user name and password, or the same 401 for everything else."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from est.auth import BasicCredentials, challenge, parse_basic
from pki.reasons import Reason, Rejection


def basic(text: str | bytes) -> str:
    return "Basic " + base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


@pytest.mark.parametrize(
    ("header", "user", "password"),
    [
        (basic("estuser:estpwd"), "estuser", "estpwd"),
        (basic("a:b:c"), "a", "b:c"),  # §2: the first colon divides
        (basic("a:"), "a", ""),
        (basic(":b"), "", "b"),
        (basic("Aladdin:öpen sesame"), "Aladdin", "öpen sesame"),
        ("bAsIc   " + base64.b64encode(b"a:b").decode() + "  ", "a", "b"),  # RFC 9110 §11.1: schemes have no case
    ],
)
def test_user_and_password_are_read(header: str, user: str, password: str) -> None:
    assert parse_basic([header]) == BasicCredentials(user, password)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [basic("a:b"), basic("a:b")],
        [""],
        ["Basic"],
        ["Basic !!!"],
        ["Basic YTpi=extra"],
        ["Bearer YTpi"],
        ["Digest username=a"],
        [basic("no colon")],
        [basic(b"\xff\xfe:x")],
        [basic("a:b\0")],
        [basic("a\n:b")],
        ["Basic \udcff"],
    ],
)
def test_anything_else_is_one_and_the_same_refusal(headers: list[str]) -> None:
    with pytest.raises(Rejection) as refused:
        parse_basic(headers)
    assert refused.value.reason is Reason.UNAUTHENTICATED
    assert refused.value.detail == "send user name and password by HTTP Basic (RFC 7617)"


@given(st.one_of(st.text(), st.binary().map(basic), st.text().map(lambda text: basic(text.encode("utf-8", "replace")))))
def test_any_header_is_a_value_or_a_typed_error(header: str) -> None:
    with contextlib.suppress(Rejection):
        assert isinstance(parse_basic([header]), BasicCredentials)


def test_a_password_is_not_in_a_repr() -> None:
    assert "sesame" not in repr(parse_basic([basic("a:sesame")]))


def test_the_realm_is_quoted() -> None:
    assert challenge("estrealm") == 'Basic realm="estrealm"'
