"""The ACME part of the composition: from its configuration to what `AcmeServer` is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from acmeserver.endpoint import AcmeEndpoint
from certwright.config_acme import AcmeSettings
from issuance.approvals import refuse_to_wait
from issuance.plan import check_wildcards, validity, wanted_span
from pki.clock import Clock, Micros, after
from pki.identifiers import Identifier
from pki.plan import Issuer
from policy.engine import Wanted, decide
from policy.principal import Principal
from policy.profiles import Profile
from policy.rules import Policy
from storage.database import Step
from storage.jobs import Jobs

# A validation that its worker has not settled by then is tried by whoever claims the job (it may have died).
RESUME_AFTER = timedelta(seconds=15)


def acme_endpoint(settings: AcmeSettings) -> AcmeEndpoint:
    return AcmeEndpoint(
        name=settings.name,
        profiles=settings.profiles,
        challenges=settings.challenges,
        roles=settings.roles,
        terms_of_service=settings.terms_of_service,
        website=settings.website,
        external_account=settings.external_account,
        renewal_info=settings.renewal_info,
        auto_renewal=settings.auto_renewal,
        limits=settings.limits,
        cors=settings.cors,
        identifiers=settings.identifiers,
        authorization_reuse=settings.authorization_reuse,
        order_reuse=settings.order_reuse,
        pre_authorization=settings.pre_authorization,
        subdomains=settings.subdomains,
        caa=settings.caa,
        caa_identities=settings.caa_identities,
    )


class OrderRules:
    """acmeserver.ports.OrderPolicy: nobody proves control of a name for what would be refused in the end.

    That goes for an approval, too: an order is never left in `processing` for a person to come.
    """

    def __init__(self, policies: tuple[Policy, ...], *, issuers: Mapping[str, Issuer], clock: Clock) -> None:
        self._policies = policies
        self._issuers = issuers
        self._clock = clock

    def check(
        self,
        *,
        principal: Principal,
        profile: Profile,
        identifiers: Sequence[Identifier],
        not_before: Micros | None,
        not_after: Micros | None,
    ) -> None:
        now = self._clock.micros()
        check_wildcards(identifiers, profile)
        span = wanted_span(profile, not_before=not_before, not_after=not_after, now=now)
        validity(profile, self._issuers[profile.issuer], not_before=not_before, not_after=not_after, now=now)
        refuse_to_wait(decide(self._policies, principal, Wanted(profile, tuple(identifiers), common_name=None, validity=span)))


def validation_job(jobs: Jobs, clock: Clock, authorization_id: str, kind: str) -> Step:
    return jobs.enqueue_step(
        "acme-validation",
        {"authorization": authorization_id, "kind": kind},
        run_at=after(clock.micros(), RESUME_AFTER),
        dedupe=f"acme-validation/{authorization_id}",
    )
