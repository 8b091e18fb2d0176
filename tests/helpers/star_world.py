"""Self-renewing orders on a server with the real pipeline behind it, and a clock that a test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509

from acmeserver.endpoint import AcmeEndpoint, AutoRenewalRules
from acmeserver.http import routes
from acmeserver.server import AcmeServer
from acmeserver.star import ORIGIN as STAR
from acmeserver.star_settlement import StarSettler
from pki.clock import Micros, after, rfc3339
from policy.profiles import Profile, Profiles
from storage.database import Database
from tests.helpers.acme_client import AcmeClient, Http, Reply
from tests.helpers.acme_world import RememberedErrors, ScriptedMethod, ScriptedPolicy, make_server, ready
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr
from tests.helpers.issuing import Issuing
from tests.helpers.profiles import profile

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
RULES = AutoRenewalRules(min_lifetime=DAY, max_duration=30 * DAY, allow_get=True)
PROFILE = replace(profile(), evidence_max_age=40 * DAY)
ENDPOINT = AcmeEndpoint(name="default", profiles=("tls-server",), roles=frozenset({"tester"}), auto_renewal=RULES)
ENDPOINTS = (
    ENDPOINT,
    replace(ENDPOINT, name="closed", auto_renewal=replace(RULES, allow_get=False)),
    replace(ENDPOINT, name="off", auto_renewal=None),
)


@dataclass(slots=True)
class TimedPolicy(ScriptedPolicy):
    """Remembers for which times it was asked."""

    times: list[tuple[Micros | None, Micros | None]] = field(default_factory=list)

    def check(self, *, not_before: Micros | None, not_after: Micros | None, **asked: Any) -> None:
        self.times.append((not_before, not_after))
        ScriptedPolicy.check(self, not_before=not_before, not_after=not_after, **asked)


@dataclass(slots=True)
class World:
    server: AcmeServer
    http: Http
    issuing: Issuing
    clock: FakeClock
    database: Database
    policy: TimedPolicy

    async def registered(self, endpoint: str = "default") -> AcmeClient:
        client = AcmeClient(self.http, endpoint=endpoint)
        assert (await client.register()).status == 201
        return client

    async def terms(self, *, days: float = 10, **changes: object) -> dict[str, object]:
        end = rfc3339(after(self.clock.micros(), timedelta(days=days)))
        return {"end-date": end, "lifetime": 4 * 86_400, **changes}

    async def issued(self, client: AcmeClient, *names: str, **changes: Any) -> tuple[Reply, Reply]:
        order = await ready(client, *(names or ("a.example.com",)), **{"auto-renewal": await self.terms(**changes)})
        final = await client.finalize(order, der_of(make_csr(*(names or ("a.example.com",)))))
        assert final.status == 200, final.body
        return order, final

    async def later(self, span: timedelta) -> None:
        self.clock.advance(span)
        while await self.server.renew_stars():
            pass

    async def leaves(self) -> list[x509.Certificate]:
        rows = await self.database.fetch("SELECT der FROM certificate ORDER BY issued_at, not_before, not_after")
        return [x509.load_der_x509_certificate(bytes(row["der"])) for row in rows]

    async def star(self) -> dict[str, Any]:
        (row,) = await self.database.fetch("SELECT * FROM acme_star")
        return dict(row)


@asynccontextmanager
async def star_world(database: Database, clock: FakeClock, *, made_by: Profile = PROFILE) -> AsyncIterator[World]:
    issuing = Issuing(database, clock, profiles=(made_by,), settlers={STAR: StarSettler()})
    method, policy = ScriptedMethod("http-01", clock), TimedPolicy()
    method.gate.set()
    server = make_server(
        database,
        clock,
        issuance=issuing.issuance,
        policy=policy,
        methods=[method],
        log=RememberedErrors(),
        endpoints=ENDPOINTS,
        profiles=Profiles([made_by]),
    )
    app = web.Application()
    app.add_routes(routes(server))
    async with TestClient(TestServer(app)) as http:
        yield World(server, http, issuing, clock, database, policy)
    await server.close()
