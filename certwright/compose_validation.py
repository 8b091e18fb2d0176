"""The validation part of the composition: who is asked for addresses, how control is proved, and who else has to see it."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack

from acmeserver.ports import ChallengeMethod
from certwright.config import Config
from certwright.errors import Refused
from certwright.logs import Log
from certwright.measure import measured_method
from certwright.metrics import Metrics
from issuance.caa import CaaChecker
from pki.clock import Clock
from pki.identifiers import DnsName
from validation.caa import CaaOutcome, check_caa
from validation.egress import Egress
from validation.methods import OFFLINE, local_methods
from validation.onion import is_onion, onion_caa
from validation.perspectiveclient import HttpsPerspective, client_context
from validation.perspectives import Perspective, corroborated, corroborated_caa
from validation.resolver import DnsResolver, Resolver, SystemResolver


def resolver_of(config: Config) -> Resolver:
    servers = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in config.validation.resolver]
    return DnsResolver(servers, require_secure=config.validation.require_dnssec) if servers else SystemResolver()


def perspectives_of(config: Config, closing: AsyncExitStack) -> tuple[Perspective, ...]:
    """In a running event loop; `closing` ends their connections. Raises Refused, OSError."""
    found = []
    for settings in config.validation.perspectives:
        files = {"ca_file": str(settings.ca_file), "certificate": str(settings.certificate), "key": str(settings.key)}
        try:
            context = client_context(**files)
        except ssl.SSLError as error:
            said = f"validation.perspectives.{settings.name}: {settings.key} is not the key of {settings.certificate}, or is encrypted"
            raise Refused(said) from error
        perspective = HttpsPerspective(settings.name, settings.url, context)
        closing.push_async_callback(perspective.close)
        found.append(perspective)
    return tuple(found)


def challenge_methods(
    config: Config, clock: Clock, metrics: Metrics, log: Log, *, perspectives: tuple[Perspective, ...]
) -> Mapping[str, ChallengeMethod]:
    methods = dict(
        local_methods(
            resolver=resolver_of(config),
            egress=Egress(allow_networks=config.validation.allow_networks),
            clock=clock,
            http01_port=config.validation.http01_port,
            tlsalpn01_port=config.validation.tlsalpn01_port,
        )
    )
    if perspectives:
        needed = config.validation.perspectives_needed
        for kind in methods.keys() - OFFLINE:
            methods[kind] = corroborated(kind, methods[kind], perspectives, needed=needed)
    return {
        kind: measured_method(kind, method, metrics=metrics, log=log, now=time.perf_counter) for kind, method in methods.items()
    }


def caa_checker(config: Config, clock: Clock, perspectives: tuple[Perspective, ...]) -> CaaChecker | None:
    """Step 4 of the pipeline. None where nobody has said how CAA records name this CA: then what asks for CAA gets nothing."""
    if not config.validation.caa_identities:
        return None
    resolver = resolver_of(config)

    async def check(name: DnsName, *, account_url: str, methods: frozenset[str]) -> CaaOutcome:
        if is_onion(name):
            return onion_caa(name, clock=clock)
        return await check_caa(
            name.name,
            wildcard=name.wildcard,
            resolver=resolver,
            issuer_domains=config.validation.caa_identities,
            account_url=account_url,
            methods=methods,
            clock=clock,
        )

    if not perspectives:
        return check
    needed, issuer_domains = config.validation.perspectives_needed, config.validation.caa_identities
    return corroborated_caa(check, perspectives, needed=needed, issuer_domains=issuer_domains)
