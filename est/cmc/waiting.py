"""pendTokens (RFC 5272 §6.13): a request that waits for an approval is kept by whoever asked for it, sealed. Pure.

The token is the request itself, as it was accepted, for one label and one caller: queryPending brings it back, and it is asked for
again as if it had been resent. So nothing has to be stored here, and nobody's token is of use to somebody else.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass, field

import orjson

from est.cmc.messages import CmcRefusal, CrmfRequest, FailInfo, Pkcs10Request
from pki.sealing import Sealer, SealError

Enrollable = Pkcs10Request | CrmfRequest


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request whose possession of the key was proved when it came, and the idempotency key that it has."""

    request: Enrollable = field(repr=False)
    idempotency_key: str


class Tokens:
    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def seal(self, waiting: tuple[Waiting, ...], *, label: str, principal: str) -> bytes:
        content = [
            [
                isinstance(one.request, CrmfRequest),
                one.request.body_part,
                b64encode(one.request.der).decode(),
                one.idempotency_key,
            ]
            for one in waiting
        ]
        return self._sealer.seal(orjson.dumps(content), context=_context(label, principal))

    def open(self, token: bytes, *, label: str, principal: str) -> tuple[Waiting, ...]:
        """Raises CmcRefusal, the same for another's token, another label's and none of ours."""
        try:
            content = orjson.loads(self._sealer.open(token, context=_context(label, principal)))
        except SealError:
            raise CmcRefusal(
                FailInfo.BAD_REQUEST, "no request of this caller waits by this pendToken; send the request again"
            ) from None
        return tuple(
            Waiting((CrmfRequest if is_crmf else Pkcs10Request)(body_part, b64decode(der)), key)
            for is_crmf, body_part, der, key in content
        )


def _context(label: str, principal: str) -> str:
    return f"cmc-pending {label} {principal}"
