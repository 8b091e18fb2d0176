"""The envelope of every ACME request: a flattened JWS (RFC 8555 §6.2, RFC 7515 §7.2.2), parsed once and strictly. Pure.

Two requests have another JWS in their payload: keyChange one by the new key (§7.3.5), newAccount one by a MAC (§7.3.4). The
three have the same frame, and each takes exactly the header parameters that its section names.

Order of checks in a request (as clients know it from Boulder): content type, this parser, key, alg, signature, then nonce,
url and payload. The nonce is spent only after the signature has verified, so that strangers cannot burn other people's.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from acmeserver.jwk import Algorithm, Jwk, bad_algorithm, parse_jwk
from acmeserver.problems import BAD_NONCE, Problem, ProblemType, malformed
from pki.strict import from_base64url, parse_json

MAX_BODY = 50_000  # octets

_MEMBERS = frozenset({"protected", "payload", "signature"})


@dataclass(frozen=True, slots=True)
class Jws:
    """A well-formed request, its signature not verified yet. Exactly one of `jwk` and `kid` is there."""

    algorithm: Algorithm
    nonce: str
    url: str
    jwk: Jwk | None
    kid: str | None
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    signed: bytes = field(repr=False)  # the octets that the signature is over


class MacAlgorithm(enum.Enum):
    """The `alg` values of an external account binding (RFC 8555 §7.3.4: a MAC; RFC 7518 §3.2)."""

    HS256 = "HS256"
    HS384 = "HS384"
    HS512 = "HS512"


@dataclass(frozen=True, slots=True)
class KeyJws:
    """The JWS inside a keyChange, its signature not verified yet."""

    algorithm: Algorithm
    url: str
    jwk: Jwk
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    signed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class MacJws:
    """The JWS of an external account binding, its MAC not verified yet."""

    algorithm: MacAlgorithm
    url: str
    kid: str
    payload: bytes = field(repr=False)
    mac: bytes = field(repr=False)
    authenticated: bytes = field(repr=False)  # the octets that the MAC is over


@dataclass(frozen=True, slots=True)
class _Frame:
    """What every JWS has: a header that was read, and three runs of octets."""

    header: Mapping[str, Any]
    payload: bytes
    signature: bytes
    signed: bytes


def parse_jws(body: bytes) -> Jws:
    """Raises Problem: malformed, badNonce, badPublicKey, badSignatureAlgorithm."""
    if len(body) > MAX_BODY:
        raise malformed(f"the request is longer than {MAX_BODY} octets", status=413)
    frame = _frame(_object(body, "the request body"), "a request")
    header = frame.header
    algorithm = _algorithm(header)
    if ("jwk" in header) == ("kid" in header):
        raise malformed("the protected header has exactly one of jwk and kid")
    return Jws(
        algorithm=algorithm,
        nonce=_nonce(header),
        url=_text(header, "url"),
        jwk=parse_jwk(header["jwk"], algorithm=algorithm) if "jwk" in header else None,
        kid=_text(header, "kid") if "kid" in header else None,
        payload=frame.payload,
        signature=frame.signature,
        signed=frame.signed,
    )


def parse_key_jws(payload: bytes) -> KeyJws:
    """RFC 8555 §7.3.5: by the new key, which `jwk` has; no nonce. Raises Problem as `parse_jws`."""
    frame = _frame(_object(payload, "the payload of keyChange"), "the payload of keyChange")
    header = frame.header
    algorithm = _algorithm(header)
    if "kid" in header or "jwk" not in header:
        raise malformed("the protected header of the inner JWS has the new key as jwk, and no kid")
    _check_no_nonce(header)
    return KeyJws(
        algorithm=algorithm,
        url=_text(header, "url"),
        jwk=parse_jwk(header["jwk"], algorithm=algorithm),
        payload=frame.payload,
        signature=frame.signature,
        signed=frame.signed,
    )


def parse_mac_jws(value: Mapping[str, Any]) -> MacJws:
    """RFC 8555 §7.3.4: by a MAC, whose key `kid` names; no nonce. Raises Problem: malformed, badSignatureAlgorithm."""
    frame = _frame(value, "externalAccountBinding")
    header = frame.header
    try:
        algorithm = MacAlgorithm(_text(header, "alg"))
    except ValueError as error:
        known = tuple(algorithm.value for algorithm in MacAlgorithm)
        detail = f"the alg of externalAccountBinding is one of {', '.join(known)}"
        raise Problem(ProblemType.BAD_SIGNATURE_ALGORITHM, detail, algorithms=known) from error
    if "jwk" in header:
        raise malformed("the protected header of externalAccountBinding has kid, and no jwk")
    _check_no_nonce(header)
    return MacJws(
        algorithm=algorithm,
        url=_text(header, "url"),
        kid=_text(header, "kid"),
        payload=frame.payload,
        mac=frame.signature,
        authenticated=frame.signed,
    )


def _frame(envelope: Mapping[str, Any], what: str) -> _Frame:
    if envelope.keys() != _MEMBERS:
        raise malformed(f"{what} is one flattened JWS with protected, payload and signature, and nothing else")
    protected, payload, signature = (_text(envelope, name) for name in ("protected", "payload", "signature"))
    header = _object(_decoded(protected, "protected"), "the protected header")
    if "crit" in header or "b64" in header:
        raise malformed("no critical header parameters (crit, b64) are understood here")
    return _Frame(
        header, _decoded(payload, "payload"), _decoded(signature, "signature"), f"{protected}.{payload}".encode("ascii")
    )


def _check_no_nonce(header: Mapping[str, Any]) -> None:
    if "nonce" in header:
        raise malformed("the inner JWS has no nonce; the request's own has one")


def _algorithm(header: Mapping[str, Any]) -> Algorithm:
    try:
        return Algorithm(_text(header, "alg"))
    except ValueError as error:
        raise bad_algorithm("this server does not take JWS signatures with that alg") from error


def _nonce(header: Mapping[str, Any]) -> str:
    if "nonce" not in header:
        raise Problem(ProblemType.BAD_NONCE, BAD_NONCE)
    nonce = _text(header, "nonce")
    _decoded(nonce, "nonce")  # RFC 8555 §6.5.2: what is not base64url is malformed
    return nonce


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = parse_json(data)
    except ValueError as error:
        raise malformed(f"{what} is not strict JSON (UTF-8, no member twice, no NaN, not too deep)") from error
    if not isinstance(value, dict):
        raise malformed(f"{what} is not a JSON object")
    return value


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise malformed(f"{name} is missing or no string")
    return value


def _decoded(text: str, name: str) -> bytes:
    try:
        return from_base64url(text)
    except ValueError as error:
        raise malformed(f"{name} is not unpadded base64url") from error
