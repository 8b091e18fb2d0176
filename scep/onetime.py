"""The way in by a challenge that was made for one request (RFC 8894 §7.3).

Law of this file: it opens once. For the request that it was made for, together with the transaction that remembers the request; by any
other request it is used up, for then somebody has it who should not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from issuance.request import OneTimeChallenge
from issuance.scep_challenges import Found, client_id
from pki.csr import Csr
from pki.reasons import Reason, Rejection
from policy.principal import Principal, PrincipalKind
from scep.authorization import Asked, Authorization, Observer
from scep.endpoint import Way
from storage.database import Step


class OneTimeChallenges(Protocol):
    """What SCEP needs of `issuance.scep_challenges.ScepChallenges`."""

    async def find(self, *, endpoint: str, challenge: str) -> Found | None: ...

    def use(self, found: Found, *, csr: Csr, source: str) -> Sequence[Step]: ...

    async def burn(self, found: Found, *, csr: Csr, source: str, why: str) -> bool: ...


class OneTimeWay:
    def __init__(self, challenges: OneTimeChallenges, *, observer: Observer) -> None:
        self._challenges = challenges
        self._observer = observer

    async def authorize(self, asked: Asked) -> Authorization | None:
        """Raises Rejection(FORBIDDEN) for another request than the challenge was made for; Unavailable."""
        found = await self._challenges.find(endpoint=asked.endpoint.name, challenge=asked.challenge)
        if found is None:
            return None
        if difference := found.terms.difference(asked.csr):
            if not await self._challenges.burn(found, csr=asked.csr, source=asked.source_address, why=difference):
                return None
            self._observer.authorized(endpoint=asked.endpoint.name, way=Way.ONE_TIME.value, result="burnt")
            # Whoever knows the challenge need not know what it was made for.
            raise Rejection(
                Reason.FORBIDDEN,
                f"this challenge was made for another request: {difference}. It opens nothing any more; get another",
            )
        principal = Principal(
            PrincipalKind.SCEP_CLIENT, client_id(found.id), found.terms.roles, source_address=asked.source_address
        )
        used = self._challenges.use(found, csr=asked.csr, source=asked.source_address)
        return Authorization(Way.ONE_TIME, principal, OneTimeChallenge(found.id), found.terms.profile, used)
