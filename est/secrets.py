"""Callers by what they know: HTTP Basic, Digest, and bearer tokens."""

from __future__ import annotations

from typing import Protocol

from est.auth import challenge, parse_basic
from est.caller import Caller
from est.endpoint import Authentication, EstEndpoint
from est.exchange import Exchange
from issuance.credentials import Credential
from issuance.request import BasicPassword
from pki.reasons import Reason, Rejection
from policy.principal import Principal, PrincipalKind


class Passwords(Protocol):
    """What EST needs of `issuance.credentials.Credentials`."""

    async def check_est_user(self, *, endpoint: str, user: str, password: str) -> Credential: ...


class SecretChecks:
    def __init__(self, credentials: Passwords) -> None:
        self._credentials = credentials

    async def caller(self, exchange: Exchange) -> Caller:
        """Raises Rejection(UNAUTHENTICATED, FORBIDDEN)."""
        endpoint = exchange.endpoint
        if Authentication.BASIC not in endpoint.authenticate:
            raise Rejection(Reason.FORBIDDEN, "this endpoint takes no passwords")
        basic = parse_basic(exchange.request.headers.getall("Authorization", []))
        credential = await self._credentials.check_est_user(endpoint=endpoint.label, user=basic.user, password=basic.password)
        principal = Principal(PrincipalKind.EST_USER, credential.id, credential.roles, source_address=exchange.source_address)
        return Caller(principal, BasicPassword(credential.id), credential.profile)


def challenges(endpoint: EstEndpoint) -> tuple[str, ...]:
    """The WWW-Authenticate values of a 401."""
    return (challenge(endpoint.realm),)
