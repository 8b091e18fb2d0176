"""Controls (RFC 5272 §6, RFC 6402): each as another implementation writes and reads it, and what is none is refused by name."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1.type import char, univ
from pyasn1_alt_modules import rfc5652, rfc6402

from est.cmc.codec import encode_request
from est.cmc.controls import MAX_INTEGER_BITS, NAMES, read, write
from est.cmc.messages import CmcRefusal, Control, FailInfo, PendInfo, Pkcs10Request, Status, StatusInfo
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
)
from pki.cms.fields import integer, null, octet_string, oid, sequence, tlv, utf8_string
from pki.cms.types import Digest
from pki.reasons import RevocationReason
from tests.helpers.ca import make_csr

CMC = "1.3.6.1.5.5.7.7."
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Issuing CA")]).public_bytes()
ISSUED = int(dt.datetime(2026, 3, 4, 5, 6, 7, tzinfo=dt.UTC).timestamp())
CONTENT = sequence(oid("1.2.840.113549.1.7.1"), tlv(0xA0, octet_string(b"enveloped")))
PROOF = IdentityProofV2(Digest.SHA256, Digest.SHA512, b"witness")
REQUEST = Pkcs10Request(4, make_csr("a.example.com"))


def body_part_list() -> Any:
    return univ.SequenceOf(componentType=rfc6402.BodyPartID())


CASES: list[tuple[int, Value, Any]] = [
    (2, Identification("gerät-1"), char.UTF8String()),
    (3, IdentityProof(b"proof"), univ.OctetString()),
    (4, DataReturn(b"\0back"), univ.OctetString()),
    (5, TransactionId(10132985123483401), univ.Integer()),
    (6, SenderNonce(b"10001"), univ.OctetString()),
    (7, RecipientNonce(b"10001"), univ.OctetString()),
    (9, EncryptedPop(REQUEST, CONTENT, Digest.SHA256, Digest.SHA256, b"witness"), rfc6402.EncryptedPOP()),
    (10, DecryptedPop(201, Digest.SHA384, b"proof"), rfc6402.DecryptedPOP()),
    (11, LraPopWitness(0, (201, 202)), rfc6402.LraPopWitness()),
    (15, GetCert(NAME, 2**159 + 1), rfc6402.GetCert()),
    (16, GetCrl(NAME), rfc6402.GetCRL()),
    (16, GetCrl(NAME, tlv(0x86, b"http://crl.example.com"), ISSUED, b"\x01\x06"), rfc6402.GetCRL()),
    (17, RevokeRequest(NAME, 77, RevocationReason.KEY_COMPROMISE), rfc6402.RevokeRequest()),
    (17, RevokeRequest(NAME, 1, RevocationReason.SUPERSEDED, ISSUED, b"secret", "why"), rfc6402.RevokeRequest()),
    (18, RegInfo(b"between us"), univ.OctetString()),
    (19, ResponseInfo(b"between us"), univ.OctetString()),
    (21, QueryPending(b"token"), univ.OctetString()),
    (22, PopLinkRandom(b"r" * 64), univ.OctetString()),
    (23, PopLinkWitness(b"old"), univ.OctetString()),
    (24, ConfirmCertAcceptance(NAME, 5), rfc5652.IssuerAndSerialNumber()),
    (25, StatusInfo(Status.SUCCESS, (201,)), rfc6402.CMCStatusInfoV2()),
    (25, StatusInfo(Status.FAILED, (1, 2), "no", FailInfo.NO_KEY_REUSE), rfc6402.CMCStatusInfoV2()),
    (25, StatusInfo(Status.PENDING, (), "soon", pend_info=PendInfo(b"token", ISSUED)), rfc6402.CMCStatusInfoV2()),
    (25, StatusInfo(Status.FAILED, (3,), extended_fail_info=("1.2.3", null())), rfc6402.CMCStatusInfoV2()),
    (25, StatusInfo(Status.PARTIAL, (3,), paths=((1, 2), (4,))), rfc6402.CMCStatusInfoV2()),
    (28, BatchRequests((3, 2, 1)), body_part_list()),
    (29, BatchResponses((9,)), body_part_list()),
    (33, PopLinkWitnessV2(Digest.SHA512, Digest.SHA256, b"witness"), rfc6402.PopLinkWitnessV2()),
    (34, PROOF, rfc6402.IdentifyProofV2()),
]


@pytest.mark.parametrize(("number", "value", "specification"), CASES, ids=[f"{n}-{type(v).__name__}" for n, v, _ in CASES])
def test_every_value_is_what_another_implementation_reads_and_writes_again(
    number: int, value: Value, specification: Any
) -> None:
    control = write(8, value)
    assert (control.body_part, control.type) == (8, f"{CMC}{number}")
    (encoded,) = control.values
    theirs, rest = decode(encoded, asn1Spec=specification)
    assert rest == b""
    assert encode(theirs) == encoded
    again = read(Control(3, control.type, (bytes(encode(theirs)),)))
    assert again == value
    assert type(again) is type(value)


def test_a_revocation_is_read_field_by_field_as_another_implementation_does() -> None:
    value = RevokeRequest(NAME, 1, RevocationReason.SUPERSEDED, ISSUED, b"secret", "why")
    theirs, _ = decode(write(1, value).values[0], asn1Spec=rfc6402.RevokeRequest())
    assert int(theirs["serialNumber"]) == 1
    assert str(theirs["reason"].prettyPrint()) == "superseded"
    assert str(theirs["invalidityDate"]) == "20260304050607Z"
    assert bytes(theirs["passphrase"]) == b"secret"
    assert str(theirs["comment"]) == "why"


def test_a_status_is_read_field_by_field_as_another_implementation_does() -> None:
    """§6.1.1; the whole PKIData is body part 0, since bodyList has at least one member."""
    value = StatusInfo(Status.PENDING, (), "soon", pend_info=PendInfo(b"token", ISSUED))
    theirs, _ = decode(write(1, value).values[0], asn1Spec=rfc6402.CMCStatusInfoV2())
    assert [int(part["bodyPartID"]) for part in theirs["bodyList"]] == [0]
    assert int(theirs["cMCStatus"]) == 3
    assert bytes(theirs["otherInfo"]["pendInfo"]["pendToken"]) == b"token"
    assert str(theirs["otherInfo"]["pendInfo"]["pendTime"]) == "20260304050607Z"


def test_the_status_of_rfc_2797_is_read_and_never_written() -> None:
    old = rfc6402.CMCStatusInfo()
    old["cMCStatus"] = 2
    old["bodyList"].append(7)
    old["statusString"] = "no"
    old["otherInfo"]["failInfo"] = 9
    value = read(Control(1, f"{CMC}1", (bytes(encode(old)),)))
    assert value == StatusInfo(Status.FAILED, (7,), "no", FailInfo.POP_FAILED)
    assert isinstance(value, StatusInfo)
    assert write(1, value).type == f"{CMC}25"


def test_every_status_and_every_fail_info_is_written_by_its_number() -> None:
    for status in Status:
        theirs, _ = decode(write(1, StatusInfo(status, (1,))).values[0], asn1Spec=rfc6402.CMCStatusInfoV2())
        assert theirs["cMCStatus"].prettyPrint().lower() == status.name.replace("_", "").lower()
    for fail_info in FailInfo:
        value = StatusInfo(Status.FAILED, (1,), fail_info=fail_info)
        theirs, _ = decode(write(1, value).values[0], asn1Spec=rfc6402.CMCStatusInfoV2())
        assert theirs["otherInfo"]["failInfo"].prettyPrint().lower() == fail_info.name.replace("_", "").lower()


def test_an_encrypted_pop_has_the_request_as_it_was() -> None:
    value = EncryptedPop(REQUEST, CONTENT, Digest.SHA256, Digest.SHA256, b"witness")
    theirs, _ = decode(write(1, value).values[0], asn1Spec=rfc6402.EncryptedPOP())
    assert encode(theirs["request"]) == encode_request(REQUEST)
    assert str(theirs["thePOPAlgID"]["algorithm"]) == "1.2.840.113549.2.9"
    assert str(theirs["witnessAlgID"]["algorithm"]) == "2.16.840.1.101.3.4.2.1"


def test_all_controls_of_the_rfcs_are_known_by_name() -> None:
    theirs = {
        str(value): name.removeprefix("id_cmc_")
        for name, value in vars(rfc6402).items()
        if name.startswith("id_cmc_") and name != "id_cmc"
    }
    assert dict(NAMES) == theirs


# ---------------------------------------------------------------- algorithms


@pytest.mark.parametrize("parameters", [b"", null()], ids=["absent", "NULL"])
def test_algorithms_are_read_with_null_and_without(parameters: bytes) -> None:
    digest, mac = (sequence(oid(name), parameters) for name in ("2.16.840.1.101.3.4.2.1", "1.2.840.113549.2.11"))
    assert read(Control(1, f"{CMC}34", (sequence(digest, mac, octet_string(b"witness")),))) == PROOF


@pytest.mark.parametrize("mac", ["1.2.840.113549.2.7", "1.3.6.1.5.5.8.1.2"])
def test_sha1_is_read_so_that_it_can_be_refused_by_name(mac: str) -> None:
    value = read(Control(1, f"{CMC}34", (sequence(sequence(oid("1.3.14.3.2.26")), sequence(oid(mac)), octet_string(b"w")),)))
    assert value == IdentityProofV2(Digest.SHA1, Digest.SHA1, b"w")


@pytest.mark.parametrize("number", [33, 34])
def test_an_unknown_algorithm_is_bad_alg_and_named(number: int) -> None:
    sha3 = sequence(oid("2.16.840.1.101.3.4.2.8"))
    hmac = sequence(oid("1.2.840.113549.2.9"))
    for parts in ((sha3, hmac), (sequence(oid("2.16.840.1.101.3.4.2.1")), sha3)):
        with pytest.raises(CmcRefusal) as caught:
            read(Control(6, f"{CMC}{number}", (sequence(*parts, octet_string(b"w")),)))
        assert caught.value.fail_info is FailInfo.BAD_ALG
        assert caught.value.body_parts == (6,)
        assert "2.16.840.1.101.3.4.2.8" in caught.value.text


# ---------------------------------------------------------------- refusals


def test_a_control_that_nobody_reads_is_named() -> None:
    assert read(Control(1, f"{CMC}8", (null(),))) == Unknown(f"{CMC}8", "addExtensions")
    assert read(Control(1, "1.2.3.4", ())) == Unknown("1.2.3.4", "1.2.3.4")


@pytest.mark.parametrize("values", [(), (integer(1), integer(2))], ids=["none", "two"])
def test_a_control_has_one_value(values: tuple[bytes, ...]) -> None:
    """Two readers could take two different ones."""
    with pytest.raises(CmcRefusal, match="transactionId must have one value") as caught:
        read(Control(9, f"{CMC}5", values))
    assert caught.value.body_parts == (9,)


REVOKE = (NAME, integer(7), tlv(0x0A, b"\x01"))


@pytest.mark.parametrize(
    ("number", "value", "why"),
    [
        pytest.param(2, octet_string(b"not text"), "identification", id="another type"),
        pytest.param(2, tlv(0x0C, b"\xff"), "identification", id="not UTF-8"),
        pytest.param(5, integer(1 << MAX_INTEGER_BITS), "512 bits", id="a huge transaction"),
        pytest.param(6, octet_string(b"x") + b"\0", "senderNonce", id="more behind it"),
        pytest.param(15, sequence(tlv(0x82, b"ca.example.com"), integer(1)), "directoryName", id="an issuer by DNS name"),
        pytest.param(15, sequence(tlv(0xA4, integer(1)), integer(1)), "getCert", id="a directoryName that is none"),
        pytest.param(15, sequence(tlv(0xA4), integer(1)), "getCert", id="an empty directoryName"),
        pytest.param(15, sequence(tlv(0xA4, NAME), integer(1 << 600)), "512 bits", id="a huge serial"),
        pytest.param(16, sequence(), "getCRL", id="no issuer"),
        pytest.param(16, sequence(NAME, tlv(0x18, b"soon")), "getCRL", id="no time"),
        pytest.param(16, sequence(NAME, null()), "getCRL", id="more fields"),
        pytest.param(17, sequence(*REVOKE[:2], tlv(0x0A, b"\x07")), "RFC 5280", id="a reason that is none"),
        pytest.param(17, sequence(*REVOKE[:2], integer(1)), "revokeRequest", id="a reason of another type"),
        pytest.param(17, sequence(integer(1), *REVOKE[1:]), "revokeRequest", id="an issuer that is none"),
        pytest.param(17, sequence(*REVOKE, utf8_string("a"), octet_string(b"b")), "revokeRequest", id="out of order"),
        pytest.param(25, sequence(integer(1), sequence(integer(1))), "status", id="a reserved status"),
        pytest.param(25, sequence(integer(2), sequence(integer(1)), integer(99)), "failInfo", id="an unknown failInfo"),
        pytest.param(25, sequence(integer(0), sequence(sequence(null()))), "statusInfoV2", id="a path that is none"),
        pytest.param(28, integer(1), "batchRequests", id="no list"),
        pytest.param(28, sequence(null()), "batchRequests", id="no list of numbers"),
        pytest.param(28, sequence() + sequence(), "batchRequests", id="two lists"),
        pytest.param(9, sequence(null(), CONTENT), "encryptedPOP", id="no request"),
    ],
)
def test_what_is_no_value_of_a_control_is_refused_with_its_name_and_body_part(number: int, value: bytes, why: str) -> None:
    with pytest.raises(CmcRefusal) as caught:
        read(Control(6, f"{CMC}{number}", (value,)))
    assert caught.value.fail_info is FailInfo.BAD_REQUEST
    assert caught.value.body_parts == (6,)
    assert why in caught.value.text


def test_no_value_shows_its_secrets() -> None:
    for value in (
        IdentityProofV2(Digest.SHA256, Digest.SHA256, b"hidden"),
        PopLinkWitnessV2(Digest.SHA256, Digest.SHA256, b"hidden"),
        PopLinkRandom(b"hidden"),
        QueryPending(b"hidden"),
        DecryptedPop(1, Digest.SHA256, b"hidden"),
        RevokeRequest(NAME, 1, RevocationReason.SUPERSEDED, passphrase=b"hidden"),
    ):
        assert "hidden" not in repr(value)
        assert "hidden" not in repr(write(1, value))
