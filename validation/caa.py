"""CAA: does the owner of a name let this CA issue for it (RFC 8659), this account, proved in this way (RFC 8657)?

Law of this file: only records that were read whole, or a denial by the DNS, permit. Every other answer forbids or is a failure; a
failure at a label hides what is above it, for the records that would have forbidden may be there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pki.clock import Clock, Micros
from pki.identifiers import shown
from validation.dnswire import Malformed
from validation.issuevalue import IssueValue, parse_issue_value
from validation.issuevalue import Malformed as MalformedValue
from validation.outcome import Verdict
from validation.resolver import CaaSet, LookupFailed, Resolver

DEADLINE = 20.0  # seconds for everything
AT_ONCE = 10  # labels that are asked for together; hardly a name has more
MAX_RECORDS_KEPT = 20
CRITICAL = 0x80 | 0x01  # bit 0 is the most significant one (RFC 8659 §4.1); many zones have taken it for the least
_METHODS = re.compile(r"[A-Za-z0-9-]+(?:,[A-Za-z0-9-]+)*")  # RFC 8657 §4


@dataclass(frozen=True, slots=True)
class CaaRecord:
    """One record, with its tag in lower case (RFC 8659 §4.1: tags match without regard to case)."""

    flags: int
    tag: str
    value: bytes

    def __str__(self) -> str:
        return f"{self.flags} {self.tag} {shown(self.value.decode('latin-1'))}"


@dataclass(frozen=True, slots=True)
class Asking:
    """For whom permission is sought. `account_url` is "" and `methods` empty where no ACME account asks: a record that has
    such parameters never fits then.
    """

    wildcard: bool
    issuer_domains: frozenset[str]  # lower case
    account_url: str
    methods: frozenset[str]  # what the issuance rests on: a record has to permit every one


@dataclass(frozen=True, slots=True)
class CaaEvidence:
    """What the DNS said about one name, for the record of the issuance (BR 3.2.2.8, 5.4.1)."""

    name: str  # with its "*."
    domain: str  # whose records counted; "" when there are none up to the root
    records: tuple[str, ...]  # escaped and cut
    asked: tuple[str, ...]  # names, the nearest first
    resolver: str
    secure: bool  # DNSSEC proved every answer that counted
    ttl: int  # seconds, of the records; 0 without any
    checked_at: Micros  # when asking began
    perspectives: tuple[Verdict, ...] = ()  # what remote perspectives saw; empty where none is configured

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "domain": self.domain,
            "records": list(self.records),
            "asked": list(self.asked),
            "resolver": self.resolver,
            "secure": self.secure,
            "ttl": self.ttl,
            "checked_at": self.checked_at,
            "perspectives": [verdict.as_json() for verdict in self.perspectives],
        }


@dataclass(frozen=True, slots=True)
class Permitted:
    detail: str
    evidence: CaaEvidence


@dataclass(frozen=True, slots=True)
class Forbidden:
    """`detail` may be shown to the client; it says which records do it, not what is in them."""

    detail: str
    evidence: CaaEvidence


@dataclass(frozen=True, slots=True)
class Failed:
    """The DNS gave no answer; that is no permission. `detail` may be shown."""

    detail: str
    evidence: CaaEvidence


CaaOutcome = Permitted | Forbidden | Failed


def parse_caa(rdata: bytes) -> CaaRecord:
    """RFC 8659 §4.1. Raises Malformed."""
    if len(rdata) < 2 or not 0 < rdata[1] <= len(rdata) - 2:
        raise Malformed("a CAA record without a whole tag")
    end = 2 + rdata[1]
    tag = rdata[2:end].decode("latin-1")
    if not (tag.isascii() and tag.isalnum()):
        raise Malformed("a CAA record whose tag is not of letters and digits")
    return CaaRecord(rdata[0], tag.lower(), rdata[end:])


def objection(records: Sequence[CaaRecord], asking: Asking) -> str | None:
    """Why these records, the whole set of one name, forbid issuance; None when they do not."""
    for record in records:
        if record.tag not in {"issue", "issuewild", "iodef"} and record.flags & CRITICAL:
            return f"there is a critical property {shown(record.tag)}, which this CA does not know (RFC 8659 §4.1)"
    relevant = [record for record in records if record.tag == "issuewild"] if asking.wildcard else []
    relevant = relevant or [record for record in records if record.tag == "issue"]  # RFC 8659 §4.3
    if not relevant:
        return None
    reasons = [_unfit(record, asking) for record in relevant]
    if None in reasons:
        return None
    nearest = max(reasons, key=lambda reason: reason[0] if reason else 0)  # the one that lacks least tells most
    return f"no {relevant[0].tag} record permits it: {nearest[1] if nearest else ''}"


async def check_caa(
    name: str,
    *,
    wildcard: bool,
    resolver: Resolver,
    issuer_domains: Collection[str],
    account_url: str,
    methods: Collection[str],
    clock: Clock,
    deadline: float = DEADLINE,
) -> CaaOutcome:
    """`name` in A-labels, without its "*."; addresses have no CAA (RFC 8659 §3), so nobody asks for them here.

    The evidence counts from the moment before the first question. Never raises for what the DNS does.
    """
    asking = Asking(wildcard, frozenset(domain.lower() for domain in issuer_domains), account_url, frozenset(methods))
    climb = _Climb(f"*.{name}" if wildcard else name, resolver, clock.micros())
    try:
        async with asyncio.timeout(deadline):
            found = await climb.relevant(name)
    except TimeoutError:
        return Failed(f"the CAA look-ups for {name} took longer than {deadline:g} s", climb.evidence())
    if isinstance(found, LookupFailed):
        return Failed(f"{found}; without its answer nobody knows whether the name's owner forbids issuance", climb.evidence())
    if found is None:
        return Permitted("there are no CAA records up to the root", climb.evidence())
    return _judged(found, asking, climb)


class _Climb:
    """RFC 8659 §3: the records of the nearest name that has any. The way up is the name's own; an alias' target says what the
    records of that one name are, and its parents are nobody's business.
    """

    def __init__(self, name: str, resolver: Resolver, started: Micros) -> None:
        self._name = name
        self._resolver = resolver
        self._started = started
        self._asked: list[str] = []
        self._secure = True
        self._answered_by = ""
        self.domain = ""
        self.records: tuple[str, ...] = ()
        self.ttl = 0

    async def relevant(self, name: str) -> CaaSet | LookupFailed | None:
        """None when there are none up to the root. All labels are asked for at once, ten at a time."""
        labels = name.split(".")
        names = [".".join(labels[i:]) for i in range(len(labels))]
        for start in range(0, len(names), AT_ONCE):
            some = names[start : start + AT_ONCE]
            for each, answer in zip(some, await asyncio.gather(*map(self._ask, some)), strict=True):
                self._asked.append(each)
                self._answered_by = answer.resolver
                self._secure = self._secure and answer.secure
                if isinstance(answer, LookupFailed):
                    return answer
                if answer.records:
                    self.domain, self.ttl = each, answer.ttl
                    return answer
        return None

    async def _ask(self, name: str) -> CaaSet | LookupFailed:
        try:
            return await self._resolver.caa(name)
        except LookupFailed as error:
            return error

    def evidence(self) -> CaaEvidence:
        return CaaEvidence(
            name=self._name,
            domain=self.domain,
            records=self.records,
            asked=tuple(self._asked),
            resolver=self._answered_by,
            secure=self._secure and bool(self._asked),
            ttl=self.ttl,
            checked_at=self._started,
        )


def _judged(found: CaaSet, asking: Asking, climb: _Climb) -> CaaOutcome:
    try:
        records = [parse_caa(rdata) for rdata in found.records]
    except Malformed:
        climb.records = tuple(f"\\# {len(rdata)} {rdata[:100].hex()}" for rdata in found.records[:MAX_RECORDS_KEPT])
        return Forbidden(f"a CAA record of {climb.domain} is malformed, so nobody knows what it forbids", climb.evidence())
    climb.records = tuple(map(str, records[:MAX_RECORDS_KEPT]))
    against = objection(records, asking)
    if against is not None:
        return Forbidden(f"the CAA records of {climb.domain} forbid issuance: {against}", climb.evidence())
    return Permitted(f"the CAA records of {climb.domain} permit issuance", climb.evidence())


def _unfit(record: CaaRecord, asking: Asking) -> tuple[int, str] | None:
    """Why one issue or issuewild record does not permit, and how near it came; None when it does."""
    try:
        value = parse_issue_value(record.value)
    except MalformedValue:
        return 1, "its value is malformed, and so names nobody (RFC 8659 §4.2)"
    if value.domain not in asking.issuer_domains:
        ours = " or ".join(sorted(asking.issuer_domains)) or "no name at all"
        return 0, f"this CA is known as {ours}"
    if not _fits_account(value, asking.account_url):
        return 2, "one names this CA, but another account, or more than one (accounturi, RFC 8657 §3)"
    if not _fits_methods(value, asking.methods):
        return 3, "one names this CA, but not how control was proved (validationmethods, RFC 8657 §4)"
    return None


def _fits_account(value: IssueValue, account_url: str) -> bool:
    match value.values("accounturi"):
        case ():
            return True
        case (only,):
            return bool(account_url) and only == account_url
        case _:
            return False


def _fits_methods(value: IssueValue, methods: frozenset[str]) -> bool:
    match value.values("validationmethods"):
        case ():
            return True
        case (only,):
            return bool(methods) and _METHODS.fullmatch(only) is not None and methods <= set(only.split(","))
        case _:
            return False
