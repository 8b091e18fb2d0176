"""An order's share in the pipeline's transactions: ready -> processing -> valid or invalid (issuance.request.Settler)."""

from __future__ import annotations

from collections.abc import Sequence

from acmeserver import store
from acmeserver.problems import from_rejection
from issuance.request import IssuedCertificate
from pki.clock import Micros
from pki.reasons import Reason, Rejection
from storage.database import Step

ORIGIN = "acme-order"


class OrderSettler:
    """Pure: it only makes steps. Register it in the pipeline for origins of the kind "acme-order"."""

    def began(self, origin_id: str, *, now: Micros) -> Sequence[Step]:
        return [Step(store.BEGIN_ORDER_SQL, (origin_id, now))]

    def issued(self, origin_id: str, certificate: IssuedCertificate, *, now: Micros) -> Sequence[Step]:  # noqa: ARG002  # Settler
        return [Step(store.ISSUED_ORDER_SQL, (origin_id, certificate.issuer, certificate.serial))]

    def failed(self, origin_id: str, rejection: Rejection, *, now: Micros) -> Sequence[Step]:  # noqa: ARG002  # Settler
        error = store.to_json(from_rejection(rejection).json())
        return [Step(store.FAILED_ORDER_SQL, (origin_id, error), rows=None)]

    def released(self, origin_id: str, *, now: Micros) -> Sequence[Step]:  # noqa: ARG002  # Settler
        """Nothing was signed: the order is ready again, and the client may finalize it once more."""
        return [Step(store.RELEASED_ORDER_SQL, (origin_id,), rows=None)]

    def not_begun(self) -> Rejection:
        return Rejection(
            Reason.CONFLICT,
            "the order is not ready: it was finalized already, or an authorization or the account is not valid any more",
        )
