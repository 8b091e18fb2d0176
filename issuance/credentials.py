"""API keys, users and tokens of EST, challenges and page users of SCEP: made once, shown once, stored hashed, compared in constant time.

Law of this file: every check reads the row, so a disabled, expired or changed credential ends at once, on every node. What is stored
instead of a secret, and what a comparison costs, is in hashing.py: it never depends on whether there is such a row.

A SCEP challenge comes without a name, so it is held against all those of its endpoint. They share one salt, and scrypt still runs
once: whoever reads the table learns of two that are equal, and each guess of theirs is at all of them.

Guessing at EST and at a challenge page is counted here, and locked out (lockout.py); guessing at a SCEP challenge by whoever asks
about it, who has other ways to try besides.
"""

from __future__ import annotations

import enum
import json
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from issuance.hashing import API_KEY, EST_TOKEN, SCRYPT_QUEUE, Hashing, is_generated, new_token, sha256
from issuance.lockout import LOCKS, NO_LIMITS, UNGUARDED, Attempt, FailureLimits, Lockouts, looked_up
from issuance.names import CREDENTIAL_NAME, ENDPOINT, check_endpoint, prepared
from issuance.sealed import SealedKind, forget_step
from pki.clock import Clock, Micros
from pki.identifiers import shown
from pki.reasons import Reason, Rejection
from storage.database import Conflict, Database, Row, Step

# One row always. Disabled, expired and absent are one case, decided by the query: then all but the locks is NULL.
CHECK_SQL = f"""
SELECT locks.*, c.id, c.kind, c.endpoint, c.secret, c.roles, c.profile FROM {LOCKS}
LEFT JOIN credential c ON c.kind = $5 AND c.id = $6 AND c.endpoint = $7 AND c.disabled_at IS NULL
    AND (c.expires_at IS NULL OR c.expires_at > $8)
"""  # noqa: S608  # constants only
# The challenges of one endpoint, in the order in which they are named.
CHALLENGES_SQL = """
SELECT id, kind, endpoint, secret, roles, profile FROM credential
WHERE kind = $1 AND endpoint = $2 AND disabled_at IS NULL AND (expires_at IS NULL OR expires_at > $3) ORDER BY id
"""
# The disabled ones too: one of them may be set again.
SALTS_SQL = "SELECT secret FROM credential WHERE kind = $1 AND endpoint = $2 AND id <> $3 ORDER BY id"
INSERT_SQL = """
INSERT INTO credential (id, kind, endpoint, secret, roles, profile, created_at, expires_at, disabled_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, NULL)
"""
# The condition on kind: ids of different kinds share one column, and a new SCEP challenge must never overwrite a key.
REPLACE_SQL = """
INSERT INTO credential (id, kind, endpoint, secret, roles, profile, created_at, expires_at, disabled_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, NULL, NULL)
ON CONFLICT (id) DO UPDATE SET secret = excluded.secret, roles = excluded.roles, profile = excluded.profile,
    created_at = excluded.created_at, expires_at = NULL, disabled_at = NULL
WHERE credential.kind = excluded.kind
"""
DISABLE_SQL = "UPDATE credential SET disabled_at = $3 WHERE kind = $1 AND id = $2 AND disabled_at IS NULL"
LIST_SQL = """
SELECT id, kind, endpoint, roles, profile, created_at, expires_at, disabled_at FROM credential WHERE kind = $1 ORDER BY id
"""

_NO_TOKEN = f"cwe_{'0' * 16}_{'A' * 43}"  # what has not the form of a token stands for: as cheap to check, and nobody's


class CredentialKind(enum.Enum):
    API_KEY = "api-key"
    EST_USER = "est-user"
    EST_TOKEN = "est-token"  # noqa: S105  # a kind, not a secret
    SCEP_CHALLENGE = "scep-challenge"
    SCEP_USER = "scep-user"  # of an endpoint's challenge page


@dataclass(frozen=True, slots=True)
class Credential:
    """Who a secret belongs to; the secret itself is not in it."""

    id: str
    kind: CredentialKind
    endpoint: str
    roles: frozenset[str]
    profile: str  # the default one, "" for the endpoint's


@dataclass(frozen=True, slots=True)
class CredentialState:
    """A credential as an operator sees it in a list."""

    credential: Credential
    created_at: Micros
    expires_at: Micros | None
    disabled_at: Micros | None


# Said for every way to be wrong, so that the answer tells nothing about what exists.
_REFUSALS = {
    CredentialKind.API_KEY: "this API key is not valid here: it is unknown, expired or disabled; ask an operator for another",
    CredentialKind.EST_USER: "user name and password are not valid at this EST endpoint; ask an operator to set them",
    CredentialKind.EST_TOKEN: "this token is not valid at this EST endpoint: it is unknown, expired or disabled; ask an operator",
    CredentialKind.SCEP_CHALLENGE: "the challenge password is not valid at this SCEP endpoint; ask an operator to set it",
    CredentialKind.SCEP_USER: "user name and password are not valid at this challenge page; ask an operator to set them",
}


class Credentials:
    """`random_bytes` gives keys, salts and this process's cache key; `queue` is how many of a kind may be at scrypt or wait for it."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        queue: int = SCRYPT_QUEUE,
        lockouts: Lockouts | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._random_bytes = random_bytes
        self._lockouts = lockouts or Lockouts(database=database, clock=clock)
        self._hashing = Hashing(random_bytes=random_bytes, queue=queue)

    # ------------------------------------------------------------------ checks

    async def check_api_key(self, presented: str) -> Credential:
        """Raises Rejection(UNAUTHENTICATED), the same for every way to be wrong."""
        match = API_KEY.fullmatch(presented)
        if match is None:
            raise refusal(CredentialKind.API_KEY)
        return await self._check(CredentialKind.API_KEY, endpoint="", id_=match[1], presented=presented)

    async def check_est_user(
        self, *, endpoint: str, user: str, password: str, address: str = "", limits: FailureLimits = NO_LIMITS
    ) -> Credential:
        """Raises Rejection: UNAUTHENTICATED, the same for every way to be wrong, or RATE_LIMITED; and Unavailable."""
        attempt = Attempt(CredentialKind.EST_USER.value, endpoint, user, address, limits)
        checked = self._guarded(CredentialKind.EST_USER, attempt, est_user_id(endpoint, user), prepared(password))
        return await self._lockouts.to_its_end(checked)

    async def check_est_token(
        self, *, endpoint: str, token: str, address: str = "", limits: FailureLimits = NO_LIMITS
    ) -> Credential:
        """As `check_est_user`."""
        match = EST_TOKEN.fullmatch(token)
        id_ = "" if match is None else match[1]
        attempt = Attempt(CredentialKind.EST_TOKEN.value, endpoint, id_, address, limits)
        checked = self._guarded(CredentialKind.EST_TOKEN, attempt, id_, _NO_TOKEN if match is None else token)
        return await self._lockouts.to_its_end(checked)

    async def check_scep_challenge(self, *, endpoint: str, challenge: str) -> Credential:
        """Raises Rejection(UNAUTHENTICATED), the same for every way to be wrong, and Unavailable."""
        kind = CredentialKind.SCEP_CHALLENGE
        place = endpoint if ENDPOINT.fullmatch(endpoint) else ""
        rows = await self._database.fetch(CHALLENGES_SQL, kind.value, place, self._clock.micros())
        found = await self._hashing.which(kind.value, [str(row["secret"]) for row in rows], prepared(challenge))
        if found is None:
            raise refusal(kind)
        return credential(rows[found])

    async def check_scep_user(
        self, *, endpoint: str, user: str, password: str, address: str = "", limits: FailureLimits = NO_LIMITS
    ) -> Credential:
        """Of the challenge page; as `check_est_user`."""
        attempt = Attempt(CredentialKind.SCEP_USER.value, endpoint, user, address, limits)
        checked = self._guarded(CredentialKind.SCEP_USER, attempt, scep_user_id(endpoint, user), prepared(password))
        return await self._lockouts.to_its_end(checked)

    async def _guarded(self, kind: CredentialKind, attempt: Attempt, id_: str, presented: str) -> Credential:
        if is_generated(presented):  # nobody guesses one of those, so nobody has to wait for their turn
            return await self._counted(kind, attempt, id_, presented)
        async with self._lockouts.turn(attempt):
            return await self._counted(kind, attempt, id_, presented)

    async def _counted(self, kind: CredentialKind, attempt: Attempt, id_: str, presented: str) -> Credential:
        try:
            return await self._check(kind, endpoint=attempt.endpoint, id_=id_, presented=presented, attempt=attempt)
        except Rejection as rejection:
            if rejection.reason is Reason.UNAUTHENTICATED:
                await self._lockouts.failed(attempt)
            raise

    async def _check(
        self, kind: CredentialKind, *, endpoint: str, id_: str, presented: str, attempt: Attempt = UNGUARDED
    ) -> Credential:
        """An `id_` that is "" is nobody's, at no endpoint."""
        now = self._clock.micros()
        place = (kind.value, id_, endpoint if id_ else "", now)
        row = await looked_up(self._database, CHECK_SQL, attempt, now, *place)
        stored = () if row["id"] is None else (str(row["secret"]),)
        if await self._hashing.which(kind.value, stored, presented) is None or not stored:
            raise refusal(kind)
        return credential(row)

    # ------------------------------------------------------------------ administration

    async def create_api_key(self, *, roles: Collection[str], profile: str, expires_at: Micros | None) -> str:
        """The key, for its owner to keep: only its hash stays here. `profile` is used where a request names none."""
        key_id = self._random_bytes(8).hex()
        key = f"cw_{key_id}_{new_token(self._random_bytes)}"
        row = (key_id, CredentialKind.API_KEY.value, "", sha256(key), _json(roles), profile, self._clock.micros(), expires_at)
        await self._database.write(Step(INSERT_SQL, row))
        return key

    async def create_est_token(self, *, endpoint: str, roles: Collection[str], profile: str, expires_at: Micros | None) -> str:
        """The bearer token of one endpoint, for its owner to keep: only its hash stays here. Raises Rejection(MALFORMED)."""
        check_endpoint(endpoint)
        token_id = self._random_bytes(8).hex()
        token = f"cwe_{token_id}_{new_token(self._random_bytes)}"
        row = (token_id, CredentialKind.EST_TOKEN.value, endpoint, sha256(token), _json(roles), profile)
        await self._database.write(Step(INSERT_SQL, (*row, self._clock.micros(), expires_at)))
        return token

    async def set_est_user(
        self,
        *,
        endpoint: str,
        user: str,
        password: str,
        roles: Collection[str],
        profile: str,
        digest: Step | None = None,
    ) -> None:
        """Make a user of one endpoint, or replace password, roles and profile of one; a disabled one is enabled again.

        `digest` makes the same password for Digest; without it, what Digest took before ends with the old password.
        Raises Rejection(MALFORMED) for a name or password that HTTP Basic cannot carry (RFC 7617 §2).
        """
        name = _user_name(user)
        check_endpoint(endpoint)
        await self._replace(
            CredentialKind.EST_USER,
            f"{endpoint}/{name}",
            endpoint=endpoint,
            secret=password,
            roles=roles,
            profile=profile,
            also=(digest or forget_step(SealedKind.EST_DIGEST, endpoint, name),),
        )

    async def set_scep_challenge(
        self, *, endpoint: str, challenge: str, roles: Collection[str], profile: str, name: str = ""
    ) -> None:
        """Set one challenge password of an endpoint, by its name or the one without; what it was before ends.

        Raises Rejection(MALFORMED).
        """
        check_endpoint(endpoint)
        await self._replace(
            CredentialKind.SCEP_CHALLENGE,
            scep_challenge_id(endpoint, name),
            endpoint=endpoint,
            secret=challenge,
            roles=roles,
            profile=profile,
        )

    async def set_scep_user(self, *, endpoint: str, user: str, password: str) -> None:
        """Who may get challenges from the page of an endpoint: roles are those challenges' own. As `set_est_user`."""
        _user_name(user)
        check_endpoint(endpoint)
        id_ = scep_user_id(endpoint, user)
        await self._replace(CredentialKind.SCEP_USER, id_, endpoint=endpoint, secret=password, roles=(), profile="")

    async def _replace(
        self,
        kind: CredentialKind,
        id_: str,
        *,
        endpoint: str,
        secret: str,
        roles: Collection[str],
        profile: str,
        also: Sequence[Step] = (),
    ) -> None:
        stored = await self._hashing.stored(prepared(secret), beside=await self._beside(kind, endpoint, id_))
        row = (id_, kind.value, endpoint, stored, _json(roles), profile, self._clock.micros())
        try:
            await self._database.write(Step(REPLACE_SQL, row), *also)
        except Conflict as error:
            raise Rejection(Reason.CONFLICT, f"{id_} is the id of another kind of credential; choose another name") from error

    async def _beside(self, kind: CredentialKind, endpoint: str, id_: str) -> Sequence[str]:
        """Whose salt it has: of the other challenges of the endpoint. Two that are set at the same moment may miss it: that costs a
        scrypt more.
        """
        if kind is not CredentialKind.SCEP_CHALLENGE:
            return ()
        return [row["secret"] for row in await self._database.fetch(SALTS_SQL, kind.value, endpoint, id_)]

    async def disable(self, kind: CredentialKind, id: str) -> None:  # noqa: A002  # the column's name, as in `Credential.id`
        """From now on it opens nothing. Raises Rejection(NOT_FOUND) when there is none that is enabled."""
        try:
            await self._database.write(Step(DISABLE_SQL, (kind.value, id, self._clock.micros())))
        except Conflict as error:
            raise Rejection(Reason.NOT_FOUND, f"there is no enabled {kind.value} {shown(id)}; list them first") from error

    async def list(self, kind: CredentialKind) -> Sequence[CredentialState]:
        """All of one kind by id, the disabled and expired ones too."""
        rows = await self._database.fetch(LIST_SQL, kind.value)
        return [CredentialState(credential(row), row["created_at"], row["expires_at"], row["disabled_at"]) for row in rows]


def est_user_id(endpoint: str, user: str) -> str:
    """Of the row, "" for what no user can be called."""
    name = prepared(user)
    known_form = CREDENTIAL_NAME.fullmatch(name) is not None and ENDPOINT.fullmatch(endpoint) is not None
    return f"{endpoint}/{name}" if known_form else ""


def scep_user_id(endpoint: str, user: str) -> str:
    """As `est_user_id`. Ids of all kinds share one column, and no endpoint's name has a colon."""
    id_ = est_user_id(endpoint, user)
    return f"scep:{id_}" if id_ else ""


def _user_name(user: str) -> str:
    """Raises Rejection(MALFORMED) for what HTTP Basic cannot carry (RFC 7617 §2)."""
    name = prepared(user)
    if not CREDENTIAL_NAME.fullmatch(name):
        raise Rejection(Reason.MALFORMED, "a user name has 1 to 128 characters, without colons and control characters")
    return name


def scep_challenge_id(endpoint: str, name: str = "") -> str:
    """Of the row. No endpoint and no EST user has a colon in their name. Raises Rejection(MALFORMED)."""
    if not name:
        return endpoint
    if not ENDPOINT.fullmatch(name):
        raise Rejection(Reason.MALFORMED, "a challenge's name has letters, digits, '.', '_' and '-', 64 at most")
    return f"{endpoint}:{name}"


def refusal(kind: CredentialKind) -> Rejection:
    return Rejection(Reason.UNAUTHENTICATED, _REFUSALS[kind])


def credential(row: Row) -> Credential:
    return Credential(
        id=row["id"],
        kind=CredentialKind(row["kind"]),
        endpoint=row["endpoint"],
        roles=frozenset(json.loads(row["roles"])),
        profile=row["profile"],
    )


def _json(roles: Collection[str]) -> str:
    return json.dumps(sorted(set(roles)))
