"""From an opened request to what becomes of it: the one place where SCEP asks for a certificate.

Whoever repeats a request (same endpoint, transaction, key and CSR) gets the same certificate, also when the two arrive at once: the
pipeline's idempotency key sees to it. What a renewal asks for belongs to the certificate that it renews: the same request, signed by
the next one, is another (RSA signs the same CSR to the same octets).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, assert_never

from issuance.buckets import Bucket, Charge
from issuance.request import Channel, HeldCertificate, IssuanceRequest, Issued, Outcome, Pending, Rejected
from pki.reasons import Reason, Rejection
from policy.limits import address_key
from policy.principal import Principal
from scep.authorization import REFUSED, Asked, Authorization, Authorizer, Informed, Observer
from scep.endpoint import ScepEndpoint, Way
from scep.failinfo import FailInfo, Refusal
from scep.holders import Holder, Holders
from scep.transactions import Place, Transactions
from storage.database import Conflict

# What would say no when it is asked again: it is written down before anything is issued.
OPEN_ONCE = frozenset({Way.ONE_TIME, Way.WEBHOOK, Way.INTUNE})


class Issuance(Protocol):
    """What SCEP needs of `issuance.service.Issuance`."""

    async def submit(self, request: IssuanceRequest) -> Outcome: ...


class Enrolments:
    """Of all endpoints."""

    def __init__(
        self,
        *,
        issuance: Issuance,
        authorizer: Authorizer,
        holders: Holders,
        transactions: Transactions,
        informed: Mapping[Way, Informed],
        observer: Observer,
    ) -> None:
        self._issuance = issuance
        self._authorizer = authorizer
        self._holders = holders
        self._transactions = transactions
        self._informed = informed
        self._observer = observer

    async def renew(self, asked: Asked, holder: Holder) -> Outcome:
        """By a certificate of ours alone. Raises Rejection, Unavailable."""
        allowed = self._holders.renewal(holder, asked)
        self._observer.authorized(endpoint=asked.endpoint.name, way=allowed.way.value, result="allowed")
        return await self._submit(asked, allowed)

    async def enrol(self, asked: Asked) -> Outcome:
        """By a challenge; the request has the key that signed the message. Raises Rejection, Unavailable."""
        endpoint = asked.endpoint
        if OPEN_ONCE.intersection(endpoint.challenges):
            earlier = await self._transactions.find(asked.place, source_address=asked.source_address)
            if earlier is not None and earlier.request.csr.sha256 == asked.csr.sha256 and earlier.way in endpoint.challenges:
                (evidence,) = earlier.request.evidence
                allowed = Authorization(earlier.way, earlier.request.principal, evidence, earlier.request.profile)
                return await self._submit(asked, allowed, again=True)
        return await self._submit(asked, await self._authorizer.authorize(asked))

    async def poll(self, place: Place, endpoint: ScepEndpoint, *, source_address: str) -> Outcome:
        """What became of a transaction (RFC 8894 §3.3.2). Raises Refusal, Rejection, Unavailable."""
        found = await self._transactions.find(place, source_address=source_address)
        if found is None:
            raise Refusal(FailInfo.BAD_CERT_ID, "no request of this transactionID and key waits here; send it again")
        asked = Asked(endpoint, place, found.request.csr, source_address)
        request = replace(
            found.request,
            require_approval=endpoint.require_approval,
            charges=charges(endpoint, found.request.principal),
        )
        return await self._settled(asked, found.way, request)

    async def _submit(self, asked: Asked, authorization: Authorization, *, again: bool = False) -> Outcome:
        request = _request(asked, authorization)
        if authorization.way in OPEN_ONCE and not again:
            try:
                await self._transactions.remember(asked.place, authorization.way, request, *authorization.once)
            except Conflict:
                return await self._overtaken(asked)
        return await self._settled(asked, authorization.way, request, unremembered=authorization.way not in OPEN_ONCE)

    async def _overtaken(self, asked: Asked) -> Outcome:
        """Somebody used the challenge at the same moment: the same request, whose certificate this is, or another."""
        earlier = await self._transactions.find(asked.place, source_address=asked.source_address)
        if earlier is None or earlier.request.csr.sha256 != asked.csr.sha256:
            raise Rejection(Reason.UNAUTHENTICATED, REFUSED)
        return await self.poll(asked.place, asked.endpoint, source_address=asked.source_address)

    async def _settled(self, asked: Asked, way: Way, request: IssuanceRequest, *, unremembered: bool = False) -> Outcome:
        outcome = await self._issuance.submit(request)
        informed = self._informed.get(way)
        match outcome:
            case Issued(certificate):
                if informed is not None:
                    await informed.issued(asked, certificate)
            case Pending():
                if unremembered:
                    await self._transactions.remember(asked.place, way, request)
            case Rejected(rejection):
                if informed is not None:
                    await informed.refused(asked, rejection)
            case _:
                assert_never(outcome)
        return outcome


def _request(asked: Asked, authorization: Authorization) -> IssuanceRequest:
    endpoint, csr, principal = asked.endpoint, asked.csr, authorization.principal
    return IssuanceRequest(
        channel=Channel.SCEP,
        endpoint=endpoint.name,
        principal=principal,
        evidence=(authorization.evidence,),
        profile=authorization.profile or endpoint.profile,
        csr=csr,
        identifiers=csr.identifiers,
        common_name=csr.common_name,
        idempotency_key=_idempotency_key(asked, authorization),
        require_approval=endpoint.require_approval,
        charges=charges(endpoint, principal),
    )


def _idempotency_key(asked: Asked, authorization: Authorization) -> str:
    """The CSR's digest covers the key; the transactionID is the client's text, so it goes through a digest too."""
    match authorization.evidence:
        case HeldCertificate() as held:
            renewed = f"{held.credential_id}/"
        case _:
            renewed = ""
    transaction = hashlib.sha256(f"{renewed}{asked.csr.sha256}/{asked.place.transaction_id}".encode()).hexdigest()
    return f"scep/{asked.endpoint.name}/{transaction}"


def charges(endpoint: ScepEndpoint, principal: Principal) -> tuple[Charge, ...]:
    """What the endpoint admits, taken by the pipeline with its first write."""
    limits, address = endpoint.limits, address_key(principal.source_address)
    wanted = (
        (limits.enrollments_per_caller, "caller", str(principal), "enrolments of this caller"),
        (limits.enrollments_per_address, "address", address, f"enrolments from {address}"),
    )
    return tuple(
        Charge(Bucket(f"scep-enrolled/{kind}/{endpoint.name}", name), limit, what)
        for limit, kind, name, what in wanted
        if limit is not None
    )
