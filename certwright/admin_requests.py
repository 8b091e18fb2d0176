"""`certwright requests …`: what waits for somebody to agree, and the decisions of whoever runs the command."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar, assert_never

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certwright import output
from certwright.cli_options import Output
from certwright.commands import find_config, say, with_database
from certwright.compose import issuers_of, make_approvals
from certwright.config import Config, load
from certwright.failures import DONE
from issuance.approval_requests import ApprovalRequest, State
from issuance.approvals import Approvals, Verdict, no_such_request
from issuance.plan import Names, planned, validity
from pki.certificate import PublicKey
from pki.clock import Micros, SystemClock, rfc3339, to_micros
from pki.csr import load_public_key
from pki.identifiers import Identifier, parse_dns, parse_ip
from pki.reasons import Rejection
from policy.principal import COMMAND_LINE

T = TypeVar("T")

_NOBODY = 0xFFFFFFFF  # what the kernel says of a process whose login it does not know


def show_list(config: Path | None, state: str, limit: int, form: Output) -> int:
    """`state` "all" is every one."""
    wanted = None if state == "all" else State(state)
    now = SystemClock().micros()
    found = _with_approvals(load(find_config(config)), lambda approvals: approvals.newest(state=wanted, limit=limit))
    output.show([_row(one, now) for one in found if wanted in {None, one.seen(now)}], form.value)
    return DONE


def show(config: Path | None, request_id: str, form: Output) -> int:
    settings = load(find_config(config))
    found = _with_approvals(settings, lambda approvals: approvals.find(request_id))
    if found is None:
        raise no_such_request(request_id)
    output.show(_details(settings, found, SystemClock().micros()), form.value)
    return DONE


def approve(config: Path | None, request_id: str, comment: str) -> int:
    settings = load(find_config(config))
    found = _decided(settings, request_id, Verdict.APPROVE, comment)
    say(
        f"request {found.id} is approved: its client gets the certificate when it asks again, before {rfc3339(found.expires_at)}"
    )
    if (changed := _changed(settings, found)) is not None:
        sys.stderr.write(f"certwright: note: {changed}\n")
    return DONE


def deny(config: Path | None, request_id: str, reason: str) -> int:
    found = _decided(load(find_config(config)), request_id, Verdict.DENY, reason)
    say(f"request {found.id} is denied: its client is told so, and why, until {rfc3339(found.answers_until)}")
    return DONE


def _decided(config: Config, request_id: str, verdict: Verdict, comment: str) -> ApprovalRequest:
    who = unix_user()
    return _with_approvals(
        config, lambda approvals: approvals.decide(request_id, verdict, approver=COMMAND_LINE, by=who, comment=comment)
    )


def unix_user() -> str:
    """Who runs this, for the audit. Behind sudo that is who logged in: the kernel keeps it, no variable of the environment does."""
    running = _user_name(os.getuid())
    try:
        login = int(Path("/proc/self/loginuid").read_text("ascii"))
    except (OSError, ValueError):
        return running
    if login in {_NOBODY, os.getuid()}:
        return running
    return f"{_user_name(login)} as {running}"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _row(found: ApprovalRequest, now: Micros) -> dict[str, object]:
    return {
        "id": found.id,
        "state": found.seen(now).value,
        "names": list(found.names),
        "profile": found.profile,
        "requester": found.principal,
        "asked_by": f"{found.channel} {found.endpoint}".strip(),
        "requested": rfc3339(found.requested_at),
        "until": rfc3339(_until(found)),
    }


def _until(found: ApprovalRequest) -> Micros:
    return found.answers_until if found.state in {State.DENIED, State.ISSUED} else found.expires_at


def _details(config: Config, found: ApprovalRequest, now: Micros) -> dict[str, object]:
    key = load_public_key(found.spki)
    return {
        **_row(found, now),
        "source_address": found.source_address,
        "roles": sorted(found.roles),
        "policy": found.policy,
        "profile_version": found.profile_version,
        "key": "made by the server" if found.server_key else key_description(key),
        "key_sha256": found.spki_sha256,
        "digest": found.digest,
        "decided": None if found.decided_at is None else rfc3339(found.decided_at),
        "decided_by": found.decided_by or None,
        "comment": found.comment or None,
        **_certificate(config, found, key, now),
    }


def _certificate(config: Config, found: ApprovalRequest, key: PublicKey, now: Micros) -> dict[str, object]:
    """What would be issued now."""
    try:
        profile = config.profiles.get(found.profile)
        issuer = issuers_of(config)[profile.issuer]
        span = validity(profile, issuer, not_before=found.not_before, not_after=found.not_after, now=now)
        plan = planned(key, _names(found.names), profile, issuer, span)
    except Rejection as rejection:
        return {"certificate": None, "note": rejection.detail}
    return {
        "issuer": plan.issuer,
        "subject": [f"{name}={value}" for name, value in plan.subject],
        "subject_alternative_names": [identifier.tag for identifier in plan.identifiers],
        "not_before": rfc3339(to_micros(plan.not_before)),
        "not_after": rfc3339(to_micros(plan.not_after)),
        "key_usage": sorted(bit.value for bit in plan.key_usage),
        "extended_key_usage": list(plan.extended_key_usage),
        "must_staple": plan.must_staple,
        "note": _changed(config, found),
    }


def _changed(config: Config, found: ApprovalRequest) -> str | None:
    """An approval for what the profile said then is none for what it says now."""
    try:
        now = config.profiles.get(found.profile).version
    except Rejection as rejection:
        return f"{rejection.detail}, so nothing comes of this request"
    if now == found.profile_version:
        return None
    return (
        f"profile {found.profile} has changed since, so nothing comes of this request: the client's next attempt makes another"
    )


def _names(tags: tuple[str, ...]) -> Names:
    identifiers: list[Identifier] = []
    device = None
    for tag in tags:
        kind, _, text = tag.partition(":")
        match kind:
            case "dns":
                identifiers.append(parse_dns(text))
            case "ip":
                identifiers.append(parse_ip(text))
            case "cn":
                device = text
            case _:
                raise AssertionError(f"no kind of name: {tag}")
    return Names(tuple(identifiers), device)


def key_description(key: PublicKey) -> str:
    match key:
        case rsa.RSAPublicKey():
            return f"RSA {key.key_size}"
        case ec.EllipticCurvePublicKey():
            return f"EC {key.curve.name}"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case _:
            assert_never(key)


def _with_approvals(config: Config, use: Callable[[Approvals], Awaitable[T]]) -> T:
    return with_database(config, lambda database: use(make_approvals(config, database=database, clock=SystemClock())))
