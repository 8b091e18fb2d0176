"""From a configuration file to a running supervisor. Imports come in the order in which they are needed: the signer starts first."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from certwright.config import ONE_WRITER, Config, load
from certwright.logs import Log
from certwright.metrics_directory import MULTIPROCESS
from certwright.yaml_positions import ConfigError, Problem
from pki.clock import SystemClock


def serve(file: Path, *, workers: int | None = None, on_ready: Callable[[Config], None] = lambda _: None) -> int:
    """Until a signal ends it; the exit code. Raises ConfigError, BindError."""

    def read() -> Config:
        config = load(file)
        if workers is not None and workers > 1 and config.database_is_embedded:
            raise ConfigError([Problem(file, 1, 1, f"--workers {workers}: {ONE_WRITER}")])
        return config if workers is None else replace(config, workers=workers)

    config = read()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # connections; the usual soft limit of 1024 is for select()
    with tempfile.TemporaryDirectory(prefix="certwright-", dir=_short_directory()) as name:  # 0700
        directory = Path(name)
        (directory / "metrics").mkdir()
        os.environ[MULTIPROCESS] = str(directory / "metrics")  # prometheus_client decides by it when it is imported
        from certwright.listeners import beyond_loopback, bind
        from certwright.supervisor import Supervisor
        from certwright.worker import work

        sockets = bind(config.listen, os.environ)

        def read_for_these_sockets() -> Config:
            """They may be systemd's, and SIGHUP changes the configuration but not them; `chaos` is judged by what is open."""
            config = read()
            if config.chaos is not None and (strange := beyond_loopback(sockets)):
                said = f"chaos works on loopback only, and these listen elsewhere: {', '.join(strange)}"
                raise ConfigError([Problem(file, 1, 1, said)])
            return config

        log = Log(clock=SystemClock(), process="supervisor")
        supervisor = Supervisor(
            config=read_for_these_sockets(),
            sockets=sockets,
            directory=directory,
            load=read_for_these_sockets,
            work=work,
            log=log,
            on_ready=lambda: on_ready(config),
        )
        if config.chaos is not None:
            log.warning("chaos is on: good nonces are refused and answers delayed, at random")
        return supervisor.run()


def _short_directory() -> str:
    """Where temporary files go, unless a socket's path there would get too long."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= 60 else "/tmp"  # noqa: S108  # the directory in it is private
