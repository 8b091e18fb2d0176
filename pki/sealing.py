"""Secrets that have to be read back, sealed for the database: AES-256-GCM by keys that are in a file, not in the database. Pure.

A box is key id (8) | nonce (12) | sealed text | tag (16). The context (what the secret is, and whose) is authenticated with it,
so a box that is moved to another row does not open there. The first key seals, all of them open: that is how keys are rotated.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_OCTETS = 32

_LINE = re.compile(r"[0-9a-f]{64}")
_ID, _NONCE, _TAG = 8, 12, 16


class SealError(Exception):
    """A box that none of the keys opens: another key file, another row, or not a box. Says nothing of the content."""


class Sealer:
    def __init__(self, keys: Sequence[bytes], *, random: Callable[[int], bytes] = secrets.token_bytes) -> None:
        """Raises ValueError when there is no key, or one of the wrong length."""
        if not keys or any(len(key) != KEY_OCTETS for key in keys):
            message = f"sealing takes one key or more, of {KEY_OCTETS} octets"
            raise ValueError(message)
        self._boxes = {_key_id(key): AESGCM(key) for key in keys}
        self._first = _key_id(keys[0])
        self._random = random

    def seal(self, secret: bytes, *, context: str) -> bytes:
        nonce = self._random(_NONCE)
        return self._first + nonce + self._boxes[self._first].encrypt(nonce, secret, context.encode())

    def open(self, box: bytes, *, context: str) -> bytes:
        """Raises SealError."""
        key = self._boxes.get(box[:_ID])
        if key is None or len(box) < _ID + _NONCE + _TAG:
            raise SealError(f"sealed by a key that is not in secrets_key_file (its id is {box[:_ID].hex()})")
        try:
            return key.decrypt(box[_ID : _ID + _NONCE], box[_ID + _NONCE :], context.encode())
        except InvalidTag:
            raise SealError(f"not what was sealed as {context}") from None


def parse_keys(text: bytes) -> tuple[bytes, ...]:
    """The content of a `secrets_key_file`: one key a line, in 64 lower-case hex digits. Raises ValueError; it repeats nothing."""
    lines = [line.strip() for line in text.decode("ascii", "replace").splitlines() if line.strip()]
    if not lines or not all(map(_LINE.fullmatch, lines)):
        message = "it holds no key: one a line, each of 64 lower-case hex digits"
        raise ValueError(message)
    return tuple(map(bytes.fromhex, lines))


def new_key(*, random: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """A line for the file."""
    return random(KEY_OCTETS).hex().encode("ascii") + b"\n"


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"certwright sealing key\0" + key).digest()[:_ID]
