"""dehydrated 0.7 (Debian): bash and curl. It dies at one badNonce, so whoever passes here gave none."""

from __future__ import annotations

from pathlib import Path

import pytest

from interop.support import Site, hold, needs, ocsp_by_post, refused, run, verify, verify_revoked
from interop.webroot import webroot

pytestmark = needs("dehydrated", "curl", package="dehydrated")


class Dehydrated:
    """One user's dehydrated: a configuration file and what it made of it."""

    def __init__(self, site: Site, home: Path) -> None:
        self.home = home
        self.certificates = home / "certs"
        self.config = home / "config"
        self.config.write_text(
            f"CA={site['ACME_DIRECTORY']}\n"
            f"BASEDIR={home}\n"
            f"WELLKNOWN={home / 'www' / '.well-known' / 'acme-challenge'}\n"
            f"CURL_OPTS='--cacert {site.root}'\n"
            "CONTACT_EMAIL=admin@example.com\n"
        )
        run(self.command("--register", "--accept-terms"), home=home)

    def command(self, *arguments: str | Path) -> list[str | Path]:
        return ["dehydrated", "--config", self.config, *arguments]


@pytest.fixture
def dehydrated(site: Site, home: Path) -> Dehydrated:
    return Dehydrated(site, home)


@pytest.mark.parametrize("algorithm", ["secp384r1", "rsa"])
def test_dehydrated_issues_for_two_names_renews_and_revokes(
    dehydrated: Dehydrated, site: Site, home: Path, algorithm: str
) -> None:
    names = [site.name(f"{algorithm}.dehydrated"), site.name(f"www.{algorithm}.dehydrated")]
    lineage = dehydrated.certificates / names[0]
    leaf, chain = lineage / "cert.pem", lineage / "chain.pem"
    order = dehydrated.command("--cron", "--algo", algorithm, "--domain", " ".join(names))
    with webroot(home / "www", site.http01_port):
        run(order, home=home)
        first = leaf.read_bytes()
        verify(hold(site, leaf, home=home, chain=chain), names=names)
        run([*order, "--force"], home=home)
    assert leaf.read_bytes() != first
    held = hold(site, leaf.resolve(), home=home, chain=chain)
    assert ocsp_by_post(held) == "good"

    keep = leaf.read_bytes()
    run(dehydrated.command("--revoke", leaf), home=home)
    assert not leaf.exists()  # it keeps a revoked certificate under another name
    held.leaf.write_bytes(keep)
    verify_revoked(held)


def test_dehydrated_shows_what_the_server_found_at_the_name(dehydrated: Dehydrated, site: Site, home: Path) -> None:
    name = site.name("absent.dehydrated")
    (home / "www" / ".well-known" / "acme-challenge").mkdir(parents=True)
    with webroot(home / "elsewhere", site.http01_port):
        said = refused(dehydrated.command("--cron", "--domain", name), home=home)
    assert "urn:ietf:params:acme:error:unauthorized" in said
    assert name in said
