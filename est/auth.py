"""HTTP Basic (RFC 7617), as EST uses it over TLS (RFC 7030 §3.2.3). Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field

from pki.reasons import Reason, Rejection


@dataclass(frozen=True, slots=True)
class BasicCredentials:
    user: str
    password: str = field(repr=False)


def parse_basic(headers: Sequence[str]) -> BasicCredentials:
    """The Authorization headers of a request to user name and password, UTF-8 (§2.1; we announce no other charset).

    Raises Rejection(UNAUTHENTICATED), the same for every way to be wrong.
    """
    try:
        [header] = headers
        scheme, _, token = header.strip().partition(" ")
        text = base64.b64decode(token.strip().encode("ascii"), validate=True).decode("utf-8")
    except (ValueError, binascii.Error):  # none or two headers, not ASCII, not base64, not UTF-8
        raise _refusal() from None
    user, colon, password = text.partition(":")  # a user name holds no colon, a password may (§2)
    if scheme.lower() != "basic" or not colon or not text.isprintable():
        raise _refusal()
    return BasicCredentials(user, password)


def challenge(realm: str) -> str:
    """The WWW-Authenticate value; quoted, since some clients fail on a bare token."""
    return f'Basic realm="{realm}"'


def _refusal() -> Rejection:
    return Rejection(Reason.UNAUTHENTICATED, "send user name and password by HTTP Basic (RFC 7617)")
