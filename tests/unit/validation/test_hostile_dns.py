"""A DNS server that wants our time: names that are chains of pointers, thousands of them in one message."""

from __future__ import annotations

import struct

import pytest

from validation import dnswire
from validation.dnswire import Malformed, RecordType

SECTION = dnswire.question(dnswire.labels("www.example.com"), RecordType.A)
_TXT = struct.Struct(">HHIH")


def pointer(at: int) -> bytes:
    return (0xC000 | at).to_bytes(2, "big")


def chained(pointers: int, owners: int) -> bytes:
    """A message whose first record holds a chain of pointers, and whose others have that chain as their owner."""
    message = bytearray(struct.pack(">HHHHHH", 1, 0x8180, 1, owners + 1, 0, 0) + SECTION)
    message += b"\0" + _TXT.pack(RecordType.TXT, 1, 0, 2 * pointers + 1)
    last = len(message)
    message += b"\0"
    for _ in range(pointers):
        message += pointer(last)
        last = len(message) - 2
    for _ in range(owners):
        message += pointer(last) + _TXT.pack(RecordType.TXT, 1, 0, 0)
    return bytes(message)


def test_a_name_that_only_points_is_malformed() -> None:
    """Followed to their ends, the names of this one message take ten seconds."""
    with pytest.raises(Malformed, match="pointers"):
        dnswire.reply(chained(8000, 4000), 1, SECTION)


def test_a_pointer_for_every_label_is_read() -> None:
    """RFC 1035 §4.1.4 compresses each new name behind its first label, so long names come in many steps."""
    message = bytearray(struct.pack(">HHHHHH", 1, 0x8180, 1, 2, 0, 0) + SECTION)
    message += b"\0" + _TXT.pack(RecordType.TXT, 1, 0, 1 + 127 * 4)
    last = len(message)
    message += b"\0"
    for _ in range(127):
        message += b"\x01a" + pointer(last)
        last = len(message) - 4
    message += pointer(last) + _TXT.pack(RecordType.A, 1, 0, 4) + bytes(4)
    reply = dnswire.reply(bytes(message), 1, SECTION)
    assert reply is not None
    assert reply.data == ()
