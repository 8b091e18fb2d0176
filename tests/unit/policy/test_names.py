"""Patterns mean one thing each."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.identifiers import Identifier, is_address, parse_dns, parse_ip
from pki.reasons import Rejection
from policy.names import check_device_name, parse_pattern, text_matches


def name(text: str) -> Identifier:
    return parse_ip(text) if is_address(text) else parse_dns(text)


@pytest.mark.parametrize(
    ("pattern", "grants", "refuses"),
    [
        ("*", ["a", "a.b.c", "*.a.b", "192.0.2.1", "2001:db8::1"], []),
        ("www.example.com", ["www.example.com", "WWW.example.com"], ["example.com", "a.www.example.com", "*.example.com"]),
        (
            "*.example.com",
            ["a.example.com", "*.example.com"],
            ["example.com", "a.b.example.com", "evil-example.com", "a.evil-example.com", "*.a.example.com", "192.0.2.1"],
        ),
        (
            "**.example.com",
            ["a.example.com", "a.b.example.com", "*.example.com", "*.b.example.com"],
            ["example.com", "evil-example.com", "example.com.evil"],
        ),
        ("192.0.2.1", ["192.0.2.1"], ["192.0.2.2", "::ffff:192.0.2.1"]),
        ("10.0.0.0/8", ["10.1.2.3"], ["11.0.0.1", "a.example.com"]),
        ("2001:db8::/32", ["2001:db8:1::1"], ["2001:db9::1", "10.0.0.1"]),
    ],
)
def test_a_pattern_grants_what_it_says_and_nothing_else(pattern: str, grants: list[str], refuses: list[str]) -> None:
    matcher = parse_pattern(pattern)
    assert [text for text in grants if not matcher.matches(name(text))] == []
    assert [text for text in refuses if matcher.matches(name(text))] == []


@pytest.mark.parametrize(
    "pattern", ["", "*.", "**", "a.*.com", "*.*.com", "***.com", "exa_mple.com", "10.0.0.1/8", "*.10.0.0.0/8", "*example.com"]
)
def test_a_pattern_that_means_nothing_is_an_error(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|network"):
        parse_pattern(pattern)


@given(st.text(max_size=40))
def test_any_text_is_a_pattern_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_pattern(text)


@pytest.mark.parametrize("text", ["router7", "00:11:22:33:44:55", "user@example.com", "SN 1234/5", "a", "x" * 64])
def test_device_names_are_taken(text: str) -> None:
    assert check_device_name(text) == text


@pytest.mark.parametrize("text", ["", " a", "a ", "x" * 65, 'a"b', "a\nb", "<script>", "é", "a,b", "a=b", "a+b", "-", "a\0"])
def test_what_a_directory_or_a_log_would_read_as_more_than_text_is_no_device_name(text: str) -> None:
    with pytest.raises(Rejection):
        check_device_name(text)


def test_common_name_patterns_are_literal_but_for_the_star() -> None:
    assert text_matches("router7.lab", ["router*.lab"])
    assert not text_matches("router7xlab", ["router*.lab"])
    assert not text_matches("Router7.lab", ["router*.lab"])
    assert not text_matches("router7", [])
