"""RFC 8555 §7.1.6: every state, and what is derived from it."""

from __future__ import annotations

import itertools

import pytest

from acmeserver.states import (
    AUTHORIZATION_TRANSITIONS,
    ORDER_TRANSITIONS,
    AuthorizationStatus,
    ChallengeStatus,
    OrderEvent,
    OrderStatus,
    StoredAuthorization,
    StoredOrder,
    authorization_status,
    challenge_status,
    order_move,
    order_status,
)
from pki.clock import Micros

NOW, LATER, EARLIER = Micros(1000), Micros(1001), Micros(1000)
P, V, I = AuthorizationStatus.PENDING, AuthorizationStatus.VALID, AuthorizationStatus.INVALID  # noqa: E741  # a table's column


def test_every_stored_state_has_its_transitions() -> None:
    assert set(ORDER_TRANSITIONS) == set(StoredOrder)
    assert set(AUTHORIZATION_TRANSITIONS) == set(StoredAuthorization)


@pytest.mark.parametrize("stored", [StoredOrder.INVALID, StoredOrder.CANCELED])
def test_finished_orders_stay_as_they_are(stored: StoredOrder) -> None:
    assert ORDER_TRANSITIONS[stored] == {}


def test_a_valid_order_can_only_be_canceled() -> None:
    """One that renews itself (RFC 8739 §3.1.2); its statement sees to that."""
    assert ORDER_TRANSITIONS[StoredOrder.VALID] == {OrderEvent.CANCELED: StoredOrder.CANCELED}


@pytest.mark.parametrize("stored", [StoredOrder.VALID, StoredOrder.INVALID, StoredOrder.CANCELED])
def test_neither_time_nor_authorizations_change_a_finished_order(stored: StoredOrder) -> None:
    for authorizations in ([P], [V], [I], []):
        seen = order_status(stored, expires_at=EARLIER, authorizations=authorizations, now=NOW)
        assert seen.value == stored.value


@pytest.mark.parametrize(
    ("authorizations", "expected"),
    [
        ([P], OrderStatus.PENDING),
        ([V, P], OrderStatus.PENDING),
        ([V], OrderStatus.READY),
        ([V, V], OrderStatus.READY),
        ([V, P, I], OrderStatus.INVALID),
        ([V, AuthorizationStatus.DEACTIVATED], OrderStatus.INVALID),
        ([AuthorizationStatus.EXPIRED], OrderStatus.INVALID),
        ([AuthorizationStatus.REVOKED], OrderStatus.INVALID),
        ([], OrderStatus.PENDING),  # never ready without anything proved
    ],
)
def test_an_open_order_is_what_its_authorizations_make_it(
    authorizations: list[AuthorizationStatus], expected: OrderStatus
) -> None:
    assert order_status(StoredOrder.OPEN, expires_at=LATER, authorizations=authorizations, now=NOW) is expected


def test_an_open_order_past_its_time_is_invalid() -> None:
    assert order_status(StoredOrder.OPEN, expires_at=EARLIER, authorizations=[V], now=NOW) is OrderStatus.INVALID


def test_an_authorization_is_never_seen_processing() -> None:
    """certbot takes anything but `pending` for final."""
    for stored, expires_at in itertools.product(StoredAuthorization, (LATER, EARLIER)):
        assert authorization_status(stored, expires_at=expires_at, now=NOW).value != "processing"


@pytest.mark.parametrize("stored", [StoredAuthorization.PENDING, StoredAuthorization.PROCESSING, StoredAuthorization.VALID])
def test_an_authorization_past_its_time_is_expired(stored: StoredAuthorization) -> None:
    assert authorization_status(stored, expires_at=EARLIER, now=NOW) is AuthorizationStatus.EXPIRED


@pytest.mark.parametrize("stored", [StoredAuthorization.INVALID, StoredAuthorization.DEACTIVATED, StoredAuthorization.REVOKED])
def test_an_authorization_that_ended_badly_stays_so(stored: StoredAuthorization) -> None:
    assert AUTHORIZATION_TRANSITIONS[stored] == {}
    assert authorization_status(stored, expires_at=EARLIER, now=NOW).value == stored.value


def test_only_the_challenge_that_was_attempted_shows_the_result() -> None:
    for stored in StoredAuthorization:
        assert challenge_status(stored, chosen=False, in_flight=False) is ChallengeStatus.PENDING
    assert challenge_status(StoredAuthorization.VALID, chosen=True, in_flight=False) is ChallengeStatus.VALID
    assert challenge_status(StoredAuthorization.INVALID, chosen=True, in_flight=False) is ChallengeStatus.INVALID
    assert challenge_status(StoredAuthorization.PENDING, chosen=False, in_flight=True) is ChallengeStatus.PROCESSING


@pytest.mark.parametrize("event", OrderEvent)
def test_every_event_takes_an_order_from_one_state_to_one(event: OrderEvent) -> None:
    """The SQL's compare-and-set is made of these two."""
    old, new = order_move(event)
    assert ORDER_TRANSITIONS[old][event] is new
