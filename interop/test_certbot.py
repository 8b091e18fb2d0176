"""certbot (PyPI): the client that most people mean when they say ACME."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from interop.dns_hook import dns_provider
from interop.support import (
    Held,
    Site,
    crl_entry,
    hold,
    needs,
    ocsp_by_get,
    ocsp_by_post,
    openssl,
    refused,
    run,
    verify,
    verify_revoked,
)
from tests.helpers.server import free_ports
from tests.helpers.server import run as certwright

pytestmark = needs("certbot", package="certbot from PyPI")


class Certbot:
    """One user's certbot: its own configuration and account."""

    def __init__(self, site: Site, home: Path) -> None:
        self.site = site
        self.home = home
        self.live = home / "config" / "live"

    def command(self, *arguments: str | Path, server: str = "") -> list[str | Path]:
        directories = [f"--{name}-dir={self.home / name}" for name in ("config", "work", "logs")]
        return ["certbot", *arguments, "-n", "--server", server or self.site["ACME_DIRECTORY"], *directories]

    def certonly(self, *arguments: str, server: str = "") -> list[str | Path]:
        return self.command(
            *("certonly", "--standalone", "--http-01-port", str(self.site.http01_port), "--http-01-address", "127.0.0.1"),
            *("--agree-tos", "--register-unsafely-without-email", *arguments),
            server=server,
        )

    def held(self, lineage: str) -> Held:
        return hold(self.site, self.live / lineage / "cert.pem", home=self.home, chain=self.live / lineage / "chain.pem")

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


# ------------------------------------------------------------------------------------------------ revocation


@pytest.mark.parametrize(
    ("reason", "ocsp", "crl"),
    [
        ("unspecified", "", ""),
        ("keycompromise", "keyCompromise", "Key Compromise"),
        ("affiliationchanged", "affiliationChanged", "Affiliation Changed"),
        ("cessationofoperation", "cessationOfOperation", "Cessation Of Operation"),
    ],
)
def test_the_key_of_a_certificate_revokes_it_without_any_account_for_every_reason(
    certbot: Certbot, site: Site, reason: str, ocsp: str, crl: str
) -> None:
    """`superseded`, and the account's key, are above. The account that ordered it is not even here."""
    name = site.name(f"{reason}.certbot")
    certbot.run(certbot.certonly("-d", name))
    held = certbot.held(name)
    lineage = certbot.live / name
    (certbot.home / "config" / "accounts").rename(certbot.home / "accounts")
    proof = ("--cert-path", lineage / "cert.pem", "--key-path", lineage / "privkey.pem")
    certbot.run(certbot.command("revoke", *proof, "--reason", reason, "--no-delete-after-revoke"))
    verify_revoked(held, ocsp, crl)


def test_another_key_revokes_nothing(certbot: Certbot, site: Site, home: Path) -> None:
    name = site.name("stranger.certbot")
    certbot.run(certbot.certonly("-d", name))
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", home / "other.key", home=home)
    proof = ("--cert-path", certbot.live / name / "cert.pem", "--key-path", home / "other.key")
    certbot.refused(certbot.command("revoke", *proof, "--no-delete-after-revoke"))
    assert ocsp_by_post(certbot.held(name)) == "good"


# ------------------------------------------------------------------------------------------------ extensions


def test_certbot_gets_the_chain_to_the_root_that_it_prefers(certbot: Certbot, site: Site, home: Path) -> None:
    name = site.name("chains.certbot")
    certbot.run(certbot.certonly("-d", name, "--preferred-chain", "Interop Old Root"))
    verify(replace(certbot.held(name), root=site.root.parent / "old-root.pem"), names=[name])
    verify(
        hold(site, certbot.live / name / "cert.pem", home=home), names=[name]
    )  # the same by the first chain, from its AIA URL


HOOK = """\
#!/bin/sh
exec curl -sS --fail --data "_acme-challenge.$CERTBOT_DOMAIN $CERTBOT_VALIDATION" "$PROVIDER"
"""


def test_a_wildcard_and_its_base_in_one_order_are_proved_by_two_records_of_one_name(
    certbot: Certbot, site: Site, home: Path
) -> None:
    base = "wild.certbot.interop.example.com"
    hook = home / "hook.sh"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    with dns_provider(site.txt) as provider:
        command = certbot.command(
            *("certonly", "--manual", "--preferred-challenges", "dns", "--manual-auth-hook", hook),
            *("--agree-tos", "--register-unsafely-without-email", "-d", f"*.{base}", "-d", base),
            server=site.directory("dns"),
        )
        run(command, home=home, env={"REQUESTS_CA_BUNDLE": str(site.root), "PROVIDER": provider})
    verify(certbot.held(base), names=[base, f"any.{base}"])


def test_certbot_gets_a_certificate_for_an_address(certbot: Certbot, site: Site) -> None:
    certbot.run(certbot.certonly("--ip-address", "127.0.0.1", "--cert-name", "address", server=site.directory("addresses")))
    verify(certbot.held("address"), addresses=["127.0.0.1"])


def test_certbot_renews_when_the_server_says_so_and_not_before(certbot: Certbot, site: Site) -> None:
    """RFC 9773. Both endpoints give two hours; one has a window that is open at once, the other has none at all."""
    names = {endpoint: site.name(f"{endpoint}.certbot") for endpoint in ("renewals", "patient")}
    for endpoint, name in names.items():
        certbot.run(certbot.certonly("-d", name, server=site.directory(endpoint)))
    first = {name: (certbot.live / name / "cert.pem").read_bytes() for name in names.values()}
    certbot.run(certbot.command("renew", "--no-random-sleep-on-renew"))
    renewed = {name for name in names.values() if (certbot.live / name / "cert.pem").read_bytes() != first[name]}
    assert renewed == {names["renewals"]}
    verify(certbot.held(names["renewals"]), names=[names["renewals"]])


@pytest.mark.parametrize(
    ("asked", "lifetime"),
    [
        (("--required-profile", "short-lived"), timedelta(hours=24)),
        (("--preferred-profile", "short-lived"), timedelta(hours=24)),
        (("--preferred-profile", "there-is-none"), timedelta(days=47)),
    ],
)
def test_certbot_chooses_a_profile(certbot: Certbot, site: Site, asked: tuple[str, ...], lifetime: timedelta) -> None:
    name = site.name("profiled.certbot")
    certbot.run(certbot.certonly("-d", name, *asked))
    verify(certbot.held(name), names=[name])
    assert abs(validity(certbot.held(name)) - lifetime) <= timedelta(seconds=1)


def test_a_profile_that_is_required_and_not_there_is_refused(certbot: Certbot, site: Site) -> None:
    said = certbot.refused(certbot.certonly("-d", site.name("profiled.certbot"), "--required-profile", "there-is-none"))
    assert "there-is-none" in said


def validity(held: Held) -> timedelta:
    said = openssl("x509", "-in", held.leaf, "-noout", "-dates", home=held.home)
    start, end = (
        datetime.strptime(line.partition("=")[2], "%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC) for line in said.splitlines()
    )
    return end - start


@pytest.mark.parametrize("algorithm", ["HS256", "HS512"])
def test_an_external_account_key_lets_certbot_in(certbot: Certbot, site: Site, algorithm: str) -> None:
    name, server = site.name("eab.certbot"), site.directory("bound")
    certbot.refused(certbot.certonly("-d", name, server=server))
    made = orjson.loads(certwright("eab", "create", "--endpoint", "bound", "-o", "json", "--config", site.config).stdout)
    key = ("--eab-kid", made["kid"], "--eab-hmac-key", made["hmac_key"], "--eab-hmac-alg", algorithm)
    certbot.run(certbot.certonly("-d", name, *key, server=server))
    verify(certbot.held(name), names=[name])


def test_an_account_owns_the_names_of_its_external_key_and_no_others(certbot: Certbot, site: Site) -> None:
    """Nobody answers at the name, and nobody is asked: the operator said whose it is."""
    mine, server = "mine.certbot.interop.example.com", site.directory("bound")
    options = ("--endpoint", "bound", "--names", f"*.{mine}", "-o", "json", "--config", site.config)
    made = orjson.loads(certwright("eab", "create", *options).stdout)
    key = ("--eab-kid", made["kid"], "--eab-hmac-key", made["hmac_key"])
    certbot.run(certbot.certonly("-d", f"db.{mine}", *key, server=server))
    verify(certbot.held(f"db.{mine}"), names=[f"db.{mine}"])
    said = certbot.refused(certbot.certonly("-d", site.name("theirs.certbot"), server=server))
    assert "theirs.certbot" in said
