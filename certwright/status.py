"""What relying parties fetch over plain HTTP: roots and issuer certificates (CRLs: crl_pages.py, OCSP: ocsp_pages.py); and whether
we are well.

Nothing here needs a credential and nothing here writes. CRLs and OCSP tell what the database says, some seconds late at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certwright.crl_pages import MAX_AGE, CrlPages, cache, named_issuer
from certwright.ocsp_pages import OcspPages
from pki.certificate import pem
from pki.clock import Clock, to_datetime
from pki.plan import Issuer
from pki.reasons import Unavailable
from signer.api import Signer
from storage.database import Database

CHECK_TIMEOUT = 2.0


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
    crls: CrlPages

    # ------------------------------------------------------------------ trust

    async def roots_pem(self, _request: web.Request) -> web.Response:
        text = "".join(pem(der) for der in self.roots)
        return web.Response(body=text.encode(), content_type="application/x-pem-file", headers=cache(MAX_AGE))

    async def issuer_certificate(self, request: web.Request) -> web.Response:
        issuer = named_issuer(self.issuers, request)
        der = issuer.certificate.public_bytes(Encoding.DER)
        return web.Response(body=der, content_type="application/pkix-cert", headers=cache(MAX_AGE))  # RFC 2585 §4.1

    # ------------------------------------------------------------------ health

    async def livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n", headers=cache(0))

    async def readyz(self, request: web.Request) -> web.Response:
        """503 when something is missing without which we cannot issue; `?verbose` says what, one line per check."""
        checks = await self.checks()
        ok = all(check.ok for check in checks)
        text = "".join(f"[{'ok' if check.ok else 'failed'}] {check.name}: {check.said}\n" for check in checks)
        verdict = "ready\n" if ok else "not ready\n"
        shown = text + verdict if "verbose" in request.query else verdict
        return web.Response(status=200 if ok else 503, text=shown, headers=cache(0))

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
        row = await self.crls.newest(issuer)
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


def health_routes(pages: StatusPages) -> list[web.RouteDef]:
    return [web.get("/livez", pages.livez), web.get("/readyz", pages.readyz)]


def routes(pages: StatusPages, ocsp: OcspPages) -> list[web.RouteDef]:
    return [
        *health_routes(pages),
        web.get("/roots.pem", pages.roots_pem),
        web.get("/aia/{issuer}.cer", pages.issuer_certificate),
        *pages.crls.routes(),
        *ocsp.routes(),
    ]


def roots_of(issuers: Iterable[Issuer]) -> list[bytes]:
    """The self-issued certificates at the ends of the chains, each once."""
    found: dict[bytes, None] = {}
    for issuer in issuers:
        last: x509.Certificate = (issuer.certificate, *issuer.chain)[-1]
        if last.subject == last.issuer:
            found[last.public_bytes(Encoding.DER)] = None
    return list(found)
