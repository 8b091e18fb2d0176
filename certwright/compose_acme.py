"""The ACME part of the composition: from its configuration to what `AcmeServer` is made of."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

from acmeserver.endpoint import AcmeEndpoint
from acmeserver.ports import ChallengeMethod
from certwright.config import Config
from certwright.config_acme import AcmeSettings
from certwright.logs import Log
from certwright.measure import measured_method
from certwright.metrics import Metrics
from pki.clock import Clock, after
from pki.identifiers import Identifier
from policy.engine import Deny, Wanted, decide
from policy.principal import Principal
from policy.profiles import Profile
from policy.rules import Policy
from storage.database import Step
from storage.jobs import Jobs
from validation.egress import Egress
from validation.methods import local_methods
from validation.resolver import DnsResolver, Resolver, SystemResolver

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
        renewal_info=settings.renewal_info,
        limits=settings.limits,
        cors=settings.cors,
    )


def resolver_of(config: Config) -> Resolver:
    servers = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in config.validation.resolver]
    return DnsResolver(servers) if servers else SystemResolver()


def challenge_methods(config: Config, clock: Clock, metrics: Metrics, log: Log) -> Mapping[str, ChallengeMethod]:
    methods = local_methods(
        resolver=resolver_of(config),
        egress=Egress(allow_networks=config.validation.allow_networks),
        clock=clock,
        http01_port=config.validation.http01_port,
        tlsalpn01_port=config.validation.tlsalpn01_port,
    )
    return {
        kind: measured_method(kind, method, metrics=metrics, log=log, now=time.perf_counter) for kind, method in methods.items()
    }


class OrderRules:
    """acmeserver.ports.OrderPolicy: nobody proves control of a name that policy would refuse in the end."""

    def __init__(self, policies: tuple[Policy, ...]) -> None:
        self._policies = policies

    def check(self, *, principal: Principal, profile: Profile, identifiers: Sequence[Identifier]) -> None:
        decision = decide(self._policies, principal, Wanted(profile, tuple(identifiers), common_name=None))
        if isinstance(decision, Deny):
            raise decision.rejection


def validation_job(jobs: Jobs, clock: Clock, authorization_id: str, kind: str) -> Step:
    return jobs.enqueue_step(
        "acme-validation",
        {"authorization": authorization_id, "kind": kind},
        run_at=after(clock.micros(), RESUME_AFTER),
        dedupe=f"acme-validation/{authorization_id}",
    )
