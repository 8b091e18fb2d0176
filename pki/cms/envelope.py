"""EnvelopedData for RSA recipients (RFC 5652 §6): KeyTransRecipientInfo, content in CBC mode.

The content carries no integrity: whoever decrypts believes only what an inner and an outer signature both cover. And nobody may
learn from us whether a key or a padding was well formed (Bleichenbacher, Vaudenay): the key comes from an oracle with implicit
rejection, and all that can go wrong after it is one CmsError(DECRYPT) with one text, raised in one place.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
from cryptography.hazmat.primitives.ciphers import algorithms, modes

from pki.cms.errors import CmsError, CmsProblem
from pki.cms.fields import (
    CONTEXT_0,
    CONTEXT_0_PRIMITIVE,
    CONTEXT_1,
    Fields,
    elements,
    integer,
    null,
    octet_string,
    only,
    sequence,
    tlv,
)
from pki.cms.signed import content_info, names_certificate
from pki.cms.transport import KeyTransport, read_transport
from pki.cms.types import (
    CIPHER_OIDS,
    CIPHERS,
    DATA,
    ENVELOPED_DATA,
    RSA_ENCRYPTION,
    Algorithm,
    CertificateView,
    Cipher,
    read_algorithm,
)
from pki.der import INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SET, Element

DecryptKey = Callable[[bytes, int, KeyTransport], Awaitable[bytes]]

UNREADABLE = "the encrypted content cannot be read"


@dataclass(frozen=True, slots=True)
class Recipient:
    identifier: Element  # IssuerAndSerialNumber or [0] SubjectKeyIdentifier
    key_algorithm: Algorithm
    encrypted_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Enveloped:
    """An EnvelopedData as parsed; only RSA recipients are kept."""

    recipients: tuple[Recipient, ...]
    cipher: Cipher
    iv: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


def parse_enveloped(data: bytes) -> Enveloped:
    """BER or DER to its parts. Raises CmsError: TOO_*, ENCODING, STRUCTURE, ALGORITHM (names a cipher that we do not do)."""
    inside = content_info(data, ENVELOPED_DATA, "EnvelopedData")
    inside.take(INTEGER)
    inside.maybe(CONTEXT_0)  # originatorInfo
    recipients = elements(inside.take(SET).content)
    content = Fields(inside.take(SEQUENCE).content, "EncryptedContentInfo")
    inside.maybe(CONTEXT_1)  # unprotected attributes
    inside.end()
    content.take(OBJECT_IDENTIFIER)
    cipher, iv = _read_cipher(read_algorithm(content.take(SEQUENCE)))
    ciphertext = content.take(CONTEXT_0_PRIMITIVE).content
    content.end()
    return Enveloped(
        recipients=tuple(_read_recipient(element) for element in recipients if element.tag == SEQUENCE),
        cipher=cipher,
        iv=iv,
        ciphertext=ciphertext,
    )


def _read_recipient(element: Element) -> Recipient:
    inside = Fields(element.content, "KeyTransRecipientInfo")
    inside.take(INTEGER)
    identifier = inside.take(SEQUENCE, CONTEXT_0_PRIMITIVE)
    algorithm = read_algorithm(inside.take(SEQUENCE))
    encrypted_key = inside.take(OCTET_STRING).content
    inside.end()
    return Recipient(identifier, algorithm, encrypted_key)


def _read_cipher(algorithm: Algorithm) -> tuple[Cipher, bytes]:
    cipher = CIPHERS.get(algorithm.oid)
    if cipher is None:
        raise CmsError(
            CmsProblem.ALGORITHM, f"content cipher {algorithm.dotted} is not supported; use AES-128-CBC or AES-256-CBC"
        )
    iv = only(algorithm.parameters, OCTET_STRING, "the initialisation vector").content
    if len(iv) != cipher.block_length:
        raise CmsError(CmsProblem.STRUCTURE, f"the initialisation vector of {cipher.value} has {cipher.block_length} octets")
    return cipher, iv


async def decrypt(enveloped: Enveloped, certificate: CertificateView, *, decrypt_key: DecryptKey) -> bytes:
    """The content, read as the recipient that `certificate` names.

    `decrypt_key(ciphertext, length, transport)` rejects implicitly: always `length` octets, random ones for what is badly padded
    (signer.api.Signer.ra_decrypt). Only the first fitting RecipientInfo is tried (CVE-2019-1563 is about trying all).
    Raises CmsError: RECIPIENT, ALGORITHM (key transport), and DECRYPT, the same for every cause.
    """
    recipient = _find_recipient(enveloped, certificate)
    transport = read_transport(recipient.key_algorithm)
    plaintext = None
    if _fits_modulus(recipient.encrypted_key, certificate):
        key = await decrypt_key(recipient.encrypted_key, enveloped.cipher.key_length, transport)
        plaintext = _decrypt_content(enveloped, key)
    if plaintext is None:
        raise CmsError(CmsProblem.DECRYPT, UNREADABLE)
    return plaintext


def _find_recipient(enveloped: Enveloped, certificate: CertificateView) -> Recipient:
    for recipient in enveloped.recipients:
        if names_certificate(recipient.identifier, certificate):
            return recipient
    raise CmsError(
        CmsProblem.RECIPIENT, "the message is encrypted to another certificate; get this endpoint's anew (GetCACert)"
    )


def _fits_modulus(encrypted_key: bytes, certificate: CertificateView) -> bool:
    """RFC 8017 §7.1.2 and §7.2.2 step 1, and §5.1.2: what no RSA operation is defined for never reaches the token."""
    numbers = certificate.rsa_key().public_numbers()
    return len(encrypted_key) == (numbers.n.bit_length() + 7) // 8 and int.from_bytes(encrypted_key, "big") < numbers.n


def _decrypt_content(enveloped: Enveloped, key: bytes) -> bytes | None:
    """None where length, key or padding are not right; which of them shows neither in the result nor in what is computed."""
    block = enveloped.cipher.block_length
    if not enveloped.ciphertext or len(enveloped.ciphertext) % block:
        return None
    context = _block_cipher(enveloped.cipher, key, enveloped.iv).decryptor()
    padded = context.update(enveloped.ciphertext) + context.finalize()
    count = min(max(padded[-1], 1), block)
    right = hmac.compare_digest(padded[-count:], bytes((count,)) * count)
    return padded[:-count] if right else None


def _block_cipher(cipher: Cipher, key: bytes, iv: bytes) -> BlockCipher[modes.CBC]:
    match cipher:
        case Cipher.DES_EDE3_CBC:
            return BlockCipher(TripleDES(key), modes.CBC(iv))
        case Cipher.DES_CBC:
            return BlockCipher(TripleDES(key * 3), modes.CBC(iv))  # E(D(E(x))) with one key is DES
        case Cipher.AES_128_CBC | Cipher.AES_192_CBC | Cipher.AES_256_CBC:
            return BlockCipher(algorithms.AES(key), modes.CBC(iv))


def encrypt(content: bytes, recipient: CertificateView, *, cipher: Cipher, random_bytes: Callable[[int], bytes]) -> bytes:
    """EnvelopedData of pkcs7-data to one RSA recipient, named by issuer and serial; DER. Raises CmsError(KEY)."""
    public_key = recipient.rsa_key()

    def recipient_info(key: bytes) -> bytes:
        return sequence(
            integer(0),
            recipient.issuer_and_serial,
            sequence(RSA_ENCRYPTION, null()),
            octet_string(public_key.encrypt(key, padding.PKCS1v15())),
        )

    return enveloped(content, DATA, recipient_info, version=0, cipher=cipher, random_bytes=random_bytes)


def enveloped(
    content: bytes,
    content_type: bytes,
    recipient_info: Callable[[bytes], bytes],
    *,
    version: int,
    cipher: Cipher,
    random_bytes: Callable[[int], bytes],
) -> bytes:
    """EnvelopedData, DER. `recipient_info(key)` is the one RecipientInfo, with the content-encryption key encrypted in it; `version`
    depends on its kind (RFC 5652 §6.1). `content_type` is an OBJECT IDENTIFIER element.
    """
    key, iv = random_bytes(cipher.key_length), random_bytes(cipher.block_length)
    count = cipher.block_length - len(content) % cipher.block_length
    context = _block_cipher(cipher, key, iv).encryptor()
    ciphertext = context.update(content + bytes((count,)) * count) + context.finalize()
    encrypted = sequence(
        content_type,
        sequence(CIPHER_OIDS[cipher], octet_string(iv)),
        tlv(CONTEXT_0_PRIMITIVE, ciphertext),
    )
    enveloped_data = sequence(integer(version), tlv(SET, recipient_info(key)), encrypted)
    return sequence(ENVELOPED_DATA, tlv(CONTEXT_0, enveloped_data))
