"""The issue-value of RFC 8659 §4.2: what can be read, and what names nobody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.issuevalue import IssueValue, Malformed, parse_issue_value


@pytest.mark.parametrize(
    ("octets", "domain", "parameters"),
    [
        (b"", "", ()),
        (b" \t", "", ()),
        (b";", "", ()),
        (b" ; ", "", ()),
        (b"ca.test", "ca.test", ()),
        (b"CA.Test", "ca.test", ()),
        (b"  ca.test\t", "ca.test", ()),
        (b"ca.test;", "ca.test", ()),
        (b"ca.test ; ", "ca.test", ()),
        (b"c-a--b.1test", "c-a--b.1test", ()),
        (b"localhost", "localhost", ()),
        (b"ca.test;a=b", "ca.test", (("a", "b"),)),
        (b"ca.test; A = b ;\tc=d", "ca.test", (("a", "b"), ("c", "d"))),
        (b"ca.test; a=", "ca.test", (("a", ""),)),
        (b"ca.test; a==b", "ca.test", (("a", "=b"),)),
        (b"ca.test; a=b; a=c", "ca.test", (("a", "b"), ("a", "c"))),
        (b"; a=b", "", (("a", "b"),)),
        (b"ca.test; accounturi=https://ca.test/acme/1?x=y", "ca.test", (("accounturi", "https://ca.test/acme/1?x=y"),)),
    ],
)
def test_values_are_read(octets: bytes, domain: str, parameters: tuple[tuple[str, str], ...]) -> None:
    assert parse_issue_value(octets) == IssueValue(domain, parameters)


@pytest.mark.parametrize(
    "octets",
    [
        b"ca.test.",
        b".ca.test",
        b"ca..test",
        b"-ca.test",
        b"ca-.test",
        b"ca_b.test",
        b"ca test",
        b"ca.test a=b",
        b"*.ca.test",
        b"https://ca.test",
        b"c\xc3\xa4.test",
        b"ca.test; a",
        b"ca.test; =b",
        b"ca.test; a_b=123",
        b"ca.test; -a=1",
        b"ca.test; a-=1",
        b"ca.test; ab=1 2 3",
        b"ca.test; a=b;",
        b"ca.test;; a=b",
        b"ca.test; a=b; ;",
        b"ca.test; a=\x7f",
        b"ca.test\0",
        b"ca.test\n",
    ],
)
def test_everything_else_is_malformed(octets: bytes) -> None:
    with pytest.raises(Malformed):
        parse_issue_value(octets)


@given(st.one_of(st.binary(max_size=60), st.text("ca.-_;= \tAb1", max_size=40).map(str.encode)))
def test_any_octets_give_a_value_in_canonical_spelling_or_malformed(octets: bytes) -> None:
    try:
        value = parse_issue_value(octets)
    except Malformed:
        return
    again = "; ".join([value.domain, *(f"{tag}={text}" for tag, text in value.parameters)])
    assert parse_issue_value(again.encode()) == value


def test_a_long_hostile_value_takes_no_time() -> None:
    with pytest.raises(Malformed):
        parse_issue_value(b"a" + b"-" * 60_000 + b"; a=b")
    with pytest.raises(Malformed):
        parse_issue_value(b"ca.test; " + b"a-" * 30_000 + b"=b")
