"""From what the YAML says about a profile to a `policy.profiles.Profile`: spellings, and defaults for what is not said.

The defaults follow RFC 5280 and the CA/Browser Forum baseline, for private issuers too (design §7).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from certwright import config_schema
from policy.profiles import CommonName, KeyUsageBit, LintMode, Profile, canonical_profile_name

SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"

EXTENDED_KEY_USAGES: Mapping[str, str] = {
    "serverAuth": SERVER_AUTH,
    "clientAuth": CLIENT_AUTH,
    "codeSigning": "1.3.6.1.5.5.7.3.3",
    "emailProtection": "1.3.6.1.5.5.7.3.4",
    "timeStamping": "1.3.6.1.5.5.7.3.8",
    "ipsecIKE": "1.3.6.1.5.5.7.3.17",
    "documentSigning": "1.3.6.1.5.5.7.3.36",
    "smartcardLogon": "1.3.6.1.4.1.311.20.2.2",
}
# anyExtendedKeyUsage makes every other limit moot; OCSPSigning is for the CA's own responders (RFC 6960 §4.2.2.2).
_NEVER_IN_A_LEAF = frozenset({"2.5.29.37.0", "1.3.6.1.5.5.7.3.9"})
_OID = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]{0,17})){2,19}")

# BR 7.1.2 order of the relative distinguished names; a profile fixes what no requester may choose.
_SUBJECT_ORDER = ("C", "ST", "L", "O", "OU")
_SUBJECT_LIMITS = {"C": 2, "ST": 128, "L": 128, "O": 64, "OU": 64}  # RFC 5280 appendix A.1 upper bounds

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class _Defaults:
    validity: timedelta
    extended_key_usage: tuple[str, ...]
    common_name: CommonName
    require_san: bool
    key_usage: frozenset[KeyUsageBit] = frozenset({KeyUsageBit.DIGITAL_SIGNATURE})


# 47 days: the limit of the baseline requirements from 2029 on (SC-081). A day: short-lived by BR 4.9.7 (at most 7).
BUILT_IN: Mapping[str, _Defaults] = {
    "tls-server": _Defaults(47 * _DAY, (SERVER_AUTH,), CommonName.SAN, require_san=True),
    "short-lived": _Defaults(_DAY, (SERVER_AUTH,), CommonName.NONE, require_san=True),
    "tls-client": _Defaults(47 * _DAY, (CLIENT_AUTH,), CommonName.DEVICE, require_san=False),
    "device": _Defaults(
        365 * _DAY,
        (CLIENT_AUTH,),
        CommonName.DEVICE,
        require_san=False,
        key_usage=frozenset({KeyUsageBit.DIGITAL_SIGNATURE, KeyUsageBit.KEY_ENCIPHERMENT}),  # RSA devices decrypt with it
    ),
}


def extended_key_usage(name: str) -> str:
    """A name as RFC 5280 §4.2.1.12 spells it (`server_auth` too) or a dotted OID -> dotted OID. Raises ValueError."""
    by_plain_name = {known.lower(): oid for known, oid in EXTENDED_KEY_USAGES.items()}
    oid = by_plain_name.get(name.replace("_", "").replace("-", "").lower(), name)
    if not _OID.fullmatch(oid):
        raise ValueError(f"{name!r} is no extended key usage: a dotted OID, or one of {', '.join(EXTENDED_KEY_USAGES)}")
    if oid in _NEVER_IN_A_LEAF:
        raise ValueError(f"{name!r} is never issued to a requester")
    return oid


Note = Callable[[tuple[str | int, ...], str], None]


def build_profile(name: str, given: config_schema.Profile, *, first_issuer: str, note: Note) -> Profile:
    """The profile with every default filled in. What is wrong goes to `note(place below the profile, message)`."""
    canonical = canonical_profile_name(name)
    usages = _usages(given, note)
    base = BUILT_IN.get(canonical) or _defaults_for(usages)
    validity = base.validity
    if given.validity is not None:
        validity = given.validity  # 0d too: it is a mistake to be told, not a default to be filled in
    elif given.validity_days is not None:
        validity = timedelta(days=given.validity_days)
    if given.validity is not None and given.validity_days is not None:
        note(("validity_days",), "give either validity or validity_days")
    max_validity = validity if given.max_validity is None else given.max_validity
    if validity <= timedelta(0):
        note(("validity",), "a certificate must be valid for some time")
    if validity > max_validity:
        note(("max_validity",), "it is shorter than the profile's validity")
    backdate = timedelta(minutes=5) if given.backdate is None else given.backdate
    if backdate > timedelta(hours=48):
        note(("backdate",), "notBefore may lie at most 48h before signing (BR 7.1.2.7)")
    if given.server_keygen and SERVER_AUTH in (usages or base.extended_key_usage):
        note(("server_keygen",), "the key of a server is made by the server; take serverAuth out, or this")
    return Profile(
        name=canonical,
        issuer=given.issuer or first_issuer,
        validity=validity,
        max_validity=max_validity,
        backdate=backdate,
        key_usage=frozenset(given.key_usage) if given.key_usage is not None else base.key_usage,
        extended_key_usage=usages or base.extended_key_usage,
        common_name=given.common_name or base.common_name,
        subject=_subject(given, note),
        must_staple=bool(given.must_staple),
        allow_wildcard=given.allow_wildcard is not False,
        require_san=base.require_san if given.require_san is None else given.require_san,
        evidence_max_age=10 * _DAY if given.evidence_max_age is None else given.evidence_max_age,
        caa=bool(given.caa),
        lint=given.lint or LintMode.SHAPE,
        methods_required=given.methods_required or 1,
        perspectives_required=given.perspectives_required or 0,
        server_keygen=bool(given.server_keygen),
        subject_change=bool(given.subject_change),
        public=bool(given.public),
        aliases=tuple(canonical_profile_name(alias) for alias in given.aliases or ()),
        description=given.description or "",
    )


def _defaults_for(usages: Iterable[str]) -> _Defaults:
    """Names belong into a server's certificate; a person's or a device's may go by its common name alone."""
    if SERVER_AUTH in usages or not usages:
        return BUILT_IN["tls-server"]
    return BUILT_IN["tls-client"]


def _usages(given: config_schema.Profile, note: Note) -> tuple[str, ...]:
    if given.extended_key_usage is None:
        return ()
    if not given.extended_key_usage:
        note(("extended_key_usage",), "at least one: the signer signs no leaf without")
    usages: list[str] = []
    for index, name in enumerate(given.extended_key_usage):
        try:
            usages.append(extended_key_usage(name))
        except ValueError as error:
            note(("extended_key_usage", index), str(error))
    return tuple(dict.fromkeys(usages))


def _subject(given: config_schema.Profile, note: Note) -> tuple[tuple[str, str], ...]:
    key = "subject" if given.subject is not None else "subject_pattern"
    if given.subject is not None and given.subject_pattern is not None:
        note(("subject_pattern",), "give either subject or subject_pattern")
    attributes = given.subject or given.subject_pattern or {}
    for name, value in attributes.items():
        if name not in _SUBJECT_ORDER:
            note(
                (key, name), f"a profile can fix {', '.join(_SUBJECT_ORDER)}; names of hosts and devices come from the request"
            )
        elif len(value) > _SUBJECT_LIMITS[name] or (name == "C" and not re.fullmatch("[A-Z]{2}", value)):
            limit = "two capital letters" if name == "C" else f"at most {_SUBJECT_LIMITS[name]} characters"
            note((key, name), f"{name} is {limit} (RFC 5280 appendix A.1)")
    return tuple((name, attributes[name]) for name in _SUBJECT_ORDER if name in attributes)
