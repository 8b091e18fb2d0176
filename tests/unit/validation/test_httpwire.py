"""The response reader: a Response, a wish for more, or BadResponse; whatever comes, in whatever pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.httpwire import MAX_BODY, MAX_FRAMING, MAX_HEAD, BadResponse, Response, ResponseReader

OK = b"HTTP/1.1 200 OK\r\n"


def read(*pieces: bytes) -> Response | str:
    """What a client would get; the server closes after the last piece."""
    reader = ResponseReader()
    try:
        for piece in pieces:
            response = reader.feed(piece)
            if response is not None:
                return response
        return reader.end()
    except BadResponse as error:
        return str(error)


@pytest.mark.parametrize(
    ("wire", "response"),
    [
        (OK + b"Content-Length: 3\r\n\r\nabcdef", Response(200, body=b"abc")),
        (OK + b"content-LENGTH:3\r\nContent-Length: 3\r\n\r\nabc", Response(200, body=b"abc")),
        (OK + b"Content-Length: 0\r\n\r\n", Response(200)),
        (OK + b"\r\n" + b"a" * 500, Response(200, body=b"a" * MAX_BODY)),
        (
            OK + b"Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0a \r\n0123456789\r\n0\r\n\r\n",
            Response(200, body=b"abc0123456789"),
        ),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1f4\r\n" + b"a" * 500, Response(200, body=b"a" * MAX_BODY)),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n" + b"a" * 100_000, Response(200, body=b"a" * MAX_BODY)),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n80\r\n" + b"a" * 128 + b"\r\n", Response(200, body=b"a" * MAX_BODY)),
        (OK + b"Content-Encoding: br\r\nContent-Length: 1\r\n\r\nx", Response(200, body=b"x", coded=True)),
        (OK + b"Content-Encoding: identity\r\nContent-Length: 1\r\n\r\nx", Response(200, body=b"x")),
        (b"HTTP/1.1 302 Found\r\nLocation:  /x \r\n\r\nwhatever", Response(302, location=b"/x")),
        (b"HTTP/1.1 404 \r\n\r\n", Response(404)),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Response(204)),
    ],
)
def test_answers_are_read_the_same_in_any_pieces(wire: bytes, response: Response) -> None:
    assert read(wire) == response
    assert read(*(wire[i : i + 1] for i in range(len(wire)))) == response


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (b"", "before its answer was complete"),
        (b"HTTP/1.1 200", "before its answer was complete"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP/1.1"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 099 OK\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1  200 OK\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "switched protocols"),
        (OK + b"no colon\r\n\r\n", "malformed header"),
        (OK + b"A: b\r\n folded\r\n\r\n", "malformed header"),
        (OK + b"A : b\r\n\r\n", "malformed header"),
        (OK + b"A: b\0c\r\n\r\n", "malformed header"),
        (OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "two different"),
        (b"HTTP/1.1 302 Found\r\nLocation: /a\r\nLocation: /b\r\n\r\n", "two different"),
        (OK + b"Content-Length: -1\r\n\r\n", "Content-Length"),
        (OK + b"Content-Length: 3, 3\r\n\r\n", "Content-Length"),
        (OK + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n", "Content-Length"),
        (OK + b"Content-Length: 3\r\n\r\nab", "inside the body"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "transfer coding"),
        (OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer coding"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nab", "inside the body"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", "malformed chunk"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n", "malformed chunk"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n", "malformed chunk"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1;" + b"e" * MAX_FRAMING, "too much around"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + (b"1;" + b"e" * 100 + b"\r\nx\r\n") * 60, "too much around"),
        (OK + b"A: " + b"b" * MAX_HEAD, "larger than"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000, "larger than"),
    ],
)
def test_everything_else_is_a_bad_response_with_words_of_ours(wire: bytes, words: str) -> None:
    for result in (read(wire), read(*(wire[i : i + 7] for i in range(0, len(wire), 7)))):
        assert isinstance(result, str)
        assert words in result


_FRAGMENTS = st.sampled_from(
    [
        *(OK, b"HTTP/1.1 302 Found\r\n", b"HTTP/1.1 100 \r\n", b"\r\n", b"\n", b"\r", b"\0", b"Location: /x\r\n"),
        *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"5\r\n", b"0\r\n\r\n", b"hello", b"5;a=b\r\nhello\r\n"),
    ]
)


@given(st.lists(_FRAGMENTS | st.binary(max_size=20), max_size=12))
def test_any_bytes_in_any_pieces_give_a_response_or_a_bad_response(pieces: list[bytes]) -> None:
    result = read(*pieces)
    assert isinstance(result, Response | str)
    whole = read(b"".join(pieces))
    if isinstance(result, Response) and isinstance(whole, Response):
        assert result == whole
