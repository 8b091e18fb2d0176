"""The tables of CMC's refusals are total, and what every status and failInfo stands for here is written down."""

from __future__ import annotations

import pytest

from est.cmc.asked import NotSupported
from est.cmc.failinfo import HTTP, PROBLEMS, REASONS, from_cms, from_rejection
from est.cmc.messages import CmcRefusal, FailInfo, PendInfo, Status
from est.cmc.processing import Report
from est.cmc.replies import http_status
from pki.cms.errors import CmsError, CmsProblem
from pki.reasons import Reason, Rejection


def test_every_reason_and_every_problem_has_its_fail_info_and_every_fail_info_its_http_status() -> None:
    assert set(REASONS) == set(Reason)
    assert set(PROBLEMS) == set(CmsProblem)
    assert set(HTTP) == set(FailInfo)


def test_no_refusal_says_that_there_is_no_cmc_here() -> None:
    """RFC 7030 §4.3.2: "a client interprets an HTTP 404 or 501 response to indicate that this service is not implemented"."""
    assert not set(HTTP.values()) & {404, 501}
    assert all(400 <= status < 600 for status in HTTP.values())


# Where each is said, or why nothing here says it. The tests named have the story.
SAID = {
    FailInfo.BAD_ALG: "test_est_cmc_messages: a digest of SHA-1",
    FailInfo.BAD_MESSAGE_CHECK: "test_est_cmc_messages: changed on the way, two signers",
    FailInfo.BAD_REQUEST: "test_est_cmc_messages: unknown controls",
    FailInfo.BAD_TIME: "test_est_cmc_controls: an answer counts for its hour",
    FailInfo.BAD_CERT_ID: "test_est_cmc_controls: what the label has not issued",
    FailInfo.UNSUPPORTED_EXT: "test_est_cmc_controls: a name of a kind that is not issued",
    FailInfo.BAD_IDENTITY: "test_est_cmc: who is nobody here",
    FailInfo.POP_REQUIRED: "test_est_cmc: no link",
    FailInfo.POP_FAILED: "test_est_cmc_messages: raVerified by a device",
    FailInfo.TRY_LATER: "test_est_cmc: who guesses secrets is made to wait",
}
NEVER_SAID = {
    FailInfo.MUST_ARCHIVE_KEYS: "no private key is archived here",
    FailInfo.NO_KEY_REUSE: "no policy forbids a key that had a certificate before; a compromised one is badAlg",
    FailInfo.INTERNAL_CA_ERROR: "what nobody expected is a bare 500: nothing of it is told to strangers",
    FailInfo.AUTH_DATA_FAIL: "AuthenticatedData is not served: a message of it is no CMS SignedData, 400",
}
STATUSES_SAID = {Status.SUCCESS, Status.FAILED, Status.PENDING, Status.NO_SUPPORT, Status.POP_REQUIRED, Status.PARTIAL}
STATUSES_NEVER_SAID = {Status.CONFIRM_REQUIRED: "a certificate may be used as soon as it is issued"}


def test_every_status_and_fail_info_is_told_or_has_a_reason_why_not() -> None:
    assert SAID.keys() | NEVER_SAID.keys() == set(FailInfo)
    assert not SAID.keys() & NEVER_SAID.keys()
    assert STATUSES_SAID | STATUSES_NEVER_SAID.keys() == set(Status)
    reachable = {*REASONS.values(), *PROBLEMS.values()} - {None}
    assert not reachable & NEVER_SAID.keys()


def test_what_a_rejection_says_is_all_told() -> None:
    rejection = Rejection(Reason.FORBIDDEN, "not you", suggestions=["ask somebody else"])
    assert from_rejection(rejection, body_parts=(3,)).text == "not you; ask somebody else"


def test_what_cannot_be_answered_has_no_refusal() -> None:
    assert from_cms(CmsError(CmsProblem.ENCODING, "no")) is None


def said(*statuses: Status, fail_info: FailInfo = FailInfo.BAD_REQUEST) -> Report:
    report = Report()
    for number, status in enumerate(statuses, start=1):
        match status:
            case Status.FAILED:
                report.refuse(CmcRefusal(fail_info, "no"), number)
            case Status.NO_SUPPORT:
                report.refuse(NotSupported("no"), number)
            case _:
                report.say(status, number, pend_info=PendInfo(b"t", 0) if status is Status.PENDING else None)
    return report


@pytest.mark.parametrize(
    ("report", "status"),
    [
        (said(Status.SUCCESS), 200),
        (said(Status.SUCCESS, Status.FAILED), 200),
        (said(Status.SUCCESS, Status.PENDING, Status.PARTIAL), 200),
        (said(Status.POP_REQUIRED, Status.FAILED), 200),
        (said(Status.PENDING), 202),
        (said(Status.PENDING, Status.FAILED), 202),
        (said(Status.FAILED), 400),
        (said(Status.NO_SUPPORT), 400),
        (said(Status.FAILED, fail_info=FailInfo.BAD_IDENTITY), 403),
        (said(Status.FAILED, fail_info=FailInfo.TRY_LATER), 503),
    ],
)
def test_http_says_whether_anything_came_of_a_request(report: Report, status: int) -> None:
    assert http_status(report) == status


def test_who_is_limited_is_told_when_to_come_again() -> None:
    report = Report()
    report.refuse(from_rejection(Rejection(Reason.INTERRUPTED, "stopped")), 1)
    assert http_status(report) == 503
    report.refuse(from_rejection(Rejection(Reason.RATE_LIMITED, "too many", retry_after=7)), 2)
    assert (http_status(report), report.retry_after) == (429, 7)
