"""A development switch: a server that is as hard on its clients as the world may be, so that they are tested for it.

Law of this file: it refuses or delays, nothing else. A nonce comes to the real table first and chaos begins only when that has
taken it; so whatever is refused without chaos is refused with it, by the same words. Configuration refuses the switch where a
listener is not on loopback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from acmeserver.problems import BAD_NONCE, Problem, ProblemType


@dataclass(frozen=True, slots=True)
class Chaos:
    bad_nonce: float  # the share of good nonces that is refused, 0 to 1
    delay: timedelta  # the longest that an answer waits


class Redeemer(Protocol):
    """What the authenticator wants of nonces."""

    async def redeem(self, nonce: str) -> None:
        """Raises Problem(badNonce), Unavailable."""


class ChaoticNonces:
    """Redeems as `nonces` does, then is unfair."""

    def __init__(
        self,
        nonces: Redeemer,
        chaos: Chaos,
        *,
        random: Callable[[int], bytes],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._nonces = nonces
        self._chaos = chaos
        self._random = random
        self._sleep = sleep

    async def redeem(self, nonce: str) -> None:
        await self._nonces.redeem(nonce)
        if self._chaos.delay:
            await self._sleep(self._share() * self._chaos.delay.total_seconds())
        if self._share() < self._chaos.bad_nonce:
            raise Problem(ProblemType.BAD_NONCE, BAD_NONCE)

    def _share(self) -> float:
        """From 0 up to, but not including, 1."""
        return int.from_bytes(self._random(4), "big") / 2**32
