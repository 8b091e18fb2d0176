"""What OpenSSL encrypts, as old and as new devices do, and what it thinks of the answers.

`openssl cms` cannot put SCEP's attributes into a signature, so that layer alone is written by tests/helpers/scep.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from interop.scep import ScepSite, recipient, serial
from interop.support import needs, openssl, run, verify
from tests.helpers.scep import Message, issuer_and_serial, parse_answer

pytestmark = needs("curl", "openssl", package="curl, openssl")

NAME = "plain.example.com"
OAEP = ("-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256", "-keyopt", "rsa_mgf1_md:sha256")
CONFIGURATION = f"""\
[req]
prompt = no
distinguished_name = subject
attributes = attributes
req_extensions = extensions
[subject]
CN = {NAME}
[attributes]
challengePassword = CHALLENGE
[extensions]
subjectAltName = DNS:{NAME}
"""


@dataclass(frozen=True, slots=True)
class Device:
    """A key, a certificate that it made for itself, and a request; all by `openssl req`."""

    scep: ScepSite
    home: Path
    endpoint: str = "default"

    def __post_init__(self) -> None:
        configuration = self.home / "req.cnf"
        configuration.write_text(CONFIGURATION.replace("CHALLENGE", self.scep.challenge(self.endpoint)))
        made: list[str | Path] = ["-config", configuration, "-newkey", "rsa:2048", "-nodes", "-keyout", self.home / "key.pem"]
        openssl("req", "-new", *made, "-outform", "DER", "-out", self.home / "csr.der", home=self.home)
        own: list[str | Path] = ["-subj", f"/CN={NAME}", "-key", self.home / "key.pem", "-out", self.home / "self.pem"]
        openssl("req", "-x509", *own, "-days", "2", home=self.home)

    def encrypted(self, content: Path, *options: str) -> bytes:
        to = recipient(self.scep.url(self.endpoint), home=self.home)
        command: list[str | Path] = [
            "cms",
            "-encrypt",
            "-binary",
            "-in",
            content,
            "-outform",
            "DER",
            "-out",
            self.home / "encrypted",
        ]
        openssl(*command, "-recip", to, *options, home=self.home)
        return (self.home / "encrypted").read_bytes()

    def message(self, content: bytes, *, signer: str = "self.pem", kind: str = "19") -> bytes:
        key = load_pem_private_key((self.home / "key.pem").read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        certificate = x509.load_pem_x509_certificate((self.home / signer).read_bytes())
        return Message(key=key, signer=certificate, content=content, message_type=kind).encode()

    def send(self, message: bytes, *, by_get: bool = False) -> bytes:
        """The answer's content, after OpenSSL has verified its signature up to our root."""
        (self.home / "message").write_bytes(message)
        url = self.scep.url(self.endpoint)
        command: list[str | Path] = ["curl", "-sS", "--fail", "-o", self.home / "answer"]
        if by_get:
            openssl("base64", "-in", self.home / "message", "-out", self.home / "message.b64", home=self.home)
            given = ["-G", "-d", "operation=PKIOperation", "--data-urlencode", f"message@{self.home / 'message.b64'}", url]
        else:
            given = ["--data-binary", f"@{self.home / 'message'}", f"{url}?operation=PKIOperation"]
        run([*command, *given], home=self.home)
        content = self.verified(self.home / "answer")
        answer = parse_answer((self.home / "answer").read_bytes(), content)
        assert answer.status == "0", answer
        return content

    def verified(self, answer: Path) -> bytes:
        """The bag of a CertRep has nobody but its signer; the CA between it and the root is known from GetCACert."""
        trusted = self.home / "trusted.pem"
        authorities = [self.scep.root.parent / f"{name}.pem" for name in ("root", "devices", "routers")]
        trusted.write_text("".join(file.read_text() for file in authorities))
        trust: list[str | Path] = ["-no-CApath", "-no-CAstore", "-CAfile", trusted, "-purpose", "any"]
        openssl(
            "cms", "-verify", "-inform", "DER", "-in", answer, *trust, "-binary", "-out", self.home / "content", home=self.home
        )
        return (self.home / "content").read_bytes()

    def decrypted(self, content: bytes, *, signer: str = "self.pem") -> Path:
        """A certs-only message, DER; decrypted with the modern algorithms of OpenSSL 3 and, for DES, its old ones."""
        (self.home / "reply").write_bytes(content)
        files: list[str | Path] = ["-in", self.home / "reply", "-out", self.home / "opened"]
        keys: list[str | Path] = ["-recip", self.home / signer, "-inkey", self.home / "key.pem"]
        old = ["-provider", "default", "-provider", "legacy"]
        openssl("cms", "-decrypt", "-inform", "DER", "-binary", *files, *keys, *old, home=self.home)
        return self.home / "opened"

    def enrolled(self, message: bytes, *, by_get: bool = False) -> Path:
        """The one certificate of the answer, verified as a relying party would."""
        opened, leaf = self.decrypted(self.send(message, by_get=by_get)), self.home / "leaf.pem"
        openssl("pkcs7", "-inform", "DER", "-in", opened, "-print_certs", "-out", leaf, home=self.home)
        assert leaf.read_text().count("BEGIN CERTIFICATE") == 1
        verify(self.scep.hold(leaf, home=self.home), purpose="sslclient", names=[NAME])
        return leaf


@pytest.mark.parametrize(
    ("endpoint", "options"),
    [
        pytest.param("default", ("-aes-128-cbc",), id="AES-128"),
        pytest.param("default", ("-aes-256-cbc", "-stream"), id="AES-256 in BER of indefinite length"),
        pytest.param("default", ("-aes-128-cbc", "-keyid"), id="to a key identifier"),
        pytest.param("default", ("-aes-128-cbc", "-keyopt", "rsa_padding_mode:oaep"), id="RSAES-OAEP with SHA-1"),
        pytest.param("default", ("-aes-256-cbc", *OAEP, "-stream"), id="RSAES-OAEP with SHA-256"),
        pytest.param("by-ca", ("-aes-128-cbc", *OAEP), id="RSAES-OAEP to the CA's own key"),
        pytest.param("old", ("-des3", "-stream"), id="3DES, for old devices"),
        pytest.param("old", ("-des-cbc", "-provider", "default", "-provider", "legacy"), id="DES, for very old ones"),
    ],
)
def test_what_openssl_encrypts_is_read_and_answered(
    scep: ScepSite, home: Path, endpoint: str, options: tuple[str, ...]
) -> None:
    device = Device(scep, home, endpoint)
    device.enrolled(device.message(device.encrypted(home / "csr.der", *options)))


def test_a_message_in_a_query_is_answered_as_one_in_a_body(scep: ScepSite, home: Path) -> None:
    """With line breaks and percent signs, as sscep has it."""
    device = Device(scep, home)
    device.enrolled(device.message(device.encrypted(home / "csr.der", "-aes-128-cbc")), by_get=True)


def test_who_was_enrolled_reads_the_certificate_and_the_crl(scep: ScepSite, home: Path) -> None:
    device = Device(scep, home)
    leaf = device.enrolled(device.message(device.encrypted(home / "csr.der", "-aes-128-cbc")))
    (home / "wanted").write_bytes(issuer_and_serial(x509.load_pem_x509_certificate(leaf.read_bytes())))
    wanted = device.encrypted(home / "wanted", "-aes-128-cbc")

    got = device.decrypted(device.send(device.message(wanted, signer="leaf.pem", kind="21")), signer="leaf.pem")
    openssl("pkcs7", "-inform", "DER", "-in", got, "-print_certs", "-out", home / "again.pem", home=home)
    assert serial(home / "again.pem", home=home) == serial(leaf, home=home)

    got = device.decrypted(device.send(device.message(wanted, signer="leaf.pem", kind="22")), signer="leaf.pem")
    openssl("pkcs7", "-inform", "DER", "-in", got, "-print_certs", "-out", home / "crl.pem", home=home)
    issuer = scep.hold(leaf, home=home).issuer
    assert "verify OK" in openssl("crl", "-in", home / "crl.pem", "-noout", "-CAfile", issuer, home=home)


def test_the_ca_that_follows_is_signed_by_the_one_that_is(scep: ScepSite, home: Path) -> None:
    device = Device(scep, home, "by-ca")
    run(["curl", "-sS", "--fail", "-o", home / "next", f"{scep.url('by-ca')}?operation=GetNextCACert"], home=home)
    (home / "inner").write_bytes(device.verified(home / "next"))
    shown = openssl("pkcs7", "-inform", "DER", "-in", home / "inner", "-print_certs", home=home)
    assert "CN = Next Interop Router CA" in shown
    signer = openssl("cms", "-cmsout", "-print", "-inform", "DER", "-in", home / "next", "-noout", home=home)
    assert "CN=Interop Router CA" in signer.replace("CN = ", "CN=")
