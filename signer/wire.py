"""How worker and signer talk: length-prefixed frames over a Unix socket, many requests under way at once.

A frame is `u32 length | u16 header length | header | payload`, the length counting all behind itself. The header is a small
JSON object, the payload raw bytes (what is to be signed, or the answer). Pure: bytes in, values or `WireError` out.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import orjson

from pki.cms.transport import KeyTransport
from signer.api import Hash

MAX_CRL = 64 * 1024 * 1024  # octets; a million entries are about 40 MB
MAX_PAYLOAD = 256 * 1024  # octets; every other request
MAX_KEY_NAME = 255  # characters
MAX_DETAIL = 2000  # characters
_MAX_HEADER = 16 * 1024  # octets
_MAX_FRAME = MAX_CRL + _MAX_HEADER + 2

_LENGTHS = struct.Struct("!IH")


class WireError(ValueError):
    """The other side sent something that is no frame, request or response. The connection is of no use any more."""


class Operation(enum.Enum):
    """The methods of `signer.api.Signer` that travel."""

    PUBLIC_KEY = "public_key"
    SIGN_CERTIFICATE = "sign_certificate"
    SIGN_CRL = "sign_crl"
    SIGN_OCSP = "sign_ocsp"
    SIGN_ANNOUNCEMENT = "sign_announcement"
    RA_SIGN = "ra_sign"
    RA_DECRYPT = "ra_decrypt"
    PING = "ping"


class Verdict(enum.Enum):
    """How a request ended."""

    OK = "ok"
    REFUSED = "refused"  # SignerRefused
    NO_TRANSPORT = "no-transport"  # TransportUnavailable
    UNAVAILABLE = "unavailable"  # Unavailable
    FAILED = "failed"  # a bug in the signer; its log says more


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `milliseconds` is how long the caller will wait; `digest` is for ra_sign, `length` and `transport` for ra_decrypt."""

    id: int
    operation: Operation
    key: str
    milliseconds: int
    payload: bytes = field(default=b"", repr=False)
    digest: Hash | None = None
    length: int | None = None
    transport: KeyTransport | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to the request of the same id. Id 0 answers none: it says why the connection is about to be closed."""

    id: int
    verdict: Verdict
    detail: str = ""
    payload: bytes = field(default=b"", repr=False)


def _frame(header: Mapping[str, object], payload: bytes) -> bytes:
    head = orjson.dumps(header)
    return _LENGTHS.pack(2 + len(head) + len(payload), len(head)) + head + payload


def encode_request(request: Request) -> bytes:
    header: dict[str, object] = {
        "i": request.id,
        "o": request.operation.value,
        "k": request.key,
        "t": request.milliseconds,
    }
    if request.digest is not None:
        header["d"] = request.digest.value
    if request.length is not None:
        header["n"] = request.length
    if request.transport is not None:
        header["p"] = request.transport.value
    return _frame(header, request.payload)


def encode_response(response: Response) -> bytes:
    header: dict[str, object] = {"i": response.id, "v": response.verdict.value}
    if response.detail:
        header["e"] = response.detail[:MAX_DETAIL]
    return _frame(header, response.payload)


class FrameReader:
    """Collects what arrives and gives whole frames as (header, payload)."""

    def __init__(self, maximum: int = _MAX_FRAME) -> None:
        self._maximum = maximum
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Raises WireError at a frame that is too long or cannot be."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTHS.size:
            length, header = _LENGTHS.unpack_from(buffer)
            if length > self._maximum or header > _MAX_HEADER or length < 2 + header:
                raise WireError("a frame with a length that none of ours has")
            end = 4 + length
            if len(buffer) < end:
                return
            start = _LENGTHS.size + header
            frame = bytes(buffer[_LENGTHS.size : start]), bytes(memoryview(buffer)[start:end])
            del buffer[:end]
            yield frame


def _header(data: bytes) -> dict[str, object]:
    try:
        header = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise WireError("a header that is no JSON") from None
    if not isinstance(header, dict):
        raise WireError("a header that is no object")
    return header


def _integer(header: Mapping[str, object], name: str, low: int, high: int) -> int:
    value = header.get(name)
    if type(value) is not int or not low <= value <= high:
        raise WireError(f"a header whose {name!r} is no number from {low} to {high}")
    return value


def _text(header: Mapping[str, object], name: str, longest: int) -> str:
    value = header.get(name)
    if not isinstance(value, str) or len(value) > longest:
        raise WireError(f"a header whose {name!r} is no text of up to {longest} characters")
    return value


_OPERATIONS = {operation.value: operation for operation in Operation}
_VERDICTS = {verdict.value: verdict for verdict in Verdict}
_DIGESTS = {digest.value: digest for digest in Hash}
_TRANSPORTS = {transport.value: transport for transport in KeyTransport}


def parse_request(header: bytes, payload: bytes) -> Request:
    """A request, or WireError."""
    fields = _header(header)
    operation = _OPERATIONS.get(_text(fields, "o", 32))
    if operation is None:
        raise WireError("an operation that the signer does not have")
    if len(payload) > (MAX_CRL if operation is Operation.SIGN_CRL else MAX_PAYLOAD):
        raise WireError(f"{operation.value} of {len(payload)} octets, which is too much")
    digest = _DIGESTS.get(_text(fields, "d", 16)) if "d" in fields else None
    if (digest is not None) is not (operation is Operation.RA_SIGN):
        raise WireError("a digest that is missing, unknown or out of place")
    if ("n" in fields) is not (operation is Operation.RA_DECRYPT):
        raise WireError("a length that is missing or out of place")
    transport = _TRANSPORTS.get(_text(fields, "p", 32)) if "p" in fields else None
    if (transport is not None) is not (operation is Operation.RA_DECRYPT):
        raise WireError("a key transport that is missing, unknown or out of place")
    return Request(
        id=_integer(fields, "i", 1, 2**53),
        operation=operation,
        key=_text(fields, "k", MAX_KEY_NAME),
        milliseconds=_integer(fields, "t", 1, 3_600_000),
        payload=payload,
        digest=digest,
        length=_integer(fields, "n", 0, 65_536) if "n" in fields else None,
        transport=transport,
    )


def parse_response(header: bytes, payload: bytes) -> Response:
    """A response, or WireError."""
    fields = _header(header)
    verdict = _VERDICTS.get(_text(fields, "v", 16))
    if verdict is None:
        raise WireError("a verdict that is none")
    detail = _text(fields, "e", MAX_DETAIL) if "e" in fields else ""
    return Response(_integer(fields, "i", 0, 2**53), verdict, detail, payload)
