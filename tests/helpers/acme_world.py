"""An ACME server on a real database, with a throw-away CA behind it and scripted validations in front."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from acmeserver.endpoint import AcmeEndpoint, RenewalInfo
from acmeserver.http import routes
from acmeserver.ports import ChallengeMethod, IssuanceDoor, OrderPolicy
from acmeserver.server import AcmeServer
from acmeserver.settlement import ORIGIN, OrderSettler
from issuance.request import IssuanceRequest, Issued, Outcome, Rejected
from pki.clock import Clock, Micros
from pki.identifiers import Identifier
from pki.reasons import Rejection
from pki.sealing import Sealer
from policy.principal import Principal
from policy.profiles import CommonName, KeyUsageBit, LintMode, Profile, Profiles
from storage.database import Conflict, Database, Step
from tests.helpers.acme_client import BASE, AcmeClient, Http, Reply
from tests.helpers.issuance_simulator import SimulatedIssuance, der_of, make_csr
from validation.challenge import Challenge
from validation.outcome import AttemptEvidence, Failed, FailureKind, Proved
from validation.outcome import Outcome as Attempt

ENQUEUE_SQL = (
    "INSERT INTO job (id, kind, dedupe, payload, run_at, lease_until, claim, attempts, created_at) "
    "VALUES ($1, 'validation', $1, $2, 0, 0, '', 0, 0) ON CONFLICT DO NOTHING"
)


def profile(name: str) -> Profile:
    return Profile(
        name=name,
        issuer="issuing",
        validity=timedelta(days=47),
        max_validity=timedelta(days=47),
        backdate=timedelta(0),
        key_usage=frozenset({KeyUsageBit.DIGITAL_SIGNATURE}),
        extended_key_usage=("1.3.6.1.5.5.7.3.1",),
        common_name=CommonName.NONE,
        subject=(),
        must_staple=False,
        allow_wildcard=True,
        require_san=True,
        evidence_max_age=timedelta(days=30),
        caa=False,
        lint=LintMode.SHAPE,
    )


PROFILES = Profiles([profile("tls-server"), profile("short-lived")])

SEALER = Sealer([bytes(range(32))])

ENDPOINTS = (
    AcmeEndpoint(name="default", profiles=("tls-server",), identifiers=("dns", "ip"), roles=frozenset({"acme"})),
    AcmeEndpoint(name="other", profiles=("tls-server",)),
    AcmeEndpoint(
        name="choice",
        profiles=("tls-server", "short-lived"),
        challenges=("http-01", "dns-01"),
        terms_of_service="https://ca.test/terms",
        website="https://ca.test",
        caa_identities=("ca.test",),
        renewal_info=RenewalInfo(),
    ),
)


@dataclass(slots=True)
class ScriptedMethod:
    """Proves every name but those in `failing`; waits for `gate` first."""

    name: str
    clock: Clock
    failing: dict[str, FailureKind] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    raises: list[Exception] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)  # (identifier, key authorization)

    async def __call__(self, challenge: Challenge) -> Attempt:
        identifier = challenge.identifier
        self.calls.append((str(identifier), challenge.key_authorization))
        self.started.set()
        await self.gate.wait()
        if self.raises:
            raise self.raises.pop()
        now = self.clock.micros()
        evidence = AttemptEvidence(self.name, str(identifier), started=now, finished=now)
        kind = self.failing.get(str(identifier))
        return Proved(evidence) if kind is None else Failed(kind, f"{identifier} did not show it", evidence)


@dataclass(slots=True)
class SettlingIssuance(SimulatedIssuance):
    """Signs in memory, and settles the order in the database with the steps that the pipeline would write."""

    database: Database = field(kw_only=True)
    clock: Clock = field(kw_only=True)
    fails_after_began: list[Rejection] = field(default_factory=list)
    settler: OrderSettler = field(default_factory=OrderSettler)

    async def submit(self, request: IssuanceRequest) -> Outcome:
        if self.script:
            return await SimulatedIssuance.submit(self, request)
        assert request.origin is not None
        assert request.origin.kind == ORIGIN
        order, now = request.origin.id, self.clock.micros()
        try:
            await self.database.write(*self.settler.began(order, now=now))
        except Conflict:
            return Rejected(self.settler.not_begun())
        if self.fails_after_began:
            rejection = self.fails_after_began.pop()
            await self.database.write(*self.settler.failed(order, rejection, now=now))
            return Rejected(rejection)
        outcome = await SimulatedIssuance.submit(self, request)
        assert isinstance(outcome, Issued)
        await self.database.write(*self.settler.issued(order, outcome.certificate, now=now))
        return outcome


@dataclass(slots=True)
class ScriptedPolicy:
    refused: Rejection | None = None
    asked: list[tuple[Principal, str, tuple[str, ...]]] = field(default_factory=list)

    def check(
        self,
        *,
        principal: Principal,
        profile: Profile,
        identifiers: Sequence[Identifier],
        not_before: Micros | None,
        not_after: Micros | None,
    ) -> None:
        self.asked.append((principal, profile.name, tuple(str(each) for each in identifiers)))
        if self.refused is not None:
            raise self.refused

    def refuse(self, rejection: Rejection) -> None:
        self.refused = rejection


@dataclass(slots=True)
class RememberedErrors:
    """The log: what was reported as a bug."""

    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def exception(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))


@dataclass(slots=True)
class AcmeWorld:
    server: AcmeServer
    http: Http
    issuance: SettlingIssuance
    http01: ScriptedMethod
    dns01: ScriptedMethod
    policy: ScriptedPolicy
    log: RememberedErrors
    database: Database

    def client(self, endpoint: str = "default") -> AcmeClient:
        return AcmeClient(self.http, endpoint=endpoint)

    async def registered(self, endpoint: str = "default") -> AcmeClient:
        client = self.client(endpoint)
        assert (await client.register()).status == 201
        return client


def enqueue(authorization_id: str, kind: str) -> Step:
    return Step(ENQUEUE_SQL, (authorization_id, kind), rows=None)


def make_server(
    database: Database,
    clock: Clock,
    *,
    issuance: IssuanceDoor,
    policy: OrderPolicy,
    methods: Sequence[ScriptedMethod],
    log: RememberedErrors,
    hold: timedelta = timedelta(seconds=60),
    base_url: str = BASE,
    endpoints: Sequence[AcmeEndpoint] = ENDPOINTS,
    real_methods: Mapping[str, ChallengeMethod] = MappingProxyType({}),
    profiles: Profiles = PROFILES,
    sealer: Sealer = SEALER,
    **more: Any,
) -> AcmeServer:
    return AcmeServer(
        base_url=base_url,
        endpoints=endpoints,
        database=database,
        clock=clock,
        issuance=issuance,
        profiles=profiles,
        policy=policy,
        methods={**{method.name: method for method in methods}, **real_methods},
        enqueue_validation=enqueue,
        sealer=sealer,
        log=log,
        hold=hold,
        **more,
    )


@asynccontextmanager
async def acme_world(
    database: Database,
    clock: Clock,
    *,
    hold: timedelta = timedelta(seconds=60),
    endpoints: Sequence[AcmeEndpoint] = ENDPOINTS,
    real_methods: Mapping[str, ChallengeMethod] = MappingProxyType({}),
    **more: Any,
) -> AsyncIterator[AcmeWorld]:
    """Validations answer at once until a test clears a method's gate; `hold` is how long a POST waits for one.

    `real_methods` take the place of the scripted ones; `more` is for the server (profiles, retries, claims).
    """
    issuance = SettlingIssuance(database=database, clock=clock)
    http01, dns01 = ScriptedMethod("http-01", clock), ScriptedMethod("dns-01", clock)
    policy, log = ScriptedPolicy(), RememberedErrors()
    for method in (http01, dns01):
        method.gate.set()
    server = make_server(
        database,
        clock,
        issuance=issuance,
        policy=policy,
        methods=(http01, dns01),
        log=log,
        hold=hold,
        endpoints=endpoints,
        real_methods=real_methods,
        **more,
    )
    app = web.Application()
    app.add_routes(routes(server))
    async with TestClient(TestServer(app)) as http:
        yield AcmeWorld(server, http, issuance, http01, dns01, policy, log, database)
    await server.close()


async def ready(client: AcmeClient, *names: str, **members: Any) -> Reply:
    order = await client.order(*names, **members)
    assert order.status == 201, order.body
    await client.authorize(order)
    return order


async def issued(client: AcmeClient, *names: str) -> tuple[Reply, Reply]:
    order = await ready(client, *names)
    return order, await client.finalize(order, der_of(make_csr(*names)))
