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
        from certwright.listeners import bind
        from certwright.supervisor import Supervisor
        from certwright.worker import work

        log = Log(clock=SystemClock(), process="supervisor")
        supervisor = Supervisor(
            config=config,
            sockets=bind(config.listen, os.environ),
            directory=directory,
            load=read,
            work=work,
            log=log,
            on_ready=lambda: on_ready(config),
        )
        return supervisor.run()


def _short_directory() -> str:
    """Where temporary files go, unless a socket's path there would get too long."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= 60 else "/tmp"  # noqa: S108  # the directory in it is private
