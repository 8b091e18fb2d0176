"""strongSwan's `pki` (Debian strongswan-pki) as an EST client."""

from pathlib import Path

import pytest

from interop.est import EstSite
from interop.support import (
    P256,
    RSA,
    Site,
    hold,
    make_csr,
    needs,
    openssl,
    pem_certificates,
    refused,
    run,
    running,
    verify,
    within_a_minute,
)

pytestmark = needs("pki", package="strongswan-pki, libstrongswan-extra-plugins")


def base_url(site: Site) -> str:
    """pki adds /.well-known/est itself."""
    return site["EST_URL"].rstrip("/").removesuffix("/.well-known/est")


def enrol(site: Site, home: Path, password: str) -> list[str | Path]:
    return [
        *("pki", "--est", "--url", base_url(site), "--in", home / "device.der", "--cacert", site.root),
        *("--userpass", f"{site['EST_USER']}:{password}", "--outform", "pem"),
    ]


def test_estca_fetches_our_root(site: Site, home: Path) -> None:
    run(
        [
            *("pki", "--estca", "--url", base_url(site), "--cacert", site.root),
            *("--caout", home / "est.pem", "--outform", "pem", "--force"),
        ],
        home=home,
    )
    root = openssl("x509", "-in", site.root, home=home)
    written = [openssl("x509", "-in", file, home=home) for file in home.glob("est*.pem")]
    assert root in written


@pytest.mark.parametrize("key", [P256, RSA], ids=["P-256", "RSA"])
def test_est_enrols_with_a_password(site: Site, home: Path, key: tuple[str, ...]) -> None:
    name = site.name("strongswan-est")
    make_csr(home, "device", cn=name, names=[name], key=key)
    leaf = home / "device.pem"
    leaf.write_bytes(run(enrol(site, home, site["EST_PASSWORD"]), home=home).stdout)
    verify(hold(site, leaf, home=home), purpose="sslclient", names=[name])


def test_a_wrong_password_is_refused(site: Site, home: Path) -> None:
    make_csr(home, "device", cn=site.name("strongswan-est"), names=[])
    assert "401" in refused(enrol(site, home, "wrong"), home=home)


# --- at a server that takes certificates and asks for approvals -----------------------------------------------------------


def est_command(est: EstSite, stem: str, *proof: str | Path) -> list[str | Path]:
    command: list[str | Path] = ["pki", "--est", "--url", est.server_url, "--in", f"{stem}.der", "--cacert", est.root]
    return [*command, *proof, "--outform", "pem"]


def by_password(est: EstSite, user: str = "default", *, role: str = "device") -> tuple[str, str]:
    return "--userpass", f"{user}:{est.password(user=user, role=role)}"


def renewable(est: EstSite, home: Path, name: str, *, key: tuple[str, ...]) -> Path:
    make_csr(home, "device", cn=name, names=[name], key=key)
    leaf = home / "device.pem"
    leaf.write_bytes(run(est_command(est, "device", *by_password(est)), home=home).stdout)
    return leaf


@pytest.mark.parametrize("key", [P256, RSA], ids=["P-256", "RSA"])
def test_a_certificate_renews_itself(est: EstSite, home: Path, key: tuple[str, ...]) -> None:
    name = "swan-renews.example.com"
    leaf = renewable(est, home, name, key=key)
    make_csr(home, "next", cn=name, names=[name], key=key)
    renewed = home / "next.pem"
    renewed.write_bytes(run(est_command(est, "next", "--cert", leaf, "--key", "device.key"), home=home).stdout)
    verify(est.hold(renewed, home=home), purpose="sslclient", names=[name])
    assert est.shows(renewed, home=home)["serial"] != est.shows(leaf, home=home)["serial"]


def test_a_renewal_for_another_name_is_refused(est: EstSite, home: Path) -> None:
    leaf = renewable(est, home, "swan-stays.example.com", key=P256)
    make_csr(home, "other", cn="swan-moves.example.com", names=["swan-moves.example.com"])
    assert "403" in refused(est_command(est, "other", "--cert", leaf, "--key", "device.key"), home=home)


def test_it_polls_until_somebody_has_approved(est: EstSite, home: Path) -> None:
    make_csr(home, "device", cn="swan-waits", names=[])
    proof = by_password(est, "waiting", role="waiting")
    with running([*est_command(est, "device", *proof, "--interval", "1", "--maxpolltime", "60")], home=home) as polling:
        within_a_minute("the request waits", lambda: est.is_waiting("swan-waits"))
        assert polling.poll() is None, "it waits"
        est.approve("swan-waits")
        assert polling.wait(timeout=60) == 0
    leaf = home / "swan.pem"
    leaf.write_text(pem_certificates(home / "pki.log")[0])
    verify(est.hold(leaf, home=home), purpose="sslclient")
