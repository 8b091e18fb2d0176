"""RFC 9110 §12.5.1, as far as it decides between JSON and PEM."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest.accept import PEM_TYPES, pem_type


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        ("", None),
        ("*/*", None),  # curl
        ("application/json", None),
        ("application/*", None),
        ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", None),  # a browser
        ("application/json, text/plain, */*", None),  # axios
        ("application/json;q=0.5, text/plain;q=0.5", None),
        ("application/x-pem-file", "application/x-pem-file"),
        ("Application/PEM-Certificate-Chain", "application/pem-certificate-chain"),
        ("text/plain, */*", "text/plain"),
        ("text/plain;q=0.9, application/json;q=0.1", "text/plain"),
        ("text/plain;charset=utf-8;q=0.2, application/json;q=0.1", "text/plain"),
        ("text/plain;q=0.1, */*", None),
        ("text/plain;q=0", None),
        ("text/plain;q=0.5, application/x-pem-file", "application/x-pem-file"),
        ("text/plain;q=banana", "text/plain"),
    ],
)
def test_the_preference_decides(accept: str, answer: str | None) -> None:
    assert pem_type(accept) == answer


@given(st.text(max_size=200))
def test_any_header_is_one_of_the_answers(accept: str) -> None:
    assert pem_type(accept) in {None, *PEM_TYPES}
