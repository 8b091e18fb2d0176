"""What a check costs depends on what was presented and never on what is stored."""

from __future__ import annotations

import re

import pytest

from issuance import hashing
from issuance.hashing import generate_secret


def test_a_generated_secret_is_ours_by_its_shape() -> None:
    assert re.fullmatch(r"cws_[A-Za-z0-9_-]{43}", generate_secret())
    assert hashing.is_generated(generate_secret())
    assert hashing.is_generated(f"cw_{'0' * 16}_{'x' * 43}")
    for chosen in ("", "secret", "cws_", "cws_" + "x" * 42, "cws_" + "x" * 44, "CWS_" + "x" * 43, "cws_" + "x" * 42 + "\n"):
        assert not hashing.is_generated(chosen)


@pytest.mark.parametrize("stored", [hashing._NO_SCRYPT, "sha256:" + "0" * 64, hashing.sha256("secret")])
def test_a_chosen_password_is_worked_on_whatever_is_stored_and_matches_no_other_kind(stored: str) -> None:
    assert hashing._which_scrypt([stored], "secret") is None


def test_a_generated_secret_never_matches_what_is_not_its_hash() -> None:
    secret = generate_secret(random_bytes=bytes)
    assert hashing._matches_sha256(hashing.sha256(secret), secret)
    for stored in (hashing._NO_HASH, hashing._NO_SCRYPT, hashing.sha256(secret + "x"), "", secret):
        assert not hashing._matches_sha256(stored, secret)


def test_remembered_successes_are_few_and_tied_to_the_stored_text() -> None:
    seen = hashing._Successes(key=bytes(32))
    seen.add("stored", "secret")
    assert seen.has("stored", "secret")
    assert not seen.has("stored2", "secret")
    assert not seen.has("stored", "secret2")
    for number in range(hashing._CACHED):
        seen.add("stored", f"other {number}")
    assert not seen.has("stored", "secret")
    assert len(seen._seen) == hashing._CACHED


def test_no_secret_is_kept_in_the_clear_or_shown() -> None:
    seen = hashing._Successes(key=b"k" * 32)
    seen.add("stored", "secret")
    assert repr(seen) == "_Successes()"
    assert b"secret" not in b"".join(seen._seen)


def test_scrypt_runs_once_for_each_salt_however_many_challenges_there_are() -> None:
    ran: list[str] = []

    def compute(terms: str, presented: str) -> bytes:
        ran.append(terms)
        return hashing._scrypt(presented, bytes.fromhex(terms.rpartition(":")[2]), 2**10, 8, 1)

    def count(stored: list[str]) -> tuple[int | None, int]:
        ran.clear()
        return hashing._which_scrypt(stored, "secret", compute=compute), len(ran)

    ours, others = (f"scrypt:{2**10}:8:1:{salt * 16}" for salt in ("11", "22"))
    wrong = [f"{ours}:{number:064x}" for number in range(10)]
    right = f"{ours}:{compute(ours, 'secret').hex()}"
    assert count([]) == (None, 1)
    assert count([hashing._NO_HASH]) == (None, 1)
    assert count(wrong) == (None, 1)
    assert count([*wrong, hashing._NO_HASH, right]) == (11, 1)
    assert count([f"{others}:{'00' * 32}", *wrong, right]) == (11, 2)
