"""Controls (RFC 5272 §6, RFC 6402): the one value of each from octets to a frozen value, and back. Pure.

`read` gives one of the closed union `Value`, or `Unknown` for what nobody here reads. ENUMERATED and an OPTIONAL CHOICE of implicit
tags are more than `cryptography.hazmat.asn1` can say: those few fields are read and written one by one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from cryptography import x509
from cryptography.hazmat import asn1

from est.cmc import types
from est.cmc.codec import MAX_BODY_PART, encode_request, parse_request
from est.cmc.messages import CmcRefusal, Control, FailInfo, PendInfo, Status, StatusInfo
from est.cmc.values import (
    BatchRequests,
    BatchResponses,
    ConfirmCertAcceptance,
    DataReturn,
    DecryptedPop,
    EncryptedPop,
    GetCert,
    GetCrl,
    Identification,
    IdentityProof,
    IdentityProofV2,
    LraPopWitness,
    Octets,
    PopLinkRandom,
    PopLinkWitness,
    PopLinkWitnessV2,
    QueryPending,
    RecipientNonce,
    RegInfo,
    ResponseInfo,
    RevokeRequest,
    SenderNonce,
    TransactionId,
    Unknown,
    Value,
    Witness,
)
from pki import der
from pki.cms.errors import CmsError
from pki.cms.fields import Fields, integer, octet_string, only, read_integer, sequence, tlv, utf8_string
from pki.cms.types import Digest
from pki.reasons import RevocationReason

_T = TypeVar("_T")

MAX_INTEGER_BITS = 512  # of transaction identifiers and serial numbers

_CMC = "1.3.6.1.5.5.7.7."  # id-cmc
# Every control of RFC 5272 and RFC 6402, for texts: a control is known by name even where it is not served.
NAMES: Mapping[str, str] = MappingProxyType(
    {
        f"{_CMC}{number}": name
        for number, name in {
            1: "statusInfo",
            2: "identification",
            3: "identityProof",
            4: "dataReturn",
            5: "transactionId",
            6: "senderNonce",
            7: "recipientNonce",
            8: "addExtensions",
            9: "encryptedPOP",
            10: "decryptedPOP",
            11: "lraPOPWitness",
            15: "getCert",
            16: "getCRL",
            17: "revokeRequest",
            18: "regInfo",
            19: "responseInfo",
            21: "queryPending",
            22: "popLinkRandom",
            23: "popLinkWitness",
            24: "confirmCertAcceptance",
            25: "statusInfoV2",
            26: "trustedAnchors",
            27: "authData",
            28: "batchRequests",
            29: "batchResponses",
            30: "publishCert",
            31: "modCertTemplate",
            32: "controlProcessed",
            33: "popLinkWitnessV2",
            34: "identityProofV2",
            35: "raIdentityWitness",
            36: "changeSubjectName",
            37: "responseBody",
        }.items()
    }
)

_SHA1_OF_RFC_2797 = "1.3.6.1.5.5.8.1.2"  # HMAC-SHA1 as it was named before
_HASHES = {
    Digest.SHA1: "1.3.14.3.2.26",
    Digest.SHA256: "2.16.840.1.101.3.4.2.1",
    Digest.SHA384: "2.16.840.1.101.3.4.2.2",
    Digest.SHA512: "2.16.840.1.101.3.4.2.3",
}
_MACS = {  # HMAC (RFC 2104) by its digest: RFC 8018 Appendix B.1.2
    Digest.SHA1: "1.2.840.113549.2.7",
    Digest.SHA256: "1.2.840.113549.2.9",
    Digest.SHA384: "1.2.840.113549.2.10",
    Digest.SHA512: "1.2.840.113549.2.11",
}
_DIGEST_OF_HASH = {identifier: digest for digest, identifier in _HASHES.items()}
_DIGEST_OF_MAC = {identifier: digest for digest, identifier in _MACS.items()} | {_SHA1_OF_RFC_2797: Digest.SHA1}

_ENUMERATED = 0x0A
_DIRECTORY_NAME = 0xA4
_GENERAL_NAMES = (0xA0, 0x81, 0x82, 0xA3, 0xA4, 0xA5, 0x86, 0x87, 0x88)
_GENERALIZED_TIME = 0x18


def read(control: Control) -> Value | Unknown:
    """Raises CmcRefusal: BAD_REQUEST, BAD_ALG; it names the control and its body part, and nothing of what it holds."""
    kind = _BY_TYPE.get(control.type)
    if kind is None:
        return Unknown(control.type, NAMES.get(control.type, control.type))
    name = NAMES[control.type]
    if len(control.values) != 1:
        raise CmcRefusal(FailInfo.BAD_REQUEST, f"{name} must have one value", body_parts=(control.body_part,))
    try:
        value: Value = kind.parse(control.values[0], name)
    except CmcRefusal as refusal:
        raise CmcRefusal(refusal.fail_info, refusal.text, body_parts=(control.body_part,)) from refusal
    return value


def write(body_part: int, value: Value) -> Control:
    kind = _BY_CLASS[type(value)]
    return Control(body_part, kind.identifier, (kind.encode(value),))


def read_pop_link_witness(data: bytes) -> PopLinkWitnessV2:
    """The value of the attribute or CRMF control of that type in a certification request, DER. Raises CmcRefusal."""
    return _witness(PopLinkWitnessV2)(data, "popLinkWitnessV2")


def _bad(name: str) -> CmcRefusal:
    return CmcRefusal(FailInfo.BAD_REQUEST, f"{name} cannot be read: it is not the DER of RFC 5272")


def _transaction_id(data: bytes, name: str) -> TransactionId:
    return TransactionId(_bounded(types.decode(int, data, name), name))


def _bounded(number: int, name: str) -> int:
    if number.bit_length() > MAX_INTEGER_BITS:
        raise CmcRefusal(FailInfo.BAD_REQUEST, f"{name} holds a number of more than {MAX_INTEGER_BITS} bits")
    return number


def _body_part(number: int, name: str) -> int:
    if not 0 <= number <= MAX_BODY_PART:
        raise CmcRefusal(FailInfo.BAD_REQUEST, f"{name} refers to a bodyPartID that is none")
    return number


def _octets(kind: type[_T]) -> Callable[[bytes, str], _T]:
    def parse(data: bytes, name: str) -> _T:
        return kind(types.decode(bytes, data, name))  # type: ignore[call-arg]  # every kind is an Octets

    return parse


def _identification(data: bytes, name: str) -> Identification:
    return Identification(types.decode(str, data, name))


def _algorithm(identifier: types.AlgorithmIdentifier, known: Mapping[str, Digest], name: str, what: str) -> Digest:
    digest = known.get(identifier.algorithm.dotted_string)
    if digest is None:
        text = f"the {what} algorithm {identifier.algorithm.dotted_string} of {name} is not supported; use SHA-256"
        raise CmcRefusal(FailInfo.BAD_ALG, text)
    return digest


def _hash_identifier(digest: Digest) -> types.AlgorithmIdentifier:
    """Without parameters (RFC 5754 §2)."""
    return types.AlgorithmIdentifier(algorithm=x509.ObjectIdentifier(_HASHES[digest]), parameters=None)


def _mac_identifier(digest: Digest) -> types.AlgorithmIdentifier:
    """With NULL (RFC 8018 Appendix B.1.2)."""
    return types.AlgorithmIdentifier(algorithm=x509.ObjectIdentifier(_MACS[digest]), parameters=asn1.Null())


def _witness(kind: type[_T]) -> Callable[[bytes, str], _T]:
    def parse(data: bytes, name: str) -> _T:
        value = types.decode(types.KeyedWitness, data, name)
        return kind(  # type: ignore[call-arg]  # every kind is a Witness
            digest=_algorithm(value.hash_algorithm, _DIGEST_OF_HASH, name, "hash"),
            mac=_algorithm(value.mac_algorithm, _DIGEST_OF_MAC, name, "MAC"),
            witness=value.witness,
        )

    return parse


def encode_witness(value: Witness) -> bytes:
    return asn1.encode_der(
        types.KeyedWitness(
            hash_algorithm=_hash_identifier(value.digest), mac_algorithm=_mac_identifier(value.mac), witness=value.witness
        )
    )


def _encrypted_pop(data: bytes, name: str) -> EncryptedPop:
    value = types.decode(types.EncryptedPOP, data, name)
    request = next(der.children(der.whole(data, der.SEQUENCE).content))
    return EncryptedPop(
        request=parse_request(request.raw),
        envelope=types.raw(value.cms),
        mac=_algorithm(value.the_pop_alg_id, _DIGEST_OF_MAC, name, "MAC"),
        digest=_algorithm(value.witness_alg_id, _DIGEST_OF_HASH, name, "hash"),
        witness=value.witness,
    )


def _encode_encrypted_pop(value: EncryptedPop) -> bytes:
    return sequence(
        encode_request(value.request),
        value.envelope,
        asn1.encode_der(_mac_identifier(value.mac)),
        asn1.encode_der(_hash_identifier(value.digest)),
        octet_string(value.witness),
    )


def _decrypted_pop(data: bytes, name: str) -> DecryptedPop:
    value = types.decode(types.DecryptedPOP, data, name)
    part = _body_part(value.body_part_id, name)
    return DecryptedPop(part, _algorithm(value.the_pop_alg_id, _DIGEST_OF_MAC, name, "MAC"), value.the_pop)


def _encode_decrypted_pop(value: DecryptedPop) -> bytes:
    return asn1.encode_der(
        types.DecryptedPOP(body_part_id=value.body_part, the_pop_alg_id=_mac_identifier(value.mac), the_pop=value.proof)
    )


def _lra_pop_witness(data: bytes, name: str) -> LraPopWitness:
    value = types.decode(types.LraPopWitness, data, name)
    return LraPopWitness(_body_part(value.pki_data_bodyid, name), tuple(_body_part(part, name) for part in value.body_ids))


def _encode_lra_pop_witness(value: LraPopWitness) -> bytes:
    return asn1.encode_der(types.LraPopWitness(pki_data_bodyid=value.pki_data, body_ids=list(value.requests)))


def _name(element: asn1.TLV, name: str) -> bytes:
    encoded = types.raw(element)
    if encoded[0] != der.SEQUENCE:
        raise _bad(name)
    return encoded


def _get_cert(data: bytes, name: str) -> GetCert:
    value = types.decode(types.GetCert, data, name)
    issuer = der.read(types.raw(value.issuer_name))[0]
    if issuer.tag != _DIRECTORY_NAME:
        raise CmcRefusal(FailInfo.BAD_REQUEST, f"the issuer of {name} must be a directoryName")
    return GetCert(_name(types.decode(asn1.TLV, issuer.content, name), name), _bounded(value.serial_number, name))


def _encode_get_cert(value: GetCert) -> bytes:
    return sequence(tlv(_DIRECTORY_NAME, value.issuer), integer(value.serial))


def _get_crl(data: bytes, name: str) -> GetCrl:
    try:
        fields = Fields(only(data, der.SEQUENCE, name).content, name)
        issuer = fields.take(der.SEQUENCE).raw
        crl_name = fields.maybe(*_GENERAL_NAMES)
        time = fields.maybe(_GENERALIZED_TIME)
        reasons = fields.maybe(der.BIT_STRING)
        fields.end()
    except CmsError as error:
        raise _bad(name) from error
    return GetCrl(
        issuer=issuer,
        name=None if crl_name is None else crl_name.raw,
        at=None if time is None else _seconds(types.decode(asn1.GeneralizedTime, time.raw, name)),
        reasons=None if reasons is None else reasons.content,
    )


def _encode_get_crl(value: GetCrl) -> bytes:
    return sequence(
        value.issuer,
        value.name or b"",
        b"" if value.at is None else asn1.encode_der(_time(value.at)),
        b"" if value.reasons is None else tlv(der.BIT_STRING, value.reasons),
    )


def _seconds(time: asn1.GeneralizedTime) -> int:
    return int(time.as_datetime().timestamp())


def _time(seconds: int) -> asn1.GeneralizedTime:
    return asn1.GeneralizedTime(dt.datetime.fromtimestamp(seconds, dt.UTC))


def _revoke_request(data: bytes, name: str) -> RevokeRequest:
    value = types.decode(types.RevokeRequest, data, name)
    reason = der.read(types.raw(value.reason))[0]
    if reason.tag != _ENUMERATED:
        raise _bad(name)
    try:
        why = RevocationReason(read_integer(reason.content))
    except ValueError:
        raise CmcRefusal(FailInfo.BAD_REQUEST, f"the reason of {name} is not one of RFC 5280 section 5.3.1") from None
    return RevokeRequest(
        issuer=_name(value.issuer_name, name),
        serial=_bounded(value.serial_number, name),
        reason=why,
        invalid_since=None if value.invalidity_date is None else _seconds(value.invalidity_date),
        passphrase=value.passphrase,
        comment=value.comment or "",
    )


def _encode_revoke_request(value: RevokeRequest) -> bytes:
    return sequence(
        value.issuer,
        integer(value.serial),
        tlv(_ENUMERATED, bytes((value.reason,))),
        b"" if value.invalid_since is None else asn1.encode_der(_time(value.invalid_since)),
        b"" if value.passphrase is None else octet_string(value.passphrase),
        utf8_string(value.comment) if value.comment else b"",
    )


def _confirmation(data: bytes, name: str) -> ConfirmCertAcceptance:
    value = types.decode(types.IssuerAndSerialNumber, data, name)
    return ConfirmCertAcceptance(_name(value.issuer, name), _bounded(value.serial_number, name))


def _encode_confirmation(value: ConfirmCertAcceptance) -> bytes:
    return sequence(value.issuer, integer(value.serial))


def _body_parts(data: bytes, name: str) -> tuple[int, ...]:
    return tuple(types.decode(types.BodyPartList, sequence(data), name).ids)


def _encode_body_parts(value: BatchRequests | BatchResponses) -> bytes:
    return sequence(*map(integer, value.body_parts))


def _status(data: bytes, name: str) -> StatusInfo:
    value = types.decode(types.CMCStatusInfoV2, data, name)
    return _status_info(
        value.cmc_status,
        tuple(part for part in value.body_list if isinstance(part, int)),
        value.status_string,
        value.other_info,
        name,
        paths=tuple(_body_parts(types.raw(part), name) for part in value.body_list if not isinstance(part, int)),
    )


def _old_status(data: bytes, name: str) -> StatusInfo:
    value = types.decode(types.CMCStatusInfo, data, name)
    return _status_info(value.cmc_status, tuple(value.body_list), value.status_string, value.other_info, name)


def _status_info(
    status: int,
    body_parts: tuple[int, ...],
    text: str | None,
    other: int | types.PendInfo | types.ExtendedFailInfo | None,
    name: str,
    *,
    paths: tuple[tuple[int, ...], ...] = (),
) -> StatusInfo:
    pend_info = PendInfo(other.pend_token, _seconds(other.pend_time)) if isinstance(other, types.PendInfo) else None
    extended = None
    if isinstance(other, types.ExtendedFailInfo):
        extended = (other.fail_info_oid.dotted_string, types.raw(other.fail_info_value))
    try:
        return StatusInfo(
            status=Status(status),
            body_parts=() if body_parts == (0,) else body_parts,
            text=text or "",
            fail_info=FailInfo(other) if isinstance(other, int) else None,
            pend_info=pend_info,
            extended_fail_info=extended,
            paths=paths,
        )
    except ValueError as error:
        raise CmcRefusal(FailInfo.BAD_REQUEST, f"{name} has a status or failInfo that is not one of RFC 5272") from error


def _encode_status(value: StatusInfo) -> bytes:
    """The bodyList is SIZE (1..MAX): 0 stands for the whole PKIData."""
    paths = [types.tlv(sequence(*map(integer, path))) for path in value.paths]
    ids: list[int] = [int(part) for part in value.body_parts] or ([] if paths else [0])
    return asn1.encode_der(
        types.CMCStatusInfoV2(
            cmc_status=int(value.status),
            body_list=[*ids, *paths],
            status_string=value.text or None,
            other_info=_other_info(value),
        )
    )


def _other_info(value: StatusInfo) -> int | types.PendInfo | types.ExtendedFailInfo | None:
    if value.fail_info is not None:
        return int(value.fail_info)
    if value.pend_info is not None:
        return types.PendInfo(pend_token=value.pend_info.token, pend_time=_time(value.pend_info.at))
    if value.extended_fail_info is not None:
        kind, encoded = value.extended_fail_info
        return types.ExtendedFailInfo(fail_info_oid=x509.ObjectIdentifier(kind), fail_info_value=types.tlv(encoded))
    return None


@dataclass(frozen=True, slots=True)
class _Kind(Generic[_T]):
    identifier: str
    value: type[_T]
    parse: Callable[[bytes, str], _T]
    encode: Callable[[_T], bytes]


def _octets_kind(number: int, value: type[Octets]) -> _Kind[Any]:
    return _Kind(f"{_CMC}{number}", value, _octets(value), lambda value: octet_string(value.octets))


_OLD_STATUS: _Kind[Any] = _Kind(f"{_CMC}1", StatusInfo, _old_status, _encode_status)  # §6.1.2; read, and never written
_KINDS: tuple[_Kind[Any], ...] = (
    _Kind(f"{_CMC}2", Identification, _identification, lambda value: utf8_string(value.name)),
    _octets_kind(3, IdentityProof),
    _octets_kind(4, DataReturn),
    _Kind(f"{_CMC}5", TransactionId, _transaction_id, lambda value: integer(value.number)),
    _octets_kind(6, SenderNonce),
    _octets_kind(7, RecipientNonce),
    _Kind(f"{_CMC}9", EncryptedPop, _encrypted_pop, _encode_encrypted_pop),
    _Kind(f"{_CMC}10", DecryptedPop, _decrypted_pop, _encode_decrypted_pop),
    _Kind(f"{_CMC}11", LraPopWitness, _lra_pop_witness, _encode_lra_pop_witness),
    _Kind(f"{_CMC}15", GetCert, _get_cert, _encode_get_cert),
    _Kind(f"{_CMC}16", GetCrl, _get_crl, _encode_get_crl),
    _Kind(f"{_CMC}17", RevokeRequest, _revoke_request, _encode_revoke_request),
    _octets_kind(18, RegInfo),
    _octets_kind(19, ResponseInfo),
    _octets_kind(21, QueryPending),
    _octets_kind(22, PopLinkRandom),
    _octets_kind(23, PopLinkWitness),
    _Kind(f"{_CMC}24", ConfirmCertAcceptance, _confirmation, _encode_confirmation),
    _Kind(f"{_CMC}25", StatusInfo, _status, _encode_status),
    _Kind(f"{_CMC}28", BatchRequests, lambda data, name: BatchRequests(_body_parts(data, name)), _encode_body_parts),
    _Kind(f"{_CMC}29", BatchResponses, lambda data, name: BatchResponses(_body_parts(data, name)), _encode_body_parts),
    _Kind(f"{_CMC}33", PopLinkWitnessV2, _witness(PopLinkWitnessV2), encode_witness),
    _Kind(f"{_CMC}34", IdentityProofV2, _witness(IdentityProofV2), encode_witness),
)
_BY_TYPE = {kind.identifier: kind for kind in (_OLD_STATUS, *_KINDS)}
_BY_CLASS = {kind.value: kind for kind in _KINDS}
