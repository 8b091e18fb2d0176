"""Who is it? By password, token or client certificate, as the label allows (RFC 7030 §3.2.3, §3.3.2)."""

from __future__ import annotations

from est.caller import Caller
from est.certificates import CertificateChecks
from est.endpoint import Authentication
from est.exchange import Exchange
from est.secrets import SecretChecks
from pki.reasons import Reason, Rejection


class Authenticator:
    def __init__(self, *, secrets: SecretChecks, certificates: CertificateChecks) -> None:
        self._secrets = secrets
        self._certificates = certificates

    async def caller(self, exchange: Exchange) -> Caller:
        """Whoever sends credentials is known by them, even with a certificate; what is sent has to be right.

        Raises Rejection: UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED.
        """
        if exchange.request.headers.getall("Authorization", []):
            return await self._secrets.caller(exchange)
        if Authentication.CERTIFICATE in exchange.endpoint.authenticate and exchange.connection.chain:
            return await self._enroller(exchange)
        raise self._nobody(exchange)

    async def _enroller(self, exchange: Exchange) -> Caller:
        """A certificate that opens nothing is no worse than none: many clients show what they have, and then a password when asked."""
        try:
            return await self._certificates.enroller(exchange)
        except Rejection as rejection:
            if rejection.reason is not Reason.FORBIDDEN or exchange.endpoint.authenticate == {Authentication.CERTIFICATE}:
                raise
            raise Rejection(Reason.UNAUTHENTICATED, rejection.detail, suggestions=rejection.suggestions) from rejection

    async def renewer(self, exchange: Exchange) -> Caller:
        """For a re-enrolment: the holder of the certificate to be renewed, or an agent. Credentials do not stand in for it, but
        where they come with it they have to be right.
        """
        if Authentication.CERTIFICATE not in exchange.endpoint.authenticate:
            raise Rejection(
                Reason.FORBIDDEN,
                "this endpoint takes no client certificates, so nothing can be renewed here",
                suggestions=["enrol anew at simpleenroll"],
            )
        if not exchange.connection.chain:
            raise Rejection(
                Reason.FORBIDDEN,
                "no client certificate came with this request",
                suggestions=["present the certificate that is to be renewed in the TLS handshake"],
            )
        if exchange.request.headers.getall("Authorization", []):
            await self._secrets.caller(exchange)
        return await self._certificates.renewer(exchange)

    def _nobody(self, exchange: Exchange) -> Rejection:
        if exchange.endpoint.authenticate == {Authentication.CERTIFICATE}:
            return Rejection(
                Reason.FORBIDDEN,
                "no client certificate came with this request",
                suggestions=["present a client certificate in the TLS handshake; this endpoint takes nothing else"],
            )
        return Rejection(
            Reason.UNAUTHENTICATED, "send user name and password (RFC 7617), or another proof that this endpoint takes"
        )
