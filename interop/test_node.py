"""acme-client (npm): the library inside many a Node program. Installed once, at the versions of interop/node/package-lock.json."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from interop.support import Site, hold, needs, ocsp_by_post, refused, run, verify, verify_revoked
from interop.webroot import webroot

pytestmark = needs("node", "npm", package="nodejs, npm")

HERE = Path(__file__).parent / "node"
INSTALLED = Path(sys.prefix) / "interop-node"  # beside certbot; `make clean` takes it away


@pytest.fixture(scope="module")
def modules() -> Path:
    """The directory that has node_modules. Skips when npm's registry cannot be reached."""
    lock = HERE / "package-lock.json"
    done = INSTALLED / "installed-lock.json"
    if not done.exists() or done.read_bytes() != lock.read_bytes():
        INSTALLED.mkdir(exist_ok=True)
        for file in (HERE / "package.json", lock):
            shutil.copy(file, INSTALLED)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(INSTALLED)]
        # With the user's own environment: the registry that npm is set up for is the one to ask.
        tried = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=100, check=False)
        if tried.returncode != 0:
            pytest.skip(f"client not installed: acme-client (npm): {tried.stderr.decode(errors='replace').strip()[-300:]}")
        shutil.copy(lock, done)
    return INSTALLED / "node_modules"


class Node:
    """One user's program."""

    def __init__(self, site: Site, home: Path, modules: Path, names: list[str], challenges: Path) -> None:
        self.home = home
        self.env = {
            "NODE_EXTRA_CA_CERTS": str(site.root),
            "NODE_PATH": str(modules),
            "DIRECTORY": site["ACME_DIRECTORY"],
            "CHALLENGES": str(challenges),
            "NAMES": " ".join(names),
            "OUT": str(home),
        }

    def run(self, *steps: str) -> None:
        run(["node", HERE / "client.js", *steps], home=self.home, env=self.env)

    def refused(self, *steps: str) -> str:
        return refused(["node", HERE / "client.js", *steps], home=self.home, env=self.env)


def test_acme_client_issues_for_two_names_and_revokes(site: Site, home: Path, modules: Path) -> None:
    names = [site.name("node"), site.name("www.node")]
    leaf = home / "site.pem"
    with webroot(home / "www", site.http01_port) as challenges:
        node = Node(site, home, modules, names, challenges)
        node.run("issue")
    held = hold(site, leaf, home=home, chain=leaf)
    verify(held, names=names)
    assert ocsp_by_post(held) == "good"
    node.run("revoke")
    verify_revoked(held, "cessationOfOperation", "Cessation Of Operation")


def test_after_a_rollover_the_new_key_is_the_account_and_the_old_one_is_nobody(site: Site, home: Path, modules: Path) -> None:
    names = [site.name("rollover.node")]
    leaf = home / "site.pem"
    with webroot(home / "www", site.http01_port) as challenges:
        node = Node(site, home, modules, names, challenges)
        node.run("issue")
        url = (home / "account.url").read_text()
        node.run("rollover")
        node.run("issue")
    assert (home / "account.url").read_text() == url
    verify(hold(site, leaf, home=home, chain=leaf), names=names)
    assert "signature" in node.refused("useOldKey")
    node.run("revoke")  # a certificate of the account, by its new key
