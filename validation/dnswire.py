"""DNS messages, as far as a stub resolver needs them (RFC 1035 §4, RFC 6891). Pure.

Law of this file: whatever bytes come in, a Reply, None or Malformed goes out. By hand, because look-ups belong to every
validation and a general library costs five times as much for each (docs/adr/0004); tests compare it with dnspython.
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
_QUERY_FLAGS = 0x0120  # recursion desired, and tell us whether DNSSEC proved it (AD, RFC 6840 §5.7)
_CLASS_IN = 1
_OPT = 41
UDP_PAYLOAD = 1232  # octets that reach everybody unfragmented
_EDNS = b"\0" + struct.pack(">HHIH", _OPT, UDP_PAYLOAD, 0, 0)
_MAX_TTL = 0x7FFF_FFFF  # RFC 2181 §8: what is more is nothing

Labels = tuple[bytes, ...]
"""A name, lower case, without the empty label of the root."""


class RecordType(enum.IntEnum):
    A = 1
    CNAME = 5
    TXT = 16
    AAAA = 28
    CAA = 257  # RFC 8659 §4


class Rcode(enum.IntEnum):
    """The response codes that we tell apart (RFC 1035 §4.1.1)."""

    NOERROR = 0
    FORMERR = 1
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

    rcode: int  # with the upper bits of EDNS (RFC 6891 §6.1.3)
    truncated: bool
    data: tuple[bytes, ...]
    follow: Labels | None
    secure: bool = False  # AD: the server says that DNSSEC proved all of it (RFC 4035 §3.2.3)
    knows: bool = True  # it recursed or has authority; else "no data" is a referral and no answer
    ttl: int = _MAX_TTL  # seconds, the least of all records that led to the data


def labels(name: str) -> Labels:
    """The labels of an ASCII name with or without the final dot. Raises ValueError when it does not fit into a message."""
    parts = tuple(name.rstrip(".").lower().encode("ascii").split(b"."))
    if any(not 0 < len(part) < 64 for part in parts) or sum(map(len, parts)) + len(parts) + 1 > MAX_NAME:
        raise ValueError("not a DNS name")
    return parts


def question(name: Labels, wanted: RecordType) -> bytes:
    """The question section, also the key by which an answer is recognised."""
    return b"".join([bytes((len(label),)) + label for label in name]) + b"\0" + struct.pack(">HH", wanted, _CLASS_IN)


def query(ident: int, section: bytes, *, edns: bool = False) -> bytes:
    """With `edns` the answer may have UDP_PAYLOAD octets instead of 512."""
    return _HEADER.pack(ident, _QUERY_FLAGS, 1, 0, 0, edns) + section + (_EDNS if edns else b"")


def reply(message: bytes, ident: int, section: bytes) -> Reply | None:
    """The reply to `query(ident, section)`, None when the message is not one, or Malformed when it is a broken one."""
    if len(message) < _HEADER.size:
        return None
    got, flags, questions, answers, authorities, additions = _HEADER.unpack_from(message)
    if got != ident or not flags & 0x8000 or flags & 0x7800:  # another query's, a query, or another opcode
        return None
    rcode = flags & 0xF
    if questions == 0 and rcode not in {Rcode.NOERROR, Rcode.NXDOMAIN}:  # some servers refuse without repeating the question
        return Reply(rcode, truncated=False, data=(), follow=None)
    end = _HEADER.size + len(section)
    if questions != 1 or not _same_question(message[_HEADER.size : end], section):
        return None
    if flags & 0x0200:
        return Reply(rcode, truncated=True, data=(), follow=None)
    name, _ = _name(section, 0)
    data, last, ttl, end = _chain(message, end, answers, name, int.from_bytes(section[-4:-2]))
    recursed = flags & 0x0080
    return Reply(
        rcode if data else rcode | _upper_rcode(message, end, authorities, additions) << 4,
        truncated=False,
        data=data,
        follow=last if last != name and not data and not recursed else None,
        secure=bool(flags & 0x0020),
        knows=bool(recursed or flags & 0x0400),
        ttl=ttl,
    )


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


def _record(message: bytes, at: int, known: dict[bytes, Labels]) -> tuple[Labels, int, int, int, int, int]:
    """One record: owner, type, class, TTL, where its RDATA begins and where it ends."""
    owner, at = _owner(message, at, known)
    if at + _RECORD.size > len(message):
        raise Malformed("a record is cut off")
    kind, class_, ttl, length = _RECORD.unpack_from(message, at)
    at += _RECORD.size
    if at + length > len(message):
        raise Malformed("a record is cut off")
    return owner, kind, class_, ttl, at, at + length


def _chain(message: bytes, at: int, count: int, name: Labels, wanted: int) -> tuple[tuple[bytes, ...], Labels, int, int]:
    """Follows the CNAMEs from `name` through `count` answers: the wanted data at the chain's end, that end, the least TTL on
    the way, and where the next section begins.
    """
    aliases: dict[Labels, tuple[int, int]] = {}
    found: dict[Labels, list[tuple[bytes, int]]] = {}
    known: dict[bytes, Labels] = {}
    for _ in range(count):
        owner, kind, class_, ttl, begin, at = _record(message, at, known)
        if class_ == _CLASS_IN and kind == wanted:
            found.setdefault(owner, []).append((message[begin:at], _seconds(ttl)))
        elif class_ == _CLASS_IN and kind == RecordType.CNAME:
            aliases[owner] = begin, _seconds(ttl)
    least = _MAX_TTL
    for _ in range(MAX_CHAIN):
        if name in found:
            records = found[name]
            return tuple([data for data, _ in records]), name, min(least, *[ttl for _, ttl in records]), at
        if name not in aliases:
            return (), name, least, at
        begin, ttl = aliases[name]
        least = min(least, ttl)
        name, _ = _name(message, begin)
    raise AliasLoop("the CNAME records do not end")


def _seconds(ttl: int) -> int:
    return ttl if ttl <= _MAX_TTL else 0


def _upper_rcode(message: bytes, at: int, authorities: int, additions: int) -> int:
    """Of the OPT record, if there is one: an answer that EDNS calls an error must not be read as "no data"."""
    known: dict[bytes, Labels] = {}
    for position in range(authorities + additions if additions else 0):
        _, kind, _, ttl, _, at = _record(message, at, known)
        if kind == _OPT and position >= authorities:
            return ttl >> 24
    return 0


def _owner(message: bytes, at: int, known: dict[bytes, Labels]) -> tuple[Labels, int]:
    """As `_name`, but what is only a pointer is read once: thousands of records may point to one name of a hundred labels."""
    pointer = message[at : at + 2]
    if len(pointer) < 2 or pointer[0] < 192:
        return _name(message, at)
    if pointer not in known:
        known[pointer], _ = _name(message, at)
    return known[pointer], at + 2


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
