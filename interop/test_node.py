"""acme-client (npm): the library inside many a Node program. Installed once, at the versions of interop/node/package-lock.json."""

from __future__ import annotations

from pathlib import Path

from interop.conftest import NODE
from interop.support import Site, hold, needs, ocsp_by_post, refused, run, verify, verify_revoked
from interop.webroot import webroot

pytestmark = needs("node", "npm", package="nodejs, npm")


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
        run(["node", NODE / "client.js", *steps], home=self.home, env=self.env)

    def refused(self, *steps: str) -> str:
        return refused(["node", NODE / "client.js", *steps], home=self.home, env=self.env)


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
