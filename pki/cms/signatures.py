"""Signatures of SignerInfos: RSA (RFC 3370 §3.2, RFC 4056), ECDSA (RFC 5753 §2.1) and Ed25519 (RFC 8419)."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from pki.cms.errors import CmsError, CmsProblem
from pki.cms.fields import CONTEXT_0, CONTEXT_1, CONTEXT_2, Fields, oid, only, read_integer
from pki.cms.types import (
    DIGEST_OIDS,
    MAX_RSA_BITS,
    MGF1,
    RSA_ENCRYPTION,
    RSA_SIGNATURES,
    RSASSA_PSS,
    Algorithm,
    Digest,
    checked_rsa_key,
    read_algorithm,
)
from pki.der import INTEGER, SEQUENCE

SignerKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

_ECDSA_SIGNATURES = {
    oid("1.2.840.10045.4.1"): Digest.SHA1,
    oid("1.2.840.10045.4.3.2"): Digest.SHA256,
    oid("1.2.840.10045.4.3.3"): Digest.SHA384,
    oid("1.2.840.10045.4.3.4"): Digest.SHA512,
}
_ED25519 = oid("1.3.101.112")
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_PSS_DEFAULT_SALT = 20  # RFC 4055 §3.1; its default digest is SHA-1


def signer_key(spki: bytes) -> SignerKey:
    """A SubjectPublicKeyInfo, DER, to a key that may sign messages here. Raises CmsError(KEY), which names type, curve or size."""
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CmsError(CmsProblem.KEY, "the signer's public key cannot be read, or is of a kind that is not served") from error
    match key:
        case rsa.RSAPublicKey():
            return checked_rsa_key(key)
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, _CURVES):
            return key
        case ec.EllipticCurvePublicKey():
            raise CmsError(CmsProblem.KEY, f"the signer's key is on the curve {key.curve.name}; use P-256, P-384 or P-521")
        case ed25519.Ed25519PublicKey():
            return key
        case _:
            raise CmsError(CmsProblem.KEY, "the signer's key is neither RSA, nor EC, nor Ed25519")


def verifier(key: SignerKey, algorithm: Algorithm, digest: Digest) -> Callable[[bytes, bytes], None]:
    """(signature, signed octets) -> None; it raises as `cryptography` does. Here raises CmsError(ALGORITHM)."""
    match key:
        case rsa.RSAPublicKey():
            scheme = rsa_scheme(algorithm, digest)
            return lambda signature, data: key.verify(signature, data, scheme, digest.algorithm)
        case ec.EllipticCurvePublicKey():
            if _ECDSA_SIGNATURES.get(algorithm.oid) is not digest:
                raise _unsupported(algorithm, digest, "ECDSA with SHA-256")
            return lambda signature, data: key.verify(signature, data, ec.ECDSA(digest.algorithm))
        case ed25519.Ed25519PublicKey():
            # RFC 8419 §3.1 has SHA-512 for the content; the signature itself covers the attributes as they are.
            if algorithm.oid != _ED25519:
                raise _unsupported(algorithm, digest, "Ed25519")
            return key.verify


def rsa_scheme(algorithm: Algorithm, digest: Digest) -> padding.AsymmetricPadding:
    """Raises CmsError: ALGORITHM, STRUCTURE."""
    if algorithm.oid == RSA_ENCRYPTION or RSA_SIGNATURES.get(algorithm.oid) is digest:
        return padding.PKCS1v15()
    if algorithm.oid == RSASSA_PSS:
        return _pss(algorithm, digest)
    raise _unsupported(algorithm, digest, "RSA with SHA-256")


def _unsupported(algorithm: Algorithm, digest: Digest, instead: str) -> CmsError:
    return CmsError(
        CmsProblem.ALGORITHM,
        f"signature algorithm {algorithm.dotted} is not supported with a {digest.value} digest; use {instead}",
    )


def _pss(algorithm: Algorithm, digest: Digest) -> padding.PSS:
    """RSASSA-PSS-params (RFC 4055 §3.1), all fields optional. Both digests must be the message's."""
    inside = Fields(only(algorithm.parameters, SEQUENCE, "RSASSA-PSS-params").content, "RSASSA-PSS-params")
    hashing, mask, salt = inside.maybe(CONTEXT_0), inside.maybe(CONTEXT_1), inside.maybe(CONTEXT_2)
    sha1 = Algorithm(DIGEST_OIDS[Digest.SHA1], b"")
    hash_algorithm = sha1 if hashing is None else read_algorithm(only(hashing.content, SEQUENCE, "hashAlgorithm"))
    mask_digest = sha1
    if mask is not None:
        generator = read_algorithm(only(mask.content, SEQUENCE, "maskGenAlgorithm"))
        if generator.oid != MGF1:
            raise CmsError(CmsProblem.ALGORITHM, f"mask generation function {generator.dotted} is not supported; use MGF1")
        mask_digest = read_algorithm(only(generator.parameters, SEQUENCE, "maskGenAlgorithm"))
    if {hash_algorithm.oid, mask_digest.oid} != {DIGEST_OIDS[digest]}:
        raise CmsError(CmsProblem.ALGORITHM, "RSASSA-PSS must use the message's digest for both hash and mask")
    length = _PSS_DEFAULT_SALT if salt is None else read_integer(only(salt.content, INTEGER, "saltLength").content)
    if not 0 <= length <= MAX_RSA_BITS // 8:  # OpenSSL fills the whole modulus with it
        raise CmsError(CmsProblem.ALGORITHM, "the RSASSA-PSS salt is longer than a key")
    return padding.PSS(padding.MGF1(digest.algorithm), length)
