"""Bytes from strangers: JSON and base64url with one spelling for each value. Pure; a value or `ValueError`, nothing else.

Python's own `json` takes duplicate members (the last wins, and two readers of one text then disagree), NaN, lone surrogates
and any depth; its `base64` takes padding, white space and set bits past the end. None of it is taken here.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any, NoReturn

MAX_DEPTH = 32

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
# A string (also one that never ends, so that the scan stays linear) or a bracket.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def base64url(data: bytes) -> str:
    """Without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """The inverse, for its exact outputs only. Raises ValueError."""
    if _BASE64URL.fullmatch(text) is None or len(text) % 4 == 1:
        raise ValueError("not unpadded base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64url(data) != text:
        raise ValueError("base64url with bits set past its end")
    return data


def parse_json(data: bytes) -> Any:
    """One JSON text (RFC 8259) in UTF-8, at most 32 levels deep, no member twice. Raises ValueError."""
    _check_depth(data)
    value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    if b"\\u" in data:  # only an escape can bring a lone surrogate, and nothing below could store one
        json.dumps(value, ensure_ascii=False).encode("utf-8")
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
                raise ValueError(f"more than {MAX_DEPTH} levels deep")
        elif token in (b"]", b"}"):
            depth -= 1


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member appears twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
