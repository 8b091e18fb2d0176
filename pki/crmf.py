"""CRMF certification requests (RFC 4211) as CMC takes them (RFC 5272 §3.2.1.2.2), read into the same value as PKCS#10.

`cryptography.hazmat.asn1` reads the frame. The CertTemplate and what is signed are cut by `pki.der`: a template is nothing but
optional fields, of which the library cannot have one raw, and requested extensions are read as leniently as those of PKCS#10.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, assert_never

from cryptography import x509
from cryptography.hazmat import asn1

from pki import der
from pki.csr import MAX_CSR, Csr, PublicKey, assemble_csr, bad_csr, load_public_key, read_extensions, verify_signature

# RFC 4211 §6 and RFC 5272 §6.3.1.1. Of the first, all that ask for something that no certificate shows are not heeded; a client
# that wants its key archived has to learn that it is not. Those of CMC are read by est.cmc.
_POP_LINK_WITNESS = "1.3.6.1.5.5.7.7.23"
_POP_LINK_WITNESS_V2 = "1.3.6.1.5.5.7.7.33"
_ARCHIVE_OPTIONS = "1.3.6.1.5.5.7.5.1.4"
_CONTROLS = frozenset(
    {
        "1.3.6.1.5.5.7.5.1.1",  # regToken
        "1.3.6.1.5.5.7.5.1.2",  # authenticator
        "1.3.6.1.5.5.7.5.1.3",  # pkiPublicationInfo
        "1.3.6.1.5.5.7.5.1.5",  # oldCertID
        "1.3.6.1.5.5.7.5.1.6",  # protocolEncrKey
        _POP_LINK_WITNESS,
        _POP_LINK_WITNESS_V2,
    }
)

# CertTemplate's fields (§5). The rest is the CA's to say: asking for it is no error, and is not heeded.
_SUBJECT = 5
_PUBLIC_KEY = 6
_EXTENSIONS = 9
_CONTEXT_CLASS = 0x80
_CONSTRUCTED = 0x20

_CHALLENGE_RESP = 1  # SubsequentMessage (§4.2)
_SUBSEQUENT_MESSAGE = 1  # POPOPrivKey
_POSSESSION_BY_OTHER_MEANS = {0: "thisMessage", 2: "dhMAC", 3: "agreeMAC", 4: "encryptedKey"}


@asn1.sequence
class AttributeTypeAndValue:
    type: x509.ObjectIdentifier
    value: asn1.TLV


@asn1.sequence
class CertRequest:
    cert_req_id: int
    cert_template: asn1.TLV
    controls: list[AttributeTypeAndValue] | None


@asn1.sequence
class SubjectPublicKeyInfo:
    algorithm: asn1.TLV
    subject_public_key: asn1.BitString


@asn1.sequence
class POPOSigningKeyInput:
    auth_info: asn1.TLV
    public_key: asn1.TLV


@asn1.sequence
class POPOSigningKey:
    poposk_input: Annotated[POPOSigningKeyInput | None, asn1.Implicit(0)]
    algorithm_identifier: asn1.TLV
    signature: asn1.BitString


# POPOPrivKey is a CHOICE, so its tag is explicit, and which alternative it is stands inside.
ProofOfPossession = (
    Annotated[asn1.Variant[asn1.Null, Literal["raVerified"]], asn1.Implicit(0)]
    | Annotated[asn1.Variant[POPOSigningKey, Literal["signature"]], asn1.Implicit(1)]
    | Annotated[asn1.Variant[asn1.TLV, Literal["keyEncipherment"]], asn1.Explicit(2)]
    | Annotated[asn1.Variant[asn1.TLV, Literal["keyAgreement"]], asn1.Explicit(3)]
)


@asn1.sequence
class CertReqMsg:
    cert_req: CertRequest
    popo: ProofOfPossession | None
    reg_info: list[AttributeTypeAndValue] | None


class Possession(enum.Enum):
    """What is known of the private key's holder (§4). Closed."""

    PROVED = "proved"  # the request is signed with its own key
    BY_AGENT = "by-agent"  # raVerified: whoever signs the message says so
    TO_BE_PROVED = "to-be-proved"  # nothing is yet; a key that signs nothing proves it by a challenge (RFC 5272 §6.7)


@dataclass(frozen=True, slots=True)
class CrmfMessage:
    """A CertReqMsg. `csr.attributes` are its controls, each as a SET with one value."""

    request_id: int
    csr: Csr = field(repr=False)
    possession: Possession


def parse_crmf(data: bytes, *, legacy_digests: Collection[str] = ()) -> CrmfMessage:
    """A CertReqMsg, DER, with the rules that RFC 5272 §3.2.1.2.2 adds. Refuses as `pki.csr.parse_csr` does: Rejection.

    Of the template subject, public key and extensions are read, of these the names. Who may say raVerified is the caller's decision.
    """
    if len(data) > MAX_CSR:
        raise bad_csr(f"it is larger than {MAX_CSR} octets")
    try:
        message = asn1.decode_der(CertReqMsg, data)
    except ValueError as error:
        raise bad_csr("it cannot be read: it is no CertReqMsg in DER (RFC 4211)") from error
    if message.reg_info is not None:
        raise bad_csr("it has regInfo; CMC has a control for that (RFC 5272 section 3.2.1.2.2)")
    try:
        signed = next(der.children(der.whole(data, der.SEQUENCE).content)).raw
        template = _template(asn1.encode_der(message.cert_req.cert_template))
        public_key = _public_key(template)
        possession, digest = _possession(message.popo, public_key, signed, legacy_digests)
        csr = assemble_csr(
            data,
            public_key=public_key,
            subject=_subject(template),
            signature_digest=digest,
            attributes=_controls(message.cert_req.controls or []),
            extensions=_extensions(template),
        )
    except der.DerError as error:
        raise bad_csr(f"it cannot be read: {error}") from error
    return CrmfMessage(message.cert_req.cert_req_id, csr, possession)


def _template(data: bytes) -> Mapping[int, der.Element]:
    """CertTemplate: number of the field -> the field, in ascending order, each once."""
    fields: dict[int, der.Element] = {}
    for element in der.children(der.whole(data, der.SEQUENCE).content):
        number = element.tag & ~_CONSTRUCTED & ~_CONTEXT_CLASS
        if not element.tag & _CONTEXT_CLASS or number > _EXTENSIONS or number <= max(fields, default=-1):
            raise der.DerError("its template has a field that is none, or fields out of order")
        fields[number] = element
    return fields


def _subject(template: Mapping[int, der.Element]) -> der.Element:
    """Name is a CHOICE, so its tag is explicit. It may be empty, but has to be there (RFC 5272)."""
    if _SUBJECT not in template:
        raise bad_csr("its template has no subject")
    return der.whole(template[_SUBJECT].content, der.SEQUENCE)


def _public_key(template: Mapping[int, der.Element]) -> PublicKey:
    if _PUBLIC_KEY not in template:
        raise bad_csr("its template has no public key")
    return load_public_key(der.encode(der.SEQUENCE, template[_PUBLIC_KEY].content))


def _extensions(template: Mapping[int, der.Element]) -> dict[str, bytes]:
    if _EXTENSIONS not in template:
        return {}
    content = template[_EXTENSIONS].content
    return read_extensions([der.Element(der.SEQUENCE, b"", content)])


def _controls(controls: list[AttributeTypeAndValue]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for control in controls:
        name = control.type.dotted_string
        if name == _ARCHIVE_OPTIONS:
            raise bad_csr("it asks to archive its private key, which is not done here")
        if name not in _CONTROLS:
            raise bad_csr(f"its control {name} is unknown")
        if name in found:
            raise bad_csr(f"its control {name} stands in it twice")
        found[name] = der.encode(der.SET, asn1.encode_der(control.value))
    return found


def _possession(
    popo: ProofOfPossession | None, key: PublicKey, signed: bytes, legacy: Collection[str]
) -> tuple[Possession, str]:
    """The proof and the digest that it uses ("" without a signature)."""
    if popo is None:
        return Possession.TO_BE_PROVED, ""
    match popo.value:
        case asn1.Null():
            return Possession.BY_AGENT, ""
        case POPOSigningKey() as proof:
            return Possession.PROVED, _verify(proof, key, signed, legacy)
        case asn1.TLV() as method:
            _check_method(method)
            return Possession.TO_BE_PROVED, ""
        case _:
            assert_never(popo.value)


def _verify(proof: POPOSigningKey, key: PublicKey, signed: bytes, legacy: Collection[str]) -> str:
    if proof.poposk_input is not None:
        raise bad_csr("its signature is over a POPOSigningKeyInput; sign the CertRequest (RFC 5272 section 3.2.1.2.2)")
    if proof.signature.padding_bits():
        raise der.DerError("it has a bit string that is no whole number of octets")
    algorithm = der.whole(asn1.encode_der(proof.algorithm_identifier), der.SEQUENCE)
    return verify_signature(key, algorithm, proof.signature.as_bytes(), signed, legacy)


def _check_method(method: asn1.TLV) -> None:
    """POPOPrivKey (§4.2, §4.3): only challengeResp may be used with CMC."""
    element = der.read(asn1.encode_der(method))[0]
    alternative = element.tag & ~_CONSTRUCTED & ~_CONTEXT_CLASS
    if alternative in _POSSESSION_BY_OTHER_MEANS:
        raise bad_csr(f"it proves possession by {_POSSESSION_BY_OTHER_MEANS[alternative]}; ask for a challenge (challengeResp)")
    if alternative != _SUBSEQUENT_MESSAGE or element.content != bytes((_CHALLENGE_RESP,)):
        raise bad_csr("it proves possession by an encrypted certificate (encrCert) or in a way that RFC 5272 does not have")
