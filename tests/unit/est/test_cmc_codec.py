"""PKIData and PKIResponse (RFC 5272 §3.2, §4.2): what another encoder writes is read, what we write another reads, and the rest is refused.

The other one is pyasn1 with the modules of RFC 6402, RFC 4211 and RFC 5280.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1.type import univ
from pyasn1_alt_modules import rfc6402

from est.cmc.codec import (
    MAX_BODY_PART,
    MAX_BODY_PARTS,
    MAX_REQUESTS,
    encode_pki_data,
    encode_request,
    encode_response,
    parse_pki_data,
    parse_request,
    parse_response,
)
from est.cmc.messages import (
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
from pki.cms.fields import integer, null, octet_string, sequence, tlv
from tests.helpers.ca import make_csr
from tests.helpers.crmf import crmf

NONCE = Control(1, "1.3.6.1.5.5.7.7.6", (octet_string(b"nonce"),))
CSR = make_csr("a.example.com")
CRMF = crmf(7)
CONTENT = sequence(bytes.fromhex("06092a864886f70d010701"), tlv(0xA0, octet_string(b"inside")))
DATA = PkiData(
    controls=(NONCE, Control(2, "1.2.3.4", (null(),))),
    requests=(Pkcs10Request(3, CSR), CrmfRequest(7, CRMF), OtherRequest(4, "1.2.3", octet_string(b"what"))),
    content_infos=((5, CONTENT),),
    other_messages=(OtherMessage(6, "1.2.3", null()),),
)


def refusal(data: bytes) -> CmcRefusal:
    with pytest.raises(CmcRefusal) as caught:
        parse_pki_data(data)
    assert caught.value.fail_info is FailInfo.BAD_REQUEST
    return caught.value


def theirs(data: bytes, specification: Any) -> Any:
    value, rest = decode(data, asn1Spec=specification)
    assert rest == b""
    return value


# ---------------------------------------------------------------- against another implementation


def test_what_another_encoder_writes_is_read() -> None:
    data = rfc6402.PKIData()
    control = rfc6402.TaggedAttribute()
    control["bodyPartID"] = 1
    control["attrType"] = rfc6402.id_cmc_senderNonce
    control["attrValues"].append(univ.Any(octet_string(b"nonce")))
    data["controlSequence"].append(control)
    tcr = rfc6402.TaggedRequest()
    tcr["tcr"]["bodyPartID"] = 3
    tcr["tcr"]["certificationRequest"] = theirs(CSR, rfc6402.CertificationRequest())
    data["reqSequence"].append(tcr)
    orm = rfc6402.TaggedRequest()
    orm["orm"]["bodyPartID"] = 4
    orm["orm"]["requestMessageType"] = univ.ObjectIdentifier("1.2.3")
    orm["orm"]["requestMessageValue"] = univ.Any(octet_string(b"what"))
    data["reqSequence"].append(orm)
    data["cmsSequence"].clear()
    data["otherMsgSequence"].clear()
    encoded = encode(data)
    assert parse_pki_data(encoded) == PkiData(
        controls=(NONCE,), requests=(Pkcs10Request(3, CSR), OtherRequest(4, "1.2.3", octet_string(b"what")))
    )


def test_a_pki_data_of_ours_is_read_by_another_decoder() -> None:
    read = theirs(encode_pki_data(DATA), rfc6402.PKIData())
    assert [int(control["bodyPartID"]) for control in read["controlSequence"]] == [1, 2]
    assert str(read["controlSequence"][0]["attrType"]) == NONCE.type
    assert [request.getName() for request in read["reqSequence"]] == ["tcr", "crm", "orm"]
    assert encode(read["reqSequence"][0]["tcr"]["certificationRequest"]) == CSR
    assert int(read["reqSequence"][1]["crm"]["certReq"]["certReqId"]) == 7
    assert bytes(read["reqSequence"][2]["orm"]["requestMessageValue"]) == octet_string(b"what")
    assert int(read["cmsSequence"][0]["bodyPartID"]) == 5
    assert int(read["otherMsgSequence"][0]["bodyPartID"]) == 6


def test_a_response_of_ours_is_read_by_another_decoder_in_its_order() -> None:
    controls = tuple(Control(number, f"1.2.{number}", (integer(number),)) for number in (9, 3, 5))
    response = PkiResponse(controls, ((1, CONTENT),))
    read = theirs(encode_response(response), rfc6402.PKIResponse())
    assert [int(control["bodyPartID"]) for control in read["controlSequence"]] == [9, 3, 5]
    assert len(read["otherMsgSequence"]) == 0
    assert parse_response(encode_response(response)) == response


def test_a_request_by_itself_is_read_by_another_decoder() -> None:
    for request in DATA.requests:
        encoded = encode_request(request)
        assert encode(theirs(encoded, rfc6402.TaggedRequest())) == encoded
        assert parse_request(encoded) == request


# ---------------------------------------------------------------- what an identity proof covers


def indefinite(element: bytes) -> bytes:
    """The same constructed element in BER, of indefinite length."""
    header = 2 + (element[1] & 0x7F if element[1] > 0x80 else 0)
    return element[:1] + b"\x80" + element[header:] + b"\0\0"


@pytest.mark.parametrize("outer", [pytest.param(lambda data: data, id="definite"), pytest.param(indefinite, id="indefinite")])
@pytest.mark.parametrize("inner", [pytest.param(lambda data: data, id="DER"), pytest.param(indefinite, id="BER")])
def test_the_request_sequence_is_kept_as_it_was_sent(outer: Any, inner: Any) -> None:
    """§6.2.1: "encoded exactly as it appears in the Full PKI Request including the sequence type and length"."""
    controls = sequence(sequence(integer(1), bytes.fromhex("06082b06010505070706"), tlv(0x31, octet_string(b"nonce"))))
    requests = inner(sequence(tlv(0xA0, integer(3), CSR)))
    sent = outer(sequence(controls, requests, inner(sequence()), sequence()))
    read = parse_pki_data(sent)
    assert read.request_sequence == requests
    assert read == PkiData(controls=(NONCE,), requests=(Pkcs10Request(3, CSR),))


def test_a_long_form_of_a_length_is_kept_too() -> None:
    requests = b"\x30\x82\x00" + bytes((len(sequence(tlv(0xA0, integer(3), sequence()))) - 2,))
    requests += tlv(0xA0, integer(3), sequence())
    assert parse_pki_data(sequence(sequence(), requests, sequence(), sequence())).request_sequence == requests


# ---------------------------------------------------------------- refusals


def control(body_part: int) -> Control:
    return Control(body_part, "1.2.3", (null(),))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(PkiData((control(0),), ()), "from 1 to", id="a control with the number of the PKIData itself"),
        pytest.param(PkiData((), (Pkcs10Request(0, CSR),)), "from 1 to", id="a request with it"),
        pytest.param(PkiData((control(MAX_BODY_PART + 1),), ()), "from 1 to", id="five octets"),
        pytest.param(PkiData((control(-1),), ()), "from 1 to", id="negative"),
        pytest.param(PkiData((control(1), control(1)), ()), "once", id="two controls"),
        pytest.param(PkiData((control(3),), (Pkcs10Request(3, CSR),)), "once", id="a control and a request"),
        pytest.param(PkiData((control(7),), (CrmfRequest(7, CRMF),)), "once", id="a control and a certReqId"),
        pytest.param(PkiData((), (Pkcs10Request(5, CSR),), ((5, CONTENT),)), "once", id="a request and a content info"),
        pytest.param(PkiData((control(1),), (), (), (OtherMessage(1, "1.2", null()),)), "once", id="an other message"),
        pytest.param(
            PkiData((), tuple(Pkcs10Request(number, null()) for number in range(1, MAX_REQUESTS + 2))),
            "at most 100",
            id="too many requests",
        ),
        pytest.param(
            PkiData(tuple(control(number) for number in range(1, MAX_BODY_PARTS + 2)), ()),
            "at most 1000",
            id="too many controls",
        ),
    ],
)
def test_body_parts_are_numbered_once_from_one_and_are_not_too_many(data: PkiData, why: str) -> None:
    """§3.2.2: "The body part identifier MUST be unique within a single PKIData"; 0 is the PKIData itself."""
    assert why in refusal(encode_pki_data(data)).text


def test_as_many_as_are_allowed_are_read() -> None:
    most = PkiData(
        tuple(control(number) for number in range(1, MAX_BODY_PARTS - MAX_REQUESTS + 1)),
        tuple(Pkcs10Request(MAX_BODY_PART - number, CSR) for number in range(MAX_REQUESTS)),
    )
    assert parse_pki_data(encode_pki_data(most)) == most


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello", id="text"),
        pytest.param(sequence(), id="an empty sequence"),
        pytest.param(sequence(sequence(), sequence(), sequence()), id="a PKIResponse"),
        pytest.param(sequence(*[sequence()] * 5), id="a fifth sequence"),
        pytest.param(encode_pki_data(DATA)[:-1], id="cut"),
        pytest.param(encode_pki_data(DATA) + b"\0", id="more behind it"),
        pytest.param(
            sequence(sequence(sequence(integer(1), sequence())), sequence(), sequence(), sequence()), id="a control of nothing"
        ),
        pytest.param(
            sequence(sequence(), sequence(tlv(0xA3, integer(1))), sequence(), sequence()), id="a fourth kind of request"
        ),
        pytest.param(sequence(sequence(), sequence(CSR), sequence(), sequence()), id="an untagged request"),
        pytest.param(b"\x30\x80" * 40 + b"\0\0" * 40, id="nested deeply"),
        pytest.param(sequence(sequence(*[null()] * 40_000), sequence(), sequence(), sequence()), id="very many elements"),
    ],
)
def test_what_is_no_pki_data_is_a_bad_request(data: bytes) -> None:
    refusal(data)


def test_a_refusal_says_nothing_of_what_was_sent() -> None:
    secret = "correct horse battery staple"
    data = encode_pki_data(PkiData((Control(1, "1.2.3", (octet_string(secret.encode()),)), control(1)), ()))
    for broken in (data, data[:-1], data + b"\0"):
        refused = refusal(broken)
        assert secret not in refused.text
        assert secret not in repr(refused)
    assert secret not in repr(Control(1, "1.2.3", (secret.encode(),)))


# ---------------------------------------------------------------- properties

_elements = st.one_of(
    st.binary(max_size=20).map(octet_string),
    st.integers(-(2**70), 2**70).map(integer),
    st.lists(st.integers(0, 9).map(integer), max_size=3).map(lambda parts: sequence(*parts)),
)
_identifiers = st.tuples(st.integers(0, 2), st.integers(0, 39), st.integers(0, 2**31)).map(
    lambda arcs: ".".join(map(str, arcs))
)


@st.composite
def pki_data(draw: st.DrawFn) -> PkiData:
    ids = iter(draw(st.lists(st.integers(1, MAX_BODY_PART).filter(lambda n: n != 7), min_size=12, max_size=12, unique=True)))
    requests = st.sampled_from([Pkcs10Request, OtherRequest, CrmfRequest])
    kinds = draw(st.lists(requests, max_size=3, unique=True))
    return PkiData(
        controls=tuple(
            Control(next(ids), draw(_identifiers), tuple(sorted(draw(st.lists(_elements, max_size=2)))))
            for _ in range(draw(st.integers(0, 3)))
        ),
        requests=tuple(
            CrmfRequest(7, CRMF)
            if kind is CrmfRequest
            else Pkcs10Request(next(ids), sequence(draw(_elements)))
            if kind is Pkcs10Request
            else OtherRequest(next(ids), draw(_identifiers), draw(_elements))
            for kind in kinds
        ),
        content_infos=tuple((next(ids), draw(_elements)) for _ in range(draw(st.integers(0, 2)))),
        other_messages=tuple(
            OtherMessage(next(ids), draw(_identifiers), draw(_elements)) for _ in range(draw(st.integers(0, 2)))
        ),
    )


@settings(max_examples=150, deadline=None)
@given(pki_data())
def test_what_is_written_is_what_is_read(data: PkiData) -> None:
    assert parse_pki_data(encode_pki_data(data)) == data
