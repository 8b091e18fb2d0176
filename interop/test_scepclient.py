"""micromdm's scepclient (Debian scep): BER, SHA-1 and single DES, as many a device still speaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from interop.scep import ScepSite, public_key, recipient, serial
from interop.support import needs, openssl, refused, run, verify

pytestmark = needs("scepclient", package="scep")


def enrol(scep: ScepSite, home: Path, *options: str, endpoint: str = "old", challenge: str | None = None) -> list[str | Path]:
    return [
        *("scepclient", "-server-url", scep.url(endpoint), "-private-key", home / "key.pem", "-certificate", home / "cert.pem"),
        *("-challenge", scep.challenge(endpoint) if challenge is None else challenge, "-cn", "router-1"),
        *("-organization", "Interop", *options),
    ]


@pytest.mark.parametrize("endpoint", ["old", "two"])
def test_scepclient_enrols_with_a_challenge_password(scep: ScepSite, home: Path, endpoint: str) -> None:
    """It encrypts to every certificate of GetCACert; the one of ours is found among the recipients."""
    run(enrol(scep, home, endpoint=endpoint), home=home)
    verify(scep.hold(home / "cert.pem", home=home), purpose="sslclient")


def test_scepclient_enrols_when_it_is_told_the_fingerprint_of_the_encryption_certificate(scep: ScepSite, home: Path) -> None:
    encryption = recipient(scep.url("old"), home=home)
    printed = openssl("x509", "-in", encryption, "-noout", "-fingerprint", "-sha256", home=home)
    fingerprint = printed.strip().partition("=")[2].replace(":", "").lower()
    run(enrol(scep, home, "-ca-fingerprint", fingerprint), home=home)
    verify(scep.hold(home / "cert.pem", home=home), purpose="sslclient")


def test_its_second_run_renews_by_the_certificate_alone(scep: ScepSite, home: Path) -> None:
    """A RenewalReq; it is given no challenge then, so the certificate has to do."""
    run(enrol(scep, home), home=home)
    leaf = home / "cert.pem"
    first, key = serial(leaf, home=home), public_key(leaf, home=home)
    run(enrol(scep, home, challenge=""), home=home)
    verify(scep.hold(leaf, home=home), purpose="sslclient")
    assert serial(leaf, home=home) != first
    assert public_key(leaf, home=home) == key


def test_a_one_time_challenge_enrols_once(scep: ScepSite, home: Path) -> None:
    challenge = scep.one_time_challenge("old", "--subject", "C=US,O=Interop,OU=MDM,CN=router-1", "--expires", "1h")
    run(enrol(scep, home, challenge=challenge), home=home)
    verify(scep.hold(home / "cert.pem", home=home), purpose="sslclient")
    other = home / "other"
    other.mkdir()
    said = refused(enrol(scep, other, challenge=challenge), home=other)
    assert "badRequest" in said or "not permitted" in said, said
    assert not (other / "cert.pem").exists()


@pytest.mark.parametrize(
    ("endpoint", "challenge", "reason"),
    [
        pytest.param("old", "wrong", "badRequest", id="a wrong challenge"),
        pytest.param("default", None, "badAlg", id="SHA-1 and DES where init's configuration is as it was"),
    ],
)
def test_a_refusal_is_one_that_scepclient_can_read(
    scep: ScepSite, home: Path, endpoint: str, challenge: str | None, reason: str
) -> None:
    said = refused(enrol(scep, home, endpoint=endpoint, challenge=challenge), home=home)
    assert reason in said, said
    assert not (home / "cert.pem").exists()
