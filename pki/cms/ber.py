"""BER to DER, as far as the structures of CMS go (X.690).

Apple, Android (jscep), `openssl cms -stream` and Go clients send indefinite lengths, OCTET STRINGs in pieces and a
constructed `[0]` around encryptedContent. All are legal BER, and no DER parser takes them. So every message passes here first, and
its size, depth and number of elements are bounded before anything else looks at it.

Fuzz invariant: `normalise(x)` is a value or a CmsError, and `normalise(normalise(x)) == normalise(x)`.
"""

from __future__ import annotations

from typing import NamedTuple

from pki.cms.errors import CmsError, CmsProblem
from pki.der import OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SET, encode

MAX_DEPTH = 32
MAX_LENGTH = 256 * 1024  # octets
MAX_ELEMENTS = 4096  # a PKCSReq has about 150; without a bound 256 KiB of NULLs cost 0.2 s

_CONSTRUCTED = 0x20
_CONTEXT_0 = 0xA0
_CONTEXT_0_PRIMITIVE = 0x80
_UNIVERSAL = 0xC0  # mask: both bits clear


class _Element(NamedTuple):
    tag: int
    content: bytes
    children: tuple[_Element, ...]


def normalise(data: bytes, *, max_depth: int = MAX_DEPTH, max_length: int = MAX_LENGTH) -> bytes:
    """One BER element to the same with definite, minimal lengths and strings in one piece.

    Sets keep the order in which they were sent, because signers have signed that order. The result can be longer than
    `data` by one octet per level. Raises CmsError: TOO_LARGE, TOO_DEEP, ENCODING.
    """
    if len(data) > max_length:
        raise CmsError(CmsProblem.TOO_LARGE, f"the message is longer than {max_length} octets")
    reader = _Normaliser(data)
    element = reader.element(len(data), max_depth)
    if reader.position != len(data):
        raise CmsError(CmsProblem.ENCODING, f"{len(data) - reader.position} octets follow the end of the message")
    return _encoded(element)


def _encoded(element: _Element) -> bytes:
    return encode(element.tag, element.content)


class _Normaliser:
    """One pass over `data`, from `position` on."""

    __slots__ = ("_data", "_elements", "position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._elements = 0
        self.position = 0

    def element(self, end: int, depth: int) -> _Element:
        """The element that starts at `position`; it must end at or before `end`."""
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise CmsError(CmsProblem.TOO_LARGE, f"the message has more than {MAX_ELEMENTS} elements")
        start = self.position
        tag = self._octet(end)
        if tag & 0x1F == 0x1F:
            raise self._wrong(start, "a tag above 30")
        if tag == 0:
            raise self._wrong(start, "an end-of-contents out of place")
        length = self._length(end)
        if not tag & _CONSTRUCTED:
            if length is None:
                raise self._wrong(start, "an indefinite length on a primitive")
            content = self._data[self.position : self.position + length]
            self.position += length
            return _Element(tag, content, ())
        if depth <= 1:
            raise CmsError(CmsProblem.TOO_DEEP, "the message is nested too deeply")
        return self._constructed(tag, start, self._children(end, length, depth - 1))

    def _octet(self, end: int) -> int:
        if self.position >= end:
            raise self._wrong(self.position, "an early end")
        octet = self._data[self.position]
        self.position += 1
        return octet

    def _length(self, end: int) -> int | None:
        """None where it is indefinite."""
        start = self.position
        first = self._octet(end)
        if first == 0x80:
            return None
        length = first
        if first > 0x80:
            length = 0
            for _ in range(first & 0x7F):
                length = length << 8 | self._octet(end)
                if length > len(self._data):
                    raise self._wrong(start, "a length beyond the end")
        if length > end - self.position:
            raise self._wrong(start, "a length beyond the end")
        return length

    def _children(self, end: int, length: int | None, depth: int) -> tuple[_Element, ...]:
        children = []
        if length is not None:
            end = self.position + length
            while self.position < end:
                children.append(self.element(end, depth))
            return tuple(children)
        while self._data[self.position : min(self.position + 2, end)] != b"\0\0":
            children.append(self.element(end, depth))
        self.position += 2
        return tuple(children)

    def _constructed(self, tag: int, start: int, children: tuple[_Element, ...]) -> _Element:
        if tag == OCTET_STRING | _CONSTRUCTED:
            if not _all_octet_strings(children):
                raise self._wrong(start, "an OCTET STRING made of other things")
            return _Element(OCTET_STRING, b"".join(child.content for child in children), ())
        if tag & _UNIVERSAL == 0 and tag not in {SEQUENCE, SET}:
            raise self._wrong(start, f"a constructed form of tag {tag & 0x1F}")
        if tag == SEQUENCE:
            children = _merge_encrypted_content(children)
        return _Element(tag, b"".join(map(_encoded, children)), children)

    def _wrong(self, at: int, what: str) -> CmsError:
        return CmsError(CmsProblem.ENCODING, f"{what} at octet {at}")


def _all_octet_strings(children: tuple[_Element, ...]) -> bool:
    return all(child.tag == OCTET_STRING for child in children)


def _merge_encrypted_content(children: tuple[_Element, ...]) -> tuple[_Element, ...]:
    """EncryptedContentInfo's `[0] IMPLICIT OCTET STRING` in pieces (RFC 5652 §6.1).

    The same octets under another parent are an EXPLICIT wrapper around one OCTET STRING (eContent), so it is the OID and
    the AlgorithmIdentifier before it that tell.
    """
    if [child.tag for child in children] != [OBJECT_IDENTIFIER, SEQUENCE, _CONTEXT_0]:
        return children
    content = children[2]
    if not _all_octet_strings(content.children):
        return children
    return (*children[:2], _Element(_CONTEXT_0_PRIMITIVE, b"".join(child.content for child in content.children), ()))
