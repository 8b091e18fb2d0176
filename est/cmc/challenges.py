"""What we give a client and know again when it comes back, without keeping any of it (RFC 5272 §6.6, §6.7). Pure.

A nonce of ours carries a MAC over the transaction that it was made for. The value that a client has to decrypt, to show that it has
the key that it asks a certificate for, is a MAC over its request and the hour. The keys are made from those that seal the secrets in
the database: the same on all nodes, and changed as they are: the first makes, all of them know.
"""

from __future__ import annotations

import enum
import hmac
from collections.abc import Callable, Sequence

from pki.clock import Clock

_RANDOM, _MAC = 16, 16  # octets of a nonce
_SLOT = 3600  # seconds: an answer counts in the hour of its challenge and in the next one
_KNOWN = 24  # slots after which an answer is merely wrong, and no more late


class Timely(enum.Enum):
    YES = enum.auto()
    LATE = enum.auto()
    NEVER = enum.auto()


class Challenges:
    def __init__(self, keys: Sequence[bytes], *, clock: Clock, random_bytes: Callable[[int], bytes]) -> None:
        self._keys = [hmac.digest(key, b"certwright cmc challenges", "sha256") for key in keys]
        self._clock = clock
        self._random_bytes = random_bytes

    def nonce(self, context: Sequence[str]) -> bytes:
        """A fresh senderNonce; `context` is what it was made for: label and transaction."""
        random = self._random_bytes(_RANDOM)
        return random + _nonce_mac(self._keys[0], random, context)

    def made(self, nonce: bytes, context: Sequence[str]) -> bool:
        """Whether `nonce` is one of ours, made for this."""
        random, mac = nonce[:_RANDOM], nonce[_RANDOM:]
        return any(hmac.compare_digest(mac, _nonce_mac(key, random, context)) for key in self._keys)

    def proof_value(self, request: bytes, context: Sequence[str]) -> bytes:
        """The POP Proof Value (§6.7): 32 octets that only who has the request's key can read in our response."""
        return _proof_value(self._keys[0], request, context, self._slot())

    def answered(self, right: Callable[[bytes], bool], request: bytes, context: Sequence[str]) -> Timely:
        """Whether an answer is `right` for a value that we would have given for this request lately."""
        now = self._slot()
        for age in range(_KNOWN):
            if any(right(_proof_value(key, request, context, now - age)) for key in self._keys):
                return Timely.YES if age < 2 else Timely.LATE
        return Timely.NEVER

    def _slot(self) -> int:
        return self._clock.micros() // (_SLOT * 1_000_000)


def _nonce_mac(key: bytes, random: bytes, context: Sequence[str]) -> bytes:
    return _mac(key, b"nonce", random, *(text.encode() for text in context))[:_MAC]


def _proof_value(key: bytes, request: bytes, context: Sequence[str], slot: int) -> bytes:
    return _mac(key, b"proof", request, str(slot).encode(), *(text.encode() for text in context))


def _mac(key: bytes, *parts: bytes) -> bytes:
    """Over parts whose ends cannot be shifted."""
    return hmac.digest(key, b"".join(len(part).to_bytes(8, "big") + part for part in parts), "sha256")
