"""An ACME endpoint's share of certwright.yaml: what its keys mean together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from acmeserver.endpoint import AutoRenewalRules, RenewalInfo
from acmeserver.limits import LimitRules
from acmeserver.retention import Kept
from certwright import config_schema
from certwright.yaml_positions import Place
from issuance.evidence import family
from policy.profiles import Profile

MOST_ISSUER_DOMAINS = 10  # draft-ietf-acme-dns-persist-02 §3.1
PERSIST_IDENTITIES = f"its records name this CA: say in validation.caa_identities how, in 1 to {MOST_ISSUER_DOMAINS} domain names, such as ca.example.com"
PERSIST_ENDS = (
    "its records prove nothing after their persistUntil, and orders with auto_renewal rest on what was proved long ago; "
    "make an endpoint of its own for it, without auto_renewal"
)
ONION_CAA = (
    "CAA records of onion services are in their descriptors, which are not read (RFC 9799 §6); "
    "make an endpoint of its own for them, without caa there and in its profiles"
)

_URL = re.compile(r"https?://[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")  # RFC 3986 §2

AUTHORIZATION_LIFETIME = timedelta(days=7)
CAA_IDENTITIES = "say in validation.caa_identities by which names CAA records know this CA; nothing could be issued else"

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
    auto_renewal: AutoRenewalRules | None
    limits: LimitRules
    cors: tuple[str, ...]
    identifiers: tuple[str, ...]
    authorization_reuse: timedelta
    order_reuse: bool
    pre_authorization: bool
    subdomains: bool
    caa: bool
    caa_identities: tuple[str, ...]  # what the directory says; none where neither CAA nor dns-persist-01 asks


def acme_settings(
    name: str,
    given: config_schema.AcmeEndpoint,
    *,
    profiles: Sequence[Profile],
    caa_identities: tuple[str, ...],
    note: Note,
) -> AcmeSettings:
    for place, url in (("terms_of_service", given.terms_of_service), ("website", given.website)):
        if url is not None and not _URL.fullmatch(url):
            note((place,), "a URL that browsers open, such as https://ca.example.com/terms-2")
    if given.caa and not caa_identities:
        note(("caa",), CAA_IDENTITIES)
    named = any(profile.caa for profile in profiles) or given.caa
    if "dns-persist-01" in given.challenges:
        named = True
        if not 0 < len(caa_identities) <= MOST_ISSUER_DOMAINS:
            note(("challenges", given.challenges.index("dns-persist-01")), PERSIST_IDENTITIES)
    if "onion-csr-01" in given.challenges and (given.caa or any(profile.caa for profile in profiles)):
        note(("challenges", given.challenges.index("onion-csr-01")), ONION_CAA)
    _check_together(given, profiles, note)
    return AcmeSettings(
        name=name,
        profiles=tuple(profile.name for profile in profiles),
        challenges=tuple(given.challenges),
        roles=frozenset(given.roles),
        terms_of_service=given.terms_of_service,
        website=given.website,
        external_account=given.external_account,
        renewal_info=_renewal_info(given.renewal_info, note),
        auto_renewal=_auto_renewal(given.auto_renewal, profiles, note),
        limits=_limits(given.limits, given.website),
        cors=_cors(given.cors, note),
        identifiers=tuple(dict.fromkeys(given.identifiers)),
        authorization_reuse=given.authorization_reuse,
        order_reuse=given.order_reuse,
        pre_authorization=given.pre_authorization,
        subdomains=given.subdomains,
        caa=given.caa,
        caa_identities=caa_identities if named else (),
    )


def _check_together(given: config_schema.AcmeEndpoint, profiles: Sequence[Profile], note: Note) -> None:
    """What would be a promise that nobody could have kept."""
    families = {family(kind) for kind in given.challenges}
    if given.authorization_reuse > AUTHORIZATION_LIFETIME:
        note(("authorization_reuse",), "authorizations live 7d; they cannot be used again for longer")
    if given.pre_authorization and not given.authorization_reuse:
        note(("pre_authorization",), "say for how long with authorization_reuse, or no order would use what was authorized")
    if given.subdomains and "dns" not in families:
        note(("subdomains",), "an ancestor is proved in the DNS only; add dns-01 to the challenges")
    if "ip" in given.identifiers and not families & {"http-01", "tls-alpn-01"}:
        note(("identifiers",), "an IP address is proved by http-01 or tls-alpn-01 only; add one to the challenges")
    if given.auto_renewal is not None and "dns-persist-01" in given.challenges:
        note(("challenges", given.challenges.index("dns-persist-01")), PERSIST_ENDS)
    for profile in profiles:
        if profile.methods_required > len(families):
            said = f"profile {profile.name} wants {profile.methods_required} different methods, and this endpoint has"
            note(("challenges",), f"{said} {', '.join(sorted(families))} (dns-* is one)")


def retention_settings(given: config_schema.Retention, note: Note) -> Kept:
    for name, span in (("unfinished", given.unfinished), ("issued", given.issued)):
        if span < timedelta(days=1):
            note((name,), "at least 1d: clients still ask for what has just expired")
    return Kept(unfinished=given.unfinished, issued=given.issued)


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


def _auto_renewal(given: config_schema.AutoRenewal | None, profiles: Sequence[Profile], note: Note) -> AutoRenewalRules | None:
    """An order that could not be renewed to its end would be a promise that is broken while nobody looks."""
    if given is None:
        return None
    if given.min_lifetime < timedelta(hours=1):
        note(("auto_renewal", "min_lifetime"), "at least 1h: the next certificate is made half a lifetime before it is due")
    if given.max_duration < given.min_lifetime:
        note(("auto_renewal", "max_duration"), "it is shorter than min_lifetime")
    for profile in profiles:
        if profile.evidence_max_age < given.max_duration:
            said = f"profile {profile.name} takes no proof that is older than its evidence_max_age"
            note(
                ("auto_renewal", "max_duration"),
                f"{said}, so its certificates could not be renewed for so long; let it be as long",
            )
        if profile.max_validity <= given.min_lifetime * 1.5:
            said = f"profile {profile.name} is valid for less than one and a half lifetimes"
            note(("auto_renewal", "min_lifetime"), f"{said}, which is what one of these certificates is (RFC 8739 §3.5)")
    return AutoRenewalRules(
        min_lifetime=given.min_lifetime, max_duration=given.max_duration, allow_get=given.allow_certificate_get
    )
