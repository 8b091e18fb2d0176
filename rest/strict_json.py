"""JSON with one reading only (RFC 8259, I-JSON RFC 7493): UTF-8, no duplicate members, no NaN, no abyss. Pure."""

from __future__ import annotations

import json
import re
from typing import NoReturn

from pki.identifiers import shown
from pki.reasons import Reason, Rejection

MAX_DEPTH = 32
# A string (also one that never ends, or every quote in it would begin a scan to the end) or a bracket.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def parse_object(body: bytes) -> dict[str, object]:
    """A body that must be one JSON object. Raises Rejection(MALFORMED)."""
    try:
        text = body.decode("utf-8")
        _check_depth(text)
        value: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise _refused("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _refused(f"{error.msg} (line {error.lineno}, column {error.colno})") from None
    except ValueError:  # an integer of more digits than Python converts
        raise _refused("a number is too long") from None
    if not isinstance(value, dict):
        raise _refused("it must be an object, {...}")
    if "\\u" in text:  # only an escape can bring half a character, and nothing below could store one
        _check_encodable(value)
    return value


def _check_encodable(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise _refused("it holds half of a surrogate pair") from None


def _check_depth(text: str) -> None:
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            raise _refused(f"it is nested deeper than {MAX_DEPTH} levels")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members:
            raise _refused(f"the member {shown(name)} is there twice")
        members[name] = value
    return members


def _no_constant(name: str) -> NoReturn:
    raise _refused(f"{name} is no JSON number")


def _refused(why: str) -> Rejection:
    return Rejection(Reason.MALFORMED, f"the JSON body is refused: {why}")
