"""A CA that two roots have certified, and a client that chooses whose chain it serves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from interop.conftest import dns_server
from interop.support import Site, needs, run, short_directory
from tests.helpers.ca import ca_certificate
from tests.helpers.server import Server

pytestmark = needs("certbot", package="certbot from PyPI")

CHAIN = "    chain: [ca/root.pem]\n"


def certified_by_another_root(directory: Path) -> str:
    """Makes the files, and gives the configuration's line."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = ca_certificate(key, "Older Root")
    issuing = x509.load_pem_x509_certificate((directory / "issuing.pem").read_bytes())
    builder = (
        x509.CertificateBuilder()
        .subject_name(issuing.subject)
        .issuer_name(root.subject)
        .public_key(issuing.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
    )
    for extension in issuing.extensions:
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    for name, certificate in (("cross.pem", builder.sign(key, hashes.SHA256())), ("older-root.pem", root)):
        (directory / name).write_bytes(certificate.public_bytes(Encoding.PEM))
    return "    alternate_chains: [[ca/cross.pem, ca/older-root.pem]]\n"


@pytest.fixture(scope="module")
def crossed() -> Iterator[Site]:
    with short_directory() as base, dns_server() as dns:
        directory = base / "certwright"

        def edit(text: str) -> str:
            return text.replace(CHAIN, CHAIN + certified_by_another_root(directory / "ca"), 1)

        with Server(directory=directory, resolver=dns.address, edit=edit) as server:
            yield Site(
                root=server.ca_file,
                bootstrap=server.environment,
                http01_port=server.http01_port,
                zone=dns.__setitem__,
                config=server.config_file,
            )


@pytest.mark.parametrize(("preferred", "issuer"), [("Older Root", "Older Root"), ("There Is None", "Certwright")])
def test_certbot_serves_the_chain_that_it_was_told_to_prefer(crossed: Site, home: Path, preferred: str, issuer: str) -> None:
    name = crossed.name("preferred.certbot")
    directories = [f"--{each}-dir={home / each}" for each in ("config", "work", "logs")]
    command = ["certbot", "certonly", "-n", "--server", crossed["ACME_DIRECTORY"], *directories, "--standalone", "-d", name]
    command += ["--http-01-port", str(crossed.http01_port), "--http-01-address", "127.0.0.1"]
    command += ["--agree-tos", "--register-unsafely-without-email", "--preferred-chain", preferred]
    run(command, home=home, env={"REQUESTS_CA_BUNDLE": str(crossed.root)})
    live = home / "config" / "live" / name
    (above,) = x509.load_pem_x509_certificates((live / "chain.pem").read_bytes())
    assert issuer in above.issuer.rfc4514_string()
    x509.load_pem_x509_certificate((live / "cert.pem").read_bytes()).verify_directly_issued_by(above)
