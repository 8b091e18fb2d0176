"""Distinguished names as people write them (RFC 4514) and as requests hold them (RFC 5280 §4.1.2.4), to be compared. Pure.

Law of this file: what counts is which attributes there are with which text. The type of a character string is the encoder's choice;
the order is turned around between the two forms, and by people besides, so it does not count either. Letter case does.
"""

from __future__ import annotations

import re
import unicodedata

from pki import der
from pki.identifiers import shown
from pki.reasons import Reason, Rejection

Subject = tuple[tuple[str, str], ...]  # (object identifier, value), sorted

MAX_TEXT = 1024  # characters

_NAMES = {
    "CN": "2.5.4.3",
    "SN": "2.5.4.4",
    "SERIALNUMBER": "2.5.4.5",
    "C": "2.5.4.6",
    "L": "2.5.4.7",
    "ST": "2.5.4.8",
    "STREET": "2.5.4.9",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "TITLE": "2.5.4.12",
    "GN": "2.5.4.42",
    "UID": "0.9.2342.19200300.100.1.1",
    "DC": "0.9.2342.19200300.100.1.25",
    "EMAILADDRESS": "1.2.840.113549.1.9.1",
    "UNSTRUCTUREDNAME": "1.2.840.113549.1.9.2",  # Cisco's
    "UNSTRUCTUREDADDRESS": "1.2.840.113549.1.9.8",
}
_ALIASES = {"E": "EMAILADDRESS", "S": "ST", "T": "TITLE", "SURNAME": "SN", "GIVENNAME": "GN", "G": "GN"}
_SPELLED = {identifier: name for name, identifier in _NAMES.items()}

_ATTRIBUTE = re.compile(
    r"""\s*([A-Za-z][A-Za-z0-9-]*|[0-2](?:\.[0-9]{1,20}){1,30})\s*=\s*
    ((?!\#)(?:\\[0-9A-Fa-f]{2}|\\[ "\#+,;<=>\\]|[^\\"+,;<>\x00])*?)\s*(?:([,+])|$)""",
    re.VERBOSE,
)
_ESCAPED = re.compile(r"((?:\\[0-9A-Fa-f]{2})+)|\\(.)", re.DOTALL)
_SPECIAL = re.compile(r'^[ #]|["+,;<>\\]| $')


def parse_subject(text: str) -> Subject:
    """`CN=router7,O=Example` or the other way around; values as text. Raises Rejection(MALFORMED)."""
    if len(text) > MAX_TEXT:
        raise _unreadable(text, f"it is longer than {MAX_TEXT} characters")
    found, at, more = [], 0, bool(text.strip())
    while more:
        attribute = _ATTRIBUTE.match(text, at)
        if attribute is None:
            raise _unreadable(text, f"at {shown(text[at:])}")
        found.append((_identifier(text, attribute[1]), _value(text, attribute[2])))
        at, more = attribute.end(), attribute[3] is not None
    return tuple(sorted(found))


def read_subject(name: bytes) -> Subject:
    """Of a Name (DER) that a request was read with. A value that is no character string is one that nobody can write."""
    found = []
    for rdn in der.children(der.whole(name, der.SEQUENCE).content):
        for attribute in der.children(der.expect(rdn, der.SET).content):
            kind, value = der.children(der.expect(attribute, der.SEQUENCE).content)
            found.append((der.oid(kind), _text(value)))
    return tuple(sorted(found))


def subject_text(subject: Subject) -> str:
    """For people; `parse_subject` reads it again."""
    return ",".join(f"{_SPELLED.get(kind, kind)}={_escaped(value)}" for kind, value in subject)


def common_name(subject: Subject) -> str | None:
    return next((value for kind, value in subject if kind == _NAMES["CN"]), None)


def _text(value: der.Element) -> str:
    try:
        return unicodedata.normalize("NFC", der.text(value))
    except der.DerError:
        return f"\0{value.raw.hex()}"


def _identifier(text: str, name: str) -> str:
    if name[0].isdigit():
        return name
    known = _NAMES.get(_ALIASES.get(name.upper(), name.upper()))
    if known is None:
        raise _unreadable(text, f"there is no attribute {shown(name)}; known: {', '.join(_NAMES)}, and object identifiers")
    return known


def _value(text: str, written: str) -> str:
    try:
        value = _ESCAPED.sub(
            lambda found: bytes.fromhex(found[1].replace("\\", "")).decode() if found[1] else found[2], written
        )
    except UnicodeDecodeError:
        raise _unreadable(text, "its octets in hex are not UTF-8") from None
    if not value or any(unicodedata.category(character) in {"Cc", "Cs"} for character in value):
        raise _unreadable(text, "a value has at least one character, and no control characters")
    return unicodedata.normalize("NFC", value)


def _escaped(value: str) -> str:
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", value)


def _unreadable(text: str, why: str) -> Rejection:
    return Rejection(
        Reason.MALFORMED,
        f"{shown(text)} cannot be read as a subject: {why}",
        suggestions=["write it as RFC 4514 does: CN=router7,O=Example"],
    )
