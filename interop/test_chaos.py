"""A client whose good nonces are refused and whose answers are late, as Pebble does to clients: the switch `chaos`.

lego, for it has patience: certbot tries again once, and dehydrated 0.7 never does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from interop.conftest import dns_server
from interop.support import Site, needs
from interop.test_lego import Lego, issue_renew_revoke
from tests.helpers.server import Server, run

pytestmark = needs("lego", package="lego")


@pytest.fixture
def unfair() -> Iterator[Server]:
    with (
        dns_server() as dns,
        Server(resolver=dns.address, edit=lambda text: f"{text}\nchaos: {{bad_nonce: 0.25, delay: 100ms}}\n") as server,
    ):
        for name in ("chaos.interop.example.com", "www.chaos.interop.example.com"):
            dns[name] = ["127.0.0.1"]
        yield server


def test_lego_issues_renews_and_revokes_though_every_fourth_nonce_is_refused(unfair: Server, home: Path) -> None:
    site = Site(root=unfair.ca_file, bootstrap=unfair.environment, http01_port=unfair.http01_port, zone=lambda _name, _to: None)
    issue_renew_revoke(Lego(site, home), ["chaos.interop.example.com", "www.chaos.interop.example.com"])
    assert "refused: badNonce" in unfair.log_text()


def test_a_server_that_others_may_reach_does_not_start_with_chaos(home: Path) -> None:
    server = Server(directory=home / "ca", edit=lambda text: f"{text}\nchaos: {{}}\n".replace("localhost:", "0.0.0.0:"))
    server.init()
    done = run("serve", "--config", server.config_file, check=False)
    assert done.returncode != 0
    assert "works on loopback only" in done.stderr
