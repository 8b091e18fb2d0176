"""The load generators work: a short form of `make bench`, whose figures are nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from bench.est_scep_rest import WAITING, WINDOWS
from bench.run import set_waiting_challenge
from tests.helpers.server import CERTWRIGHT, Server


def figures(module: str, *arguments: str) -> Any:
    command = [sys.executable, "-m", module, "-o", "json", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=90).stdout)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(edit=with_waiting) as running:
        set_waiting_challenge(str(CERTWRIGHT), running.config_file, running.environment["CERTWRIGHT_SCEP_CHALLENGE"])
        yield running


def with_waiting(text: str) -> str:
    """The configuration that `init` wrote, with a SCEP endpoint whose requests wait for a person."""
    waiting = f"    {WAITING}: {{profile: device, registration_authority: scep, require_approval: true}}\n"
    return text.replace("  scep:\n    default:", f"  scep:\n{waiting}    default:")


def test_complete_acme_issuances_are_made_and_measured(server: Server) -> None:
    directory = ["--directory", f"{server.base_url}/acme/directory", "--ca", str(server.ca_file), "--pid", str(server.pid)]
    load = ["--clients", "2", "--count", "6", "--http01-port", str(server.http01_port), "--domain", "bench.localhost"]
    found = figures("bench.acme_load", *directory, *load)
    assert (found["done"], found["errors"]) == (6, {})
    assert found["server"]["cpu_ms_per_item"] >= 0
    assert found["server"]["pss_mib_after"] > 0
    assert {"newOrder", "finalize"} <= set(found["steps"])


@pytest.mark.parametrize("window", WINDOWS)
def test_every_other_window_is_measured_too(server: Server, window: str) -> None:
    environment = str(server.config_file.parent / "bootstrap.env")
    load = ["--clients", "2", "--count", "4", "--pid", str(server.pid), "--domain", "bench.localhost"]
    found = figures("bench.est_scep_rest", "--env", environment, "--window", window, *load)[window]
    assert (found["done"], found["errors"]) == (4, {})
