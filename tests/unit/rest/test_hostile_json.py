"""JSON as an attacker with an API key writes it: a refusal, soon."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pki.reasons import Reason, Rejection
from rest.http import MAX_BODY
from rest.messages import parse_object


@contextmanager
def soon() -> Iterator[None]:
    """Not a measure of speed: what is quadratic here takes minutes, what is linear milliseconds."""

    def late(*_: object) -> None:
        raise AssertionError("it takes for ever, and the whole worker with it")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":"' + '\\"' * (MAX_BODY // 2 - 4),
        '{"a":"' + "\\" * (MAX_BODY - 8),
        '{"a":"' + '"' * (MAX_BODY - 8),
        "{" * 30 + '"a' * (MAX_BODY // 2 - 20),
    ],
    ids=["escaped quotes", "backslashes", "quotes", "odd quotes"],
)
def test_a_string_that_never_ends_costs_no_more_than_one_that_does(text: str) -> None:
    with soon(), pytest.raises(Rejection) as refused:
        parse_object(text.encode())
    assert refused.value.reason is Reason.MALFORMED


def test_many_members_and_one_of_them_twice_are_refused_as_soon() -> None:
    members = [f'"{number:x}":1' for number in range(MAX_BODY // 10)]
    with soon(), pytest.raises(Rejection) as refused:
        parse_object(f"{{{','.join([*members, members[-1]])}}}".encode())
    assert "twice" in refused.value.detail


@pytest.mark.parametrize("text", [r'{"profile": "\ud800"}', r'{"profile": ["\udfff x"]}', r'{"\ud800": 1}'])
def test_half_a_character_is_refused(text: str) -> None:
    """RFC 7493 §2.1: no lone surrogates; nothing behind here, the audit first of all, could write one down."""
    with pytest.raises(Rejection) as refused:
        parse_object(text.encode())
    assert refused.value.reason is Reason.MALFORMED


def test_a_whole_character_in_two_escapes_is_read() -> None:
    assert parse_object(rb'{"profile": "\ud83d\ude00"}') == {"profile": "\N{GRINNING FACE}"}
