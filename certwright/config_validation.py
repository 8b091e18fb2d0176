"""The `validation` part of certwright.yaml: who is asked, where attempts may go, and who else has to see the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from pydantic import AnyHttpUrl

from certwright import config_schema
from certwright.yaml_positions import Place
from validation.perspectives import agreeing_needed

Address = tuple[str, int]
NO_RESOLVER = (
    "name in validation.resolver a DNS server that validates, by a way to it that you trust; what it says of DNSSEC is believed, "
    "and the system's settings may change or name somebody else's"
)
MAX_RETRY_DELAY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class PerspectiveSettings:
    name: str
    url: str
    ca_file: Path
    certificate: Path
    key: Path = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    resolver: tuple[Address, ...]  # empty: the system's
    require_dnssec: bool  # of every answer of the resolver
    http01_port: int
    tlsalpn01_port: int
    allow_networks: tuple[str, ...]
    attempts: int  # of ours, before a challenge has failed
    retry_delay: timedelta  # before the second; doubled before each further one
    caa_identities: tuple[str, ...]  # how CAA records name this CA
    perspectives: tuple[PerspectiveSettings, ...]
    perspectives_needed: int  # how many of them have to agree


@dataclass(frozen=True, slots=True)
class Files:
    """Both note what is wrong with a file at its place below `validation`, and give its path."""

    certificates: Callable[[Place, str], Path]
    secret: Callable[[Place, str], Path]


def validation_settings(
    given: config_schema.Validation, *, at_least: int, files: Files, note: Callable[[Place, str], None]
) -> Validation:
    """`at_least` is how many perspectives the strictest profile wants: so many are waited for, whatever the quorum."""
    there = len(given.perspectives)
    if given.quorum is not None and given.quorum > there:
        note(("quorum",), f"it is {given.quorum}, and there are {there} perspectives; add some, or ask for fewer")
    _check_apart(given.perspectives, note)
    if given.retry_delay > MAX_RETRY_DELAY:
        note(("retry_delay",), "at most 1m: clients give up after a minute and a half")
    if given.dnssec == "require" and isinstance(given.resolver, str):
        note(("dnssec",), NO_RESOLVER)
    return Validation(
        resolver=() if isinstance(given.resolver, str) else tuple(given.resolver),
        require_dnssec=given.dnssec == "require",
        http01_port=given.http01_port,
        tlsalpn01_port=given.tlsalpn01_port,
        allow_networks=tuple(given.allow_networks),
        attempts=given.attempts,
        retry_delay=given.retry_delay,
        caa_identities=tuple(dict.fromkeys(given.caa_identities)),
        perspectives=tuple(_perspective(name, one, files, note) for name, one in given.perspectives.items()),
        perspectives_needed=max(at_least, agreeing_needed(there) if given.quorum is None else given.quorum),
    )


def _check_apart(perspectives: Mapping[str, config_schema.Perspective], note: Callable[[Place, str], None]) -> None:
    """One agent under two names would be two voices of the quorum."""
    seen: dict[tuple[str | None, int | None], str] = {}
    for name, one in perspectives.items():
        url = AnyHttpUrl(one.url)  # a default port and a host in any case are what they stand for
        other = seen.setdefault((url.host, url.port), name)
        if other != name:
            note(("perspectives", name, "url"), f"{other!r} is there already; every perspective is an agent of its own")


def _perspective(
    name: str, given: config_schema.Perspective, files: Files, note: Callable[[Place, str], None]
) -> PerspectiveSettings:
    place: Place = ("perspectives", name)
    if not given.url.startswith("https://"):
        note((*place, "url"), "a perspective is asked over https only; write https://")
    return PerspectiveSettings(
        name=name,
        url=given.url,
        ca_file=files.certificates((*place, "ca_file"), given.ca_file),
        certificate=files.certificates((*place, "certificate"), given.certificate),
        key=files.secret((*place, "key_file"), given.key_file),
    )
