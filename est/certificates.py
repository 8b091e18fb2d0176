"""Callers by client certificate: whose it is, and what it opens at this label."""

from __future__ import annotations

from est.caller import Caller
from est.exchange import Exchange
from pki.reasons import Reason, Rejection


class CertificateChecks:
    async def enroller(self, exchange: Exchange) -> Caller:
        """Raises Rejection(FORBIDDEN)."""
        raise Rejection(Reason.FORBIDDEN, "client certificates are not served yet")

    async def renewer(self, exchange: Exchange) -> Caller:
        """Raises Rejection(FORBIDDEN)."""
        raise Rejection(Reason.FORBIDDEN, "client certificates are not served yet")
