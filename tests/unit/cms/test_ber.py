"""BER becomes DER, and nothing else happens to it. X.690 §8 (BER), §10 (DER)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pki.cms.ber import MAX_ELEMENTS, children_as_sent, normalise
from pki.cms.errors import CmsError, CmsProblem
from pki.der import encode

INDEFINITE, END = b"\x80", b"\0\0"


@pytest.mark.parametrize(
    ("ber", "der"),
    [
        pytest.param("3080020101 0000", "3003020101", id="indefinite length"),
        pytest.param("308031800500 0000 0000", "300431020500"[:4] + "3102 0500", id="indefinite within indefinite"),
        pytest.param("308103020101", "3003020101", id="a length in more octets than needed"),
        pytest.param("3084000000030201 01", "3003020101", id="a length with leading zeros"),
        pytest.param("2480 0402 6162 0401 63 0000", "0403616263", id="an OCTET STRING in pieces"),
        pytest.param("2408 0402 6162 0402 6364", "040461626364", id="definite pieces"),
        pytest.param("2480 2480 0401 61 0000 0401 62 0000", "04026162", id="pieces of pieces"),
        pytest.param("2400", "0400", id="no pieces at all"),
        pytest.param("3106 020102 020101", "3106020102020101", id="a set keeps the order in which it was sent"),
        pytest.param("a080 0401 61 0000", "a003040161", id="an explicit [0] around one OCTET STRING stays (eContent)"),
        pytest.param(
            "3080 060100 3000 a080 0401 61 0401 62 0000 0000",
            "3009 060100 3000 8002 6162",
            id="encryptedContent in pieces becomes one",
        ),
        pytest.param("300a 060100 3000 a003 0401 61", "3008 060100 3000 8001 61", id="also in one piece, definite (Go)"),
        pytest.param("300a 060100 3000 a003 0201 61", "300a 060100 3000 a003 0201 61", id="not where it holds other things"),
        pytest.param("300a 060100 0500 a003 0401 61", "300a 060100 0500 a003 0401 61", id="not after something else"),
    ],
)
def test_ber_becomes_der(ber: str, der: str) -> None:
    assert normalise(bytes.fromhex(ber)) == bytes.fromhex(der)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param("", CmsProblem.ENCODING, id="nothing"),
        pytest.param("30", CmsProblem.ENCODING, id="no length"),
        pytest.param("3005020101", CmsProblem.ENCODING, id="shorter than it says"),
        pytest.param("300302010100", CmsProblem.ENCODING, id="more behind the end"),
        pytest.param("3080020101", CmsProblem.ENCODING, id="an indefinite length without its end"),
        pytest.param("308002010100", CmsProblem.ENCODING, id="half of an end"),
        pytest.param("3004020301", CmsProblem.ENCODING, id="a child longer than its parent"),
        pytest.param("0480 61 0000", CmsProblem.ENCODING, id="an indefinite primitive"),
        pytest.param("3f8101 00", CmsProblem.ENCODING, id="a tag above 30"),
        pytest.param("30020000", CmsProblem.ENCODING, id="an end-of-contents out of place"),
        pytest.param("30ff" + "01" * 126, CmsProblem.ENCODING, id="a length of 127 octets"),
        pytest.param("30fe" + "01" * 126, CmsProblem.ENCODING, id="a length of 126 octets"),
        pytest.param("2403 0201 61", CmsProblem.ENCODING, id="an OCTET STRING made of an INTEGER"),
        pytest.param("2305 030300 6162"[:4] + "05 0303006162", CmsProblem.ENCODING, id="a constructed BIT STRING"),
        pytest.param("2c03 0c0161", CmsProblem.ENCODING, id="a constructed UTF8String"),
        pytest.param("3080" * 5000, CmsProblem.TOO_DEEP, id="5000 levels, indefinite"),
    ],
)
def test_what_is_not_ber_is_a_typed_error(data: str, problem: CmsProblem) -> None:
    with pytest.raises(CmsError) as caught:
        normalise(bytes.fromhex(data))
    assert caught.value.problem is problem


def nested(levels: int) -> bytes:
    data = b"\x05\x00"
    for _ in range(levels - 1):
        data = encode(0x30, data)
    return data


def test_32_levels_are_read_and_33_are_not() -> None:
    assert normalise(nested(32)) == nested(32)
    with pytest.raises(CmsError) as caught:
        normalise(nested(33))
    assert caught.value.problem is CmsProblem.TOO_DEEP


def test_five_thousand_definite_levels_are_no_recursion_error() -> None:
    with pytest.raises(CmsError) as caught:
        normalise(nested(5000))
    assert caught.value.problem is CmsProblem.TOO_DEEP


def test_size_is_capped_before_anything_is_looked_at() -> None:
    with pytest.raises(CmsError) as caught:
        normalise(b"\xff" * (256 * 1024 + 1))
    assert caught.value.problem is CmsProblem.TOO_LARGE
    assert normalise(b"\x04\x01a", max_length=3) == b"\x04\x01a"


def test_elements_are_capped_so_that_a_full_message_of_nulls_costs_little() -> None:
    bomb = encode(0x30, b"\x05\x00" * (MAX_ELEMENTS + 1))
    start = time.process_time()
    with pytest.raises(CmsError) as caught:
        normalise(bomb)
    assert caught.value.problem is CmsProblem.TOO_LARGE
    assert time.process_time() - start < 5  # milliseconds in truth; seconds would be a loop gone wrong


# ---------------------------------------------------------------- properties


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes_give_a_value_or_the_typed_error_and_a_value_stays_as_it_is(data: bytes) -> None:
    try:
        once = normalise(data)
    except CmsError:
        return
    assert normalise(once) == once


def _ber(tree: object, draw_indefinite: bool) -> bytes:
    """A tree of lists and bytes, with every choice that BER leaves taken the loose way."""
    if isinstance(tree, bytes):
        if draw_indefinite and len(tree) > 1:
            half = len(tree) // 2
            return b"\x24\x80" + encode(4, tree[:half]) + b"\x24\x80" + encode(4, tree[half:]) + END + END
        return b"\x04\x84" + len(tree).to_bytes(4, "big") + tree
    assert isinstance(tree, list)
    inside = b"".join(_ber(child, draw_indefinite) for child in tree)
    return b"\x30\x80" + inside + END if draw_indefinite else b"\x30\x84" + len(inside).to_bytes(4, "big") + inside


def _der(tree: object) -> bytes:
    if isinstance(tree, bytes):
        return encode(4, tree)
    assert isinstance(tree, list)
    return encode(0x30, b"".join(_der(child) for child in tree))


@settings(max_examples=200)
@given(
    st.recursive(st.binary(max_size=300), lambda inner: st.lists(inner, max_size=4), max_leaves=12),
    st.booleans(),
)
def test_every_loose_spelling_of_a_value_becomes_its_one_der(tree: object, indefinite: bool) -> None:
    assert normalise(_ber(tree, indefinite)) == _der(tree)
    assert normalise(_der(tree)) == _der(tree)


def test_children_are_given_as_they_were_sent() -> None:
    """A MAC covers octets, not what they mean (RFC 5272 §6.2.1)."""
    children = [b"\x30\x80\x05\x00\x00\x00", b"\x04\x81\x01x", b"\x24\x80\x04\x01a\x04\x01b\x00\x00", b"\x30\x00"]
    content = b"".join(children)
    for whole in (
        b"\x30" + bytes((len(content),)) + content,
        b"\x30\x82\x00" + bytes((len(content),)) + content,
        b"\x30\x80" + content + b"\0\0",
    ):
        assert normalise(whole)
        assert children_as_sent(whole) == children
    assert children_as_sent(b"\x30\x00") == children_as_sent(b"\x30\x80\0\0") == []


def test_a_caller_may_allow_more_elements() -> None:
    many = b"\x30\x82" + (2 * (MAX_ELEMENTS + 1)).to_bytes(2, "big") + b"\x05\x00" * (MAX_ELEMENTS + 1)
    assert normalise(many, max_elements=MAX_ELEMENTS + 2) == many
    with pytest.raises(CmsError) as caught:
        normalise(many)
    assert caught.value.problem is CmsProblem.TOO_LARGE
