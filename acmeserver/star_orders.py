"""Self-renewing orders in use (RFC 8739): ordered, finalized, renewed by a job, fetched, canceled."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import assert_never

from acmeserver.authentication import Acting, check_account
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.jwk import load_jwk
from acmeserver.ports import IssuanceDoor
from acmeserver.problems import Problem, ProblemType, not_found
from acmeserver.star import ORIGIN, Slot, Terms, WantedAutoRenewal, first_slot, grant, terms_from
from acmeserver.states import OrderEvent, order_move
from acmeserver.store import Order
from issuance.request import IssuanceRequest, Issued, Origin, Outcome, Pending, Rejected
from pki.clock import Clock, Micros, after
from pki.csr import Csr, parse_csr
from pki.reasons import Rejection, Unavailable
from policy.profiles import Profile, Profiles
from storage.database import Conflict, Database, Row, Step

BATCH = 20
BACK_OFF = timedelta(minutes=1)
LONGEST_BACK_OFF = timedelta(hours=1)
PUNCTUAL = timedelta(seconds=5)

INSERT_STAR_SQL = """
INSERT INTO acme_star (order_id, account_id, endpoint, state, csr, csr_sha256, number, begun, first_at, next_at, ends_at,
    get_allowed, issuer, serial, failures, created_at)
VALUES ($1, $2, $3, 'waiting', $4, '', 0, 0, 0, 0, $5, $6, '', '', 0, $7)
"""
KEEP_CSR_SQL = """
UPDATE acme_star SET csr = $2, csr_sha256 = $3 WHERE order_id = $1 AND state = 'waiting' AND begun = 0
"""
DUE_SQL = """
SELECT s.order_id, s.account_id, s.csr, s.csr_sha256, s.number, s.first_at, s.ends_at, s.failures, o.auto_renewal, a.jwk
FROM acme_star s JOIN acme_order o ON o.id = s.order_id JOIN acme_account a ON a.id = s.account_id
WHERE s.next_at > 0 AND s.next_at <= $1 AND s.endpoint = $2 AND s.state = 'active' AND s.begun = 0 ORDER BY s.next_at LIMIT $3
"""
SKIP_SQL = "UPDATE acme_star SET number = $3 WHERE order_id = $1 AND number = $2 AND state = 'active' AND begun = 0"
END_SQL = "UPDATE acme_star SET next_at = 0 WHERE order_id = $1 AND number = $2 AND begun = 0"
DELAY_SQL = """
UPDATE acme_star SET failures = failures + 1, next_at = $3 WHERE order_id = $1 AND number = $2 AND state = 'active' AND begun = 0
"""
CANCEL_ORDER_SQL = """
UPDATE acme_order SET status = $4 WHERE id = $1 AND account_id = $2 AND status = $3 AND auto_renewal <> ''
    AND EXISTS (SELECT 1 FROM acme_account a WHERE a.id = acme_order.account_id AND a.status = 'valid' AND a.thumbprint = $5)
"""
CANCEL_STAR_SQL = "UPDATE acme_star SET state = 'canceled', next_at = 0 WHERE order_id = $1 AND state = 'active'"
OWN_STAR_SQL = """
SELECT a.status AS account_status, a.thumbprint AS account_thumbprint, s.order_id, s.state, s.issuer, s.serial, s.ends_at
FROM acme_account a LEFT JOIN acme_star s ON s.account_id = a.id AND s.order_id = $3 WHERE a.id = $1 AND a.endpoint = $2
"""
IS_STAR_SQL = "SELECT order_id FROM acme_star_certificate WHERE issuer = $1 AND serial = $2"
OPEN_STAR_SQL = """
SELECT order_id, state, issuer, serial, ends_at FROM acme_star WHERE order_id = $1 AND endpoint = $2 AND get_allowed = 1
"""

_LOG = logging.getLogger(__name__)

RequestAgain = Callable[[Acting, str, Csr], Awaitable[IssuanceRequest]]
"""What finalize would ask for now (`Orders.request_again`). Raises Problem when the account or an authorization is not good."""


@dataclass(frozen=True, slots=True)
class StarCertificate:
    """The newest certificate of an order: its chain, and when it begins and ends (§3.3)."""

    pem: str
    not_before: Micros
    not_after: Micros


class Stars:
    def __init__(
        self, *, endpoint: AcmeEndpoint, database: Database, clock: Clock, issuance: IssuanceDoor, profiles: Profiles
    ) -> None:
        self._endpoint = endpoint
        self._rules = endpoint.auto_renewal
        self._database = database
        self._clock = clock
        self._issuance = issuance
        self._profiles = profiles

    # ---- the client's part

    def granted(self, wanted: WantedAutoRenewal | None, profile: Profile, now: Micros) -> Terms | None:
        """The terms of a new order; None for one that ends with its certificate. Raises Problem."""
        return None if wanted is None or self._rules is None else grant(wanted, self._rules, profile, now)

    def insert_step(self, order: Order, terms: Terms, account_id: str, now: Micros) -> Step:
        """Rides in the write that makes the order."""
        args = (order.id, account_id, self._endpoint.name, b"", terms.end, int(terms.allow_get), now)
        return Step(INSERT_STAR_SQL, args)

    async def submit(self, order: Order, request: IssuanceRequest) -> Outcome:
        """Finalize: the first certificate. Its CSR is kept, for the others are for the same key."""
        now = self._clock.micros()
        slot = first_slot(order.id, terms_from(order.auto_renewal), request.csr.sha256, now)
        # Not kept when another finalize has begun: then this one cannot, which `began` says with the right words.
        await self._try(Step(KEEP_CSR_SQL, (order.id, request.csr.der, request.csr.sha256)))
        return await self._issuance.submit(self._for_slot(request, slot, now))

    async def cancel(self, acting: Acting, order: Order) -> None:
        """§3.1.2; from then on nothing is issued any more, what is being signed at this moment included. Raises Problem."""
        old, new = order_move(OrderEvent.CANCELED)
        args = (order.id, acting.account_id, old.value, new.value, acting.jwk.thumbprint)
        try:
            await self._database.write(Step(CANCEL_ORDER_SQL, args), Step(CANCEL_STAR_SQL, (order.id,)))
        except Conflict as conflict:
            raise Problem(
                ProblemType.AUTO_RENEWAL_CANCELLATION_INVALID,
                "only a valid order with auto-renewal can be canceled (RFC 8739 §3.1.2)",
            ) from conflict

    async def certificate(self, acting: Acting, order_id: str) -> StarCertificate:
        """POST-as-GET by the account. Raises Problem."""
        args = (acting.account_id, self._endpoint.name, order_id)
        row = check_account(await self._database.fetch_one(OWN_STAR_SQL, *args), acting)
        return await self._newest(row if row["order_id"] is not None else None)

    async def open_certificate(self, order_id: str) -> StarCertificate:
        """GET by anybody, where server and client have agreed on it (§3.4); else as if it were not there."""
        if self._rules is None or not self._rules.allow_get:
            raise not_found("resource")
        return await self._newest(await self._database.fetch_one(OPEN_STAR_SQL, order_id, self._endpoint.name))

    async def _newest(self, row: Row | None) -> StarCertificate:
        if self._rules is None or row is None or row["state"] == "waiting":
            raise not_found("certificate")
        if row["state"] == "canceled":
            raise Problem(ProblemType.AUTO_RENEWAL_CANCELED, "the order was canceled, and its certificates with it")
        if row["ends_at"] <= self._clock.micros():
            raise Problem(ProblemType.AUTO_RENEWAL_EXPIRED, "the order has come to its end-date; make a new one")
        key = {"issuer": row["issuer"], "serial": row["serial"]}
        record, pem = await self._issuance.certificate(**key), await self._issuance.chain(**key)
        if record is None or pem is None:
            raise not_found("certificate")
        return StarCertificate(pem, record.certificate.not_before, record.certificate.not_after)

    # ---- the job's part

    async def renew(self, request_again: RequestAgain, *, until: Micros) -> int:
        """Make what is due, as long as there is time; gives how many there were. Several workers may do this at once.

        Raises Unavailable.
        """
        if self._rules is None:
            return 0
        due = await self._database.fetch(DUE_SQL, self._clock.micros(), self._endpoint.name, BATCH)
        for row in due:
            if self._clock.micros() > until:
                break
            try:
                await self._renew(row, request_again)
            except Unavailable:
                raise
            except Exception:  # noqa: BLE001  # the outermost edge of one order: a bug that it meets must not end the renewals of the others
                _LOG.exception("order %s could not be renewed", row["order_id"])
                await self._delay(row, row["number"])
        return len(due)

    async def _renew(self, row: Row, request_again: RequestAgain) -> None:
        now, terms = self._clock.micros(), terms_from(row["auto_renewal"])
        key = (row["order_id"], row["number"])
        old = Slot(*key, row["first_at"], row["ends_at"], terms.lifetime, terms.pad, row["csr_sha256"])
        slot = old.current(now)
        if slot.beyond:
            await self._try(Step(END_SQL, key))
            return
        if slot.number != old.number and not await self._try(Step(SKIP_SQL, (*key, slot.number))):
            return  # somebody else is at it
        refusal = await self._issue(row, slot, request_again, now)
        if refusal is not None:
            _LOG.warning("order %s is not renewed (certificate %d): %s", slot.order_id, slot.number, refusal)
            await self._delay(row, slot.number)

    async def _delay(self, row: Row, number: int) -> None:
        wait = min(BACK_OFF * 2 ** min(row["failures"], 10), LONGEST_BACK_OFF)
        await self._try(Step(DELAY_SQL, (row["order_id"], number, after(self._clock.micros(), wait))))

    async def _issue(self, row: Row, slot: Slot, request_again: RequestAgain, now: Micros) -> str | None:
        """None, or why not: it is tried again until the order ends, for what is in the way may be put right."""
        acting = Acting(row["account_id"], load_jwk(row["jwk"]), "")
        try:
            # Judged as it is today, by the profile of today and with the proofs as old as they are.
            request = replace(await request_again(acting, slot.order_id, parse_csr(bytes(row["csr"]))), profile_version=None)
            outcome = await self._issuance.submit(self._for_slot(request, slot, now))
        except (Problem, Rejection) as refused:
            return refused.detail
        match outcome:
            case Issued() | Pending():
                return None
            case Rejected(rejection):
                return rejection.detail
            case _:
                assert_never(outcome)

    def _for_slot(self, request: IssuanceRequest, slot: Slot, now: Micros) -> IssuanceRequest:
        """When we are late, it begins as early as the profile lets it."""
        key = request.origin.key if request.origin is not None else ""
        backdate = self._profiles.get(request.profile).backdate
        punctual = slot.not_before >= after(now, PUNCTUAL - backdate)
        not_before = slot.not_before if punctual else None
        return replace(request, not_before=not_before, not_after=slot.not_after, origin=Origin(ORIGIN, slot.origin, key))

    async def _try(self, step: Step) -> bool:
        try:
            await self._database.write(step)
        except Conflict:
            return False
        return True
