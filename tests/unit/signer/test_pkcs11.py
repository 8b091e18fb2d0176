"""The one thread that may call a module, without any module in it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from pki.reasons import Unavailable
from signer.pkcs11 import Module


async def test_all_work_is_done_in_one_thread() -> None:
    module = Module(Path("/none"))
    threads = await asyncio.gather(*(module.run(threading.get_ident) for _ in range(20)))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()
    module.close()


async def test_nobody_queues_behind_a_call_that_hangs() -> None:
    module = Module(Path("/none"), patience=0)
    begun, release = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        release.wait()

    hanging = asyncio.ensure_future(module.run(hang))
    await asyncio.to_thread(begun.wait)
    with pytest.raises(Unavailable, match="has not come back"):
        await module.run(threading.get_ident)
    release.set()
    await hanging
    assert await module.run(threading.get_ident)
    module.close()


async def test_work_of_ones_own_waits_for_little_that_strangers_cause() -> None:
    module = Module(Path("/none"))
    done: list[str] = []

    async def stranger() -> None:
        async with module.turn():
            await module.run(lambda: done.append("stranger"))

    strangers = [asyncio.ensure_future(stranger()) for _ in range(20)]
    await asyncio.sleep(0)
    await module.run(lambda: done.append("own"))
    await asyncio.gather(*strangers)
    assert done.index("own") <= 2
    assert len(done) == 21
    module.close()


async def test_work_whose_caller_gave_up_before_it_began_is_never_begun() -> None:
    module = Module(Path("/none"))
    release, done = threading.Event(), []
    first = asyncio.ensure_future(module.run(release.wait))
    second = asyncio.ensure_future(module.run(lambda: done.append(1)))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    release.set()
    await first
    await module.run(threading.get_ident)  # behind it in the queue
    assert done == []
    module.close()
