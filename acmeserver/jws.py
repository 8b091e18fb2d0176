"""The envelope of every ACME request: a flattened JWS (RFC 8555 §6.2, RFC 7515 §7.2.2), parsed once and strictly. Pure.

Order of checks in a request (as clients know it from Boulder): content type, this parser, key, alg, signature, then nonce,
url and payload. The nonce is spent only after the signature has verified, so that strangers cannot burn other people's.
"""

from __future__ import annotations

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


def parse_jws(body: bytes) -> Jws:
    """Raises Problem: malformed, badNonce, badPublicKey, badSignatureAlgorithm."""
    if len(body) > MAX_BODY:
        raise malformed(f"the request is longer than {MAX_BODY} octets", status=413)
    envelope = _object(body, "the request body")
    if envelope.keys() != _MEMBERS:
        raise malformed("a request is one flattened JWS with protected, payload and signature, and nothing else")
    protected, payload, signature = (_text(envelope, name) for name in ("protected", "payload", "signature"))
    header = _object(_decoded(protected, "protected"), "the protected header")
    if "crit" in header or "b64" in header:
        raise malformed("no critical header parameters (crit, b64) are understood here")
    algorithm = _algorithm(header)
    if ("jwk" in header) == ("kid" in header):
        raise malformed("the protected header has exactly one of jwk and kid")
    return Jws(
        algorithm=algorithm,
        nonce=_nonce(header),
        url=_text(header, "url"),
        jwk=parse_jwk(header["jwk"], algorithm=algorithm) if "jwk" in header else None,
        kid=_text(header, "kid") if "kid" in header else None,
        payload=_decoded(payload, "payload"),
        signature=_decoded(signature, "signature"),
        signed=f"{protected}.{payload}".encode("ascii"),
    )


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
