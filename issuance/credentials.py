"""API keys, EST users and SCEP challenges: made once, shown once, stored hashed, compared in constant time."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pki.clock import Clock
from storage.database import Database


class CredentialKind(enum.Enum):
    API_KEY = "api-key"
    EST_USER = "est-user"
    SCEP_CHALLENGE = "scep-challenge"


@dataclass(frozen=True, slots=True)
class Credential:
    """Who a secret belongs to; the secret itself is not in it."""

    id: str
    kind: CredentialKind
    endpoint: str
    roles: frozenset[str]
    profile: str  # the default one, "" for the endpoint's


class Credentials:
    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def check_api_key(self, presented: str) -> Credential:
        """Raises Rejection(UNAUTHENTICATED), the same for every way to be wrong."""
        raise NotImplementedError

    async def check_est_user(self, *, endpoint: str, user: str, password: str) -> Credential:
        """Raises Rejection(UNAUTHENTICATED), the same for every way to be wrong."""
        raise NotImplementedError

    async def check_scep_challenge(self, *, endpoint: str, challenge: str) -> Credential:
        """Raises Rejection(UNAUTHENTICATED), the same for every way to be wrong."""
        raise NotImplementedError
