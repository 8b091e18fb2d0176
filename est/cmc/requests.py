"""Certification requests of a PKIData: read, and judged by what was proved of the key (RFC 5272 §6.7, RFC 4211 §4). Pure.

Law of this file: a request is `Ready` only when whoever has its private key is known to have taken part, or an agent vouches for it.
Nothing is issued while one request of the message is not (§6.7: all are rejected when a proof is missing for any).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import assert_never

from est.cmc.failinfo import from_rejection
from est.cmc.messages import CmcRefusal, CrmfRequest, FailInfo, Pkcs10Request
from est.cmc.waiting import Enrollable
from pki.crmf import Possession, parse_crmf
from pki.csr import Csr, is_unsigned, parse_csr, parse_unproved_csr
from pki.reasons import Rejection


@dataclass(frozen=True, slots=True)
class Read:
    """A request as read; `possession` is what it says itself."""

    request: Enrollable = field(repr=False)
    csr: Csr
    possession: Possession

    @property
    def body_part(self) -> int:
        return self.request.body_part


def read(request: Enrollable) -> Read:
    """Raises CmcRefusal, which names the body part."""
    try:
        match request:
            case Pkcs10Request() if is_unsigned(request.der):
                return Read(request, parse_unproved_csr(request.der), Possession.TO_BE_PROVED)
            case Pkcs10Request():
                return Read(request, parse_csr(request.der), Possession.PROVED)
            case CrmfRequest():
                message = parse_crmf(request.der)
                return Read(request, message.csr, message.possession)
            case _:
                assert_never(request)
    except Rejection as rejection:
        raise from_rejection(rejection, body_parts=(request.body_part,)) from rejection


def is_possessed(found: Read, *, by_agent: bool, vouched: Collection[int]) -> bool:
    """Whether the key's possession is certain; False where a challenge has to show it. `vouched` is what an agent's
    lraPOPWitness lists. Raises CmcRefusal(POP_FAILED).
    """
    match found.possession:
        case Possession.PROVED:
            return True
        case Possession.BY_AGENT if by_agent:
            return True
        case Possession.BY_AGENT:
            text = "only a registration authority may say raVerified; sign the request with its key"
            raise CmcRefusal(FailInfo.POP_FAILED, text, body_parts=(found.body_part,))
        case Possession.TO_BE_PROVED:
            return found.body_part in vouched
        case _:
            assert_never(found.possession)
