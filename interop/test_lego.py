"""lego (Debian): the ACME client inside Traefik and many Go programs."""

from pathlib import Path

import orjson
import pytest

from interop.support import Site, hold, needs, refused, run, verify, verify_revoked
from tests.helpers.server import run as certwright

pytestmark = needs("lego", package="lego")


class Lego:
    """One user's lego."""

    def __init__(self, site: Site, home: Path) -> None:
        self.site = site
        self.home = home
        self.certificates = home / "lego" / "certificates"

    def command(
        self, names: list[str], *command: str, server: str = "", by: str = "http", account: tuple[str, ...] = ()
    ) -> list[str | Path]:
        domains = [argument for name in names for argument in ("-d", name)]
        port = {"http": self.site.http01_port, "tls": self.site.tlsalpn01_port}[by]
        return [
            *(
                "lego",
                "--server",
                server or self.site["ACME_DIRECTORY"],
                "--accept-tos",
                "--email",
                "admin@example.com",
                *account,
            ),
            *("--path", self.home / "lego", f"--{by}", f"--{by}.port", f"127.0.0.1:{port}"),
            *(*domains, *command),
        ]

    def run(self, names: list[str], *command: str, server: str = "", by: str = "http", account: tuple[str, ...] = ()) -> None:
        line = self.command(names, *command, server=server, by=by, account=account)
        run(line, home=self.home, env={"LEGO_CA_CERTIFICATES": str(self.site.root)})

    def refused(
        self, names: list[str], *command: str, server: str = "", by: str = "http", account: tuple[str, ...] = ()
    ) -> str:
        line = self.command(names, *command, server=server, by=by, account=account)
        return refused(line, home=self.home, env={"LEGO_CA_CERTIFICATES": str(self.site.root)})


@pytest.fixture
def lego(site: Site, home: Path) -> Lego:
    return Lego(site, home)


def issue_renew_revoke(lego: Lego, names: list[str]) -> None:
    site, home = lego.site, lego.home
    leaf = lego.certificates / f"{names[0]}.crt"
    chain = lego.certificates / f"{names[0]}.issuer.crt"

    lego.run(names, "run")
    first = leaf.read_bytes()
    verify(hold(site, leaf, home=home, chain=chain), names=names)

    lego.run(names, "renew", "--days", "1000", "--no-random-sleep")
    assert leaf.read_bytes() != first
    renewed = hold(site, leaf, home=home, chain=chain)
    verify(renewed, names=names)

    lego.run(names, "revoke", "--keep", "--reason", "4")
    verify_revoked(renewed, "superseded", "Superseded")


def test_lego_issues_renews_and_revokes(lego: Lego, site: Site) -> None:
    issue_renew_revoke(lego, [site.name("lego"), site.name("www.lego")])


def verify_lego(lego: Lego, names: list[str]) -> None:
    stem = names[0]
    leaf, chain = (lego.certificates / f"{stem}.{suffix}" for suffix in ("crt", "issuer.crt"))
    verify(hold(lego.site, leaf, home=lego.home, chain=chain), names=names)


def test_lego_proves_two_names_by_tls_alpn_01(lego: Lego, site: Site) -> None:
    names = [site.name("alpn.lego"), site.name("www.alpn.lego")]
    lego.run(names, "run", server=site.directory("alpn"), by="tls")
    verify_lego(lego, names)


def test_by_tls_alpn_01_a_name_that_answers_with_another_certificate_is_refused(lego: Lego, site: Site) -> None:
    """lego listens, but somewhere else."""
    site.zone("elsewhere.alpn.lego.interop.example.com", ["127.0.0.2"])
    said = lego.refused(["elsewhere.alpn.lego.interop.example.com"], "run", server=site.directory("alpn"), by="tls")
    assert "urn:ietf:params:acme:error:connection" in said


def test_lego_4_asks_for_an_address_as_if_it_were_a_name_and_is_told_how_to_ask(lego: Lego, site: Site) -> None:
    """RFC 8738 §3 has type "ip"; lego learned it later. certbot and uacme know it."""
    said = lego.refused(["127.0.0.1"], "run", server=site.directory("addresses"))
    assert "urn:ietf:params:acme:error:rejectedIdentifier" in said
    assert "ask for it as type ip" in said


def test_an_external_account_key_lets_lego_in_once_and_without_it_nobody_gets_in(lego: Lego, site: Site) -> None:
    name, server = site.name("eab.lego"), site.directory("bound")
    assert "Server requires External Account Binding" in lego.refused([name], "run", server=server)
    made = orjson.loads(certwright("eab", "create", "--endpoint", "bound", "-o", "json", "--config", site.config).stdout)
    account = ("--eab", "--kid", made["kid"], "--hmac", made["hmac_key"])
    lego.run([name], "run", server=server, account=account)
    verify_lego(lego, [name])
    (lego.home / "lego").rename(lego.home / "first")  # a second account
    lego.refused([name], "run", server=server, account=account)
