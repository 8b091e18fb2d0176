"""Names of onion services: the name is the key, and a name that is no key is no name."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.identifiers import DnsName, parse_dns
from pki.onion import is_onion, onion_key, onion_name, onion_spki
from pki.reasons import Reason, Rejection

# The example of RFC 9799 §2, and another that has been in use for years.
BBC = "bbcweb3hytmzhn5d532owbu6oqadra5z3ar726vq5kgwwn6aucdccrad.onion"
DUCK = "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad.onion"


@pytest.mark.parametrize("name", [BBC, DUCK])
def test_names_that_exist_are_their_keys(name: str) -> None:
    assert onion_name(onion_key(name)) == name
    assert onion_spki(name)[12:] == onion_key(name)
    for text in (name, name.upper(), f"www.{name}", f"a.b.{name}"):
        assert parse_dns(text) == DnsName(text.lower())
    assert parse_dns(f"*.{name}") == DnsName(name, wildcard=True)


@given(st.binary(min_size=32, max_size=32))
def test_every_key_is_a_name_and_back(key: bytes) -> None:
    assert onion_key(onion_name(key)) == key


def _address(decoded: bytes) -> str:
    return base64.b32encode(decoded).decode().lower() + ".onion"


DECODED = base64.b32decode(BBC.removesuffix(".onion").upper())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("onion", "56 characters"),
        ("example.onion", "56 characters"),
        ("expyuzz4wqqyqhjn.onion", "version 2"),  # which had 16
        (f"{BBC.removesuffix('.onion')}.www.onion", "56 characters"),
        ("c" + BBC[1:], "checksum"),
        (_address(DECODED[:32] + bytes(2) + b"\x03"), "checksum"),
        (_address(DECODED[:34] + b"\x02"), "version 3"),
        (_address(DECODED[:34] + b"\x04"), "version 3"),
        ("1" + BBC[1:], "base32"),
        ("0" + BBC[1:], "base32"),
        (f"a{BBC}", "56 characters"),
    ],
)
def test_names_under_onion_that_are_no_keys_are_no_names(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        onion_key(name)
    with pytest.raises(Rejection) as refused:
        parse_dns(name)
    assert refused.value.reason is Reason.REJECTED_IDENTIFIER
    assert words in refused.value.detail


@pytest.mark.parametrize(("name", "under"), [("onion", True), (BBC, True), ("onion.example.com", False), ("myonion", False)])
def test_onion_is_a_whole_label_at_the_end(name: str, under: bool) -> None:
    assert is_onion(name) is under
