"""RFC 8555 §6.7 as a table: total, and with the statuses that clients key off."""

from __future__ import annotations

import pytest

from acmeserver.problems import (
    PROBLEMS,
    Problem,
    ProblemType,
    WireIdentifier,
    WireSubProblem,
    default_status,
    from_rejection,
    from_unavailable,
)
from pki.reasons import Reason, Rejection, SubProblem, Unavailable
from validation.outcome import PROBLEMS as VALIDATION_PROBLEMS


def test_every_reason_has_its_problem() -> None:
    assert set(PROBLEMS) == set(Reason)


def test_every_failure_of_a_validation_has_its_problem() -> None:
    for name in VALIDATION_PROBLEMS.values():
        assert ProblemType(name) in ProblemType


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("unauthorized", 403),
        ("caa", 403),
        ("orderNotReady", 403),
        ("userActionRequired", 403),
        ("externalAccountRequired", 403),
        ("rateLimited", 429),
        ("serverInternal", 500),
        ("malformed", 400),
        ("badNonce", 400),
        ("accountDoesNotExist", 400),
        ("alreadyRevoked", 400),
    ],
)
def test_statuses_are_those_that_clients_know(kind: str, status: int) -> None:
    assert default_status(ProblemType(kind)) == status


def test_a_rejection_is_rendered_with_what_to_do_and_each_names_share() -> None:
    rejection = Rejection(
        Reason.REJECTED_IDENTIFIER,
        "two names are refused",
        sub=[
            SubProblem("dns:a.example.com", Reason.REJECTED_IDENTIFIER, "not yours"),
            SubProblem("192.0.2.1", Reason.CAA_FORBIDS, "CAA"),
            SubProblem("no name at all", Reason.MALFORMED, "what is it"),
        ],
        suggestions=["ask for *.example.org"],
    )
    assert from_rejection(rejection).json() == {
        "type": "urn:ietf:params:acme:error:rejectedIdentifier",
        "status": 400,
        "detail": "two names are refused; ask for *.example.org",
        "subproblems": [
            {
                "type": "urn:ietf:params:acme:error:rejectedIdentifier",
                "detail": "not yours",
                "identifier": {"type": "dns", "value": "a.example.com"},
            },
            {"type": "urn:ietf:params:acme:error:caa", "detail": "CAA", "identifier": {"type": "ip", "value": "192.0.2.1"}},
            {"type": "urn:ietf:params:acme:error:malformed", "detail": "what is it"},
        ],
    }


def test_rate_limits_and_outages_say_when_to_come_back() -> None:
    assert from_rejection(Rejection(Reason.RATE_LIMITED, "slow down", retry_after=60)).retry_after == 60
    outage = from_unavailable(Unavailable("postgresql at 10.1.2.3", retry_after=9))
    assert (outage.status, outage.retry_after) == (503, 9)
    assert "10.1.2.3" not in outage.detail


def test_bad_signature_algorithm_lists_what_is_taken() -> None:
    content = Problem(ProblemType.BAD_SIGNATURE_ALGORITHM, "no", algorithms=("ES256",)).json()
    assert content["algorithms"] == ["ES256"]


def test_subproblems_come_last() -> None:
    part = WireSubProblem(ProblemType.CAA, "no", WireIdentifier("dns", "a"))
    assert list(Problem(ProblemType.COMPOUND, "some", sub=(part,)).json())[-1] == "subproblems"
