"""certmonger (Debian certmonger, dbus): SCEP by GET alone, with a RA, on a bus of its own."""

from pathlib import Path

from interop.support import Site, hold, needs, openssl, run, shell, verify

pytestmark = needs("certmonger", "getcert", "scep-submit", "dbus-run-session", package="certmonger, dbus")

# The bus starts certmonger for this one user when it is first called; no systemd is needed. A request before it has the CA's
# certificates would only wait for the next round, so the loop sees them first.
SESSION = """
exec dbus-run-session -- bash -eu -c '
getcert add-scep-ca -s -c certwright -u "$SCEP_URL"
tries=0
until getcert list-cas -s -c certwright -v | grep -q "CA certificate thumbprint"; do
    tries=$((tries + 1)); [ $tries -lt 100 ]; sleep 0.1
done
eval "$STEPS"
'
"""


def session(site: Site, home: Path, steps: str, **env: str) -> str:
    """Runs `getcert` commands inside a bus with a certmonger of our own; returns what they printed."""
    return shell(
        SESSION,
        home=home,
        env={"SCEP_URL": site["SCEP_URL"], "CHALLENGE": site["SCEP_CHALLENGE"], "STEPS": steps, **env},
    ).decode()


REQUEST = (
    'getcert request -s -c certwright -I r1 -k "$PWD/key.pem" -f "$PWD/cert.pem" -L "$CHALLENGE" '
    '-N "CN=$NAME" -D "$NAME" -g 2048 -w -v'
)


def test_getcacaps_and_getcacert_are_what_certmonger_reads(site: Site, home: Path) -> None:
    capabilities = run(["scep-submit", "-u", site["SCEP_URL"], "-c"], home=home).stdout.decode().split()
    assert {"AES", "POSTPKIOperation", "SHA-256"} <= set(capabilities) or "SCEPStandard" in capabilities
    certificates = run(["scep-submit", "-u", site["SCEP_URL"], "-C"], home=home).stdout.decode()
    assert "BEGIN CERTIFICATE" in certificates


def test_certmonger_requests_with_a_challenge_password_and_monitors_the_certificate(site: Site, home: Path) -> None:
    name = site.name("certmonger")
    said = session(site, home, f"{REQUEST}; getcert list -s -i r1", NAME=name)
    assert "status: MONITORING" in said, said
    verify(hold(site, home / "cert.pem", home=home), purpose="sslclient", names=[name])


def test_a_wrong_challenge_is_reported_as_rejected(site: Site, home: Path) -> None:
    steps = f"{REQUEST} || true; getcert list -s -i r1"
    said = session(site, home, steps, NAME=site.name("certmonger"), CHALLENGE="wrong")
    assert "status: CA_REJECTED" in said, said
    assert not (home / "cert.pem").exists()


def test_the_key_that_certmonger_made_is_the_one_in_the_certificate(site: Site, home: Path) -> None:
    session(site, home, REQUEST, NAME=site.name("certmonger-key"))
    of_key = openssl("pkey", "-in", home / "key.pem", "-pubout", home=home)
    of_certificate = openssl("x509", "-in", home / "cert.pem", "-noout", "-pubkey", home=home)
    assert of_key == of_certificate
