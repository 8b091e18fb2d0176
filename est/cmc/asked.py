"""What a PKIData asks for, all of it, or why that cannot be said (RFC 5272 §3.2.1). Pure.

Law of this file: nothing of a message is done that has a control which nobody here reads (§3.2.1.1), or a request of a kind that
nobody here issues for (§3.2.1). What nothing refers to (cmsSequence, otherMsgSequence) is ignored, as that section has it, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, assert_never

from est.cmc import controls
from est.cmc.controls import NAMES
from est.cmc.messages import CmcRefusal, FailInfo, OtherRequest, PkiData, StatusInfo
from est.cmc.values import (
    BatchRequests,
    BatchResponses,
    ConfirmCertAcceptance,
    DataReturn,
    DecryptedPop,
    EncryptedPop,
    GetCert,
    GetCrl,
    Identification,
    IdentityProof,
    IdentityProofV2,
    LraPopWitness,
    PopLinkRandom,
    PopLinkWitness,
    PopLinkWitnessV2,
    QueryPending,
    RecipientNonce,
    RegInfo,
    ResponseInfo,
    RevokeRequest,
    SenderNonce,
    TransactionId,
    Unknown,
    Value,
)
from est.cmc.waiting import Enrollable

Action = GetCert | GetCrl | RevokeRequest | QueryPending | ConfirmCertAcceptance
_T = TypeVar("_T")

MAX_SHOWN = 5  # of what a message has wrong, in one text


class NotSupported(CmcRefusal):
    """Known, and not served here: status noSupport in the place of a failInfo."""

    def __init__(self, text: str, *body_parts: int) -> None:
        super().__init__(FailInfo.BAD_REQUEST, text, body_parts=body_parts)


@dataclass(frozen=True, slots=True)
class Asked:
    """`actions`, and the answers to challenges, are by body part. `requests` are as they were sent: whoever asks is known first,
    for reading them takes arithmetic.
    """

    requests: tuple[Enrollable, ...]
    actions: tuple[tuple[int, Action], ...]
    transaction: TransactionId | None
    sender_nonce: SenderNonce | None
    recipient_nonce: RecipientNonce | None
    data_return: tuple[DataReturn, ...]
    identification: Identification | None
    proof: IdentityProofV2 | None
    link: PopLinkRandom | None
    request_sequence: bytes = field(repr=False)  # as it was sent: what the proof is over
    answers: Mapping[int, DecryptedPop]
    vouched: frozenset[int]  # requests that lraPOPWitness lists
    says_only: bool  # statuses, which want no more than to be taken note of

    @property
    def wants_answer(self) -> bool:
        """Whether more than certificates has to go back: then the response is a full one (§3.2)."""
        return self.transaction is not None or self.sender_nonce is not None or bool(self.data_return)


def read_asked(data: PkiData) -> Asked:
    """Raises CmcRefusal, which names the body parts."""
    said = [(control.body_part, controls.read(control)) for control in data.controls]
    _refuse_unknown(said)
    _refuse_unserved(said)
    requests = _requests(data)
    body_parts = {one.body_part for one in requests}
    actions = tuple((body_part, value) for body_part, value in said if isinstance(value, Action))
    return Asked(
        requests=requests,
        actions=actions,
        transaction=_one(said, TransactionId),
        sender_nonce=_one(said, SenderNonce),
        recipient_nonce=_one(said, RecipientNonce),
        data_return=tuple(value for _, value in said if isinstance(value, DataReturn)),
        identification=_one(said, Identification),
        proof=_one(said, IdentityProofV2),
        link=_one(said, PopLinkRandom),
        request_sequence=data.request_sequence,
        answers=_answers(said, body_parts),
        vouched=_vouched(said, body_parts),
        says_only=not requests and not actions and any(isinstance(value, StatusInfo) for _, value in said),
    )


_Said = Sequence[tuple[int, Value | Unknown]]


def _refuse_unknown(said: _Said) -> None:
    """§3.2.1.1: "the bodyList MUST contain the bodyPartID of the invalid or unrecognized control(s)"."""
    unknown = [(body_part, value) for body_part, value in said if isinstance(value, Unknown) and value.type not in NAMES]
    if unknown:
        text = f"there are controls in it that are not known here: {_listed(dict.fromkeys(value.type for _, value in unknown))}"
        raise CmcRefusal(FailInfo.BAD_REQUEST, text, body_parts=tuple(body_part for body_part, _ in unknown))


def _refuse_unserved(said: _Said) -> None:
    for body_part, value in said:
        match value:
            case Unknown(_, name):
                raise NotSupported(f"{name} is not served here", body_part)
            case BatchRequests() | BatchResponses():
                raise NotSupported(
                    "messages inside a message are not served here; put all requests into one PKIData", body_part
                )
            case IdentityProof():
                raise NotSupported("identityProof is not served here; use identityProofV2", body_part)
            case EncryptedPop() | ResponseInfo():
                text = "it has a control that only responses have"
                raise CmcRefusal(FailInfo.BAD_REQUEST, text, body_parts=(body_part,))
            case PopLinkWitness() | PopLinkWitnessV2():
                text = "a popLinkWitness belongs into the certification request that it links (RFC 5272 section 6.3.1.1)"
                raise CmcRefusal(FailInfo.BAD_REQUEST, text, body_parts=(body_part,))
            case (
                TransactionId()
                | SenderNonce()
                | RecipientNonce()
                | DataReturn()
                | RegInfo()
                | QueryPending()
                | PopLinkRandom()
                | Identification()
                | IdentityProofV2()
                | DecryptedPop()
                | LraPopWitness()
                | GetCert()
                | GetCrl()
                | RevokeRequest()
                | ConfirmCertAcceptance()
                | StatusInfo()
            ):
                pass
            case _:
                assert_never(value)


def _requests(data: PkiData) -> tuple[Enrollable, ...]:
    found: list[Enrollable] = []
    for request in data.requests:
        if isinstance(request, OtherRequest):  # §3.2.1: "no other certification requests are processed"
            text = f"certification requests of type {request.type} are not served here; use PKCS #10 or CRMF"
            raise NotSupported(text, request.body_part)
        found.append(request)
    return tuple(found)


def _one(said: _Said, kind: type[_T]) -> _T | None:
    """A second one of its kind would be for another reader."""
    found = [(body_part, value) for body_part, value in said if isinstance(value, kind)]
    if len(found) > 1:
        text = "it has a control twice of which there can be only one"
        raise CmcRefusal(FailInfo.BAD_REQUEST, text, body_parts=tuple(body_part for body_part, _ in found))
    return found[0][1] if found else None


def _answers(said: _Said, requests: set[int]) -> Mapping[int, DecryptedPop]:
    found: dict[int, DecryptedPop] = {}
    for body_part, value in said:
        if isinstance(value, DecryptedPop):
            _check_references((value.body_part,), requests, body_part)
            if value.body_part in found:
                text = "it has two decryptedPOPs for one certification request"
                raise CmcRefusal(FailInfo.BAD_REQUEST, text, body_parts=(body_part,))
            found[value.body_part] = value
    return found


def _vouched(said: _Said, requests: set[int]) -> frozenset[int]:
    found: set[int] = set()
    for body_part, value in said:
        if isinstance(value, LraPopWitness):
            if value.pki_data != 0:
                raise NotSupported("lraPOPWitness for a message inside this one is not served here", body_part)
            _check_references(value.requests, requests, body_part)
            found |= set(value.requests)
    return frozenset(found)


def _check_references(references: Iterable[int], requests: set[int], body_part: int) -> None:
    if missing := set(references) - requests:
        text = f"it refers to certification requests that are not in the message: {_listed(map(str, sorted(missing)))}"
        raise CmcRefusal(FailInfo.BAD_REQUEST, text, body_parts=(body_part,))


def _listed(found: Iterable[str]) -> str:
    names = list(found)
    return ", ".join(names[:MAX_SHOWN]) + (f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else "")
