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


@asn1.sequence
class AlgorithmIdentifier:
    """Of digests and MACs, which have no parameters or NULL."""

    algorithm: x509.ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class PendInfo:
    pend_token: bytes
    pend_time: asn1.GeneralizedTime


@asn1.sequence
class ExtendedFailInfo:
    fail_info_oid: x509.ObjectIdentifier
    fail_info_value: asn1.TLV


@asn1.sequence
class CMCStatusInfoV2:
    cmc_status: int
    body_list: list[int | asn1.TLV]  # BodyPartReference; the other alternative is a BodyPartPath
    status_string: str | None
    other_info: int | PendInfo | Annotated[ExtendedFailInfo, asn1.Implicit(1)] | None


@asn1.sequence
class CMCStatusInfo:
    cmc_status: int
    body_list: list[int]
    status_string: str | None
    other_info: int | PendInfo | None


@asn1.sequence
class BodyPartList:
    """SEQUENCE OF BodyPartID, in the one field of a SEQUENCE of ours: the library reads and writes no list by itself."""

    ids: list[int]


@asn1.sequence
class LraPopWitness:
    pki_data_bodyid: int
    body_ids: list[int]


@asn1.sequence
class KeyedWitness:
    """IdentityProofV2 (§6.2.1) and PopLinkWitnessV2 (§6.3.1.1)."""

    hash_algorithm: AlgorithmIdentifier
    mac_algorithm: AlgorithmIdentifier
    witness: bytes


@asn1.sequence
class EncryptedPOP:
    request: TaggedRequest
    cms: asn1.TLV
    the_pop_alg_id: AlgorithmIdentifier
    witness_alg_id: AlgorithmIdentifier
    witness: bytes


@asn1.sequence
class DecryptedPOP:
    body_part_id: int
    the_pop_alg_id: AlgorithmIdentifier
    the_pop: bytes


@asn1.sequence
class GetCert:
    issuer_name: asn1.TLV  # GeneralName
    serial_number: int


@asn1.sequence
class RevokeRequest:
    issuer_name: asn1.TLV  # Name
    serial_number: int
    reason: asn1.TLV  # ENUMERATED, which the library does not have
    invalidity_date: asn1.GeneralizedTime | None
    passphrase: bytes | None
    comment: str | None


@asn1.sequence
class IssuerAndSerialNumber:
    issuer: asn1.TLV  # Name
    serial_number: int


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
