"""RFC 7030 §4.2.3: a refusal is a 4xx or 5xx with a text for people."""

from __future__ import annotations

from est.errors import STATUS, explanation, retry_after
from pki.reasons import Reason, Rejection, SubProblem


def test_every_reason_has_a_status() -> None:
    assert set(STATUS) == set(Reason)


def test_only_a_restart_of_ours_is_a_server_error() -> None:
    assert {reason for reason, status in STATUS.items() if status >= 500} == {Reason.INTERRUPTED}
    assert {reason for reason, status in STATUS.items() if status == 401} == {Reason.UNAUTHENTICATED}


def test_the_text_says_what_to_which_name_and_what_to_do() -> None:
    sub = SubProblem("b.example", Reason.FORBIDDEN, "not yours")
    rejection = Rejection(Reason.FORBIDDEN, "policy says no", sub=[sub], suggestions=["ask for a.example"])
    assert explanation(rejection) == "policy says no\nb.example: not yours\nask for a.example\n"


def test_whoever_may_come_back_is_told_when() -> None:
    assert retry_after(Rejection(Reason.INTERRUPTED, "x")) == 5
    assert retry_after(Rejection(Reason.RATE_LIMITED, "x", retry_after=60)) == 60
    assert retry_after(Rejection(Reason.FORBIDDEN, "x")) is None
