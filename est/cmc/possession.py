"""Possession of a key that signs nothing: it decrypts what we encrypted to it (RFC 5272 §6.7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from est.cmc import proofs
from est.cmc.challenges import Challenges, Timely
from est.cmc.codec import encode_request
from est.cmc.messages import CmcRefusal, FailInfo
from est.cmc.requests import Read
from est.cmc.values import DecryptedPop, EncryptedPop
from pki.cms.types import Digest


class Possessions:
    """`context` is whom a challenge is for: label and caller."""

    def __init__(self, challenges: Challenges, *, random_bytes: Callable[[int], bytes]) -> None:
        self._challenges = challenges
        self._random_bytes = random_bytes

    def challenge(self, found: Read, context: Sequence[str]) -> EncryptedPop:
        """Raises CmcRefusal as `proofs.challenge` does."""
        value = self._challenges.proof_value(encode_request(found.request), context)
        try:
            return proofs.challenge(found.request, found.csr, value, random_bytes=self._random_bytes)
        except CmcRefusal as refusal:
            raise CmcRefusal(refusal.fail_info, refusal.text, body_parts=(found.body_part,)) from refusal

    def check(self, found: Read, answer: DecryptedPop, context: Sequence[str]) -> None:
        """Raises CmcRefusal: BAD_ALG, BAD_TIME for an answer that comes too late, POP_FAILED."""
        parts = (found.body_part,)
        if answer.mac in {Digest.MD5, Digest.SHA1}:
            raise CmcRefusal(FailInfo.BAD_ALG, "decryptedPOP has to use the MAC of its challenge", body_parts=parts)

        def is_right(value: bytes) -> bool:
            return proofs.proves_possession(answer, value, found.request)

        match self._challenges.answered(is_right, encode_request(found.request), context):
            case Timely.YES:
                return
            case Timely.LATE:
                text = "decryptedPOP answers a challenge whose time is over; send the request without it for a new one"
                raise CmcRefusal(FailInfo.BAD_TIME, text, body_parts=parts)
            case Timely.NEVER:
                text = "decryptedPOP does not answer a challenge for this very request, made for this sender"
                raise CmcRefusal(FailInfo.POP_FAILED, text, body_parts=parts)
