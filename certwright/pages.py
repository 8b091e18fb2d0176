"""/metrics: what was counted, and the facts that only the database and the files know, read when somebody asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from aiohttp import web
from cryptography import x509

from certwright.config import Config
from certwright.metrics import CONTENT_TYPE, Metrics
from pki.plan import Issuer
from pki.reasons import Unavailable
from storage.database import Database

NEXT_UPDATES_SQL = "SELECT issuer, max(next_update) AS next_update FROM crl GROUP BY issuer"
JOBS_SQL = (
    "SELECT kind, CASE WHEN claim = '' THEN 'waiting' ELSE 'claimed' END AS state, count(*) AS jobs FROM job GROUP BY 1, 2"
)
APPROVALS_SQL = "SELECT count(*) AS pending FROM approval_request WHERE state = 'pending'"


class MetricsPage:
    def __init__(self, *, config: Config, database: Database, metrics: Metrics, issuers: Mapping[str, Issuer]) -> None:
        self._database = database
        self._metrics = metrics
        self._seen: set[tuple[str, str]] = set()
        for name, issuer in issuers.items():
            metrics.issuer_expiration.labels(name).set(issuer.certificate.not_valid_after_utc.timestamp())
        own = x509.load_pem_x509_certificate(config.tls_certificate.read_bytes())
        metrics.server_expiration.set(own.not_valid_after_utc.timestamp())

    async def handle(self, _request: web.Request) -> web.Response:
        with contextlib.suppress(Unavailable):  # what was counted is still worth telling, most of all then
            await self._read()
        text = await asyncio.to_thread(self._metrics.exposition)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def _read(self) -> None:
        for row in await self._database.fetch(NEXT_UPDATES_SQL):
            self._metrics.crl_next_update.labels(row["issuer"]).set(row["next_update"] / 1_000_000)
        for row in await self._database.fetch(APPROVALS_SQL):
            self._metrics.approvals_pending.labels("approver").set(row["pending"])
        counted = {(row["kind"], row["state"]): row["jobs"] for row in await self._database.fetch(JOBS_SQL)}
        self._seen |= counted.keys()
        for kind, state in self._seen:
            self._metrics.jobs.labels(kind, state).set(counted.get((kind, state), 0))
