"""Callers by what they know: HTTP Basic, Digest, and bearer tokens.

Law of this file: which schemes a label takes is looked at before anything in the header is; a secret is checked for the label that it
was sent to, and no other; what failed is counted there before it is answered.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from est.caller import Caller
from est.digest import DigestAnswer, Nonces, StaleNonce, is_right, malformed, parse_digest, same_target
from est.digest import challenges as digest_challenges
from est.endpoint import Authentication, EstEndpoint
from est.exchange import Exchange
from issuance.credentials import Credential
from issuance.digests import DigestHashes
from issuance.httpauth import challenge, parse_authorization, parse_basic, parse_bearer
from issuance.lockout import FailureLimits
from issuance.request import BasicPassword, BearerToken, DigestPassword
from pki.clock import Clock
from pki.identifiers import shown
from pki.reasons import Reason, Rejection
from policy.principal import Principal, PrincipalKind

_LOG = logging.getLogger(__name__)
SECRETS = frozenset({Authentication.BASIC, Authentication.DIGEST, Authentication.BEARER})


class Passwords(Protocol):
    """What EST needs of `issuance.credentials.Credentials`."""

    async def check_est_user(
        self, *, endpoint: str, user: str, password: str, address: str, limits: FailureLimits
    ) -> Credential: ...

    async def check_est_token(self, *, endpoint: str, token: str, address: str, limits: FailureLimits) -> Credential: ...


class DigestUsers(Protocol):
    """What EST needs of `issuance.digests.Digests`."""

    async def check(
        self, *, endpoint: str, user: str, answers: Callable[[DigestHashes], bool], address: str, limits: FailureLimits
    ) -> Credential: ...


@dataclass(frozen=True, slots=True)
class DigestLogin:
    """What labels with Digest take; there is none without sealing keys."""

    users: DigestUsers
    nonces: Nonces
    clock: Clock


class SecretChecks:
    def __init__(self, credentials: Passwords, *, digest: DigestLogin | None = None) -> None:
        self._credentials = credentials
        self._digest = digest

    async def caller(self, exchange: Exchange) -> Caller:
        """Raises Rejection: UNAUTHENTICATED, FORBIDDEN (nothing of the kind is taken here) or RATE_LIMITED; and Unavailable."""
        taken = exchange.endpoint.authenticate
        if not taken & SECRETS:
            raise Rejection(Reason.FORBIDDEN, "this endpoint takes client certificates, and neither passwords nor tokens")
        sent = parse_authorization(exchange.request.headers.getall("Authorization", []))
        match sent.scheme:
            case "basic" if Authentication.BASIC in taken:
                return await self._basic(exchange, sent.rest)
            case "digest" if Authentication.DIGEST in taken:
                return await self._by_digest(exchange, sent.rest)
            case "bearer" if Authentication.BEARER in taken:
                return await self._bearer(exchange, sent.rest)
            case _:
                schemes = ", ".join(sorted(each.value for each in taken & SECRETS))
                raise Rejection(Reason.UNAUTHENTICATED, f"this endpoint takes other credentials than these: {schemes}")

    def challenges(self, endpoint: EstEndpoint, why: Rejection) -> tuple[str, ...]:
        """The WWW-Authenticate values of the 401 for `why`. libest and BouncyCastle look at the first alone, so it is the strongest."""
        values: list[str] = []
        if Authentication.DIGEST in endpoint.authenticate:
            login = self._login()
            nonce = login.nonces.new(endpoint.label, login.clock.micros())
            values += digest_challenges(realm=endpoint.realm, nonce=nonce, stale=isinstance(why, StaleNonce))
        if Authentication.BASIC in endpoint.authenticate:
            values.append(challenge("Basic", endpoint.realm))
        if Authentication.BEARER in endpoint.authenticate:
            values.append(challenge("Bearer", endpoint.realm))
        return tuple(values)

    async def _basic(self, exchange: Exchange, rest: str) -> Caller:
        basic = parse_basic(rest)
        with _logged(exchange, basic.user):
            credential = await self._credentials.check_est_user(
                endpoint=exchange.endpoint.label,
                user=basic.user,
                password=basic.password,
                address=exchange.source_address,
                limits=_limits(exchange),
            )
        return _caller(exchange, PrincipalKind.EST_USER, credential, BasicPassword(credential.id))

    async def _bearer(self, exchange: Exchange, rest: str) -> Caller:
        token = parse_bearer(rest)
        with _logged(exchange, "a token"):
            credential = await self._credentials.check_est_token(
                endpoint=exchange.endpoint.label, token=token, address=exchange.source_address, limits=_limits(exchange)
            )
        return _caller(exchange, PrincipalKind.EST_TOKEN, credential, BearerToken(credential.id))

    async def _by_digest(self, exchange: Exchange, rest: str) -> Caller:
        login, endpoint = self._login(), exchange.endpoint
        answer, now = parse_digest(rest), login.clock.micros()
        if answer.realm != endpoint.realm or not same_target(answer.uri, exchange.request.raw_path):
            raise malformed()
        # Before anything is compared: an answer to no challenge of ours is no attempt, for nothing can be learned by it.
        login.nonces.check(answer.nonce, endpoint.label, now)
        method = exchange.request.method
        with _logged(exchange, answer.user):
            credential = await login.users.check(
                endpoint=endpoint.label,
                user=answer.user,
                answers=lambda hashes: is_right(answer, method=method, secret=_secret(hashes, answer)),
                address=exchange.source_address,
                limits=_limits(exchange),
            )
        login.nonces.use(answer, now)
        return _caller(exchange, PrincipalKind.EST_USER, credential, DigestPassword(credential.id))

    def _login(self) -> DigestLogin:
        if self._digest is None:
            raise AssertionError("a label takes Digest, and there is nothing to seal with: the configuration refuses that")
        return self._digest


def _secret(hashes: DigestHashes, answer: DigestAnswer) -> str:
    return hashes.md5 if answer.algorithm == "MD5" else hashes.sha256


def _caller(
    exchange: Exchange, kind: PrincipalKind, credential: Credential, evidence: BasicPassword | BearerToken | DigestPassword
) -> Caller:
    principal = Principal(kind, credential.id, credential.roles, source_address=exchange.source_address)
    return Caller(principal, evidence, credential.profile)


def _limits(exchange: Exchange) -> FailureLimits:
    limits = exchange.endpoint.limits
    return FailureLimits(per_name=limits.failures_per_user, per_address=limits.failures_per_address)


@contextlib.contextmanager
def _logged(exchange: Exchange, who: str) -> Iterator[None]:
    """Who keeps guessing has to be seen by whoever reads the log; what was guessed is not in it."""
    try:
        yield
    except Rejection as rejection:
        what = "is locked out" if rejection.reason is Reason.RATE_LIMITED else "failed to log in"
        _LOG.warning("EST %s: %s %s from %s", exchange.endpoint.label, shown(who), what, exchange.source_address)
        raise
