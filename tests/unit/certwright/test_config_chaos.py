"""`chaos:` in certwright.yaml: for loopback, and refused at its line anywhere else."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

import pytest

from acmeserver.chaos import Chaos
from certwright.config import load, parse
from certwright.listeners import Listener, beyond_loopback
from certwright.yaml_positions import ConfigError


def problems(made: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse(made / "certwright.yaml", text, {})
    return [str(problem) for problem in raised.value.problems]


def text_of(made: Path) -> str:
    """All listeners on loopback."""
    return (made / "certwright.yaml").read_text().replace("0.0.0.0:", "127.0.0.1:")


def test_there_is_none_unless_it_is_asked_for(made: Path) -> None:
    assert load(made / "certwright.yaml", {}).chaos is None


def test_it_has_pebbles_measure_unless_told_otherwise(made: Path) -> None:
    config = parse(made / "certwright.yaml", text_of(made) + "chaos: {}\n", {})
    assert config.chaos == Chaos(bad_nonce=0.05, delay=timedelta(milliseconds=200))
    config = parse(made / "certwright.yaml", text_of(made) + "chaos: {bad_nonce: 1, delay: 0ms}\n", {})
    assert config.chaos == Chaos(bad_nonce=1.0, delay=timedelta(0))


@pytest.mark.parametrize("listener", ["https", "mtls", "http", "metrics"])
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "localhost.example.com", "ca.example.com"])
def test_one_listener_that_others_may_reach_refuses_it(made: Path, listener: str, host: str) -> None:
    lines = text_of(made).splitlines()
    (index,) = (number for number, line in enumerate(lines) if line.startswith(f"  {listener}: "))
    lines[index] = f'  {listener}: "{host}:18999"'
    (said,) = problems(made, "\n".join([*lines, "chaos: {}", ""]))
    assert f"it works on loopback only, and listen.{listener} is {host.strip('[]')}" in said
    assert f":{len(lines) + 1}:" in said


@pytest.mark.parametrize(
    "given", ["{bad_nonce: -0.1}", "{bad_nonce: 1.5}", "{bad_nonce: 5%}", "{delay: 200}", "{delay: 1s}", "{skip_checks: true}"]
)
def test_it_can_be_asked_for_nothing_else(made: Path, given: str) -> None:
    assert len(problems(made, text_of(made) + f"chaos: {given}\n")) == 1


def test_a_socket_that_somebody_else_opened_is_judged_by_where_it_is() -> None:
    """systemd's sockets are in no configuration, and SIGHUP changes none that is open."""
    with (
        socket.create_server(("127.0.0.1", 0)) as here,
        socket.create_server(("0.0.0.0", 0)) as everywhere,
        socket.socket(socket.AF_UNIX) as proxied,
    ):
        sockets = {Listener.HTTPS: [here, everywhere], Listener.HTTP: [here], Listener.MTLS: [proxied]}
        assert beyond_loopback(sockets) == ["https", "mtls"]
