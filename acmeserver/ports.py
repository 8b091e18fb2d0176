"""What the front end needs from outside, as small as it needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from issuance.renewal import RenewalRecord
from issuance.request import IssuanceRequest, Outcome
from issuance.service import CertificateRecord
from pki.clock import Micros
from pki.identifiers import Identifier
from pki.reasons import RevocationReason
from policy.principal import Principal
from policy.profiles import Profile
from storage.database import Step
from validation.challenge import Challenge
from validation.outcome import Outcome as Attempt


class IssuanceDoor(Protocol):
    """The part of `issuance.service.Issuance` that ACME uses."""

    async def submit(self, request: IssuanceRequest) -> Outcome: ...

    async def revoke(self, *, issuer: str, serial: str, reason: RevocationReason, principal: Principal) -> None: ...

    async def certificate(self, serial: str, *, issuer: str | None = None) -> CertificateRecord | None: ...

    async def chain(self, *, issuer: str, serial: str, alternate: int = 0) -> str | None: ...

    def alternates(self, issuer: str) -> int: ...

    async def renewal(self, *, key_identifier: bytes, serial: str) -> RenewalRecord | None: ...


class OrderPolicy(Protocol):
    """Whether an order could ever be granted, asked before anybody is made to prove anything."""

    def check(
        self,
        *,
        principal: Principal,
        profile: Profile,
        identifiers: Sequence[Identifier],
        not_before: Micros | None,
        not_after: Micros | None,
    ) -> None:
        """Raises Rejection, with one SubProblem for each name that is refused."""


class ChallengeMethod(Protocol):
    """One way to prove control (http-01, ...). Does the outbound traffic; never raises for what the client did."""

    async def __call__(self, challenge: Challenge) -> Attempt: ...


class ErrorLog(Protocol):
    """Where bugs are reported, traceback and all (structlog's interface)."""

    def exception(self, event: str, **fields: object) -> object: ...


EnqueueValidation = Callable[[str, str], Step]
"""(authorization id, challenge type) -> the step that makes the job which calls `Authorizations.resume_validation`."""
