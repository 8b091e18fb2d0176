"""`alternate_chains` of an issuer: what does not lead up from the same CA is refused at its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certwright.compose import issuers_of
from certwright.config import Config, parse
from certwright.yaml_positions import ConfigError
from tests.helpers.ca import ca_certificate


class Files:
    """Certificates of another root, on disk; one of them certifies the issuing CA of `made`."""

    def __init__(self, made: Path, directory: Path) -> None:
        self._directory = directory
        self.issuing = x509.load_pem_x509_certificate((made / "ca" / "issuing.pem").read_bytes())
        key = ec.generate_private_key(ec.SECP256R1())
        self.root = ca_certificate(key, "Older Root")
        self.cross = (
            x509.CertificateBuilder()
            .subject_name(self.issuing.subject)
            .issuer_name(self.root.subject)
            .public_key(self.issuing.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.root.not_valid_before_utc)
            .not_valid_after(self.root.not_valid_after_utc)
            .add_extension(self.issuing.extensions.get_extension_for_class(x509.BasicConstraints).value, critical=True)
            .add_extension(self.issuing.extensions.get_extension_for_class(x509.KeyUsage).value, critical=True)
            .add_extension(self.issuing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value, critical=False)
            .sign(key, hashes.SHA256())
        )
        self.stranger = ca_certificate(ec.generate_private_key(ec.SECP256R1()), "Stranger", by=(self.root, key))

    def path(self, certificate: x509.Certificate) -> str:
        path = self._directory / f"{certificate.serial_number:x}.pem"
        path.write_bytes(certificate.public_bytes(Encoding.PEM))
        return str(path)


def load(made: Path, chains: str) -> Config:
    text = (made / "certwright.yaml").read_text()
    first = "    chain: [ca/root.pem]\n"
    return parse(made / "certwright.yaml", text.replace(first, f"{first}    alternate_chains: {chains}\n", 1))


@pytest.fixture
def files(made: Path, tmp_path: Path) -> Files:
    return Files(made, tmp_path)


def test_a_cross_certificate_of_the_same_ca_is_an_alternate_chain(made: Path, files: Files) -> None:
    config = load(made, f"[[{files.path(files.cross)}, {files.path(files.root)}]]")
    issuer = issuers_of(config)["issuing"]
    assert issuer.alternates == ((files.cross, files.root),)
    (chain,) = issuer.alternate_pems
    assert x509.load_pem_x509_certificates(chain.encode()) == [files.cross]  # without the root
    assert issuers_of(config)["devices"].alternates == ()


def test_what_is_no_way_up_from_the_same_ca_is_refused(made: Path, files: Files) -> None:
    cross, root = files.path(files.cross), files.path(files.root)
    for chains, said in (
        (f"[[{files.path(files.stranger)}, {root}]]", "begins with the same CA"),
        (f"[[{root}, {cross}]]", "begins with the same CA"),
        (f"[[{cross}, {files.path(files.stranger)}]]", "did not issue"),
        ("[[ca/issuing.pem, ca/root.pem]]", "own certificate again"),
        ("[[ca/nowhere.pem]]", "there is no file"),
        ("[[tls/server.pem]]", "CA certificate has basic constraints|may not issue"),
        ("[[]]", "at least one"),
        ("[ca/root.pem]", "list"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            load(made, chains)
        assert ":" in str(caught.value)  # a line
