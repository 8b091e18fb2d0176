"""Names: what goes into a certificate, in one spelling, and what never does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.identifiers import DnsName, IpAddress, parse_dns, parse_identifier, parse_ip
from pki.reasons import Reason, Rejection


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.com", DnsName("example.com")),
        ("EXAMPLE.com", DnsName("example.com")),
        ("*.example.com", DnsName("example.com", wildcard=True)),
        ("bücher.example", DnsName("xn--bcher-kva.example")),
        ("xn--bcher-kva.example", DnsName("xn--bcher-kva.example")),
        ("printer", DnsName("printer")),
        ("3com.com", DnsName("3com.com")),
        ("a" * 63 + ".example", DnsName("a" * 63 + ".example")),
    ],
)
def test_a_name_has_one_spelling(text: str, name: DnsName) -> None:
    assert parse_dns(text) == name
    assert parse_dns(str(name)) == name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("example.com.", "dot at its end"),
        ("example..com", "empty label"),
        (".example.com", "empty label"),
        ("a" * 64 + ".com", "longer than 63"),
        (".".join(["a" * 50] * 6), "longer than 253"),
        ("under_score.example.com", "letters, digits"),
        ("-a.example.com", "letters, digits"),
        ("a-.example.com", "letters, digits"),
        ("a b.example.com", "letters, digits"),
        ("exa\nmple.com", "letters, digits"),
        ("example.com\0", "letters, digits"),
        ("*.*.example.com", "very front"),
        ("w.*.example.com", "very front"),
        ("w*.example.com", "letters, digits"),
        ("*", "very front"),
        ("ab--c.example.com", "reserved"),
        ("xn--a.example.com", "A-label"),
        ("xn--.example.com", "letters, digits"),
        # Resolvers read these as addresses; a dns identifier must not be one (ietf acme#136).
        ("127.0.0.1", "IP address"),
        ("127.1", "IP address"),
        ("2130706433", "IP address"),
        ("0x7f.1", "IP address"),
        ("foo.0x7f", "IP address"),
        ("foo.0x", "IP address"),
    ],
)
def test_what_is_no_name_is_refused_with_the_rule_it_breaks(text: str, why: str) -> None:
    with pytest.raises(Rejection) as refused:
        parse_dns(text)
    assert refused.value.reason is Reason.REJECTED_IDENTIFIER
    assert why in refused.value.detail


@given(st.text(max_size=80))
def test_any_text_is_a_canonical_name_or_a_rejection(text: str) -> None:
    try:
        name = parse_dns(text)
    except Rejection as refused:
        assert refused.detail.isprintable()
    else:
        assert parse_dns(str(name)) == name
        assert str(name).isascii()


def test_addresses_have_one_spelling_and_no_zone() -> None:
    assert str(parse_ip("2001:DB8:0::1")) == "2001:db8::1"
    assert isinstance(parse_ip("192.0.2.1"), IpAddress)
    for text in ("fe80::1%eth0", "192.0.2.1/32", "[::1]", "192.0.2.01", "", "example.com"):
        with pytest.raises(Rejection):
            parse_ip(text)


def test_a_wildcard_is_proved_by_the_name_below_its_star() -> None:
    """RFC 8555 §7.1.3."""
    assert parse_dns("*.example.com").base == DnsName("example.com")


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("dns:R7.example.com", "dns:r7.example.com"),
        ("DNS:r7.example.com", "dns:r7.example.com"),
        ("r7.example.com", "dns:r7.example.com"),
        ("ip:2001:DB8::1", "ip:2001:db8::1"),
        ("2001:db8::1", "ip:2001:db8::1"),
        ("192.0.2.1", "ip:192.0.2.1"),
    ],
)
def test_a_name_may_say_what_it_is_and_need_not(text: str, tag: str) -> None:
    assert parse_identifier(text).tag == tag


@pytest.mark.parametrize("text", ["", "dns:", "ip:", "ip:r7.example.com", "dns:192.0.2.1", "uri:https://example.com", "cn:r7"])
def test_what_says_to_be_something_else_is_refused(text: str) -> None:
    with pytest.raises(Rejection):
        parse_identifier(text)
