"""Step 6: from a request, a profile and the time to a certificate plan. Pure; of the CSR only the public key is copied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from issuance.request import IssuanceRequest
from pki.certificate import PublicKey
from pki.clock import Micros, to_datetime
from pki.identifiers import DnsName, Identifier, is_address, parse_dns, parse_ip
from pki.plan import SUBJECT_ATTRIBUTES, CertificatePlan, Issuer
from pki.reasons import Reason, Rejection
from policy import keys
from policy.names import check_device_name
from policy.profiles import CommonName, Profile

MAX_COMMON_NAME = 64  # RFC 5280 Appendix A, ub-common-name
MAX_NAMES = 100
MAX_POSTDATE = timedelta(hours=48)  # BR 7.1.2.7: notBefore within 48 hours of the signature
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Names:
    """Who the certificate is for, once the profile has had its say on the request's common name."""

    identifiers: tuple[Identifier, ...]
    device: str | None  # a common name that is not one of the identifiers

    @property
    def tags(self) -> tuple[str, ...]:
        """As they are stored: "dns:example.com", "cn:router7"."""
        tags = tuple(identifier.tag for identifier in self.identifiers)
        return tags if self.device is None else (*tags, f"cn:{self.device}")

    @property
    def to_grant(self) -> tuple[Identifier, ...]:
        """What policy has to grant as a name: a device that calls itself `www.example.com` or `192.0.2.1` is one for some readers."""
        if self.device is None or not ("." in self.device or is_address(self.device)) or not _is_host(self.device):
            return self.identifiers
        return (*self.identifiers, _host(self.device))


def wanted_names(request: IssuanceRequest, profile: Profile) -> Names:
    """A CN that is a host's name is asked for like a SAN, as old tools do; a device's own name is one where profiles take it.

    Raises Rejection: REJECTED_IDENTIFIER, BAD_CSR (no name at all).
    """
    return names_wanted(request.identifiers, request.common_name, profile)


def names_wanted(identifiers: tuple[Identifier, ...], common_name: str | None, profile: Profile) -> Names:
    """As `wanted_names`, for a request that is not made yet."""
    device = None
    if common_name is not None and common_name.lower() not in map(str, identifiers):
        if profile.common_name is CommonName.DEVICE:
            device = check_device_name(common_name)
        elif not identifiers or _is_host(common_name):
            identifiers = (_host(common_name), *identifiers)
    if len(identifiers) > MAX_NAMES:
        raise Rejection(
            Reason.MALFORMED, f"{len(identifiers)} names are too many for one certificate; ask for at most {MAX_NAMES}"
        )
    if not identifiers and (device is None or profile.require_san):
        raise Rejection(
            Reason.BAD_CSR,
            f"it asks for no name that profile {profile.name} issues for",
            suggestions=["put the names into the request's subjectAltName"],
        )
    check_wildcards(identifiers, profile)
    return Names(tuple(dict.fromkeys(identifiers)), device)


def check_wildcards(identifiers: Iterable[Identifier], profile: Profile) -> None:
    """Raises Rejection(REJECTED_IDENTIFIER)."""
    for identifier in identifiers:
        if isinstance(identifier, DnsName) and identifier.wildcard and not profile.allow_wildcard:
            raise Rejection(
                Reason.REJECTED_IDENTIFIER, f"profile {profile.name} issues no wildcard certificates ({identifier})"
            )


def _host(text: str) -> Identifier:
    return parse_ip(text) if is_address(text) else parse_dns(text)


def _is_host(text: str) -> bool:
    try:
        _host(text)
    except Rejection:
        return False
    return True


def wanted_span(profile: Profile, *, not_before: Micros | None, not_after: Micros | None, now: Micros) -> timedelta | None:
    """What policy's `max_validity` is held against: as the certificate will say it, from its backdated beginning, in whole
    seconds, both ends inclusive. None is the profile's own validity.
    """
    if not_after is None:
        return None
    begin = to_datetime(now) - profile.backdate if not_before is None else to_datetime(not_before)
    return to_datetime(not_after) - begin + _SECOND


def validity(
    profile: Profile, issuer: Issuer, *, not_before: Micros | None, not_after: Micros | None, now: Micros
) -> tuple[datetime, datetime]:
    """NotBefore and notAfter, both inclusive, in whole seconds, from what is wanted. Raises Rejection(INVALID_VALIDITY)."""
    at = to_datetime(now)
    issuer_end = issuer.certificate.not_valid_after_utc
    begin = max(at - profile.backdate, issuer.certificate.not_valid_before_utc)
    if not_before is not None:
        wanted = to_datetime(not_before)
        if not begin <= wanted <= at + MAX_POSTDATE:
            raise _bad_validity(
                f"notBefore {wanted:%Y-%m-%dT%H:%M:%SZ} is not between {profile.backdate} ago and 48 hours ahead"
            )
        begin = wanted
    end = min(begin + profile.validity - _SECOND, issuer_end)
    if not_after is not None:
        end = to_datetime(not_after)
        if end - begin + _SECOND > profile.max_validity:
            days = profile.max_validity.total_seconds() / 86400
            raise _bad_validity(f"profile {profile.name} allows at most {days:g} days")
        if end > issuer_end:
            raise _bad_validity(f"the issuing CA itself ends at {issuer_end:%Y-%m-%dT%H:%M:%SZ}")
    if end <= at or end <= begin:
        raise _bad_validity("the certificate would have expired before it is used")
    return begin, end


def _bad_validity(why: str) -> Rejection:
    return Rejection(Reason.INVALID_VALIDITY, f"the validity asked for is refused: {why}")


def make_plan(request: IssuanceRequest, names: Names, profile: Profile, issuer: Issuer, now: Micros) -> CertificatePlan:
    """Every field of the certificate but its serial. Raises Rejection."""
    span = validity(profile, issuer, not_before=request.not_before, not_after=request.not_after, now=now)
    return planned(request.csr.public_key, names, profile, issuer, span)


def planned(
    public_key: PublicKey, names: Names, profile: Profile, issuer: Issuer, span: tuple[datetime, datetime]
) -> CertificatePlan:
    """What the profile makes of a key, names and a validity."""
    not_before, not_after = span
    return CertificatePlan(
        issuer=issuer.name,
        profile=profile.name,
        profile_version=profile.version,
        public_key=public_key,
        subject=_subject(names, profile),
        identifiers=names.identifiers,
        not_before=not_before,
        not_after=not_after,
        key_usage=keys.usage(public_key, profile.key_usage),
        extended_key_usage=profile.extended_key_usage,
        must_staple=profile.must_staple,
    )


def _subject(names: Names, profile: Profile) -> tuple[tuple[str, str], ...]:
    attributes = list(profile.subject)
    common_name = _common_name(names, profile)
    if common_name is not None:
        attributes.append(("CN", common_name))
    order = list(SUBJECT_ATTRIBUTES)
    return tuple(sorted(attributes, key=lambda attribute: order.index(attribute[0])))


def _common_name(names: Names, profile: Profile) -> str | None:
    """Omitted rather than cut when nothing fits into 64 characters."""
    match profile.common_name:
        case CommonName.NONE:
            return None
        case CommonName.DEVICE if names.device is not None:
            return names.device
        case CommonName.SAN | CommonName.DEVICE:
            hosts = (str(name) for name in names.identifiers if isinstance(name, DnsName))
            return next((text for text in hosts if len(text) <= MAX_COMMON_NAME), None)
        case _:
            assert_never(profile.common_name)
