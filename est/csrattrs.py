"""Which attributes a certification request should have (RFC 7030 §4.5, RFC 8951 §3, RFC 9908). Pure."""

from __future__ import annotations

from est.endpoint import EstEndpoint
from policy.profiles import Profile


def csr_attributes(endpoint: EstEndpoint, profile: Profile | None) -> bytes | None:
    """CsrAttrs (DER), or None where the label asks for nothing."""
    return None
