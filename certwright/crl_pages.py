"""CRLs over plain HTTP (RFC 5280 §4.2.1.13), with what caches have to know."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import format_datetime

from aiohttp import web

from issuance.crl import NEWEST_CRL_SQL
from pki.clock import Clock, Micros, to_datetime
from pki.plan import Issuer
from pki.reasons import Unavailable
from storage.database import Database, Row

CRL_CACHED = 5.0  # seconds in this worker
MAX_AGE = 30  # seconds in caches between us and relying parties: a revocation is to be seen within 60


@dataclass(slots=True)
class _CachedCrl:
    at: float
    row: Row | None


@dataclass(slots=True)
class CrlPages:
    """`issuers` by name."""

    issuers: Mapping[str, Issuer]
    database: Database
    clock: Clock
    _crls: dict[str, _CachedCrl] = field(default_factory=dict)

    async def crl(self, request: web.Request) -> web.Response:
        issuer = named_issuer(self.issuers, request)
        row = await self.newest(issuer.name)
        if row is None:
            return web.Response(status=503, text="the first CRL is being made\n", headers={"Retry-After": "2"})
        tag = f'"{row["number"]}"'
        left = (row["next_update"] - self.clock.micros()) // 1_000_000
        headers = {
            "ETag": tag,
            "Last-Modified": format_datetime(to_datetime(Micros(row["this_update"])), usegmt=True),
            **cache(max(0, min(MAX_AGE, left))),
        }
        if tag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(body=row["der"], content_type="application/pkix-crl", headers=headers)  # RFC 2585 §4.2

    async def newest(self, issuer: str) -> Row | None:
        cached = self._crls.get(issuer)
        if cached is not None and time.monotonic() - cached.at < CRL_CACHED:
            return cached.row
        try:
            row = await self.database.fetch_one(NEWEST_CRL_SQL, issuer)
        except Unavailable:
            if cached is None or cached.row is None:
                raise
            row = cached.row  # signed, and it says itself how long it counts
        self._crls[issuer] = _CachedCrl(time.monotonic(), row)
        return row

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/crl/{issuer}.crl", self.crl)]


def named_issuer(issuers: Mapping[str, Issuer], request: web.Request) -> Issuer:
    """The one in the path. Raises HTTPNotFound."""
    issuer = issuers.get(request.match_info["issuer"])
    if issuer is None:
        raise web.HTTPNotFound
    return issuer


def cache(seconds: int) -> dict[str, str]:
    """How long caches may keep it; 0 is not at all."""
    return {"Cache-Control": f"public, max-age={seconds}" if seconds > 0 else "no-store"}
