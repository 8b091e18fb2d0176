"""SignedData (RFC 5652 §5) with one signer and signed attributes; and the degenerate form that only carries certificates.

Strictness against signature wrapping: exactly one SignerInfo, every signed attribute once with exactly one value, and what
`verify` covers is what `Signed` shows, for both come from one parse.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from pki.cms.ber import normalise
from pki.cms.errors import CmsError, CmsProblem
from pki.cms.fields import (
    CONTEXT_0,
    CONTEXT_0_PRIMITIVE,
    CONTEXT_1,
    CONTEXT_2,
    Fields,
    elements,
    integer,
    null,
    octet_string,
    only,
    read_integer,
    sequence,
    set_of,
    tlv,
)
from pki.cms.types import (
    CONTENT_TYPE,
    DATA,
    DIGEST_OIDS,
    DIGESTS,
    MAX_RSA_BITS,
    MESSAGE_DIGEST,
    MGF1,
    RSA_ENCRYPTION,
    RSA_SIGNATURES,
    RSASSA_PSS,
    SIGNED_DATA,
    Algorithm,
    CertificateView,
    Digest,
    read_algorithm,
    read_certificate,
)
from pki.der import INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SET, Element

_PSS_DEFAULT_SALT = 20  # RFC 4055 §3.1; its default digest is SHA-1


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute with its one value. `value` is an element, `oid` an OBJECT IDENTIFIER element."""

    oid: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """A SignedData as parsed. Nothing in it is to be believed before `verify` has returned."""

    content_type: bytes  # OBJECT IDENTIFIER element
    content: bytes = field(repr=False)  # the content octets; empty also where eContent is absent
    attributes: Mapping[bytes, Element]  # the signed ones: OBJECT IDENTIFIER element -> the value
    signed_attributes: bytes = field(repr=False)  # [0] element, in the order sent
    signer: CertificateView
    digest_algorithm: Algorithm
    signature_algorithm: Algorithm
    signature: bytes = field(repr=False)

    @property
    def digest(self) -> Digest:
        """Raises CmsError(ALGORITHM), which names the one that we do not do."""
        digest = DIGESTS.get(self.digest_algorithm.oid)
        if digest is None:
            raise CmsError(
                CmsProblem.ALGORITHM, f"digest algorithm {self.digest_algorithm.dotted} is not supported; use SHA-256"
            )
        return digest


def parse_signed(data: bytes) -> Signed:
    """BER or DER to its parts, without any arithmetic. Raises CmsError: TOO_*, ENCODING, STRUCTURE, SIGNER, ATTRIBUTE."""
    inside = content_info(data, SIGNED_DATA, "SignedData")
    inside.take(INTEGER)
    inside.take(SET)  # digestAlgorithms; the signer's own counts
    content_type, content = _encapsulated(inside.take(SEQUENCE))
    certificates = inside.maybe(CONTEXT_0)
    inside.maybe(CONTEXT_1)  # crls
    signers = elements(inside.take(SET).content)
    inside.end()
    if len(signers) != 1 or signers[0].tag != SEQUENCE:
        raise CmsError(CmsProblem.SIGNER, f"the message has {len(signers)} signers; it must have one")
    info = Fields(signers[0].content, "SignerInfo")
    info.take(INTEGER)
    identifier = info.take(SEQUENCE, CONTEXT_0_PRIMITIVE)
    digest_algorithm = read_algorithm(info.take(SEQUENCE))
    signed_attributes = info.maybe(CONTEXT_0)
    signature_algorithm = read_algorithm(info.take(SEQUENCE))
    signature = info.take(OCTET_STRING).content
    info.maybe(CONTEXT_1)  # unsigned attributes: nobody vouches for them
    info.end()
    if signed_attributes is None:
        raise CmsError(CmsProblem.ATTRIBUTE, "the message has no signed attributes")
    return Signed(
        content_type=content_type,
        content=content,
        attributes=_read_attributes(signed_attributes.content),
        signed_attributes=signed_attributes.raw,
        signer=_find_signer(identifier, b"" if certificates is None else certificates.content),
        digest_algorithm=digest_algorithm,
        signature_algorithm=signature_algorithm,
        signature=signature,
    )


def content_info(data: bytes, content_type: bytes, name: str) -> Fields:
    """The fields of the content of a ContentInfo of that type (RFC 5652 §3)."""
    outer = Fields(only(normalise(data), SEQUENCE, "ContentInfo").content, "ContentInfo")
    found = outer.take(OBJECT_IDENTIFIER).raw
    if found != content_type:
        raise CmsError(CmsProblem.STRUCTURE, f"the message is not a CMS {name}")
    content = outer.take(CONTEXT_0)
    outer.end()
    return Fields(only(content.content, SEQUENCE, name).content, name)


def _encapsulated(info: Element) -> tuple[bytes, bytes]:
    inside = Fields(info.content, "EncapsulatedContentInfo")
    content_type = inside.take(OBJECT_IDENTIFIER).raw
    wrapper = inside.maybe(CONTEXT_0)
    inside.end()
    if wrapper is None:
        return content_type, b""
    return content_type, only(wrapper.content, OCTET_STRING, "eContent").content


def _read_attributes(content: bytes) -> dict[bytes, Element]:
    attributes: dict[bytes, Element] = {}
    for element in elements(content):
        attribute = Fields(element.content if element.tag == SEQUENCE else b"", "Attribute")
        identifier = attribute.take(OBJECT_IDENTIFIER).raw
        values = elements(attribute.take(SET).content)
        attribute.end()
        if len(values) != 1 or identifier in attributes:
            raise CmsError(CmsProblem.ATTRIBUTE, "every signed attribute must be there once, with one value")
        attributes[identifier] = values[0]
    return attributes


def _find_signer(identifier: Element, bag: bytes) -> CertificateView:
    """The certificate that SignerIdentifier names. The others in the bag mean nothing to us."""
    for element in elements(bag):
        if element.tag == SEQUENCE:  # not one of the obsolete CertificateChoices
            certificate = read_certificate(element.raw)
            if names_certificate(identifier, certificate):
                return certificate
    raise CmsError(CmsProblem.SIGNER, "the signer's certificate is not in the message")


def names_certificate(identifier: Element, certificate: CertificateView) -> bool:
    """Whether a SignerIdentifier or RecipientIdentifier (RFC 5652 §5.3, §6.2.1) means this certificate."""
    if identifier.tag == CONTEXT_0_PRIMITIVE:
        return identifier.content == certificate.key_identifier
    inside = Fields(identifier.content, "IssuerAndSerialNumber")
    issuer = inside.take(SEQUENCE).raw
    serial = read_integer(inside.take(INTEGER).content)
    inside.end()
    return issuer == certificate.issuer and serial == certificate.serial


def verify(signed: Signed) -> rsa.RSAPublicKey:
    """Check that the signer signed this content and these attributes (RFC 5652 §5.4, §5.6); gives the signer's key.

    Whether the digest is good enough is the caller's decision, before or after.
    Raises CmsError: ALGORITHM, KEY, ATTRIBUTE, DIGEST, SIGNATURE.
    """
    digest = signed.digest
    scheme = _scheme(signed.signature_algorithm, digest)
    key = signed.signer.rsa_key()
    if _attribute(signed, CONTENT_TYPE, OBJECT_IDENTIFIER, "contentType").raw != signed.content_type:
        raise CmsError(CmsProblem.ATTRIBUTE, "the contentType attribute does not fit the content")
    if _attribute(signed, MESSAGE_DIGEST, OCTET_STRING, "messageDigest").content != digest.of(signed.content):
        raise CmsError(CmsProblem.DIGEST, "the message digest does not fit the content: the message was changed on its way")
    sent = signed.signed_attributes[1:]  # under the tag of SET OF (§5.4), as sent, or else in DER order
    in_order = set_of(element.raw for element in elements(only(signed.signed_attributes, CONTEXT_0, "signedAttrs").content))
    for candidate in dict.fromkeys((bytes((SET,)) + sent, in_order)):
        try:
            key.verify(signed.signature, candidate, scheme, digest.algorithm)
        except InvalidSignature:
            continue
        except (ValueError, UnsupportedAlgorithm) as error:
            raise CmsError(CmsProblem.SIGNATURE, "the message's signature cannot be verified with its signer's key") from error
        return key
    raise CmsError(CmsProblem.SIGNATURE, "the message's signature is not by the key of its signer's certificate")


def _attribute(signed: Signed, identifier: bytes, tag: int, name: str) -> Element:
    value = signed.attributes.get(identifier)
    if value is None or value.tag != tag:
        raise CmsError(CmsProblem.ATTRIBUTE, f"the signed attribute {name} is missing or of another type")
    return value


def _scheme(algorithm: Algorithm, digest: Digest) -> padding.AsymmetricPadding:
    if algorithm.oid == RSA_ENCRYPTION or RSA_SIGNATURES.get(algorithm.oid) is digest:
        return padding.PKCS1v15()
    if algorithm.oid == RSASSA_PSS:
        return _pss(algorithm, digest)
    raise CmsError(
        CmsProblem.ALGORITHM,
        f"signature algorithm {algorithm.dotted} is not supported with a {digest.value} digest; use RSA with SHA-256",
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


async def sign(
    content: bytes,
    attributes: Sequence[Attribute],
    *,
    certificate: CertificateView,
    digest: Digest,
    signature: Callable[[bytes, Digest], Awaitable[bytes]],
) -> bytes:
    """SignedData of pkcs7-data, DER. `signature` is RSASSA-PKCS1-v1_5 over the octets given to it.

    contentType and messageDigest are added to `attributes`; the certificate is the only one in the bag.
    """
    signed_attributes = set_of(
        sequence(attribute.oid, tlv(SET, attribute.value))
        for attribute in (
            Attribute(CONTENT_TYPE, DATA),
            Attribute(MESSAGE_DIGEST, octet_string(digest.of(content))),
            *attributes,
        )
    )
    value = await signature(signed_attributes, digest)
    digest_algorithm = sequence(DIGEST_OIDS[digest], null())
    signer_info = sequence(
        integer(1),
        certificate.issuer_and_serial,
        digest_algorithm,
        bytes((CONTEXT_0,)) + signed_attributes[1:],
        sequence(RSA_ENCRYPTION, null()),  # understood by all; RFC 3370 §3.2
        octet_string(value),
    )
    signed_data = sequence(
        integer(1),
        tlv(SET, digest_algorithm),
        sequence(DATA, tlv(CONTEXT_0, octet_string(content))),
        tlv(CONTEXT_0, certificate.der),
        tlv(SET, signer_info),
    )
    return sequence(SIGNED_DATA, tlv(CONTEXT_0, signed_data))


def certificates_only(certificates: Sequence[bytes]) -> bytes:
    """Degenerate SignedData (RFC 5652 §5.1; "certs-only"), DER. The set is sorted, whatever order they came in.

    Raises ValueError for what is not a certificate: those given are our own.
    """
    return pkcs7.serialize_certificates([x509.load_der_x509_certificate(der) for der in certificates], Encoding.DER)
