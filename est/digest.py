"""HTTP Digest (RFC 7616), as EST uses it over TLS (RFC 7030 §3.2.3). Pure but for the memory of what was used.

Law of this file: a nonce says by itself when it was made and for which endpoint, under a MAC, so every worker of every node takes it;
what was answered with it is remembered in each process, and where that cannot be any more, older nonces are stale. A header that a
well-written client would not send is refused as a whole. TLS carries all of it: Digest is here for clients that have nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from urllib.parse import urlsplit

from pki.clock import Micros, after
from pki.reasons import Reason, Rejection
from pki.strict import StrictError, base64url, from_base64url

FRESH = timedelta(minutes=5)
_AHEAD = timedelta(minutes=5)  # a node's clock may be ahead of ours by so much
_REMEMBERED = 65536  # answers, some 20 MB
_STAMP, _RANDOM, _MAC = 8, 8, 16  # octets of a nonce; libest keeps 64 characters of it at most

_PARAMETER = re.compile(
    r"""[ \t]*(?P<name>[!#$%&'+.^_`|~0-9A-Za-z-]+)(?P<extended>\*?)[ \t]*=[ \t]*"""
    r"""(?:"(?P<quoted>[^"\\\x00-\x1f\x7f]*)"|(?P<token>[!#$%&'*+.^_`|~0-9A-Za-z-]+))[ \t]*(?P<end>,|$)"""
)
_HEX = re.compile(r"[0-9a-f]+")
_COUNT = re.compile(r"[0-9a-fA-F]{8}")
_REQUIRED = ("username", "realm", "nonce", "uri", "response", "qop", "nc", "cnonce")


@dataclass(frozen=True, slots=True)
class DigestAnswer:
    """An Authorization header. `algorithm` is one that is served; `response` is lower-case hex of its length."""

    user: str
    realm: str
    nonce: str
    uri: str
    algorithm: str
    cnonce: str
    count: str  # as sent: it is hashed as it is written
    response: str = field(repr=False)


# RFC 7616 §3.3: without `algorithm` it is MD5, which is all that libest and BouncyCastle know.
ALGORITHMS: Mapping[str, Callable[[bytes], str]] = MappingProxyType(
    {
        "MD5": lambda octets: hashlib.md5(octets, usedforsecurity=False).hexdigest(),
        "SHA-256": lambda octets: hashlib.sha256(octets).hexdigest(),
    }
)
_LENGTH = {"MD5": 32, "SHA-256": 64}


def parse_digest(header: str) -> DigestAnswer:
    """What follows the scheme in an Authorization header (RFC 7616 §3.4). Raises Rejection(UNAUTHENTICATED), always the same."""
    given = _parameters(header)
    if any(name not in given for name in _REQUIRED) or given.get("userhash", "false").lower() != "false":
        raise malformed()
    algorithm = given.get("algorithm", "MD5").upper()
    if algorithm not in ALGORITHMS or given["qop"] != "auth" or not _COUNT.fullmatch(given["nc"]):
        raise malformed()
    response = given["response"].lower()
    if not _HEX.fullmatch(response) or len(response) != _LENGTH[algorithm]:
        raise malformed()
    return DigestAnswer(
        user=given["username"],
        realm=given["realm"],
        nonce=given["nonce"],
        uri=given["uri"],
        algorithm=algorithm,
        cnonce=given["cnonce"],
        count=given["nc"],
        response=response,
    )


def _parameters(text: str) -> dict[str, str]:
    """auth-params, each once, by their names in lower case. No quoted-pairs (nothing that we send needs one), no `username*`."""
    found: dict[str, str] = {}
    place = 0
    while True:
        match = _PARAMETER.match(text, place)
        if match is None or match["extended"]:
            raise malformed()
        name = match["name"].lower()
        if name in found:
            raise malformed()
        found[name] = match["token"] if match["quoted"] is None else match["quoted"]
        if not match["end"]:
            return found
        place = match.end()


def response(answer: DigestAnswer, *, method: str, secret: str) -> str:
    """What the answer has to be (RFC 7616 §3.4.1). `secret` is H(user:realm:password) by the algorithm of the answer."""
    h = ALGORITHMS[answer.algorithm]
    asked = h(f"{method}:{answer.uri}".encode("utf-8", "surrogateescape"))
    text = f"{secret}:{answer.nonce}:{answer.count}:{answer.cnonce}:auth:{asked}"
    return h(text.encode("utf-8", "surrogateescape"))


def is_right(answer: DigestAnswer, *, method: str, secret: str) -> bool:
    return hmac.compare_digest(response(answer, method=method, secret=secret).encode(), answer.response.encode())


def same_target(uri: str, target: str) -> bool:
    """RFC 7616 §3.4.6: the URI that was answered for is the one requested. Either may be in absolute form."""
    return _origin_form(uri) == _origin_form(target)


def _origin_form(target: str) -> str:
    if target.startswith("/"):
        return target
    try:
        parts = urlsplit(target)
    except ValueError:
        return target
    if parts.scheme.lower() not in {"http", "https"}:
        return target
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def malformed() -> Rejection:
    return Rejection(Reason.UNAUTHENTICATED, "this is no answer to a Digest challenge of this server (RFC 7616)")


class StaleNonce(Rejection):
    """The answer may have been right: the client is to answer a newer challenge, and its user is not asked again."""

    def __init__(self) -> None:
        super().__init__(Reason.UNAUTHENTICATED, "this Digest challenge is too old, or was answered before; answer the new one")


class Nonces:
    """`keys` are the server's sealing keys: the first makes nonces, all of them check. `remembered` is how many answers."""

    def __init__(
        self,
        keys: Sequence[bytes],
        *,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        remembered: int = _REMEMBERED,
    ) -> None:
        self._remembered = remembered
        self._keys = [hmac.digest(key, b"certwright digest nonce key", "sha256") for key in keys]
        self._random_bytes = random_bytes
        self._used: set[tuple[str, str]] = set()
        self._order: deque[tuple[Micros, tuple[str, str]]] = deque()
        self._not_before = Micros(0)

    def new(self, endpoint: str, now: Micros) -> str:
        content = now.to_bytes(_STAMP, "big") + self._random_bytes(_RANDOM)
        return base64url(content + _mac(self._keys[0], endpoint, content))

    def check(self, nonce: str, endpoint: str, now: Micros) -> None:
        """Raises StaleNonce, also for what is no nonce of this server: one of before its keys were changed looks like that."""
        made_at = self._made_at(nonce, endpoint)
        if made_at is None or not after(now, -FRESH) <= made_at <= after(now, _AHEAD) or made_at < self._not_before:
            raise StaleNonce

    def use(self, answer: DigestAnswer, now: Micros) -> None:
        """To be called when the answer was right. Each nonce and count are used once (§3.4: nc is there to detect replays).

        Raises StaleNonce.
        """
        while self._order and self._order[0][0] < after(now, -FRESH - _AHEAD):
            self._used.discard(self._order.popleft()[1])
        if len(self._used) >= self._remembered:
            self._used.clear()
            self._order.clear()
            self._not_before = now
            raise StaleNonce
        use = (answer.nonce, answer.count.lower())
        if use in self._used:
            raise StaleNonce
        self._used.add(use)
        self._order.append((now, use))

    def _made_at(self, nonce: str, endpoint: str) -> Micros | None:
        try:
            octets = from_base64url(nonce)
        except StrictError:
            return None
        content, mac = octets[:-_MAC], octets[-_MAC:]
        if len(content) != _STAMP + _RANDOM or not any(
            hmac.compare_digest(_mac(k, endpoint, content), mac) for k in self._keys
        ):
            return None
        return Micros(int.from_bytes(content[:_STAMP], "big"))


def _mac(key: bytes, endpoint: str, content: bytes) -> bytes:
    return hmac.digest(key, endpoint.encode() + b"\0" + content, "sha256")[:_MAC]


def challenges(*, realm: str, nonce: str, stale: bool) -> tuple[str, ...]:
    """The WWW-Authenticate values. The first has no `algorithm`, for BouncyCastle fails on a bare `algorithm=MD5` and libest
    on any other; both look at the first alone.
    """
    common = f'Digest realm="{realm}", nonce="{nonce}", qop="auth"' + (", stale=true" if stale else "")
    return (common, f"{common}, algorithm=SHA-256")
