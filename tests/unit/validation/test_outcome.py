"""Every way to fail has its ACME problem type."""

from __future__ import annotations

from validation.outcome import PROBLEMS, FailureKind


def test_every_kind_of_failure_has_a_problem_type_of_rfc_8555() -> None:
    assert set(PROBLEMS) == set(FailureKind)
    assert set(PROBLEMS.values()) <= {"dns", "connection", "tls", "unauthorized", "incorrectResponse", "malformed"}
