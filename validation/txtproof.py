"""What the methods that live on TXT records share: one look-up, a judge over what came, and the evidence of both.

Law of this file: whatever the DNS does, an Outcome is returned within the deadline. What the records hold goes into the
evidence, escaped and cut, and never to the client: else a validation would be a way to read what only our network can see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pki.clock import Clock, Micros
from pki.identifiers import DnsName, shown
from validation.challenge import Challenge
from validation.outcome import AttemptEvidence, Failed, FailureKind, Outcome, Proved
from validation.resolver import DnsFault, LookupFailed, Resolver, Texts

DEADLINE = 10.0  # seconds
MAX_RECORDS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Shown:
    """The records prove control; not to be relied on after `until`."""

    until: Micros | None = None


@dataclass(frozen=True, slots=True)
class NotShown:
    """`why` completes the sentence "there are 3 TXT records at NAME, ..."."""

    why: str


Judge = Callable[[Sequence[bytes]], Shown | NotShown]


def base_name(challenge: Challenge) -> str:
    """The name whose control is to be proved. Raises TypeError for a caller's mistake only: an address has no TXT record."""
    if not isinstance(challenge.identifier, DnsName):
        raise TypeError("an address is not proved in the DNS (RFC 8738 §7)")
    return challenge.identifier.name


async def attempt(
    method: str, challenge: Challenge, name: str, judge: Judge, *, resolver: Resolver, clock: Clock, deadline: float
) -> Outcome:
    """One look-up of the TXT records at `name`."""
    started = clock.micros()
    answer: Texts | LookupFailed | None = None
    try:
        async with asyncio.timeout(deadline):
            answer = await resolver.txt(name)
    except LookupFailed as error:
        answer = error
    except TimeoutError:
        pass
    values = answer.values if isinstance(answer, Texts) else ()
    evidence = AttemptEvidence(
        method=method,
        identifier=str(challenge.identifier),
        resolver=answer.resolver if answer is not None else "",
        records=_kept(name, values),
        secure=answer.secure if answer is not None else None,
        started=started,
        finished=clock.micros(),
    )
    if not isinstance(answer, Texts):
        kind, detail = _absence(name, answer, deadline)
        return Failed(kind, f"{method} for {challenge.identifier}: {detail}", evidence)
    verdict = judge(answer.values)
    if isinstance(verdict, Shown):
        return Proved(evidence, until=verdict.until)
    count = len(answer.values)
    there = "there is 1 TXT record" if count == 1 else f"there are {count} TXT records"
    detail = f"{method} for {challenge.identifier}: {there} at {name}, {verdict.why}"
    return Failed(FailureKind.UNAUTHORIZED, detail, evidence)


def _absence(name: str, answer: LookupFailed | None, deadline: float) -> tuple[FailureKind, str]:
    match answer:
        case None:
            return (
                FailureKind.DNS,
                f"the DNS look-up of TXT records for {name} took too long; the whole attempt has {deadline:g} s",
            )
        case LookupFailed(fault=DnsFault.NO_DATA):
            return (
                FailureKind.UNAUTHORIZED,
                f"there is no TXT record at {name}; add it, and wait until all name servers have it",
            )
        case LookupFailed(fault=DnsFault.NXDOMAIN):
            return (
                FailureKind.DNS,
                f"{name} does not exist (NXDOMAIN); add a TXT record there, and wait until all name servers have it",
            )
        case _:
            return FailureKind.DNS, str(answer)


def _kept(name: str, values: Sequence[bytes]) -> tuple[str, ...]:
    records = [f"{name} TXT {shown(value.decode('latin-1'))}" for value in values[:MAX_RECORDS_KEPT]]
    if len(values) > MAX_RECORDS_KEPT:
        records.append(f"and {len(values) - MAX_RECORDS_KEPT} more")
    return tuple(records)
