"""strongSwan's `pki` (Debian strongswan-pki) as an EST client."""

from pathlib import Path

import pytest

from interop.support import P256, RSA, Site, hold, make_csr, needs, openssl, refused, run, verify

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
