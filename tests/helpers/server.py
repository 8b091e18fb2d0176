"""A real server: `certwright init` and `certwright serve` in a temporary directory, on free ports of loopback.

with Server() as server:
    requests.get(server.base_url + "/acme/directory", verify=server.ca_file)

What it logged is printed when the test fails inside the `with` block.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

CERTWRIGHT = Path(sys.executable).with_name("certwright")
PATIENCE = 30.0  # seconds that anything here may take before the test fails


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, different ones."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def reserved_ports(owner: object, count: int) -> list[int]:
    """As `free_ports`, and as long as `owner` lives the kernel gives them to nobody who asks for any port: also not while a server
    that listens there is down. A server has to set SO_REUSEADDR.
    """
    kept = contextlib.ExitStack()
    weakref.finalize(owner, kept.close)
    ports = []
    for _ in range(count):
        one = kept.enter_context(socket.socket())
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", 0))
        ports.append(one.getsockname()[1])
    return ports


def cleaned_environment(**more: str) -> dict[str, str]:
    """Ours without what points a certwright somewhere else."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CERTWRIGHT_", "LISTEN_", "NOTIFY_"))}
    kept.pop("PROMETHEUS_MULTIPROC_DIR", None)
    return {**kept, **more}


def run(*arguments: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """`certwright ARGUMENTS`, its output captured."""
    done = subprocess.run(
        [CERTWRIGHT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=cleaned_environment(),
        **options,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"certwright {arguments} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Server:
    """`edit` changes the text of certwright.yaml before the start; the keywords below do the usual edits."""

    def __init__(
        self,
        *,
        directory: Path | None = None,
        resolver: str | None = None,
        http01_port: int | None = None,
        allow_networks: Sequence[str] | None = None,
        database: str | None = None,
        workers: int | None = None,
        edit: Callable[[str], str] = lambda text: text,
        init_arguments: Sequence[str] = (),
        up: bool = False,
    ) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="cw-test-")
            directory = Path(self._temporary.name) / "certwright"
        self.directory = directory
        self.http01_port = http01_port or free_ports(1)[0]
        self.https_port, self.mtls_port, self.http_port, self.metrics_port = reserved_ports(self, 4)
        self._resolver = resolver
        self._allow_networks = allow_networks
        self._database = database
        self._workers = workers
        self._edit = edit
        self._init_arguments = init_arguments
        self._up = up
        self._log_path = directory.parent / f"{directory.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.printed = ""  # on stdout

    # ------------------------------------------------------------------ what tests ask

    @property
    def config_file(self) -> Path:
        return self.directory / "certwright.yaml"

    @property
    def ca_file(self) -> Path:
        return self.directory / "ca" / "root.pem"

    @property
    def base_url(self) -> str:
        return f"https://localhost:{self.https_port}"

    @property
    def est_url(self) -> str:
        return f"https://localhost:{self.mtls_port}"

    @property
    def http_url(self) -> str:
        return f"http://localhost:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    @property
    def environment(self) -> Mapping[str, str]:
        """bootstrap.env."""
        lines = (self.directory / "bootstrap.env").read_text().splitlines()
        pairs = [word.partition("=") for line in lines for word in shlex.split(line, comments=True)]
        return {name: value for name, _, value in pairs}

    @property
    def pid(self) -> int:
        """The supervisor's."""
        assert self._process is not None
        return self._process.pid

    def children(self) -> dict[str, list[int]]:
        """Process ids by kind: "signer" and "worker"."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        found: dict[str, list[int]] = {"signer": [], "worker": []}
        for pid in map(int, listed):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if command:
                found["signer" if b"signer.process" in command else "worker"].append(pid)
        return found

    def log_text(self) -> str:
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def log_lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]

    def wait_for_log(self, event: str, *, count: int = 1) -> None:
        """Until so many lines of this event are there."""
        self.wait_until(lambda: sum(line.get("event") == event for line in self.log_lines()) >= count, f"log line {event!r}")

    def wait_until(self, true: Callable[[], bool], what: str) -> None:
        """Looks again and again, for a bounded time; the order of events is what counts, not their speed."""
        deadline = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain for: {what}")
            select = selectors.DefaultSelector()
            select.select(0.02)
            select.close()

    def get(self, url: str) -> tuple[int, bytes]:
        """Status and body; the server's certificate is verified against our root."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=PATIENCE) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    # ------------------------------------------------------------------ life

    def init(self) -> None:
        run(*self._make_arguments("init"))
        self.edit_config(self._with_settings)
        self.edit_config(self._edit)

    def edit_config(self, edit: Callable[[str], str]) -> None:
        self.config_file.write_text(edit(self.config_file.read_text()))

    def start(self) -> None:
        """Returns when it serves."""

        def readies() -> int:
            return sum(line.get("event") == "ready" and line.get("process") == "supervisor" for line in self.log_lines())

        before = readies()
        command = [str(CERTWRIGHT), "serve", "--config", str(self.config_file)]
        if self._up:
            command = [str(CERTWRIGHT), *map(str, self._make_arguments("up"))]
        printed = self._log_path.with_suffix(".out")
        with self._log_path.open("ab") as log, printed.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=log, env=cleaned_environment(), cwd=self.directory.parent
            )

        def ready() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"the server ended with {self._process.returncode}\n{self.log_text()}")
            return readies() > before

        self.wait_until(ready, "the server's `ready`")
        if self._up:
            self.wait_until(lambda: "ready" in printed.read_text().splitlines(), "the line `ready`")
        self.printed = printed.read_text()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Until it has ended by itself; the exit code."""
        assert self._process is not None
        code = self._process.wait(PATIENCE)
        self._process = None
        return code

    def kill(self) -> None:
        """The supervisor, as the kernel would; its children see that it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(PATIENCE)
        self._process = None

    def __enter__(self) -> Self:
        try:
            if not self._up:
                self.init()
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            print(f"--- log of the server in {self.directory}\n{self.log_text()}")
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        if self._temporary is not None:
            self._temporary.cleanup()

    # ------------------------------------------------------------------ settings

    def _make_arguments(self, command: str) -> list[str | Path]:
        arguments: list[str | Path] = [command, "--dir", self.directory]
        ports = {
            "https": self.https_port,
            "mtls": self.mtls_port,
            "http": self.http_port,
            "metrics": self.metrics_port,
            "http01": self.http01_port,
        }
        for name, port in ports.items():
            arguments += [f"--{name}-port", str(port)]
        if self._database is not None:
            arguments += ["--database", self._database]
        return [*arguments, *self._init_arguments]

    def _with_settings(self, text: str) -> str:
        if self._resolver is not None:
            text = re.sub(r"(?m)^  resolver: .*$", f'  resolver: ["{self._resolver}"]', text)
        if self._allow_networks is not None:
            text = re.sub(r"(?m)^  allow_networks: .*$", f"  allow_networks: {list(self._allow_networks)}", text)
        if self._workers is not None:
            text += f"\nworkers: {self._workers}\n"
        return text
