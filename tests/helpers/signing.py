"""A small CA for tests of the signer: its keys, to-be-signed bytes that it accepts, and a signer process that serves it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pki.certificate import key_identifier, signature_algorithm, static_key
from signer.api import Envelope, KeyConfig, KeyUse, SoftwareKey
from signer.configuration import ProcessConfig, dump
from signer.software import KeyKind, PrivateKey, encrypt_key, generate_key

BEGIN = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
LIFETIME = timedelta(days=47)
SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH.dotted_string
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string
PASSPHRASE = b"correct horse"

Builder = x509.CertificateBuilder


@dataclass(frozen=True, slots=True)
class Authority:
    """An issuing CA with a self-signed certificate."""

    key: PrivateKey = field(repr=False)
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def envelope(self) -> Envelope:
        return Envelope(
            issuer_certificate=self.der, max_validity=LIFETIME, extended_key_usages=frozenset({SERVER_AUTH, CLIENT_AUTH})
        )


@cache
def authority(kind: KeyKind = KeyKind.EC_P256, common_name: str = "Test Issuing CA") -> Authority:
    key = generate_key(kind)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(0x1234567890)
        .not_valid_before(BEGIN - timedelta(days=365))
        .not_valid_after(BEGIN + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(b"\x07" * 20), critical=False)
    )
    return Authority(key, builder.sign(key, signature_algorithm(key.public_key()).hash))


@cache
def leaf_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def ra_key() -> rsa.RSAPrivateKey:
    key = generate_key(KeyKind.RSA_2048)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def key_usage(**bits: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: bits.get(name, name == "digital_signature") for name in names})


def extensions(issuer: Authority) -> dict[str, tuple[x509.ExtensionType, bool]]:
    """What a leaf of `issuer` has, by a name that a test can replace or remove: (value, critical)."""
    return {
        "usage": (key_usage(), True),
        "constraints": (x509.BasicConstraints(ca=False, path_length=None), True),
        "purposes": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        "authority": (x509.AuthorityKeyIdentifier(key_identifier(issuer.certificate), None, None), False),
        "names": (x509.SubjectAlternativeName([x509.DNSName("www.example.com")]), True),
    }


def leaf(
    issuer: Authority,
    *,
    change: Callable[[Builder], Builder] = lambda builder: builder,
    replace: Mapping[str, tuple[x509.ExtensionType, bool] | None] | None = None,
    serial: int = (1 << 158) + 5,
    subject_key: Any = None,
    begin: datetime = BEGIN,
    end: datetime = BEGIN + LIFETIME - timedelta(seconds=1),
) -> bytes:
    """TBSCertificate of a leaf inside the envelope, unless something is changed."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.certificate.subject)
        .public_key(subject_key or leaf_key().public_key())
        .serial_number(serial)
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    for entry in {**extensions(issuer), **(replace or {})}.values():
        if entry is not None:
            builder = builder.add_extension(entry[0], critical=entry[1])
    public_key = issuer.key.public_key()
    signed = change(builder).sign(static_key(public_key), signature_algorithm(public_key).hash)
    return signed.tbs_certificate_bytes


def write_key(directory: Path, name: str, key: PrivateKey) -> SoftwareKey:
    """An encrypted key file and its passphrase file, both 0600."""
    file, phrase = directory / f"{name}.key", directory / f"{name}.passphrase"
    for path, content in ((file, encrypt_key(key, PASSPHRASE)), (phrase, PASSPHRASE + b"\n")):
        path.touch(mode=0o600)
        path.write_bytes(content)
    return SoftwareKey(file=file, passphrase_file=phrase)


def software_keys(directory: Path, issuer: Authority) -> tuple[KeyConfig, ...]:
    """`issuing` and `ra`, in files."""
    return (
        KeyConfig(
            name="issuing", use=KeyUse.ISSUER, source=write_key(directory, "issuing", issuer.key), envelope=issuer.envelope()
        ),
        KeyConfig(name="ra", use=KeyUse.RA, source=write_key(directory, "ra", ra_key()), envelope=None),
    )


class SignerProcess:
    """`python -m signer.process`, started and ready."""

    def __init__(self, config: ProcessConfig, *, environment: Mapping[str, str] | None = None, errors: Path) -> None:
        self.errors = errors
        with errors.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "signer.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env={**os.environ, **(environment or {})},
                pass_fds=(config.listen,) if isinstance(config.listen, int) else (),
            )
        assert self._process.stdin is not None
        self._process.stdin.write(dump(config))
        self._process.stdin.close()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.end()
            raise AssertionError(errors.read_text())
        self.ready: dict[str, Any] = json.loads(line)

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self.end()

    def end(self) -> int:
        """SIGTERM if it is still there; its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        code = self._process.wait(timeout=20)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code

    def events(self) -> Sequence[str]:
        return [json.loads(line)["event"] for line in self.errors.read_text().splitlines()]
