"""Several perspectives: control is proved when it is proved here and enough others see the same (CA/B BR 3.2.2.9, SC-067).

Whoever diverts our traffic or our DNS would else be given certificates for names that are not his; to divert that of most
perspectives at once is much harder. Law of this file: a perspective that does not answer, or answers nonsense, does not agree; and
no attempt borrows a verdict from another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

from pki.identifiers import DnsName
from validation.caa import CaaOutcome, Forbidden, Permitted
from validation.caa import Failed as CaaFailed
from validation.challenge import Challenge
from validation.methods import Method
from validation.outcome import Failed, FailureKind, Outcome, Proved, Verdict
from validation.perspectivewire import CaaQuestion, Question

GRACE = 1.0  # seconds that the slow ones still have when the verdict stands already


class Perspective(Protocol):
    """One remote agent. Both give a Verdict in bounded time, and never raise."""

    @property
    def name(self) -> str: ...

    async def validate(self, question: Question) -> Verdict: ...

    async def caa(self, question: CaaQuestion) -> Verdict: ...


def agreeing_needed(perspectives: int) -> int:
    """BR 3.2.2.9: of 2 to 5 remote perspectives one may differ, of 6 and more two."""
    may_differ = 0 if perspectives < 2 else 1 if perspectives <= 5 else 2
    return perspectives - may_differ


def corroborated(kind: str, local: Method, perspectives: Sequence[Perspective], *, needed: int) -> Method:
    """The method, attempted here and at every perspective at the same time."""

    async def attempt(challenge: Challenge) -> Outcome:
        question = Question(kind, challenge)
        asking = [asyncio.create_task(one.validate(question), name=one.name) for one in perspectives]
        try:
            outcome = await local(challenge)
            if isinstance(outcome, Failed):
                return outcome  # nothing that they could say would change it
            verdicts = await verdicts_of(asking, needed)
        finally:
            await _end(asking)
        return _weighed(kind, outcome, verdicts, needed)

    return attempt


class CaaCheck(Protocol):
    """Never raises for what the DNS does."""

    async def __call__(self, name: DnsName, *, account_url: str, methods: frozenset[str]) -> CaaOutcome: ...


def corroborated_caa(
    local: CaaCheck, perspectives: Sequence[Perspective], *, needed: int, issuer_domains: Collection[str]
) -> CaaCheck:
    """The check, made here and at every perspective at the same time (BR 3.2.2.9 asks for both, control and CAA)."""

    async def check(name: DnsName, *, account_url: str, methods: frozenset[str]) -> CaaOutcome:
        question = CaaQuestion(name, frozenset(issuer_domains), account_url, methods)
        asking = [asyncio.create_task(one.caa(question), name=one.name) for one in perspectives]
        try:
            outcome = await local(name, account_url=account_url, methods=methods)
            if not isinstance(outcome, Permitted):
                return outcome
            verdicts = await verdicts_of(asking, needed)
        finally:
            await _end(asking)
        evidence = replace(outcome.evidence, perspectives=verdicts)
        lacking = shortfall(verdicts, needed)
        if lacking is None:
            return replace(outcome, evidence=evidence)
        forbidden = any(verdict.kind == "forbidden" for verdict in verdicts)
        return (Forbidden if forbidden else CaaFailed)(f"CAA permits it as seen from here, but {lacking}", evidence)

    return check


async def verdicts_of(asking: Collection[asyncio.Task[Verdict]], needed: int) -> tuple[Verdict, ...]:
    """Those of all; but once it is clear whether enough agree, nobody waits longer than GRACE for the rest."""
    pending = set(asking)
    while pending:
        agreeing = sum(task.done() and task.result().agrees for task in asking)
        clear = agreeing >= needed or agreeing + len(pending) < needed
        _, pending = await asyncio.wait(
            pending, timeout=GRACE if clear else None, return_when=asyncio.ALL_COMPLETED if clear else asyncio.FIRST_COMPLETED
        )
        if clear:
            break
    late = "it had not answered yet when the others had"
    return tuple(task.result() if task.done() else Verdict(task.get_name(), agrees=False, detail=late) for task in asking)


def shortfall(verdicts: Sequence[Verdict], needed: int) -> str | None:
    """None when enough agree; else one clause for the client, in which nothing is a perspective's own words."""
    agreeing = sum(verdict.agrees for verdict in verdicts)
    if agreeing >= needed:
        return None
    others = ", ".join(f"{verdict.perspective} ({verdict.kind or 'no answer'})" for verdict in verdicts if not verdict.agrees)
    return (
        f"of {len(verdicts)} other places of the network {agreeing} see it too, and {needed} must; these do not: {others}. "
        "Does every part of the world get the same answers?"
    )


def _weighed(kind: str, outcome: Proved, verdicts: tuple[Verdict, ...], needed: int) -> Outcome:
    evidence = replace(outcome.evidence, perspectives=verdicts)
    lacking = shortfall(verdicts, needed)
    if lacking is None:
        return replace(outcome, evidence=evidence)
    detail = f"{kind} for {evidence.identifier}: it is proved from here, but {lacking}"
    return Failed(FailureKind.PERSPECTIVES, detail, evidence)


async def _end(asking: Collection[asyncio.Task[Verdict]]) -> None:
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
