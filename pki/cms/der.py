"""Reading and writing DER, as much as CMS needs: what `ber.normalise` has made, and what we send.

`cryptography.hazmat.asn1` refuses sets that are not in DER order, which devices send and sign; asn1crypto costs more than the
RSA operation beside it. The structures here are few and flat, so these few lines do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pki.cms.ber import encode_length
from pki.cms.errors import CmsError, CmsProblem

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
UTF8_STRING = 0x0C
PRINTABLE_STRING = 0x13
IA5_STRING = 0x16
SEQUENCE = 0x30
SET = 0x31
CONTEXT_0_PRIMITIVE = 0x80
CONTEXT_0 = 0xA0
CONTEXT_1 = 0xA1
CONTEXT_2 = 0xA2
CONTEXT_3 = 0xA3


class Element(NamedTuple):
    """One tag-length-value; `raw` has all three."""

    tag: int
    content: bytes
    raw: bytes


def elements(data: bytes) -> list[Element]:
    """The elements that `data` is made of, side by side. Raises CmsError(ENCODING).

    Only for data that came out of `ber.normalise`, which has bounded their number.
    """
    found = []
    position, end = 0, len(data)
    while position < end:
        start = position
        if end - position < 2:
            raise CmsError(CmsProblem.ENCODING, "an early end")
        tag, length = data[position], data[position + 1]
        position += 2
        if length >= 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[position : position + size], "big")
            position += size
        content = data[position : position + length]
        position += length
        if position > end:
            raise CmsError(CmsProblem.ENCODING, "a length beyond the end")
        found.append(Element(tag, content, data[start:position]))
    return found


class Fields:
    """The fields of a SEQUENCE in their order. Every method raises CmsError(STRUCTURE) and names the structure."""

    __slots__ = ("_left", "_name")

    def __init__(self, content: bytes, name: str) -> None:
        self._left = elements(content)[::-1]
        self._name = name

    def take(self, *tags: int) -> Element:
        """The next field, which has to be there with one of these tags."""
        if not self._left or self._left[-1].tag not in tags:
            raise CmsError(CmsProblem.STRUCTURE, f"{self._name}: a field is missing or of another type")
        return self._left.pop()

    def maybe(self, *tags: int) -> Element | None:
        if self._left and self._left[-1].tag in tags:
            return self._left.pop()
        return None

    def end(self) -> None:
        if self._left:
            raise CmsError(CmsProblem.STRUCTURE, f"{self._name}: there are more fields than it has")


def fields(data: bytes, name: str) -> Fields:
    """The fields of the one SEQUENCE that `data` is."""
    outer = Fields(data, name)
    inner = Fields(outer.take(SEQUENCE).content, name)
    outer.end()
    return inner


def tlv(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return bytes((tag,)) + encode_length(len(content)) + content


def sequence(*parts: bytes) -> bytes:
    return tlv(SEQUENCE, *parts)


def set_of(parts: Iterable[bytes], *, tag: int = SET) -> bytes:
    """In DER order (X.690 §11.6)."""
    return tlv(tag, *sorted(parts))


def integer(value: int) -> bytes:
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def read_integer(content: bytes) -> int:
    return int.from_bytes(content, "big", signed=True)


def oid(dotted: str) -> bytes:
    """The OBJECT IDENTIFIER element; compare these, not text."""
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray()
    for arc in (first * 40 + second, *rest):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(arc & 0x7F | 0x80)
        content += bytes(septets[::-1])
    return tlv(OBJECT_IDENTIFIER, bytes(content))


def dotted(element: bytes) -> str:
    """The text of an OBJECT IDENTIFIER element, for error messages; hexadecimal where it is not a well-formed one."""
    content = elements(element)[0].content
    if not content or content[-1] & 0x80 or len(content) > 64:
        return content[:64].hex() or "(empty)"
    arcs, arc = [], 0
    for octet in content:
        arc = arc << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(arc)
            arc = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - first * 40, *arcs[1:])))
