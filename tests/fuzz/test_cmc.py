"""Every octet of a CMC message can be wrong: a value or a typed refusal, nothing else. Mutations of real messages reach deeper than noise."""

from __future__ import annotations

import contextlib
import functools

from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.der.encoder import encode

from est.cmc import controls
from est.cmc.codec import encode_pki_data, encode_request, encode_response, parse_pki_data, parse_request, parse_response
from est.cmc.messages import (
    CertRequest,
    CmcRefusal,
    Control,
    CrmfRequest,
    OtherRequest,
    PendInfo,
    Pkcs10Request,
    PkiData,
    PkiResponse,
    Status,
    StatusInfo,
)
from est.cmc.proofs import link_of
from est.cmc.values import (
    BatchRequests,
    ConfirmCertAcceptance,
    DecryptedPop,
    EncryptedPop,
    GetCert,
    GetCrl,
    Identification,
    IdentityProofV2,
    LraPopWitness,
    PopLinkWitnessV2,
    RevokeRequest,
    SenderNonce,
    TransactionId,
    Unknown,
    Value,
)
from pki.cms.ber import children_as_sent, normalise
from pki.cms.errors import CmsError
from pki.cms.fields import null, sequence, tlv
from pki.cms.signatures import signer_key
from pki.cms.signed import check_digest, parse_message, verify_message
from pki.cms.types import Digest
from pki.crmf import parse_crmf
from pki.csr import is_unsigned, key_identifiers, parse_csr
from pki.der import children
from pki.reasons import Rejection, RevocationReason
from tests.helpers import cmc as other
from tests.helpers.crmf import KEY, RSA, by_challenge, certificate_request, crmf
from tests.helpers.mutations import mutations
from tests.helpers.scep import self_signed

LINK = PopLinkWitnessV2(Digest.SHA256, Digest.SHA256, b"w" * 32)
NAME = sequence(tlv(0x31, sequence()))
VALUES: tuple[Value, ...] = (
    TransactionId(77),
    SenderNonce(b"n" * 16),
    Identification("device"),
    IdentityProofV2(Digest.SHA256, Digest.SHA256, b"w" * 32),
    LINK,
    EncryptedPop(OtherRequest(9, "1.2.3", null()), sequence(), Digest.SHA256, Digest.SHA256, b"w"),
    DecryptedPop(9, Digest.SHA256, b"p"),
    LraPopWitness(0, (9,)),
    GetCert(NAME, 77),
    GetCrl(NAME, tlv(0x86, b"http://crl"), 1_700_000_000, b"\x01\x06"),
    RevokeRequest(NAME, 77, RevocationReason.SUPERSEDED, 1_700_000_000, b"s", "c"),
    ConfirmCertAcceptance(NAME, 77),
    StatusInfo(Status.PENDING, (1,), "t", pend_info=PendInfo(b"t", 1_700_000_000), paths=((1, 2),)),
    StatusInfo(Status.FAILED, (1,), extended_fail_info=("1.2.3", null())),
    BatchRequests((1, 2)),
)


@functools.cache
def seeds() -> tuple[bytes, ...]:
    """PKIData, PKIResponse, requests of every kind, and messages around them."""
    every = tuple(controls.write(number, value) for number, value in enumerate(VALUES, start=1))
    witness = controls.encode_witness(LINK)
    requests: tuple[CertRequest, ...] = (
        Pkcs10Request(101, other.csr(KEY, "a.example.com", link=(b"secret", b"r" * 64))),
        CrmfRequest(104, crmf(104, controls=(("1.3.6.1.5.5.7.7.33", witness),))),
        OtherRequest(102, "1.2.3", null()),
    )
    data = encode_pki_data(PkiData(every, requests, ((103, sequence()),)))
    return (
        data,
        encode_pki_data(PkiData(every, ())),
        encode_response(PkiResponse(every)),
        *(encode_request(request) for request in requests),
        *(request.der for request in requests[:2] if not isinstance(request, OtherRequest)),
        by_challenge(certificate_request(key=RSA)),
        bytes(encode(certificate_request())),
        other.signed(data, other.SignerOf(KEY, self_signed(KEY))),
        other.signed(data, other.SignerOf(KEY)),
        other.signed(data, other.SignerOf(RSA)),
        other.signed(data, other.Unsigned()),
        other.signed(data),
        *(value for control in every for value in control.values),
    )


def read_controls(found: tuple[Control, ...]) -> None:
    for control in found:
        with contextlib.suppress(CmcRefusal):
            value = controls.read(control)
            if not isinstance(value, Unknown) and control.type != "1.3.6.1.5.5.7.7.1":
                again = controls.read(controls.write(control.body_part, value))
                assert again == value


def read_data(data: bytes) -> None:
    with contextlib.suppress(CmcRefusal):
        read = parse_pki_data(data)
        assert parse_pki_data(encode_pki_data(read)) == read
        assert read.request_sequence in data
        assert normalise(read.request_sequence) == children_as_sent(normalise(data))[1]
        read_controls(read.controls)
        for request in read.requests:
            assert parse_request(encode_request(request)) == request
            if not isinstance(request, OtherRequest):
                read_request(request.der)
    with contextlib.suppress(CmcRefusal):
        response = parse_response(data)
        assert parse_response(encode_response(response)) == response
        read_controls(response.controls)
    with contextlib.suppress(CmcRefusal):
        parse_request(data)


def read_request(data: bytes) -> None:
    is_unsigned(data)
    for parse in (parse_csr, lambda data: parse_crmf(data).csr):
        with contextlib.suppress(Rejection):
            csr = parse(data)
            assert key_identifiers(csr)
            with contextlib.suppress(CmcRefusal):
                link_of(csr)


def read_message(data: bytes) -> None:
    with contextlib.suppress(CmsError):
        message = parse_message(data)
        read_data(message.content)
        with contextlib.suppress(CmsError):
            check_digest(message)
        with contextlib.suppress(CmsError):
            certificate = message.signer_certificate()
            if certificate is not None:
                verify_message(message, signer_key(certificate.spki))
        if message.signer_info is not None:
            with contextlib.suppress(CmsError):
                assert message.signer_info.key_identifier is None or message.signer_info.issuer_and_serial is None


def everything(data: bytes) -> None:
    read_message(data)
    read_data(data)
    read_request(data)
    read_controls(tuple(Control(1, kind, (data,)) for kind in controls.NAMES))


@settings(max_examples=400, deadline=None)
@given(mutations(seeds))
def test_a_mutated_message_is_a_value_or_a_typed_refusal(data: bytes) -> None:
    everything(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_a_value_or_a_typed_refusal(data: bytes) -> None:
    everything(data)


def test_every_seed_is_a_value_and_no_truncation_of_it_is_more_than_a_refusal() -> None:
    for seed in seeds():
        for end in range(0, len(seed), 1 + len(seed) // 100):
            everything(seed[:end])
    data = parse_pki_data(seeds()[0])
    assert [type(controls.read(control)) for control in data.controls] == [type(value) for value in VALUES]
    assert all(list(children(seed)) for seed in seeds())
