"""Anti-replay nonces (RFC 8555 §6.5): sealed values, so that nothing is stored until one is used.

A nonce is an AES-GCM box around the time of its making: epoch (4) | box nonce (12) | sealed time (8) | tag (16), base64url.
All nodes share the keys (table nonce_key), so a nonce survives restarts and node changes. Redeeming is one unique insert
into the scratch store, which a crash of the machine may empty. Therefore each epoch names the scratch store that it relies
on, the insert is guarded by that name, and a new scratch store begins a new epoch: whatever was used before stays unusable.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
from datetime import timedelta

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from acmeserver.problems import BAD_NONCE, Problem, ProblemType
from pki.clock import Clock, Micros, after
from pki.strict import base64url, from_base64url
from storage.database import Conflict, Database, Scratch, Step

LIFETIME = timedelta(hours=1)
SKEW = timedelta(minutes=10)  # between the clocks of nodes

KEYS_SQL = "SELECT epoch, key, scratch_id FROM nonce_key ORDER BY epoch DESC"
INSERT_KEY_SQL = "INSERT INTO nonce_key (epoch, key, scratch_id, created_at) VALUES ($1, $2, $3, $4)"
# Keys of epochs that ended so long ago that none of their nonces lives.
DELETE_KEYS_SQL = "DELETE FROM nonce_key WHERE epoch < (SELECT max(epoch) FROM nonce_key WHERE created_at < $1)"
# $1 is a JSON object, nonce -> expires_at.
REDEEM_SQL = (
    "INSERT INTO nonce_used (nonce, expires_at) SELECT key, CAST(CAST(value AS TEXT) AS BIGINT) "
    "FROM json_each(/*pg*/CAST(/*end*/ $1 /*pg*/AS JSON)/*end*/) "
    "WHERE EXISTS (SELECT 1 FROM scratch_id WHERE id = $2) ON CONFLICT DO NOTHING RETURNING nonce"
)
DELETE_USED_SQL = "DELETE FROM nonce_used WHERE expires_at < $1"

_EPOCH = struct.Struct(">I")
_TIME = struct.Struct(">Q")
_COUNTER_BITS = 32
_LENGTH = 4 + 12 + 8 + 16


class _Key:
    """One epoch's key. Box nonces are 8 random octets of this process and a counter, so no two are ever the same."""

    def __init__(self, *, epoch: int, key: bytes, scratch_id: str, random: Callable[[int], bytes]) -> None:
        self.epoch = epoch
        self.scratch_id = scratch_id
        self._prefix = _EPOCH.pack(epoch)
        self._box = AESGCM(key)
        self._random = random
        self._process = random(8)
        self._count = 0

    def seal(self, at: Micros) -> str:
        if self._count >> _COUNTER_BITS:
            self._process, self._count = self._random(8), 0
        nonce = self._process + _EPOCH.pack(self._count)
        self._count += 1
        return base64url(self._prefix + nonce + self._box.encrypt(nonce, _TIME.pack(at), self._prefix))

    def open(self, value: bytes) -> Micros | None:
        try:
            (at,) = _TIME.unpack(self._box.decrypt(value[4:16], value[16:], self._prefix))
        except InvalidTag:
            return None
        return Micros(at)


class _Spending:
    """Nonces on their way into the scratch store: those that arrive while one statement runs go together in the next."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._waiting: dict[str, dict[str, tuple[Micros, asyncio.Future[bool]]]] = {}  # by scratch id and nonce
        self._task: asyncio.Task[None] | None = None

    async def spend(self, nonce: str, *, keep_until: Micros, scratch_id: str) -> bool:
        """False when it is spent already. Raises Unavailable."""
        waiting = self._waiting.setdefault(scratch_id, {})
        if nonce in waiting:
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiting[nonce] = keep_until, future
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            scratch_id = next(iter(self._waiting))
            batch = self._waiting.pop(scratch_id)
            try:
                spent = await self._write(scratch_id, {nonce: keep_until for nonce, (keep_until, _) in batch.items()})
            except Exception as error:  # noqa: BLE001  # it belongs to those who wait, and they get it
                for _, future in batch.values():
                    if not future.done():  # its caller was cancelled
                        future.set_exception(error)
            else:
                for nonce, (_, future) in batch.items():
                    if not future.done():
                        future.set_result(nonce in spent)
        self._task = None

    async def _write(self, scratch_id: str, batch: Mapping[str, Micros]) -> frozenset[str]:
        # Sorted, so that two workers that are sent the same nonces do not wait for each other's.
        values = orjson.dumps(batch, option=orjson.OPT_SORT_KEYS).decode("ascii")
        ((*rows,),) = await self._scratch.write(Step(REDEEM_SQL, (values, scratch_id), rows=None))
        return frozenset(row["nonce"] for row in rows)


class Nonces:
    """Makes and redeems nonces. Safe to share between tasks; every worker of every node has one."""

    def __init__(self, *, database: Database, clock: Clock, random: Callable[[int], bytes]) -> None:
        self._database = database
        self._spending = _Spending(database.scratch)
        self._clock = clock
        self._random = random
        self._keys: dict[int, _Key] = {}
        self._current: _Key | None = None

    async def issue(self) -> str:
        """A fresh nonce. Raises Unavailable, once the keys are known never."""
        current = self._current or await self._refresh()
        return current.seal(self._clock.micros())

    async def redeem(self, nonce: str) -> None:
        """Spend `nonce`, once and for all nodes. Raises Problem(badNonce), Unavailable."""
        now = self._clock.micros()
        key, made_at = await self._open(nonce)
        if not now - LIFETIME // _MICRO < made_at < now + SKEW // _MICRO:
            raise _bad()
        keep_until = after(made_at, LIFETIME + SKEW)
        if not await self._spending.spend(nonce, keep_until=keep_until, scratch_id=key.scratch_id):
            if key is self._current and key.scratch_id != await self._database.scratch.id():
                await self._refresh()
            raise _bad()

    async def clean(self) -> None:
        """Forget what no node would accept any more. To be called every few minutes by one worker."""
        now = self._clock.micros()
        await self._database.scratch.write(Step(DELETE_USED_SQL, (now,), rows=None))
        await self._database.write(Step(DELETE_KEYS_SQL, (after(now, -2 * LIFETIME - SKEW),), rows=None))

    async def _open(self, nonce: str) -> tuple[_Key, Micros]:
        try:
            value = from_base64url(nonce)
        except ValueError as error:
            raise _bad() from error
        if len(value) != _LENGTH:
            raise _bad()
        (epoch,) = _EPOCH.unpack(value[:4])
        if epoch not in self._keys:  # another node began it
            await self._refresh()
        key = self._keys.get(epoch)
        made_at = key.open(value) if key is not None else None
        if key is None or made_at is None:
            raise _bad()
        return key, made_at

    async def _refresh(self) -> _Key:
        """Read the key ring; begin an epoch when the newest relies on a scratch store that is gone."""
        scratch_id = await self._database.scratch.id()
        newest = await self._read_keys()
        while newest is None or newest.scratch_id != scratch_id:
            epoch = newest.epoch + 1 if newest is not None else 1
            key = self._random(32)
            try:
                await self._database.write(Step(INSERT_KEY_SQL, (epoch, key, scratch_id, self._clock.micros())))
            except Conflict:
                scratch_id = await self._database.scratch.id()  # another node was first; take its epoch
            newest = await self._read_keys()
        self._current = newest
        return newest

    async def _read_keys(self) -> _Key | None:
        rows = await self._database.fetch(KEYS_SQL)
        known = self._keys
        self._keys = {
            row["epoch"]: known.get(row["epoch"])
            or _Key(epoch=row["epoch"], key=bytes(row["key"]), scratch_id=row["scratch_id"], random=self._random)
            for row in rows
        }
        return self._keys[rows[0]["epoch"]] if rows else None


_MICRO = timedelta(microseconds=1)


def _bad() -> Problem:
    return Problem(ProblemType.BAD_NONCE, BAD_NONCE)
