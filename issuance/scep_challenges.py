"""Challenges of SCEP endpoints that open once: made, shown once, stored as a hash, found by it (RFC 8894 §7.3 leaves their making open).

Law of this file: what opens is what the row says in the statement that uses it up; nothing that was read before counts. A challenge
that an API key or a user of the challenge page made opens no longer than they do.
"""

from __future__ import annotations

import enum
import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import orjson

from issuance import audit
from issuance.names import check_endpoint
from issuance.plan import names_wanted
from pki.clock import Clock, Micros, after
from pki.csr import Csr
from pki.identifiers import Identifier, parse_identifier, shown
from pki.reasons import Reason, Rejection
from pki.subject import Subject, common_name, read_subject, subject_text
from policy.engine import Deny, Wanted, decide
from policy.principal import Principal, PrincipalKind
from policy.profiles import Profile
from policy.rules import Policy
from storage.database import Conflict, Database, Row, Step

MAX_LIFETIME = timedelta(days=30)
DEFAULT_LIFETIME = timedelta(hours=1)

CREATE_SQL = """
INSERT INTO scep_challenge (id, secret_sha256, endpoint, subject, names, roles, profile, made_by, created_at, expires_at, used_at,
    used_by, disabled_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, NULL, '', NULL)
"""
# Whether whoever made a challenge may still make any, by the same secret: one that is set anew takes what was made by the old one with
# it, for it may have leaked. $3 is now.
_MAKER = """((substr(made_by, 1, 8) <> 'api-key:' AND substr(made_by, 1, 10) <> 'scep-user:') OR EXISTS (
        SELECT 1 FROM credential AS maker
        WHERE maker.id = CASE substr(scep_challenge.made_by, 1, 8)
                WHEN 'api-key:' THEN substr(scep_challenge.made_by, 9) ELSE substr(scep_challenge.made_by, 11) END
            AND maker.kind IN ('api-key', 'scep-user') AND maker.created_at <= scep_challenge.created_at
            AND maker.disabled_at IS NULL AND (maker.expires_at IS NULL OR maker.expires_at > $3)))"""
FIND_SQL = f"""
SELECT id, endpoint, subject, names, roles, profile FROM scep_challenge
WHERE secret_sha256 = $1 AND endpoint = $2 AND used_at IS NULL AND disabled_at IS NULL AND expires_at > $3
    AND {_MAKER}
"""  # noqa: S608  # constants only
STANDS_SQL = f"SELECT id FROM scep_challenge WHERE id = $1 AND endpoint = $2 AND {_MAKER}"  # noqa: S608  # constants only
UNUSED_SQL = f"""
SELECT count(*) AS unused FROM scep_challenge
WHERE made_by = $1 AND used_at IS NULL AND disabled_at IS NULL AND expires_at > $2
    AND {_MAKER.replace("$3", "$2")}
"""  # noqa: S608  # constants only
USE_SQL = f"""
UPDATE scep_challenge SET used_at = $3, used_by = $2
WHERE id = $1 AND used_at IS NULL AND disabled_at IS NULL AND expires_at > $3
    AND {_MAKER}
"""  # noqa: S608  # constants only
DISABLE_SQL = """
UPDATE scep_challenge SET disabled_at = $2
WHERE id = $1 AND used_at IS NULL AND disabled_at IS NULL AND expires_at > $2 AND ($3 = '' OR made_by = $3)
"""
LIST_SQL = """
SELECT id, endpoint, subject, names, roles, profile, made_by, created_at, expires_at, used_at, used_by, disabled_at
FROM scep_challenge WHERE (created_at, id) < ($1, $2) AND ($3 = '' OR made_by = $3) ORDER BY created_at DESC, id DESC LIMIT $4
"""
FORGET_SQL = "DELETE FROM scep_challenge WHERE id IN (SELECT id FROM scep_challenge WHERE expires_at <= $1 LIMIT 1000)"

ID = re.compile("[0-9a-f]{16}")
FORM = re.compile(r"[0-9A-Fa-f]{32}")  # 128 bits, as clients of NDES parse them; people type it in either case
_NEWEST = (Micros(2**62), "")
_REFUSED = "refused:"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a challenge is for. A subject without names is one without any alternative name; None for both is any request at all."""

    endpoint: str
    roles: frozenset[str]
    subject: Subject | None = None
    names: frozenset[Identifier] | None = None
    profile: str = ""  # "" for the endpoint's

    def __post_init__(self) -> None:
        if self.subject is not None and self.names is None:
            object.__setattr__(self, "names", frozenset())

    @property
    def any_name(self) -> bool:
        return self.names is None

    def difference(self, csr: Csr) -> str:
        """What of a request it was not made for, "" for nothing."""
        if self.names is None:
            return ""
        if frozenset(csr.identifiers) != self.names:
            return "its alternative names are not those"
        if self.subject is not None:
            return "" if read_subject(csr.subject) == self.subject else "its subject is not the one"
        # Of a subject only the common name is ever certified.
        own = csr.common_name is None or csr.common_name.lower() in map(str, self.names)
        return "" if own else "its common name is none of the names"


@dataclass(frozen=True, slots=True)
class Made:
    """For its owner to keep: `challenge` is nowhere else."""

    id: str
    challenge: str = field(repr=False)
    expires_at: Micros


@dataclass(frozen=True, slots=True)
class Found:
    id: str
    terms: Terms


class State(enum.Enum):
    """What became of a challenge. Closed."""

    OPEN = "open"
    USED = "used"
    BURNT = "burnt"  # it came with a request that it was not made for
    DISABLED = "disabled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class ChallengeRecord:
    """As its maker and operators see it. The secret is not in it."""

    id: str
    terms: Terms
    made_by: str
    created_at: Micros
    expires_at: Micros
    used_at: Micros | None
    used_by: str  # the request's SHA-256, "refused:" before it where the request was another
    disabled_at: Micros | None

    def state(self, now: Micros) -> State:
        if self.used_at is not None:
            return State.BURNT if self.used_by.startswith(_REFUSED) else State.USED
        if self.disabled_at is not None:
            return State.DISABLED
        return State.OPEN if self.expires_at > now else State.EXPIRED


class ScepChallenges:
    """Of all endpoints. `random_bytes` gives ids and challenges."""

    def __init__(self, *, database: Database, clock: Clock, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._database = database
        self._clock = clock
        self._random_bytes = random_bytes

    # ------------------------------------------------------------------ making

    async def create(self, terms: Terms, *, lifetime: timedelta, made_by: Principal, began: Micros | None = None) -> Made:
        """Whether there is such an endpoint and `made_by` may is the caller's to see to. `began` is when the secret of theirs that may be
        set anew was not looked at yet, None where they have none: what is set after that ends the challenge.

        Raises Rejection(MALFORMED), Unavailable.
        """
        check_endpoint(terms.endpoint)
        if not timedelta(0) < lifetime <= MAX_LIFETIME:
            raise Rejection(Reason.MALFORMED, f"a challenge opens for at most {MAX_LIFETIME.days} days")
        now = self._clock.micros() if began is None else began
        made = Made(self._random_bytes(8).hex(), self._random_bytes(16).hex().upper(), after(now, lifetime))
        subject, names, roles = _columns(terms)
        columns = (subject, names, roles, terms.profile, str(made_by), now, made.expires_at)
        await self._database.write(
            Step(CREATE_SQL, (made.id, _sha256(made.challenge), terms.endpoint, *columns)),
            self._record(audit.Event.SCEP_CHALLENGE_CREATED, made.id, now, str(made_by), _described(terms)),
        )
        return made

    async def unused(self, made_by: Principal) -> int:
        """How many of theirs still open. Raises Unavailable."""
        (row,) = await self._database.fetch(UNUSED_SQL, str(made_by), self._clock.micros())
        return int(row["unused"])

    # ------------------------------------------------------------------ using

    async def find(self, *, endpoint: str, challenge: str) -> Found | None:
        """Who presents it knows it. None for what is unknown here, used, disabled, expired. Raises Unavailable."""
        if not FORM.fullmatch(challenge):
            return None
        row = await self._database.fetch_one(FIND_SQL, _sha256(challenge.upper()), endpoint, self._clock.micros())
        return None if row is None else Found(row["id"], _terms(row))

    def use(self, found: Found, *, csr: Csr, source: str) -> Sequence[Step]:
        """To be written with what it opens: a Conflict when it is used, or ended, by then."""
        return self._end(audit.Event.SCEP_CHALLENGE_USED, found, csr, source, used_by=csr.sha256, detail={})

    async def stands(self, challenge_id: str, *, endpoint: str) -> bool:
        """Whether what it let in may still count on it: not once its maker is gone. Raises Unavailable."""
        return await self._database.fetch_one(STANDS_SQL, challenge_id, endpoint, self._clock.micros()) is not None

    async def burn(self, found: Found, *, csr: Csr, source: str, why: str) -> bool:
        """It came with a request that it was not made for, and opens nothing any more. False when it did not any more before that."""
        used_by, detail = f"{_REFUSED}{csr.sha256}", {"why": why, "names": [name.tag for name in csr.identifiers]}
        try:
            await self._database.write(
                *self._end(audit.Event.SCEP_CHALLENGE_BURNT, found, csr, source, used_by=used_by, detail=detail)
            )
        except Conflict:
            return False
        return True

    def _end(
        self, event: audit.Event, found: Found, csr: Csr, source: str, *, used_by: str, detail: Mapping[str, object]
    ) -> Sequence[Step]:
        now = self._clock.micros()
        more = {"endpoint": found.terms.endpoint, "csr": csr.sha256, "source": source, **detail}
        return (
            Step(USE_SQL, (found.id, used_by, now)),
            self._record(event, found.id, now, f"{PrincipalKind.SCEP_CLIENT.value}:{client_id(found.id)}", more),
        )

    # ------------------------------------------------------------------ administration

    async def disable(self, challenge_id: str, *, by: Principal, made_by: str = "") -> None:
        """`made_by` other than "": only what that principal made. Raises Rejection(NOT_FOUND): none that still opens, or not theirs."""
        now = self._clock.micros()
        try:
            await self._database.write(
                Step(DISABLE_SQL, (challenge_id, now, made_by)),
                self._record(audit.Event.SCEP_CHALLENGE_DISABLED, challenge_id, now, str(by), {}),
            )
        except Conflict:
            raise Rejection(
                Reason.NOT_FOUND, f"there is no challenge {shown(challenge_id)} that still opens; list them first"
            ) from None

    async def list(
        self, *, made_by: str = "", before: tuple[Micros, str] | None = None, limit: int = 100
    ) -> Sequence[ChallengeRecord]:
        """Newest first; `before` is (created_at, id) of the last one of the page before."""
        at, id_ = before or _NEWEST
        rows = await self._database.fetch(LIST_SQL, at, id_, made_by, limit)
        return [_challenge(row) for row in rows]

    async def forget(self, *, kept: timedelta) -> None:
        """Those that ended so long ago; the audit keeps what became of them."""
        await self._database.write(Step(FORGET_SQL, (after(self._clock.micros(), -kept),), rows=None))

    def _record(self, event: audit.Event, id_: str, at: Micros, principal: str, detail: Mapping[str, object]) -> Step:
        record_id = self._random_bytes(16).hex()
        return audit.record(
            event, record_id=record_id, at=at, principal=principal, subject=f"scep-challenge:{id_[:64]}", detail=detail
        )


def foreseen(terms: Terms, client: Principal, *, profile: Profile, policies: Sequence[Policy]) -> Rejection | None:
    """Why policy would not grant to `client` the request that a challenge is made for, as far as it can be told; None where it would,
    at once or after an approval. Raises Rejection for names that nobody gets.
    """
    identifiers = tuple(sorted(terms.names or (), key=lambda name: name.tag))
    names = names_wanted(identifiers, None if terms.subject is None else common_name(terms.subject), profile)
    decision = decide(policies, client, Wanted(profile, names.to_grant, names.device))
    return decision.rejection if isinstance(decision, Deny) else None


def client_id(challenge_id: str) -> str:
    """Of the principal whom a challenge lets in; no endpoint has a slash in its name."""
    return f"one-time/{challenge_id}"


def _sha256(challenge: str) -> str:
    return hashlib.sha256(challenge.encode("ascii")).hexdigest()


def _columns(terms: Terms) -> tuple[str | None, str | None, str]:
    subject = None if terms.subject is None else orjson.dumps(terms.subject).decode()
    names = None if terms.names is None else orjson.dumps(sorted(name.tag for name in terms.names)).decode()
    return subject, names, orjson.dumps(sorted(terms.roles)).decode()


def _terms(row: Row) -> Terms:
    return Terms(
        endpoint=row["endpoint"],
        roles=frozenset(orjson.loads(row["roles"])),
        subject=None if row["subject"] is None else tuple((kind, value) for kind, value in orjson.loads(row["subject"])),
        names=None if row["names"] is None else frozenset(map(parse_identifier, orjson.loads(row["names"]))),
        profile=row["profile"],
    )


def _challenge(row: Row) -> ChallengeRecord:
    return ChallengeRecord(
        id=row["id"],
        terms=_terms(row),
        made_by=row["made_by"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        used_at=row["used_at"],
        used_by=row["used_by"],
        disabled_at=row["disabled_at"],
    )


def _described(terms: Terms) -> Mapping[str, object]:
    return {
        "endpoint": terms.endpoint,
        "subject": None if terms.subject is None else subject_text(terms.subject),
        "names": None if terms.names is None else sorted(name.tag for name in terms.names),
        "roles": sorted(terms.roles),
        "profile": terms.profile,
    }
