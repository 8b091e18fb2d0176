"""The challengePassword of a certification request (RFC 8894 §7.3) is what authorises it. There is no way around this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from issuance.credentials import Credential
from issuance.request import ScepChallenge
from pki.csr import Csr
from policy.principal import Principal, PrincipalKind
from scep.endpoint import ScepEndpoint


class Challenges(Protocol):
    """What SCEP needs of `issuance.credentials.Credentials`."""

    async def check_scep_challenge(self, *, endpoint: str, challenge: str) -> Credential: ...


@dataclass(frozen=True, slots=True)
class Authorization:
    """Who asks, what proves it, and the profile that they get."""

    principal: Principal
    evidence: ScepChallenge
    profile: str


async def authorize(csr: Csr, endpoint: ScepEndpoint, *, challenges: Challenges, source_address: str) -> Authorization:
    """Raises Rejection(UNAUTHENTICATED), the same for a wrong challenge and for none: no stored challenge is empty."""
    credential = await challenges.check_scep_challenge(endpoint=endpoint.name, challenge=csr.challenge_password or "")
    principal = Principal(
        kind=PrincipalKind.SCEP_CLIENT, id=credential.id, roles=credential.roles, source_address=source_address
    )
    return Authorization(principal, ScepChallenge(credential.id), credential.profile or endpoint.profile)
