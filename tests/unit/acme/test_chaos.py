"""The development switch `chaos`: it refuses and delays what was good, and never takes what was not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise

import pytest

from acmeserver.chaos import Chaos, ChaoticNonces
from acmeserver.problems import BAD_NONCE, Problem, ProblemType


class OneNonce:
    """Takes "good", once."""

    def __init__(self) -> None:
        self.left = {"good"}

    async def redeem(self, nonce: str) -> None:
        if nonce not in self.left:
            raise Problem(ProblemType.BAD_NONCE, BAD_NONCE)
        self.left.remove(nonce)


class Naps:
    def __init__(self) -> None:
        self.taken: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)


def lowest(count: int) -> bytes:
    return bytes(count)


def highest(count: int) -> bytes:
    return b"\xff" * count


async def refused(nonces: ChaoticNonces, nonce: str) -> bool:
    try:
        await nonces.redeem(nonce)
    except Problem as problem:
        assert (problem.type, problem.detail) == (ProblemType.BAD_NONCE, BAD_NONCE)
        return True
    return False


@pytest.mark.parametrize("random", [lowest, highest])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
async def test_what_was_not_good_is_not_good_by_chaos(random: Callable[[int], bytes], share: float) -> None:
    nonces = ChaoticNonces(OneNonce(), Chaos(share, timedelta(0)), random=random)
    assert await refused(nonces, "bad")


async def test_a_good_nonce_that_chaos_refused_is_spent_all_the_same() -> None:
    table = OneNonce()
    assert await refused(ChaoticNonces(table, Chaos(0.05, timedelta(0)), random=lowest), "good")
    assert table.left == set()


async def test_a_good_nonce_passes_where_the_dice_say_so_and_none_is_refused_at_a_share_of_nought() -> None:
    assert not await refused(ChaoticNonces(OneNonce(), Chaos(0.05, timedelta(0)), random=highest), "good")
    assert not await refused(ChaoticNonces(OneNonce(), Chaos(0.0, timedelta(0)), random=lowest), "good")


async def test_at_a_share_of_one_every_nonce_is_refused() -> None:
    assert await refused(ChaoticNonces(OneNonce(), Chaos(1.0, timedelta(0)), random=highest), "good")


async def test_an_answer_waits_up_to_the_delay_and_not_at_all_for_a_bad_nonce() -> None:
    naps = Naps()
    chaos = Chaos(0.0, timedelta(milliseconds=200))
    for random in (lowest, highest):
        nonces = ChaoticNonces(OneNonce(), chaos, random=random, sleep=naps.sleep)
        await nonces.redeem("good")
        assert await refused(nonces, "good")
    assert all(one < other for one, other in pairwise(naps.taken))
    assert (naps.taken[0], round(naps.taken[1], 6), naps.taken[1] < 0.2) == (0.0, 0.2, True)
