"""What is seen of a validation from outside: a metric always, a log line when it failed."""

from __future__ import annotations

import json
import os

from certwright.logs import Log
from certwright.measure import measured_method
from certwright.metrics import Metrics
from pki.clock import Micros
from pki.identifiers import parse_dns
from tests.helpers.challenges import challenge as make_challenge
from tests.helpers.clock import FakeClock
from validation.challenge import Challenge
from validation.outcome import AttemptEvidence, Failed, FailureKind, Outcome, Proved

NAME = parse_dns("a.example.com")
EVIDENCE = AttemptEvidence("http-01", "a.example.com", "system", started=Micros(0), finished=Micros(1))


async def lines_of(outcome: Outcome, clock: FakeClock) -> list[dict[str, object]]:
    asked = make_challenge(NAME, "token.thumbprint")

    async def method(challenge: Challenge) -> Outcome:
        assert challenge is asked
        return outcome

    read, write = os.pipe()
    log = Log(clock=clock, process="worker-0", descriptor=write)
    measured = measured_method("http-01", method, metrics=Metrics(), log=log, now=lambda: 0.0)
    assert await measured(asked) is outcome
    os.close(write)
    written = os.read(read, 65536)
    os.close(read)
    return [json.loads(line) for line in written.splitlines()]


async def test_a_failed_validation_says_in_the_log_what_the_client_is_told(clock: FakeClock) -> None:
    failed = Failed(FailureKind.CONNECTION, "a.example.com could not be connected to", EVIDENCE)
    (line,) = await lines_of(failed, clock)
    assert (line["event"], line["identifier"], line["detail"]) == ("validation failed", "a.example.com", failed.detail)
    assert "token" not in json.dumps(line)


async def test_a_proved_one_says_nothing(clock: FakeClock) -> None:
    assert await lines_of(Proved(EVIDENCE), clock) == []
