"""An order's share in the pipeline's transactions: ready -> processing -> valid or invalid (issuance.request.Settler)."""

from __future__ import annotations

from collections.abc import Sequence

from acmeserver import store
from acmeserver.problems import from_rejection
from acmeserver.states import OrderEvent, order_move
from issuance.request import IssuedCertificate
from pki.clock import Micros
from pki.reasons import Reason, Rejection
from storage.database import Step

ORIGIN = "acme-order"


class OrderSettler:
    """Pure: it only makes steps. Register it in the pipeline for origins of the kind "acme-order"."""

    def began(self, origin_id: str, *, now: Micros, key: str = "") -> Sequence[Step]:
        return [begin_step(origin_id, now, key)]

    def issued(self, origin_id: str, certificate: IssuedCertificate, *, now: Micros) -> Sequence[Step]:  # noqa: ARG002  # Settler
        return [_settle(origin_id, OrderEvent.ISSUED, issuer=certificate.issuer, serial=certificate.serial, rows=1)]

    def failed(self, origin_id: str, rejection: Rejection, *, now: Micros) -> Sequence[Step]:  # noqa: ARG002  # Settler
        return [_settle(origin_id, OrderEvent.FAILED, error=store.to_json(from_rejection(rejection).json()))]

    def released(self, origin_id: str, *, now: Micros) -> Sequence[Step]:  # noqa: ARG002  # Settler
        return [_settle(origin_id, OrderEvent.RELEASED)]

    def not_begun(self) -> Rejection:
        return Rejection(
            Reason.CONFLICT,
            "the order is not ready: it was finalized already, an authorization or the account is not valid any more, or the account has another key",
        )


def begin_step(order_id: str, now: Micros, thumbprint: str) -> Step:
    """Finalize's compare-and-set. `thumbprint` "" is any key."""
    old, new = order_move(OrderEvent.BEGAN)
    return Step(store.BEGIN_ORDER_SQL, (order_id, old.value, new.value, now, thumbprint))


def _settle(
    order_id: str, event: OrderEvent, *, error: str = "", issuer: str = "", serial: str = "", rows: int | None = None
) -> Step:
    old, new = order_move(event)
    return Step(store.SETTLE_ORDER_SQL, (order_id, old.value, new.value, error, issuer, serial), rows)
