"""simpleenroll and simplereenroll (RFC 7030 §4.2), and the one place where EST asks for a certificate."""

from __future__ import annotations

from typing import Protocol, assert_never

from aiohttp import web

from est.authentication import Authenticator
from est.caller import Caller
from est.endpoint import EstEndpoint
from est.errors import HttpRefusal
from est.exchange import Exchange, pending
from est.linking import check_linking
from est.wire import check_csr_type
from issuance.request import Channel, IssuanceRequest, Issued, Outcome, Pending, Rejected
from pki.csr import Csr, parse_csr, unwrap_csr


class Enrolment(Protocol):
    """What EST needs of `issuance.service.Issuance`."""

    async def submit(self, request: IssuanceRequest) -> Outcome: ...


class Enroller:
    def __init__(self, *, issuance: Enrolment, authenticator: Authenticator) -> None:
        self._issuance = issuance
        self._authenticator = authenticator

    async def simple_enroll(self, exchange: Exchange) -> web.Response:
        caller = await self._authenticator.caller(exchange)
        return await self._answer(exchange, caller, await read_csr(exchange, caller))

    async def simple_reenroll(self, _exchange: Exchange) -> web.Response:
        raise HttpRefusal(501, "re-enrolment is not served here yet; enrol anew at simpleenroll\n")

    async def submit(self, endpoint: EstEndpoint, caller: Caller, csr: Csr, *, idempotency_key: str | None = None) -> Outcome:
        """Every certificate of EST and CMC is asked for here."""
        return await self._issuance.submit(
            IssuanceRequest(
                channel=Channel.EST,
                endpoint=endpoint.label,
                principal=caller.principal,
                evidence=(caller.evidence,),
                profile=caller.profile or endpoint.profile,
                csr=csr,
                identifiers=csr.identifiers,
                common_name=csr.common_name,
                idempotency_key=idempotency_key,
                require_approval=endpoint.require_approval,
            )
        )

    async def _answer(self, exchange: Exchange, caller: Caller, csr: Csr) -> web.Response:
        outcome = await self.submit(exchange.endpoint, caller, csr)
        match outcome:
            case Issued(certificate):
                # §4.2.3: the certs-only message holds the issued certificate and nothing else.
                return exchange.certificates(certificate.der)
            case Pending(_, seconds):
                return pending(seconds)
            case Rejected(rejection):
                raise rejection
            case _:
                assert_never(outcome)


async def read_csr(exchange: Exchange, caller: Caller) -> Csr:
    """The certification request of the body, bound to this connection where the label asks for it. Raises Rejection, HttpRefusal."""
    check_csr_type(exchange.content_type)
    csr = parse_csr(unwrap_csr(await exchange.body()))
    check_linking(csr, exchange.endpoint, exchange.connection, caller)
    return csr
