"""Stop-watches around what other floors do; they know nothing of being measured."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from acmeserver.ports import ChallengeMethod
from certwright.logs import Log
from certwright.metrics import Metrics
from pki.cms.transport import KeyTransport
from signer.api import Hash, Signer
from validation.challenge import Challenge
from validation.outcome import Failed, Outcome, Proved


class Outcomes:
    """`issuance.service.Observer`."""

    def __init__(self, metrics: Metrics) -> None:
        self._issued = metrics.issued

    def outcome(self, *, profile: str, channel: str, result: str) -> None:
        self._issued.labels(profile, channel, result).inc()


class ScepCounts:
    """`scep.authorization.Observer`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def authorized(self, *, endpoint: str, way: str, result: str) -> None:
        self._metrics.scep_authorizations.labels(endpoint, way, result).inc()

    def answered(self, *, endpoint: str, message_type: str, result: str) -> None:
        self._metrics.scep_messages.labels(endpoint, message_type, result).inc()

    def legacy(self, *, endpoint: str, algorithm: str) -> None:
        self._metrics.scep_legacy.labels(endpoint, algorithm).inc()


class MeasuredSigner:
    """`signer.api.Signer`, each signature timed, its way through the socket included."""

    def __init__(self, signer: Signer, metrics: Metrics) -> None:
        self._signer = signer
        self._seconds = {
            operation: metrics.sign_seconds.labels(operation)
            for operation in ("certificate", "crl", "ocsp", "announcement", "ra-sign", "ra-decrypt")
        }

    async def _timed(self, operation: str, doing: Awaitable[bytes]) -> bytes:
        started = time.perf_counter()
        done = await doing
        self._seconds[operation].observe(time.perf_counter() - started)
        return done

    async def public_key(self, key: str) -> bytes:
        return await self._signer.public_key(key)

    async def sign_certificate(self, key: str, tbs: bytes) -> bytes:
        return await self._timed("certificate", self._signer.sign_certificate(key, tbs))

    async def sign_crl(self, key: str, tbs: bytes) -> bytes:
        return await self._timed("crl", self._signer.sign_crl(key, tbs))

    async def sign_ocsp(self, key: str, tbs: bytes) -> bytes:
        return await self._timed("ocsp", self._signer.sign_ocsp(key, tbs))

    async def sign_announcement(self, key: str, attributes: bytes) -> bytes:
        return await self._timed("announcement", self._signer.sign_announcement(key, attributes))

    async def ra_sign(self, key: str, data: bytes, digest: Hash) -> bytes:
        return await self._timed("ra-sign", self._signer.ra_sign(key, data, digest))

    async def ra_decrypt(self, key: str, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        return await self._timed("ra-decrypt", self._signer.ra_decrypt(key, ciphertext, length, transport))

    async def ping(self) -> None:
        await self._signer.ping()

    async def close(self) -> None:
        await self._signer.close()


def measured_method(
    kind: str, method: ChallengeMethod, *, metrics: Metrics, log: Log, now: Callable[[], float]
) -> ChallengeMethod:
    """Timed, and in the log when it failed: the operator whose network is in the way sees what the client is told."""

    async def measured(challenge: Challenge) -> Outcome:
        started = now()
        outcome = await method(challenge)
        result = "proved" if isinstance(outcome, Proved) else outcome.kind.value
        if isinstance(outcome, Failed):
            log.info("validation failed", method=kind, identifier=str(challenge.identifier), kind=result, detail=outcome.detail)
        for verdict in outcome.evidence.perspectives:
            if not verdict.agrees:
                log.warning("perspective differs", method=kind, identifier=str(challenge.identifier), **verdict.as_json())
        metrics.validation_seconds.labels(kind, result).observe(now() - started)
        return outcome

    return measured
