"""The structures of CMC (RFC 5272, RFC 6402) as they are written: `cryptography.hazmat.asn1` reads and writes them in strict DER.

Nothing but `est.cmc` sees these classes. OPTIONAL of ANY and whole OPTIONAL Names are lists of elements here, for the library has no
optional TLV; a Name is a SEQUENCE OF anyway.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from cryptography import x509
from cryptography.hazmat import asn1

from est.cmc.messages import CmcRefusal, FailInfo
from pki.crmf import CertReqMsg

_T = TypeVar("_T")


@asn1.sequence
class TaggedAttribute:
    body_part_id: int
    attr_type: x509.ObjectIdentifier
    attr_values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class TaggedCertificationRequest:
    body_part_id: int
    certification_request: asn1.TLV


@asn1.sequence
class OtherReqMsg:
    body_part_id: int
    request_message_type: x509.ObjectIdentifier
    request_message_value: asn1.TLV


TaggedRequest = (
    Annotated[TaggedCertificationRequest, asn1.Implicit(0)]
    | Annotated[CertReqMsg, asn1.Implicit(1)]
    | Annotated[OtherReqMsg, asn1.Implicit(2)]
)


@asn1.sequence
class OneRequest:
    """A TaggedRequest by itself: the library reads and writes no CHOICE outside of a SEQUENCE."""

    request: TaggedRequest


@asn1.sequence
class TaggedContentInfo:
    body_part_id: int
    content_info: asn1.TLV


@asn1.sequence
class OtherMsg:
    body_part_id: int
    other_msg_type: x509.ObjectIdentifier
    other_msg_value: asn1.TLV


@asn1.sequence
class PKIData:
    control_sequence: list[TaggedAttribute]
    req_sequence: list[TaggedRequest]
    cms_sequence: list[TaggedContentInfo]
    other_msg_sequence: list[OtherMsg]


@asn1.sequence
class PKIResponse:
    control_sequence: list[TaggedAttribute]
    cms_sequence: list[TaggedContentInfo]
    other_msg_sequence: list[OtherMsg]


def decode(structure: type[_T], der: bytes, name: str) -> _T:
    """Raises CmcRefusal(BAD_REQUEST), which names the structure."""
    try:
        return asn1.decode_der(structure, der)
    except ValueError as error:
        raise CmcRefusal(FailInfo.BAD_REQUEST, f"{name} cannot be read: it is not the DER of RFC 5272") from error


def tlv(der: bytes) -> asn1.TLV:
    """One element of ours."""
    return asn1.decode_der(asn1.TLV, der)


def raw(element: asn1.TLV) -> bytes:
    return asn1.encode_der(element)
