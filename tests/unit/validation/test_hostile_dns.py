"""A DNS server that wants our time: names that are chains of pointers, thousands of them in one message."""

from __future__ import annotations

import struct
import time

import pytest

from validation import dnswire
from validation.dnswire import Malformed, Rcode, RecordType

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


def test_thousands_of_records_of_a_name_of_a_hundred_labels_are_read_in_no_time() -> None:
    """Each points to the question. Read label by label, this one message, which any zone can give, took a quarter of a second;
    ten come at once where CAA is looked for.
    """
    name = ".".join(["a"] * 120)
    section = dnswire.question(dnswire.labels(name), RecordType.CAA)
    record = pointer(12) + _TXT.pack(RecordType.CAA, 1, 60, 2) + b"\0\1"
    count = (65535 - 12 - len(section)) // len(record)
    message = struct.pack(">HHHHHH", 1, 0x8180, 1, count, 0, 0) + section + record * count
    began = time.thread_time()
    reply = dnswire.reply(message, 1, section)
    took = time.thread_time() - began
    assert reply is not None
    assert len(reply.data) == count
    assert took < 0.1


@pytest.mark.parametrize("rcode", [Rcode.NOERROR, Rcode.NXDOMAIN])
@pytest.mark.parametrize("flags", [0x8180, 0x8580, 0x81A0])
def test_what_repeats_no_question_denies_nothing(rcode: Rcode, flags: int) -> None:
    """A denial permits where CAA is asked for, so it has to say what it denies; only a refusal may be bare."""
    assert dnswire.reply(struct.pack(">HHHHHH", 1, flags | rcode, 0, 0, 0, 0), 1, SECTION) is None


def test_what_denies_another_question_denies_nothing() -> None:
    for other in (
        dnswire.question(dnswire.labels("www.example.net"), RecordType.A),
        dnswire.question(dnswire.labels("example.com"), RecordType.A),
        dnswire.question(dnswire.labels("www.example.com"), RecordType.CAA),
        SECTION[:-2] + b"\0\3",  # of another class
    ):
        for rcode in (Rcode.NOERROR, Rcode.NXDOMAIN):
            assert dnswire.reply(struct.pack(">HHHHHH", 1, 0x8180 | rcode, 1, 0, 0, 0) + other, 1, SECTION) is None


def test_records_of_other_names_classes_and_sections_count_for_nothing() -> None:
    """An answer may hold anything besides: an address of somebody else's name, of ours in class CH, ours in the wrong section."""
    elsewhere = b"\7forging\7example\0"
    address = bytes((203, 0, 113, 66))
    fields = struct.Struct(">HHIH")
    other_name = elsewhere + fields.pack(RecordType.A, 1, 60, 4) + address
    other_class = pointer(12) + fields.pack(RecordType.A, 3, 60, 4) + address
    other_kind = pointer(12) + fields.pack(RecordType.TXT, 1, 60, 4) + b"\3" + address[:3]
    alias_of_another = elsewhere + fields.pack(RecordType.CNAME, 1, 60, 2) + pointer(12)
    ours = pointer(12) + fields.pack(RecordType.A, 1, 60, 4) + address
    answers = other_name + other_class + other_kind + alias_of_another
    message = struct.pack(">HHHHHH", 1, 0x8180, 1, 4, 1, 1) + SECTION + answers + ours + ours
    reply = dnswire.reply(message, 1, SECTION)
    assert reply is not None
    assert reply.data == ()
    assert reply.follow is None
