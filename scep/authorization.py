"""Who may have what they ask for. Nothing is enrolled without an `Authorization`: only this room, those of the other ways and holders.py
make one, and enrolment.py gives back the one that transactions.py remembers.

The ways of an endpoint are asked one after the other; each says yes, or that the challenge is none of its own. What nobody takes is
one refusal with one text, and a failed attempt of its address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from issuance.credentials import Credential
from issuance.hashing import GENERATED
from issuance.lockout import Attempt, Lockouts
from issuance.request import Evidence, IssuedCertificate, ScepChallenge
from issuance.scep_challenges import FORM as ONE_TIME_FORM
from pki.csr import Csr
from pki.reasons import Reason, Rejection
from policy.principal import Principal, PrincipalKind
from scep.endpoint import ScepEndpoint, Way
from scep.transactions import Place
from storage.database import Step

# The forms of those that have at least 128 random bits. Nobody has to be kept from guessing them, so they are looked for even where
# others behind the same address are locked out.
_UNGUESSABLE: Mapping[Way, re.Pattern[str]] = MappingProxyType({Way.ONE_TIME: ONE_TIME_FORM, Way.STATIC: GENERATED})

# Nobody guesses what is this long, whatever it is for (signed tokens, Intune's): it does not wait until whoever else is asked has
# answered for others of its address, for all devices of a company may have one.
LONG = 64  # characters
CROWD = 16  # of those of one address are looked at together: so many more than the limit of failures may be, at most

REFUSED = "the challenge password is missing, wrong, used or expired; get another from whoever runs this SCEP endpoint"


def may_be(way: Way, challenge: str) -> bool:
    """Whether a challenge can be one of this way, by its form alone."""
    return way is not Way.ONE_TIME or _UNGUESSABLE[way].fullmatch(challenge) is not None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to enrol, opened and proved to be by the key that it is for, or by that of a certificate of ours."""

    endpoint: ScepEndpoint
    place: Place
    csr: Csr
    source_address: str
    own_key: bool = True  # the key that is to be certified signs the message
    signed_with: str = ""  # the certificate of ours that signs it, "issuer/serial"; "" where it is the device's own

    @property
    def challenge(self) -> str:
        return self.csr.challenge_password or ""


@dataclass(frozen=True, slots=True)
class Authorization:
    """Who asks, what proves it, and the profile that they get ("" for the endpoint's).

    `once` is what has to be written with the transaction before anything is issued: it opens once, and conflicts ever after.
    """

    way: Way
    principal: Principal
    evidence: Evidence
    profile: str = ""
    once: Sequence[Step] = field(default=(), repr=False)


class ChallengeWay(Protocol):
    """One way to be let in by the challengePassword (RFC 8894 §7.3)."""

    async def authorize(self, asked: Asked) -> Authorization | None:
        """None: this challenge is none of its own. Raises Rejection where it is one and not for this request; Unavailable."""


class Informed(Protocol):
    """Somebody outside who wants to know what became of what they let in."""

    async def issued(self, asked: Asked, certificate: IssuedCertificate) -> None:
        """Before the client is answered, and again whenever it is answered again. Raises Unavailable; Rejection where it cannot be told
        of this answer, and the client has to do something else.
        """

    async def refused(self, asked: Asked, rejection: Rejection) -> None:
        """Best effort: the client is refused in any case."""


class Observer(Protocol):
    """Who counts. All labels are bounded."""

    def authorized(self, *, endpoint: str, way: str, result: str) -> None: ...

    def answered(self, *, endpoint: str, message_type: str, result: str) -> None: ...

    def legacy(self, *, endpoint: str, algorithm: str) -> None: ...


class Authorizer:
    """Of all endpoints. Which ways an endpoint has is its own; a way that is not in `ways` lets nobody in."""

    def __init__(self, *, ways: Mapping[Way, ChallengeWay], lockouts: Lockouts, observer: Observer) -> None:
        self._ways = ways
        self._lockouts = lockouts
        self._observer = observer

    async def authorize(self, asked: Asked) -> Authorization:
        """Raises Rejection: UNAUTHENTICATED, RATE_LIMITED, and what a way says of its own challenges; Unavailable."""
        endpoint = asked.endpoint
        attempt = Attempt("scep", endpoint.name, "", asked.source_address, endpoint.limits.failures)
        return await self._lockouts.to_its_end(self._guarded(asked, attempt))

    async def _guarded(self, asked: Asked, attempt: Attempt) -> Authorization:
        if not asked.challenge:  # none at all is no guess
            raise self._refused(asked)
        ways = [way for way in asked.endpoint.challenges if way in self._ways]
        if len(asked.challenge) >= LONG:
            async with self._lockouts.turn(attempt, at_once=CROWD):  # nobody floods somebody else's server through us
                await self._lockouts.check(attempt)
                return await self._looked_for(asked, attempt, ways, [])
        by_form = [way for way in ways if way in _UNGUESSABLE and _UNGUESSABLE[way].fullmatch(asked.challenge)]
        return await self._looked_for(asked, attempt, by_form, [way for way in ways if way not in by_form])

    async def _looked_for(
        self, asked: Asked, attempt: Attempt, at_once: Sequence[Way], in_turn: Sequence[Way]
    ) -> Authorization:
        if (found := await self._ask(asked, at_once)) is not None:
            return found
        async with self._lockouts.turn(attempt):
            await self._lockouts.check(attempt)
            if (found := await self._ask(asked, in_turn)) is not None:
                return found
            await self._lockouts.failed(attempt)
            raise self._refused(asked)

    async def _ask(self, asked: Asked, ways: Sequence[Way]) -> Authorization | None:
        for way in ways:
            if (found := await self._ways[way].authorize(asked)) is not None:
                self._observer.authorized(endpoint=asked.endpoint.name, way=way.value, result="allowed")
                return found
        return None

    def _refused(self, asked: Asked) -> Rejection:
        self._observer.authorized(endpoint=asked.endpoint.name, way="challenge", result="refused")
        return Rejection(Reason.UNAUTHENTICATED, REFUSED)


class StaticChallenges(Protocol):
    """What SCEP needs of `issuance.credentials.Credentials`."""

    async def check_scep_challenge(self, *, endpoint: str, challenge: str) -> Credential: ...


class StaticWay:
    """Whoever knows a password of the endpoint; what names they may have is policy's business."""

    def __init__(self, challenges: StaticChallenges) -> None:
        self._challenges = challenges

    async def authorize(self, asked: Asked) -> Authorization | None:
        try:
            found = await self._challenges.check_scep_challenge(endpoint=asked.endpoint.name, challenge=asked.challenge)
        except Rejection as rejection:
            if rejection.reason is Reason.UNAUTHENTICATED:
                return None
            raise
        principal = Principal(PrincipalKind.SCEP_CLIENT, found.id, found.roles, source_address=asked.source_address)
        return Authorization(Way.STATIC, principal, ScepChallenge(found.id), found.profile)
