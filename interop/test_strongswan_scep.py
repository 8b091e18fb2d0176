"""strongSwan's `pki` (Debian strongswan-pki and libstrongswan-extra-plugins) as a SCEP client."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from interop.scep import ScepSite, key_usage, public_key, recipient, serial
from interop.support import environment, needs, openssl, refused, run, verify, within_a_minute

pytestmark = needs("pki", package="strongswan-pki, libstrongswan-extra-plugins")

NAME = "gateway.example.com"


@dataclass(frozen=True, slots=True)
class Pki:
    """`pki --scepca` once for an endpoint, then `pki --scep` with what it wrote."""

    scep: ScepSite
    home: Path
    endpoint: str = "default"

    def key(self, stem: str = "device") -> Path:
        file = self.home / f"{stem}.key"
        openssl("genrsa", "-traditional", "-out", file, "2048", home=self.home)
        return file

    def authorities(self) -> list[Path]:
        """What it says that the CA's certificates are; beside them lies ra.pem, where there is one."""
        if not (self.home / "ca.pem").exists():
            files: list[str | Path] = ["--caout", self.home / "ca.pem", "--raout", self.home / "ra.pem"]
            run(["pki", "--scepca", "--url", self.scep.url(self.endpoint), *files, "--outform", "pem"], home=self.home)
        return sorted(self.home.glob("ca*.pem"))

    def command(self, key: Path, *options: str | Path, name: str = NAME) -> list[str | Path]:
        anchors = [part for file in self.authorities() for part in ("--cacert", file)]
        signs, reads = self._protects()
        what: list[str | Path] = ["--in", key, "--dn", f"O=Interop, CN={name}", "--san", name]
        authority: list[str | Path] = ["--cacert-enc", reads, "--cacert-sig", signs, *anchors]
        return ["pki", "--scep", "--url", self.scep.url(self.endpoint), *what, *authority, *options, "--outform", "pem"]

    def _protects(self) -> tuple[Path, Path]:
        """Whose signature it expects, and whom it encrypts to: by the key usages, where they are not the same."""
        reads = recipient(self.scep.url(self.endpoint), home=self.home)
        authorities = sorted(self.home.glob("ra*.pem"))
        signing = [one for one in authorities if "Digital Signature" in key_usage(one, home=self.home)]
        return (signing or [reads])[0], reads

    def enrol(self, key: Path, *options: str | Path, name: str = NAME, challenge: str | None = None) -> list[str | Path]:
        secret = self.scep.challenge(self.endpoint) if challenge is None else challenge
        return self.command(key, "--password", secret, *options, name=name)

    def renew(self, key: Path, old: Path, old_key: Path, *options: str) -> list[str | Path]:
        """A RenewalReq; no challenge goes with it."""
        return self.command(key, "--cert", old, "--key", old_key, *options)

    def got(self, command: Sequence[str | Path], stem: str = "device", *, name: str = NAME) -> Path:
        """Runs it, and what it printed is a certificate of ours."""
        leaf = self.home / f"{stem}.pem"
        leaf.write_bytes(run(command, home=self.home).stdout)
        verify(self.scep.hold(leaf, home=self.home), purpose="sslclient", names=[name])
        return leaf


def test_scepca_tells_the_ra_from_the_ca_and_trusts_it(scep: ScepSite, home: Path) -> None:
    pki = Pki(scep, home)
    chain = home / "chain.pem"
    chain.write_text("".join(file.read_text() for file in pki.authorities()))
    said = openssl("verify", "-CAfile", scep.root, "-untrusted", chain, home / "ra.pem", home=home)
    assert "OK" in said
    assert {openssl("x509", "-in", file, "-noout", "-subject", home=home) for file in pki.authorities()} == {
        openssl("x509", "-in", scep.root.parent / name, "-noout", "-subject", home=home) for name in ("root.pem", "devices.pem")
    }


@pytest.mark.parametrize(
    ("endpoint", "options"),
    [
        pytest.param("default", ("--cipher", "aes", "--digest", "sha256"), id="AES and SHA-256"),
        pytest.param("default", ("--cipher", "aes", "--digest", "sha512"), id="AES and SHA-512"),
        pytest.param("default", ("--cipher", "aes", "--digest", "sha384", "--rsa-padding", "pss"), id="RSASSA-PSS and SHA-384"),
        pytest.param("old", ("--cipher", "des3", "--digest", "sha1"), id="3DES and SHA-1, as old devices send"),
        pytest.param("by-ca", ("--cipher", "aes", "--digest", "sha256"), id="to the CA's own key"),
        pytest.param("two", ("--cipher", "aes", "--digest", "sha256"), id="to one that reads, from another that signs"),
    ],
)
def test_scep_enrols_with_a_challenge_password(scep: ScepSite, home: Path, endpoint: str, options: tuple[str, ...]) -> None:
    pki = Pki(scep, home, endpoint)
    pki.got(pki.enrol(pki.key(), *options))
    assert len(list(home.glob("ra*.pem"))) == {"by-ca": 0, "two": 2}.get(endpoint, 1)


@pytest.mark.parametrize("endpoint", ["default", "by-ca"])
def test_scep_renews_with_the_old_certificate_alone_for_the_same_key_and_for_another(
    scep: ScepSite, home: Path, endpoint: str
) -> None:
    pki = Pki(scep, home, endpoint)
    key = pki.key()
    old = pki.got(pki.enrol(key))
    same = pki.got(pki.renew(key, old, key), "same")
    other = pki.got(pki.renew(pki.key("other"), same, key, "--rsa-padding", "pss"), "other")
    assert len({serial(leaf, home=home) for leaf in (old, same, other)}) == 3
    assert public_key(old, home=home) == public_key(same, home=home) != public_key(other, home=home)


def test_a_certificate_of_another_endpoint_renews_nothing(scep: ScepSite, home: Path) -> None:
    here, there = Pki(scep, home), Pki(scep, home, "old")
    key = here.key()
    old = here.got(here.enrol(key))
    said = refused(there.renew(key, old, key), home=home)
    assert "failInfo:     badRequest" in said, said


def test_a_one_time_challenge_opens_once_and_for_its_subject_alone(scep: ScepSite, home: Path) -> None:
    pki = Pki(scep, home)
    key, subject = pki.key(), f"O=Interop,CN={NAME}"
    challenge = scep.one_time_challenge("default", "--subject", subject, "--san", NAME)
    pki.got(pki.enrol(key, challenge=challenge))
    assert "failInfo:     badRequest" in refused(pki.enrol(pki.key("late"), challenge=challenge), home=home)
    another = scep.one_time_challenge("default", "--subject", subject, "--san", NAME)
    assert "failInfo:     badRequest" in refused(pki.enrol(key, challenge=another, name="other.example.com"), home=home)


def waits(scep: ScepSite, home: Path, name: str, decide: Callable[[str], None]) -> str:
    """Enrols where somebody has to approve, and polls every second; all that it said."""
    pki = Pki(scep, home, "approved")
    command = pki.enrol(pki.key(), "--interval", "1", "--maxpolltime", "60", name=name)
    output = home / "device.pem"
    with output.open("wb") as out, (home / "said").open("wb") as said:
        env = environment(home)
        with subprocess.Popen([str(part) for part in command], cwd=home, env=env, stdout=out, stderr=said) as client:
            try:
                within_a_minute("the request waits", lambda: scep.is_waiting(name))
                decide(name)
                client.wait(timeout=60)
            finally:
                client.kill()
    return (home / "said").read_text(errors="replace")


def test_it_polls_until_somebody_has_approved(scep: ScepSite, home: Path) -> None:
    name = "approved.example.com"
    said = waits(scep, home, name, scep.approve)
    assert "BEGIN CERTIFICATE" in (home / "device.pem").read_text(), said
    verify(scep.hold(home / "device.pem", home=home), purpose="sslclient", names=[name])


def test_it_polls_until_somebody_has_denied(scep: ScepSite, home: Path) -> None:
    said = waits(scep, home, "denied.example.com", lambda name: scep.deny(name, "unknown device"))
    assert "failInfo:     badRequest" in said, said
    assert (home / "device.pem").read_bytes() == b""


def test_a_wrong_challenge_gets_a_signed_refusal_that_pki_can_read(scep: ScepSite, home: Path) -> None:
    pki = Pki(scep, home)
    said = refused(pki.enrol(pki.key(), challenge="wrong"), home=home)
    assert "failInfo:     badRequest" in said
