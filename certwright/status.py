"""What relying parties fetch over plain HTTP: roots, issuer certificates, CRLs, OCSP; and whether we are well.

Nothing here needs a credential and nothing here writes. CRLs and OCSP tell what the database says, some seconds late at most.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import format_datetime
from urllib.parse import unquote

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certwright.metrics import Metrics
from issuance.revocation import NEWEST_CRL_SQL
from pki.certificate import pem
from pki.clock import Clock, Micros, after, to_datetime
from pki.plan import Issuer
from pki.reasons import Rejection, RevocationReason, Unavailable
from signer.api import Signer
from signer.ocsp import (
    MAX_REQUEST,
    Good,
    OcspError,
    OcspRequest,
    Revoked,
    Status,
    Unknown,
    build_ocsp_tbs,
    finish_ocsp,
    ocsp_error,
    parse_ocsp_request,
)
from storage.database import Database, Row

# A serial with a revocation but no certificate may have been signed all the same: revoked, as a precaution.
OCSP_STATUS_SQL = """
SELECT s.known, r.revoked_at, r.reason FROM (
    SELECT (SELECT 1 FROM certificate WHERE issuer = $1 AND serial = $2) AS known
) s LEFT JOIN revocation r ON r.issuer = $1 AND r.serial = $2
"""
OCSP_LIFE = timedelta(hours=8)  # BR 4.9.10: at least 8 hours
CRL_CACHED = 5.0  # seconds in this worker
MAX_AGE = 30  # seconds in caches between us and relying parties: a revocation is to be seen within 60
CHECK_TIMEOUT = 2.0


@dataclass(slots=True)
class _CachedCrl:
    at: float
    row: Row | None


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    ok: bool
    said: str


@dataclass(slots=True)
class StatusPages:
    """`issuers` by name; `roots` are DER."""

    issuers: Mapping[str, Issuer]
    roots: Iterable[bytes]
    database: Database
    signer: Signer
    clock: Clock
    metrics: Metrics
    _crls: dict[str, _CachedCrl] = field(default_factory=dict)

    # ------------------------------------------------------------------ trust

    async def roots_pem(self, _request: web.Request) -> web.Response:
        text = "".join(pem(der) for der in self.roots)
        return web.Response(body=text.encode(), content_type="application/x-pem-file", headers=_cache(MAX_AGE))

    async def issuer_certificate(self, request: web.Request) -> web.Response:
        issuer = self._issuer(request)
        der = issuer.certificate.public_bytes(Encoding.DER)
        return web.Response(body=der, content_type="application/pkix-cert", headers=_cache(MAX_AGE))  # RFC 2585 §4.1

    async def crl(self, request: web.Request) -> web.Response:
        issuer = self._issuer(request)
        row = await self._newest_crl(issuer.name)
        if row is None:
            return web.Response(status=503, text="the first CRL is being made\n", headers={"Retry-After": "2"})
        tag = f'"{row["number"]}"'
        left = (row["next_update"] - self.clock.micros()) // 1_000_000
        headers = {
            "ETag": tag,
            "Last-Modified": format_datetime(to_datetime(Micros(row["this_update"])), usegmt=True),
            **_cache(max(0, min(MAX_AGE, left))),
        }
        if tag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(body=row["der"], content_type="application/pkix-crl", headers=headers)  # RFC 2585 §4.2

    def _issuer(self, request: web.Request) -> Issuer:
        issuer = self.issuers.get(request.match_info["issuer"])
        if issuer is None:
            raise web.HTTPNotFound
        return issuer

    async def _newest_crl(self, issuer: str) -> Row | None:
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

    # ------------------------------------------------------------------ OCSP

    async def ocsp_get(self, request: web.Request) -> web.Response:
        """RFC 6960 appendix A.1: base64 of the request in the path, URL-encoded or not."""
        issuer = self._issuer(request)
        raw = request.raw_path.partition("?")[0].split("/", 3)[3]
        try:
            data = base64.b64decode(unquote(raw).replace(" ", "+"), validate=True)
        except (binascii.Error, ValueError):
            return _ocsp(ocsp_error(OcspError.MALFORMED_REQUEST))
        return await self._ocsp_answer(issuer, data, cacheable=True)

    async def ocsp_post(self, request: web.Request) -> web.Response:
        """The Content-Type is not looked at: what is no OCSP request is seen soon enough."""
        issuer = self._issuer(request)
        data = bytearray()
        try:
            async for chunk in request.content.iter_chunked(MAX_REQUEST):
                data += chunk
                if len(data) > MAX_REQUEST:
                    break
        except (web.RequestPayloadError, ConnectionResetError):  # the client is gone, or its body is not what its headers say
            return self._ocsp_refusal(issuer, OcspError.MALFORMED_REQUEST)
        return await self._ocsp_answer(issuer, bytes(data), cacheable=False)

    async def _ocsp_answer(self, issuer: Issuer, data: bytes, *, cacheable: bool) -> web.Response:
        try:
            asked = parse_ocsp_request(data)
        except Rejection:
            return self._ocsp_refusal(issuer, OcspError.MALFORMED_REQUEST)
        if not asked.is_for(issuer.certificate):
            return self._ocsp_refusal(issuer, OcspError.UNAUTHORIZED)
        try:
            status = await self._ocsp_status(issuer.name, asked)
            response = await self._signed(issuer, asked, status)
        except Unavailable:
            return self._ocsp_refusal(issuer, OcspError.TRY_LATER)
        self.metrics.ocsp.labels(issuer.name, type(status).__name__.lower()).inc()
        return _ocsp(response, _cache(MAX_AGE) if cacheable and asked.nonce is None else None)

    def _ocsp_refusal(self, issuer: Issuer, error: OcspError) -> web.Response:
        self.metrics.ocsp.labels(issuer.name, error.name.lower()).inc()
        return _ocsp(ocsp_error(error))

    async def _ocsp_status(self, issuer: str, asked: OcspRequest) -> Status:
        row = await self.database.fetch_one(OCSP_STATUS_SQL, issuer, f"{asked.serial:x}")
        if row is None:
            return Unknown()
        if row["revoked_at"] is not None:
            return Revoked(Micros(row["revoked_at"]), RevocationReason(row["reason"]))
        return Unknown() if row["known"] is None else Good()

    async def _signed(self, issuer: Issuer, asked: OcspRequest, status: Status) -> bytes:
        now = self.clock.micros()
        tbs = build_ocsp_tbs(
            issuer_certificate=issuer.certificate,
            request=asked,
            status=status,
            produced_at=now,
            this_update=now,
            next_update=after(now, OCSP_LIFE),
        )
        signature = await self.signer.sign_ocsp(issuer.name, tbs)
        return finish_ocsp(tbs, issuer_certificate=issuer.certificate, signature=signature)

    # ------------------------------------------------------------------ health

    async def livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n", headers=_cache(0))

    async def readyz(self, request: web.Request) -> web.Response:
        """503 when something is missing without which we cannot issue; `?verbose` says what, one line per check."""
        checks = await self.checks()
        ok = all(check.ok for check in checks)
        text = "".join(f"[{'ok' if check.ok else 'failed'}] {check.name}: {check.said}\n" for check in checks)
        verdict = "ready\n" if ok else "not ready\n"
        shown = text + verdict if "verbose" in request.query else verdict
        return web.Response(status=200 if ok else 503, text=shown, headers=_cache(0))

    async def checks(self) -> list[Check]:
        return [
            await _check("database", self._ping(self.database.ping)),
            await _check("signer", self._ping(self.signer.ping)),
            *[await _check(f"crl {name}", self._crl_fresh(name)) for name in self.issuers],
            await _check("clock", self._clock_plausible()),
        ]

    async def _ping(self, ping: Callable[[], Awaitable[None]]) -> Check:
        await ping()
        return Check("", ok=True, said="answers")

    async def _crl_fresh(self, issuer: str) -> Check:
        row = await self._newest_crl(issuer)
        if row is None:
            return Check("", ok=False, said="there is none yet")
        left = (row["next_update"] - self.clock.micros()) // 1_000_000
        if left <= 0:
            return Check("", ok=False, said=f"number {row['number']} expired {-left} s ago")
        return Check("", ok=True, said=f"number {row['number']}, good for {left // 3600} h")

    async def _clock_plausible(self) -> Check:
        """Outside its issuer's life no certificate can be made; a clock that is far off shows here first."""
        now = to_datetime(self.clock.micros())
        for issuer in self.issuers.values():
            certificate = issuer.certificate
            if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
                return Check("", ok=False, said=f"{now:%Y-%m-%dT%H:%M:%SZ} lies outside the validity of issuer {issuer.name}")
        return Check("", ok=True, said=f"{now:%Y-%m-%dT%H:%M:%SZ}")


async def _check(name: str, doing: Awaitable[Check]) -> Check:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            done = await doing
    except Unavailable as outage:
        return Check(name, ok=False, said=f"{outage.what.split(':')[0].split(' ')[0]} is away")
    except TimeoutError:
        return Check(name, ok=False, said=f"no answer within {CHECK_TIMEOUT:.0f} s")
    return Check(name, done.ok, done.said)


def _ocsp(body: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, content_type="application/ocsp-response", headers=headers or {"Cache-Control": "no-store"})


def _cache(seconds: int) -> dict[str, str]:
    return {"Cache-Control": f"public, max-age={seconds}" if seconds > 0 else "no-store"}


def health_routes(pages: StatusPages) -> list[web.RouteDef]:
    return [web.get("/livez", pages.livez), web.get("/readyz", pages.readyz)]


def routes(pages: StatusPages) -> list[web.RouteDef]:
    return [
        *health_routes(pages),
        web.get("/roots.pem", pages.roots_pem),
        web.get("/aia/{issuer}.cer", pages.issuer_certificate),
        web.get("/crl/{issuer}.crl", pages.crl),
        web.get("/ocsp/{issuer}/{request:.+}", pages.ocsp_get),
        web.post("/ocsp/{issuer}", pages.ocsp_post),
        web.post("/ocsp/{issuer}/", pages.ocsp_post),
    ]


def roots_of(issuers: Iterable[Issuer]) -> list[bytes]:
    """The self-issued certificates at the ends of the chains, each once."""
    found: dict[bytes, None] = {}
    for issuer in issuers:
        last: x509.Certificate = (issuer.certificate, *issuer.chain)[-1]
        if last.subject == last.issuer:
            found[last.public_bytes(Encoding.DER)] = None
    return list(found)
