"""Validations in flight: begun at once by the worker that got the POST, settled by one compare-and-set.

Nothing durable is written when a validation begins: the authorization stays pending until there is an answer, so a worker that
dies in between has lost nothing, and the client may POST again. Only when a POST stops waiting is a job written, which lets any
worker take the validation up after a crash. Where there are several workers, a claim (claims.py) lets one of them validate, and
the others watch; should a claim be lost, two may validate, and the first result counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import assert_never

from acmeserver import store
from acmeserver.claims import Claims
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.limits import Limits
from acmeserver.ports import ChallengeMethod, EnqueueValidation, ErrorLog
from acmeserver.problems import Problem, ProblemType
from acmeserver.states import AUTHORIZATION_TRANSITIONS, AuthorizationEvent
from acmeserver.store import Authorization
from acmeserver.urls import Urls
from pki.clock import Clock, after
from pki.reasons import Unavailable
from storage.database import Conflict, Database, Step
from validation.challenge import Challenge
from validation.methods import OFFLINE
from validation.outcome import Failed, FailureKind, Proved
from validation.outcome import Outcome as Attempt

Response = tuple[tuple[str, str], ...]
"""The string members of a challenge's answer (RFC 8555 §7.5.1)."""

MOST_IN_FLIGHT = 1024  # of one worker; most of them wait for their next try or for another worker
MOST_AT_ONCE = 256  # attempts: each holds sockets for as long as the other side likes, up to its deadline

# What time alone may heal: records that have not reached every server, a web server that is only starting (RFC 8555 §8.2).
PROPAGATION = frozenset(
    {FailureKind.DNS, FailureKind.CONNECTION, FailureKind.TIMEOUT, FailureKind.UNAUTHORIZED, FailureKind.PERSPECTIVES}
)
CLAIM = timedelta(seconds=30)  # longer than any attempt takes
LOOK_AGAIN = 0.25  # seconds, doubled up to a second: how often somebody else's validation is looked at


@dataclass(frozen=True, slots=True)
class Retries:
    """How often we try ourselves before a challenge has failed, and how long we wait before the second try; then twice that."""

    attempts: int = 1
    delay: timedelta = timedelta(seconds=3)

    def before(self, attempt: int) -> timedelta:
        """What to wait before this attempt; the first is 1."""
        return self.delay * (1 << (attempt - 2)) if attempt > 1 else timedelta(0)


ONCE = Retries()
Sleep = Callable[[float], Awaitable[None]]
MOST_OF_ONE = 64  # of them one account's, so that nobody's slow targets keep the others waiting


@dataclass(frozen=True, slots=True)
class Claimant:
    """The account that says it controls the name."""

    account_id: str
    thumbprint: str
    endpoint: str


@dataclass(slots=True)
class _Flight:
    task: asyncio.Task[Authorization | None]
    account_id: str
    parked: bool = False  # a job row knows of it


@dataclass(frozen=True, slots=True)
class Place:
    """What a validation has to know of the endpoint that it is for."""

    endpoint: AcmeEndpoint
    urls: Urls
    limits: Limits


class Validations:
    """Shared by all endpoints of a worker; `places` is by their names."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        methods: Mapping[str, ChallengeMethod],
        enqueue: EnqueueValidation,
        hold: timedelta,
        places: Mapping[str, Place],
        log: ErrorLog,
        retries: Retries = ONCE,
        claims: Claims | None = None,  # of a server of several workers
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._retries = retries
        self._claims = claims
        self._sleep = sleep
        self._gate = asyncio.Semaphore(MOST_AT_ONCE)
        self._database = database
        self._clock = clock
        self._methods = methods
        self._enqueue = enqueue
        self._hold = hold
        self._places = places
        self._log = log
        self._flights: dict[str, _Flight] = {}

    def in_flight(self, authorization_id: str) -> bool:
        return authorization_id in self._flights

    async def attempt(
        self, authorization: Authorization, kind: str, claimant: Claimant, response: Response = ()
    ) -> Authorization | None:
        """The settled authorization, or None when it is to be read again: still in flight, or settled by somebody else.

        Raises Unavailable when there are too many in flight; the authorization is still pending then.
        """
        flight = self._take_off(authorization, kind, claimant, response)
        done, _ = await asyncio.wait({flight.task}, timeout=self._hold.total_seconds())
        if done:
            return flight.task.result()
        if not flight.parked:
            flight.parked = True
            await self._database.write(self._enqueue(authorization.id, kind))
        return None

    async def resume(self, authorization_id: str, kind: str) -> None:
        """A job's turn: validate what is not settled yet, and wait for the result. Raises Unavailable (then try again)."""
        row = await self._database.fetch_one(store.UNSETTLED_AUTHORIZATION_SQL, authorization_id, self._clock.micros())
        place = self._places.get(row["endpoint"]) if row is not None else None
        if row is None or place is None or kind not in place.endpoint.challenges:
            return  # settled, or the operator has taken the method away since
        if kind in OFFLINE:  # it is in the client's answer, which is not stored; its next POST begins anew
            return
        claimant = Claimant(row["account_id"], row["account_thumbprint"], row["endpoint"])
        flight = self._take_off(store.authorization_from(row), kind, claimant, ())
        await asyncio.shield(flight.task)

    async def drain(self) -> None:
        """Wait until what is in flight now has landed, well or not: a worker's last act before `close`."""
        await asyncio.gather(*(flight.task for flight in self._flights.values()), return_exceptions=True)

    async def close(self) -> None:
        """Stop what is in flight; parked validations are taken up by another worker, the others by the client's next POST."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _take_off(self, authorization: Authorization, kind: str, claimant: Claimant, response: Response) -> _Flight:
        """The one flight of an authorization in this worker: concurrent POSTs share it."""
        flight = self._flights.get(authorization.id)
        if flight is None:
            if len(self._flights) >= MOST_IN_FLIGHT:
                raise Unavailable("validations: too many at once")
            if sum(each.account_id == claimant.account_id for each in self._flights.values()) >= MOST_OF_ONE:
                raise Unavailable("validations: too many of one account at once")
            task = asyncio.create_task(self._fly(authorization, kind, claimant, response))
            flight = self._flights[authorization.id] = _Flight(task, claimant.account_id)
            task.add_done_callback(lambda done: self._land(authorization.id, done))
        return flight

    def _land(self, authorization_id: str, task: asyncio.Task[Authorization | None]) -> None:
        del self._flights[authorization_id]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Unavailable):
            self._log.exception("acme.validation_failed", authorization=authorization_id, exc_info=error)

    async def _fly(
        self, authorization: Authorization, kind: str, claimant: Claimant, response: Response
    ) -> Authorization | None:
        try:
            return await self._validate(authorization, kind, claimant, response)
        except Exception:
            if self._claims is not None:
                with contextlib.suppress(Unavailable):
                    await self._claims.release(authorization.id)  # the next POST begins anew
            raise

    async def _validate(
        self, authorization: Authorization, kind: str, claimant: Claimant, response: Response
    ) -> Authorization | None:
        place = self._places[claimant.endpoint]
        challenge = Challenge(
            identifier=authorization.identifier,
            wildcard=authorization.wildcard,
            token=authorization.token,
            thumbprint=claimant.thumbprint,
            account_url=place.urls.account(claimant.account_id),
            subdomains=authorization.subdomains,
            issuer_domains=place.endpoint.caa_identities,
            hash_prefix=place.urls.account_hash_prefix,
            response=response,
        )
        outcome = await self._tried(challenge, kind, authorization.id)
        if outcome is None:
            return None
        settled = self._settled(authorization, kind, outcome, place.endpoint.authorization_lifetime)
        counted = self._counted(settled, outcome, claimant)
        try:
            await self._database.write(self._settle_step(settled, outcome, claimant), *counted)
        except Conflict:
            return None
        return settled

    async def _tried(self, challenge: Challenge, kind: str, authorization_id: str) -> Attempt | None:
        """RFC 8555 §8.2: what time may heal is tried again. None when another worker has settled it."""
        attempt, earlier = 1, list[Failed]()
        while await self._claimed(authorization_id):
            async with self._gate:
                outcome = await self._methods[kind](challenge)
            evidence = replace(outcome.evidence, attempts=attempt, earlier=tuple(earlier))
            if isinstance(outcome, Proved) or outcome.kind not in PROPAGATION or attempt >= self._retries.attempts:
                return replace(outcome, evidence=evidence)
            earlier.append(replace(outcome, evidence=replace(outcome.evidence, attempts=attempt)))
            attempt += 1
            await self._sleep(self._retries.before(attempt).total_seconds())
        return None

    async def _claimed(self, authorization_id: str) -> bool:
        """Ours to validate, perhaps after the worker that was at it has died; False when it is settled."""
        if self._claims is None:
            return True
        pause, lease = LOOK_AGAIN, CLAIM + self._retries.before(self._retries.attempts)
        while not await self._claims.take(authorization_id, lease):
            await self._sleep(pause)
            pause = min(2 * pause, 1)
            args = (authorization_id, self._clock.micros())
            if await self._database.fetch_one(store.UNSETTLED_AUTHORIZATION_SQL, *args) is None:
                return False
        return True

    def _settled(self, authorization: Authorization, kind: str, outcome: Attempt, lifetime: timedelta) -> Authorization:
        after_event = AUTHORIZATION_TRANSITIONS[authorization.stored]
        match outcome:
            case Proved(until=until):
                now = self._clock.micros()
                expires_at = after(now, lifetime)
                return replace(
                    authorization,
                    stored=after_event[AuthorizationEvent.PROVED],
                    chosen=kind,
                    validated_at=now,
                    expires_at=expires_at if until is None else min(expires_at, until),
                    perspectives=sum(verdict.agrees for verdict in outcome.evidence.perspectives),
                )
            case Failed():
                error = Problem(ProblemType(outcome.problem), outcome.detail).json()
                return replace(authorization, stored=after_event[AuthorizationEvent.FAILED], chosen=kind, error=error)
            case _:
                assert_never(outcome)

    def _counted(self, settled: Authorization, outcome: Attempt, claimant: Claimant) -> list[Step]:
        if isinstance(outcome, Proved):
            return []
        return self._places[claimant.endpoint].limits.failure_steps(
            claimant.account_id, settled.identifier, self._clock.micros()
        )

    def _settle_step(self, settled: Authorization, outcome: Attempt, claimant: Claimant) -> Step:
        error = store.to_json(settled.error) if settled.error is not None else ""
        evidence = store.to_json(outcome.evidence.as_json())
        result = (settled.stored.value, settled.chosen, error, evidence, settled.validated_at, settled.expires_at)
        guarded = (self._clock.micros(), settled.perspectives, claimant.thumbprint)
        return Step(store.SETTLE_AUTHORIZATION_SQL, (settled.id, *result, *guarded))
