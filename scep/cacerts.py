"""What GetCACert and GetNextCACert answer (RFC 8894 §4.2, §4.7): an endpoint's certificates, in the form that fits their number."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from pki.certificate import signature_algorithm
from pki.cms.signed import RSA_SIGNATURE, certificates_only, sign
from pki.cms.types import Digest, read_certificate
from scep.endpoint import ScepEndpoint
from signer.api import Signer

SINGLE = "application/x-x509-ca-cert"
SEVERAL = "application/x-x509-ca-ra-cert"
NEXT = "application/x-x509-next-ca-cert"


@dataclass(frozen=True, slots=True)
class Shown:
    body: bytes = field(repr=False)
    content_type: str


def current(endpoint: ScepEndpoint) -> Shown:
    """One certificate as it is (§4.2.1.1), several as a certs-only message (§4.2.1.2).

    Only the number counts: a lone certificate is the CA's own, which signs and decrypts, and clients that find it in a message that
    is for registration authorities look for one there and give up.
    """
    certificates = endpoint.shown_certificates()
    if len(certificates) == 1:
        return Shown(certificates[0], SINGLE)
    return Shown(certificates_only(certificates), SEVERAL)


class NextCaCertificates:
    """The certificates of the CA that follows, signed by the one that is: once, for strangers may ask as often as they like."""

    def __init__(self, endpoint: ScepEndpoint, signer: Signer) -> None:
        self._endpoint = endpoint
        self._signer = signer
        self._made: Shown | None = None
        self._making = asyncio.Lock()

    async def shown(self) -> Shown | None:
        """None where no CA follows yet. Raises Unavailable."""
        if not self._endpoint.next_certificates:
            return None
        async with self._making:
            if self._made is None:
                self._made = Shown(await self._sign(), NEXT)
            return self._made

    async def _sign(self) -> bytes:
        """The content is pkcs7-data, as in all of SCEP's messages (§3): readers of PKCS #7 know no other that is an OCTET STRING."""
        issuing = read_certificate(self._endpoint.ca_certificates[0])
        key = load_der_public_key(issuing.spki)
        algorithm = signature_algorithm(key)
        # RFC 8419 §3.1: with Ed25519, the content's digest is SHA-512.
        digest = Digest.SHA512 if algorithm.hash is None else Digest(algorithm.hash.name)
        return await sign(
            certificates_only(self._endpoint.next_certificates),
            (),
            certificate=issuing,
            digest=digest,
            signature=self._signature,
            algorithm=RSA_SIGNATURE if isinstance(key, rsa.RSAPublicKey) else algorithm.der,
        )

    async def _signature(self, attributes: bytes, _digest: Digest) -> bytes:
        return await self._signer.sign_announcement(self._endpoint.issuer, attributes)
