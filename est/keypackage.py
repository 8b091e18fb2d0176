"""How a key that was made here travels when TLS alone is not enough (RFC 7030 §4.4.1, §4.4.2): asked for, agreed upon, packed.

Law of this file: who asks for encryption gets it, or nothing. What they offer (SMIMECapabilities) is heeded in their order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from pki import der
from pki.certificate import PublicKey
from pki.cms.envelope import enveloped
from pki.cms.errors import CmsError
from pki.cms.fields import CONTEXT_0, CONTEXT_1, null, oid, sequence, tlv
from pki.cms.keyencryption import (
    AGREEMENTS,
    RSAES_OAEP,
    VERSION,
    WRAPS,
    RecipientInfo,
    by_agreement,
    by_rsa,
    by_shared_key,
    oaep_parameters,
)
from pki.cms.signed import sign
from pki.cms.types import CIPHERS, DIGEST_OIDS, MGF1, RSA_ENCRYPTION, SIGNED_DATA, Algorithm, Cipher, Digest, read_certificate
from pki.csr import Csr, load_public_key
from pki.path import PathError, load
from pki.reasons import Reason, Rejection
from policy.keys import CURVES, check_public_key

DECRYPT_KEY = "1.2.840.113549.1.9.16.2.37"  # DecryptKeyIdentifier (RFC 4108 §2.2.5)
ASYMMETRIC_DECRYPT_KEY = "1.2.840.113549.1.9.16.2.54"  # AsymmetricDecryptKeyIdentifier (RFC 7030 §4.4.1.2)
SMIME_CAPABILITIES = "1.2.840.113549.1.9.15"  # RFC 2633 §2.5.2
KEY_PACKAGE = oid("2.16.840.1.101.2.1.2.78.5")  # id-ct-KP-aKeyPackage (RFC 5958 §2)
MAX_KEY_ID = 64  # octets

_SERVED = frozenset({Cipher.AES_128_CBC, Cipher.AES_192_CBC, Cipher.AES_256_CBC})
# What else people offer for contents: who names only these wants nothing that we do (RFC 7030 has no AuthEnvelopedData).
_OTHER_CIPHERS = frozenset(
    oid(dotted)
    for dotted in (
        "1.2.840.113549.3.2",  # RC2-CBC
        *(f"2.16.840.1.101.3.4.1.{arc}" for arc in (6, 7, 26, 27, 46, 47)),  # AES-GCM, AES-CCM
        "1.2.840.113549.1.9.16.3.18",  # ChaCha20-Poly1305
    )
)
_WRAPS: Mapping[bytes, int] = {identifier: octets for octets, identifier in WRAPS.items()}
_AGREEMENTS: Mapping[bytes, Digest] = {identifier: digest for digest, identifier in AGREEMENTS.items()}


def _oaep_spellings(digest: Digest) -> Iterator[bytes]:
    """NULL may be missing (RFC 4055 §2.1), and RFC 3560 §5 prints the capabilities without [0] and [1]."""
    for nothing in (null(), b""):
        hash_algorithm = sequence(DIGEST_OIDS[digest], nothing)
        mask = sequence(MGF1, hash_algorithm)
        yield sequence(tlv(CONTEXT_0, hash_algorithm), tlv(CONTEXT_1, mask))
        yield sequence(hash_algorithm, mask)


_OAEP: Mapping[bytes, Digest] = {
    b"": Digest.SHA256,
    oaep_parameters(Digest.SHA1): Digest.SHA1,
    **{each: digest for digest in (Digest.SHA256, Digest.SHA384, Digest.SHA512) for each in _oaep_spellings(digest)},
}

Offers = tuple[Algorithm, ...]


@dataclass(frozen=True, slots=True)
class ToSharedKey:
    """Encrypt it to the symmetric key of this identifier."""

    key_id: bytes
    offers: Offers


@dataclass(frozen=True, slots=True)
class ToHeldKey:
    """Encrypt it to the public key of this identifier."""

    key_identifier: bytes
    offers: Offers


Wish = ToSharedKey | ToHeldKey


@dataclass(frozen=True, slots=True)
class Seal:
    """What was agreed upon."""

    recipient_info: RecipientInfo = field(repr=False)
    cipher: Cipher


def read_wish(csr: Csr) -> Wish | None:
    """What a request says on the encryption of the key; None where it asks for none. Raises Rejection(BAD_CSR)."""
    shared, held = csr.attributes.get(DECRYPT_KEY), csr.attributes.get(ASYMMETRIC_DECRYPT_KEY)
    if shared is None and held is None:
        return None
    if shared is not None and held is not None:
        raise _refused("it names both a symmetric and an asymmetric key", "name one of the two")
    offered = csr.attributes.get(SMIME_CAPABILITIES)
    if offered is None:
        raise _refused(
            "it names a key and has no SMIMECapabilities (RFC 7030 section 4.4.1)",
            "add SMIMECapabilities with the algorithms that you can decrypt with",
        )
    try:
        offers = _offers(offered)
        if shared is not None:
            return ToSharedKey(_key_id(shared), offers)
        return ToHeldKey(_key_id(held or b""), offers)
    except der.DerError as error:
        raise _refused(f"what it says on that cannot be read: {error}", "write the attributes as RFC 7030 has them") from error


def _refused(why: str, what_to_do: str) -> Rejection:
    """Never without encryption then: that is what they did not want."""
    return Rejection(Reason.BAD_CSR, f"the key is asked for encrypted, but {why}", suggestions=[what_to_do])


def _key_id(values: bytes) -> bytes:
    """SET OF with one OCTET STRING."""
    [value] = der.take(der.whole(values, der.SET).content, der.OCTET_STRING)
    if not 1 <= len(value.content) <= MAX_KEY_ID:
        raise der.DerError(f"a key identifier has 1 to {MAX_KEY_ID} octets")
    return value.content


def _offers(values: bytes) -> Offers:
    """SMIMECapabilities ::= SEQUENCE OF SEQUENCE { OID, parameters OPTIONAL }, the best first."""
    [capabilities] = der.take(der.whole(values, der.SET).content, der.SEQUENCE)
    found: list[Algorithm] = []
    for capability in der.children(capabilities.content):
        parts = list(der.children(der.expect(capability, der.SEQUENCE).content))
        if len(parts) not in {1, 2}:
            raise der.DerError("a capability has an identifier, and parameters at most")
        der.oid(parts[0])
        found.append(Algorithm(parts[0].raw, parts[1].raw if len(parts) == 2 else b""))
    return tuple(found)


# ---------------------------------------------------------------------- agreeing


def seal_to_shared_key(wish: ToSharedKey, key: bytes) -> Seal:
    """`key` has 16, 24 or 32 octets. Raises Rejection(BAD_CSR)."""
    if WRAPS[len(key)] not in {offer.oid for offer in wish.offers}:
        raise _refused(
            f"its SMIMECapabilities do not have the key wrap that fits that key (AES-{len(key) * 8})",
            f"add the object identifier {Algorithm(WRAPS[len(key)], b'').dotted}",
        )
    return Seal(by_shared_key(key, key_id=wish.key_id), _cipher(wish.offers))


def seal_to_certificate(wish: ToHeldKey, certificates: Collection[bytes]) -> Seal:
    """To the key of that one of these (DER) that has the identifier. Raises Rejection: BAD_CSR, BAD_PUBLIC_KEY."""
    certificate = next((one for one in _loaded(certificates) if _identifier(one) == wish.key_identifier), None)
    if certificate is None:
        raise _refused(
            "this server knows no key of that identifier",
            "name the subject key identifier of the certificate that you present in the TLS handshake",
        )
    match _key(certificate):
        case rsa.RSAPublicKey() as key if _may(certificate, "key_encipherment"):
            check_public_key(key)
            info = by_rsa(key, key_identifier=wish.key_identifier, oaep=_transport(wish.offers))
        case ec.EllipticCurvePublicKey() as key if _may(certificate, "key_agreement") and key.curve.name in CURVES:
            digest, wrap = _agreement(wish.offers)
            info = by_agreement(key, key_identifier=wish.key_identifier, digest=digest, wrap=wrap)
        case _:
            # RFC 7030 §4.4.1.2: "the key MUST either explicitly support keyTransport or keyAgreement or its use MUST be unrestricted"
            raise _refused(
                "that certificate's key may not be encrypted to",
                "use an RSA key with keyEncipherment, or an EC key with keyAgreement, or a certificate without key usage",
            )
    return Seal(info, _cipher(wish.offers))


def _loaded(certificates: Iterable[bytes]) -> Iterator[x509.Certificate]:
    """Those that can be read: nobody may have looked at them, where a password says who asks."""
    for certificate in certificates:
        with contextlib.suppress(PathError):
            yield load(certificate)


def _identifier(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None


def _key(certificate: x509.Certificate) -> PublicKey:
    try:
        return load_public_key(read_certificate(certificate.public_bytes(Encoding.DER)).spki)
    except CmsError as error:
        raise _refused("that certificate has more in it than is read here", "present a smaller one") from error


def _may(certificate: x509.Certificate, usage: str) -> bool:
    try:
        return bool(getattr(certificate.extensions.get_extension_for_class(x509.KeyUsage).value, usage))
    except x509.ExtensionNotFound:
        return True


def _transport(offers: Offers) -> Digest | None:
    """The digest of RSAES-OAEP; None for RSAES-PKCS1-v1_5."""
    for offer in offers:
        if offer.oid == RSA_ENCRYPTION:
            return None
        if offer.oid == RSAES_OAEP and offer.parameters in _OAEP:
            return _OAEP[offer.parameters]
    raise _refused(
        "its SMIMECapabilities have no key transport that this server does",
        "add RSAES-OAEP (1.2.840.113549.1.1.7) or rsaEncryption (1.2.840.113549.1.1.1)",
    )


def _agreement(offers: Offers) -> tuple[Digest, int]:
    """The digest of the KDF, and the octets of the key-encryption key. RFC 5753 §8 has the wrap in the scheme's parameters."""
    wraps = [_WRAPS[offer.oid] for offer in offers if offer.oid in _WRAPS]
    schemes = [(_AGREEMENTS[offer.oid], offer.parameters) for offer in offers if offer.oid in _AGREEMENTS]
    for digest, parameters in schemes or [(Digest.SHA256, b"")]:
        fitting = [octets for octets in wraps if not parameters] + [
            octets for identifier, octets in _WRAPS.items() if parameters == sequence(identifier)
        ]
        if fitting:
            return digest, fitting[0]
    raise _refused(
        "its SMIMECapabilities have no key agreement and key wrap that this server does",
        "add dhSinglePass-stdDH-sha256kdf (1.3.132.1.11.1) with AES-256 key wrap (2.16.840.1.101.3.4.1.45) as its parameters",
    )


def _cipher(offers: Offers) -> Cipher:
    """AES-256 where only key encryption is spoken of."""
    named = [offer.oid for offer in offers if offer.oid in CIPHERS or offer.oid in _OTHER_CIPHERS]
    served = [CIPHERS[identifier] for identifier in named if CIPHERS.get(identifier) in _SERVED]
    if named and not served:
        raise _refused(
            "its SMIMECapabilities have no content encryption that this server does",
            "add AES-256-CBC (2.16.840.1.101.3.4.1.42)",
        )
    return served[0] if served else Cipher.AES_256_CBC


# ---------------------------------------------------------------------- packing


async def packed(
    key: bytes,
    seal: Seal,
    *,
    certificate: bytes,
    signature: Callable[[bytes, Digest], Awaitable[bytes]],
    random_bytes: Callable[[int], bytes],
) -> bytes:
    """EnvelopedData of a SignedData of an AsymmetricKeyPackage of `key` (OneAsymmetricKey, DER); §4.4.2, RFC 5958 §4.

    `certificate` (DER) is whose `signature` (RSASSA-PKCS1-v1_5) it is: "the party that generated the private key".
    """
    message = await sign(
        sequence(key),
        (),
        certificate=read_certificate(certificate),
        digest=Digest.SHA256,
        signature=signature,
        content_type=KEY_PACKAGE,
    )
    # The type of the content says what it is, so its own ContentInfo stays outside.
    _, signed_data = der.take(der.whole(message, der.SEQUENCE).content, der.OBJECT_IDENTIFIER, 0xA0)
    return enveloped(
        signed_data.content, SIGNED_DATA, seal.recipient_info, version=VERSION, cipher=seal.cipher, random_bytes=random_bytes
    )
