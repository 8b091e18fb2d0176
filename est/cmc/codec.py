"""PKIData and PKIResponse (RFC 5272 §3.2): octets to values and back. Pure.

Clients send BER, and sign it: so the structure is normalised before it is read, and what a proof covers is cut from the octets
as they were sent. Fuzz invariant: `parse_pki_data(x)` is a value or a CmcRefusal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

from cryptography import x509
from cryptography.hazmat import asn1

from est.cmc import types
from est.cmc.messages import (
    CertRequest,
    CmcRefusal,
    Control,
    CrmfRequest,
    FailInfo,
    OtherMessage,
    OtherRequest,
    Pkcs10Request,
    PkiData,
    PkiResponse,
)
from pki import der
from pki.cms.ber import children_as_sent, normalise
from pki.cms.errors import CmsError
from pki.crmf import CertReqMsg

MAX_BODY_PART = 4294967295  # bodyIdMax
MAX_REQUESTS = 100  # certification requests in one PKIData
MAX_BODY_PARTS = 1000  # controls, requests, content infos and other messages together
MAX_ELEMENTS = 16384  # MAX_REQUESTS of them have about 6,000; each costs about 4 µs


def parse_pki_data(data: bytes) -> PkiData:
    """PKIData (§3.2.1), BER or DER. Raises CmcRefusal(BAD_REQUEST); nothing of what was sent is in its text."""
    structure = types.decode(types.PKIData, _normalised(data), "the PKIData")
    if len(structure.req_sequence) > MAX_REQUESTS:
        raise _bad(f"a PKIData has at most {MAX_REQUESTS} certification requests here")
    requests = tuple(_request(request) for request in structure.req_sequence)
    _check_body_parts(
        [
            *(control.body_part_id for control in structure.control_sequence),
            *(request.body_part for request in requests),
            *(content.body_part_id for content in structure.cms_sequence),
            *(other.body_part_id for other in structure.other_msg_sequence),
        ]
    )
    return PkiData(
        controls=_controls(structure.control_sequence),
        requests=requests,
        content_infos=_content_infos(structure.cms_sequence),
        other_messages=_other_messages(structure.other_msg_sequence),
        request_sequence=children_as_sent(data)[1],
    )


def parse_response(data: bytes) -> PkiResponse:
    """PKIResponse (§4.2.1). Raises CmcRefusal(BAD_REQUEST)."""
    structure = types.decode(types.PKIResponse, _normalised(data), "the PKIResponse")
    _check_body_parts(
        [
            *(control.body_part_id for control in structure.control_sequence),
            *(content.body_part_id for content in structure.cms_sequence),
            *(other.body_part_id for other in structure.other_msg_sequence),
        ]
    )
    return PkiResponse(controls=_controls(structure.control_sequence), content_infos=_content_infos(structure.cms_sequence))


def encode_pki_data(data: PkiData) -> bytes:
    """What a client sends, DER. `request_sequence` of the value is not looked at."""
    return asn1.encode_der(
        types.PKIData(
            control_sequence=_tagged_attributes(data.controls),
            req_sequence=[_tagged_request(request) for request in data.requests],
            cms_sequence=_tagged_content_infos(data.content_infos),
            other_msg_sequence=[
                types.OtherMsg(
                    body_part_id=other.body_part,
                    other_msg_type=x509.ObjectIdentifier(other.type),
                    other_msg_value=types.tlv(other.value),
                )
                for other in data.other_messages
            ],
        )
    )


def encode_response(response: PkiResponse) -> bytes:
    """PKIResponse, DER: the content of a SignedData of type id-cct-PKIResponse. Controls keep their order."""
    return asn1.encode_der(
        types.PKIResponse(
            control_sequence=_tagged_attributes(response.controls),
            cms_sequence=_tagged_content_infos(response.content_infos),
            other_msg_sequence=[],
        )
    )


def encode_request(request: CertRequest) -> bytes:
    """TaggedRequest, DER."""
    return der.whole(asn1.encode_der(types.OneRequest(request=_tagged_request(request))), der.SEQUENCE).content


def parse_request(data: bytes) -> CertRequest:
    """TaggedRequest, DER. Raises CmcRefusal(BAD_REQUEST)."""
    return _request(types.decode(types.OneRequest, der.encode(der.SEQUENCE, data), "the TaggedRequest").request)


def _bad(text: str) -> CmcRefusal:
    return CmcRefusal(FailInfo.BAD_REQUEST, text)


def _normalised(data: bytes) -> bytes:
    try:
        return normalise(data, max_elements=MAX_ELEMENTS)
    except CmsError as error:
        raise _bad(f"the content cannot be read: {error.detail}") from error


def _check_body_parts(ids: Sequence[int]) -> None:
    """§3.2.2: unique in its PKIData; 0 is the PKIData itself."""
    if len(ids) > MAX_BODY_PARTS:
        raise _bad(f"a message has at most {MAX_BODY_PARTS} body parts here")
    if not all(0 < body_part <= MAX_BODY_PART for body_part in ids):
        raise _bad(f"every bodyPartID is a number from 1 to {MAX_BODY_PART}")
    if len(set(ids)) != len(ids):
        raise _bad("every bodyPartID must be there once")


def _controls(attributes: Iterable[types.TaggedAttribute]) -> tuple[Control, ...]:
    return tuple(
        Control(
            attribute.body_part_id,
            attribute.attr_type.dotted_string,
            tuple(map(types.raw, attribute.attr_values.as_list())),
        )
        for attribute in attributes
    )


def _tagged_attributes(controls: Iterable[Control]) -> list[types.TaggedAttribute]:
    return [
        types.TaggedAttribute(
            body_part_id=control.body_part,
            attr_type=x509.ObjectIdentifier(control.type),
            attr_values=asn1.SetOf([types.tlv(value) for value in control.values]),
        )
        for control in controls
    ]


def _request(
    request: types.TaggedCertificationRequest | CertReqMsg | types.OtherReqMsg,
) -> CertRequest:
    match request:
        case types.TaggedCertificationRequest():
            return Pkcs10Request(request.body_part_id, types.raw(request.certification_request))
        case CertReqMsg():
            return CrmfRequest(request.cert_req.cert_req_id, asn1.encode_der(request))
        case types.OtherReqMsg():
            return OtherRequest(
                request.body_part_id, request.request_message_type.dotted_string, types.raw(request.request_message_value)
            )
        case _:
            assert_never(request)


def _tagged_request(
    request: CertRequest,
) -> types.TaggedCertificationRequest | CertReqMsg | types.OtherReqMsg:
    match request:
        case Pkcs10Request(body_part, encoded):
            return types.TaggedCertificationRequest(body_part_id=body_part, certification_request=types.tlv(encoded))
        case CrmfRequest(_, encoded):
            return asn1.decode_der(CertReqMsg, encoded)
        case OtherRequest(body_part, kind, value):
            return types.OtherReqMsg(
                body_part_id=body_part,
                request_message_type=x509.ObjectIdentifier(kind),
                request_message_value=types.tlv(value),
            )
        case _:
            assert_never(request)


def _content_infos(contents: Iterable[types.TaggedContentInfo]) -> tuple[tuple[int, bytes], ...]:
    return tuple((content.body_part_id, types.raw(content.content_info)) for content in contents)


def _tagged_content_infos(contents: Iterable[tuple[int, bytes]]) -> list[types.TaggedContentInfo]:
    return [types.TaggedContentInfo(body_part_id=body_part, content_info=types.tlv(encoded)) for body_part, encoded in contents]


def _other_messages(messages: Iterable[types.OtherMsg]) -> tuple[OtherMessage, ...]:
    return tuple(
        OtherMessage(other.body_part_id, other.other_msg_type.dotted_string, types.raw(other.other_msg_value))
        for other in messages
    )
