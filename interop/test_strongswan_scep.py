"""strongSwan's `pki` (Debian strongswan-pki and libstrongswan-extra-plugins) as a SCEP client."""

from pathlib import Path

import pytest

from interop.support import Site, hold, needs, openssl, refused, run, verify

pytestmark = needs("pki", package="strongswan-pki, libstrongswan-extra-plugins")


class Pki:
    """`pki --scepca` once, then `pki --scep` with what it wrote."""

    def __init__(self, site: Site, home: Path) -> None:
        self.site = site
        self.home = home

    def fetch_ca(self) -> None:
        run(
            [
                *("pki", "--scepca", "--url", self.site["SCEP_URL"], "--caout", self.home / "ca.pem"),
                *("--raout", self.home / "ra.pem", "--outform", "pem", "--force"),
            ],
            home=self.home,
        )

    def enrol(self, name: str, *options: str, challenge: str | None = None) -> list[str | Path]:
        """The RA's certificate protects the exchange where there is one, and the CA's own where there is none."""
        files = sorted(self.home.glob("ra*.pem"))
        ca = sorted(self.home.glob("ca*.pem"))
        recipient = files[0] if files else ca[-1]
        anchors = [part for file in [self.site.root, *ca] for part in ("--cacert", file)]
        return [
            *("pki", "--scep", "--url", self.site["SCEP_URL"], "--in", self.home / "key.pem", "--dn", f"O=Interop, CN={name}"),
            *("--san", name, "--password", self.site["SCEP_CHALLENGE"] if challenge is None else challenge),
            *("--cacert-enc", recipient, "--cacert-sig", recipient, *anchors, *options, "--outform", "pem"),
        ]


@pytest.fixture
def pki(site: Site, home: Path) -> Pki:
    openssl("genrsa", "-traditional", "-out", home / "key.pem", "2048", home=home)
    client = Pki(site, home)
    client.fetch_ca()
    return client


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--cipher", "aes", "--digest", "sha256"), id="AES and SHA-256"),
        pytest.param(("--cipher", "aes", "--digest", "sha512"), id="AES and SHA-512"),
        pytest.param(("--cipher", "des3", "--digest", "sha1"), id="3DES and SHA-1, as old devices send"),
    ],
)
def test_scep_enrols_with_a_challenge_password(pki: Pki, site: Site, home: Path, options: tuple[str, ...]) -> None:
    name = site.name("strongswan-scep")
    leaf = home / "device.pem"
    leaf.write_bytes(run(pki.enrol(name, *options), home=home).stdout)
    verify(hold(site, leaf, home=home), purpose="sslclient", names=[name])


def test_a_wrong_challenge_gets_a_signed_refusal_that_pki_can_read(pki: Pki, site: Site, home: Path) -> None:
    said = refused(pki.enrol(site.name("strongswan-scep"), challenge="wrong"), home=home)
    assert "failInfo:     badRequest" in said
