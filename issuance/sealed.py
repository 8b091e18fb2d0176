"""Secrets that have to be read back: of CMC clients, and keys that the private keys made here are encrypted to.

Law of this file: at rest a secret is sealed (pki/sealing.py, docs/adr/0005), for its kind, endpoint and name, so a row that is moved
opens nothing. What is absent, disabled or past its time is one case, decided by the query. A secret of one endpoint, or of one
kind, is none of another.
"""

from __future__ import annotations

import enum
import json
import re
import secrets
from base64 import b32encode
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from issuance.names import CREDENTIAL_NAME, check_endpoint, prepared
from pki.clock import Clock, Micros
from pki.reasons import Reason, Rejection, Unavailable
from pki.sealing import Sealer, SealError
from storage.database import Conflict, Database, Row, Step

FIND_SQL = """
SELECT endpoint, name, secret, roles, profile FROM sealed_secret
WHERE kind = $1 AND endpoint = $2 AND name = $3 AND disabled_at IS NULL AND (expires_at IS NULL OR expires_at > $4)
"""
PUT_SQL = """
INSERT INTO sealed_secret (kind, endpoint, name, secret, roles, profile, created_at, expires_at, disabled_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, NULL)
ON CONFLICT (kind, endpoint, name) DO UPDATE SET secret = excluded.secret, roles = excluded.roles, profile = excluded.profile,
    created_at = excluded.created_at, expires_at = excluded.expires_at, disabled_at = NULL
"""
DISABLE_SQL = (
    "UPDATE sealed_secret SET disabled_at = $4 WHERE kind = $1 AND endpoint = $2 AND name = $3 AND disabled_at IS NULL"
)
FORGET_SQL = "DELETE FROM sealed_secret WHERE kind = $1 AND endpoint = $2 AND name = $3"
LIST_SQL = """
SELECT endpoint, name, roles, profile, created_at, expires_at, disabled_at FROM sealed_secret WHERE kind = $1
ORDER BY endpoint, name
"""

KEY_SIZES = (16, 24, 32)  # octets, of AES
KEY_ID_OCTETS = 64  # at most
SECRET_OCTETS = 16  # at least: a MAC under less could be guessed by whoever has seen one
_GENERATED_OCTETS = 20  # 32 letters and digits, without any that needs quoting
_SECRET = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,1024}")


class SealedKind(enum.Enum):
    """What a sealed secret is for. Closed."""

    CMC_SECRET = "cmc-secret"  # noqa: S105  # a kind, not a secret
    EST_KEY = "est-key"
    EST_DIGEST = "est-digest"


@dataclass(frozen=True, slots=True)
class SealedCredential:
    """A secret, opened, and whose it is. `id` names it in the audit and in principals."""

    id: str
    endpoint: str
    secret: bytes = field(repr=False)
    roles: frozenset[str]
    profile: str  # the default one, "" for the endpoint's


@dataclass(frozen=True, slots=True)
class SealedState:
    """As an operator sees it in a list. The secret is not in it."""

    endpoint: str
    name: str
    roles: frozenset[str]
    profile: str
    created_at: Micros
    expires_at: Micros | None
    disabled_at: Micros | None

    def opens(self, now: Micros) -> bool:
        return self.disabled_at is None and (self.expires_at is None or self.expires_at > now)


class SealedSecrets:
    """`sealer` is None without a secrets_key_file: then nothing is made, and what is in the database cannot be opened."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        sealer: Sealer | None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._sealer = sealer
        self._random_bytes = random_bytes

    # ------------------------------------------------------------------ what clients do

    async def cmc_secret(self, *, endpoint: str, identification: str) -> SealedCredential | None:
        """What goes with an identification (RFC 5272 §6.2). None when there is no such secret, or it is not valid any more."""
        name = prepared(identification)  # "" is nobody's, and looked for, so that it takes as long
        return await self._find(SealedKind.CMC_SECRET, endpoint, name if CREDENTIAL_NAME.fullmatch(name) else "")

    async def key_encryption_key(self, *, endpoint: str, key_id: bytes) -> SealedCredential | None:
        """An AES key of 16, 24 or 32 octets by what DecryptKeyIdentifier says (RFC 7030 §4.4.1.1)."""
        return await self._find(SealedKind.EST_KEY, endpoint, key_id.hex()) if len(key_id) <= KEY_ID_OCTETS else None

    async def _find(self, kind: SealedKind, endpoint: str, name: str) -> SealedCredential | None:
        row = await self._database.fetch_one(FIND_SQL, kind.value, endpoint, name, self._clock.micros())
        return None if row is None else _credential(row, self.opened(kind, endpoint, name, bytes(row["secret"])))

    def opened(self, kind: SealedKind, endpoint: str, name: str, box: bytes) -> bytes:
        """An operator's mistake with the file of keys is an outage: raises Unavailable, which says why in the log."""
        try:
            return self._keys().open(box, context=_context(kind, endpoint, name))
        except SealError as error:
            raise Unavailable(f"sealed secrets: {error}") from error

    def sealed(self, kind: SealedKind, endpoint: str, name: str, secret: bytes) -> bytes:
        """Raises Unavailable without a sealing key."""
        return self._keys().seal(secret, context=_context(kind, endpoint, name))

    def _keys(self) -> Sealer:
        if self._sealer is None:
            raise Unavailable("sealed secrets: there is no secrets_key_file in the configuration")
        return self._sealer

    # ------------------------------------------------------------------ what operators do

    async def set_cmc_secret(
        self,
        *,
        endpoint: str,
        identification: str,
        roles: Collection[str],
        profile: str,
        expires_at: Micros | None,
        secret: str | None = None,
    ) -> str:
        """The secret: a new one where none is given. The one before it ends. Raises Rejection(MALFORMED)."""
        name = prepared(identification)
        if not CREDENTIAL_NAME.fullmatch(name):
            raise Rejection(
                Reason.MALFORMED, "an identification has 1 to 128 characters, without colons and control characters"
            )
        check_endpoint(endpoint)
        text = self._new_secret() if secret is None else secret
        if not _SECRET.fullmatch(text) or len(text.encode()) < SECRET_OCTETS:
            raise Rejection(Reason.MALFORMED, f"a shared secret has {SECRET_OCTETS} octets or more, without control characters")
        await self._database.write(
            self.put_step(
                SealedKind.CMC_SECRET, endpoint, name, text.encode(), roles=roles, profile=profile, expires_at=expires_at
            )
        )
        return text

    async def set_key(self, *, endpoint: str, key_id: bytes, expires_at: Micros | None, key: bytes | None = None) -> bytes:
        """The key: a new one of 32 octets where none is given. The one before it ends. Raises Rejection(MALFORMED)."""
        check_endpoint(endpoint)
        if not 1 <= len(key_id) <= KEY_ID_OCTETS:
            raise Rejection(Reason.MALFORMED, f"a key's id has 1 to {KEY_ID_OCTETS} octets")
        octets = self._random_bytes(max(KEY_SIZES)) if key is None else key
        if len(octets) not in KEY_SIZES:
            raise Rejection(Reason.MALFORMED, f"a key has {', '.join(map(str, KEY_SIZES[:-1]))} or {KEY_SIZES[-1]} octets")
        await self._database.write(self.put_step(SealedKind.EST_KEY, endpoint, key_id.hex(), octets, expires_at=expires_at))
        return octets

    def put_step(
        self,
        kind: SealedKind,
        endpoint: str,
        name: str,
        secret: bytes,
        *,
        roles: Collection[str] = (),
        profile: str = "",
        expires_at: Micros | None = None,
    ) -> Step:
        """Makes it, or replaces the one before it. Raises Unavailable without a sealing key."""
        box = self.sealed(kind, endpoint, name, secret)
        stored = json.dumps(sorted(set(roles)))
        return Step(PUT_SQL, (kind.value, endpoint, name, box, stored, profile, self._clock.micros(), expires_at))

    async def disable(self, kind: SealedKind, *, endpoint: str, name: str) -> None:
        """From now on it opens nothing. Raises Rejection(NOT_FOUND) when there is none that is enabled."""
        try:
            await self._database.write(Step(DISABLE_SQL, (kind.value, endpoint, prepared(name), self._clock.micros())))
        except Conflict as error:
            detail = f"there is no enabled {kind.value} of this name at this endpoint; list them first"
            raise Rejection(Reason.NOT_FOUND, detail) from error

    async def list(self, kind: SealedKind) -> Sequence[SealedState]:
        """All of one kind by endpoint and name, the disabled and expired ones too."""
        return [_state(row) for row in await self._database.fetch(LIST_SQL, kind.value)]

    def _new_secret(self) -> str:
        return b32encode(self._random_bytes(_GENERATED_OCTETS)).decode("ascii").lower()


def forget_step(kind: SealedKind, endpoint: str, name: str) -> Step:
    """For the write that puts something else in its place; there need not be one."""
    return Step(FORGET_SQL, (kind.value, endpoint, name), rows=None)


def _context(kind: SealedKind, endpoint: str, name: str) -> str:
    return f"{kind.value} {endpoint}/{name}"  # no endpoint has a slash


def _credential(row: Row, secret: bytes) -> SealedCredential:
    return SealedCredential(
        id=f"{row['endpoint']}/{row['name']}",
        endpoint=row["endpoint"],
        secret=secret,
        roles=frozenset(json.loads(row["roles"])),
        profile=row["profile"],
    )


def _state(row: Row) -> SealedState:
    return SealedState(
        endpoint=row["endpoint"],
        name=row["name"],
        roles=frozenset(json.loads(row["roles"])),
        profile=row["profile"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        disabled_at=row["disabled_at"],
    )
