"""uacme (Debian): plain C with libcurl-gnutls, which trusts the file in /etc/ssl and nothing that the environment says.

So it runs in a mount namespace of its own, where that file is another one; nothing outside the namespace changes.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from interop.support import Site, hold, needs, openssl, refused, run, verify, verify_revoked
from interop.system_trust import needs_a_namespace, trusting
from interop.webroot import webroot

pytestmark = [needs("uacme", package="uacme"), needs_a_namespace]

HOOK = """\
#!/bin/sh
[ "$2" = http-01 ] || exit 1
case "$1" in
    begin) printf %s "$5" > "$CHALLENGES/$4" ;;
    *) rm "$CHALLENGES/$4" ;;
esac
"""


class Uacme:
    """One user's uacme."""

    def __init__(self, site: Site, home: Path, challenges: Path, *, directory: str = "") -> None:
        self.site = site
        self.directory = directory or site["ACME_DIRECTORY"]
        self.home = home
        self.challenges = challenges
        self.hook = home / "hook.sh"
        self.hook.write_text(HOOK)
        self.hook.chmod(0o755)

    def command(self, *arguments: str | Path) -> list[str | Path]:
        return [
            *trusting(self.site.root),
            *("uacme", "-v", "-y", "-a", self.directory, "-c", self.home / "uacme", "-h", self.hook, *arguments),
        ]

    def run(self, *arguments: str | Path) -> str:
        done = run(self.command(*arguments), home=self.home, env={"CHALLENGES": str(self.challenges)})
        return done.stderr.decode(errors="replace")

    def refused(self, *arguments: str | Path) -> str:
        return refused(self.command(*arguments), home=self.home, env={"CHALLENGES": str(self.challenges)})


def test_uacme_registers_issues_asks_ocsp_and_revokes(site: Site, home: Path) -> None:
    names = [site.name("uacme"), site.name("www.uacme")]
    leaf = home / "uacme" / names[0] / "cert.pem"
    with webroot(home / "www", site.http01_port) as challenges:
        uacme = Uacme(site, home, challenges)
        uacme.run("new", "admin@example.com")
        uacme.run("-t", "EC", "issue", *names)
        held = hold(site, leaf, home=home, chain=leaf)
        verify(held, names=names)

        # Its own look at the certificate, OCSP included, says that there is nothing to do.
        before = leaf.read_bytes()
        uacme.refused("issue", *names)
        assert leaf.read_bytes() == before

        uacme.run("-r", "1", "revoke", leaf)
        held.leaf.write_bytes(before)
        verify_revoked(held, "keyCompromise", "Key Compromise")


def test_uacme_updates_and_deactivates_its_account_and_gets_nothing_after_that(site: Site, home: Path) -> None:
    uacme = Uacme(site, home, home)
    uacme.run("new", "admin@example.com")
    uacme.run("update", "other@example.com")
    uacme.run("deactivate")
    assert "urn:ietf:params:acme:error:unauthorized" in uacme.refused("issue", site.name("late.uacme"))


def test_uacme_changes_its_key_and_goes_on_with_the_same_account(site: Site, home: Path) -> None:
    name = site.name("newkey.uacme")
    leaf = home / "uacme" / name / "cert.pem"
    private = home / "uacme" / "private"
    with webroot(home / "www", site.http01_port) as challenges:
        uacme = Uacme(site, home, challenges)
        account = account_url(uacme.run("new"))
        before = (private / "key.pem").read_bytes()
        uacme.run("newkey")
        assert (private / "key.pem").read_bytes() != before
        assert account_url(uacme.run("issue", name)) == account
    verify(hold(site, leaf, home=home, chain=leaf), names=[name])


def account_url(said: str) -> str:
    found = re.search(r"account location: (\S+)|account created at (\S+)", said)
    assert found is not None, said
    return found[1] or found[2]


def test_uacme_gets_a_certificate_for_an_address_by_a_request_that_does_not_call_it_a_name(site: Site, home: Path) -> None:
    """Its own request has the address as common name, too, and is refused with what to do instead."""
    csr, config = home / "address.csr", home / "csr.cnf"
    config.write_text("[req]\ndistinguished_name=dn\n[dn]\n")
    request = ("-new", "-newkey", "rsa:2048", "-nodes", "-keyout", home / "address.key", "-subj", "/")
    openssl("req", "-config", config, *request, "-addext", "subjectAltName=IP:127.0.0.1", "-out", csr, home=home)
    leaf = home / "address-cert.pem"
    with webroot(home / "www", site.http01_port) as challenges:
        uacme = Uacme(site, home, challenges, directory=site.directory("addresses"))
        uacme.run("new")
        said = uacme.refused("issue", "127.0.0.1")
        assert "put it into the subjectAltName and leave out the CN" in said
        uacme.run("issue", csr)
    verify(hold(site, leaf, home=home, chain=leaf), addresses=["127.0.0.1"])


def test_uacme_gets_the_alternate_chain_that_it_asks_for(site: Site, home: Path) -> None:
    name = site.name("chains.uacme")
    leaf = home / "uacme" / name / "cert.pem"
    with webroot(home / "www", site.http01_port) as challenges:
        uacme = Uacme(site, home, challenges)
        uacme.run("new")
        uacme.run("-l", "1", "issue", name)
    verify(replace(hold(site, leaf, home=home, chain=leaf), root=site.root.parent / "old-root.pem"), names=[name])
