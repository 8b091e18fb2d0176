"""The fields of CMS structures, read one by one and written; `pki.der` cuts and encodes the elements.

`cryptography.hazmat.asn1` refuses sets that are not in DER order, which devices send and sign; asn1crypto costs more than the
RSA operation beside it. The structures here are few and flat, so these few lines do.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from pki.cms.ber import MAX_ELEMENTS
from pki.cms.errors import CmsError, CmsProblem
from pki.der import (
    INTEGER,
    NULL,
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    PRINTABLE_STRING,
    SEQUENCE,
    SET,
    UTF8_STRING,
    DerError,
    Element,
    children,
    encode,
)
from pki.der import oid as dotted_oid

CONTEXT_0_PRIMITIVE = 0x80
CONTEXT_0 = 0xA0
CONTEXT_1 = 0xA1
CONTEXT_2 = 0xA2
CONTEXT_3 = 0xA3


def elements(data: bytes) -> list[Element]:
    """The elements that `data` is made of, side by side. Raises CmsError(ENCODING, TOO_LARGE)."""
    try:
        found = list(islice(children(data), MAX_ELEMENTS + 1))
    except DerError as error:
        raise CmsError(CmsProblem.ENCODING, f"the message cannot be read: {error}") from error
    if len(found) > MAX_ELEMENTS:
        raise CmsError(CmsProblem.TOO_LARGE, f"the message has more than {MAX_ELEMENTS} elements in one place")
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
        """The next field, if it has one of these tags."""
        if self._left and self._left[-1].tag in tags:
            return self._left.pop()
        return None

    def end(self) -> None:
        if self._left:
            raise CmsError(CmsProblem.STRUCTURE, f"{self._name}: there are more fields than it has")


def only(data: bytes, tag: int, name: str) -> Element:
    """The one element that `data` is."""
    outer = Fields(data, name)
    element = outer.take(tag)
    outer.end()
    return element


def tlv(tag: int, *parts: bytes) -> bytes:
    return encode(tag, b"".join(parts))


def sequence(*parts: bytes) -> bytes:
    return tlv(SEQUENCE, *parts)


def set_of(parts: Iterable[bytes], *, tag: int = SET) -> bytes:
    """In DER order (X.690 §11.6)."""
    return tlv(tag, *sorted(parts))


def integer(value: int) -> bytes:
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def read_integer(content: bytes) -> int:
    return int.from_bytes(content, "big", signed=True)


def octet_string(content: bytes) -> bytes:
    return tlv(OCTET_STRING, content)


def printable_string(text: str) -> bytes:
    return tlv(PRINTABLE_STRING, text.encode("ascii"))


def utf8_string(text: str) -> bytes:
    return tlv(UTF8_STRING, text.encode())


def null() -> bytes:
    return tlv(NULL)


def oid(dotted: str) -> bytes:
    """The OBJECT IDENTIFIER element. Elements are compared, not texts."""
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray()
    for arc in (first * 40 + second, *rest):
        octets = [arc & 0x7F]
        left = arc >> 7
        while left:
            octets.append(left & 0x7F | 0x80)
            left >>= 7
        content += bytes(octets[::-1])
    return tlv(OBJECT_IDENTIFIER, bytes(content))


def dotted(element: bytes) -> str:
    """The text of an OBJECT IDENTIFIER element, for error messages."""
    try:
        return dotted_oid(elements(element)[0])
    except DerError:
        return "(malformed)"
