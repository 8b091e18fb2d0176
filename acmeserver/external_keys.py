"""The keys of external account binding: made by an operator, used by a client once or often, revoked.

Law of this file: the MAC key is shown when it is made and never again; at rest it is sealed (pki/sealing.py), and it is opened only
to check a MAC. A client learns nothing of a key before its MAC was right: an unknown key id and a wrong MAC are one answer.
"""

from __future__ import annotations

import enum
import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import orjson

from acmeserver.jwk import Jwk, parse_jwk
from acmeserver.jws import MacJws, parse_mac_jws
from acmeserver.problems import Problem, malformed, unauthorized
from issuance import audit
from issuance.audit import Event
from pki.clock import Clock, Micros
from pki.reasons import Reason, Rejection, Unavailable
from pki.sealing import Sealer, SealError
from pki.strict import StrictError, base64url, parse_json
from policy.names import parse_pattern
from policy.principal import Principal
from storage.database import Conflict, Database, Row, Step

_COLUMNS = "kid, endpoint, roles, names, profiles, reusable, created_at, expires_at, used_at, revoked_at"

INSERT_SQL = (
    "INSERT INTO acme_external_key (kid, endpoint, secret, roles, names, profiles, reusable, created_at, expires_at, used_at, "
    "revoked_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, NULL, NULL)"
)
FIND_SQL = f"SELECT {_COLUMNS}, secret FROM acme_external_key WHERE kid = $1 AND endpoint = $2"  # noqa: S608  # constants only
# Rides in the write that makes the account: a key for one account is used once, whatever happens at the same moment.
USE_SQL = (
    "UPDATE acme_external_key SET used_at = $3 WHERE kid = $1 AND endpoint = $2 AND revoked_at IS NULL "
    "AND (expires_at IS NULL OR expires_at > $3) AND (reusable = 1 OR used_at IS NULL)"
)
REVOKE_SQL = "UPDATE acme_external_key SET revoked_at = $2 WHERE kid = $1 AND revoked_at IS NULL"
LIST_SQL = (
    f"SELECT {_COLUMNS}, (SELECT count(*) FROM acme_account a WHERE a.external_kid = acme_external_key.kid) AS accounts "  # noqa: S608  # constants only
    "FROM acme_external_key ORDER BY created_at, kid"
)

_SECRET_OCTETS = 64  # as long as the longest digest (RFC 7518 §3.2)
_KID_OCTETS = 10
_NOT_VALID = "the external account binding is not valid here: its key id is unknown, or its MAC is not by that key"


class KeyState(enum.Enum):
    """Whether an account can be bound to a key. Closed."""

    OPEN = "open"
    USED = "used"  # it was for one account
    EXPIRED = "expired"
    REVOKED = "revoked"


_ENDED: Mapping[KeyState, str] = MappingProxyType(
    {
        KeyState.USED: "is for one account, and has been used",
        KeyState.EXPIRED: "has expired",
        KeyState.REVOKED: "was revoked",
    }
)


@dataclass(frozen=True, slots=True)
class ExternalKey:
    """As an operator sees it. The MAC key is not in it."""

    kid: str
    endpoint: str
    roles: frozenset[str]
    names: tuple[str, ...]
    profiles: tuple[str, ...]
    reusable: bool
    created_at: Micros
    expires_at: Micros | None  # no new account from then on
    used_at: Micros | None
    revoked_at: Micros | None

    def state(self, now: Micros) -> KeyState:
        if self.revoked_at is not None:
            return KeyState.REVOKED
        if self.expires_at is not None and self.expires_at <= now:
            return KeyState.EXPIRED
        if self.used_at is not None and not self.reusable:
            return KeyState.USED
        return KeyState.OPEN


@dataclass(frozen=True, slots=True)
class NewKey:
    """What `create` tells, once."""

    kid: str
    hmac_key: str = field(repr=False)  # unpadded base64url, as every client takes it


@dataclass(frozen=True, slots=True)
class Bound:
    """A binding that was verified: the step that uses the key, to be written with the account."""

    kid: str
    use: Step


class ExternalKeys:
    def __init__(
        self, *, database: Database, clock: Clock, sealer: Sealer, random_bytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._database = database
        self._clock = clock
        self._sealer = sealer
        self._random_bytes = random_bytes
        self._nobody = random_bytes(_SECRET_OCTETS)

    # ------------------------------------------------------------------ what clients do

    async def verify(self, value: Mapping[str, Any], *, endpoint: str, url: str, jwk: Jwk) -> Bound:
        """The steps of RFC 8555 §7.3.4: `value` binds `jwk`, the key of the request to `url`. Raises Problem, Rejection."""
        binding = parse_mac_jws(value)
        row = await self._database.fetch_one(FIND_SQL, binding.kid, endpoint) if "\0" not in binding.kid else None
        secret = self._nobody if row is None else self._opened(row["secret"], _context(binding.kid, endpoint))
        if not _mac_is_right(binding, secret) or row is None:
            raise unauthorized(_NOT_VALID)
        if binding.url != url:
            raise unauthorized("the url in externalAccountBinding is not the URL of this request (RFC 8555 §7.3.4)")
        if _key_in(binding.payload) != jwk:
            raise unauthorized("externalAccountBinding is for another account key than the one that signs this request")
        key = _key_from(row)
        now = self._clock.micros()
        if (state := key.state(now)) is not KeyState.OPEN:
            raise _unusable(key.kid, state)
        return Bound(key.kid, Step(USE_SQL, (key.kid, endpoint, now)))

    def _opened(self, box: bytes, context: str) -> bytes:
        """An operator's mistake with the file of keys is an outage: he reads why in the log, and mends it."""
        try:
            return self._sealer.open(box, context=context)
        except SealError as error:
            raise Unavailable(f"external account keys: {error}") from error

    async def explain(self, kid: str, endpoint: str) -> Problem | None:
        """Why `Bound.use` conflicted, if it was that."""
        row = await self._database.fetch_one(FIND_SQL, kid, endpoint)
        state = _key_from(row).state(self._clock.micros()) if row is not None else KeyState.REVOKED
        return _unusable(kid, state) if state is not KeyState.OPEN else None

    # ------------------------------------------------------------------ what operators do

    async def create(
        self,
        *,
        endpoint: str,
        roles: Sequence[str],
        names: Sequence[str],
        profiles: Sequence[str],
        expires_at: Micros | None,
        reusable: bool,
        principal: Principal,
    ) -> NewKey:
        """Raises Rejection(MALFORMED) for a pattern of names that is none."""
        for pattern in names:
            try:
                parse_pattern(pattern)
            except ValueError as error:
                raise Rejection(Reason.MALFORMED, str(error)) from error
        kid, secret = self._random_bytes(_KID_OCTETS).hex(), self._secret()
        lists = tuple(_json(each) for each in (sorted(set(roles)), dict.fromkeys(names), dict.fromkeys(profiles)))
        box = self._sealer.seal(secret, context=_context(kid, endpoint))
        row = (kid, endpoint, box, *lists, int(reusable), self._clock.micros(), expires_at)
        given = {
            "roles": sorted(set(roles)),
            "names": names,
            "profiles": profiles,
            "reusable": reusable,
            "expires_at": expires_at,
        }
        detail = {"endpoint": endpoint, **given}
        await self._database.write(Step(INSERT_SQL, row), self._record(Event.EXTERNAL_KEY_CREATED, kid, principal, detail))
        return NewKey(kid, base64url(secret))

    async def revoke(self, kid: str, principal: Principal) -> None:
        """No account can be bound to it from now on, and those that are get nothing any more. Raises Rejection(NOT_FOUND)."""
        try:
            revoked = self._record(Event.EXTERNAL_KEY_REVOKED, kid, principal, {})
            await self._database.write(Step(REVOKE_SQL, (kid, self._clock.micros())), revoked)
        except Conflict as error:
            raise Rejection(
                Reason.NOT_FOUND,
                "there is no external account key with this id that is not revoked already",
                suggestions=["see: certwright eab list"],
            ) from error

    async def list(self) -> Sequence[tuple[ExternalKey, int]]:
        """All of them, the oldest first, with the number of their accounts."""
        return [(_key_from(row), row["accounts"]) for row in await self._database.fetch(LIST_SQL)]

    def _record(self, event: Event, kid: str, principal: Principal, detail: Mapping[str, object]) -> Step:
        return audit.record(
            event,
            record_id=self._random_bytes(16).hex(),
            at=self._clock.micros(),
            principal=str(principal),
            subject=f"external-key:{kid}",
            detail=detail,
        )

    def _secret(self) -> bytes:
        """Its base64url does not begin with a hyphen: it goes on command lines, where that would be an option."""
        while True:
            secret = self._random_bytes(_SECRET_OCTETS)
            if not base64url(secret).startswith("-"):
                return secret


def _context(kid: str, endpoint: str) -> str:
    return f"acme external key {endpoint}/{kid}"


def _mac_is_right(binding: MacJws, secret: bytes) -> bool:
    digest = f"sha{binding.algorithm.value.removeprefix('HS')}"
    return hmac.compare_digest(hmac.digest(secret, binding.authenticated, digest), binding.mac)


def _key_in(payload: bytes) -> Jwk:
    """Read as the outer one is: keys are the same when their thumbprints are, however they are written."""
    try:
        return parse_jwk(parse_json(payload))
    except StrictError as error:
        raise malformed("the payload of externalAccountBinding is no JWK") from error


def _unusable(kid: str, state: KeyState) -> Problem:
    return unauthorized(f"the external account key {kid} {_ENDED[state]}; ask an operator for another")


def _json(texts: Iterable[str]) -> str:
    return orjson.dumps([*texts]).decode("utf-8")


def _key_from(row: Row) -> ExternalKey:
    return ExternalKey(
        kid=row["kid"],
        endpoint=row["endpoint"],
        roles=frozenset(orjson.loads(row["roles"])),
        names=tuple(orjson.loads(row["names"])),
        profiles=tuple(orjson.loads(row["profiles"])),
        reusable=bool(row["reusable"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        used_at=row["used_at"],
        revoked_at=row["revoked_at"],
    )
