"""A self-renewing order's share in the pipeline's transactions (RFC 8739; issuance.request.Settler).

Law of this file: a slot is begun once, by compare-and-set on its number, and recorded only while the order still wants it. What
was canceled meanwhile is not recorded, so nobody gets it, and the sweeper revokes its serial.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from acmeserver import store
from acmeserver.problems import from_rejection
from acmeserver.settlement import begin_step
from acmeserver.star import Slot, slot_from
from acmeserver.states import OrderEvent, order_move
from issuance.request import IssuedCertificate
from pki.clock import Micros, after
from pki.reasons import Reason, Rejection
from storage.database import Step

RETRY = timedelta(minutes=1)

BEGIN_FIRST_SQL = """
UPDATE acme_star SET begun = 1 WHERE order_id = $1 AND state = 'waiting' AND number = 0 AND begun = 0 AND csr_sha256 = $2
"""
# The account is valid, its external key is not revoked, and it has given no authorization up; how old its proofs may be is the
# pipeline's to judge.
BEGIN_NEXT_SQL = """
UPDATE acme_star SET begun = 1 WHERE order_id = $1 AND state = 'active' AND number = $2 AND begun = 0 AND csr_sha256 = $3
    AND ends_at > $4 AND EXISTS (SELECT 1 FROM acme_account a WHERE a.id = acme_star.account_id AND a.status = 'valid'
        AND (a.external_kid = '' OR EXISTS (SELECT 1 FROM acme_external_key e WHERE e.kid = a.external_kid
            AND e.revoked_at IS NULL)))
    AND EXISTS (SELECT 1 FROM acme_order o WHERE o.id = acme_star.order_id AND o.status = 'valid')
    AND NOT EXISTS (SELECT 1 FROM acme_order_authorization oa JOIN acme_authorization z ON z.id = oa.authorization_id
        WHERE oa.order_id = acme_star.order_id AND z.status <> 'valid')
"""
RECORD_SQL = """
UPDATE acme_star SET state = 'active', number = number + 1, begun = 0, first_at = $4, next_at = $5, issuer = $6, serial = $7,
    failures = 0 WHERE order_id = $1 AND state = $2 AND number = $3 AND begun = 1
"""
REMEMBER_SQL = "INSERT INTO acme_star_certificate (issuer, serial, order_id, number) VALUES ($1, $2, $3, $4)"
VALID_SQL = "UPDATE acme_order SET status = $3, expires_at = $4 WHERE id = $1 AND status = $2"
UNDO_SQL = "UPDATE acme_star SET begun = 0 WHERE order_id = $1 AND number = $2 AND begun = 1"
FAIL_SQL = """
UPDATE acme_star SET begun = 0, failures = failures + 1, next_at = $3 WHERE order_id = $1 AND number = $2 AND state = 'active'
"""


class StarSettler:
    """Register it in the pipeline for origins of the kind "acme-star"."""

    def began(self, origin_id: str, *, now: Micros, key: str = "") -> Sequence[Step]:
        slot = slot_from(origin_id)
        if slot.number:
            return [Step(BEGIN_NEXT_SQL, (slot.order_id, slot.number, slot.csr, now))]
        return [
            begin_step(slot.order_id, now, key),
            Step(BEGIN_FIRST_SQL, (slot.order_id, slot.csr)),
        ]

    def issued(self, origin_id: str, certificate: IssuedCertificate, *, now: Micros) -> Sequence[Step]:  # noqa: ARG002  # Settler
        slot = slot_from(origin_id)
        key = (certificate.issuer, certificate.serial)
        state = "active" if slot.number else "waiting"
        following = slot.following
        next_at = 0 if following.beyond else following.not_before
        steps = [
            Step(RECORD_SQL, (slot.order_id, state, slot.number, slot.first_at, next_at, *key)),
            Step(REMEMBER_SQL, (*key, slot.order_id, slot.number)),
        ]
        if not slot.number:
            old, new = order_move(OrderEvent.ISSUED)
            steps.append(Step(VALID_SQL, (slot.order_id, old.value, new.value, slot.ends_at)))
        return steps

    def failed(self, origin_id: str, rejection: Rejection, *, now: Micros) -> Sequence[Step]:
        """The first certificate decides about the order; a later one is tried again, with another serial."""
        slot = slot_from(origin_id)
        if slot.number:
            return [Step(FAIL_SQL, (slot.order_id, slot.number, after(now, RETRY)), rows=None)]
        error = store.to_json(from_rejection(rejection).json())
        return [_first(slot, OrderEvent.FAILED, error), _undo(slot)]

    def released(self, origin_id: str, *, now: Micros) -> Sequence[Step]:  # noqa: ARG002  # Settler
        slot = slot_from(origin_id)
        return [_undo(slot)] if slot.number else [_first(slot, OrderEvent.RELEASED, ""), _undo(slot)]

    def not_begun(self) -> Rejection:
        return Rejection(
            Reason.CONFLICT,
            "the order is not ready or does not go on: it was finalized or canceled already, or an authorization or the account "
            "is not valid any more",
        )


def _first(slot: Slot, event: OrderEvent, error: str) -> Step:
    old, new = order_move(event)
    return Step(store.SETTLE_ORDER_SQL, (slot.order_id, old.value, new.value, error, "", ""), rows=None)


def _undo(slot: Slot) -> Step:
    return Step(UNDO_SQL, (slot.order_id, slot.number), rows=None)
