"""Frames: a value or a WireError, whatever comes and however it is cut."""

from __future__ import annotations

import struct
from contextlib import suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.cms.transport import KeyTransport
from signer.api import Hash
from signer.wire import (
    MAX_PAYLOAD,
    FrameReader,
    Operation,
    Request,
    Response,
    Verdict,
    WireError,
    encode_request,
    encode_response,
    parse_request,
    parse_response,
)

operations = st.sampled_from(list(Operation))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    operation = draw(operations)
    return Request(
        id=draw(st.integers(1, 2**53)),
        operation=operation,
        key=draw(st.text(max_size=40)),
        milliseconds=draw(st.integers(1, 3_600_000)),
        payload=draw(st.binary(max_size=300)),
        digest=draw(st.sampled_from(list(Hash))) if operation is Operation.RA_SIGN else None,
        length=draw(st.integers(0, 64)) if operation is Operation.RA_DECRYPT else None,
        transport=draw(st.sampled_from(list(KeyTransport))) if operation is Operation.RA_DECRYPT else None,
    )


responses = st.builds(
    Response,
    id=st.integers(0, 2**53),
    verdict=st.sampled_from(list(Verdict)),
    detail=st.text(max_size=60),
    payload=st.binary(max_size=300),
)


@given(sent=st.lists(requests(), max_size=5), size=st.integers(1, 50))
def test_requests_come_out_as_they_went_in_however_the_stream_is_cut(sent: list[Request], size: int) -> None:
    stream = b"".join(map(encode_request, sent))
    reader = FrameReader()
    received = [
        parse_request(header, payload)
        for at in range(0, len(stream), size)
        for header, payload in reader.feed(stream[at : at + size])
    ]
    assert received == sent


@given(sent=st.lists(responses, max_size=5))
def test_responses_come_out_as_they_went_in(sent: list[Response]) -> None:
    frames = FrameReader().feed(b"".join(map(encode_response, sent)))
    assert [parse_response(header, payload) for header, payload in frames] == sent


@given(data=st.binary(max_size=200))
def test_any_bytes_are_frames_or_a_wire_error(data: bytes) -> None:
    with suppress(WireError):
        for header, payload in FrameReader().feed(data):
            parse_request(header, payload)
    with suppress(WireError):
        parse_request(data, b"")
    with suppress(WireError):
        parse_response(data, b"")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)


@given(header=st.dictionaries(st.sampled_from("iovketdn"), json_values))
def test_any_header_is_a_message_or_a_wire_error(header: dict[str, object]) -> None:
    with suppress(orjson.JSONEncodeError):  # integers beyond 64 bits
        data = orjson.dumps(header)
        with suppress(WireError):
            parse_request(data, b"")
        with suppress(WireError):
            parse_response(data, b"")


GOOD = {"i": 1, "o": "ping", "k": "", "t": 1000}

BAD_HEADERS = [
    ("no JSON", b"{"),
    ("a list", b"[]"),
    ("no id", orjson.dumps({**GOOD, "i": None})),
    ("id 0", orjson.dumps({**GOOD, "i": 0})),
    ("id true", orjson.dumps({**GOOD, "i": True})),
    ("an unknown operation", orjson.dumps({**GOOD, "o": "export_key"})),
    ("a key name too long", orjson.dumps({**GOOD, "k": "k" * 256})),
    ("no time to wait", orjson.dumps({**GOOD, "t": 0})),
    ("a digest for a ping", orjson.dumps({**GOOD, "d": "sha256"})),
    ("no digest for ra_sign", orjson.dumps({**GOOD, "o": "ra_sign"})),
    ("an unknown digest", orjson.dumps({**GOOD, "o": "ra_sign", "d": "crc32"})),
    ("no length for ra_decrypt", orjson.dumps({**GOOD, "o": "ra_decrypt"})),
    ("a negative length", orjson.dumps({**GOOD, "o": "ra_decrypt", "n": -1, "p": "pkcs1"})),
    ("no key transport for ra_decrypt", orjson.dumps({**GOOD, "o": "ra_decrypt", "n": 16})),
    ("an unknown key transport", orjson.dumps({**GOOD, "o": "ra_decrypt", "n": 16, "p": "rc4"})),
    ("a key transport that is no text", orjson.dumps({**GOOD, "o": "ra_decrypt", "n": 16, "p": 1})),
    ("a key transport for sign_certificate", orjson.dumps({**GOOD, "p": "pkcs1"})),
    ("a length for a ping", orjson.dumps({**GOOD, "n": 16})),
]


@pytest.mark.parametrize(("what", "header"), BAD_HEADERS, ids=[row[0] for row in BAD_HEADERS])
def test_a_request_that_makes_no_sense_is_a_wire_error(what: str, header: bytes) -> None:
    with pytest.raises(WireError):
        parse_request(header, b"")


def test_only_a_crl_may_be_long() -> None:
    long = bytes(MAX_PAYLOAD + 1)
    assert parse_request(orjson.dumps({**GOOD, "o": "sign_crl"}), long).payload == long
    with pytest.raises(WireError, match="sign_certificate of 262145 octets"):
        parse_request(orjson.dumps({**GOOD, "o": "sign_certificate"}), long)


@pytest.mark.parametrize("lengths", [(2**32 - 1, 2), (1, 0), (10, 9), (20_000, 17_000)])
def test_a_frame_with_an_impossible_length_is_refused_before_it_is_collected(lengths: tuple[int, int]) -> None:
    with pytest.raises(WireError):
        list(FrameReader().feed(struct.pack("!IH", *lengths)))


def test_secrets_and_payloads_do_not_show_in_reprs() -> None:
    assert "hunter2" not in repr(Request(1, Operation.RA_DECRYPT, "ra", 1, b"hunter2", None, 16))
    assert "hunter2" not in repr(Response(1, Verdict.OK, "", b"hunter2"))
