"""Audit records are steps: they ride in the transaction of the fact that they record, or the fact does not happen."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import orjson

from pki.clock import Micros
from storage.database import Step


class Event(enum.Enum):
    """What is recorded. The names are an outside contract: reports and SIEM rules match on them."""

    ISSUE_INTENT = "issue.intent"
    ISSUE_DONE = "issue.done"
    ISSUE_REFUSED = "issue.refused"
    ISSUE_ABANDONED = "issue.abandoned"
    REVOKED = "revoked"
    KEY_BLOCKED = "key.blocked"  # a compromise that was told after the revocation; with it, it is part of `revoked`
    CRL_PUBLISHED = "crl.published"
    RENEWALS_PULLED = "renewals.pulled"
    RENEWALS_PULL_WITHDRAWN = "renewals.pull_withdrawn"
    ACCOUNT_CREATED = "account.created"
    ACCOUNT_KEY_CHANGED = "account.key_changed"
    ACCOUNT_DEACTIVATED = "account.deactivated"
    ACCOUNT_REVOKED = "account.revoked"  # by an operator, who blocked its key
    EXTERNAL_KEY_CREATED = "external_key.created"
    EXTERNAL_KEY_REVOKED = "external_key.revoked"
    REQUEST_CREATED = "request.created"  # it waits for an approval
    REQUEST_APPROVED = "request.approved"
    REQUEST_DENIED = "request.denied"
    REQUEST_ISSUED = "request.issued"  # the approval was used
    REQUEST_EXPIRED = "request.expired"  # nobody decided, or nobody used the approval
    SCEP_CHALLENGE_CREATED = "scep_challenge.created"
    SCEP_CHALLENGE_USED = "scep_challenge.used"
    SCEP_CHALLENGE_BURNT = "scep_challenge.burnt"  # it came with a request that it was not made for
    SCEP_CHALLENGE_DISABLED = "scep_challenge.disabled"


AUDIT_INSERT_SQL = """
INSERT INTO audit (id, at, event, principal, subject, detail) VALUES ($1, $2, $3, $4, $5, $6)
"""


def record(event: Event, *, record_id: str, at: Micros, principal: str, subject: str, detail: Mapping[str, object]) -> Step:
    """One record. `detail` holds no secret and is stored as JSON."""
    text = orjson.dumps(detail, option=orjson.OPT_SORT_KEYS).decode()
    return Step(AUDIT_INSERT_SQL, (record_id, at, event.value, principal, subject, text))
