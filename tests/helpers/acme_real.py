"""ACME in front of the real pipeline: a throw-away CA, a real database, scripted validations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from acmeserver.endpoint import AcmeEndpoint
from acmeserver.http import routes
from acmeserver.ownership import ExternalOwnership
from acmeserver.server import AcmeServer
from certwright.compose_acme import OrderRules
from issuance.caa import CaaChecker
from policy.profiles import Profile
from policy.rules import Policy
from storage.database import Database
from tests.helpers.acme_client import AcmeClient, Http
from tests.helpers.acme_world import RememberedErrors, ScriptedMethod, make_server
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import Issuing

ROLE = frozenset({"acme"})


@dataclass(slots=True)
class RealAcme:
    server: AcmeServer
    http: Http
    issuing: Issuing
    methods: dict[str, ScriptedMethod]
    log: RememberedErrors

    def client(self, endpoint: str = "default") -> AcmeClient:
        return AcmeClient(self.http, endpoint=endpoint)

    async def registered(self, endpoint: str = "default", **wanted: Any) -> AcmeClient:
        client = self.client(endpoint)
        reply = await client.register(**wanted)
        assert reply.status == 201, reply.body
        return client


@asynccontextmanager
async def real_acme(
    database: Database,
    clock: FakeClock,
    *,
    endpoints: Sequence[AcmeEndpoint],
    profiles: Sequence[Profile],
    policies: Sequence[Policy] | None = None,
    caa: CaaChecker | None = None,
    **more: Any,
) -> AsyncIterator[RealAcme]:
    """`policies` allow every role everything unless a test says otherwise; `more` is for the server."""
    rules = tuple(policies or [Policy("all", ROLE, frozenset(profile.name for profile in profiles), ("*",))])
    issuing = Issuing(database, clock, policies=rules, profiles=profiles, caa=caa, ownership=ExternalOwnership(database))
    methods = {name: ScriptedMethod(name, clock) for name in ("http-01", "dns-01", "tls-alpn-01")}
    for method in methods.values():
        method.gate.set()
    log = RememberedErrors()
    server = make_server(
        database,
        clock,
        issuance=issuing.issuance,
        policy=OrderRules(rules, issuers=issuing.rules.issuers, clock=clock),
        methods=tuple(methods.values()),
        log=log,
        endpoints=endpoints,
        profiles=issuing.rules.profiles,
        **more,
    )
    app = web.Application()
    app.add_routes(routes(server))
    async with TestClient(TestServer(app)) as http:
        yield RealAcme(server, http, issuing, methods, log)
    await server.close()
