"""Every reason and every problem has its failInfo: nothing that we can refuse for is left without an answer."""

from __future__ import annotations

from pki.cms.errors import CmsError, CmsProblem
from pki.reasons import Reason, Rejection, SubProblem
from scep.failinfo import PROBLEMS, REASONS, FailInfo, from_cms, from_rejection


def test_the_tables_are_total() -> None:
    assert set(REASONS) == set(Reason)
    assert set(PROBLEMS) == set(CmsProblem)


def test_the_values_are_those_of_rfc_8894_section_3_2_1_4_5() -> None:
    assert [each.value for each in FailInfo] == ["0", "1", "2", "3", "4"]


def test_a_rejection_keeps_all_that_it_has_to_say() -> None:
    sub = SubProblem("dns:a.example.com", Reason.FORBIDDEN, "not yours")
    refusal = from_rejection(Rejection(Reason.WEAK_ALGORITHM, "SHA-1 is old", sub=[sub], suggestions=["use SHA-256"]))
    assert refusal.fail_info is FailInfo.BAD_ALG
    assert refusal.text == "SHA-1 is old; dns:a.example.com: not yours; use SHA-256"


def test_a_cms_error_keeps_its_text() -> None:
    refusal = from_cms(CmsError(CmsProblem.SIGNATURE, "no"))
    assert (refusal.fail_info, refusal.text) == (FailInfo.BAD_MESSAGE_CHECK, "no")
