"""Bytes from strangers: JSON and base64url with one spelling for each value. Pure; a value or `StrictError`, nothing else.

Python's own `json` takes duplicate members (the last wins, and two readers of one text then disagree), NaN, lone surrogates
and any depth; its `base64` takes padding, white space and set bits past the end. None of it is taken here (RFC 8259, RFC 7493).
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any, NoReturn

from pki.identifiers import shown

MAX_DEPTH = 32

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
# What the last character may be, by how many there are beyond fours: of two only 2 of its 6 bits count, of three 4.
_LAST = {0: frozenset(_ALPHABET), 2: frozenset(_ALPHABET[::16]), 3: frozenset(_ALPHABET[::4])}
# A string (also one that never ends, so that the scan stays linear) or a bracket.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


class StrictError(ValueError):
    """What is wrong with the bytes, in words that may be shown."""


def base64url(data: bytes) -> str:
    """Without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """The inverse, for its exact outputs only. Raises StrictError."""
    if _BASE64URL.fullmatch(text) is None or len(text) % 4 == 1:
        raise StrictError("it is not unpadded base64url")
    if text and text[-1] not in _LAST[len(text) % 4]:
        raise StrictError("it is base64url with bits set past its end")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def parse_json(data: bytes) -> Any:
    """One JSON text in UTF-8, at most 32 levels deep, no member twice. Raises StrictError."""
    _check_depth(data)
    try:
        value = _DECODER.decode(data.decode("utf-8"))
        if b"\\u" in data:  # only an escape can bring a lone surrogate, and nothing below could store one
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except StrictError:
        raise
    except UnicodeDecodeError:
        raise StrictError("it is not UTF-8") from None
    except UnicodeEncodeError:
        raise StrictError("it holds half of a surrogate pair") from None
    except json.JSONDecodeError as error:
        raise StrictError(f"{error.msg} (line {error.lineno}, column {error.colno})") from None
    except ValueError:  # an integer of more digits than Python converts
        raise StrictError("a number in it is too long") from None
    return value


def _check_depth(data: bytes) -> None:
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(data):
        token = match.group()
        if token in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise StrictError(f"it is nested deeper than {MAX_DEPTH} levels")
        elif token in (b"]", b"}"):
            depth -= 1


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise StrictError(f"the member {shown(name)} is there twice")
        seen.add(name)
    raise AssertionError("fewer members than pairs, and none twice")


def _no_constant(name: str) -> NoReturn:
    raise StrictError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
