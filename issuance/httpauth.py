"""HTTP Basic (RFC 7617) and bearer tokens (RFC 6750): for EST (RFC 7030 §3.2.3) and SCEP's challenge page, both over TLS. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pki.reasons import Reason, Rejection

_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True, slots=True)
class BasicCredentials:
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authorization:
    """An Authorization header: the scheme in lower case, and what follows it."""

    scheme: str
    rest: str = field(repr=False)


def parse_authorization(headers: Sequence[str]) -> Authorization:
    """Raises Rejection(UNAUTHENTICATED) unless there is exactly one: of two, others would believe the other one."""
    if len(headers) != 1:
        raise _refusal()
    scheme, _, rest = headers[0].strip(" \t").partition(" ")
    return Authorization(scheme.lower(), rest.strip(" \t"))


def parse_basic(token: str) -> BasicCredentials:
    """What follows the scheme to user name and password, UTF-8 (RFC 7617 §2.1; we announce no other charset).

    Raises Rejection(UNAUTHENTICATED), the same for every way to be wrong.
    """
    try:
        text = base64.b64decode(token.encode("ascii"), validate=True).decode("utf-8")
    except (ValueError, binascii.Error):  # not ASCII, not base64, not UTF-8
        raise _refusal() from None
    user, colon, password = text.partition(":")  # a user name holds no colon, a password may (§2)
    if not colon or not text.isprintable():
        raise _refusal()
    return BasicCredentials(user, password)


def parse_bearer(token: str) -> str:
    """A b64token (RFC 6750 §2.1). Raises Rejection(UNAUTHENTICATED)."""
    if not _BEARER.fullmatch(token):
        raise _refusal()
    return token


def challenge(scheme: str, realm: str) -> str:
    """The WWW-Authenticate value of Basic or Bearer; quoted, since some clients fail on a bare token."""
    return f'{scheme} realm="{realm}"'


def _refusal() -> Rejection:
    return Rejection(Reason.UNAUTHENTICATED, "send one Authorization header, as its scheme has it (RFC 7617, RFC 6750)")
