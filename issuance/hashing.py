"""How a secret is stored and compared: by SHA-256 where it is one of ours (256 random bits), else by scrypt.

Law of this file: how long a check takes depends on what was presented, never on what is stored. scrypt runs once for a stranger, too;
the cache only spares a repeated one. Its price, and the few that run at a time, slow whoever guesses; only so many of each kind wait
for their turn, and more than those are told to come again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pki.reasons import Reason, Rejection, Unavailable

API_KEY = re.compile(r"cw_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
EST_TOKEN = re.compile(r"cwe_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
GENERATED = re.compile(r"cws_[A-Za-z0-9_-]{43}")  # made by `generate_secret`
_CURRENT = re.compile(r"scrypt:(\d+:\d+:\d+):([0-9a-f]+):[0-9a-f]+")
_PASSWORD = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,1024}")

_N, _R, _P = 2**14, 8, 1  # 16 MiB and some 40 ms a check
_SALT = 16  # octets
_SCRYPT_AT_A_TIME = 2  # 32 MiB at most, and the event loop keeps a core
SCRYPT_QUEUE = 100  # 2 seconds' worth
_CACHED = 1024
# What is compared with where nothing is stored.
_NO_HASH = "sha256:" + "0" * 64
_NO_SCRYPT = f"scrypt:{_N}:{_R}:{_P}:{'00' * _SALT}:{'00' * 32}"


def generate_secret(*, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """A password or challenge of 256 random bits, recognisable as ours and therefore cheap to check."""
    return f"cws_{new_token(random_bytes)}"


def new_token(random_bytes: Callable[[int], bytes]) -> str:
    """256 random bits in Base64url, 43 characters."""
    return urlsafe_b64encode(random_bytes(32)).rstrip(b"=").decode("ascii")


@dataclass(slots=True)
class _Successes:
    """Password checks that succeeded lately, each under an HMAC over the stored text and what was presented."""

    key: bytes = field(repr=False)
    _seen: OrderedDict[bytes, None] = field(default_factory=OrderedDict, repr=False)

    def _entry(self, stored: str, presented: str) -> bytes:
        message = stored.encode() + b"\0" + _octets(presented)  # a stored text holds no zero octet
        return hmac.digest(self.key, message, "sha256")

    def has(self, stored: str, presented: str) -> bool:
        entry = self._entry(stored, presented)
        if entry not in self._seen:
            return False
        self._seen.move_to_end(entry)
        return True

    def add(self, stored: str, presented: str) -> None:
        self._seen[self._entry(stored, presented)] = None
        if len(self._seen) > _CACHED:
            self._seen.popitem(last=False)


class Hashing:
    """Of one process. `random_bytes` gives salts and the key of its cache; `queue` is how many of a kind may be at scrypt or wait for it."""

    def __init__(self, *, random_bytes: Callable[[int], bytes], queue: int = SCRYPT_QUEUE) -> None:
        self._random_bytes = random_bytes
        self._successes = _Successes(random_bytes(32))
        self._scrypt_slots = asyncio.Semaphore(_SCRYPT_AT_A_TIME)
        self._queue = queue
        self._at_it: Counter[str] = Counter()  # by kind

    async def which(self, kind: str, stored: Sequence[str], presented: str) -> int | None:
        """The place of the first that it is, None for none. Every one is looked at. Raises Unavailable."""
        if is_generated(presented):
            return _first([_matches_sha256(each, presented) for each in stored or (_NO_HASH,)])
        if (known := _first([self._successes.has(each, presented) for each in stored])) is not None:
            return known
        if self._at_it[kind] >= self._queue:
            raise Unavailable("password checks: too many at once", retry_after=2)
        self._at_it[kind] += 1
        try:
            async with self._scrypt_slots:
                same = await asyncio.to_thread(_which_scrypt, stored, presented)
        finally:
            self._at_it[kind] -= 1
        if same is not None:
            self._successes.add(stored[same], presented)
        return same

    async def stored(self, secret: str, *, beside: Sequence[str] = ()) -> str:
        """The text to keep instead of the secret; with the salt of one `beside`, where there is a current one.

        Raises Rejection(MALFORMED).
        """
        if not _PASSWORD.fullmatch(secret):
            raise Rejection(Reason.MALFORMED, "a password has 1 to 1024 characters, without control characters")
        if is_generated(secret):
            return sha256(secret)
        salt = _shared_salt(beside) or self._random_bytes(_SALT)
        async with self._scrypt_slots:
            digest = await asyncio.to_thread(_scrypt, secret, salt, _N, _R, _P)
        return f"scrypt:{_N}:{_R}:{_P}:{salt.hex()}:{digest.hex()}"


def _shared_salt(beside: Sequence[str]) -> bytes | None:
    for text in beside:
        current = _CURRENT.fullmatch(text)
        if current is not None and current[1] == f"{_N}:{_R}:{_P}":
            return bytes.fromhex(current[2])
    return None


def _octets(presented: str) -> bytes:
    return presented.encode("utf-8", "surrogatepass")  # total: what no stored secret can be is simply not equal


def is_generated(presented: str) -> bool:
    return any(form.fullmatch(presented) is not None for form in (API_KEY, EST_TOKEN, GENERATED))


def sha256(secret: str) -> str:
    return f"sha256:{hashlib.sha256(_octets(secret)).hexdigest()}"


def _matches_sha256(stored: str, presented: str) -> bool:
    return hmac.compare_digest(stored.encode(), sha256(presented).encode())


def _scrypt(secret: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(_octets(secret), salt=salt, n=n, r=r, p=p, maxmem=256 * r * n, dklen=32)


def _which_scrypt(stored: Sequence[str], presented: str, *, compute: Callable[[str, str], bytes] | None = None) -> int | None:
    """The place of the first that it is. One computation for each salt, and one where there is nothing to compare with."""
    compute = compute or _scrypt_with
    # A row of sha256 costs the same and fails: what is not of our shape is not one of our secrets.
    salted = [text for text in stored if text.startswith("scrypt:")] or [_NO_SCRYPT]
    computed = {terms: compute(terms, presented) for terms in {text.rpartition(":")[0] for text in salted}}
    return _first([_is_digest(computed, text) for text in stored])


def _scrypt_with(terms: str, presented: str) -> bytes:
    _, n, r, p, salt = terms.split(":")
    return _scrypt(presented, bytes.fromhex(salt), int(n), int(r), int(p))


def _is_digest(computed: Mapping[str, bytes], text: str) -> bool:
    terms, _, digest = text.rpartition(":")
    return terms in computed and hmac.compare_digest(computed[terms], bytes.fromhex(digest))


def _first(same: Sequence[bool]) -> int | None:
    return same.index(True) if any(same) else None
