"""From an opened request to what becomes of it: the one place where SCEP asks for a certificate.

Whoever repeats a request (same endpoint, transaction, key and CSR) gets the same certificate, also when the two arrive at once: the
pipeline's idempotency key sees to it. What a certificate of ours signs belongs to that certificate: the same CSR, signed for by the
next one, is another request (RSA signs the same CSR to the same octets).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, assert_never

from issuance.buckets import Charge, enrolment_charges
from issuance.request import Channel, IssuanceRequest, Issued, OneTimeChallenge, Outcome, Pending, Rejected
from pki.reasons import Reason, Rejection
from scep.authorization import REFUSED, Asked, Authorization, Authorizer, Informed, Observer, may_be
from scep.endpoint import ScepEndpoint, Way
from scep.failinfo import FailInfo, Refusal
from scep.holders import Holder, Holders
from scep.transactions import Place, Remembered, Transactions
from storage.database import Conflict

# What would say no when it is asked again: it is written down before anything is issued.
OPEN_ONCE = frozenset({Way.ONE_TIME, Way.WEBHOOK, Way.INTUNE})


class Issuance(Protocol):
    """What SCEP needs of `issuance.service.Issuance`."""

    async def submit(self, request: IssuanceRequest) -> Outcome: ...


class Standing(Protocol):
    """What is asked of `issuance.scep_challenges.ScepChallenges` about a challenge that was used before."""

    async def stands(self, challenge_id: str, *, endpoint: str) -> bool: ...


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
        standing: Standing,
    ) -> None:
        self._issuance = issuance
        self._authorizer = authorizer
        self._holders = holders
        self._transactions = transactions
        self._informed = informed
        self._observer = observer
        self._standing = standing

    async def renew(self, asked: Asked, holder: Holder) -> Outcome:
        """By a certificate of ours alone. Raises Rejection, Unavailable."""
        allowed = self._holders.renewal(holder, asked)
        self._observer.authorized(endpoint=asked.endpoint.name, way=allowed.way.value, result="allowed")
        return await self._submit(asked, allowed)

    async def enrol(self, asked: Asked) -> Outcome:
        """By a challenge; the request has the key that signed the message. Raises Rejection, Unavailable."""
        if (earlier := await self._let_in_before(asked)) is not None:
            return await self._submit(asked, earlier, again=True)
        try:
            allowed = await self._authorizer.authorize(asked)
        except Rejection:  # perhaps because the same request has used its challenge meanwhile
            if (earlier := await self._let_in_before(asked)) is None:
                raise
            return await self._submit(asked, earlier, again=True)
        return await self._submit(asked, allowed)

    async def _let_in_before(self, asked: Asked) -> Authorization | None:
        """By something that opens only once, which nobody is asked about again."""
        once = {way for way in asked.endpoint.challenges if way in OPEN_ONCE and may_be(way, asked.challenge)}
        earlier = await self._earlier(asked) if once else None
        if earlier is None or earlier.way not in once or not await self._stands(earlier, asked.endpoint):
            return None
        (evidence,) = earlier.request.evidence
        return Authorization(earlier.way, earlier.request.principal, evidence, earlier.request.profile)

    async def poll(self, place: Place, endpoint: ScepEndpoint, *, source_address: str) -> Outcome:
        """What became of a transaction (RFC 8894 §3.3.2). What let it in may be gone by now, and what it asks for may never have been
        seen by anybody (a limit was reached): then somebody has to approve it. Raises Refusal, Rejection, Unavailable.
        """
        found = await self._transactions.find(place, source_address=source_address)
        if found is None:
            raise Refusal(FailInfo.BAD_CERT_ID, "no request of this transactionID and key waits here; send it again")
        asked = Asked(endpoint, place, found.request.csr, source_address)
        request = replace(await self._admitted(_by_roles_of_today(found, endpoint), endpoint), heeds_denial=True)
        if not await self._stands(found, endpoint):
            request = replace(request, require_approval=True)
        return await self._settled(asked, found.way, request)

    async def _stands(self, found: Remembered, endpoint: ScepEndpoint) -> bool:
        """Whether the endpoint still lets in that way, by whoever made what let it in."""
        if found.way is Way.RENEWAL:
            return bool(endpoint.renewal.roles)
        if found.way not in endpoint.challenges:
            return False
        (evidence,) = found.request.evidence
        if isinstance(evidence, OneTimeChallenge):
            return await self._standing.stands(evidence.credential_id, endpoint=endpoint.name)
        return True

    async def _submit(self, asked: Asked, authorization: Authorization, *, again: bool = False) -> Outcome:
        request = replace(await self._admitted(_request(asked, authorization), asked.endpoint), heeds_denial=again)
        if authorization.way in OPEN_ONCE and not again:
            try:
                await self._transactions.remember(asked.place, authorization.way, request, *authorization.once)
            except Conflict:
                return await self._overtaken(asked)
        return await self._settled(asked, authorization.way, request, unremembered=authorization.way not in OPEN_ONCE)

    async def _overtaken(self, asked: Asked) -> Outcome:
        """Somebody used the challenge at the same moment: the same request, whose certificate this is, or another."""
        if await self._earlier(asked) is None:
            raise Rejection(Reason.UNAUTHENTICATED, REFUSED)
        return await self.poll(asked.place, asked.endpoint, source_address=asked.source_address)

    async def _earlier(self, asked: Asked) -> Remembered | None:
        """What this very request was allowed before."""
        found = await self._transactions.find(asked.place, source_address=asked.source_address)
        return found if found is not None and found.request.idempotency_key == _idempotency_key(asked) else None

    async def _admitted(self, request: IssuanceRequest, endpoint: ScepEndpoint) -> IssuanceRequest:
        """With what the endpoint says today, also about what was asked yesterday."""
        limited = endpoint.limits.enrollments_per_caller is not None
        caller = await self._holders.caller(request) if limited else ""
        return replace(
            request,
            require_approval=endpoint.require_approval,
            charges=charges(endpoint, caller, request.principal.source_address),
        )

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


def _by_roles_of_today(found: Remembered, endpoint: ScepEndpoint) -> IssuanceRequest:
    """The roles of a challenge were given with it; those of renewals are the endpoint's. Where it has none, somebody has to agree."""
    if found.way is not Way.RENEWAL or not endpoint.renewal.roles:
        return found.request
    return replace(found.request, principal=replace(found.request.principal, roles=endpoint.renewal.roles))


def _request(asked: Asked, authorization: Authorization) -> IssuanceRequest:
    endpoint, csr = asked.endpoint, asked.csr
    return IssuanceRequest(
        channel=Channel.SCEP,
        endpoint=endpoint.name,
        principal=authorization.principal,
        evidence=(authorization.evidence,),
        profile=authorization.profile or endpoint.profile,
        csr=csr,
        identifiers=csr.identifiers,
        common_name=csr.common_name,
        idempotency_key=_idempotency_key(asked),
    )


def _idempotency_key(asked: Asked) -> str:
    """The CSR's digest covers the key; the transactionID is the client's text, so it goes through a digest too.

    The certificate that signs belongs to it whether or not it renews itself: one that has expired lets a new one in, by a challenge.
    """
    signer = f"{asked.signed_with}/" if asked.signed_with else ""
    transaction = hashlib.sha256(f"{signer}{asked.csr.sha256}/{asked.place.transaction_id}".encode()).hexdigest()
    return f"scep/{asked.endpoint.name}/{transaction}"


def charges(endpoint: ScepEndpoint, caller: str, source_address: str) -> tuple[Charge, ...]:
    """What the endpoint admits, taken by the pipeline with its first write."""
    limits = endpoint.limits
    return enrolment_charges(
        "scep-enrolled",
        endpoint.name,
        caller=caller,
        per_caller=limits.enrollments_per_caller,
        source_address=source_address,
        per_address=limits.enrollments_per_address,
    )
