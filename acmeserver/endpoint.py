"""One ACME endpoint of this server: what its accounts may ask for and what it says about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from acmeserver.limits import LimitRules

DEFAULT_ENDPOINT = "default"  # its directory is at /acme/directory, too


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalInfo:
    """RFC 9773: when certificates are to be renewed, in per cent of their lifetime, and how often to ask."""

    window_start: int = 66
    window_end: int = 83
    retry_after: timedelta = timedelta(hours=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoRenewalRules:
    """RFC 8739 §3.2: what orders that renew themselves may ask for."""

    min_lifetime: timedelta
    max_duration: timedelta
    allow_get: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AcmeEndpoint:
    """Configuration, already validated. `profiles` and `challenges` hold at least one name each."""

    name: str
    profiles: tuple[str, ...]  # canonical names; the first is what an order without `profile` gets
    challenges: tuple[str, ...] = ("http-01",)
    roles: frozenset[str] = frozenset()  # what accounts of this endpoint may do, for policy
    terms_of_service: str | None = None  # URL; when set, a new account must agree
    website: str | None = None
    caa_identities: tuple[str, ...] = ()
    external_account: Literal["none", "optional", "required"] = "none"  # RFC 8555 §7.3.4
    renewal_info: RenewalInfo | None = None
    auto_renewal: AutoRenewalRules | None = None
    order_lifetime: timedelta = timedelta(days=7)
    authorization_lifetime: timedelta = timedelta(days=7)  # of a valid one, counted from its validation
    identifiers: tuple[str, ...] = ("dns",)  # types that may be ordered: dns, ip (RFC 8738)
    authorization_reuse: timedelta = timedelta(0)  # how old a proof may be that serves another order; 0: none does
    order_reuse: bool = False  # newOrder gives the same order again while it is open
    pre_authorization: bool = False  # newAuthz, RFC 8555 §7.4.1
    subdomains: bool = False  # RFC 9444
    caa: bool = False  # RFC 8659, whatever the profile says
    limits: LimitRules = field(default_factory=LimitRules)
    cors: tuple[str, ...] = ()  # origins whose pages may use this endpoint; "*" is all
