"""`certwright renewal …`: pull renewals forward for a set of certificates, after an incident or before a change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from certwright import output
from certwright.cli_options import Output
from certwright.commands import find_config, say, with_database
from certwright.compose import new_id
from certwright.config import Config, did_you_mean, load
from certwright.config_values import parse_duration
from certwright.errors import Refused
from certwright.failures import DONE
from issuance.renewal import Pull, Renewals
from pki.clock import Micros, SystemClock, rfc3339, to_micros
from policy.principal import COMMAND_LINE

T = TypeVar("T")


def pull(
    config: Path | None,
    *,
    issuer: str,
    profile: str,
    issued_from: str | None,
    before: str | None,
    within: str,
    explanation_url: str,
) -> int:
    found = load(find_config(config))
    if issuer not in found.issuers:
        raise Refused(f"--issuer: there is no issuer {issuer!r}{did_you_mean(issuer, found.issuers)}")
    name = found.profiles.get(profile).name if profile else ""
    try:
        span = parse_duration(within)
    except ValueError as error:
        raise Refused(f"--within: {error}") from error
    if explanation_url and (urlsplit(explanation_url).scheme not in {"https", "http"} or not explanation_url.isascii()):
        raise Refused("--reason-url: a page that clients can show to people, such as https://ca.example.com/incident")
    begin = Micros(0) if issued_from is None else _time("--from", issued_from)
    end = SystemClock().micros() if before is None else _time("--before", before)
    made, certificates = _with_renewals(
        found,
        lambda renewals: renewals.pull(
            issuer=issuer,
            profile=name,
            issued_from=begin,
            issued_before=end,
            within=span,
            explanation_url=explanation_url,
            principal=COMMAND_LINE,
        ),
    )
    say(f"{made.id}: {certificates} certificates are to be renewed before {rfc3339(made.window.end)}")
    if not any(one.renewal_info for one in found.acme.values()):
        say("note: no ACME endpoint has `renewal_info`, so no client can ask")
    return DONE


def show(config: Path | None, form: Output) -> int:
    pulls = _with_renewals(load(find_config(config)), lambda renewals: renewals.list())
    output.show([_row(one) for one in pulls], form.value)
    return DONE


def withdraw(config: Path | None, pull_id: str) -> int:
    _with_renewals(load(find_config(config)), lambda renewals: renewals.withdraw(pull_id, COMMAND_LINE))
    say(f"{pull_id} does not count any more; clients that have renewed already have renewed")
    return DONE


def _row(one: Pull) -> dict[str, object]:
    return {
        "id": one.id,
        "issuer": one.issuer,
        "profile": one.profile or "*",
        "issued_from": rfc3339(one.issued_from) if one.issued_from else "",
        "issued_before": rfc3339(one.issued_before),
        "renew_between": f"{rfc3339(one.window.start)} {rfc3339(one.window.end)}",
        "reason_url": one.explanation_url,
        "in_force": not one.withdrawn_at,
    }


def _time(option: str, text: str) -> Micros:
    """`2026-11-23`, or an RFC 3339 time; without a zone it is UTC."""
    try:
        at = datetime.fromisoformat(text)
        return to_micros(at if at.tzinfo is not None else at.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        raise Refused(f"{option}: a date or time such as 2026-11-23 or 2026-11-23T12:00:00Z") from error


def _with_renewals(config: Config, use: Callable[[Renewals], Awaitable[T]]) -> T:
    return with_database(config, lambda database: use(Renewals(database=database, clock=SystemClock(), new_id=new_id)))
