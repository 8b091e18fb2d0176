"""RFC 9457, and the members that older programs look for."""

from __future__ import annotations

import pytest

from pki.reasons import Reason, Rejection, SubProblem
from rest.problems import PROBLEMS, HttpRefusal, Kind, document, retry_after


def test_every_reason_has_a_problem() -> None:
    assert set(PROBLEMS) == set(Reason)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_problem_has_all_members_in_their_types(reason: Reason) -> None:
    members = document(Rejection(reason, "what happened", suggestions=["what to do"]))
    assert members == {
        "type": f"urn:certwright:problem:{reason.value}",
        "title": PROBLEMS[reason].title,
        "status": PROBLEMS[reason].kind.value,
        "detail": "what happened",
        "error": "what happened",
        "retry_allowed": PROBLEMS[reason].kind is not Kind.AUTHORIZATION,
        "suggestions": ["what to do"],
    }


def test_asking_again_helps_nobody_who_is_not_allowed() -> None:
    assert {reason for reason, problem in PROBLEMS.items() if not problem.retry_allowed} == {
        Reason.UNAUTHENTICATED,
        Reason.FORBIDDEN,
    }


def test_a_problem_with_some_names_lists_them() -> None:
    sub = SubProblem("b.example", Reason.CAA_FORBIDS, "its CAA record names others")
    assert document(Rejection(Reason.CAA_FORBIDS, "x", sub=[sub]))["subproblems"] == [
        {"type": "urn:certwright:problem:caa-forbids", "identifier": "b.example", "detail": "its CAA record names others"}
    ]


def test_whoever_may_come_back_is_told_when() -> None:
    assert retry_after(Rejection(Reason.INTERRUPTED, "x")) == 5
    assert retry_after(Rejection(Reason.RATE_LIMITED, "x", retry_after=60)) == 60
    assert retry_after(Rejection(Reason.FORBIDDEN, "x")) is None


def test_a_refusal_by_http_is_a_problem_too() -> None:
    members = HttpRefusal(405, "method-not-allowed", "Method not allowed", "use GET here", allow="GET").document()
    assert members["type"] == "urn:certwright:problem:method-not-allowed"
    assert members["status"] == "validation_error"
