"""The answer of an HTTP/1.1 server, as far as http-01 needs it (RFC 9112). Pure and incremental.

Law of this file: whatever bytes come in, in whatever pieces, a Response, None (more is needed) or BadResponse goes out, and no
more is kept than MAX_HEAD + MAX_FRAMING bytes. Of the body MAX_BODY bytes are read: a key authorization is shorter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_HEAD = 8192  # octets of status line and header fields, interim responses (1xx) included
MAX_BODY = 128
MAX_FRAMING = 4096  # octets of a chunked body as sent; extensions could be endless
REDIRECTS = frozenset({301, 302, 307, 308})

_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: [^\r\n]*)?")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?")


class BadResponse(Exception):
    """Not an answer that we read. The text is ours, not the server's, and may be shown."""


@dataclass(frozen=True, slots=True)
class Response:
    """`body` holds what was read of a 200: all of it, or its first MAX_BODY bytes."""

    status: int
    location: bytes | None = None
    body: bytes = b""
    coded: bool = False  # a content coding was applied, although we asked for none


class ResponseReader:
    """`feed` what arrives until it gives a Response; `end` when the server closed."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head_size = 0
        self._response: Response | None = None
        self._length: int | None = None  # of a body framed by Content-Length
        self._chunked = False
        self._chunk_left = -1  # octets of the chunk still to come; -1 when its size line is next
        self._framing = 0
        self._body = bytearray()

    def feed(self, data: bytes) -> Response | None:
        """None while more is needed. Raises BadResponse."""
        self._buffer += data
        if self._response is None:
            self._read_head()
        head = self._response
        if head is None:
            return None
        if head.status != 200:
            return head
        complete = self._read_chunks() if self._chunked else self._read_plain()
        return self._finished(head) if complete else None

    def end(self) -> Response:
        """The server closed the connection. Raises BadResponse when that came too early."""
        head = self._response
        if head is None:
            raise BadResponse("the server closed the connection before its answer was complete")
        if self._chunked or self._length is not None:
            raise BadResponse("the server closed the connection inside the body")
        return self._finished(head)

    def _finished(self, head: Response) -> Response:
        return Response(head.status, head.location, bytes(self._body[:MAX_BODY]), head.coded)

    def _read_head(self) -> None:
        """Takes heads off the buffer until one is the final one (RFC 9110 §15.2: any number of 1xx may precede it)."""
        while self._response is None:
            found = _HEAD_END.search(self._buffer)
            size = found.end() if found else len(self._buffer)
            if self._head_size + size > MAX_HEAD:
                raise BadResponse(f"the header of the answer is larger than {MAX_HEAD} octets")
            if found is None:
                if not b"HTTP/".startswith(self._buffer[:5]):
                    raise BadResponse("the answer is not HTTP/1.1")
                return
            head = bytes(self._buffer[: found.start()])
            del self._buffer[:size]
            self._head_size += size
            self._read_fields(head)

    def _read_fields(self, head: bytes) -> None:
        first, *lines = [line.removesuffix(b"\r") for line in head.split(b"\n")]
        status_line = _STATUS_LINE.fullmatch(first)
        if status_line is None:
            raise BadResponse("the answer is not HTTP/1.1")
        status = int(status_line[1])
        if status == 101:
            raise BadResponse("the server switched protocols without being asked to")
        fields: dict[bytes, bytes] = {}
        for line in lines:
            field = _FIELD.fullmatch(line)
            if field is None:  # also a folded line (RFC 9112 §5.2)
                raise BadResponse("the answer has a malformed header line")
            name, value = field[1].lower(), field[2].rstrip(b" \t")
            if fields.setdefault(name, value) != value and name in {b"content-length", b"location"}:
                raise BadResponse(f"the answer has two different {name.decode()} headers")
            if name == b"transfer-encoding":
                self._set_coding(value.lower())
        if status < 200:
            self._chunked = False
            return
        self._response = Response(
            status,
            fields.get(b"location") if status in REDIRECTS else None,
            coded=fields.get(b"content-encoding", b"identity").lower() not in {b"identity", b""},
        )
        if not self._chunked:
            self._length = _length(fields.get(b"content-length"))

    def _set_coding(self, value: bytes) -> None:
        if value != b"chunked" or self._chunked:
            raise BadResponse("the answer has a transfer coding other than chunked")
        self._chunked = True

    def _read_plain(self) -> bool:
        wanted = MAX_BODY if self._length is None else min(MAX_BODY, self._length)
        self._body += self._buffer[: wanted - len(self._body)]
        self._buffer.clear()
        return len(self._body) >= wanted and (self._length is not None or wanted == MAX_BODY)

    def _read_chunks(self) -> bool:
        """RFC 9112 §7.1. True when the last chunk was seen (its trailers do not matter) or MAX_BODY was reached."""
        while len(self._body) < MAX_BODY:
            if self._chunk_left > 0:
                part = self._buffer[: min(self._chunk_left, MAX_BODY - len(self._body))]
                self._body += part
                self._take(len(part))
                self._chunk_left -= len(part)
                if self._chunk_left:
                    return len(self._body) == MAX_BODY
            at = self._buffer.find(b"\n")
            if at < 0:
                if self._framing + len(self._buffer) > MAX_FRAMING:
                    raise BadResponse("the chunks of the answer have too much around them")
                return False
            line = bytes(self._buffer[:at]).removesuffix(b"\r")
            self._take(at + 1)
            if self._chunk_left == 0:  # the line end after the data
                if line:
                    raise BadResponse("the answer has a malformed chunk")
                self._chunk_left = -1
                continue
            size = _CHUNK_SIZE.fullmatch(line)
            if size is None:
                raise BadResponse("the answer has a malformed chunk")
            self._chunk_left = int(size[1], 16)
            if self._chunk_left == 0:
                return True
        return True

    def _take(self, count: int) -> None:
        del self._buffer[:count]
        self._framing += count
        if self._framing > MAX_FRAMING:
            raise BadResponse("the chunks of the answer have too much around them")


def _length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise BadResponse("the answer has a malformed Content-Length")
    return int(value)
