"""lego (Debian): the ACME client inside Traefik and many Go programs."""

from pathlib import Path

import pytest

from interop.support import Site, hold, needs, run, verify, verify_revoked

pytestmark = needs("lego", package="lego")


class Lego:
    """One user's lego."""

    def __init__(self, site: Site, home: Path) -> None:
        self.site = site
        self.home = home
        self.certificates = home / "lego" / "certificates"

    def run(self, names: list[str], *command: str) -> None:
        domains = [argument for name in names for argument in ("-d", name)]
        run(
            [
                *("lego", "--server", self.site["ACME_DIRECTORY"], "--accept-tos", "--email", "admin@example.com"),
                *("--path", self.home / "lego", "--http", "--http.port", f"127.0.0.1:{self.site.http01_port}"),
                *(*domains, *command),
            ],
            home=self.home,
            env={"LEGO_CA_CERTIFICATES": str(self.site.root)},
        )


@pytest.fixture
def lego(site: Site, home: Path) -> Lego:
    return Lego(site, home)


def test_lego_issues_renews_and_revokes(lego: Lego, site: Site, home: Path) -> None:
    names = [site.name("lego"), site.name("www.lego")]
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
