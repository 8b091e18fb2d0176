"""PKCS#10 certification requests (RFC 2986), read leniently and refused precisely.

`cryptography` refuses requests that devices send (strongSwan's attributes are not in DER order) and calls every SHA-1
signature invalid. So the frame is cut with `pki.der`, the signature verified over the bytes as sent, and only keys are left
to the library. All of a request is read inside `parse_csr`: it gives a value or raises a `Rejection`, now and never later.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from pki import der
from pki.identifiers import Identifier, IpAddress, parse_dns, shown
from pki.reasons import Reason, Rejection

MAX_CSR = 64 * 1024  # octets of DER
MAX_NAMES = 1000  # SANs that are looked at at all; policy's limit is far lower
MAX_RSA_BITS = 8192  # more is work for us and security for nobody
MAX_RSA_EXPONENT_BITS = 256  # as above: whoever makes a key with a short private exponent has us compute with a long one

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

EXTENSION_REQUEST = "1.2.840.113549.1.9.14"

_COMMON_NAME = "2.5.4.3"
_CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"  # noqa: S105  # an object identifier
_SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"
_SUBJECT_KEY_IDENTIFIER = "2.5.29.14"
_NO_SIGNATURE = "1.3.6.1.5.5.7.6.2"
_RSASSA_PSS = "1.2.840.113549.1.1.10"
_ED25519 = "1.3.101.112"

_DIGESTS: dict[str, hashes.HashAlgorithm] = {
    "md5": hashes.MD5(),  # noqa: S303  # only behind legacy_digests
    "sha1": hashes.SHA1(),  # noqa: S303  # only behind legacy_digests
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_WEAK = frozenset({"md5", "sha1"})

# Signature algorithm -> digest (RFC 4055, RFC 5758). Those with a digest of their own are dealt with apart.
_RSA_PKCS1 = {
    "1.2.840.113549.1.1.4": "md5",
    "1.2.840.113549.1.1.5": "sha1",
    "1.3.14.3.2.29": "sha1",  # the old OIW identifier that some devices still write
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
}
_ECDSA = {
    "1.2.840.10045.4.1": "sha1",
    "1.2.840.10045.4.3.2": "sha256",
    "1.2.840.10045.4.3.3": "sha384",
    "1.2.840.10045.4.3.4": "sha512",
}
_HASH_OIDS = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}

# GeneralName alternatives (RFC 5280 §4.2.1.6) by tag; we issue for dNSName and iPAddress.
_OTHER_NAMES = {
    0xA0: "otherName",
    0x81: "rfc822Name",
    0xA3: "x400Address",
    0xA4: "directoryName",
    0xA5: "ediPartyName",
    0x86: "uniformResourceIdentifier",
    0x88: "registeredID",
}

_ARMOUR = re.compile(
    rb"-----BEGIN (?:NEW )?CERTIFICATE REQUEST-----([A-Za-z0-9+/=\s]*)-----END (?:NEW )?CERTIFICATE REQUEST-----"
)


@dataclass(frozen=True, slots=True)
class Csr:
    """A request as read, whatever it was written in. One of `parse_csr` has been verified with its own key (proof of possession);
    what `pki.crmf` makes says itself what was proved.
    """

    der: bytes = field(repr=False)
    sha256: str  # hex, of der
    spki: bytes = field(repr=False)  # SubjectPublicKeyInfo, DER, in the one spelling that certificates have
    spki_sha256: str  # hex
    public_key: PublicKey = field(repr=False, compare=False)
    subject: bytes = field(repr=False)  # Name, DER, as sent
    common_name: str | None  # the one CN asked for
    identifiers: tuple[Identifier, ...]  # SANs asked for (dNSName, iPAddress), canonical, in order, without repetition
    signature_digest: str  # "sha256", "sha1", ... or "" where the algorithm has its own (Ed25519)
    # Object identifier -> DER of the SET of values: PKCS#10's attributes, CRMF's controls. Some hold secrets.
    attributes: Mapping[str, bytes] = field(repr=False, compare=False)
    extensions: Mapping[str, bytes] = field(
        repr=False, compare=False
    )  # object identifier -> extnValue, of all that are asked for
    challenge_password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class NameChange:
    """What a ChangeSubjectName attribute asks for (RFC 6402 §2.8). None is what it does not speak of; at least one is there."""

    subject: bytes | None  # Name, DER
    common_name: str | None  # of `subject`
    identifiers: tuple[Identifier, ...] | None


@dataclass(frozen=True, slots=True)
class _Frame:
    """The parts of a CertificationRequest, cut but not read."""

    info: bytes
    subject: der.Element
    spki: bytes
    attributes: bytes
    algorithm: der.Element
    signature: bytes


def parse_csr(data: bytes, *, legacy_digests: Collection[str] = ()) -> Csr:
    """DER (or PEM) to a verified request.

    `legacy_digests` names the weak digests ("sha1", "md5") that this caller takes nevertheless.
    Raises Rejection: BAD_CSR, WEAK_ALGORITHM (which names the algorithm), BAD_PUBLIC_KEY, REJECTED_IDENTIFIER,
    UNSUPPORTED_IDENTIFIER (a SAN type that we do not issue).
    """

    def proved(frame: _Frame, public_key: PublicKey) -> str:
        return verify_signature(public_key, frame.algorithm, frame.signature, frame.info, legacy_digests)

    return _read(data, proved)


def parse_unproved_csr(data: bytes) -> Csr:
    """A request whose signature nobody looks at: it is for a key that is made elsewhere, and nothing of its own is certified
    (RFC 7030 §4.4.1: "the server MUST ignore the public key values and signature in the CSR"). Raises as `parse_csr`.
    """
    return _read(data, lambda _frame, _key: "")


def _read(data: bytes, digest_of: Callable[[_Frame, PublicKey], str]) -> Csr:
    """`digest_of` gives the name of the signature's digest, or raises Rejection."""
    binary = _unarmour(data)
    try:
        frame = _cut(binary)
        public_key = load_public_key(frame.spki)
        digest = digest_of(frame, public_key)
        attributes = dict(_attributes(frame.attributes))
        requested = attributes.get(EXTENSION_REQUEST)
        return assemble_csr(
            binary,
            public_key=public_key,
            subject=frame.subject,
            signature_digest=digest,
            attributes={name: values.raw for name, values in attributes.items()},
            extensions=read_extensions(() if requested is None else der.children(requested.content)),  # RFC 2985 §5.4.2
            challenge_password=_challenge_password(attributes.get(_CHALLENGE_PASSWORD)),
        )
    except der.DerError as error:
        raise bad_csr(f"it cannot be read: {error}") from error


def is_unsigned(data: bytes) -> bool:
    """Whether a request (DER) says that its key signs nothing (RFC 5272 Appendix C.1); what it says in the signature's place SHOULD
    be ignored. False for what is no request: `parse_csr` says why.
    """
    try:
        return der.oid(next(der.children(_cut(data).algorithm.content))) == _NO_SIGNATURE
    except (der.DerError, StopIteration):
        return False


def key_identifiers(csr: Csr) -> tuple[bytes, ...]:
    """What its key may be named by before there is a certificate: the subjectKeyIdentifier that it asks for, if it does, and the
    SHA-1 of the public key's bits (RFC 5280 §4.2.1.2, method 1).
    """
    bits = der.bits(list(der.children(der.whole(csr.spki, der.SEQUENCE).content))[1])
    digest = hashlib.sha1(bits, usedforsecurity=False).digest()
    try:
        asked = der.whole(csr.extensions.get(_SUBJECT_KEY_IDENTIFIER, b""), der.OCTET_STRING).content
    except der.DerError:
        return (digest,)
    return (asked, digest)


def assemble_csr(
    binary: bytes,
    *,
    public_key: PublicKey,
    subject: der.Element,
    signature_digest: str,
    attributes: Mapping[str, bytes],
    extensions: Mapping[str, bytes],
    challenge_password: str | None = None,
) -> Csr:
    """What every kind of request comes to: names and key are read in one place. Raises DerError, and Rejection as `parse_csr`."""
    # Not as sent: one key can be spelt in several ways (compressed points, absent parameters), and a blocked one would be.
    spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    alternative_names = extensions.get(_SUBJECT_ALTERNATIVE_NAME)
    return Csr(
        der=binary,
        sha256=hashlib.sha256(binary).hexdigest(),
        spki=spki,
        spki_sha256=hashlib.sha256(spki).hexdigest(),
        public_key=public_key,
        subject=subject.raw,
        common_name=_common_name(subject),
        identifiers=() if alternative_names is None else _general_names(alternative_names),
        signature_digest=signature_digest,
        attributes=MappingProxyType(dict(attributes)),
        extensions=MappingProxyType(dict(extensions)),
        challenge_password=challenge_password,
    )


def bad_csr(why: str) -> Rejection:
    return Rejection(Reason.BAD_CSR, f"this certificate signing request is refused: {why}")


def unwrap_csr(body: bytes) -> bytes:
    """A request in whatever form people send it (DER; PEM with text before it; bare base64) to what `parse_csr` takes.

    Raises Rejection(MALFORMED).
    """
    if body.startswith(b"\x30"):  # no base64 of a SEQUENCE and no armour begins with this octet
        return body
    if (armour := body.find(b"-----BEGIN ")) >= 0:
        return body[armour:]
    compact = b"".join(body.split())
    if not compact:
        raise Rejection(Reason.MALFORMED, "csr: it is empty; send a certificate signing request (PKCS#10)")
    try:
        return base64.b64decode(compact, validate=True)
    except binascii.Error:
        raise Rejection(
            Reason.MALFORMED,
            "csr: neither PEM nor DER nor base64; it is not a certificate signing request (PKCS#10)",
            suggestions=["send the file that openssl req -new wrote, or its DER in base64"],
        ) from None


def _unarmour(data: bytes) -> bytes:
    if len(data) > 2 * MAX_CSR:
        raise bad_csr(f"it is larger than {MAX_CSR} octets")
    binary = data
    if not data.startswith(b"\x30") and b"-----BEGIN" in data[:200]:  # whoever has looked at DER has seen what is read here
        armoured = _ARMOUR.search(data)
        if armoured is None:
            raise bad_csr("its PEM armour is not that of a CERTIFICATE REQUEST")
        try:
            binary = base64.b64decode(b"".join(armoured[1].split()), validate=True)
        except binascii.Error:
            raise bad_csr("what stands between its PEM lines is not base64") from None
    if not binary:
        raise bad_csr("it is empty")
    if len(binary) > MAX_CSR:
        raise bad_csr(f"it is larger than {MAX_CSR} octets")
    return binary


def _cut(binary: bytes) -> _Frame:
    """CertificationRequest ::= SEQUENCE { info, algorithm, signature BIT STRING } (RFC 2986 §4.2)."""
    info, algorithm, signature = der.take(der.whole(binary, der.SEQUENCE).content, der.SEQUENCE, der.SEQUENCE, der.BIT_STRING)
    parts = list(der.children(info.content))
    if len(parts) not in {3, 4}:  # some clients leave the empty attributes out
        raise der.DerError(f"its info has {len(parts)} parts where 4 belong")
    version = der.expect(parts[0], der.INTEGER).content
    if version not in {b"\x00", b"\x01", b"\x02"}:  # v1 is 0; others are written, and mean the same structure
        raise der.DerError("its version is unknown")
    return _Frame(
        info=info.raw,
        subject=der.expect(parts[1], der.SEQUENCE),
        spki=der.expect(parts[2], der.SEQUENCE).raw,
        attributes=der.expect(parts[3], 0xA0).content if len(parts) == 4 else b"",
        algorithm=algorithm,
        signature=der.bits(signature),
    )


def load_public_key(spki: bytes) -> PublicKey:
    """A key of a kind and size that may be worked with at all; whether policy likes it comes later (policy/keys.py)."""
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Rejection(Reason.BAD_PUBLIC_KEY, "its public key cannot be read, or is of a kind that is not served") from error
    match key:
        case rsa.RSAPublicKey() if key.key_size > MAX_RSA_BITS:
            raise Rejection(Reason.BAD_PUBLIC_KEY, f"its RSA key has {key.key_size} bits; use at most {MAX_RSA_BITS}")
        case rsa.RSAPublicKey() if key.public_numbers().e.bit_length() > MAX_RSA_EXPONENT_BITS:
            raise Rejection(Reason.BAD_PUBLIC_KEY, f"its RSA exponent has more than {MAX_RSA_EXPONENT_BITS} bits; use 65537")
        case rsa.RSAPublicKey() | ec.EllipticCurvePublicKey() | ed25519.Ed25519PublicKey():
            return key
        case _:
            raise Rejection(Reason.BAD_PUBLIC_KEY, "its public key is neither RSA, nor EC, nor Ed25519")


def verify_signature(
    key: PublicKey, algorithm_identifier: der.Element, signature: bytes, signed: bytes, legacy: Collection[str]
) -> str:
    """Proof of possession over the bytes as sent; gives the digest's name. Weak digests are named before anything else.

    Raises DerError and Rejection: BAD_CSR, WEAK_ALGORITHM.
    """
    parts = list(der.children(algorithm_identifier.content))
    if not parts:
        raise der.DerError("its signature algorithm is empty")
    algorithm, parameters = der.oid(parts[0]), parts[1:]
    try:
        match key:
            case rsa.RSAPublicKey() if algorithm in _RSA_PKCS1:
                digest = _allowed(_RSA_PKCS1[algorithm], legacy)
                key.verify(signature, signed, padding.PKCS1v15(), _DIGESTS[digest])
            case rsa.RSAPublicKey() if algorithm == _RSASSA_PSS:
                digest = _allowed(_pss_digest(parameters), legacy)
                scheme = padding.PSS(padding.MGF1(_DIGESTS[digest]), padding.PSS.AUTO)
                key.verify(signature, signed, scheme, _DIGESTS[digest])
            case ec.EllipticCurvePublicKey() if algorithm in _ECDSA:
                digest = _allowed(_ECDSA[algorithm], legacy)
                key.verify(signature, signed, ec.ECDSA(_DIGESTS[digest]))
            case ed25519.Ed25519PublicKey() if algorithm == _ED25519:
                digest = ""
                key.verify(signature, signed)
            case _:
                raise bad_csr(f"its signature algorithm {algorithm} is unknown or does not fit its key")
    except InvalidSignature:
        raise bad_csr("its signature is not by the key that it holds, or it was changed after it was signed") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise bad_csr("its signature cannot be verified with its key") from error
    return digest


def _allowed(digest: str, legacy: Collection[str]) -> str:
    if digest in _WEAK and digest not in legacy:
        raise Rejection(
            Reason.WEAK_ALGORITHM,
            f"this certificate signing request is signed with {digest.upper()}, which is not accepted here",
            suggestions=["sign the request with SHA-256 (openssl req -sha256)"],
        )
    return digest


def _pss_digest(parameters: list[der.Element]) -> str:
    """RSASSA-PSS-params (RFC 4055 §3.1): hashAlgorithm [0], SHA-1 when absent; MGF1 has to use the same digest."""
    if not parameters:
        return "sha1"
    for part in der.children(der.expect(parameters[0], der.SEQUENCE).content):
        if part.tag == 0xA0:
            algorithm = der.whole(part.content, der.SEQUENCE)
            name = der.oid(next(der.children(algorithm.content), der.Element(0, b"", b"")))
            if name not in _HASH_OIDS:
                raise bad_csr(f"its RSASSA-PSS signature uses the unknown digest {name}")
            return _HASH_OIDS[name]
    return "sha1"


def _attributes(content: bytes) -> Iterator[tuple[str, der.Element]]:
    """Type -> its SET of values. A repeated attribute is refused: two readers could take two different ones."""
    seen: set[str] = set()
    for attribute in der.children(content):
        kind, values = der.take(der.expect(attribute, der.SEQUENCE).content, der.OBJECT_IDENTIFIER, der.SET)
        name = der.oid(kind)
        if name in seen:
            raise der.DerError(f"attribute {name} stands in it twice")
        seen.add(name)
        yield name, values


def _common_name(subject: der.Element) -> str | None:
    names: list[str] = []
    for rdn in der.children(subject.content):
        for attribute in der.children(der.expect(rdn, der.SET).content):
            parts = list(der.children(der.expect(attribute, der.SEQUENCE).content))
            if len(parts) != 2:
                raise der.DerError("its subject has an attribute without exactly one value")
            if der.oid(parts[0]) == _COMMON_NAME:
                names.append(der.text(parts[1]))
    if len(names) > 1:
        raise bad_csr("its subject has more than one common name")
    return names[0] if names and names[0] else None


def read_extensions(lists: Iterable[der.Element]) -> dict[str, bytes]:
    """All Extensions (RFC 5280 §4.1) that are asked for: object identifier -> extnValue. Raises DerError, also for a second one."""
    found: dict[str, bytes] = {}
    for extensions in lists:
        for extension in der.children(der.expect(extensions, der.SEQUENCE).content):
            parts = list(der.children(der.expect(extension, der.SEQUENCE).content))
            if len(parts) not in {2, 3}:
                raise der.DerError("it asks for an extension that is none")
            name = der.oid(parts[0])
            if name in found:
                raise der.DerError(f"it asks for extension {name} twice")
            found[name] = der.expect(parts[-1], der.OCTET_STRING).content
    return found


def _general_names(content: bytes) -> tuple[Identifier, ...]:
    found: dict[Identifier, None] = {}
    for count, name in enumerate(der.children(der.whole(content, der.SEQUENCE).content)):
        if count >= MAX_NAMES:
            raise bad_csr(f"it asks for more than {MAX_NAMES} names")
        match name.tag:
            case 0x82:  # dNSName
                found[parse_dns(_ascii(name.content))] = None
            case 0x87:  # iPAddress
                found[_ip(name.content)] = None
            case other:
                kind = _OTHER_NAMES.get(other, "unknown")
                raise Rejection(
                    Reason.UNSUPPORTED_IDENTIFIER,
                    f"it asks for a subject alternative name of type {kind}; only dNSName and iPAddress are issued",
                )
    return tuple(found)


def _ascii(content: bytes) -> str:
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
        raise Rejection(
            Reason.REJECTED_IDENTIFIER,
            f"dNSName {shown(text)} is not ASCII: internationalised names go into a CSR as A-labels (xn--...)",
        ) from None


def _ip(content: bytes) -> IpAddress:
    if len(content) not in {4, 16}:
        raise Rejection(Reason.REJECTED_IDENTIFIER, f"an iPAddress of {len(content)} octets is no address")
    return IpAddress(ipaddress.ip_address(content))


def _challenge_password(values: der.Element | None) -> str | None:
    """RFC 2985 §5.4.1: one directory string."""
    if values is None:
        return None
    found = list(der.children(values.content))
    if len(found) != 1:
        raise der.DerError("its challengePassword has not exactly one value")
    return der.text(found[0])


def read_name_change(values: bytes) -> NameChange:
    """The SET of values (DER) of a ChangeSubjectName attribute. Raises Rejection as `parse_csr`.

    ChangeSubjectName ::= SEQUENCE { subject Name OPTIONAL, subjectAlt GeneralNames OPTIONAL }, neither with a tag of its own:
    a Name is made of SETs (or of nothing), and GeneralNames are not.
    """
    try:
        [attribute] = der.take(der.whole(values, der.SET).content, der.SEQUENCE)
        return _name_change([der.expect(part, der.SEQUENCE) for part in der.children(attribute.content)])
    except der.DerError as error:
        raise bad_csr(f"its ChangeSubjectName attribute cannot be read: {error}") from error


def _name_change(parts: list[der.Element]) -> NameChange:
    subject = parts[0] if parts and _is_name(parts[0]) else None
    names = [part for part in parts if part is not subject]
    if not parts or len(names) > 1:
        raise der.DerError("it is not one subject, alternative names, or both")
    return NameChange(
        subject=None if subject is None else subject.raw,
        common_name=None if subject is None else _common_name(subject),
        identifiers=_general_names(names[0].raw) if names else None,
    )


def _is_name(element: der.Element) -> bool:
    return next((part.tag == der.SET for part in der.children(element.content)), True)
