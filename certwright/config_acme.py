"""An ACME endpoint's share of certwright.yaml: what its keys mean together."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from acmeserver.endpoint import RenewalInfo
from acmeserver.limits import LimitRules
from certwright import config_schema
from certwright.yaml_positions import Place

# What this release does of what the schema knows.
CHALLENGES = frozenset({"http-01", "tls-alpn-01"})

_URL = re.compile(r"https?://[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")  # RFC 3986 §2

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
    external_account: Literal["none", "optional", "required"]
    renewal_info: RenewalInfo | None
    limits: LimitRules
    cors: tuple[str, ...]


def acme_settings(name: str, given: config_schema.AcmeEndpoint, *, profiles: tuple[str, ...], note: Note) -> AcmeSettings:
    for index, word in enumerate(given.challenges):
        if word not in CHALLENGES:
            note(("challenges", index), f"{word} is not served yet; there is: {', '.join(sorted(CHALLENGES))}")
    for place, url in (("terms_of_service", given.terms_of_service), ("website", given.website)):
        if url is not None and not _URL.fullmatch(url):
            note((place,), "a URL that browsers open, such as https://ca.example.com/terms-2")
    if given.caa:
        note(("caa",), "CAA is not checked yet; leave it out, so that nobody relies on it")
    return AcmeSettings(
        name=name,
        profiles=profiles,
        challenges=tuple(given.challenges),
        roles=frozenset(given.roles),
        terms_of_service=given.terms_of_service,
        website=given.website,
        external_account=given.external_account,
        renewal_info=_renewal_info(given.renewal_info, note),
        limits=_limits(given.limits, given.website),
        cors=_cors(given.cors, note),
    )


def _limits(given: config_schema.AcmeLimits, website: str | None) -> LimitRules:
    return LimitRules(
        accounts_per_address=given.accounts_per_address,
        orders_per_account=given.orders_per_account,
        orders_per_name=given.orders_per_name,
        failed_validations=given.failed_validations,
        pending_authorizations=given.pending_authorizations,
        help=given.help or website or "",
    )


def _cors(given: list[str], note: Note) -> tuple[str, ...]:
    if "*" in given and len(given) > 1:
        note(("cors",), '"*" is every origin; leave it or the others out')
    return tuple(given)


def _renewal_info(given: config_schema.RenewalInfo | None, note: Note) -> RenewalInfo | None:
    if given is None:
        return None
    if given.window_start >= given.window_end:
        note(("renewal_info", "window_end"), "the window ends after its start; the defaults are 66% and 83%")
    if not timedelta(minutes=1) <= given.retry_after <= timedelta(days=1):
        note(("renewal_info", "retry_after"), "clients take 1m to 24h (RFC 9773 §4.3.2)")
    return RenewalInfo(window_start=given.window_start, window_end=given.window_end, retry_after=given.retry_after)
