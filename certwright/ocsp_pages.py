"""OCSP over plain HTTP (RFC 6960 appendix A, RFC 5019): what the database says, now."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import unquote

from aiohttp import web

from certwright.crl_pages import MAX_AGE, cache, named_issuer
from certwright.metrics import Metrics
from pki.clock import Clock, Micros, after
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
from storage.database import Database

# A serial with a revocation but no certificate may have been signed all the same: revoked, as a precaution.
OCSP_STATUS_SQL = """
SELECT s.known, r.revoked_at, r.reason FROM (
    SELECT (SELECT 1 FROM certificate WHERE issuer = $1 AND serial = $2) AS known
) s LEFT JOIN revocation r ON r.issuer = $1 AND r.serial = $2
"""
OCSP_LIFE = timedelta(hours=8)  # BR 4.9.10: at least 8 hours


@dataclass(slots=True)
class OcspPages:
    """`issuers` by name."""

    issuers: Mapping[str, Issuer]
    database: Database
    signer: Signer
    clock: Clock
    metrics: Metrics

    async def get(self, request: web.Request) -> web.Response:
        """RFC 6960 appendix A.1: base64 of the request in the path, URL-encoded or not."""
        issuer = named_issuer(self.issuers, request)
        raw = request.raw_path.partition("?")[0].split("/", 3)[3]
        try:
            data = base64.b64decode(unquote(raw).replace(" ", "+"), validate=True)
        except (binascii.Error, ValueError):
            return _ocsp(ocsp_error(OcspError.MALFORMED_REQUEST))
        return await self._answer(issuer, data, cacheable=True)

    async def post(self, request: web.Request) -> web.Response:
        """The Content-Type is not looked at: what is no OCSP request is seen soon enough."""
        issuer = named_issuer(self.issuers, request)
        data = bytearray()
        try:
            async for chunk in request.content.iter_chunked(MAX_REQUEST):
                data += chunk
                if len(data) > MAX_REQUEST:
                    break
        except (web.RequestPayloadError, ConnectionResetError):  # the client is gone, or its body is not what its headers say
            return self._refusal(issuer, OcspError.MALFORMED_REQUEST)
        return await self._answer(issuer, bytes(data), cacheable=False)

    async def _answer(self, issuer: Issuer, data: bytes, *, cacheable: bool) -> web.Response:
        try:
            asked = parse_ocsp_request(data)
        except Rejection:
            return self._refusal(issuer, OcspError.MALFORMED_REQUEST)
        if not asked.is_for(issuer.certificate):
            return self._refusal(issuer, OcspError.UNAUTHORIZED)
        try:
            status = await self._status(issuer.name, asked)
            response = await self._signed(issuer, asked, status)
        except Unavailable:
            return self._refusal(issuer, OcspError.TRY_LATER)
        self.metrics.ocsp.labels(issuer.name, type(status).__name__.lower()).inc()
        return _ocsp(response, cache(MAX_AGE) if cacheable and asked.nonce is None else None)

    def _refusal(self, issuer: Issuer, error: OcspError) -> web.Response:
        self.metrics.ocsp.labels(issuer.name, error.name.lower()).inc()
        return _ocsp(ocsp_error(error))

    async def _status(self, issuer: str, asked: OcspRequest) -> Status:
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

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/ocsp/{issuer}/{request:.+}", self.get),
            web.post("/ocsp/{issuer}", self.post),
            web.post("/ocsp/{issuer}/", self.post),
        ]


def _ocsp(body: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, content_type="application/ocsp-response", headers=headers or {"Cache-Control": "no-store"})
