"""Guessing is slowed down: failed attempts to be somebody are counted, and while there are too many, none is looked at.

Law of this file: what is locked is one name from one address, or one address, never a name from everywhere: else anybody could
lock anybody out. It is the same for names that nobody has, and for right secrets. A success takes nothing back: whoever guesses
may have one account of their own. Names are hashed, for people type passwords where their name should be.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from issuance.buckets import Bucket, again, count, said
from issuance.names import prepared
from pki.clock import Clock, Micros
from pki.reasons import Reason, Rejection, Unavailable
from policy.limits import Limit, address_key, terms, wait
from storage.database import Database, Row, Step, Value

T = TypeVar("T")

# Joined to the query that looks for the secret, so that an attempt costs no round trip more.
LOCKS = """(SELECT (SELECT tat FROM rate_bucket WHERE owner = $1 AND name = $2) AS by_name,
    (SELECT tat FROM rate_bucket WHERE owner = $3 AND name = $4) AS by_address) AS locks"""

CHECK_SQL = f"SELECT locks.* FROM {LOCKS}"  # noqa: S608  # constants only


@dataclass(frozen=True, slots=True)
class FailureLimits:
    """What an endpoint puts up with; None is no limit."""

    per_name: Limit | None = None  # of one name from one address
    per_address: Limit | None = None


NO_LIMITS = FailureLimits()


@dataclass(frozen=True, slots=True)
class Attempt:
    """Somebody at `address` says that they are `name`. `kind` tells names apart that only look alike, of users and of tokens."""

    kind: str
    endpoint: str
    name: str
    address: str
    limits: FailureLimits = NO_LIMITS

    @property
    def by_name(self) -> Bucket:
        digest = hashlib.sha256(prepared(self.name).encode("utf-8", "surrogatepass")).hexdigest()
        return Bucket(f"failed/{self.kind}/{self.endpoint}/{address_key(self.address)}", digest)

    @property
    def by_address(self) -> Bucket:
        """Of all kinds of secrets of one endpoint, which have one limit. EST and SCEP may have endpoints of one name, and limits apart:
        in one bucket the one would undo what the other counted.
        """
        endpoint = f"scep/{self.endpoint}" if self.kind.startswith("scep") else self.endpoint
        return Bucket(f"failed/{endpoint}", address_key(self.address))

    @property
    def counted_together(self) -> Bucket | None:
        """The larger of the buckets that it may empty; None where nothing is counted."""
        if self.limits.per_address is not None:
            return self.by_address
        return self.by_name if self.limits.per_name is not None else None

    @property
    def locks(self) -> tuple[str, str, str, str]:
        """$1 to $4 of LOCKS."""
        if self.limits == NO_LIMITS:
            return "", "", "", ""
        by_name, by_address = self.by_name, self.by_address
        return by_name.owner, by_name.name, by_address.owner, by_address.name

    def check(self, row: Row, now: Micros) -> None:
        """`row` has what LOCKS gives. Raises Rejection(RATE_LIMITED)."""
        held = [
            (limit, seconds)
            for limit, tat in ((self.limits.per_name, row["by_name"]), (self.limits.per_address, row["by_address"]))
            if limit is not None and (seconds := wait(tat, terms(limit, now)))
        ]
        if held:
            limit, seconds = max(held, key=lambda each: each[1])
            # Nothing here says whether the name exists, nor whether the secret was right: neither was looked at.
            detail = f"too many failed attempts from {address_key(self.address)}: {said(limit)}; {again(seconds, now)}"
            raise Rejection(Reason.RATE_LIMITED, detail, retry_after=seconds)

    def failed(self, now: Micros) -> Sequence[Step]:
        """To be written when the secret was wrong, in the order of their keys."""
        buckets = sorted(((self.by_name, self.limits.per_name), (self.by_address, self.limits.per_address)))
        return [count(bucket, limit, now) for bucket, limit in buckets if limit is not None]


UNGUARDED = Attempt("", "", "", "")


async def looked_up(database: Database, query: str, attempt: Attempt, now: Micros, *arguments: Value) -> Row:
    """The row of a query on LOCKS, whose own arguments begin at $5. Raises Rejection(RATE_LIMITED) and Unavailable."""
    row = await database.fetch_one(query, *attempt.locks, *arguments)
    if row is None:
        raise AssertionError("a query that always has one row had none")
    attempt.check(row, now)
    return row


class Lockouts:
    """What all that takes secrets from strangers shares in one process. `patience` is how many seconds one waits for a turn."""

    def __init__(self, *, database: Database, clock: Clock, patience: float = 10.0) -> None:
        self._database = database
        self._clock = clock
        self._patience = patience
        self._turns: WeakValueDictionary[tuple[Bucket, int], asyncio.Semaphore] = WeakValueDictionary()
        self._running: set[asyncio.Task[Any]] = set()
        self._uncounted: Sequence[Step] = ()  # the last failure that could not be written

    async def to_its_end(self, attempt: Coroutine[Any, Any, T]) -> T:
        """A guess that nobody waits for any more is a guess: it is looked at and counted, whoever has gone away meanwhile."""
        task = asyncio.create_task(attempt)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits is told; asyncio need not say that nobody was

    @contextlib.asynccontextmanager
    async def turn(self, attempt: Attempt, *, at_once: int = 1) -> AsyncIterator[None]:
        """One attempt at a time (or `at_once`) of whoever is counted together: else all that come at once would be looked at before the first
        is counted, and a lock that opens for one would open for them all. What it reads of the locks has to be read inside. Each
        worker has its own turns.

        Raises Unavailable when it does not come soon, and while a failure is not counted that should be: were the right secret let
        in then, the wrong ones would be told apart without end, at a database that reads and does not write.
        """
        if attempt.counted_together is None:
            yield
            return
        lock = self._turns.setdefault((attempt.counted_together, at_once), asyncio.Semaphore(at_once))
        try:
            async with asyncio.timeout(self._patience):
                await lock.acquire()
        except TimeoutError:
            raise Unavailable("checks of secrets: too many at once from one address", retry_after=2) from None
        try:
            await self._settle()
            yield
        finally:
            lock.release()

    async def _settle(self) -> None:
        if owed := self._uncounted:
            await self._database.write(*owed)
            if self._uncounted is owed:
                self._uncounted = ()

    async def check(self, attempt: Attempt) -> None:
        """Where no query for a secret does it on its way. Raises Rejection(RATE_LIMITED)."""
        if attempt.limits != NO_LIMITS:
            await looked_up(self._database, CHECK_SQL, attempt, self._clock.micros())

    async def failed(self, attempt: Attempt) -> None:
        """Count it. Raises Unavailable: nobody learns that a guess was wrong when it cannot be counted."""
        steps = attempt.failed(self._clock.micros())
        if not steps:
            return
        try:
            await self._database.write(*steps)
        except Unavailable:
            self._uncounted = steps
            raise
