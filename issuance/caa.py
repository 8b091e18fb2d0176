"""Step 4: does the domain's owner let this CA issue (RFC 8659, RFC 8657)? Each name is asked about, each has its own evidence.

Law of this file: no evidence is no permission. In 2020 a large CA asked about one name of an order as often as the order had
names, and three million certificates had to be looked at again; so what was found is held against what was wanted, name by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from issuance.evidence import counts
from issuance.plan import Names
from issuance.request import ChallengeEvidence, IssuanceRequest
from pki.clock import Clock, Micros, after
from pki.identifiers import DnsName
from pki.reasons import Reason, Rejection, SubProblem
from policy.profiles import Profile

MAX_AGE = timedelta(hours=8)  # BR 3.2.2.8
AT_ONCE = 16  # names of one request: each is several look-ups


@dataclass(frozen=True, slots=True)
class CaaEvidence:
    """What the DNS said about one name."""

    name: DnsName
    permitted: bool
    detail: str  # one sentence: which records, found where; or why they forbid it. Shown to the client.
    checked_at: Micros
    records: tuple[str, ...] = ()  # as found, escaped and cut
    domain: str = ""  # where the tree climbing ended (RFC 8659 §3); "" when there are no records at all

    def as_json(self) -> dict[str, object]:
        return {
            "name": str(self.name),
            "domain": self.domain,
            "records": list(self.records),
            "detail": self.detail,
            "checked_at": self.checked_at,
        }


class CaaChecker(Protocol):
    """Asks the DNS. Never raises for what the DNS says; a look-up that gave no answer is not permitted."""

    async def __call__(self, name: DnsName, *, account_url: str, methods: frozenset[str]) -> CaaEvidence:
        """`account_url` and `methods` are "" and empty where no ACME account asks: parameters of a record never fit then.

        Raises Unavailable when our own resolver is away.
        """


async def check_caa(
    checker: CaaChecker | None, request: IssuanceRequest, names: Names, profile: Profile, clock: Clock
) -> tuple[CaaEvidence, ...]:
    """Empty where neither profile nor endpoint asks. Addresses have no CAA. Raises Rejection(CAA_FORBIDS), Unavailable."""
    if not (profile.caa or request.caa):
        return ()
    if checker is None:
        raise Rejection(Reason.CAA_FORBIDS, f"profile {profile.name} asks for CAA checks, which this server is not set up for")
    wanted = [name for name in names.identifiers if isinstance(name, DnsName)]
    now, gate = clock.micros(), asyncio.Semaphore(AT_ONCE)

    async def ask(name: DnsName) -> CaaEvidence:
        async with gate:
            return await checker(name, account_url=request.account_url, methods=_methods(request, name, profile, now))

    found = await asyncio.gather(*(ask(name) for name in wanted))
    _check_found(wanted, found, clock.micros())
    refused = [each for each in found if not each.permitted]
    if refused:
        raise Rejection(
            Reason.CAA_FORBIDS,
            "; ".join(f"{each.name}: {each.detail}" for each in refused[:5]),
            sub=[SubProblem(str(each.name), Reason.CAA_FORBIDS, each.detail) for each in refused],
        )
    return tuple(found)


def _methods(request: IssuanceRequest, name: DnsName, profile: Profile, now: Micros) -> frozenset[str]:
    """What the issuance rests on for this name: every one of them has to be among a record's validationmethods."""
    proofs = [proof for proof in request.evidence if isinstance(proof, ChallengeEvidence)]
    return frozenset(proof.method for proof in proofs if counts(proof, name, profile, now))


def _check_found(wanted: Sequence[DnsName], found: Sequence[CaaEvidence], now: Micros) -> None:
    oldest = after(now, -MAX_AGE)
    for name, evidence in zip(wanted, found, strict=True):
        if evidence.name != name or not oldest <= evidence.checked_at <= now:
            raise AssertionError(f"CAA evidence for {evidence.name} of {evidence.checked_at} was about to stand for {name}")
