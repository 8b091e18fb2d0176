"""Challenges of SCEP endpoints, made by programs for the devices that they look after.

Law of this file: nobody gets by a challenge what their own key would not get. It has the roles of the key that made it and ends with it;
policy is asked when it is made, and again when it is used; and there is none without names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from aiohttp import web

from issuance.credentials import Credential
from issuance.scep_challenges import ID, ChallengeRecord, Made, Terms, foreseen
from pki.clock import Clock, Micros, rfc3339
from pki.identifiers import parse_identifier, shown
from pki.reasons import Reason, Rejection
from pki.subject import parse_subject, subject_text
from policy.principal import Principal
from policy.profiles import Profiles
from policy.rules import Policy
from rest import messages
from rest.http import Handler, json_answer, owner, read_body

Authenticate = Callable[[web.Request], Awaitable[tuple[Credential, Principal]]]


@dataclass(frozen=True, slots=True)
class Making:
    """What programs may make challenges for, at one endpoint."""

    profile: str  # of requests that name none
    makers: frozenset[str]  # roles


@dataclass(frozen=True, slots=True)
class Grants:
    """What policy is asked with."""

    policies: Sequence[Policy]
    profiles: Profiles


class Challenges(Protocol):
    """What REST needs of `issuance.scep_challenges.ScepChallenges`."""

    async def create(self, terms: Terms, *, lifetime: timedelta, made_by: Principal) -> Made: ...

    async def list(
        self, *, made_by: str = "", before: tuple[Micros, str] | None = None, limit: int = 100
    ) -> Sequence[ChallengeRecord]: ...

    async def disable(self, challenge_id: str, *, by: Principal, made_by: str = "") -> None: ...


class ChallengeDesk:
    """`endpoints` are those that have makers; `base_url` has no slash at its end."""

    def __init__(
        self,
        *,
        endpoints: Mapping[str, Making],
        challenges: Challenges,
        grants: Grants,
        authenticate: Authenticate,
        clock: Clock,
        base_url: str,
    ) -> None:
        self._endpoints = endpoints
        self._challenges = challenges
        self._grants = grants
        self._authenticate = authenticate
        self._clock = clock
        self._base_url = base_url

    @property
    def resources(self) -> Mapping[str, Mapping[str, Handler]]:
        return {
            "/api/v1/scep/challenges": {"GET": self.list, "POST": self.create},
            "/api/v1/scep/challenges/{id}": {"DELETE": self.disable},
        }

    async def create(self, request: web.Request) -> web.Response:
        _, maker = await self._authenticate(request)
        messages.read_query(list(request.query.items()), known=frozenset())
        wanted = messages.read_challenge(await read_body(request))
        making = self._endpoints.get(wanted.endpoint)
        if making is None or not making.makers & maker.roles:
            raise Rejection(
                Reason.FORBIDDEN,
                f"this API key may make no challenges for a SCEP endpoint {shown(wanted.endpoint)}",
                suggestions=["the endpoint's one_time.makers names the roles that may"],
            )
        terms = _terms(wanted, maker)
        self._check_granted(terms, maker, making)
        made = await self._challenges.create(terms, lifetime=timedelta(seconds=wanted.expires_in), made_by=maker)
        answer = messages.NewChallenge(
            id=made.id, challenge=made.challenge, endpoint=terms.endpoint, expires_at=rfc3339(made.expires_at)
        )
        return json_answer(answer, status=201, headers={"Location": f"{self._base_url}/api/v1/scep/challenges/{made.id}"})

    async def list(self, request: web.Request) -> web.Response:
        _, principal = await self._authenticate(request)
        query = messages.read_query(list(request.query.items()), known=frozenset({"limit", "cursor"}))
        limit = messages.parse_limit(query.get("limit"))
        before = messages.decode_cursor(query["cursor"]) if "cursor" in query else None
        # One more than asked for tells whether there is a next page.
        records = await self._challenges.list(made_by=owner(principal) or "", before=before, limit=limit + 1)
        page, now = records[:limit], self._clock.micros()
        following = messages.encode_cursor((page[-1].created_at, page[-1].id)) if len(records) > limit else None
        return json_answer(messages.ChallengeList(challenges=[_summary(record, now) for record in page], next=following))

    async def disable(self, request: web.Request) -> web.Response:
        _, principal = await self._authenticate(request)
        messages.read_query(list(request.query.items()), known=frozenset())
        challenge_id = request.match_info["id"]
        if not ID.fullmatch(challenge_id):
            raise Rejection(Reason.NOT_FOUND, "there is no challenge with this id, or it is not yours to see")
        await self._challenges.disable(challenge_id, by=principal, made_by=owner(principal) or "")
        return web.Response(status=204)

    def _check_granted(self, terms: Terms, maker: Principal, making: Making) -> None:
        """Would the maker get this certificate, at once or after an approval? Raises Rejection."""
        profile = self._grants.profiles.get(terms.profile or making.profile)
        if (why_not := foreseen(terms, maker, profile=profile, policies=self._grants.policies)) is not None:
            raise why_not


def _terms(wanted: messages.ChallengeBody, maker: Principal) -> Terms:
    if wanted.subject is None and not wanted.names:
        raise Rejection(
            Reason.MALFORMED, "subject, names: say for which request it is", suggestions=["give subject, names or both"]
        )
    return Terms(
        wanted.endpoint,
        maker.roles,
        None if wanted.subject is None else parse_subject(wanted.subject),
        frozenset(parse_identifier(name) for name in wanted.names) or None,
        wanted.profile or "",
    )


def _summary(record: ChallengeRecord, now: Micros) -> messages.ChallengeSummary:
    terms = record.terms
    return messages.ChallengeSummary(
        id=record.id,
        endpoint=terms.endpoint,
        subject=None if terms.subject is None else subject_text(terms.subject),
        names=None if terms.names is None else sorted(name.tag for name in terms.names),
        profile=terms.profile,
        made_by=record.made_by,
        created_at=rfc3339(record.created_at),
        expires_at=rfc3339(record.expires_at),
        used_at=None if record.used_at is None else rfc3339(record.used_at),
        status=record.state(now).value,
    )
