"""The states of ACME objects (RFC 8555 §7.1.6), as stored and as seen.

Law of this file: only facts are stored. An order row knows whether it is open, being signed, done or failed; whether an open
order is `pending`, `ready` or `invalid` follows from its authorizations and the time, in one function. So there is no moment
in which the authorizations are valid and the order is not yet ready, nor one in which a challenge failed and the order waits.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import assert_never

from pki.clock import Micros


class AccountStatus(enum.Enum):
    VALID = "valid"
    DEACTIVATED = "deactivated"
    REVOKED = "revoked"


class StoredOrder(enum.Enum):
    OPEN = "open"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"
    CANCELED = "canceled"


class OrderEvent(enum.Enum):
    BEGAN = "began"  # finalize won its compare-and-set
    ISSUED = "issued"
    FAILED = "failed"
    RELEASED = "released"  # the signer was away: the client may finalize again
    CANCELED = "canceled"  # by the client, an order that renews itself (RFC 8739 §3.1.2)


class OrderStatus(enum.Enum):
    PENDING = "pending"
    READY = "ready"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"
    CANCELED = "canceled"


class StoredAuthorization(enum.Enum):
    PENDING = "pending"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"
    DEACTIVATED = "deactivated"
    REVOKED = "revoked"


class AuthorizationEvent(enum.Enum):
    PROVED = "proved"
    FAILED = "failed"
    DEACTIVATED = "deactivated"  # by the client, §7.5.2


class AuthorizationStatus(enum.Enum):
    """No `processing` here: certbot takes any status but `pending` for final."""

    PENDING = "pending"
    VALID = "valid"
    INVALID = "invalid"
    DEACTIVATED = "deactivated"
    EXPIRED = "expired"
    REVOKED = "revoked"


class ChallengeStatus(enum.Enum):
    PENDING = "pending"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"


_O, _A = StoredOrder, StoredAuthorization

ORDER_TRANSITIONS: Mapping[StoredOrder, Mapping[OrderEvent, StoredOrder]] = MappingProxyType(
    {
        _O.OPEN: {OrderEvent.BEGAN: _O.PROCESSING},
        _O.PROCESSING: {OrderEvent.ISSUED: _O.VALID, OrderEvent.FAILED: _O.INVALID, OrderEvent.RELEASED: _O.OPEN},
        _O.VALID: {OrderEvent.CANCELED: _O.CANCELED},
        _O.INVALID: {},
        _O.CANCELED: {},
    }
)

_ATTEMPT = {
    AuthorizationEvent.PROVED: _A.VALID,
    AuthorizationEvent.FAILED: _A.INVALID,
    AuthorizationEvent.DEACTIVATED: _A.DEACTIVATED,
}

AUTHORIZATION_TRANSITIONS: Mapping[StoredAuthorization, Mapping[AuthorizationEvent, StoredAuthorization]] = MappingProxyType(
    {
        _A.PENDING: _ATTEMPT,
        _A.PROCESSING: _ATTEMPT,
        _A.VALID: {AuthorizationEvent.DEACTIVATED: _A.DEACTIVATED},
        _A.INVALID: {},
        _A.DEACTIVATED: {},
        _A.REVOKED: {},
    }
)


def order_move(event: OrderEvent) -> tuple[StoredOrder, StoredOrder]:
    """From where to where an event takes an order: the two sides of its compare-and-set."""
    ((old, new),) = [(old, moves[event]) for old, moves in ORDER_TRANSITIONS.items() if event in moves]
    return old, new


def authorization_status(stored: StoredAuthorization, *, expires_at: Micros, now: Micros) -> AuthorizationStatus:
    """What the client sees of an authorization."""
    match stored:
        case StoredAuthorization.PENDING | StoredAuthorization.PROCESSING | StoredAuthorization.VALID if now >= expires_at:
            return AuthorizationStatus.EXPIRED
        case StoredAuthorization.PENDING | StoredAuthorization.PROCESSING:
            return AuthorizationStatus.PENDING
        case StoredAuthorization.VALID:
            return AuthorizationStatus.VALID
        case StoredAuthorization.INVALID:
            return AuthorizationStatus.INVALID
        case StoredAuthorization.DEACTIVATED:
            return AuthorizationStatus.DEACTIVATED
        case StoredAuthorization.REVOKED:
            return AuthorizationStatus.REVOKED
        case _:
            assert_never(stored)


def order_status(
    stored: StoredOrder, *, expires_at: Micros, authorizations: Iterable[AuthorizationStatus], now: Micros
) -> OrderStatus:
    """What the client sees of an order: the one place where it is derived."""
    match stored:
        case StoredOrder.PROCESSING:
            return OrderStatus.PROCESSING
        case StoredOrder.VALID:
            return OrderStatus.VALID
        case StoredOrder.INVALID:
            return OrderStatus.INVALID
        case StoredOrder.CANCELED:
            return OrderStatus.CANCELED
        case StoredOrder.OPEN:
            seen = set(authorizations)
            if now >= expires_at or seen - {AuthorizationStatus.PENDING, AuthorizationStatus.VALID}:
                return OrderStatus.INVALID
            return OrderStatus.READY if seen == {AuthorizationStatus.VALID} else OrderStatus.PENDING
        case _:
            assert_never(stored)


def challenge_status(stored: StoredAuthorization, *, chosen: bool, in_flight: bool) -> ChallengeStatus:
    """What the client sees of one challenge; `chosen` says that it is the one that was attempted."""
    match stored:
        case StoredAuthorization.PENDING:
            return ChallengeStatus.PROCESSING if in_flight else ChallengeStatus.PENDING
        case StoredAuthorization.PROCESSING:
            return ChallengeStatus.PROCESSING if chosen or in_flight else ChallengeStatus.PENDING
        case StoredAuthorization.INVALID:
            return ChallengeStatus.INVALID if chosen else ChallengeStatus.PENDING
        case StoredAuthorization.VALID | StoredAuthorization.DEACTIVATED | StoredAuthorization.REVOKED:
            return ChallengeStatus.VALID if chosen else ChallengeStatus.PENDING
        case _:
            assert_never(stored)
