"""What SCEP's rooms stand on, in memory: a signer with one key, a pipeline of one dict, challenges in the clear."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)

from issuance.credentials import Credential, CredentialKind
from issuance.plan import names_wanted
from issuance.request import IssuanceRequest, Issued, IssuedCertificate, Outcome
from issuance.service import CertificateRecord
from pki.clock import Micros, to_micros
from pki.cms.transport import KeyTransport
from pki.reasons import Reason, Rejection
from signer.api import Hash, SignerRefused, TransportUnavailable
from tests.helpers.profiles import device
from tests.helpers.scep import HASHES, SECRET, ScepCa, der_of


@dataclass(slots=True)
class SoftwareSigner:
    """signer.api.Signer with one RA key in memory; the rest of the interface is refused."""

    key: rsa.RSAPrivateKey = field(repr=False)
    failure: Exception | None = None  # raised instead of an answer
    decryptions: int = 0
    lacks: KeyTransport | None = None  # as a token may

    async def public_key(self, key: str) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    async def sign_certificate(self, key: str, tbs: bytes) -> bytes:
        raise SignerRefused

    async def sign_crl(self, key: str, tbs: bytes) -> bytes:
        raise SignerRefused

    async def sign_ocsp(self, key: str, tbs: bytes) -> bytes:
        raise SignerRefused

    async def ra_sign(self, key: str, data: bytes, digest: Hash) -> bytes:
        assert key == "ra"
        if self.failure is not None:
            raise self.failure
        return self.key.sign(data, padding.PKCS1v15(), HASHES[digest.value])

    async def sign_announcement(self, key: str, attributes: bytes) -> bytes:
        raise SignerRefused

    async def ra_decrypt(self, key: str, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        """Implicit rejection: OpenSSL gives random octets of a random length for bad padding, and so do we, of `length`."""
        assert key == "ra"
        if self.failure is not None:
            raise self.failure
        if transport is self.lacks:
            raise TransportUnavailable("use another")
        self.decryptions += 1
        try:
            opened = self.key.decrypt(ciphertext, transport.padding)
        except ValueError:  # OAEP's bad padding
            opened = b""
        substitute = hmac.digest(b"implicit rejection", ciphertext, "sha256")[:length]
        return opened if len(opened) == length else substitute

    async def ping(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class SimulatedIssuance:
    """Grants every request, unless `script` says otherwise for the next ones. One certificate per idempotency key.

    It is also the register: `records` by serial, "revoke" by replacing one.
    """

    ca: ScepCa
    requests: list[IssuanceRequest] = field(default_factory=list)
    script: list[Outcome | Exception] = field(default_factory=list)
    issued: dict[str, tuple[str, Issued]] = field(default_factory=dict)
    records: dict[str, CertificateRecord] = field(default_factory=dict)

    async def submit(self, request: IssuanceRequest) -> Outcome:
        self.requests.append(request)
        await asyncio.sleep(0)  # another request may come in between, as it may in the real one
        if self.script:
            scripted = self.script.pop(0)
            if isinstance(scripted, Exception):
                raise scripted
            return scripted
        assert request.idempotency_key is not None
        if request.idempotency_key not in self.issued:
            self.issued[request.idempotency_key] = (request.csr.sha256, Issued(self._issue(request)))
        return self.issued[request.idempotency_key][1]

    def _issue(self, request: IssuanceRequest) -> IssuedCertificate:
        leaf = self.ca.leaf(request)
        certificate = IssuedCertificate(
            "issuing",
            f"{leaf.serial_number:x}",
            der_of(leaf),
            request.profile,
            to_micros(leaf.not_valid_before_utc),
            to_micros(leaf.not_valid_after_utc),
            Micros(0),
        )
        names = names_wanted(request.identifiers, request.common_name, device()).tags
        self.records[certificate.serial] = CertificateRecord(
            certificate, str(request.principal), names, None, None, request.channel.value, request.endpoint
        )
        return certificate

    async def certificate(
        self, serial: str, *, issuer: str | None = None, principal: str | None = None
    ) -> CertificateRecord | None:
        record = self.records.get(serial)
        if record is None or issuer not in {None, record.certificate.issuer} or principal not in {None, record.principal}:
            return None
        return record

    def claimed_issuers(self, *, name: bytes, key_identifier: bytes | None) -> frozenset[str]:
        return frozenset({"issuing"} if name == self.ca.certificate.subject.public_bytes() else ())


@dataclass(slots=True)
class KnownChallenges:
    """Challenges in the clear: (endpoint, challenge) is right, everything else is wrong in the same way."""

    right: set[tuple[str, str]] = field(default_factory=lambda: {("default", SECRET)})
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def check_scep_challenge(self, *, endpoint: str, challenge: str) -> Credential:
        self.asked.append((endpoint, challenge))
        if (endpoint, challenge) not in self.right:
            raise Rejection(Reason.UNAUTHENTICATED, "the challenge password is missing or not valid here")
        return Credential(endpoint, CredentialKind.SCEP_CHALLENGE, endpoint, frozenset({"device"}), "")
