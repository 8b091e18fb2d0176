"""Digest (RFC 7616): what its answers are computed from. It has to be read back, so it is sealed (docs/adr/0005).

Law of this file: whoever has H(user:realm:password) can answer every challenge of that realm without the password, so it exists only
for endpoints that take Digest, and it ends with the password that it was made of. The user's row in `credential` decides about
roles, time and being disabled; there is no second truth.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from issuance.credentials import Credential, CredentialKind, credential, est_user_id, refusal
from issuance.lockout import LOCKS, NO_LIMITS, Attempt, FailureLimits, Lockouts, looked_up
from issuance.names import prepared
from issuance.sealed import SealedKind, SealedSecrets
from pki.clock import Clock
from pki.reasons import Reason, Rejection
from storage.database import Database, Step

# One row always, as in credentials.CHECK_SQL.
CHECK_SQL = f"""
SELECT locks.*, c.id, c.kind, c.endpoint, s.secret, c.roles, c.profile FROM {LOCKS}
LEFT JOIN credential c ON c.kind = $5 AND c.id = $6 AND c.endpoint = $7 AND c.disabled_at IS NULL
    AND (c.expires_at IS NULL OR c.expires_at > $8)
LEFT JOIN sealed_secret s ON s.kind = $9 AND s.endpoint = c.endpoint AND s.name = $10 AND s.disabled_at IS NULL
"""  # noqa: S608  # constants only


@dataclass(frozen=True, slots=True)
class DigestHashes:
    """H(user ":" realm ":" password) in lower-case hex (RFC 7616 §3.4.2), by both algorithms."""

    realm: str
    md5: str = field(repr=False)
    sha256: str = field(repr=False)


def hashes(*, user: str, realm: str, password: str) -> DigestHashes:
    octets = f"{prepared(user)}:{realm}:{prepared(password)}".encode("utf-8", "surrogatepass")
    return DigestHashes(realm, hashlib.md5(octets, usedforsecurity=False).hexdigest(), hashlib.sha256(octets).hexdigest())


class Digests:
    """Users of Digest. `Credentials` has the same users by their passwords, and the same lock-outs."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        sealed: SealedSecrets,
        lockouts: Lockouts,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._sealed = sealed
        self._lockouts = lockouts
        self._nobody = hashes(user="", realm="", password=random_bytes(32).hex())
        self._nobodys_box: bytes | None = None

    async def check(
        self,
        *,
        endpoint: str,
        user: str,
        answers: Callable[[DigestHashes], bool],
        address: str = "",
        limits: FailureLimits = NO_LIMITS,
    ) -> Credential:
        """`answers` says whether the response is right for these hashes; for nobody's, too, so that it costs the same.

        Raises Rejection: UNAUTHENTICATED, the same for every way to be wrong, or RATE_LIMITED; and Unavailable.
        """
        attempt = Attempt(CredentialKind.EST_USER.value, endpoint, user, address, limits)
        return await self._lockouts.to_its_end(self._counted(attempt, answers))

    async def _counted(self, attempt: Attempt, answers: Callable[[DigestHashes], bool]) -> Credential:
        async with self._lockouts.turn(attempt):
            found, given = await self._find(attempt)
            if not answers(given) or found is None:
                await self._lockouts.failed(attempt)
                raise _refusal()
            return found

    async def _find(self, attempt: Attempt) -> tuple[Credential | None, DigestHashes]:
        id_, now = est_user_id(attempt.endpoint, attempt.name), self._clock.micros()
        name = prepared(attempt.name) if id_ else ""
        place = (CredentialKind.EST_USER.value, id_, attempt.endpoint if id_ else "", now, SealedKind.EST_DIGEST.value, name)
        row = await looked_up(self._database, CHECK_SQL, attempt, now, *place)
        if row["id"] is None or row["secret"] is None:
            return None, self._opened("", "", self._box_of_nobody())
        return credential(row), self._opened(attempt.endpoint, name, bytes(row["secret"]))

    def _opened(self, endpoint: str, name: str, box: bytes) -> DigestHashes:
        return DigestHashes(**json.loads(self._sealed.opened(SealedKind.EST_DIGEST, endpoint, name, box)))

    def _box_of_nobody(self) -> bytes:
        """A box is opened for nobody, too, so that it takes as long."""
        if self._nobodys_box is None:
            self._nobodys_box = self._sealed.sealed(SealedKind.EST_DIGEST, "", "", _content(self._nobody))
        return self._nobodys_box

    def step(self, *, endpoint: str, user: str, realm: str, password: str) -> Step:
        """For `Credentials.set_est_user`. Raises Rejection(MALFORMED) for a name that a Digest header would have to escape."""
        name = prepared(user)
        if set(name) & {'"', "\\"}:
            raise Rejection(Reason.MALFORMED, "a user name for Digest has no quotes and no backslashes")
        content = _content(hashes(user=name, realm=realm, password=password))
        return self._sealed.put_step(SealedKind.EST_DIGEST, endpoint, name, content)


def _content(made: DigestHashes) -> bytes:
    return json.dumps({"realm": made.realm, "md5": made.md5, "sha256": made.sha256}).encode()


def _refusal() -> Rejection:
    """The suggestion is for whoever reads the log: the client is shown nothing, and it is the same for all."""
    said = refusal(CredentialKind.EST_USER)
    suggestion = "who was added before digest was in authenticate, or the realm was changed, has to be added again"
    return Rejection(said.reason, said.detail, suggestions=[f"{suggestion}: certwright est user add"])
