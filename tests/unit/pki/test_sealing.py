"""Sealed secrets: they open with their key, as what they were sealed as, and else not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.sealing import Sealer, SealError, new_key, parse_keys

OLD, NEW = b"o" * 32, b"n" * 32


@given(st.binary(max_size=200), st.text(st.characters(codec="utf-8"), max_size=50))
def test_what_is_sealed_opens_as_it_was(secret: bytes, context: str) -> None:
    sealer = Sealer([NEW])
    box = sealer.seal(secret, context=context)
    assert sealer.open(box, context=context) == secret
    assert len(secret) < 8 or secret not in box


def test_two_boxes_of_one_secret_are_different() -> None:
    sealer = Sealer([NEW])
    assert sealer.seal(b"secret", context="a") != sealer.seal(b"secret", context="a")


def test_a_box_is_bound_to_what_it_was_sealed_as() -> None:
    sealer = Sealer([NEW])
    box = sealer.seal(b"secret", context="one row")
    with pytest.raises(SealError, match="another row"):
        sealer.open(box, context="another row")


@given(st.data())
def test_a_changed_box_does_not_open(data: st.DataObject) -> None:
    sealer = Sealer([NEW])
    box = bytearray(sealer.seal(b"secret", context="a"))
    at = data.draw(st.integers(0, len(box) - 1))
    box[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealError):
        sealer.open(bytes(box), context="a")


@given(st.binary(max_size=60))
def test_any_octets_are_a_box_or_a_seal_error(box: bytes) -> None:
    with pytest.raises(SealError):
        Sealer([NEW]).open(box, context="a")


def test_the_first_key_seals_and_all_of_them_open() -> None:
    before = Sealer([OLD])
    box = before.seal(b"secret", context="a")
    rotated = Sealer([NEW, OLD])
    assert rotated.open(box, context="a") == b"secret"
    with pytest.raises(SealError, match="not in secrets_key_file"):
        before.open(rotated.seal(b"secret", context="a"), context="a")


@pytest.mark.parametrize("keys", [[], [b""], [b"x" * 31], [NEW, b"x" * 33]])
def test_keys_have_their_length(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32 octets"):
        Sealer(keys)


def test_a_key_file_has_one_key_a_line() -> None:
    first, second = new_key(), new_key()
    assert parse_keys(first + b"\n" + second) == (bytes.fromhex(first.decode()), bytes.fromhex(second.decode()))
    assert parse_keys(first.rstrip()) == parse_keys(b"  " + first)


@pytest.mark.parametrize(
    "text", [b"", b"\n\n", b"ab", b"g" * 64, b"A" * 64, b"a" * 63, b"a" * 65, b"\xff" * 64, b"a" * 64 + b" x"]
)
def test_what_is_no_key_file_is_refused_without_repeating_it(text: bytes) -> None:
    with pytest.raises(ValueError, match="64 lower-case hex digits") as caught:
        parse_keys(text)
    assert len(text.strip()) < 10 or text.decode("latin-1").strip() not in str(caught.value)
