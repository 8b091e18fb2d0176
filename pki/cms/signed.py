"""SignedData (RFC 5652 §5) with one signer and signed attributes; and the degenerate form that only carries certificates.

Strictness against signature wrapping: never more than one SignerInfo, every signed attribute once with exactly one value, and what
`verify` covers is what `Signed` shows, for both come from one parse. SCEP's signers are RSA and in the message (`parse_signed`,
`verify`); those of CMC are who they are (`parse_message`, `verify_message`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa

from pki.cms.ber import normalise
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
    read_integer,
    sequence,
    set_of,
    tlv,
)
from pki.cms.signatures import SignerKey, rsa_scheme, verifier
from pki.cms.types import (
    AUTHENTICATED_DATA,
    CONTENT_TYPE,
    DATA,
    DIGEST_OIDS,
    DIGESTS,
    MESSAGE_DIGEST,
    NO_SIGNATURE,
    RSA_ENCRYPTION,
    SIGNED_DATA,
    Algorithm,
    CertificateView,
    Digest,
    read_algorithm,
    read_certificate,
)
from pki.der import INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SET, Element

RSA_SIGNATURE = sequence(RSA_ENCRYPTION, null())  # the algorithm that every reader knows (RFC 3370 §3.2)


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute with its one value. `value` is an element, `oid` an OBJECT IDENTIFIER element."""

    oid: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class SignerInfo:
    """Who signed, and what with (RFC 5652 §5.3)."""

    identifier: Element  # IssuerAndSerialNumber or [0] SubjectKeyIdentifier
    attributes: Mapping[bytes, Element]  # the signed ones: OBJECT IDENTIFIER element -> the value
    signed_attributes: bytes = field(repr=False)  # [0] element, in the order sent; none only where `proves_nothing`
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

    @property
    def proves_nothing(self) -> bool:
        """RFC 5272 Appendix C.1: a key that signs nothing fills the place with id-alg-noSignature."""
        return self.signature_algorithm.oid == NO_SIGNATURE

    @property
    def key_identifier(self) -> bytes | None:
        """Where the signer is named by it."""
        return self.identifier.content if self.identifier.tag == CONTEXT_0_PRIMITIVE else None

    @property
    def issuer_and_serial(self) -> tuple[bytes, int] | None:
        """Issuer (Name, DER) and serial number, where the signer is named by them. Raises CmsError(STRUCTURE)."""
        return None if self.identifier.tag == CONTEXT_0_PRIMITIVE else _issuer_and_serial(self.identifier)


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """A SignedData as parsed, whoever signed it, if anybody did. Nothing in it is to be believed before it is verified."""

    content_type: bytes  # OBJECT IDENTIFIER element
    content: bytes = field(repr=False)  # the content octets; empty also where eContent is absent
    certificates: tuple[bytes, ...] = field(repr=False)  # X.509, DER, as they stand in the bag; unread
    signer_info: SignerInfo | None

    @property
    def is_signed(self) -> bool:
        """Whether anybody says to have signed it."""
        return self.signer_info is not None and not self.signer_info.proves_nothing

    def signer_certificate(self, known: Iterable[bytes] = ()) -> CertificateView | None:
        """The certificate that the signer is named by: among those in the message, then among the `known` ones (DER).

        The others in the bag mean nothing to us. Raises CmsError: STRUCTURE, ENCODING.
        """
        if self.signer_info is not None:
            for certificate in map(read_certificate, chain(self.certificates, known)):
                if names_certificate(self.signer_info.identifier, certificate):
                    return certificate
        return None


@dataclass(frozen=True, slots=True)
class Signed:
    """A SignedData with one signer, whose certificate is in it. Nothing in it is to be believed before `verify` has returned."""

    content_type: bytes  # OBJECT IDENTIFIER element
    content: bytes = field(repr=False)
    info: SignerInfo
    signer: CertificateView

    @property
    def attributes(self) -> Mapping[bytes, Element]:
        return self.info.attributes

    @property
    def digest(self) -> Digest:
        """Raises CmsError(ALGORITHM)."""
        return self.info.digest


def parse_signed(data: bytes) -> Signed:
    """BER or DER to its parts, without any arithmetic. Raises CmsError: TOO_*, ENCODING, STRUCTURE, SIGNER, ATTRIBUTE."""
    message = parse_message(data)
    if message.signer_info is None:
        raise CmsError(CmsProblem.SIGNER, "the message has 0 signers; it must have one")
    signer = message.signer_certificate()
    if signer is None:
        raise CmsError(CmsProblem.SIGNER, "the signer's certificate is not in the message")
    return Signed(message.content_type, message.content, message.signer_info, signer)


def parse_message(data: bytes) -> SignedMessage:
    """As `parse_signed`, for signers whose certificate is elsewhere, and for messages that nobody signed."""
    inside = content_info(data, SIGNED_DATA, "SignedData")
    inside.take(INTEGER)
    inside.take(SET)  # digestAlgorithms; the signer's own counts
    content_type, content = _encapsulated(inside.take(SEQUENCE))
    bag = inside.maybe(CONTEXT_0)
    inside.maybe(CONTEXT_1)  # crls
    signers = elements(inside.take(SET).content)
    inside.end()
    if len(signers) > 1 or any(signer.tag != SEQUENCE for signer in signers):
        raise CmsError(CmsProblem.SIGNER, f"the message has {len(signers)} signers; it must have one")
    # What is no SEQUENCE in the bag is one of the obsolete CertificateChoices.
    certificates = () if bag is None else tuple([element.raw for element in elements(bag.content) if element.tag == SEQUENCE])
    return SignedMessage(content_type, content, certificates, _read_signer(signers[0]) if signers else None)


def _read_signer(element: Element) -> SignerInfo:
    info = Fields(element.content, "SignerInfo")
    info.take(INTEGER)
    identifier = info.take(SEQUENCE, CONTEXT_0_PRIMITIVE)
    digest_algorithm = read_algorithm(info.take(SEQUENCE))
    signed_attributes = info.maybe(CONTEXT_0)
    signature_algorithm = read_algorithm(info.take(SEQUENCE))
    signature = info.take(OCTET_STRING).content
    info.maybe(CONTEXT_1)  # unsigned attributes: nobody vouches for them
    info.end()
    if signed_attributes is None and signature_algorithm.oid != NO_SIGNATURE:
        raise CmsError(CmsProblem.ATTRIBUTE, "the message has no signed attributes")
    return SignerInfo(
        identifier=identifier,
        attributes={} if signed_attributes is None else _read_attributes(signed_attributes.content),
        signed_attributes=b"" if signed_attributes is None else signed_attributes.raw,
        digest_algorithm=digest_algorithm,
        signature_algorithm=signature_algorithm,
        signature=signature,
    )


def content_info(data: bytes, content_type: bytes, name: str) -> Fields:
    """The fields of the content of a ContentInfo of that type (RFC 5652 §3)."""
    outer = Fields(only(normalise(data), SEQUENCE, "ContentInfo").content, "ContentInfo")
    found = outer.take(OBJECT_IDENTIFIER).raw
    if found == AUTHENTICATED_DATA and found != content_type:
        raise CmsError(CmsProblem.STRUCTURE, f"the message is a CMS AuthenticatedData, which is not supported; send a {name}")
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


def names_certificate(identifier: Element, certificate: CertificateView) -> bool:
    """Whether a SignerIdentifier or RecipientIdentifier (RFC 5652 §5.3, §6.2.1) means this certificate."""
    if identifier.tag == CONTEXT_0_PRIMITIVE:
        return identifier.content == certificate.key_identifier
    return _issuer_and_serial(identifier) == (certificate.issuer, certificate.serial)


def _issuer_and_serial(identifier: Element) -> tuple[bytes, int]:
    inside = Fields(identifier.content, "IssuerAndSerialNumber")
    issuer = inside.take(SEQUENCE).raw
    serial = read_integer(inside.take(INTEGER).content)
    inside.end()
    return issuer, serial


def verify(signed: Signed) -> rsa.RSAPublicKey:
    """Check that the signer, who has to have an RSA key, signed this content and these attributes; gives the key.

    Whether the digest is good enough is the caller's decision, before or after.
    Raises CmsError: ALGORITHM, KEY, ATTRIBUTE, DIGEST, SIGNATURE.
    """
    rsa_scheme(signed.info.signature_algorithm, signed.digest)
    key = signed.signer.rsa_key()
    _verify(signed.info, signed.content_type, signed.content, key)
    return key


def verify_message(message: SignedMessage, key: SignerKey) -> None:
    """Check that whoever has `key` signed this content and these attributes (RFC 5652 §5.4, §5.6).

    Whether the digest is good enough, and whose the key is, are the caller's to decide.
    Raises CmsError: SIGNER (nobody signed), ALGORITHM, ATTRIBUTE, DIGEST, SIGNATURE.
    """
    if message.signer_info is None:
        raise CmsError(CmsProblem.SIGNER, "the message has 0 signers; it must have one")
    _verify(message.signer_info, message.content_type, message.content, key)


def check_digest(message: SignedMessage) -> None:
    """For what `proves_nothing`: the content is at least the one that was sent. Raises CmsError: SIGNER, ALGORITHM, ATTRIBUTE, DIGEST.

    The value in the signature's place SHOULD be ignored (RFC 5272 Appendix C.1), and is.
    """
    if message.signer_info is None:
        raise CmsError(CmsProblem.SIGNER, "the message has 0 signers; it must have one")
    if message.signer_info.signed_attributes:
        _check_digest(message.signer_info, message.content_type, message.content)


def _verify(info: SignerInfo, content_type: bytes, content: bytes, key: SignerKey) -> None:
    digest = info.digest
    check = verifier(key, info.signature_algorithm, digest)
    _check_digest(info, content_type, content)
    for candidate in _signed_octets(info):
        try:
            check(info.signature, candidate)
        except InvalidSignature:
            continue
        except (ValueError, UnsupportedAlgorithm) as error:
            raise CmsError(CmsProblem.SIGNATURE, "the message's signature cannot be verified with its signer's key") from error
        return
    raise CmsError(CmsProblem.SIGNATURE, "the message's signature is not by the key of its signer's certificate")


def _signed_octets(info: SignerInfo) -> Iterator[bytes]:
    """The attributes under the tag of SET OF (RFC 5652 §5.4), as sent; then in DER order, where that is another."""
    sent = bytes((SET,)) + info.signed_attributes[1:]
    yield sent
    in_order = set_of(element.raw for element in elements(only(info.signed_attributes, CONTEXT_0, "signedAttrs").content))
    if in_order != sent:
        yield in_order


def _check_digest(info: SignerInfo, content_type: bytes, content: bytes) -> None:
    if _attribute(info, CONTENT_TYPE, OBJECT_IDENTIFIER, "contentType").raw != content_type:
        raise CmsError(CmsProblem.ATTRIBUTE, "the contentType attribute does not fit the content")
    if _attribute(info, MESSAGE_DIGEST, OCTET_STRING, "messageDigest").content != info.digest.of(content):
        raise CmsError(CmsProblem.DIGEST, "the message digest does not fit the content: the message was changed on its way")


def _attribute(info: SignerInfo, identifier: bytes, tag: int, name: str) -> Element:
    value = info.attributes.get(identifier)
    if value is None or value.tag != tag:
        raise CmsError(CmsProblem.ATTRIBUTE, f"the signed attribute {name} is missing or of another type")
    return value


async def sign(
    content: bytes,
    attributes: Sequence[Attribute],
    *,
    certificate: CertificateView,
    digest: Digest,
    signature: Callable[[bytes, Digest], Awaitable[bytes]],
    algorithm: bytes = RSA_SIGNATURE,
    content_type: bytes = DATA,
    others: Sequence[bytes] = (),
    crls: Sequence[bytes] = (),
) -> bytes:
    """SignedData, DER. `signature` is over the octets given to it, by `algorithm` (AlgorithmIdentifier); the default is
    RSASSA-PKCS1-v1_5.

    contentType and messageDigest are added to `attributes`; the bag has the signer's certificate and `others` (DER), sorted.
    """
    own = (Attribute(CONTENT_TYPE, content_type), Attribute(MESSAGE_DIGEST, octet_string(digest.of(content))))
    signed_attributes = set_of(sequence(each.oid, tlv(SET, each.value)) for each in (*own, *attributes))
    value = await signature(signed_attributes, digest)
    digest_algorithm = sequence(DIGEST_OIDS[digest], null())
    signer_info = sequence(
        integer(1),
        certificate.issuer_and_serial,
        digest_algorithm,
        bytes((CONTEXT_0,)) + signed_attributes[1:],
        algorithm,
        octet_string(value),
    )
    return _signed_data(
        integer(1 if content_type == DATA else 3),  # RFC 5652 §5.1
        tlv(SET, digest_algorithm),
        sequence(content_type, tlv(CONTEXT_0, octet_string(content))),
        _bag(CONTEXT_0, [certificate.der, *others]),
        _bag(CONTEXT_1, crls),
        tlv(SET, signer_info),
    )


def certificates_only(certificates: Sequence[bytes], crls: Sequence[bytes] = ()) -> bytes:
    """Degenerate SignedData (RFC 5652 §5.1; "certs-only"), DER. The sets are sorted, whatever order they came in."""
    return _signed_data(
        integer(1),
        tlv(SET),
        sequence(DATA),
        _bag(CONTEXT_0, certificates),
        _bag(CONTEXT_1, crls),
        tlv(SET),
    )


def _signed_data(*parts: bytes) -> bytes:
    return sequence(SIGNED_DATA, tlv(CONTEXT_0, sequence(*parts)))


def _bag(tag: int, members: Sequence[bytes]) -> bytes:
    """OPTIONAL: none at all where there is nothing in it."""
    return set_of(set(members), tag=tag) if members else b""
