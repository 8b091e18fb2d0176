"""dns-persist-01 (draft-ietf-acme-dns-persist-02): a TXT record that stays says which CA and which account may prove the name.

Law of this file: a record counts only when it was read whole, names this CA, and names the account that asks; what it does not
say it does not grant. Other CAs' records are nobody's business (§4.3.2).

Two forms of `accounturi` are taken: the hashed one of revision 02 (§4.1), and the account's URL itself, which was the only one up
to revision 01 and is what most clients write (docs/divergences.md).
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Collection, Sequence

from pki.clock import Clock, Micros
from pki.strict import base64url
from validation.challenge import Challenge
from validation.issuevalue import IssueValue, Malformed, parse_issue_value
from validation.outcome import Outcome
from validation.resolver import Resolver
from validation.txtproof import DEADLINE, NotShown, Shown, attempt, base_name

LABEL = "_validation-persist"
MOST_DIGITS = 12  # of persistUntil: the year 33658
_KNOWN = ("accounturi", "policy", "persistuntil")


async def dns_persist01(challenge: Challenge, *, resolver: Resolver, clock: Clock, deadline: float = DEADLINE) -> Outcome:
    """One attempt. What the names below share, a wildcard or RFC 9444, needs policy=wildcard (§5.1)."""
    base, issuer_domains = base_name(challenge), challenge.issuer_domains
    accounts, broad = account_uris(challenge, base), challenge.wildcard or challenge.subdomains

    def judge(values: Sequence[bytes]) -> Shown | NotShown:
        read = [_read(value, issuer_domains, accounts, broad=broad, now=clock.micros()) for value in values]
        bounds = [each.until for each in read if isinstance(each, Shown)]
        if bounds:
            return Shown(None if None in bounds else max(bound for bound in bounds if bound is not None))
        return NotShown(max(each for each in read if isinstance(each, _Lack)).why(issuer_domains))

    return await attempt(
        "dns-persist-01", challenge, f"{LABEL}.{base}", judge, resolver=resolver, clock=clock, deadline=deadline
    )


def account_uris(challenge: Challenge, base: str) -> frozenset[str]:
    """Every spelling of the account that asks: its URL, and the hashes over it for this domain and for any (§4.1 item 3)."""
    hashed = [hashed_uri(challenge.hash_prefix, domain, challenge.thumbprint, challenge.account_url) for domain in (base, "*")]
    return frozenset({challenge.account_url, *hashed})


def hashed_uri(prefix: str, domain: str, thumbprint: str, account_url: str) -> str:
    """§4.1 item 3; its test vector is §10.2."""
    octets = bytes((len(domain),)) + f"{domain}{thumbprint}{account_url}".encode("ascii")
    return f"{prefix}sha-256/{base64url(hashlib.sha256(octets).digest())}"


class _Lack(enum.IntEnum):
    """What a record lacks; the greater, the nearer it came."""

    OTHER_CA = 1  # or no issue-value at all: other software keeps TXT records, too
    MALFORMED = 2
    OTHER_ACCOUNT = 3
    PAST = 4
    NO_WILDCARD = 5

    def why(self, issuer_domains: Collection[str]) -> str:
        match self:
            case _Lack.OTHER_CA:
                ours = " or ".join(sorted(issuer_domains))
                return f"none names this CA; a record begins with {ours} and goes on with ; accounturi=<the account's URL>"
            case _Lack.MALFORMED:
                return (
                    "one names this CA, but is malformed: it needs accounturi once, and may have policy and persistUntil "
                    "(seconds since 1970) once each, all as tag=value between semicolons"
                )
            case _Lack.OTHER_ACCOUNT:
                return "one names this CA, but another account; accounturi is the account's URL, or the hash over it"
            case _Lack.PAST:
                return "one names this CA and this account, but its persistUntil is past"
            case _Lack.NO_WILDCARD:
                return "one names this CA and this account, but lacks policy=wildcard, which a wildcard and subdomains need"


def _read(
    octets: bytes, issuer_domains: Collection[str], accounts: Collection[str], *, broad: bool, now: Micros
) -> Shown | _Lack:
    """One record (§4.1, §4.3.2)."""
    try:
        value = parse_issue_value(octets)
    except Malformed:
        ours = octets.partition(b";")[0].strip(b" \t").decode("latin-1").lower() in issuer_domains
        return _Lack.MALFORMED if ours else _Lack.OTHER_CA
    if value.domain not in issuer_domains:
        return _Lack.OTHER_CA
    until = _until(value)
    if any(len(value.values(tag)) > 1 for tag in _KNOWN) or len(value.values("accounturi")) != 1 or isinstance(until, _Lack):
        return _Lack.MALFORMED
    if value.values("accounturi")[0] not in accounts:
        return _Lack.OTHER_ACCOUNT
    if until is not None and until < now:
        return _Lack.PAST
    if broad and [policy.lower() for policy in value.values("policy")] != ["wildcard"]:
        return _Lack.NO_WILDCARD
    return Shown(until)


def _until(value: IssueValue) -> Micros | _Lack | None:
    """§4.1 item 5: seconds since 1970 in decimal digits; what is no such integer spoils the record."""
    for text in value.values("persistuntil"):
        if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
            return _Lack.MALFORMED
        return Micros(int(text) * 1_000_000)
    return None
