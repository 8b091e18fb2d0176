"""What servers and perspectives say to each other survives the way; anything else is a WireError."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import Micros
from pki.identifiers import DnsName, IpAddress
from validation.challenge import Challenge
from validation.outcome import AttemptEvidence, Failed, FailureKind, Outcome, Proved
from validation.perspectivewire import (
    MAX_TEXT,
    Answer,
    CaaQuestion,
    Question,
    WireError,
    decode_answer,
    decode_caa_question,
    decode_question,
    encode_answer,
    encode_caa_answer,
    encode_caa_question,
    encode_question,
)

TOKENS = st.text("abcXYZ019_-", min_size=1, max_size=64)
NAMES = st.sampled_from(["example.com", "a.b.example", "xn--bcher-kva.example"])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
CHALLENGES = st.builds(
    Challenge,
    identifier=st.builds(DnsName, NAMES) | st.builds(IpAddress, st.ip_addresses()),
    wildcard=st.booleans(),
    token=TOKENS,
    thumbprint=TOKENS,
    account_url=st.sampled_from(["https://ca.test/acme/account/1", ""]),
    subdomains=st.booleans(),
    issuer_domains=st.lists(NAMES, max_size=3).map(tuple),
    hash_prefix=TOKENS,
    response=st.dictionaries(TEXTS, TEXTS, max_size=3).map(lambda members: tuple(members.items())),
)


@given(TOKENS, CHALLENGES)
def test_a_question_arrives_as_it_was_asked(method: str, challenge: Challenge) -> None:
    question = Question(method, challenge)
    assert decode_question(encode_question(question)) == question


@given(NAMES, st.booleans(), st.frozensets(NAMES), st.frozensets(TOKENS, max_size=5))
def test_so_does_one_about_caa(name: str, wildcard: bool, domains: frozenset[str], methods: frozenset[str]) -> None:
    question = CaaQuestion(DnsName(name, wildcard), domains, "https://ca.test/acme/account/1", methods)
    assert decode_caa_question(encode_caa_question(question)) == question


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_octets_are_read_or_refused_and_nothing_else(octets: bytes) -> None:
    for decode in (decode_question, decode_caa_question):
        with pytest.raises(WireError):
            decode(octets)
    with pytest.raises(WireError):
        decode_answer(octets, asked=ASKED)


QUESTION = Question("http-01", Challenge(DnsName("example.com"), False, "token", "thumbprint", ""))
ASKED = encode_question(QUESTION)
EVIDENCE = AttemptEvidence(
    "http-01",
    "example.com",
    resolved=("192.0.2.7", "192.0.2.8"),
    tried=("192.0.2.7",),
    redirects=("'http://x/'",),
    started=Micros(1),
    finished=Micros(2),
)


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [
        (Proved(EVIDENCE), Answer(agrees=True, kind="", detail="", tried=("192.0.2.7",))),
        *(
            (
                Failed(kind, "why\x07 not", EVIDENCE),
                Answer(agrees=False, kind=kind.value, detail="why? not", tried=("192.0.2.7",)),
            )
            for kind in FailureKind
        ),
    ],
)
def test_an_answer_is_a_verdict_and_where_it_was_looked_for(outcome: Outcome, answer: Answer) -> None:
    wire = encode_answer(ASKED, outcome)
    assert decode_answer(wire, asked=ASKED) == answer
    assert b"redirects" not in wire
    assert b"192.0.2.8" not in wire


def test_an_answer_stays_short() -> None:
    evidence = AttemptEvidence(
        "x", "example.com", tried=tuple(map(str, map(ipaddress.IPv4Address, range(200)))), started=Micros(1), finished=Micros(2)
    )
    answer = decode_answer(encode_answer(ASKED, Failed(FailureKind.DNS, "x" * 9999, evidence)), asked=ASKED)
    assert (len(answer.detail), len(answer.tried)) == (MAX_TEXT, 64)


@given(TOKENS, CHALLENGES)
def test_an_answer_to_another_question_is_none(method: str, challenge: Challenge) -> None:
    """Another token, account, method, wildcard: whatever differs, and be it about the same name."""
    other = encode_question(Question(method, challenge))
    answer = encode_answer(ASKED, Proved(EVIDENCE))
    for asked in (other, *(ASKED.replace(old, new, 1) for old, new in ((b"http-01", b"dns-01"), (b'"token"', b'"Token"')))):
        assert asked != ASKED
        with pytest.raises(WireError, match="another question"):
            decode_answer(answer, asked=asked)


def test_a_caa_answer_stands_for_its_name_with_its_star() -> None:
    star, plain = (
        encode_caa_question(CaaQuestion(DnsName("example.com", wildcard), frozenset(), "", frozenset()))
        for wildcard in (True, False)
    )
    wire = encode_caa_answer(star, kind="forbidden", detail="no")
    assert decode_answer(wire, asked=star, kinds=frozenset({"forbidden"})) == Answer(
        agrees=False, kind="forbidden", detail="no", tried=()
    )
    with pytest.raises(WireError):
        decode_answer(wire, asked=plain, kinds=frozenset({"forbidden"}))
    with pytest.raises(WireError, match="no sense"):
        decode_answer(wire, asked=star)
