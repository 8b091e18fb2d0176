"""Challenges of Microsoft Intune: its devices bring one in their request, and its service says whether the request is the one it was
made for. It is told of every certificate before the device is.

Law of this file: only the code "Success" lets anybody in, and no certificate is given that Intune has not been told of.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from issuance.request import DelegatedChallenge, IssuedCertificate
from pki.clock import Clock
from pki.reasons import Reason, Rejection, Unavailable
from policy.principal import Principal, PrincipalKind
from scep.authorization import LONG, REFUSED, Asked, Authorization, Observer
from scep.endpoint import Way
from scep.intune_api import FOREIGN, SUCCESS, Application, Asker, IntuneApi
from scep.services import NOT_CHECKED, HttpClient, ServiceFailure, Turns

_LOG = logging.getLogger(__name__)

AGAIN = "Microsoft Intune has to be told of this certificate together with its request: send the same PKCSReq once more"


@dataclass(frozen=True, slots=True)
class Intune:
    """One endpoint's. `timeout` is what one question may take, tokens included."""

    application: Application
    timeout: timedelta
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Tenant:
    intune: Intune
    api: IntuneApi
    turns: Turns


class IntuneWay:
    """Of all endpoints that have one. `ChallengeWay` and `Informed`."""

    def __init__(self, services: Mapping[str, tuple[Intune, HttpClient]], *, clock: Clock, observer: Observer) -> None:
        self._tenants = {
            name: _Tenant(intune, IntuneApi(intune.application, client=client, clock=clock), Turns(timeout=intune.timeout))
            for name, (intune, client) in services.items()
        }
        self._observer = observer

    async def authorize(self, asked: Asked) -> Authorization | None:
        """None where it is no challenge of Intune's. Raises Rejection(UNAUTHENTICATED) where it is one, and not good for this request,
        and where there is no clear answer: neither is a failed attempt, for nobody guesses one.
        """
        if len(asked.challenge) < LONG:
            return None  # theirs are enveloped and signed, many hundreds long; no other password is sent to them
        name = asked.endpoint.name
        tenant = self._tenants[name]
        try:
            code = await tenant.turns.run(functools.partial(tenant.api.validate, _asker(asked)))
        except ServiceFailure as failure:
            _log(logging.WARNING, asked, failure.why)
            self._observer.authorized(endpoint=name, way=Way.INTUNE.value, result="failed")
            raise Rejection(Reason.UNAUTHENTICATED, NOT_CHECKED) from failure
        if code == SUCCESS:
            identity = f"intune/{name}"
            principal = Principal(PrincipalKind.SCEP_CLIENT, identity, tenant.intune.roles, source_address=asked.source_address)
            return Authorization(Way.INTUNE, principal, DelegatedChallenge(identity))
        _log(logging.INFO, asked, f"validateRequest: {code}")
        self._observer.authorized(endpoint=name, way=Way.INTUNE.value, result="denied")
        if code in FOREIGN:
            return None
        raise Rejection(Reason.UNAUTHENTICATED, REFUSED)

    async def issued(self, asked: Asked, certificate: IssuedCertificate) -> None:
        """A poll has no request to show to Intune; what was issued is given to whoever sends it again."""
        tenant = self._tenants.get(asked.endpoint.name)
        if tenant is None:
            return  # let in by Intune, polled for after it was taken out of the configuration: there is nobody to tell
        if not asked.csr.der:
            raise Rejection(Reason.CONFLICT, AGAIN)
        told = functools.partial(tenant.api.notify_success, _asker(asked), certificate)
        if (why := await self._notify(tenant, told)) is not None:
            _log(logging.WARNING, asked, f"successNotification of certificate {certificate.serial}: {why}")
            raise Unavailable("Microsoft Intune")

    async def refused(self, asked: Asked, rejection: Rejection) -> None:
        tenant = self._tenants.get(asked.endpoint.name)
        if tenant is None or not asked.csr.der:
            return
        told = functools.partial(tenant.api.notify_failure, _asker(asked), rejection.detail)
        if (why := await self._notify(tenant, told)) is not None:
            _log(logging.WARNING, asked, f"failureNotification: {why}")

    async def _notify(self, tenant: _Tenant, told: Callable[[], Awaitable[str]]) -> str | None:
        """None when Intune has it; else what happened, for the log."""
        try:
            code = await tenant.turns.run(told)
        except ServiceFailure as failure:
            return failure.why
        return None if code == SUCCESS else code


def _asker(asked: Asked) -> Asker:
    return Asker(asked.place.transaction_id, asked.csr.der)


def _log(level: int, asked: Asked, what: str) -> None:
    _LOG.log(level, "SCEP endpoint %s: Intune: %s; transaction %s", asked.endpoint.name, what, asked.place.transaction_id)
