"""URLs and queries as devices write them."""

from __future__ import annotations

import base64
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scep.wire import decode_message, endpoint_of, parse_query

NAMES = {"default", "routers"}
MESSAGE = bytes(range(256)) + b"\xfb\xff\xfe"
BASE64 = base64.b64encode(MESSAGE).decode()


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("", "default"),
        ("/", "default"),
        ("default", "default"),
        ("routers", "routers"),
        ("routers/", "routers"),
        ("routers/pkiclient.exe", "routers"),  # Cisco
        ("routers/mscep.dll/pkiclient.exe", "routers"),
        ("pkiclient.exe", "default"),
        ("mscep.dll/pkiclient.exe", "default"),  # Windows
        ("nosuch", None),
        ("nosuch/pkiclient.exe", None),  # a misspelt name must not enrol elsewhere
        ("Routers", None),
    ],
)
def test_a_path_is_of_the_endpoint_that_it_names(path: str, endpoint: str | None) -> None:
    assert endpoint_of(path, NAMES) == endpoint


def test_without_a_default_endpoint_a_bare_path_is_nobodys() -> None:
    assert endpoint_of("", {"routers"}) is None
    assert endpoint_of("pkiclient.exe", {"routers"}) is None


def test_a_plus_stays_a_plus_and_the_first_of_two_counts() -> None:
    query = parse_query("operation=PKIOperation&message=a+b%2Bc%20d&message=second&x")
    assert query == {"operation": b"PKIOperation", "message": b"a+b+c d", "x": b""}


def test_no_query_is_a_bug() -> None:
    raw = b"Operation=%zz&message=\xe4\xff%00%&=&&%=%25&x=\xf0".decode("utf-8", "surrogateescape")
    assert parse_query(raw) == {
        "operation": b"%zz",
        "message": b"\xe4\xff\0%",
        "": b"",
        "%": b"%",
        "x": b"\xf0",
    }


@given(st.text(max_size=100))
def test_any_query_is_read_without_an_error(raw: str) -> None:
    assert all(isinstance(value, bytes) for value in parse_query(raw).values())


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(quote(BASE64, safe=""), id="percent-encoded"),
        pytest.param(BASE64.replace("=", "%3D"), id="macOS: plus and slash bare"),
        pytest.param(BASE64, id="not encoded at all"),
        pytest.param(
            quote("\n".join(BASE64[i : i + 64] for i in range(0, len(BASE64), 64)) + "\n", safe=""), id="sscep: %0A every 64"
        ),
        pytest.param(quote("\r\n".join(BASE64[i : i + 64] for i in range(0, len(BASE64), 64)), safe=""), id="%0D%0A every 64"),
        pytest.param(BASE64.replace("+", "%20"), id="spaces where a proxy decoded a plus"),
        pytest.param(BASE64.replace("+", "-").replace("/", "_"), id="the URL-safe alphabet"),
        pytest.param(BASE64.rstrip("="), id="no padding"),
        pytest.param(quote(quote(BASE64, safe=""), safe=""), id="encoded twice"),
    ],
)
def test_every_way_to_write_a_message_is_read(written: str) -> None:
    assert decode_message(parse_query(f"message={written}")["message"]) == MESSAGE


@pytest.mark.parametrize(
    "written", ["!", "a", "%", "ä", "AAAA*AAA", "====A", "%00", "AA%00A", "%25%32%35", "%FF%FE", "AAA\udce4"]
)
def test_what_is_no_base64_is_a_value_error(written: str) -> None:
    with pytest.raises(ValueError, match="not base64"):
        decode_message(parse_query(f"message={written}")["message"])


@given(st.binary(max_size=200))
def test_what_is_encoded_is_decoded(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert decode_message(unquote(quote(text)).encode()) == data


@given(st.binary(max_size=100))
def test_any_octets_are_a_value_or_a_value_error(data: bytes) -> None:
    try:
        decode_message(data)
    except ValueError as error:
        assert str(error) == "the parameter message is not base64"
