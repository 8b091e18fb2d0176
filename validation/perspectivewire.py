"""What this server and its perspectives say to each other: JSON both ways, read strictly. Pure.

Law of this file: whatever bytes come in, a frozen value or WireError goes out; no text of the other side leaves here unescaped
or longer than it may be. An answer holds the hash of the whole question, so that none can stand for another.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from pki.identifiers import DnsName, Identifier, IpAddress, parse_dns, parse_ip, shown
from pki.reasons import Rejection
from pki.strict import StrictError, parse_json
from validation.challenge import Challenge
from validation.outcome import FailureKind, Outcome, Proved

VERSION = 1
MAX_QUESTION = 64 * 1024  # octets; a challenge's answer may hold a whole CSR
MAX_ANSWER = 32 * 1024
MAX_ADDRESSES = 64
MAX_TEXT = 1000  # characters
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
VALIDATE = "/v1/validate"
CAA = "/v1/caa"


class WireError(ValueError):
    """What is wrong with the bytes, in words that may be shown."""


@dataclass(frozen=True, slots=True)
class Question:
    """Prove this, from where you are."""

    method: str
    challenge: Challenge


@dataclass(frozen=True, slots=True)
class CaaQuestion:
    """May we issue, as far as you can see (RFC 8659)?"""

    name: DnsName
    issuer_domains: frozenset[str]
    account_url: str
    methods: frozenset[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """`kind` says why not: a FailureKind's value, or for CAA "forbidden" or "failed"; "" when the perspective agrees."""

    agrees: bool
    kind: str
    detail: str  # escaped and cut
    tried: tuple[str, ...]  # addresses, canonical


# ---------------------------------------------------------------------- questions


def encode_question(question: Question) -> bytes:
    challenge = question.challenge
    return orjson.dumps(
        {
            "version": VERSION,
            "method": question.method,
            "identifier": _identifier_json(challenge.identifier),
            "wildcard": challenge.wildcard,
            "token": challenge.token,
            "thumbprint": challenge.thumbprint,
            "account_url": challenge.account_url,
            "subdomains": challenge.subdomains,
            "issuer_domains": list(challenge.issuer_domains),
            "hash_prefix": challenge.hash_prefix,
            "response": dict(challenge.response),
        }
    )


def decode_question(data: bytes) -> Question:
    """Raises WireError."""
    members = _members(
        data,
        {
            "version": int,
            "method": str,
            "identifier": dict,
            "wildcard": bool,
            "token": str,
            "thumbprint": str,
            "account_url": str,
            "subdomains": bool,
            "issuer_domains": list,
            "hash_prefix": str,
            "response": dict,
        },
    )
    response = members["response"]
    if not all(isinstance(value, str) for value in response.values()):
        raise WireError("response holds something else than text")
    for name in ("token", "thumbprint"):
        if _TOKEN.fullmatch(members[name]) is None:  # it goes into URLs and DNS names
            raise WireError(f"{name} is not of base64url characters")
    for name in ("account_url", "hash_prefix"):
        if not members[name].isascii():
            raise WireError(f"{name} is not ASCII")
    return Question(
        members["method"],
        Challenge(
            identifier=_identifier(members["identifier"]),
            wildcard=members["wildcard"],
            token=members["token"],
            thumbprint=members["thumbprint"],
            account_url=members["account_url"],
            subdomains=members["subdomains"],
            issuer_domains=tuple(_texts(members["issuer_domains"])),
            hash_prefix=members["hash_prefix"],
            response=tuple(response.items()),
        ),
    )


def encode_caa_question(question: CaaQuestion) -> bytes:
    return orjson.dumps(
        {
            "version": VERSION,
            "name": question.name.name,
            "wildcard": question.name.wildcard,
            "issuer_domains": sorted(question.issuer_domains),
            "account_url": question.account_url,
            "methods": sorted(question.methods),
        }
    )


def decode_caa_question(data: bytes) -> CaaQuestion:
    """Raises WireError."""
    members = _members(
        data,
        {"version": int, "name": str, "wildcard": bool, "issuer_domains": list, "account_url": str, "methods": list},
    )
    try:
        name = parse_dns(members["name"])
    except Rejection as rejection:
        raise WireError("name is no DNS name") from rejection
    return CaaQuestion(
        DnsName(name.name, members["wildcard"]),
        frozenset(_texts(members["issuer_domains"])),
        members["account_url"],
        frozenset(_texts(members["methods"])),
    )


# ---------------------------------------------------------------------- answers


def encode_answer(asked: bytes, outcome: Outcome) -> bytes:
    """`asked` are the octets of the question. Of the evidence only where it went; what it saw stays there."""
    proved = isinstance(outcome, Proved)
    return _encode(
        asked,
        agrees=proved,
        kind="" if isinstance(outcome, Proved) else outcome.kind.value,
        detail="" if isinstance(outcome, Proved) else outcome.detail,
        tried=outcome.evidence.tried,
    )


def encode_caa_answer(asked: bytes, *, kind: str, detail: str) -> bytes:
    """`kind` is "" when issuance is permitted."""
    return _encode(asked, agrees=not kind, kind=kind, detail=detail if kind else "", tried=())


def _encode(asked: bytes, *, agrees: bool, kind: str, detail: str, tried: tuple[str, ...]) -> bytes:
    return orjson.dumps(
        {
            "version": VERSION,
            "question": hashlib.sha256(asked).hexdigest(),
            "agrees": agrees,
            "kind": kind,
            "detail": detail[:MAX_TEXT],
            "tried": list(tried[:MAX_ADDRESSES]),
        }
    )


KINDS = frozenset(kind.value for kind in FailureKind)
CAA_KINDS = frozenset({"forbidden", "failed"})


def decode_answer(data: bytes, *, asked: bytes, kinds: frozenset[str] = KINDS) -> Answer:
    """The answer to the question that these octets were. Raises WireError."""
    if len(data) > MAX_ANSWER:
        raise WireError(f"it is longer than {MAX_ANSWER} octets")
    members = _members(data, {"version": int, "question": str, "agrees": bool, "kind": str, "detail": str, "tried": list})
    if members["question"] != hashlib.sha256(asked).hexdigest():
        raise WireError("it is about another question")
    agrees, kind = members["agrees"], members["kind"]
    if agrees != (kind == "") or (kind and kind not in kinds):
        raise WireError("its verdict makes no sense")
    return Answer(agrees, kind, shown_text(members["detail"]), _addresses(members["tried"]))


def shown_text(text: str) -> str:
    """Printable ASCII and short: it goes into logs and records."""
    return "".join(character if " " <= character <= "~" else "?" for character in text[:MAX_TEXT])


# ---------------------------------------------------------------------- their parts


def _members(data: bytes, types: Mapping[str, type]) -> dict[str, Any]:
    """Exactly these, each of its type; and of our version."""
    try:
        value = parse_json(data)
    except StrictError as error:
        raise WireError(f"it is not strict JSON: {error}") from error
    if not isinstance(value, dict) or set(value) != set(types):
        raise WireError(f"it is no object with the members {', '.join(types)} and no others")
    for name, kind in types.items():
        if type(value[name]) is not kind:  # not isinstance: true is an int
            raise WireError(f"{name} is of another type")
    if value["version"] != VERSION:
        raise WireError(f"it is of version {value['version']}, and this program speaks {VERSION}: run the same release on both")
    return value


def _identifier_json(identifier: Identifier) -> dict[str, str]:
    match identifier:
        case DnsName():
            return {"type": "dns", "value": str(identifier)}
        case IpAddress():
            return {"type": "ip", "value": str(identifier)}


def _identifier(value: Mapping[str, Any]) -> Identifier:
    parsers: Mapping[str, Callable[[str], Identifier]] = {"dns": parse_dns, "ip": parse_ip}
    kind, text = value.get("type"), value.get("value")
    if set(value) != {"type", "value"} or not isinstance(text, str) or not isinstance(kind, str) or kind not in parsers:
        raise WireError("identifier has not exactly a type, dns or ip, and a value")
    try:
        return parsers[kind](text)
    except Rejection as rejection:
        raise WireError(f"identifier: {shown(text)} is none") from rejection


def _texts(values: list[Any]) -> list[str]:
    if len(values) > MAX_ADDRESSES or not all(isinstance(value, str) for value in values):
        raise WireError("a list holds something else than text, or too much of it")
    return values


def _addresses(values: list[Any]) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_address(text)) for text in _texts(values))
    except ValueError as error:
        raise WireError("tried holds something else than addresses") from error
