"""Who may open an EnvelopedData (RFC 5652 §6.2): RecipientInfos for a symmetric key, for an RSA key, and for an EC key.

Each function gives one that takes the content-encryption key and returns the RecipientInfo, for `pki.cms.envelope.enveloped`, whose
version is then 2. The recipient is meant by key identifier, never by issuer and serial number: that is what was asked with.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki.cms.fields import (
    CONTEXT_0,
    CONTEXT_0_PRIMITIVE,
    CONTEXT_1,
    CONTEXT_2,
    integer,
    null,
    octet_string,
    oid,
    sequence,
    tlv,
)
from pki.cms.types import DIGEST_OIDS, MGF1, RSA_ENCRYPTION, Digest
from pki.der import SEQUENCE, whole

RecipientInfo = Callable[[bytes], bytes]

VERSION = 2  # of an EnvelopedData for any of these

RSAES_OAEP = oid("1.2.840.113549.1.1.7")
# AES key wrap (RFC 3565 §2.3) by the octets of the key that wraps.
WRAPS = {
    16: oid("2.16.840.1.101.3.4.1.5"),
    24: oid("2.16.840.1.101.3.4.1.25"),
    32: oid("2.16.840.1.101.3.4.1.45"),
}
# Ephemeral-static ECDH without cofactor, by the digest of its KDF (RFC 5753 §7.1.4).
AGREEMENTS = {
    Digest.SHA256: oid("1.3.132.1.11.1"),
    Digest.SHA384: oid("1.3.132.1.11.2"),
    Digest.SHA512: oid("1.3.132.1.11.3"),
}


def by_shared_key(key: bytes, *, key_id: bytes) -> RecipientInfo:
    """KEKRecipientInfo (§6.2.3). `key` has 16, 24 or 32 octets."""
    algorithm = WRAPS[len(key)]

    def recipient_info(content_key: bytes) -> bytes:
        wrapped = octet_string(aes_key_wrap(key, content_key))
        return tlv(CONTEXT_2, integer(4), sequence(octet_string(key_id)), sequence(algorithm), wrapped)

    return recipient_info


def by_rsa(key: rsa.RSAPublicKey, *, key_identifier: bytes, oaep: Digest | None) -> RecipientInfo:
    """KeyTransRecipientInfo (§6.2.1), by RSAES-OAEP with this digest (RFC 8017 §7.1, RFC 3560), or by RSAES-PKCS1-v1_5."""
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    algorithm = sequence(RSA_ENCRYPTION, null())
    if oaep is not None:
        scheme = padding.OAEP(mgf=padding.MGF1(oaep.algorithm), algorithm=oaep.algorithm, label=None)
        algorithm = sequence(RSAES_OAEP, oaep_parameters(oaep))

    def recipient_info(content_key: bytes) -> bytes:
        identifier = tlv(CONTEXT_0_PRIMITIVE, key_identifier)
        return sequence(integer(2), identifier, algorithm, octet_string(key.encrypt(content_key, scheme)))

    return recipient_info


def oaep_parameters(digest: Digest) -> bytes:
    """RSAES-OAEP-params (RFC 4055 §4.1) with this digest in both places; what is SHA-1 is left out, as DER wants of defaults."""
    if digest is Digest.SHA1:
        return sequence()
    hash_algorithm = sequence(DIGEST_OIDS[digest], null())
    return sequence(tlv(CONTEXT_0, hash_algorithm), tlv(CONTEXT_1, sequence(MGF1, hash_algorithm)))


def by_agreement(key: ec.EllipticCurvePublicKey, *, key_identifier: bytes, digest: Digest, wrap: int) -> RecipientInfo:
    """KeyAgreeRecipientInfo (§6.2.2) with a key of the moment (RFC 5753 §3.1); `wrap` is the octets of the key-encryption key."""

    def recipient_info(content_key: bytes) -> bytes:
        ours = ec.generate_private_key(key.curve)
        wrapping = _derived(ours.exchange(ec.ECDH(), key), digest, wrap)
        spki = ours.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        originator = tlv(CONTEXT_0, tlv(CONTEXT_1, whole(spki, SEQUENCE).content))
        recipient = sequence(tlv(CONTEXT_0, octet_string(key_identifier)), octet_string(aes_key_wrap(wrapping, content_key)))
        algorithm = sequence(AGREEMENTS[digest], sequence(WRAPS[wrap]))
        return tlv(CONTEXT_1, integer(3), originator, algorithm, sequence(recipient))

    return recipient_info


def _derived(shared: bytes, digest: Digest, octets: int) -> bytes:
    """The key-encryption key out of the shared secret: ANSI X9.63's KDF over ECC-CMS-SharedInfo (RFC 5753 §7.2)."""
    length = tlv(CONTEXT_2, octet_string((octets * 8).to_bytes(4, "big")))
    info = sequence(sequence(WRAPS[octets]), length)
    return X963KDF(algorithm=digest.algorithm, length=octets, sharedinfo=info).derive(shared)
