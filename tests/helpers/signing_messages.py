"""Signed attributes of messages as a CA signs them, encoded by other code than ours."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from tests.helpers.scep import (
    CONTENT_TYPE,
    DATA,
    FAIL_INFO,
    FAIL_INFO_TEXT,
    MESSAGE_DIGEST,
    MESSAGE_TYPE,
    PKI_STATUS,
    RECIPIENT_NONCE,
    SENDER_NONCE,
    TRANSACTION_ID,
    attribute,
    octets,
    oid,
    printable,
    set_of,
)


def signed(digest: str = "sha256") -> dict[str, bytes]:
    """Identifier -> the one value, an element."""
    return {CONTENT_TYPE: oid(DATA), MESSAGE_DIGEST: octets(hashlib.new(digest, b"content").digest())}


def answered(status: str = "0", digest: str = "sha256") -> dict[str, bytes]:
    values = {
        **signed(digest),
        MESSAGE_TYPE: printable("3"),
        PKI_STATUS: printable(status),
        TRANSACTION_ID: printable("TX-1"),
        SENDER_NONCE: octets(b"s" * 16),
        RECIPIENT_NONCE: octets(b"r" * 16),
    }
    if status == "2":
        values |= {FAIL_INFO: printable("2"), FAIL_INFO_TEXT: b"\x0c\x03why"}
    return values


def encode(values: Mapping[str, bytes]) -> bytes:
    return set_of(*(attribute(identifier, value) for identifier, value in values.items()))


def cert_rep(*, status: str = "0", digest: str = "sha256") -> bytes:
    return encode(answered(status, digest))


def announcement(digest: str = "sha256") -> bytes:
    return encode(signed(digest))
