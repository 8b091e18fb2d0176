"""What a CMC client is told when it is refused: total tables from our reasons, from what can be wrong with a message, and to HTTP.

RFC 7030 §4.3.2: whoever rejects a request says so by HTTP, too. 404 and 501 would say that there is no CMC here at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from est.cmc.messages import CmcRefusal, FailInfo
from est.errors import STATUS, explanation, retry_after
from pki.cms.errors import CmsError, CmsProblem
from pki.reasons import Reason, Rejection

REASONS: Mapping[Reason, FailInfo] = MappingProxyType(
    {
        Reason.MALFORMED: FailInfo.BAD_REQUEST,
        Reason.UNAUTHENTICATED: FailInfo.BAD_IDENTITY,
        Reason.FORBIDDEN: FailInfo.BAD_IDENTITY,
        Reason.BAD_CSR: FailInfo.BAD_REQUEST,
        Reason.WEAK_ALGORITHM: FailInfo.BAD_ALG,
        Reason.BAD_PUBLIC_KEY: FailInfo.BAD_ALG,
        Reason.REJECTED_IDENTIFIER: FailInfo.BAD_REQUEST,
        Reason.UNSUPPORTED_IDENTIFIER: FailInfo.UNSUPPORTED_EXT,
        Reason.UNKNOWN_PROFILE: FailInfo.BAD_REQUEST,
        Reason.INVALID_VALIDITY: FailInfo.BAD_REQUEST,
        Reason.NOT_VALIDATED: FailInfo.BAD_IDENTITY,
        Reason.CAA_FORBIDS: FailInfo.BAD_REQUEST,
        Reason.LINT_REFUSED: FailInfo.BAD_REQUEST,
        Reason.NOT_FOUND: FailInfo.BAD_CERT_ID,
        Reason.CONFLICT: FailInfo.BAD_REQUEST,
        Reason.ALREADY_REVOKED: FailInfo.BAD_REQUEST,
        Reason.BAD_REVOCATION_REASON: FailInfo.BAD_REQUEST,
        Reason.RATE_LIMITED: FailInfo.TRY_LATER,
        Reason.INTERRUPTED: FailInfo.TRY_LATER,
    }
)

# None: there is no message that could be answered.
PROBLEMS: Mapping[CmsProblem, FailInfo | None] = MappingProxyType(
    {
        CmsProblem.TOO_LARGE: None,
        CmsProblem.TOO_DEEP: None,
        CmsProblem.ENCODING: None,
        CmsProblem.STRUCTURE: None,
        CmsProblem.SIGNER: FailInfo.BAD_MESSAGE_CHECK,
        CmsProblem.ATTRIBUTE: FailInfo.BAD_MESSAGE_CHECK,
        CmsProblem.ALGORITHM: FailInfo.BAD_ALG,
        CmsProblem.KEY: FailInfo.BAD_ALG,
        CmsProblem.DIGEST: FailInfo.BAD_MESSAGE_CHECK,
        CmsProblem.SIGNATURE: FailInfo.BAD_MESSAGE_CHECK,
        CmsProblem.RECIPIENT: FailInfo.BAD_MESSAGE_CHECK,
        CmsProblem.DECRYPT: FailInfo.BAD_MESSAGE_CHECK,
    }
)

HTTP: Mapping[FailInfo, int] = MappingProxyType(
    {
        FailInfo.BAD_ALG: 400,
        FailInfo.BAD_MESSAGE_CHECK: 400,
        FailInfo.BAD_REQUEST: 400,
        FailInfo.BAD_TIME: 400,
        FailInfo.BAD_CERT_ID: 400,
        FailInfo.UNSUPPORTED_EXT: 400,
        FailInfo.MUST_ARCHIVE_KEYS: 400,
        FailInfo.BAD_IDENTITY: 403,
        FailInfo.POP_REQUIRED: 400,
        FailInfo.POP_FAILED: 400,
        FailInfo.NO_KEY_REUSE: 400,
        FailInfo.INTERNAL_CA_ERROR: 500,
        FailInfo.TRY_LATER: 503,
        FailInfo.AUTH_DATA_FAIL: 403,
    }
)


class Later(CmcRefusal):
    """tryLater: HTTP says whose doing it is, and when to come again (seconds)."""

    def __init__(self, text: str, *, status: int, retry_after: int | None, body_parts: tuple[int, ...] = ()) -> None:
        super().__init__(FailInfo.TRY_LATER, text, body_parts=body_parts)
        self.status = status
        self.retry_after = retry_after


def from_rejection(rejection: Rejection, *, body_parts: tuple[int, ...] = ()) -> CmcRefusal:
    text = "; ".join(explanation(rejection).splitlines())
    fail_info = REASONS[rejection.reason]
    if fail_info is FailInfo.TRY_LATER:
        status, seconds = STATUS[rejection.reason], retry_after(rejection)
        return Later(text, status=status, retry_after=seconds, body_parts=body_parts)
    return CmcRefusal(fail_info, text, body_parts=body_parts)


def from_cms(error: CmsError) -> CmcRefusal | None:
    """None where there is no message that could be answered."""
    fail_info = PROBLEMS[error.problem]
    return None if fail_info is None else CmcRefusal(fail_info, error.detail)
