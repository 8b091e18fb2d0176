"""Small parts of the top floor, each with its one promise."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator

import orjson
import pytest

from certwright import output
from certwright.config import Listen
from certwright.errors import BindError
from certwright.listeners import Listener, Traffic, activated, bind
from certwright.logs import Log
from tests.helpers.clock import FakeClock


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def lines(read: int) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in os.read(read, 65536).splitlines()]


def test_a_log_line_is_one_json_object_with_time_level_and_process(pipe: tuple[int, int]) -> None:
    Log(clock=FakeClock(), process="worker-0", descriptor=pipe[1]).info("request", path="/\nforged", status=200)
    (line,) = lines(pipe[0])
    assert line == {
        "time": "2026-11-23T12:00:00Z",
        "level": "info",
        "process": "worker-0",
        "event": "request",
        "path": "/\nforged",
        "status": 200,
    }


def test_what_the_libraries_log_comes_out_as_json_too(pipe: tuple[int, int]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        Log(clock=FakeClock(), process="worker-0", descriptor=pipe[1]).take_over_logging()
        logging.getLogger("scep.enrol").warning("legacy %s in use", "sha1")
        try:
            int("bug")
        except ValueError:
            logging.getLogger("storage").exception("failed")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(capture=False)
    warning, error = lines(pipe[0])
    assert (warning["event"], warning["level"], warning["logger"]) == ("legacy sha1 in use", "warning", "scep.enrol")
    assert error["error"] == "ValueError"
    assert "Traceback" in str(error["trace"])


def test_localhost_is_listened_on_by_every_family_that_it_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    sockets = bind(Listen(https=None, mtls=None, http=("localhost", port), metrics=None), {})
    assert list(sockets) == [Listener.HTTP]
    addresses = {sock.getsockname()[0] for sock in sockets[Listener.HTTP]}
    for sock in sockets[Listener.HTTP]:
        sock.close()
    assert "127.0.0.1" in addresses
    assert addresses <= {"127.0.0.1", "::1"}


def test_an_address_that_is_not_ours_is_refused_with_the_key_that_says_it() -> None:
    listen = Listen(https=None, mtls=("192.0.2.1", 9443), http=None, metrics=None)
    with pytest.raises(BindError, match=r"listen\.mtls: cannot listen on 192\.0\.2\.1 port 9443"):
        bind(listen, {})


def test_sockets_of_another_process_are_not_ours_to_take() -> None:
    assert activated({"LISTEN_PID": "1", "LISTEN_FDS": "4", "LISTEN_FDNAMES": "https"}) == {}


def test_a_socket_that_systemd_hands_over_needs_a_listeners_name() -> None:
    with pytest.raises(BindError, match="FileDescriptorName="):
        activated({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"})


async def test_draining_waits_for_the_last_answer_and_not_longer_than_it_may() -> None:
    traffic = Traffic()
    traffic.begin()
    waiting = asyncio.create_task(traffic.drain(60))
    await asyncio.sleep(0)
    assert not waiting.done()
    traffic.end(None)
    await waiting
    traffic.begin()
    await traffic.drain(0)


def test_rows_as_a_table_line_up_and_nothing_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    output.show([{"id": "a", "roles": ["x", "y"], "ends": None}, {"id": "long", "roles": [], "ends": True}], "table")
    assert capsys.readouterr().out == "ID    ROLES  ENDS\na     x, y   -\nlong  -      yes\n"
    output.show([], "table")
    assert capsys.readouterr().out == "none\n"
