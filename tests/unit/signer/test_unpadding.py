"""Padding that a token left on: right for what `cryptography` pads, the substitute for all else, and one way for both."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from hypothesis import given
from hypothesis import strategies as st

from pki.cms.transport import KeyTransport
from signer import unpadding
from signer.unpadding import unpad
from tests.helpers.scep import rsa_key

SIZE = 256  # octets of the modulus
LENGTHS = (8, 16, 24, 32)
KEY = b"0123456789abcdef"
OTHERWISE = bytes(range(100, 116))
OAEP = [transport for transport in KeyTransport if transport.oaep]

_NUMBERS = rsa_key("unpadding").private_numbers()
_N, _E = _NUMBERS.public_numbers.n, _NUMBERS.public_numbers.e


def raw(ciphertext: bytes) -> bytes:
    """RSADP (RFC 8017 §5.1.2)."""
    c, p, q = int.from_bytes(ciphertext, "big"), _NUMBERS.p, _NUMBERS.q
    m1, m2 = pow(c, _NUMBERS.dmp1, p), pow(c, _NUMBERS.dmq1, q)
    return (m2 + (m1 - m2) * _NUMBERS.iqmp % p * q).to_bytes(SIZE, "big")


def padded(message: bytes, transport: KeyTransport) -> bytes:
    return raw(rsa_key("unpadding").public_key().encrypt(message, transport.padding))


def opened(block: bytes, transport: KeyTransport) -> bytes:
    return unpad(block, length=len(KEY), transport=transport, otherwise=OTHERWISE)


def mgf1(seed: bytes, length: int, transport: KeyTransport) -> bytes:
    assert transport.oaep
    mask = b""
    while len(mask) < length:
        mask += transport.oaep[1].of(seed + (len(mask) // transport.oaep[1].algorithm.digest_size).to_bytes(4, "big"))
    return mask[:length]


def xor(first: bytes, second: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(first, second, strict=True))


def oaep(data: bytes, transport: KeyTransport, *, first: int = 0, seed: bytes | None = None) -> bytes:
    """EM around DB = `data` (RFC 8017 §7.1.1), whatever is in that."""
    assert transport.oaep
    seed = seed or os.urandom(transport.oaep[0].algorithm.digest_size)
    masked = xor(data, mgf1(seed, len(data), transport))
    return bytes((first,)) + xor(seed, mgf1(masked, len(seed), transport)) + masked


def database(transport: KeyTransport, message: bytes = KEY, size: int = SIZE) -> bytes:
    """DB = lHash PS 01 M."""
    assert transport.oaep
    label = transport.oaep[0].of(b"")
    return label + bytes(size - 2 - 2 * len(label) - len(message)) + b"\1" + message


def pkcs1(message: bytes = KEY, size: int = SIZE) -> bytes:
    return b"\0\2" + b"\xa5" * (size - 3 - len(message)) + b"\0" + message


def by_the_book(block: bytes) -> bytes | None:
    """RFC 8017 §7.2.2 step 3, word by word, with no thought of who watches the clock."""
    end = block.find(b"\0", 2)
    return block[end + 1 :] if block[:2] == b"\0\2" and end >= 2 + 8 else None


def changed(block: bytes) -> Iterator[tuple[int, bytes]]:
    """The block with each octet changed, to zero where it is not zero already and by a bit."""
    for at in range(len(block)):
        for other in {0, block[at] ^ 1, block[at] ^ 0x80} - {block[at]}:
            yield at, block[:at] + bytes((other,)) + block[at + 1 :]


@pytest.mark.parametrize("transport", KeyTransport)
def test_what_cryptography_pads_is_opened_when_it_is_as_long_as_asked_and_only_then(transport: KeyTransport) -> None:
    for there in (0, 1, 15, 17, *LENGTHS):
        key = os.urandom(there)
        block = padded(key, transport)
        for length in LENGTHS:
            otherwise = os.urandom(length)
            result = unpad(block, length=length, transport=transport, otherwise=otherwise)
            assert result == (key if there == length else otherwise), (there, length)


def test_each_octet_of_a_pkcs1_block_that_is_another_is_judged_as_the_book_does() -> None:
    for block in (pkcs1(), padded(KEY, KeyTransport.PKCS1)):
        for at, bad in changed(block):
            message = by_the_book(bad)
            right = message is not None and len(message) == len(KEY)
            assert right == (at >= SIZE - len(KEY) or (2 <= at < SIZE - len(KEY) - 1 and bad[at] != 0)), at
            assert opened(bad, KeyTransport.PKCS1) == (message if right else OTHERWISE), at


@given(st.binary(min_size=64, max_size=64), st.booleans(), st.sampled_from(LENGTHS))
def test_any_block_of_pkcs1_is_judged_as_the_book_does(block: bytes, begun: bool, length: int) -> None:
    block = b"\0\2" + block[2:] if begun else block
    message = by_the_book(block)
    otherwise = bytes(length)
    expected = message if message is not None and len(message) == length else otherwise
    assert unpad(block, length=length, transport=KeyTransport.PKCS1, otherwise=otherwise) == expected


def test_padding_of_fewer_than_eight_octets_is_none() -> None:
    for ps in range(12):
        block = b"\0\2" + b"\x01" * ps + b"\0" + KEY
        assert opened(block, KeyTransport.PKCS1) == (KEY if ps >= 8 else OTHERWISE), ps


@pytest.mark.parametrize("transport", OAEP)
def test_each_octet_inside_oaep_that_is_another_is_judged_as_cryptography_does(transport: KeyTransport) -> None:
    data = database(transport)
    seed = bytes(SIZE - 1 - len(data))
    for at, bad in changed(data):
        block = oaep(bad, transport, seed=seed)
        expected = bad[-len(KEY) :] if at >= len(data) - len(KEY) else OTHERWISE
        assert opened(block, transport) == expected, at
        if at % 16:  # 0.6 ms each
            continue
        try:
            theirs = rsa_key("unpadding").decrypt(
                pow(int.from_bytes(block, "big"), _E, _N).to_bytes(SIZE, "big"), transport.padding
            )
        except ValueError:
            theirs = b""
        assert (theirs if len(theirs) == len(KEY) else OTHERWISE) == expected, at
    assert opened(oaep(data, transport, seed=seed), transport) == KEY


@pytest.mark.parametrize("transport", OAEP)
def test_each_octet_of_an_oaep_block_that_is_another_spoils_it(transport: KeyTransport) -> None:
    for at, bad in changed(padded(KEY, transport)):
        assert opened(bad, transport) == OTHERWISE, at


def test_a_label_another_padding_and_another_transport_are_not_the_right_one() -> None:
    public = rsa_key("unpadding").public_key()
    for transport in OAEP:
        assert transport.oaep
        digest, mask = transport.oaep
        labelled = padding.OAEP(padding.MGF1(mask.algorithm), digest.algorithm, b"label")
        assert opened(raw(public.encrypt(KEY, labelled)), transport) == OTHERWISE
    for one in KeyTransport:
        block = padded(KEY, one)
        assert {other for other in KeyTransport if opened(block, other) == KEY} == {one}


def test_a_modulus_without_room_for_the_key_gives_the_substitute() -> None:
    for transport in KeyTransport:
        least = len(KEY) + (11 if transport.oaep is None else 2 * transport.oaep[0].algorithm.digest_size + 2)
        block = pkcs1(size=least) if transport.oaep is None else oaep(database(transport, size=least), transport)
        assert opened(block, transport) == KEY, transport
        for size in (0, 1, 16, 26, least - 1):
            assert opened(bytes(size), transport) == OTHERWISE, (transport, size)


def way(block: bytes, transport: KeyTransport) -> list[tuple[str, int]]:
    """Every instruction of unpadding.py that is executed."""
    seen: list[tuple[str, int]] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:  # itself, or None
        if frame.f_code.co_filename != unpadding.__file__:
            return None
        frame.f_trace_opcodes = True
        seen.append((frame.f_code.co_name, frame.f_lasti))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        opened(block, transport)
    finally:
        sys.settrace(before)
    return seen


@pytest.mark.parametrize("transport", KeyTransport)
def test_a_right_block_and_every_wrong_one_take_the_same_way(transport: KeyTransport) -> None:
    """Manger's question (is the first octet zero?) and Bleichenbacher's are not answered by an instruction more or less."""
    right = padded(KEY, transport)
    wrong = [bytes(SIZE), b"\xff" * SIZE, b"\1" + right[1:], padded(KEY + KEY, transport), padded(b"", transport)]
    if transport.oaep is None:
        wrong += [pkcs1()[:40] + b"\0" + pkcs1()[41:], b"\0\1" + pkcs1()[2:], b"\0\2" + b"\xa5" * (SIZE - 2)]
    else:
        data = database(transport)
        wrong += [
            oaep(data, transport, first=1),
            oaep(b"\0" + data[1:], transport),
            oaep(data.replace(b"\1" + KEY, b"\0" + KEY), transport),
            oaep(bytes(len(data)), transport),
        ]
    usual = way(right, transport)
    assert len(usual) > 200
    for block in wrong:
        assert opened(block, transport) == OTHERWISE
        assert way(block, transport) == usual
