"""DNS messages, as far as a stub resolver needs them (RFC 1035 §4). Pure.

Law of this file: whatever bytes come in, a Reply, None or Malformed goes out. By hand, because two look-ups belong to every
validation and a general library costs seven times as much for each; tests compare it with dnspython.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

MAX_NAME = 255  # octets with the length bytes, RFC 1035 §3.1
MAX_CHAIN = 16  # CNAMEs in one message
MAX_POINTERS = 128  # in one name: more than it can have labels
_HEADER = struct.Struct(">HHHHHH")
_RECORD = struct.Struct(">HHIH")
_QUERY_FLAGS = 0x0100  # recursion desired
_CLASS_IN = 1

Labels = tuple[bytes, ...]
"""A name, lower case, without the empty label of the root."""


class RecordType(enum.IntEnum):
    A = 1
    CNAME = 5
    TXT = 16
    AAAA = 28


class Rcode(enum.IntEnum):
    """The response codes that we tell apart (RFC 1035 §4.1.1)."""

    NOERROR = 0
    SERVFAIL = 2
    NXDOMAIN = 3
    REFUSED = 5


class Malformed(Exception):
    """The answer to our question cannot be read. The text is ours, not the server's."""


class AliasLoop(Malformed):
    """CNAMEs that lead back, or too many of them."""


@dataclass(frozen=True, slots=True)
class Reply:
    """`data` are the RDATA of the wanted type at the end of the CNAME chain.

    `follow` is that end, when it is another name than the one asked for, there are no data and the server does not recurse:
    then somebody must ask again.
    """

    rcode: int
    truncated: bool
    data: tuple[bytes, ...]
    follow: Labels | None


def labels(name: str) -> Labels:
    """The labels of an ASCII name with or without the final dot. Raises ValueError when it does not fit into a message."""
    parts = tuple(name.rstrip(".").lower().encode("ascii").split(b"."))
    if any(not 0 < len(part) < 64 for part in parts) or sum(map(len, parts)) + len(parts) + 1 > MAX_NAME:
        raise ValueError("not a DNS name")
    return parts


def question(name: Labels, wanted: RecordType) -> bytes:
    """The question section, also the key by which an answer is recognised."""
    return b"".join([bytes((len(label),)) + label for label in name]) + b"\0" + struct.pack(">HH", wanted, _CLASS_IN)


def query(ident: int, section: bytes) -> bytes:
    return _HEADER.pack(ident, _QUERY_FLAGS, 1, 0, 0, 0) + section


def reply(message: bytes, ident: int, section: bytes) -> Reply | None:
    """The reply to `query(ident, section)`, None when the message is not one, or Malformed when it is a broken one."""
    if len(message) < _HEADER.size:
        return None
    got, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    if got != ident or not flags & 0x8000 or flags & 0x7800:  # another query's, a query, or another opcode
        return None
    rcode = flags & 0xF
    if questions == 0 and rcode:  # some servers refuse without repeating the question
        return Reply(rcode, truncated=False, data=(), follow=None)
    end = _HEADER.size + len(section)
    if questions != 1 or not _same_question(message[_HEADER.size : end], section):
        return None
    if flags & 0x0200:
        return Reply(rcode, truncated=True, data=(), follow=None)
    name, _ = _name(section, 0)
    data, last = _chain(message, end, answers, name, int.from_bytes(section[-4:-2]))
    recursed = flags & 0x0080
    return Reply(rcode, truncated=False, data=data, follow=last if last != name and not data and not recursed else None)


def strings(rdata: bytes) -> bytes:
    """The character-strings of one TXT record, joined (RFC 8555 §8.4 reads them so). Raises Malformed."""
    joined, at = [], 0
    while at < len(rdata):
        end = at + 1 + rdata[at]
        if end > len(rdata):
            raise Malformed("a TXT record ends inside a string")
        joined.append(rdata[at + 1 : end])
        at = end
    return b"".join(joined)


def _same_question(got: bytes, asked: bytes) -> bool:
    """Names without regard to case (RFC 4343), type and class exactly."""
    return got[-4:] == asked[-4:] and got[:-4].lower() == asked[:-4]


def _chain(message: bytes, at: int, count: int, name: Labels, wanted: int) -> tuple[tuple[bytes, ...], Labels]:
    """Follows the CNAMEs from `name` through `count` answers: the wanted data at the chain's end, and that end."""
    aliases: dict[Labels, int] = {}
    found: dict[Labels, list[bytes]] = {}
    for _ in range(count):
        owner, at = _name(message, at)
        if at + _RECORD.size > len(message):
            raise Malformed("a record is cut off")
        kind, class_, _, length = _RECORD.unpack_from(message, at)
        at += _RECORD.size
        if at + length > len(message):
            raise Malformed("a record is cut off")
        if class_ == _CLASS_IN and kind == wanted:
            found.setdefault(owner, []).append(message[at : at + length])
        elif class_ == _CLASS_IN and kind == RecordType.CNAME:
            aliases[owner] = at
        at += length
    for _ in range(MAX_CHAIN):
        if name in found:
            return tuple(found[name]), name
        if name not in aliases:
            return (), name
        name, _ = _name(message, aliases[name])
    raise AliasLoop("the CNAME records do not end")


def _name(message: bytes, at: int) -> tuple[Labels, int]:
    """A name with its compression (RFC 1035 §4.1.4), and where the next field begins."""
    parts: list[bytes] = []
    size, end, limit, pointers = 1, -1, at, 0
    while True:
        if at >= len(message):
            raise Malformed("a name is cut off")
        length = message[at]
        if length == 0:
            return tuple(parts), (at + 1 if end < 0 else end)
        if length < 64:
            parts.append(message[at + 1 : at + 1 + length].lower())
            at += 1 + length
            size += 1 + length
            if size > MAX_NAME:
                raise Malformed("a name is too long")
        elif length >= 192 and at + 1 < len(message):
            if end < 0:
                end = at + 2
            at = (length & 63) << 8 | message[at + 1]
            if at >= limit:  # each pointer must lead further back, or they could go round for ever
                raise Malformed("a compressed name points forward")
            limit, pointers = at, pointers + 1
            if pointers > MAX_POINTERS:  # they end, but thousands of names could each take thousands of steps
                raise Malformed("a name is made of too many pointers")
        else:
            raise Malformed("a name has an unknown kind of label")
