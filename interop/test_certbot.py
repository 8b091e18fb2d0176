"""certbot (PyPI): the client that most people mean when they say ACME."""

from pathlib import Path

import pytest

from interop.support import (
    Site,
    crl_entry,
    hold,
    needs,
    ocsp_by_get,
    ocsp_by_post,
    refused,
    run,
    verify,
    verify_revoked,
)
from tests.helpers.server import free_ports

pytestmark = needs("certbot", package="certbot from PyPI")


class Certbot:
    """One user's certbot: its own configuration and account."""

    def __init__(self, site: Site, home: Path) -> None:
        self.site = site
        self.home = home
        self.live = home / "config" / "live"

    def command(self, *arguments: str | Path) -> list[str | Path]:
        directories = [f"--{name}-dir={self.home / name}" for name in ("config", "work", "logs")]
        return ["certbot", *arguments, "-n", "--server", self.site["ACME_DIRECTORY"], *directories]

    def certonly(self, *arguments: str) -> list[str | Path]:
        return self.command(
            *("certonly", "--standalone", "--http-01-port", str(self.site.http01_port), "--http-01-address", "127.0.0.1"),
            *("--agree-tos", "--register-unsafely-without-email", *arguments),
        )

    def run(self, command: list[str | Path]) -> str:
        return run(command, home=self.home, env={"REQUESTS_CA_BUNDLE": str(self.site.root)}).stdout.decode()

    def refused(self, command: list[str | Path]) -> str:
        return refused(command, home=self.home, env={"REQUESTS_CA_BUNDLE": str(self.site.root)})


@pytest.fixture
def certbot(site: Site, home: Path) -> Certbot:
    return Certbot(site, home)


def test_a_certificate_for_two_names_is_issued_then_revoked_by_the_account_key_and_relying_parties_see_it(
    certbot: Certbot, site: Site, home: Path
) -> None:
    names = [site.name("certbot"), site.name("www.certbot")]
    certbot.run(certbot.certonly("-d", names[0], "-d", names[1]))
    lineage = certbot.live / names[0]
    held = hold(site, lineage / "cert.pem", home=home, chain=lineage / "chain.pem")
    verify(held, names=names)
    assert (ocsp_by_post(held), ocsp_by_get(held), crl_entry(held)) == ("good", "good", "")

    certbot.run(
        certbot.command("revoke", "--cert-path", lineage / "cert.pem", "--reason", "superseded", "--no-delete-after-revoke")
    )
    verify_revoked(held, "superseded", "Superseded")

    # RFC 8555 §7.6: an already revoked certificate is refused as such, and certbot says so.
    assert "already" in certbot.refused(certbot.command("revoke", "--cert-path", lineage / "cert.pem")).lower()


def test_a_forced_renewal_gives_another_certificate_for_the_same_names(certbot: Certbot, site: Site, home: Path) -> None:
    name = site.name("renewed.certbot")
    certbot.run(certbot.certonly("-d", name))
    leaf = certbot.live / name / "cert.pem"
    first = leaf.read_bytes()
    certbot.run(certbot.command("renew", "--cert-name", name, "--force-renewal", "--no-random-sleep-on-renew"))
    assert leaf.read_bytes() != first
    verify(hold(site, leaf, home=home, chain=certbot.live / name / "chain.pem"), names=[name])


def test_an_rsa_key_is_taken_as_well(certbot: Certbot, site: Site, home: Path) -> None:
    name = site.name("rsa.certbot")
    certbot.run(certbot.certonly("-d", name, "--key-type", "rsa", "--rsa-key-size", "3072"))
    held = hold(site, certbot.live / name / "cert.pem", home=home, chain=certbot.live / name / "chain.pem")
    verify(held, names=[name])
    assert "Public-Key: (3072 bit)" in held.text()


def test_a_name_that_points_elsewhere_is_refused_and_certbot_shows_why(certbot: Certbot, site: Site) -> None:
    # Nobody answers there: the standalone server listens on another port than the one that is validated.
    said = certbot.refused(
        certbot.command(
            *("certonly", "--standalone", "--http-01-port", str(free_ports(1)[0]), "--http-01-address", "127.0.0.1"),
            *("--agree-tos", "--register-unsafely-without-email", "-d", site.name("absent.certbot")),
        )
    )
    assert site.name("absent.certbot") in said
    assert "Some challenges have failed" in said
