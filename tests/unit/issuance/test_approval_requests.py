"""What an approval is bound to, how its states follow each other, and when a client should ask again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from issuance.approval_requests import LATEST, SOONEST, TRANSITIONS, Change, State, approval_digest, move, retry_after
from issuance.plan import Names
from issuance.request import ApiKey, Channel, IssuanceRequest
from pki.clock import Micros
from pki.csr import parse_csr
from pki.identifiers import DnsName
from policy.principal import Principal, PrincipalKind
from tests.helpers.ca import make_csr
from tests.helpers.profiles import profile

CSR = parse_csr(make_csr("a.example.com"))
REQUEST = IssuanceRequest(
    channel=Channel.REST,
    endpoint="default",
    principal=Principal(PrincipalKind.API_KEY, "k1", frozenset({"tester"})),
    evidence=(ApiKey("k1"),),
    profile="tls-server",
    csr=CSR,
    identifiers=CSR.identifiers,
)
NAMES = Names(CSR.identifiers, None)


@pytest.mark.parametrize(
    ("age", "seconds"),
    [
        (timedelta(seconds=-5), 30),  # the clocks of two nodes
        (timedelta(0), 30),
        (timedelta(minutes=4), 30),
        (timedelta(minutes=8), 60),
        (timedelta(hours=1), 450),
        (timedelta(hours=8), 3600),
        (timedelta(days=6), 3600),
    ],
)
def test_the_longer_it_has_waited_the_later_it_is_asked_for_again(age: timedelta, seconds: int) -> None:
    assert retry_after(age) == seconds


@given(st.timedeltas(min_value=timedelta(days=-1), max_value=timedelta(days=4000)), st.timedeltas(min_value=timedelta(0)))
def test_it_never_falls_and_stays_in_its_bounds(age: timedelta, more: timedelta) -> None:
    later = min(age, timedelta(days=4000)) + min(more, timedelta(days=4000))
    assert SOONEST.total_seconds() <= retry_after(age) <= retry_after(later) <= LATEST.total_seconds()


def test_every_state_is_in_the_table_and_what_is_over_is_over() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {change for changes in TRANSITIONS.values() for change in changes} == set(Change)
    assert TRANSITIONS[State.EXPIRED] == TRANSITIONS[State.DENIED] == {}
    # Only an approval leads to a certificate, and nothing leads to an approval but a decision, or the end of an attempt.
    assert [state for state in State if State.ISSUED in TRANSITIONS[state].values()] == [State.APPROVED]
    assert {change for changes in TRANSITIONS.values() for change, to in changes.items() if to is State.APPROVED} == {
        Change.APPROVED,
        Change.RELEASED,
    }


def test_a_change_that_the_table_does_not_know_is_a_bug() -> None:
    for state in State:
        for change in set(Change) - set(TRANSITIONS[state]):
            with pytest.raises(KeyError):
                move(state, change)


def test_the_digest_is_of_what_is_asked_and_not_of_when_or_with_what_proof() -> None:
    digest = approval_digest(REQUEST, NAMES, profile())
    same = [
        replace(REQUEST, evidence=(ApiKey("k1"), ApiKey("k1"))),
        replace(REQUEST, idempotency_key="once"),
        replace(REQUEST, require_approval=True),
        replace(REQUEST, principal=replace(REQUEST.principal, source_address="203.0.113.5", roles=frozenset())),
        replace(REQUEST, csr=replace(CSR, der=b"", sha256="", subject=b"", challenge_password="x")),
    ]
    assert {approval_digest(request, NAMES, profile()) for request in same} == {digest}
    assert approval_digest(REQUEST, NAMES, profile(description="other words")) == digest


def test_no_two_wishes_have_one_digest() -> None:
    a, b = DnsName("a.example.com"), DnsName("b.example.com")
    wishes = [
        (REQUEST, NAMES, profile()),
        (REQUEST, Names((a, b), None), profile()),
        (REQUEST, Names((b, a), None), profile()),  # the first is the subject's common name
        (REQUEST, Names((a,), "b.example.com"), profile()),
        (REQUEST, Names((), "a.example.com"), profile()),
        (REQUEST, NAMES, profile("other")),
        (REQUEST, NAMES, profile(must_staple=True)),
        (replace(REQUEST, csr=replace(CSR, spki_sha256="0" * 64)), NAMES, profile()),
        (replace(REQUEST, asked_with=CSR), NAMES, profile()),
        (replace(REQUEST, not_after=Micros(1)), NAMES, profile()),
        (replace(REQUEST, not_before=Micros(1)), NAMES, profile()),
        (replace(REQUEST, endpoint=""), NAMES, profile()),
        (replace(REQUEST, channel=Channel.EST), NAMES, profile()),
        (replace(REQUEST, principal=replace(REQUEST.principal, id="k2")), NAMES, profile()),
        (replace(REQUEST, principal=replace(REQUEST.principal, kind=PrincipalKind.EST_USER)), NAMES, profile()),
    ]
    assert len({approval_digest(*wish) for wish in wishes}) == len(wishes)


def test_a_key_that_we_make_is_no_part_of_the_wish() -> None:
    """Each attempt has another."""
    ours = [parse_csr(make_csr("a.example.com")) for _ in range(2)]
    digests = {approval_digest(replace(REQUEST, csr=csr, asked_with=CSR), NAMES, profile()) for csr in ours}
    assert len(digests) == 1
