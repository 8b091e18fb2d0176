"""simpleenroll and simplereenroll (RFC 7030 §4.2), and the one place where EST asks for a certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, assert_never

from aiohttp import web

from est.authentication import Authenticator
from est.caller import Caller
from est.endpoint import EstEndpoint
from est.exchange import Exchange, pending
from est.limits import charges
from est.linking import check_linking
from est.renewal import WantedNames, names_of, names_to_renew, refuse_change
from est.wire import check_csr_type
from issuance.request import CertificateRole, Channel, IssuanceRequest, Issued, Outcome, Pending, Rejected
from pki.csr import Csr, parse_csr, unwrap_csr
from policy.profiles import Profiles


class Enrolment(Protocol):
    """What EST needs of `issuance.service.Issuance`."""

    async def submit(self, request: IssuanceRequest) -> Outcome: ...

    async def foresee(self, request: IssuanceRequest) -> Pending | Rejected | None: ...


class Enroller:
    def __init__(self, *, issuance: Enrolment, authenticator: Authenticator, profiles: Profiles) -> None:
        self._issuance = issuance
        self._authenticator = authenticator
        self._profiles = profiles

    async def simple_enroll(self, exchange: Exchange) -> web.Response:
        caller = await self._authenticator.caller(exchange)
        return await self._answer(exchange, caller, await read_csr(exchange, caller))

    async def simple_reenroll(self, exchange: Exchange) -> web.Response:
        """§4.2.2: for the names of the certificate that authenticates, whatever the key; an agent's is for somebody else."""
        caller = await self._authenticator.renewer(exchange)
        csr = await read_csr(exchange, caller)
        return await self._answer(exchange, caller, csr, self.names_to_renew(exchange.endpoint, caller, csr))

    def names_to_renew(self, endpoint: EstEndpoint, caller: Caller, csr: Csr) -> WantedNames:
        """What a renewal by this caller asks for. Raises Rejection: FORBIDDEN, UNKNOWN_PROFILE, and those of names."""
        if caller.role is CertificateRole.AGENT:
            # RFC 7030 has no way to say whose certificate an agent renews: policy alone says which names it may ask for.
            refuse_change(csr)
            return names_of(csr)
        if caller.certificate is None:
            raise AssertionError("a renewal without the certificate that is renewed")
        return names_to_renew(csr, caller.certificate, self._profiles.get(caller.profile or endpoint.profile))

    async def submit(
        self,
        endpoint: EstEndpoint,
        caller: Caller,
        csr: Csr,
        *,
        names: WantedNames | None = None,
        idempotency_key: str | None = None,
        asked_with: Csr | None = None,
    ) -> Outcome:
        """Every certificate of EST and CMC is asked for here; `names` are the request's own unless a renewal says otherwise.
        `asked_with` is the client's request, where `csr` is for a key that was made here.
        """
        request = _request(endpoint, caller, csr, names or names_of(csr))
        return await self._issuance.submit(replace(request, idempotency_key=idempotency_key, asked_with=asked_with))

    async def foresee(self, endpoint: EstEndpoint, caller: Caller, asked: Csr) -> Pending | Rejected | None:
        """What is known already of a request for a key that is made here: None, and there is reason to make one."""
        return await self._issuance.foresee(replace(_request(endpoint, caller, asked, names_of(asked)), asked_with=asked))

    async def _answer(self, exchange: Exchange, caller: Caller, csr: Csr, names: WantedNames | None = None) -> web.Response:
        outcome = await self.submit(exchange.endpoint, caller, csr, names=names)
        if isinstance(outcome, Issued):
            # §4.2.3: the certs-only message holds the issued certificate and nothing else.
            return exchange.certificates(outcome.certificate.der)
        return not_issued(outcome)


def not_issued(outcome: Pending | Rejected) -> web.Response:
    """Raises Rejection where asking again does not help."""
    match outcome:
        case Pending(_, seconds):
            return pending(seconds)
        case Rejected(rejection):
            raise rejection
        case _:
            assert_never(outcome)


def _request(endpoint: EstEndpoint, caller: Caller, csr: Csr, names: WantedNames) -> IssuanceRequest:
    return IssuanceRequest(
        channel=Channel.EST,
        endpoint=endpoint.label,
        principal=caller.principal,
        evidence=(caller.evidence,),
        profile=caller.profile or endpoint.profile,
        csr=csr,
        identifiers=names.identifiers,
        common_name=names.common_name,
        require_approval=endpoint.require_approval,
        charges=charges(endpoint, caller),
    )


async def read_csr(exchange: Exchange, caller: Caller, *, parse: Callable[[bytes], Csr] = parse_csr) -> Csr:
    """The certification request of the body, bound to this connection where the label asks for it. Raises Rejection, HttpRefusal."""
    check_csr_type(exchange.content_type)
    csr = parse(unwrap_csr(await exchange.body()))
    check_linking(csr, exchange.endpoint, exchange.connection, caller)
    return csr
