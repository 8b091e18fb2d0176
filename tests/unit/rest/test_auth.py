from __future__ import annotations

import pytest

from pki.reasons import Reason, Rejection
from rest.auth import presented_key


@pytest.mark.parametrize(
    ("api_key", "authorization"),
    [(["cw_1"], []), ([" cw_1 "], []), ([], ["Bearer cw_1"]), ([], ["bearer   cw_1 "])],
)
def test_a_key_comes_in_either_header(api_key: list[str], authorization: list[str]) -> None:
    assert presented_key(api_key=api_key, authorization=authorization) == "cw_1"


@pytest.mark.parametrize(
    ("api_key", "authorization", "reason"),
    [
        ([], [], Reason.UNAUTHENTICATED),
        ([], ["Basic YTpi"], Reason.UNAUTHENTICATED),
        (["cw_1", "cw_1"], [], Reason.MALFORMED),
        (["cw_1"], ["Bearer cw_1"], Reason.MALFORMED),
    ],
)
def test_none_is_401_and_two_are_malformed(api_key: list[str], authorization: list[str], reason: Reason) -> None:
    with pytest.raises(Rejection) as refused:
        presented_key(api_key=api_key, authorization=authorization)
    assert refused.value.reason is reason
