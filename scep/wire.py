"""SCEP's own layer over HTTP (RFC 8894 §4): which endpoint, which operation, which octets. Pure."""

from __future__ import annotations

import base64
import binascii
import enum
from collections.abc import Collection, Mapping
from urllib.parse import unquote_to_bytes

from scep.endpoint import DEFAULT

_URL_SAFE = bytes.maketrans(b"-_ ", b"+/+")
_WHITESPACE = b"\r\n\t\v\f"


class Operation(enum.Enum):
    """RFC 8894 §4.1."""

    GET_CA_CAPS = "GetCACaps"
    GET_CA_CERT = "GetCACert"
    GET_NEXT_CA_CERT = "GetNextCACert"
    PKI_OPERATION = "PKIOperation"


def endpoint_of(path: str, names: Collection[str]) -> str | None:
    """Which endpoint a path below `/scep` means; None where there is none of that name.

    `/scep/<name>` takes any tail. A first segment with a dot that is no endpoint (`/scep/pkiclient.exe`,
    `/scep/mscep.dll/pkiclient.exe`) is the program name that Cisco and Windows append: the endpoint `default`. Other unknown
    names are refused and never fall to `default`: a misspelt name must not enrol elsewhere.
    """
    first = path.strip("/").partition("/")[0]
    name = first if first in names else DEFAULT if not first or "." in first else None
    return name if name in names else None


def parse_query(raw: str) -> Mapping[str, bytes]:
    """The parameters of a raw query, percent-decoded; a `+` stays a `+`, and the first of several counts.

    Names may have any case. Octets that are no UTF-8 are in `raw` as surrogates (PEP 383).
    """
    parameters: dict[str, bytes] = {}
    for pair in raw.split("&"):
        name, _, value = pair.partition("=")
        parameters.setdefault(name.lower(), unquote_to_bytes(value.encode("utf-8", "surrogateescape")))
    return parameters


def decode_message(value: bytes) -> bytes:
    """The base64 of a GET's `message` as devices write it.

    Line breaks (sscep, strongSwan: %0A every 64), spaces where a proxy has decoded a `+`, the URL-safe alphabet, no padding,
    and percent-encoding twice. Raises ValueError.
    """
    if b"%" in value:
        value = unquote_to_bytes(value)
    text = value.strip(b" " + _WHITESPACE).translate(_URL_SAFE, _WHITESPACE).rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise ValueError("the parameter message is not base64") from None
