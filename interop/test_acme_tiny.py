"""acme-tiny (Debian): two hundred lines of Python, no state, no patience: what it needs is in the RFC's main road."""

from pathlib import Path

from interop.support import RSA, Site, hold, make_csr, needs, openssl, refused, run, verify
from interop.webroot import webroot

pytestmark = needs("acme-tiny", package="acme-tiny")


def acme_tiny(site: Site, home: Path, challenges: Path) -> list[str | Path]:
    """It reads an RSA key and a CSR, and prints the chain. `--disable-check`: it would ask port 80 before it asks us."""
    return [
        *("acme-tiny", "--account-key", home / "account.key", "--csr", home / "site.csr", "--acme-dir", challenges),
        *("--directory-url", site["ACME_DIRECTORY"], "--contact", "mailto:admin@example.com", "--disable-check", "--quiet"),
    ]


def test_acme_tiny_gets_a_chain_for_two_names_and_the_second_run_uses_the_same_account(site: Site, home: Path) -> None:
    names = [site.name("tiny"), site.name("www.tiny")]
    openssl("genrsa", "-traditional", "-out", home / "account.key", "2048", home=home)
    leaf = home / "chain.pem"
    for key in (RSA, ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")):
        make_csr(home, "site", cn=names[0], names=names, key=key)
        with webroot(home / f"www-{key[0][:3]}", site.http01_port) as challenges:
            done = run(acme_tiny(site, home, challenges), home=home, env={"SSL_CERT_FILE": str(site.root)})
            assert list(challenges.iterdir()) == []  # it cleans up after itself
        leaf.write_bytes(done.stdout)
        verify(hold(site, leaf, home=home, chain=leaf), names=names)


def test_acme_tiny_says_why_a_name_was_not_proven(site: Site, home: Path) -> None:
    name = site.name("absent.tiny")
    openssl("genrsa", "-traditional", "-out", home / "account.key", "2048", home=home)
    make_csr(home, "site", cn=name, names=[name])
    with webroot(home / "www", site.http01_port):
        command = acme_tiny(site, home, home)  # the files land where nobody serves them
        said = refused(command, home=home, env={"SSL_CERT_FILE": str(site.root)})
    assert f"Challenge did not pass for {name}" in said
    assert "404" in said
