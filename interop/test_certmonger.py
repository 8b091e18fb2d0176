"""certmonger (Debian certmonger, dbus): SCEP by GET alone, with a RA, on a bus of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from interop.scep import ScepSite, public_key, serial
from interop.support import needs, openssl, run, running, verify, within_a_minute

pytestmark = needs("certmonger", "getcert", "scep-submit", "dbus-daemon", package="certmonger, dbus")

NAME = "monitored.example.com"


@dataclass(frozen=True, slots=True)
class Certmonger:
    """One of this test's own, which the bus starts when it is first called; no systemd is needed."""

    scep: ScepSite
    home: Path
    endpoint: str

    @property
    def leaf(self) -> Path:
        return self.home / "cert.pem"

    def __call__(self, command: str, *arguments: str | Path) -> str:
        env = {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.home}/bus"}
        done = run(["getcert", command, "-s", *arguments], home=self.home, env=env)
        return done.stdout.decode()

    def add_ca(self) -> None:
        """A request before it has the CA's certificates would only wait for the next round, so this sees them first."""
        self("add-scep-ca", "-c", "certwright", "-u", self.scep.url(self.endpoint))
        within_a_minute(
            "the CA's certificates are there", lambda: "CA certificate thumbprint" in self("list-cas", "-c", "certwright", "-v")
        )

    def request(self, challenge: str | None = None, *, name: str = NAME) -> None:
        secret = self.home / "challenge"
        secret.touch(mode=0o600)
        secret.write_text(self.scep.challenge(self.endpoint) if challenge is None else challenge)
        files: list[str | Path] = ["-k", self.home / "key.pem", "-f", self.leaf, "-l", secret]
        self("request", "-c", "certwright", "-I", "r1", *files, "-N", f"CN={name}", "-D", name, "-g", "2048")

    def wait_for(self, status: str) -> None:
        """Whatever it says, it says it at last; the log of the bus, where certmonger writes, is printed when it does not."""
        within_a_minute(f"certmonger says {status}", lambda: f"status: {status}\n" in self("list", "-i", "r1"))

    def wait_for_another(self, before: str) -> str:
        """The serial number of the certificate that takes the place of the one before."""
        within_a_minute("certmonger has another certificate", lambda: serial(self.leaf, home=self.home) != before)
        self.wait_for("MONITORING")
        return serial(self.leaf, home=self.home)

    def verify(self, name: str = NAME) -> None:
        verify(self.scep.hold(self.leaf, home=self.home), purpose="sslclient", names=[name])


@contextmanager
def certmonger(scep: ScepSite, home: Path, endpoint: str = "default") -> Iterator[Certmonger]:
    client = Certmonger(scep, home, endpoint)
    with running(["dbus-daemon", "--session", "--nofork", f"--address=unix:path={home}/bus"], home=home):
        within_a_minute("the bus is there", (home / "bus").exists)
        client.add_ca()
        yield client


def test_getcacaps_and_getcacert_are_what_certmonger_reads(scep: ScepSite, home: Path) -> None:
    capabilities = run(["scep-submit", "-u", scep.url(), "-c"], home=home).stdout.decode().split()
    assert {"AES", "POSTPKIOperation", "SHA-256", "Renewal"} <= set(capabilities)
    certificates = run(["scep-submit", "-u", scep.url(), "-C"], home=home).stdout.decode()
    assert certificates.count("BEGIN CERTIFICATE") == 3  # the registration authority first: it is what it encrypts to
    first = home / "first.pem"
    first.write_text(certificates[certificates.index("-----BEGIN") :])
    shown = openssl("x509", "-in", first, "-noout", "-fingerprint", "-sha256", home=home)
    ours = openssl("x509", "-in", scep.root.parent / "scep-ra.pem", "-noout", "-fingerprint", "-sha256", home=home)
    assert shown == ours


def test_what_a_one_time_challenge_has_opened_renews_itself_and_takes_another_key(scep: ScepSite, home: Path) -> None:
    """By PKCSReq, signed with the old certificate; the challenge goes with it, and is of no use any more."""
    challenge = scep.one_time_challenge("default", "--subject", f"CN={NAME}", "--san", NAME)
    before = len(scep.server.log_lines())
    with certmonger(scep, home) as client:
        client.request(challenge)
        client.wait_for("MONITORING")
        client.verify()
        first, key = serial(client.leaf, home=home), public_key(client.leaf, home=home)
        client("resubmit", "-i", "r1")
        second = client.wait_for_another(first)
        client.verify()
        assert public_key(client.leaf, home=home) == key
        client("rekey", "-i", "r1")
        client.wait_for_another(second)
        client.verify()
    log = scep.server.log_lines()[before:]
    assert {line["method"] for line in log if line.get("path") == "/scep"} == {"GET"}
    made = openssl("pkey", "-in", home / "key.pem", "-pubout", home=home)
    assert public_key(client.leaf, home=home) == made != key


def test_a_request_waits_until_somebody_has_approved_it(scep: ScepSite, home: Path) -> None:
    name = "monitored-later.example.com"
    with certmonger(scep, home, "approved") as client:
        client.request(name=name)
        client.wait_for("CA_WORKING")
        scep.approve(name)
        client("refresh", "-i", "r1")
        client.wait_for("MONITORING")
        client.verify(name)


def test_a_denied_request_is_reported_as_rejected(scep: ScepSite, home: Path) -> None:
    name = "monitored-never.example.com"
    with certmonger(scep, home, "approved") as client:
        client.request(name=name)
        client.wait_for("CA_WORKING")
        scep.deny(name, "unknown device")
        client("refresh", "-i", "r1")
        client.wait_for("CA_REJECTED")
        assert not client.leaf.exists()


def test_it_takes_a_registration_authority_of_two_halves(scep: ScepSite, home: Path) -> None:
    with certmonger(scep, home, "two") as client:
        client.request()
        client.wait_for("MONITORING")
        client.verify()


def test_a_wrong_challenge_is_reported_as_rejected(scep: ScepSite, home: Path) -> None:
    with certmonger(scep, home) as client:
        client.request("wrong")
        client.wait_for("CA_REJECTED")
        assert not client.leaf.exists()
