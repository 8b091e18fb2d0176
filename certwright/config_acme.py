"""An ACME endpoint's share of certwright.yaml: what its keys mean together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from certwright import config_schema
from certwright.yaml_positions import Place

# What this release does of what the schema knows.
CHALLENGES = frozenset({"http-01", "tls-alpn-01"})

Note = Callable[[Place, str], None]
"""Records a problem at a place below the endpoint."""


@dataclass(frozen=True, slots=True)
class AcmeSettings:
    name: str
    profiles: tuple[str, ...]  # canonical names
    challenges: tuple[str, ...]
    roles: frozenset[str]
    terms_of_service: str | None
    website: str | None


def acme_settings(name: str, given: config_schema.AcmeEndpoint, *, profiles: tuple[str, ...], note: Note) -> AcmeSettings:
    for index, word in enumerate(given.challenges):
        if word not in CHALLENGES:
            note(("challenges", index), f"{word} is not served yet; there is: {', '.join(sorted(CHALLENGES))}")
    if given.external_account != "none":
        note(("external_account",), "external account binding is not served yet; leave it out")
    if given.caa:
        note(("caa",), "CAA is not checked yet; leave it out, so that nobody relies on it")
    return AcmeSettings(
        name=name,
        profiles=profiles,
        challenges=tuple(given.challenges),
        roles=frozenset(given.roles),
        terms_of_service=given.terms_of_service,
        website=given.website,
    )
