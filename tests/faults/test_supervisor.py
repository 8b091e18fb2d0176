"""What a supervisor is for: children die, configurations are wrong, machines are switched off, and the server goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from certwright.worker import DRAIN
from tests.helpers.server import CERTWRIGHT, Server, cleaned_environment, run


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def healthy(server: Server) -> bool:
    try:
        return server.get(server.http_url + "/readyz")[0] == 200
    except OSError:
        return False


def replaced(server: Server, kind: str, dead: int) -> bool:
    children = server.children()[kind]
    return bool(children) and dead not in children


@pytest.mark.parametrize("kind", ["worker", "signer"])
def test_a_child_that_is_killed_is_replaced_and_the_server_gets_well_again(server: Server, kind: str) -> None:
    (victim,) = server.children()[kind]
    os.kill(victim, signal.SIGKILL)
    server.wait_until(lambda: replaced(server, kind, victim) and healthy(server), f"a new {kind}")
    assert any(line["event"] == "child ended" and line["kind"] == kind for line in server.log_lines())


def test_a_child_that_dies_again_and_again_is_started_again_more_and_more_slowly(server: Server) -> None:
    for deaths in range(1, 4):
        (victim,) = server.children()["signer"]
        os.kill(victim, signal.SIGKILL)
        server.wait_for_log("child ended", count=deaths)
        server.wait_until(lambda: replaced(server, "signer", victim), "a new signer")  # noqa: B023  # called at once
    pauses = [line["restart_in_seconds"] for line in server.log_lines() if line["event"] == "child ended"]
    assert pauses == sorted(set(pauses))
    assert len(pauses) == 3


def test_sigterm_ends_it_with_exit_code_0_and_leaves_no_process_behind(server: Server) -> None:
    children = [pid for pids in server.children().values() for pid in pids]
    assert server.stop() == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_a_request_in_flight_is_answered_before_the_server_ends(server: Server) -> None:
    with socket.create_connection(("localhost", server.http_port), timeout=30) as raw:
        raw.sendall(b"POST /ocsp/issuing HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n0")
        # the worker has the head once it answers another request on a later connection
        assert server.get(server.http_url + "/livez")[0] == 200
        server.signal(signal.SIGTERM)
        server.wait_for_log("stopping")
        raw.sendall(b"x")
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")
    assert server.stop() == 0


def test_ctrl_c_waits_for_no_stranger_who_sends_half_a_body(server: Server) -> None:
    """SIGTERM would: it drains for up to DRAIN seconds. Who pressed Ctrl-C sits before it."""
    with socket.create_connection(("localhost", server.http_port), timeout=30) as raw:
        raw.sendall(b"POST /ocsp/issuing HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n0")
        assert server.get(server.http_url + "/livez")[0] == 200  # the worker has the head by now
        began = time.monotonic()
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert time.monotonic() - began < DRAIN / 2


def test_an_idle_keep_alive_connection_does_not_hold_up_the_end(server: Server) -> None:
    with socket.create_connection(("localhost", server.http_port), timeout=30) as raw:
        raw.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")
        assert server.stop() == 0
    assert not [line for line in server.log_lines() if "killed" in str(line["event"])]


def test_sighup_takes_a_good_configuration_into_use_with_new_children(server: Server) -> None:
    before = server.children()
    server.edit_config(lambda text: text.replace("validity: 47d", "validity: 40d"))
    server.signal(signal.SIGHUP)
    server.wait_for_log("reloaded")
    server.wait_until(
        lambda: {kind: len(pids) for kind, pids in server.children().items()} == {"signer": 1, "worker": 1}, "the old ones' end"
    )
    assert not set(before["worker"] + before["signer"]) & {pid for pids in server.children().values() for pid in pids}
    assert healthy(server)


def test_sighup_with_a_mistake_changes_nothing_and_logs_its_line(server: Server) -> None:
    before = server.children()
    server.edit_config(lambda text: text.replace("validity: 47d", "validty: 47d", 1))
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload failed; the old configuration goes on")
    (said,) = [line["problem"] for line in server.log_lines() if line["event"] == "configuration"]
    text = server.config_file.read_text()
    line = text[: text.index("validty")].count("\n") + 1
    assert said == f"{server.config_file}:{line}:5: unknown key 'validty' (did you mean 'validity'?)"
    assert server.children() == before
    assert healthy(server)


def test_sighup_with_a_key_that_does_not_open_keeps_the_old_children(server: Server) -> None:
    """Valid to read, impossible to start: only trying it shows that."""
    before = server.children()
    (server.directory / "ca" / "passphrase").write_text("wrong")
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload failed; the old configuration goes on")
    server.wait_until(lambda: server.children() == before, "the end of the new children")
    assert healthy(server)


def test_a_supervisor_that_is_killed_takes_its_children_with_it(server: Server) -> None:
    children = [pid for pids in server.children().values() for pid in pids]
    server.kill()
    server.wait_until(lambda: not [pid for pid in children if Path(f"/proc/{pid}").exists()], "the end of the children")
    server.start()
    assert healthy(server)


def test_a_second_up_keeps_everything() -> None:
    with Server(up=True) as first:
        files = {
            path: path.read_bytes() for path in first.directory.rglob("*") if path.suffix in {".pem", ".key", ".env", ".yaml"}
        }
        assert first.stop() == 0
        first.start()
        assert {path: path.read_bytes() for path in files} == files
        assert "ready" in first.printed.splitlines()
        for secret in ("CERTWRIGHT_API_KEY", "CERTWRIGHT_EST_PASSWORD", "CERTWRIGHT_SCEP_CHALLENGE"):
            assert first.environment[secret] not in first.printed  # the printed lines read bootstrap.env instead


def test_a_start_that_cannot_work_ends_at_once_and_says_why(tmp_path: Path) -> None:
    """A wrong key: no restart loop, a line that names it, and an exit code that is not 0."""
    server = Server(directory=tmp_path / "ca")
    server.init()
    key = server.directory / "ca"
    (key / "issuing.key").write_bytes((key / "scep-ra.key").read_bytes())
    with pytest.raises(AssertionError, match="the key is not the one of its certificate"):
        server.start()


def test_a_port_that_is_taken_is_said_by_its_name(server: Server) -> None:
    done = run("serve", "--config", server.config_file, check=False)
    assert done.returncode == 4
    assert "listen.https" in done.stderr
    assert "is another certwright running?" in done.stderr


def test_two_workers_on_sqlite_are_refused_with_the_reason(server: Server) -> None:
    done = run("serve", "--config", server.config_file, "--workers", "2", check=False)
    assert done.returncode == 3
    assert "SQLite has one writer" in done.stderr


def test_systemd_is_told_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    """sd_notify(3)."""
    server = Server(directory=tmp_path / "ca")
    server.init()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = str(server.directory / "notify")
        manager.bind(address)
        manager.settimeout(30)
        log = (tmp_path / "log").open("wb")
        process = subprocess.Popen(
            [CERTWRIGHT, "serve", "--config", str(server.config_file)],
            stderr=log,
            env=cleaned_environment(NOTIFY_SOCKET=address),
        )
        try:
            assert manager.recv(100) == b"READY=1"
            process.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            assert process.wait(30) == 0
        finally:
            log.close()
            if process.poll() is None:
                process.kill()
                process.wait()


def test_systemd_may_hand_over_the_sockets(tmp_path: Path) -> None:
    """sd_listen_fds(3): a socket that is there before and after us, so no connection is ever refused."""
    server = Server(directory=tmp_path / "ca")
    server.init()
    with socket.create_server(("127.0.0.1", 0)) as handed, (tmp_path / "log").open("wb") as log:
        port = handed.getsockname()[1]
        script = (  # what systemd does between fork and exec
            f"import os, sys; os.dup2({handed.fileno()}, 3)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='http')\n"
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [sys.executable, "-c", script, str(CERTWRIGHT), "serve", "--config", str(server.config_file)]
        process = subprocess.Popen(command, stderr=log, env=cleaned_environment(), pass_fds=[handed.fileno()])
        try:
            assert server.get(f"http://127.0.0.1:{port}/livez") == (200, b"ok\n")  # waits in the backlog until we are there
        finally:
            process.terminate()
            assert process.wait(30) == 0
