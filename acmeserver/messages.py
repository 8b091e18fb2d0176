"""What ACME clients say and what they are told: JSON and frozen values, both ways. Pure.

Members that we do not know are ignored (RFC 8555 §7.1: extensions); those that we know must have their type. Rendered
objects keep `type, url, status, token` first and nested parts last, because acme.sh reads them with sed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from acmeserver.problems import Problem, ProblemType, WireIdentifier, malformed
from acmeserver.star import WantedAutoRenewal, parse_auto_renewal
from acmeserver.states import AccountStatus, AuthorizationStatus, ChallengeStatus, OrderStatus
from pki.clock import Micros, rfc3339, to_micros
from pki.strict import from_base64url, parse_json
from validation.onion import KIND as ONION
from validation.onion import ca_signing_nonce

MAX_CONTACTS = 10
MAX_CONTACT = 320  # characters
MAX_IDENTIFIERS = 100
# Challenges that hold lists, and no token: shown last, for who greps up to the first "]".
WITH_LISTS = frozenset({"dns-persist-01"})
MAX_IDENTIFIER = 512  # characters; longer than any name can be

_MAX_TIME = to_micros(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))  # RFC 5280 §4.1.2.5
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
# One addr-spec without comments, quotes or literals; no second one and no hfields (RFC 8555 §7.3).
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$&'*+/=^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class NewAccount:
    contact: tuple[str, ...]
    terms_agreed: bool
    only_existing: bool
    external_binding: Mapping[str, Any] | None = None  # read by external.py


@dataclass(frozen=True, slots=True)
class AccountUpdate:
    contact: tuple[str, ...] | None  # None leaves it as it is
    deactivate: bool
    terms_agreed: bool = False


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What the new key says (RFC 8555 §7.3.5): whose account, and by which key until now."""

    account: str
    old_key: Any = field(repr=False)  # a JWK, not parsed yet


@dataclass(frozen=True, slots=True)
class NewOrder:
    identifiers: tuple[WireIdentifier, ...]
    profile: str | None
    not_before: Micros | None
    not_after: Micros | None
    ancestors: tuple[str | None, ...] = ()  # of each identifier (RFC 9444 §4.3); heeded where subdomains are authorized
    replaces: str | None = None  # RFC 9773 §5; heeded where the endpoint has renewal information
    auto_renewal: WantedAutoRenewal | None = None  # RFC 8739; heeded where the endpoint has auto-renewal


@dataclass(frozen=True, slots=True)
class NewAuthz:
    identifier: WireIdentifier
    subdomains: bool  # RFC 9444 §4.2


@dataclass(frozen=True, slots=True)
class Finalize:
    csr: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RevokeCert:
    certificate: bytes = field(repr=False)
    reason: int = 0


def parse_new_account(payload: bytes) -> NewAccount:
    members = _members(payload)
    binding = members.get("externalAccountBinding")
    if binding is not None and not isinstance(binding, dict):
        raise malformed("externalAccountBinding is no object")
    return NewAccount(
        contact=_contact(members) or (),
        terms_agreed=_flag(members, "termsOfServiceAgreed"),
        only_existing=_flag(members, "onlyReturnExisting"),
        external_binding=binding,
    )


def parse_account_update(payload: bytes) -> AccountUpdate:
    """Of a POST to the account URL; an empty payload and `{}` are both a read."""
    members = _members(payload) if payload else {}
    return AccountUpdate(
        contact=_contact(members), deactivate=_deactivated(members), terms_agreed=_flag(members, "termsOfServiceAgreed")
    )


def parse_key_change(payload: bytes) -> KeyChange:
    """The payload of the inner JWS."""
    members = _members(payload)
    account = members.get("account")
    if not isinstance(account, str):
        raise malformed("account is missing or no string: it is the account's URL")
    if "oldKey" not in members:
        raise malformed("oldKey is missing: it is the account's present key as a JWK")
    return KeyChange(account, members["oldKey"])


def parse_authorization_update(payload: bytes) -> bool:
    """Whether to deactivate: False is a read (empty payload)."""
    if not payload:
        return False
    if not _deactivated(_members(payload)):
        raise malformed('an authorization is read with an empty payload, or updated with {"status": "deactivated"}')
    return True


def parse_read(payload: bytes) -> None:
    """POST-as-GET (RFC 8555 §6.3): the payload is the empty string, not `{}`."""
    if payload:
        raise malformed('this is read by POST-as-GET: the JWS payload is ""')


def parse_challenge_response(payload: bytes) -> tuple[tuple[str, str], ...] | None:
    """The string members of the answer, which starts the validation (a legacy keyAuthorization among them is ignored);
    None for an empty payload, which is a read.
    """
    if not payload:
        return None
    return tuple((name, value) for name, value in _members(payload).items() if isinstance(value, str))


def parse_new_order(payload: bytes) -> NewOrder:
    members = _members(payload)
    identifiers = members.get("identifiers")
    if not isinstance(identifiers, list) or not identifiers:
        raise malformed("identifiers is missing or no list of at least one")
    if len(identifiers) > MAX_IDENTIFIERS:
        raise malformed(f"an order is for {MAX_IDENTIFIERS} identifiers at most; this one has {len(identifiers)}")
    profile = members.get("profile")
    if profile is not None and not isinstance(profile, str):
        raise malformed("profile is no string")
    replaces = members.get("replaces")
    if replaces is not None and not isinstance(replaces, str):
        raise malformed("replaces is no string")
    return NewOrder(
        identifiers=tuple(_identifier(item) for item in identifiers),
        ancestors=tuple(_ancestor(item) for item in identifiers),
        profile=profile,
        not_before=_time(members, "notBefore"),
        not_after=_time(members, "notAfter"),
        replaces=replaces,
        auto_renewal=_auto_renewal(members),
    )


def parse_new_authz(payload: bytes) -> NewAuthz:
    """RFC 8555 §7.4.1. The flag of RFC 9444 is taken inside the identifier and beside it: clients write both."""
    members = _members(payload)
    item = members.get("identifier")
    identifier = _identifier(item)
    inside = _flag(item, "subdomainAuthAllowed") if isinstance(item, dict) else False
    return NewAuthz(identifier, subdomains=_flag(members, "subdomainAuthAllowed") or inside)


def parse_order_update(payload: bytes) -> bool:
    """Whether to cancel (RFC 8739 §3.1.2): False is a read (empty payload)."""
    if not payload:
        return False
    if _members(payload).get("status") != "canceled":
        raise malformed('an order is read with an empty payload, or canceled with {"status": "canceled"}')
    return True


def parse_finalize(payload: bytes) -> Finalize:
    """The CSR as DER; Synology pads its base64, which is the one leniency."""
    text = _members(payload).get("csr")
    if not isinstance(text, str):
        raise malformed("csr is missing or no string")
    try:
        return Finalize(from_base64url(text.rstrip("=")))
    except ValueError as error:
        raise Problem(ProblemType.BAD_CSR, "csr is not base64url of a DER request (no PEM armour)") from error


def parse_revoke_cert(payload: bytes) -> RevokeCert:
    members = _members(payload)
    text, reason = members.get("certificate"), members.get("reason", 0)
    if not isinstance(text, str):
        raise malformed("certificate is missing or no string")
    if not isinstance(reason, int) or isinstance(reason, bool):
        raise Problem(ProblemType.BAD_REVOCATION_REASON, "reason is no integer")
    try:
        return RevokeCert(from_base64url(text), reason)
    except ValueError as error:
        raise malformed("certificate is not base64url of a DER certificate") from error


def account_json(
    *,
    status: AccountStatus,
    contact: Sequence[str],
    terms_agreed: bool,
    orders: str,
    external_binding: Mapping[str, Any] | None,
) -> dict[str, Any]:
    content: dict[str, Any] = {"status": status.value, "contact": list(contact)}
    if terms_agreed:
        content["termsOfServiceAgreed"] = True
    content["orders"] = orders
    if external_binding is not None:
        content["externalAccountBinding"] = dict(external_binding)
    return content


def challenge_json(
    *,
    kind: str,
    url: str,
    status: ChallengeStatus,
    token: str,
    validated_at: Micros | None,
    error: Mapping[str, Any] | None,
    issuer_domains: Sequence[str],
) -> dict[str, Any]:
    content: dict[str, Any] = {"type": kind, "url": url, "status": status.value}
    if kind == ONION:  # RFC 9799 §3.2; without authKey, for no descriptor is fetched
        content["nonce"] = ca_signing_nonce(token)
    elif kind not in WITH_LISTS:
        content["token"] = token
    if validated_at is not None:
        content["validated"] = rfc3339(validated_at)
    if error is not None:
        content["error"] = dict(error)
    # The first spelling is that of revisions 00 and 01, which clients still read; some up to the first "]".
    if kind in WITH_LISTS:
        content |= {"issuer-domain-names": list(issuer_domains), "issuerDomainNames": list(issuer_domains)}
    return content


def authorization_json(
    *,
    status: AuthorizationStatus,
    identifier: WireIdentifier,
    expires_at: Micros,
    wildcard: bool,
    subdomains: bool,
    challenges: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    content: dict[str, Any] = {"status": status.value, "expires": rfc3339(expires_at), "identifier": identifier.json()}
    if wildcard:
        content["wildcard"] = True
    if subdomains:
        content["subdomainAuthAllowed"] = True
    content["challenges"] = list(challenges)
    return content


def order_json(
    *,
    status: OrderStatus,
    expires_at: Micros,
    identifiers: Sequence[WireIdentifier],
    authorizations: Sequence[str],
    finalize: str,
    certificate: str | None,
    profile: str | None,
    not_before: Micros | None,
    not_after: Micros | None,
    error: Mapping[str, Any] | None,
    replaces: str = "",
    auto_renewal: Mapping[str, Any] | None = None,
    star_certificate: str | None = None,
) -> dict[str, Any]:
    content: dict[str, Any] = {"status": status.value, "expires": rfc3339(expires_at)}
    if not_before is not None:
        content["notBefore"] = rfc3339(not_before)
    if not_after is not None:
        content["notAfter"] = rfc3339(not_after)
    if profile is not None:
        content["profile"] = profile
    if replaces:
        content["replaces"] = replaces
    content["identifiers"] = [identifier.json() for identifier in identifiers]
    content["authorizations"] = list(authorizations)
    content["finalize"] = finalize
    if certificate is not None:
        content["certificate"] = certificate
    if auto_renewal is not None:
        content["auto-renewal"] = dict(auto_renewal)
    if star_certificate is not None:
        content["star-certificate"] = star_certificate
    if error is not None:
        content["error"] = dict(error)
    return content


def _auto_renewal(members: Mapping[str, Any]) -> WantedAutoRenewal | None:
    value = members.get("auto-renewal")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise malformed("auto-renewal is no object")
    if "notBefore" in members or "notAfter" in members:
        raise malformed("an order with auto-renewal has no notBefore or notAfter (RFC 8739 §3.1.1)")
    return parse_auto_renewal(value, {name: _time(value, name) for name in ("start-date", "end-date")})


def _members(payload: bytes) -> dict[str, Any]:
    try:
        value = parse_json(payload)
    except ValueError as error:
        raise malformed("the payload is not strict JSON (UTF-8, no member twice, no NaN, not too deep)") from error
    if not isinstance(value, dict):
        raise malformed("the payload is not a JSON object")
    return value


def _flag(members: Mapping[str, Any], name: str) -> bool:
    value = members.get(name, False)
    if not isinstance(value, bool):
        raise malformed(f"{name} is no boolean")
    return value


def _deactivated(members: Mapping[str, Any]) -> bool:
    """RFC 8555 §7.3.2: any other status is ignored; certbot sends the whole account back, its `valid` included."""
    return members.get("status") == "deactivated"


def _contact(members: Mapping[str, Any]) -> tuple[str, ...] | None:
    value = members.get("contact")
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise malformed("contact is no list of strings")
    if len(value) > MAX_CONTACTS:
        raise malformed(f"an account has {MAX_CONTACTS} contacts at most")
    for item in value:
        _check_contact(item)
    return tuple(value)


def _check_contact(contact: str) -> None:
    scheme, _, address = contact.partition(":")
    if scheme.lower() != "mailto":
        raise Problem(ProblemType.UNSUPPORTED_CONTACT, "contacts here are mailto: URLs")
    if len(contact) > MAX_CONTACT or _ADDRESS.fullmatch(address) is None:
        raise Problem(ProblemType.INVALID_CONTACT, "a mailto: contact holds one plain address and nothing after it")


def _identifier(item: Any) -> WireIdentifier:
    kind, value = (item.get("type"), item.get("value")) if isinstance(item, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(value, str):
        raise malformed("an identifier is an object with the strings type and value")
    if len(kind) > MAX_IDENTIFIER or len(value) > MAX_IDENTIFIER:
        raise malformed(f"an identifier's type and value have {MAX_IDENTIFIER} characters at most")
    return WireIdentifier(kind, value)


def _ancestor(item: Any) -> str | None:
    ancestor = item.get("ancestorDomain") if isinstance(item, dict) else None
    if ancestor is not None and (not isinstance(ancestor, str) or len(ancestor) > MAX_IDENTIFIER):
        raise malformed(f"ancestorDomain is no string of {MAX_IDENTIFIER} characters at most")
    return ancestor


def _time(members: Mapping[str, Any], name: str) -> Micros | None:
    text = members.get(name)
    if text is None:
        return None
    if not isinstance(text, str) or _RFC3339.fullmatch(text) is None:
        raise malformed(f"{name} is no RFC 3339 time")
    try:
        at = to_micros(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise malformed(f"{name} is no time of any calendar") from error
    if not 0 <= at <= _MAX_TIME:
        raise malformed(f"{name} does not lie between 1970 and 9999, in UTC")
    return at
