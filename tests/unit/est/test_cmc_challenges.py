"""Nonces, challenges and pendTokens: known again without being kept, and of use for nothing but what they were made for."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from est.cmc.challenges import Challenges, Timely
from est.cmc.messages import CmcRefusal, CrmfRequest, FailInfo, Pkcs10Request
from est.cmc.waiting import Tokens, Waiting
from pki.sealing import Sealer
from tests.helpers.clock import FakeClock

OLD, NEW = b"o" * 32, b"n" * 32
CONTEXT = ("default", "tls-client:1")


def challenges(*keys: bytes, clock: FakeClock | None = None) -> Challenges:
    return Challenges(keys, clock=clock or FakeClock(), random_bytes=os.urandom)


def test_a_nonce_is_fresh_and_known_on_every_node_for_its_transaction_alone() -> None:
    one, other = challenges(NEW, OLD), challenges(NEW, OLD)
    nonce = one.nonce(("default", "7"))
    assert nonce != one.nonce(("default", "7"))
    assert other.made(nonce, ("default", "7"))
    for context in (("default", "8"), ("other", "7"), ("default7", ""), ("default",)):
        assert not other.made(nonce, context)
    for wrong in (b"", nonce[:-1], nonce + b"x", bytes(32)):
        assert not other.made(wrong, ("default", "7"))


def test_after_the_keys_are_changed_the_old_ones_still_count_until_they_are_gone() -> None:
    nonce = challenges(OLD).nonce(CONTEXT)
    assert challenges(NEW, OLD).made(nonce, CONTEXT)
    assert not challenges(NEW).made(nonce, CONTEXT)


@pytest.mark.parametrize(
    ("hours", "verdict"), [(0, Timely.YES), (1, Timely.YES), (2, Timely.LATE), (23, Timely.LATE), (24, Timely.NEVER)]
)
def test_a_challenge_is_answered_in_its_hour_or_in_the_next_one(hours: int, verdict: Timely) -> None:
    clock = FakeClock()
    value = challenges(OLD, clock=clock).proof_value(b"request", CONTEXT)
    clock.advance(timedelta(hours=hours))
    found = challenges(NEW, OLD, clock=clock)
    assert found.answered(value.__eq__, b"request", CONTEXT) is verdict
    assert found.answered(value.__eq__, b"another", CONTEXT) is Timely.NEVER
    assert found.answered(value.__eq__, b"request", ("other", "tls-client:1")) is Timely.NEVER


def test_a_token_gives_back_what_waits_to_whom_it_was_given() -> None:
    tokens = Tokens(Sealer([OLD]))
    waiting = (Waiting(Pkcs10Request(1, b"\x30\x00"), "key 1"), Waiting(CrmfRequest(2, b"\x30\x01\x05"), "key 2"))
    token = tokens.seal(waiting, label="default", principal="tls-client:1")
    assert Tokens(Sealer([NEW, OLD])).open(token, label="default", principal="tls-client:1") == waiting
    refused = set()
    for label, principal, wrong in (
        ("other", "tls-client:1", token),
        ("default", "tls-client:2", token),
        ("default", "tls-client:1", token[:-1]),
        ("default", "tls-client:1", b""),
    ):
        with pytest.raises(CmcRefusal) as refusal:
            tokens.open(wrong, label=label, principal=principal)
        assert refusal.value.fail_info is FailInfo.BAD_REQUEST
        refused.add(refusal.value.text)
    assert len(refused) == 1
