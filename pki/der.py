"""A reader of DER elements that never recurses and never raises anything but `DerError`.

For the few structures that we must read leniently (PKCS#10 from devices) or cut byte-exactly (issuer names, TBS bytes).
Lengths are definite and in bounds; whether sets are sorted is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
UTF8_STRING = 0x0C
PRINTABLE_STRING = 0x13
T61_STRING = 0x14
IA5_STRING = 0x16
UNIVERSAL_STRING = 0x1C
BMP_STRING = 0x1E
SEQUENCE = 0x30
SET = 0x31

# What each directory string's octets mean. T61 is read as Latin-1, as every reader of certificates does.
_TEXT = {
    UTF8_STRING: "utf-8",
    PRINTABLE_STRING: "ascii",
    IA5_STRING: "ascii",
    T61_STRING: "latin-1",
    BMP_STRING: "utf-16-be",
    UNIVERSAL_STRING: "utf-32-be",
}


class DerError(ValueError):
    """The bytes are not the DER that was expected here; the text says where and why, without any of the bytes."""


@dataclass(frozen=True, slots=True)
class Element:
    """One tag-length-value: `raw` is all of it, `content` the value."""

    tag: int
    raw: bytes
    content: bytes


def read(data: bytes, at: int = 0) -> tuple[Element, int]:
    """The element that begins at `at`, and the position after it. High tag numbers are refused: nothing of ours has one."""
    try:
        tag, length = data[at], data[at + 1]
    except IndexError:
        raise DerError("it ends in the middle of an element") from None
    if tag & 0x1F == 0x1F:
        raise DerError("it has a tag that nothing here uses")
    start = at + 2
    if length >= 0x80:
        octets = length & 0x7F
        if octets == 0 or octets > 4:
            raise DerError("it has a length that DER does not allow")
        length = int.from_bytes(data[start : start + octets], "big")
        start += octets
        if length < 0x80 or length < 1 << (8 * (octets - 1)):
            raise DerError("it has a length that is not in its shortest form")
    end = start + length
    if end > len(data):
        raise DerError("it ends in the middle of an element")
    return Element(tag, data[at:end], data[start:end]), end


def whole(data: bytes, tag: int) -> Element:
    """The one element that `data` is, with nothing behind it."""
    element, end = read(data)
    if end != len(data):
        raise DerError("there are bytes behind its end")
    return expect(element, tag)


def expect(element: Element, tag: int) -> Element:
    if element.tag != tag:
        raise DerError(f"it has tag {element.tag:#04x} where {tag:#04x} belongs")
    return element


def children(content: bytes) -> Iterator[Element]:
    """The elements that `content` is made of, in the order in which they stand."""
    at = 0
    while at < len(content):
        element, at = read(content, at)
        yield element


def take(content: bytes, *tags: int) -> list[Element]:
    """Exactly these elements, in this order, and none else."""
    found = list(children(content))
    if len(found) != len(tags):
        raise DerError(f"it has {len(found)} parts where {len(tags)} belong")
    return [expect(element, tag) for element, tag in zip(found, tags, strict=True)]


def oid(element: Element) -> str:
    """Dotted text of an OBJECT IDENTIFIER."""
    content = expect(element, OBJECT_IDENTIFIER).content
    if not content or len(content) > 64 or content[-1] & 0x80:
        raise DerError("it has an object identifier that is none")
    arcs: list[int] = []
    value = 0
    for octet in content:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, [first, arcs[0] - 40 * first, *arcs[1:]]))


def text(element: Element) -> str:
    """A directory string (RFC 5280 §4.1.2.4) or IA5String."""
    encoding = _TEXT.get(element.tag)
    if encoding is None:
        raise DerError(f"it has tag {element.tag:#04x} where a character string belongs")
    try:
        return element.content.decode(encoding)
    except UnicodeDecodeError:
        raise DerError("it has a character string with characters that its type does not have") from None


def bits(element: Element) -> bytes:
    """The octets of a BIT STRING without unused bits."""
    content = expect(element, BIT_STRING).content
    if not content or content[0] != 0:
        raise DerError("it has a bit string that is no whole number of octets")
    return content[1:]


def encode(tag: int, content: bytes) -> bytes:
    """One element, length in its shortest form."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    octets = (size.bit_length() + 7) // 8
    return bytes((tag, 0x80 | octets)) + size.to_bytes(octets, "big") + content
