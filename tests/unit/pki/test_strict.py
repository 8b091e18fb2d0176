"""base64url has one spelling for each value (RFC 7515 §2, RFC 4648 §3.5)."""

from __future__ import annotations

import base64
import itertools
import string

import pytest

from pki.strict import StrictError, base64url, from_base64url

ALPHABET = string.ascii_letters + string.digits + "-_"


@pytest.mark.parametrize("length", [1, 2, 3])
def test_of_all_spellings_of_few_octets_just_the_encoders_own_is_taken(length: int) -> None:
    for letters in itertools.product(ALPHABET if length < 3 else ALPHABET[::3], repeat=length):
        text = "".join(letters)
        try:
            value = from_base64url(text)
        except StrictError:
            assert length == 1 or base64url(base64.urlsafe_b64decode(text + "=" * (4 - length))) != text
        else:
            assert base64url(value) == text


@pytest.mark.parametrize("text", ["QQ==", "Q Q", "QQ\n", "Q+8", "Q/8", "Äg", "QQ="])
def test_padding_white_space_and_other_alphabets_are_not_taken(text: str) -> None:
    with pytest.raises(StrictError):
        from_base64url(text)
