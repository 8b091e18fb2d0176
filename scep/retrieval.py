"""GetCert and GetCRL (RFC 8894 §3.3.4, §3.3.5): what an endpoint's own clients may read of its CA."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from scep.endpoint import ScepEndpoint
from scep.failinfo import FailInfo, Refusal
from scep.holders import Holder

# What was decrypted (None where it cannot be read), who asks, where -> a certs-only message, DER.
Finder = Callable[[bytes | None, Holder, ScepEndpoint], Awaitable[bytes]]


class Retrieval:
    async def certificate(self, _plaintext: bytes | None, _holder: Holder, _endpoint: ScepEndpoint) -> bytes:
        raise Refusal(FailInfo.BAD_REQUEST, "GetCert is not served here")

    async def crl(self, _plaintext: bytes | None, _holder: Holder, _endpoint: ScepEndpoint) -> bytes:
        raise Refusal(FailInfo.BAD_REQUEST, "GetCRL is not served here")
