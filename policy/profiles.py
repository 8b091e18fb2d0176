"""What a certificate looks like: frozen, versioned profiles. The YAML spelling is certwright/config.py's business."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from types import MappingProxyType

from pki.identifiers import shown
from pki.plan import KeyUsageBit
from pki.reasons import Reason, Rejection

__all__ = ["CommonName", "KeyUsageBit", "LintMode", "Profile", "Profiles", "canonical_profile_name"]


class CommonName(enum.Enum):
    """Where the subject's CN comes from."""

    NONE = "none"  # the subject has no CN
    SAN = "san"  # the first DNS name that fits in 64 characters, an exact copy of a SAN; else none
    DEVICE = "device"  # the CN asked for, a device's own name, if policy grants it


class LintMode(enum.Enum):
    """When pkilint runs; our own invariants always do."""

    SHAPE = "shape"  # once per profile@version x key type x kinds of names
    EVERY = "every"


@dataclass(frozen=True, slots=True)
class Profile:
    """A validated profile. `version` is a digest of all the rest: a change of any field is another version."""

    name: str  # canonical: lower case, "-" for "_"
    issuer: str
    validity: timedelta
    max_validity: timedelta
    backdate: timedelta
    key_usage: frozenset[KeyUsageBit]  # what is wanted; per key type only what that key can do is written
    extended_key_usage: tuple[str, ...]  # dotted OIDs, in order
    common_name: CommonName
    subject: tuple[tuple[str, str], ...]  # fixed attributes (C, O, OU ...) in RDN order
    must_staple: bool
    allow_wildcard: bool
    require_san: bool
    evidence_max_age: timedelta  # how old a challenge may be when the certificate is made (design §3 step 3)
    caa: bool
    lint: LintMode
    aliases: tuple[str, ...] = ()
    methods_required: int = 1  # how many different methods have to prove an ACME name
    description: str = ""  # for people who choose one (draft-ietf-acme-profiles §3); no part of the version
    perspectives_required: int = 0  # how many remote perspectives have to have seen each proof (BR 3.2.2.9)
    server_keygen: bool = False  # may its keys be made here (RFC 7030 §4.4); never for servers
    subject_change: bool = False  # may a re-enrolment ask for other names than the certificate has (RFC 6402 §2.8)
    public: bool = False  # relying parties outside our reach trust it: held to the baseline requirements

    version: str = field(init=False)  # 16 hex digits over every other field; pinned in orders and the ledger as `name@version`

    def __post_init__(self) -> None:
        """A field that has a default is left out of the version while it has it: it came later, and orders that were pinned
        before stay good.
        """
        told = {"aliases", "description", "version"}
        own = [f for f in fields(self) if f.name not in told and getattr(self, f.name) != f.default]
        content = {f.name: repr(getattr(self, f.name)) for f in own}
        content["key_usage"] = repr(sorted(bit.value for bit in self.key_usage))
        version = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        object.__setattr__(self, "version", version)


def canonical_profile_name(name: str) -> str:
    """`TLS_Server` and `tls-server` are one profile: configurations in the field write both."""
    return name.strip().lower().replace("_", "-")


class Profiles:
    """The profiles of one configuration, found by name or alias."""

    def __init__(self, profiles: Iterable[Profile]) -> None:
        by_name: dict[str, Profile] = {}
        for profile in profiles:
            for name in (profile.name, *profile.aliases):
                if name in by_name:
                    message = f"two profiles answer to the name {name!r}"
                    raise ValueError(message)
                by_name[name] = profile
        self._by_name: Mapping[str, Profile] = MappingProxyType(by_name)

    def get(self, name: str) -> Profile:
        """Raises Rejection(UNKNOWN_PROFILE) that names those there are."""
        profile = self._by_name.get(canonical_profile_name(name))
        if profile is None:
            known = sorted({profile.name for profile in self._by_name.values()})
            raise Rejection(
                Reason.UNKNOWN_PROFILE,
                f"there is no profile {shown(name)} here",
                suggestions=[f"use one of: {', '.join(known)}"],
            )
        return profile

    def __iter__(self) -> Iterator[Profile]:
        return iter({profile.name: profile for profile in self._by_name.values()}.values())
