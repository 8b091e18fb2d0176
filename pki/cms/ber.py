"""BER to DER, as far as the structures of CMS go (X.690).

Apple, Android (jscep), `openssl cms -stream` and Go clients send indefinite lengths, OCTET STRINGs in pieces and a
constructed `[0]` around encryptedContent. All are legal BER, and no DER parser takes them. So every message passes here first, and
its size, depth and number of elements are bounded before anything else looks at it.

Fuzz invariant: `normalise(x)` is a value or a CmsError, and `normalise(normalise(x)) == normalise(x)`.
"""

from __future__ import annotations

from pki.cms.errors import CmsError, CmsProblem
from pki.der import OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SET, children, encode

MAX_DEPTH = 32
MAX_LENGTH = 256 * 1024  # octets
MAX_ELEMENTS = 4096  # a PKCSReq has about 150; without a bound 256 KiB of NULLs cost 0.2 s

_CONSTRUCTED = 0x20
_CONSTRUCTED_OCTET_STRING = OCTET_STRING | _CONSTRUCTED
_CONTEXT_0 = 0xA0
_CONTEXT_0_PRIMITIVE = 0x80
_END_OF_CONTENTS = b"\0\0"


def normalise(
    data: bytes, *, max_depth: int = MAX_DEPTH, max_length: int = MAX_LENGTH, max_elements: int = MAX_ELEMENTS
) -> bytes:
    """One BER element to the same with definite, minimal lengths and strings in one piece.

    Sets keep the order in which they were sent, because signers have signed that order. The result can be longer than
    `data` by one octet per level. Raises CmsError: TOO_LARGE, TOO_DEEP, ENCODING.
    """
    if len(data) > max_length:
        raise CmsError(CmsProblem.TOO_LARGE, f"the message is longer than {max_length} octets")
    if _is_normal(data, max_depth, max_elements):
        return data
    reader = _Normaliser(data, max_elements)
    tag, content = reader.element(len(data), max_depth)
    if reader.position != len(data):
        raise _wrong(reader.position, "more octets after the end of the message")
    return encode(tag, content)


def _is_normal(data: bytes, max_depth: int, max_elements: int) -> bool:
    """Whether `normalise` would give back the same octets, as for nearly every message: half the cost of making them anew.

    False also where it cannot be told; nothing is refused here.
    """
    position, end = 0, len(data)
    first = previous = 0  # where the siblings begin, and the tag of the one before
    outside: list[tuple[int, int, int]] = []  # the same of the elements around
    for _ in range(max_elements):
        if end - position < 2:
            return False
        tag, length = data[position], data[position + 1]
        position += 2
        if length >= 0x80:
            octets = length & 0x7F
            length = int.from_bytes(data[position : position + octets], "big")
            position += octets
            if length < 0x80 or length >> (8 * octets - 8) == 0:
                return False
        if length > end - position or tag & 0x1F == 0x1F or tag == 0:
            return False
        if tag & _CONSTRUCTED:
            if len(outside) >= max_depth - 1 or (tag < 0x40 and tag not in {SEQUENCE, SET}):
                return False
            if tag == _CONTEXT_0 and previous == SEQUENCE and data[first] == OBJECT_IDENTIFIER:
                return False  # perhaps an encryptedContent in pieces
            if length:
                outside.append((end, first, tag))
                first, end, previous = position, position + length, 0
                continue
        else:
            position += length
        previous = tag
        while position == end and outside:
            end, first, previous = outside.pop()
        if not outside:
            return position == end
    return False


def children_as_sent(data: bytes) -> list[bytes]:
    """The elements inside the one BER element that `data` is, octet by octet as they were sent: for what a MAC covers.

    Only for what `normalise` has taken, within its bounds.
    """
    length = data[1]
    reader = _Normaliser(data, len(data))
    reader.position = 2 if length <= 0x80 else 2 + (length & 0x7F)
    end = len(data) - len(_END_OF_CONTENTS) if length == 0x80 else len(data)
    found = []
    while reader.position < end:
        start = reader.position
        reader.element(end, MAX_DEPTH)
        found.append(data[start : reader.position])
    return found


def _wrong(at: int, what: str) -> CmsError:
    return CmsError(CmsProblem.ENCODING, f"{what}, at octet {at}")


class _Normaliser:
    """One pass over `data`, from `position` on. The loop over elements is the cost of every message, so it stays flat."""

    __slots__ = ("_data", "_elements", "_max_elements", "position")

    def __init__(self, data: bytes, max_elements: int) -> None:
        self._data = data
        self._elements = 0
        self._max_elements = max_elements
        self.position = 0

    def element(self, end: int, depth: int) -> tuple[int, bytes]:
        """Tag and normalised content of the element that starts at `position`; it must end at or before `end`."""
        self._elements += 1
        if self._elements > self._max_elements:
            raise CmsError(CmsProblem.TOO_LARGE, f"the message has more than {self._max_elements} elements")
        data, start = self._data, self.position
        if end - start < 2:
            raise _wrong(start, "an early end")
        tag, length = data[start], data[start + 1]
        if tag & 0x1F == 0x1F or tag == 0:
            raise _wrong(start, "a tag that CMS does not have")
        self.position = start + 2
        indefinite = length == 0x80
        if length > 0x80:
            length = self._long_length(length & 0x7F, end)
        if not indefinite and length > end - self.position:
            raise _wrong(start, "a length beyond the end")
        if tag & _CONSTRUCTED:
            if depth <= 1:
                raise CmsError(CmsProblem.TOO_DEEP, "the message is nested too deeply")
            inside = self._children(end if indefinite else self.position + length, depth - 1, indefinite=indefinite)
            return _joined(tag, inside, start)
        if indefinite:
            raise _wrong(start, "an indefinite length on a primitive")
        content = data[self.position : self.position + length]
        self.position += length
        return tag, content

    def _long_length(self, octets: int, end: int) -> int:
        start = self.position
        self.position += octets
        if self.position > end:
            raise _wrong(start, "an early end")
        return int.from_bytes(self._data[start : self.position], "big")

    def _children(self, end: int, depth: int, *, indefinite: bool) -> list[tuple[int, bytes]]:
        children = []
        if not indefinite:
            while self.position < end:
                children.append(self.element(end, depth))
            return children
        while self._data[self.position : min(self.position + 2, end)] != _END_OF_CONTENTS:
            children.append(self.element(end, depth))
        self.position += 2
        return children


def _joined(tag: int, inside: list[tuple[int, bytes]], start: int) -> tuple[int, bytes]:
    """The element that these children make under this tag."""
    if tag == _CONSTRUCTED_OCTET_STRING:
        if any(kind != OCTET_STRING for kind, _ in inside):
            raise _wrong(start, "an OCTET STRING made of other things")
        return OCTET_STRING, b"".join([content for _, content in inside])
    if tag < 0x40 and tag not in {SEQUENCE, SET}:
        raise _wrong(start, "a constructed form of a type that has none in CMS")
    if tag == SEQUENCE and [kind for kind, _ in inside] == [OBJECT_IDENTIFIER, SEQUENCE, _CONTEXT_0]:
        inside[2] = _merged(inside[2][1])
    return tag, b"".join([encode(kind, content) for kind, content in inside])


def _merged(content: bytes) -> tuple[int, bytes]:
    """EncryptedContentInfo's `[0] IMPLICIT OCTET STRING` in pieces (RFC 5652 §6.1), `content` being the pieces.

    The same octets under another parent are an EXPLICIT wrapper around one OCTET STRING (eContent), so it is the OID and
    the AlgorithmIdentifier before it that tell.
    """
    pieces = list(children(content))
    if any(piece.tag != OCTET_STRING for piece in pieces):
        return _CONTEXT_0, content
    return _CONTEXT_0_PRIMITIVE, b"".join(piece.content for piece in pieces)
