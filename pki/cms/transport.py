"""How a content-encryption key is encrypted to an RSA key (RFC 5652 §6.2.1): RSAES-PKCS1-v1_5, or RSAES-OAEP (RFC 3560, RFC 4055 §4.1).

A closed list, so that it can be told to a token and over a socket by its name. OAEP's label is always empty.
"""

from __future__ import annotations

import enum

from cryptography.hazmat.primitives.asymmetric import padding

from pki.cms.errors import CmsError, CmsProblem
from pki.cms.fields import CONTEXT_0, CONTEXT_1, CONTEXT_2, Fields, oid, only
from pki.cms.keyencryption import RSAES_OAEP
from pki.cms.types import DIGESTS, MGF1, RSA_ENCRYPTION, Algorithm, Digest, read_algorithm
from pki.der import NULL, OCTET_STRING, SEQUENCE

P_SPECIFIED = oid("1.2.840.113549.1.1.9")


class KeyTransport(enum.Enum):
    """The mask's digest is the content's, or SHA-1, which is the default of its field and what many clients leave there."""

    PKCS1 = "pkcs1"
    OAEP_SHA1 = "oaep-sha1"
    OAEP_SHA256 = "oaep-sha256"
    OAEP_SHA384 = "oaep-sha384"
    OAEP_SHA512 = "oaep-sha512"
    OAEP_SHA256_MASK_SHA1 = "oaep-sha256-mgf1-sha1"
    OAEP_SHA384_MASK_SHA1 = "oaep-sha384-mgf1-sha1"
    OAEP_SHA512_MASK_SHA1 = "oaep-sha512-mgf1-sha1"

    @property
    def oaep(self) -> tuple[Digest, Digest] | None:
        """The digest, and the mask generation's; None for RSAES-PKCS1-v1_5."""
        return _OAEP.get(self)

    @property
    def padding(self) -> padding.AsymmetricPadding:
        if self.oaep is None:
            return padding.PKCS1v15()
        digest, mask = self.oaep
        return padding.OAEP(mgf=padding.MGF1(mask.algorithm), algorithm=digest.algorithm, label=None)


_OAEP = {
    KeyTransport.OAEP_SHA1: (Digest.SHA1, Digest.SHA1),
    KeyTransport.OAEP_SHA256: (Digest.SHA256, Digest.SHA256),
    KeyTransport.OAEP_SHA384: (Digest.SHA384, Digest.SHA384),
    KeyTransport.OAEP_SHA512: (Digest.SHA512, Digest.SHA512),
    KeyTransport.OAEP_SHA256_MASK_SHA1: (Digest.SHA256, Digest.SHA1),
    KeyTransport.OAEP_SHA384_MASK_SHA1: (Digest.SHA384, Digest.SHA1),
    KeyTransport.OAEP_SHA512_MASK_SHA1: (Digest.SHA512, Digest.SHA1),
}
_BY_DIGESTS = {digests: transport for transport, digests in _OAEP.items()}


def read_transport(algorithm: Algorithm) -> KeyTransport:
    """Raises CmsError(ALGORITHM), which names what we do not do, whatever its parameters look like."""
    if algorithm.oid == RSA_ENCRYPTION:
        return KeyTransport.PKCS1
    if algorithm.oid != RSAES_OAEP:
        raise CmsError(
            CmsProblem.ALGORITHM,
            f"key transport {algorithm.dotted} is not supported; use RSAES-PKCS1-v1_5, or RSAES-OAEP with SHA-256",
        )
    try:
        digests = _read_oaep(algorithm.parameters)
    except CmsError as error:
        raise CmsError(CmsProblem.ALGORITHM, f"the parameters of RSAES-OAEP cannot be read: {error.detail}") from error
    found = _BY_DIGESTS.get(digests)
    if found is None:
        hashing, mask = digests
        raise CmsError(
            CmsProblem.ALGORITHM,
            f"RSAES-OAEP with {hashing.value} and a mask by {mask.value} is not supported; use SHA-256 for both",
        )
    return found


def _read_oaep(parameters: bytes) -> tuple[Digest, Digest]:
    """RSAES-OAEP-params, all fields optional; without any at all (as some write it) every default holds."""
    inside = Fields(only(parameters, SEQUENCE, "RSAES-OAEP-params").content if parameters else b"", "RSAES-OAEP-params")
    hashing, mask, source = inside.maybe(CONTEXT_0), inside.maybe(CONTEXT_1), inside.maybe(CONTEXT_2)
    inside.end()
    if source is not None:
        _check_label(read_algorithm(only(source.content, SEQUENCE, "pSourceAlgorithm")))
    digest = mask_digest = Digest.SHA1
    if hashing is not None:
        digest = _read_digest(read_algorithm(only(hashing.content, SEQUENCE, "hashAlgorithm")))
    if mask is not None:
        generator = read_algorithm(only(mask.content, SEQUENCE, "maskGenAlgorithm"))
        if generator.oid != MGF1:
            raise CmsError(CmsProblem.ALGORITHM, f"mask generation function {generator.dotted} is not supported; use MGF1")
        mask_digest = _read_digest(read_algorithm(only(generator.parameters, SEQUENCE, "maskGenAlgorithm")))
    return digest, mask_digest


def _check_label(source: Algorithm) -> None:
    if source.oid != P_SPECIFIED or only(source.parameters, OCTET_STRING, "pSourceAlgorithm").content:
        raise CmsError(CmsProblem.ALGORITHM, "a label is not supported; leave pSourceAlgorithm out")


def _read_digest(algorithm: Algorithm) -> Digest:
    """Its parameters are NULL or absent (RFC 4055 §2.1)."""
    digest = DIGESTS.get(algorithm.oid)
    if digest is None:
        raise CmsError(CmsProblem.ALGORITHM, f"digest algorithm {algorithm.dotted} is not supported; use SHA-256")
    if algorithm.parameters:
        only(algorithm.parameters, NULL, "the parameters of a digest")
    return digest
