"""What becomes of the log when nobody reads it: the server goes on, and says later what is missing."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from certwright.log_sink import BACKLOG
from certwright.logs import Log
from tests.helpers.clock import FakeClock

Ends = tuple[int, Callable[[], bytes]]  # where the log goes, and what takes all of it that has arrived


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    return read, write


def _sockets() -> tuple[int, int]:
    """As under systemd: journald holds the other end."""
    read, write = socket.socketpair()
    return read.detach(), write.detach()


@pytest.fixture(params=[_pipe, _sockets], ids=["pipe", "socket"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    read, write = request.param()
    os.set_blocking(read, False)

    def take() -> bytes:
        found = bytearray()
        while True:
            try:
                found += os.read(read, 65536)
            except BlockingIOError:
                return bytes(found)

    yield write, take
    os.close(read)
    os.close(write)


def write(log: Log, lines: int, path: str) -> None:
    for number in range(lines):
        log.info("request", number=number, path=path)


def rest(log: Log, take: Callable[[], bytes]) -> bytes:
    """What waits comes with the lines that follow."""
    found = bytearray()
    while True:
        log.info("next")
        more = take()
        found += more
        if len(more) < 1000:
            return bytes(found)


def in_time(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for a reader"


def said(octets: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in octets.splitlines()]


def test_a_log_that_nobody_reads_for_a_while_is_whole_when_somebody_does(ends: Ends) -> None:
    descriptor, take = ends
    log = Log(clock=FakeClock(), process="worker-0", descriptor=descriptor)
    in_time(lambda: write(log, 2000, "x" * 200))
    in_time(lambda: write(log, 3, "x" * 30_000))  # no pipe takes such a line at once
    arrived = take()
    assert 20_000 < len(arrived) < 500_000
    lines = said(arrived + rest(log, take))
    assert [line["number"] for line in lines if line["event"] == "request"] == [*range(2000), *range(3)]
    assert not any(line["event"] == "log lines lost" for line in lines)


def test_a_log_that_nobody_ever_reads_holds_up_nobody_and_says_how_much_is_lost(ends: Ends) -> None:
    descriptor, take = ends
    log = Log(clock=FakeClock(), process="worker-0", descriptor=descriptor)
    wanted = BACKLOG // 1000
    in_time(lambda: write(log, 2 * wanted, "x" * 1000))
    lines = said(take() + rest(log, take))
    kept = [line["number"] for line in lines if line["event"] == "request"]
    assert kept == list(range(len(kept))), "in their order, and none twice"
    assert wanted // 2 < len(kept) < 2 * wanted
    (told,) = [line for line in lines if line["event"] == "log lines lost"]
    assert (told["level"], told["lines"]) == ("warning", 2 * wanted - len(kept))


def test_the_last_words_wait_a_moment_for_a_slow_reader(ends: Ends) -> None:
    descriptor, take = ends
    arrived = bytearray()

    def read() -> None:
        while len(arrived.splitlines()) < 1000 or not arrived.endswith(b"\n"):
            arrived.extend(take())
            time.sleep(0.01)

    def leave() -> None:
        log = Log(clock=FakeClock(), process="worker-0", descriptor=descriptor)
        write(log, 1000, "x" * 1000)
        reader.start()
        del log
        gc.collect()

    reader = threading.Thread(target=read, daemon=True)
    in_time(leave)
    reader.join(20)
    assert [line["number"] for line in said(bytes(arrived))] == list(range(1000))


def test_a_log_whose_reader_is_gone_stops_nobody() -> None:
    read, write = os.pipe()
    os.close(read)
    Log(clock=FakeClock(), process="worker-0", descriptor=write).info("request")
    os.close(write)
