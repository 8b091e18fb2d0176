"""micromdm's scepclient (Debian scep): BER, SHA-1 and single DES, as many a device still speaks."""

from pathlib import Path

import pytest

from interop.support import Site, hold, needs, openssl, refused, run, verify

pytestmark = needs("scepclient", package="scep")


def enrol(site: Site, home: Path, cn: str, *options: str, challenge: str | None = None) -> list[str | Path]:
    return [
        *("scepclient", "-server-url", site["SCEP_URL"], "-private-key", home / "key.pem", "-certificate", home / "cert.pem"),
        *("-challenge", site["SCEP_CHALLENGE"] if challenge is None else challenge, "-cn", cn, "-organization", "Interop"),
        *options,
    ]


def test_scepclient_enrols_with_a_challenge_password(site: Site, home: Path) -> None:
    run(enrol(site, home, site.name("scepclient")), home=home)
    verify(hold(site, home / "cert.pem", home=home), purpose="sslclient")


def test_scepclient_enrols_when_it_is_told_the_fingerprint_of_the_encryption_certificate(site: Site, home: Path) -> None:
    fingerprint = recipient_fingerprint(site, home)
    run(enrol(site, home, site.name("scepclient"), "-ca-fingerprint", fingerprint), home=home)
    verify(hold(site, home / "cert.pem", home=home), purpose="sslclient")


def recipient_fingerprint(site: Site, home: Path) -> str:
    """SHA-256 of the certificate in GetCACert that may encrypt keys, in hex as scepclient wants it."""
    answer = home / "getcacert"
    run(["curl", "-sS", "--fail", "-o", answer, f"{site['SCEP_URL']}?operation=GetCACert"], home=home)
    pem = openssl("pkcs7", "-inform", "DER", "-in", answer, "-print_certs", home=home)
    for block in pem.split("-----END CERTIFICATE-----"):
        one = home / "one.pem"
        one.write_text(block[block.find("-----BEGIN") :] + "-----END CERTIFICATE-----\n")
        if "BEGIN" in block and "Key Encipherment" in openssl("x509", "-in", one, "-noout", "-text", home=home):
            printed = openssl("x509", "-in", one, "-noout", "-fingerprint", "-sha256", home=home)
            return printed.strip().partition("=")[2].replace(":", "").lower()
    pytest.fail(f"no certificate with keyEncipherment in\n{pem}")


def test_a_wrong_challenge_gets_a_signed_refusal_that_scepclient_can_read(site: Site, home: Path) -> None:
    said = refused(enrol(site, home, site.name("scepclient"), challenge="wrong"), home=home)
    assert "FAILURE" in said or "failInfo" in said
    assert not (home / "cert.pem").exists()
