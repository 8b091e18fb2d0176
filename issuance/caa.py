"""Step 4: does the domain's owner let this CA issue (RFC 8659, RFC 8657)? Each name is asked about, each has its own evidence.

Law of this file: no evidence is no permission. In 2020 a large CA asked about one name of an order as often as the order had
names, and three million certificates had to be looked at again; so what was found is held against what was wanted, name by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from issuance.evidence import counts
from issuance.plan import Names
from issuance.request import ChallengeEvidence, IssuanceRequest
from pki.clock import Clock, Micros, after
from pki.identifiers import DnsName
from pki.reasons import Reason, Rejection, SubProblem
from policy.profiles import Profile
from validation.caa import CaaEvidence, CaaOutcome, Failed, Forbidden, Permitted

MAX_AGE = timedelta(hours=8)  # BR 3.2.2.8
RETRY = 60  # seconds
AT_ONCE = 16  # names of one request: each is several look-ups


class CaaChecker(Protocol):
    """Asks the DNS, in the name of this CA (`validation.caa.check_caa`). Never raises for what the DNS does."""

    async def __call__(self, name: DnsName, *, account_url: str, methods: frozenset[str]) -> CaaOutcome:
        """`account_url` and `methods` are "" and empty where no ACME account asks: parameters of a record never fit then."""


async def check_caa(
    checker: CaaChecker | None, request: IssuanceRequest, names: Names, profile: Profile, clock: Clock
) -> tuple[CaaEvidence, ...]:
    """Empty where neither profile nor endpoint asks. Addresses have no CAA. Raises Rejection(CAA_FORBIDS).

    A device's common name is asked for where it reads as a host's: for some readers it is one (`Names.to_grant`).
    """
    if not (profile.caa or request.caa):
        return ()
    if checker is None:
        raise Rejection(Reason.CAA_FORBIDS, f"profile {profile.name} asks for CAA checks, which this server is not set up for")
    wanted = [name for name in names.to_grant if isinstance(name, DnsName)]
    now, gate = clock.micros(), asyncio.Semaphore(AT_ONCE)

    async def ask(name: DnsName) -> CaaOutcome:
        async with gate:
            return await checker(name, account_url=request.account_url, methods=_methods(request, name, profile, now))

    outcomes = [_seen_enough(outcome, profile) for outcome in await asyncio.gather(*(ask(name) for name in wanted))]
    evidence = tuple(outcome.evidence for outcome in outcomes)
    _check_evidence(wanted, evidence, clock.micros())
    refused = [outcome for outcome in outcomes if not isinstance(outcome, Permitted)]
    if refused:
        raise _refusal(refused)
    return evidence


def _seen_enough(outcome: CaaOutcome, profile: Profile) -> CaaOutcome:
    """BR 3.2.2.9 asks for as many perspectives on CAA as on control, whatever quorum the server is content with for others."""
    agreeing = sum(verdict.agrees for verdict in outcome.evidence.perspectives)
    if not isinstance(outcome, Permitted) or agreeing >= profile.perspectives_required:
        return outcome
    detail = f"CAA permits it, but profile {profile.name} wants {profile.perspectives_required} perspectives to see that, and"
    return Failed(f"{detail} {agreeing} did", outcome.evidence)


def _refusal(refused: Sequence[Forbidden | Failed]) -> Rejection:
    """Names every one. Where the DNS only failed to answer, the same request may well be granted in a minute."""
    return Rejection(
        Reason.CAA_FORBIDS,
        "; ".join(f"{outcome.evidence.name}: {outcome.detail}" for outcome in refused[:5]),
        sub=[SubProblem(outcome.evidence.name, Reason.CAA_FORBIDS, outcome.detail) for outcome in refused],
        retry_after=RETRY if all(isinstance(outcome, Failed) for outcome in refused) else None,
    )


def _methods(request: IssuanceRequest, name: DnsName, profile: Profile, now: Micros) -> frozenset[str]:
    """What the issuance rests on for this name: every one of them has to be among a record's validationmethods."""
    proofs = [proof for proof in request.evidence if isinstance(proof, ChallengeEvidence)]
    return frozenset(proof.method for proof in proofs if counts(proof, name, profile, now))


def _check_evidence(wanted: Sequence[DnsName], found: Sequence[CaaEvidence], now: Micros) -> None:
    oldest = after(now, -MAX_AGE)
    for name, evidence in zip(wanted, found, strict=True):
        if evidence.name != str(name) or not oldest <= evidence.checked_at <= now:
            raise AssertionError(f"CAA evidence for {evidence.name} of {evidence.checked_at} was about to stand for {name}")
