"""The page that gives a one-time challenge to whoever logs in, as Windows' NDES has it at mscep_admin: MDM systems and firewalls read it.

Law of this file: nothing is read of who asks before TLS is certain, and no page makes more challenges than its user may leave unused.
A GET makes something, which RFC 9110 §9.2.1 would not have; that is what those systems send, so no other site's page may send one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from weakref import WeakValueDictionary

from aiohttp import web

from issuance import httpauth
from issuance.credentials import Credential
from issuance.lockout import FailureLimits
from issuance.scep_challenges import Made, Terms
from pki.clock import Clock, Micros
from pki.identifiers import shown
from pki.reasons import Reason, Rejection
from policy.principal import Principal, PrincipalKind
from scep.endpoint import DEFAULT

_LOG = logging.getLogger(__name__)

MAX_UNUSED = 1000  # of one user; NDES has 5, which a fleet on its way uses up at once
_OWN = frozenset({"none", "same-origin"})  # Sec-Fetch-Site of what a person asked for; tools send none at all
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

# What is between the tags, down to the spaces, is what clients look for.
_TITLE = "Network Device Enrollment Service"
_PAGE = """<HTML><Head><Meta HTTP-Equiv="Content-Type" Content="text/html; charset=UTF-16"><Title>{title}</Title></Head><Body>
<P> Certificates for network devices, by the Simple Certificate Enrollment Protocol (SCEP). </P>
{body}
</Body></HTML>
"""
_CHALLENGE = (
    "<P> The thumbprint (hash value) for the CA certificate is: <B> {thumbprint} </B>"
    " <P> The enrollment challenge password is: <B> {challenge} </B>"
    " <P> This password can be used only once and will expire within {minutes} minutes."
    " <P> Each enrollment requires a new challenge password."
    " You can refresh this web page to obtain a new challenge password. </P>"
)
_FULL = (
    "<P> The password cache is full. <P> {unused} challenge passwords that this user was given here are neither used nor expired."
    " Ask again when some are. </P>"
)


@dataclass(frozen=True, slots=True)
class ChallengePage:
    """What the page of one endpoint gives away, for any name."""

    endpoint: str
    ca_certificate: bytes  # DER
    roles: frozenset[str]
    expires: timedelta
    failures: FailureLimits


class Users(Protocol):
    """What the page needs of `issuance.credentials.Credentials`."""

    async def check_scep_user(
        self, *, endpoint: str, user: str, password: str, address: str, limits: FailureLimits
    ) -> Credential: ...


class Challenges(Protocol):
    """What the page needs of `issuance.scep_challenges.ScepChallenges`."""

    async def create(self, terms: Terms, *, lifetime: timedelta, made_by: Principal, began: Micros) -> Made: ...

    async def unused(self, made_by: Principal) -> int: ...


class ChallengePages:
    """Of all endpoints that have one, by endpoint."""

    def __init__(
        self,
        pages: Mapping[str, ChallengePage],
        *,
        users: Users,
        challenges: Challenges,
        clock: Clock,
        most: int = MAX_UNUSED,
    ) -> None:
        self._pages = dict(pages)
        self._users = users
        self._challenges = challenges
        self._clock = clock
        self._most = most
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by user

    async def handle(self, request: web.Request) -> web.Response:
        """Outages and bugs pass on to the listener."""
        page = self._pages.get(request.match_info.get("endpoint", DEFAULT))
        if page is None:
            return _said(404, "there is no challenge page here")
        if not request.secure:
            return _said(403, "the challenge page is served over https only")
        if request.method != "GET":
            return _said(405, "use GET", Allow="GET")
        if request.headers.get("Sec-Fetch-Site", "none") not in _OWN or "Origin" in request.headers:
            return _said(403, "another site's page led here, and each visit makes a challenge; open this address by hand")
        began = self._clock.micros()
        try:
            user = await self._user(page, request)
        except Rejection as rejection:
            return _refused(page, rejection)
        return await self._challenge(page, user, began)

    async def _user(self, page: ChallengePage, request: web.Request) -> Principal:
        """Raises Rejection: UNAUTHENTICATED, RATE_LIMITED; and Unavailable."""
        name, password = parse_basic(request.headers.getall("Authorization", []))
        address = request.remote or ""
        try:
            found = await self._users.check_scep_user(
                endpoint=page.endpoint, user=name, password=password, address=address, limits=page.failures
            )
        except Rejection as rejection:
            what = "is locked out" if rejection.reason is Reason.RATE_LIMITED else "failed to log in"
            _LOG.warning("SCEP challenge page of %s: %s %s from %s", page.endpoint, shown(name), what, address)
            raise
        return Principal(PrincipalKind.SCEP_USER, found.id, frozenset(), source_address=address)

    async def _challenge(self, page: ChallengePage, user: Principal, began: Micros) -> web.Response:
        """One of each user at a time, here; each worker may go one over. `began` is before the password was looked at."""
        async with self._turns.setdefault(user.id, asyncio.Lock()):
            return await self._made(page, user, began)

    async def _made(self, page: ChallengePage, user: Principal, began: Micros) -> web.Response:
        unused = await self._challenges.unused(user)
        if unused >= self._most:
            _LOG.warning(
                "SCEP challenge page of %s: %s has %s unused challenges, and gets no more", page.endpoint, user, unused
            )
            return _html(_FULL.format(unused=unused))
        terms = Terms(page.endpoint, page.roles)
        made = await self._challenges.create(terms, lifetime=page.expires, made_by=user, began=began)
        return _html(
            _CHALLENGE.format(
                thumbprint=thumbprint(page.ca_certificate),
                challenge=made.challenge,
                minutes=int(page.expires.total_seconds()) // 60,
            )
        )


def routes(pages: ChallengePages) -> list[web.RouteDef]:
    """They go before those of scep.http, which take any tail."""
    paths = ("/certsrv/mscep_admin", "/CertSrv/mscep_admin", "/scep/{endpoint}/mscep_admin")
    return [web.route("*", f"{path}{end}", pages.handle) for path in paths for end in ("", "/")]


def parse_basic(headers: list[str]) -> tuple[str, str]:
    """User name and password of the one Authorization header. Raises Rejection(UNAUTHENTICATED)."""
    sent = httpauth.parse_authorization(headers)
    if sent.scheme != "basic":
        raise Rejection(Reason.UNAUTHENTICATED, "send user name and password (RFC 7617); nothing else opens this page")
    basic = httpauth.parse_basic(sent.rest)
    return basic.user, basic.password


def thumbprint(certificate: bytes) -> str:
    """SHA-256 in hex, in groups of eight: no group looks like a challenge, which some clients find by its length alone."""
    digits = hashlib.sha256(certificate).hexdigest().upper()
    return " ".join(digits[start : start + 8] for start in range(0, len(digits), 8))


def _html(body: str) -> web.Response:
    """Little-endian UTF-16 with its mark, as NDES sends it: clients decode exactly that, and only where the status is 200."""
    page = _PAGE.format(title=_TITLE, body=body)
    return web.Response(
        body=b"\xff\xfe" + page.encode("utf-16-le"), content_type="text/html", charset="utf-16", headers=_HEADERS
    )


def _said(status: int, text: str, **headers: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers={"Cache-Control": "no-store", **headers})


def _refused(page: ChallengePage, rejection: Rejection) -> web.Response:
    if rejection.reason is Reason.RATE_LIMITED:
        return _said(429, rejection.detail, **{"Retry-After": str(rejection.retry_after)})
    headers = {"Cache-Control": "no-store", "WWW-Authenticate": f'Basic realm="SCEP {page.endpoint}"'}
    return web.Response(status=401, headers=headers)
