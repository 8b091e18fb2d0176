"""A small CA for tests: real keys, real certificates, and a signer in this process with the real envelope."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from pki.certificate import signature_algorithm
from pki.cms.transport import KeyTransport
from pki.plan import Issuer, IssuerUrls
from pki.reasons import Unavailable
from signer.api import Hash

CaKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
START = datetime(2026, 11, 23, tzinfo=UTC)


def ca_certificate(key: CaKey, name: str, *, by: tuple[x509.Certificate, CaKey] | None = None) -> x509.Certificate:
    """A root, or an issuing CA below `by`, good for ten years."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    parent, parent_key = by if by is not None else (None, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if parent is None else parent.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START - timedelta(days=365))
        .not_valid_after(START + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None if parent is None else 0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if parent is not None:
        ski = parent.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        aki = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski)
        builder = builder.add_extension(aki, critical=False)
    return builder.sign(parent_key, hashes.SHA256())


class TestCa:
    """A root and one issuing CA, named `issuing` unless a test has several."""

    __test__ = False

    def __init__(self, key: CaKey | None = None, *, name: str = "issuing") -> None:
        root_key = ec.generate_private_key(ec.SECP256R1())
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.root = ca_certificate(root_key, "Test Root")
        self.certificate = ca_certificate(self.key, f"Test {name.title()} CA", by=(self.root, root_key))
        urls = IssuerUrls(f"http://ca.test/aia/{name}.cer", f"http://ca.test/ocsp/{name}", f"http://ca.test/crl/{name}.crl")
        self.issuer = Issuer(name, self.certificate, (self.root,), urls)


class LocalSigner:
    """`signer.api.Signer` without a process, over the keys of some TestCas.

    `fail` makes the next signatures go wrong; `meanwhile` is what happens elsewhere while one is made.
    """

    def __init__(self, *cas: TestCa) -> None:
        self._cas = {ca.issuer.name: ca for ca in cas}
        self.signed: list[bytes] = []
        self.fail: Callable[[bytes], bytes] | None = None
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def public_key(self, key: str) -> bytes:
        return self._cas[key].key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def _sign(self, key: str, tbs: bytes) -> bytes:
        own = self._cas[key].key
        if self.fail is not None:
            return self.fail(tbs)
        self.signed.append(tbs)
        digest = signature_algorithm(own.public_key()).hash
        assert digest is not None
        if isinstance(own, rsa.RSAPrivateKey):
            return own.sign(tbs, padding.PKCS1v15(), digest)
        return own.sign(tbs, ec.ECDSA(digest))

    async def sign_certificate(self, key: str, tbs: bytes) -> bytes:
        if self.meanwhile is not None:
            await self.meanwhile()
        return self._sign(key, tbs)

    async def sign_crl(self, key: str, tbs: bytes) -> bytes:
        return self._sign(key, tbs)

    async def sign_ocsp(self, key: str, tbs: bytes) -> bytes:
        return self._sign(key, tbs)

    async def ra_sign(self, key: str, data: bytes, digest: Hash) -> bytes:
        raise AssertionError((key, data, digest))

    async def sign_announcement(self, key: str, attributes: bytes) -> bytes:
        raise AssertionError((key, attributes))

    async def ra_decrypt(self, key: str, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        raise AssertionError((key, ciphertext, length, transport))

    async def ping(self) -> None:
        if self.fail is not None:
            raise Unavailable("signer")

    async def close(self) -> None:
        return


def make_csr(
    *names: str,
    common_name: str | None = None,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | None = None,
) -> bytes:
    """DER of an ordinary request by the library, so that our reader meets somebody else's writer."""
    attributes = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    key = key or ec.generate_private_key(ec.SECP256R1())
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.DER)


def counter(prefix: str = "id") -> Callable[[], str]:
    """Ids that a test can read: id-1, id-2, ..."""
    numbers = itertools.count(1)
    return lambda: f"{prefix}-{next(numbers)}"
