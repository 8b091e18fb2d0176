"""The composition root: every object of a worker is made here, from the configuration, once. Read it top to bottom.

Law of this file: no decision and no I/O but opening what has to be open; whoever wants to know what talks to what reads only this.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acmeserver.claims import Claims
from acmeserver.http import routes as acme_routes
from acmeserver.ownership import ExternalOwnership
from acmeserver.retention import Retention
from acmeserver.server import AcmeServer
from acmeserver.settlement import ORIGIN, OrderSettler
from acmeserver.star import ORIGIN as STAR_ORIGIN
from acmeserver.star_settlement import StarSettler
from acmeserver.validations import Retries
from certwright import status
from certwright.compose_acme import OrderRules, acme_endpoint, validation_job
from certwright.compose_est import est_server
from certwright.compose_jobs import Periodic, periodic_jobs, validation_jobs
from certwright.compose_scep import challenge_makers, scep_server
from certwright.compose_validation import caa_checker, challenge_methods, perspectives_of
from certwright.config import Config
from certwright.crl_pages import CrlPages
from certwright.exporter import NotAvailable, TlsInternals, find_internals
from certwright.listeners import Listener, Traffic, application
from certwright.logs import Log
from certwright.measure import MeasuredSigner, Outcomes, ScepCounts
from certwright.metrics import Metrics
from certwright.ocsp_pages import OcspPages
from certwright.pages import MetricsPage
from certwright.proxies import Proxies
from est.http import routes as est_routes
from issuance.approvals import Approvals
from issuance.caa import CaaChecker
from issuance.credentials import Credentials
from issuance.crl import CrlPublisher, CrlSchedule
from issuance.lockout import Lockouts
from issuance.pipeline import Pipeline, Rules
from issuance.request import Settler
from issuance.sealed import SealedSecrets
from issuance.service import Issuance, Observer
from issuance.sweeper import Sweeper
from pki.clock import Clock
from pki.plan import Issuer, IssuerUrls
from pki.sealing import Sealer
from policy.lints import LintGate, pkilint_linter
from rest.http import RestServer
from rest.http import routes as rest_routes
from rest.scep_challenges import ChallengeDesk, Grants
from scep.challenge_page import routes as challenge_page_routes
from scep.http import routes as scep_routes
from signer.api import Signer
from signer.client import SignerClient
from storage.database import Database
from storage.jobs import JobRunner, Jobs
from storage.open import open_database


@dataclass(frozen=True, slots=True)
class Composition:
    """A worker's objects. `warm_up` loads what the first issuance would else wait for; it blocks, so in a thread."""

    database: Database
    signer: Signer
    issuance: Issuance
    publisher: CrlPublisher
    runners: tuple[JobRunner, ...]
    jobs: Jobs
    issuers: Mapping[str, Issuer]
    apps: Mapping[Listener, web.Application]
    traffic: Traffic
    internals: TlsInternals | None  # of TLS, where this Python lets us at them
    warm_up: Callable[[], object]


async def compose(config: Config, signer_path: Path, *, clock: Clock, log: Log, closing: AsyncExitStack) -> Composition:
    """Open and connect everything; `closing` closes it in the opposite order. Raises what `open_database` raises."""
    metrics = Metrics()
    database = await open_database(config.database, migrate=False)
    closing.push_async_callback(database.close)
    client = SignerClient(signer_path)
    closing.push_async_callback(client.close)
    signer = MeasuredSigner(client, metrics)

    issuers = issuers_of(config)
    linter = functools.cache(pkilint_linter)
    settlers: Mapping[str, Settler] = {ORIGIN: OrderSettler(), STAR_ORIGIN: StarSettler()}
    perspectives = perspectives_of(config, closing)
    issuance = make_issuance(
        config,
        issuers=issuers,
        database=database,
        signer=signer,
        clock=clock,
        settlers=settlers,
        observer=Outcomes(metrics),
        gate=LintGate(linter=linter),
        caa=caa_checker(config, clock, perspectives),
    )
    sealer = Sealer(config.sealing_keys) if config.sealing_keys else None
    sealed = SealedSecrets(database=database, clock=clock, sealer=sealer)
    lockouts = Lockouts(database=database, clock=clock)
    credentials = Credentials(database=database, clock=clock, lockouts=lockouts)
    publisher = CrlPublisher(
        issuers=issuers,
        schedules={name: CrlSchedule(one.crl_refresh, one.crl_lifetime) for name, one in config.issuers.items()},
        database=database,
        signer=signer,
        clock=clock,
        new_id=new_id,
    )
    sweeper = Sweeper(database=database, settlers=settlers, clock=clock, new_id=new_id)
    approvals = make_approvals(config, database=database, clock=clock)
    jobs = Jobs(database=database, clock=clock, new_id=new_id)

    acme = AcmeServer(
        base_url=config.base_url,
        endpoints=[acme_endpoint(settings) for settings in config.acme.values()],
        database=database,
        clock=clock,
        issuance=issuance,
        profiles=config.profiles,
        policy=OrderRules(config.policies, issuers=issuers, clock=clock),
        methods=challenge_methods(config, clock, metrics, log, perspectives=perspectives),
        enqueue_validation=functools.partial(validation_job, jobs, clock),
        sealer=sealer,
        log=log,
        retries=Retries(config.validation.attempts, config.validation.retry_delay),
        claims=None if config.database_is_embedded else Claims(database=database, clock=clock, holder=new_id()),
        chaos=config.chaos,
    )
    closing.push_async_callback(acme.close)
    internals = tls_internals(log)
    est = est_server(
        config,
        issuance=issuance,
        database=database,
        clock=clock,
        credentials=credentials,
        lockouts=lockouts,
        sealed=sealed,
        signer=signer,
        internals=internals,
    )
    scep = scep_server(
        config,
        issuance=issuance,
        database=database,
        clock=clock,
        credentials=credentials,
        lockouts=lockouts,
        signer=signer,
        counts=ScepCounts(metrics),
        closing=closing,
    )
    rest = RestServer(issuance=issuance, credentials=credentials, base_url=config.base_url)
    challenge_desk = ChallengeDesk(
        endpoints=challenge_makers(config),
        challenges=scep.challenges,
        grants=Grants(config.policies, config.profiles),
        authenticate=rest.authenticate,
        clock=clock,
        base_url=config.base_url,
    )
    rest_table = rest_routes(rest, challenge_desk.resources)
    pages = status.StatusPages(
        issuers=issuers,
        roots=status.roots_of(issuers.values()),
        database=database,
        signer=signer,
        clock=clock,
        crls=CrlPages(issuers=issuers, database=database, clock=clock),
    )
    ocsp_pages = OcspPages(issuers=issuers, database=database, signer=signer, clock=clock, metrics=metrics)
    metrics_page = MetricsPage(config=config, database=database, metrics=metrics, issuers=issuers)

    scep_table = [*challenge_page_routes(scep.challenge_pages), *scep_routes(scep.server)]
    tables = {
        Listener.HTTPS: [*acme_routes(acme), *rest_table, *scep_table, *status.routes(pages, ocsp_pages)],
        Listener.MTLS: [*est_routes(est), *rest_table, *status.health_routes(pages)],
        # EST (RFC 7030 §3.3) and the challenge page refuse there.
        Listener.HTTP: [*scep_table, *status.routes(pages, ocsp_pages), *est_routes(est)],
        Listener.METRICS: [web.get("/metrics", metrics_page.handle), *status.health_routes(pages)],
    }
    proxies = Proxies(
        config.proxies,
        clock=clock,
        ignored=metrics.ignored_client_certificates.inc,
        warn=lambda source: log.warning(
            "ignored a client certificate in a header: its sender is not listed in `proxies`", source=source
        ),
    )
    traffic = Traffic()
    retention = Retention(database=database, clock=clock, kept=config.retention)
    handlers = periodic_jobs(
        Periodic(publisher=publisher, sweeper=sweeper, approvals=approvals, scep=scep, acme=acme, retention=retention),
        clock=clock,
        unfinished=config.retention.unfinished,
    )
    validations = validation_jobs(acme, clock)
    return Composition(
        database=database,
        signer=signer,
        issuance=issuance,
        publisher=publisher,
        runners=tuple(JobRunner(database=database, jobs=jobs, handlers=one, lanes=2) for one in (handlers, validations)),
        jobs=jobs,
        issuers=issuers,
        apps={
            listener: application(
                listener,
                table,
                log=log,
                metrics=metrics,
                traffic=traffic,
                proxies=proxies if listener is Listener.MTLS else None,
            )
            for listener, table in tables.items()
        },
        traffic=traffic,
        internals=internals,
        warm_up=linter,
    )


def make_issuance(
    config: Config,
    *,
    issuers: Mapping[str, Issuer],
    database: Database,
    signer: Signer,
    clock: Clock,
    settlers: Mapping[str, Settler],
    observer: Observer,
    gate: LintGate,
    caa: CaaChecker | None,
) -> Issuance:
    """The one door."""
    rules = Rules(policies=config.policies, profiles=config.profiles, issuers=issuers)
    pipeline = Pipeline(
        rules=rules,
        database=database,
        signer=signer,
        gate=gate,
        approvals=make_approvals(config, database=database, clock=clock),
        settlers=settlers,
        clock=clock,
        new_id=new_id,
        new_serial=x509.random_serial_number,
        caa=caa,
        ownership=ExternalOwnership(database),
    )
    return Issuance(pipeline=pipeline, rules=rules, database=database, clock=clock, new_id=new_id, observer=observer)


def make_approvals(config: Config, *, database: Database, clock: Clock) -> Approvals:
    """Ids in hex: people type them, and none looks like an option."""
    return Approvals(database=database, clock=clock, new_id=functools.partial(secrets.token_hex, 16), terms=config.approvals)


def new_id() -> str:
    """128 random bits, URL-safe."""
    return secrets.token_urlsafe(16)


def tls_internals(log: Log) -> TlsInternals | None:
    try:
        return find_internals()
    except NotAvailable as why:
        log.warning("no proof of possession linked to TLS 1.3, and no client certificate without clientAuth", why=str(why))
        return None


# ---------------------------------------------------------------------- configuration -> what each part wants


def issuers_of(config: Config) -> Mapping[str, Issuer]:
    return {
        name: Issuer(
            name=name,
            certificate=x509.load_der_x509_certificate(issuer.certificate),
            chain=tuple(x509.load_der_x509_certificate(der) for der in issuer.chain),
            urls=IssuerUrls(
                ca_issuers=f"{config.http_url}/aia/{name}.cer",
                ocsp=f"{config.http_url}/ocsp/{name}",
                crl=f"{config.http_url}/crl/{name}.crl",
            ),
            alternates=tuple(tuple(map(x509.load_der_x509_certificate, chain)) for chain in issuer.alternates),
        )
        for name, issuer in config.issuers.items()
    }


def expected_keys(config: Config) -> Mapping[str, bytes]:
    """Name in the signer -> SubjectPublicKeyInfo (DER) that the configured certificate has."""
    certificates = {name: issuer.certificate for name, issuer in config.issuers.items()}
    certificates |= {authority.key: authority.certificate for authority in config.registration_authorities.values()}
    return {
        key: x509.load_der_x509_certificate(der).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for key, der in certificates.items()
    }
