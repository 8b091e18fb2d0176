"""What a SCEP client is told when it is refused: one total table from our reasons, one from what can be wrong with a message."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from pki.cms.errors import CmsError, CmsProblem
from pki.reasons import Reason, Rejection


class FailInfo(enum.Enum):
    """RFC 8894 §3.2.1.4.5; the values as they stand on the wire."""

    BAD_ALG = "0"
    BAD_MESSAGE_CHECK = "1"
    BAD_REQUEST = "2"
    BAD_TIME = "3"
    BAD_CERT_ID = "4"


class Refusal(Exception):
    """A CertRep FAILURE in the making. `text` is shown to the client (failInfoText, §3.2.1.4.6)."""

    def __init__(self, fail_info: FailInfo, text: str) -> None:
        super().__init__(fail_info, text)
        self.fail_info = fail_info
        self.text = text


REASONS: Mapping[Reason, FailInfo] = {
    Reason.MALFORMED: FailInfo.BAD_REQUEST,
    Reason.UNAUTHENTICATED: FailInfo.BAD_REQUEST,
    Reason.FORBIDDEN: FailInfo.BAD_REQUEST,
    Reason.BAD_CSR: FailInfo.BAD_REQUEST,
    Reason.WEAK_ALGORITHM: FailInfo.BAD_ALG,
    Reason.BAD_PUBLIC_KEY: FailInfo.BAD_ALG,
    Reason.REJECTED_IDENTIFIER: FailInfo.BAD_REQUEST,
    Reason.UNSUPPORTED_IDENTIFIER: FailInfo.BAD_REQUEST,
    Reason.UNKNOWN_PROFILE: FailInfo.BAD_REQUEST,
    Reason.INVALID_VALIDITY: FailInfo.BAD_REQUEST,
    Reason.NOT_VALIDATED: FailInfo.BAD_REQUEST,
    Reason.CAA_FORBIDS: FailInfo.BAD_REQUEST,
    Reason.LINT_REFUSED: FailInfo.BAD_REQUEST,
    Reason.NOT_FOUND: FailInfo.BAD_CERT_ID,
    Reason.CONFLICT: FailInfo.BAD_REQUEST,
    Reason.ALREADY_REVOKED: FailInfo.BAD_REQUEST,
    Reason.BAD_REVOCATION_REASON: FailInfo.BAD_REQUEST,
    Reason.RATE_LIMITED: FailInfo.BAD_REQUEST,
    Reason.INTERRUPTED: FailInfo.BAD_REQUEST,
}

PROBLEMS: Mapping[CmsProblem, FailInfo] = {
    CmsProblem.TOO_LARGE: FailInfo.BAD_REQUEST,
    CmsProblem.TOO_DEEP: FailInfo.BAD_REQUEST,
    CmsProblem.ENCODING: FailInfo.BAD_REQUEST,
    CmsProblem.STRUCTURE: FailInfo.BAD_REQUEST,
    CmsProblem.SIGNER: FailInfo.BAD_REQUEST,
    CmsProblem.ATTRIBUTE: FailInfo.BAD_REQUEST,
    CmsProblem.ALGORITHM: FailInfo.BAD_ALG,
    CmsProblem.KEY: FailInfo.BAD_ALG,
    CmsProblem.DIGEST: FailInfo.BAD_MESSAGE_CHECK,
    CmsProblem.SIGNATURE: FailInfo.BAD_MESSAGE_CHECK,
    CmsProblem.RECIPIENT: FailInfo.BAD_MESSAGE_CHECK,
    CmsProblem.DECRYPT: FailInfo.BAD_MESSAGE_CHECK,
}


def from_rejection(rejection: Rejection) -> Refusal:
    parts = (rejection.detail, *(f"{each.identifier}: {each.detail}" for each in rejection.sub), *rejection.suggestions)
    return Refusal(REASONS[rejection.reason], "; ".join(parts))


def from_cms(error: CmsError) -> Refusal:
    return Refusal(PROBLEMS[error.problem], error.detail)
