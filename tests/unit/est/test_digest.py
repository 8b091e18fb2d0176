"""RFC 7616: answers to Digest challenges, and the nonces that they answer."""

from __future__ import annotations

import contextlib
import dataclasses
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from est.digest import DigestAnswer, Nonces, StaleNonce, challenges, is_right, parse_digest, response, same_target
from issuance.digests import hashes
from pki.clock import Micros, after
from pki.reasons import Reason, Rejection

NOW = Micros(1_795_000_000_000_000)
GIVEN = {
    "username": '"Mufasa"',
    "realm": '"http-auth@example.org"',
    "nonce": '"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"',
    "uri": '"/dir/index.html"',
    "qop": "auth",
    "nc": "00000001",
    "cnonce": '"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"',
    "response": '"8ca523f5e9506fed4657c9700eebdbec"',
    "algorithm": "MD5",
}


def header(without: str = "", **changed: str) -> str:
    return ", ".join(f"{name}={value}" for name, value in {**GIVEN, **changed}.items() if name != without)


SHA256 = {"algorithm": "SHA-256", "response": '"753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"'}


@pytest.mark.parametrize("changed", [{}, SHA256], ids=["MD5", "SHA-256"])
def test_the_examples_of_the_rfc_are_right(changed: dict[str, str]) -> None:
    # RFC 7616 §3.9.1
    answer = parse_digest(header(**changed))
    known = hashes(user="Mufasa", realm="http-auth@example.org", password="Circle of Life")
    secret = known.md5 if answer.algorithm == "MD5" else known.sha256
    assert is_right(answer, method="GET", secret=secret)
    assert not is_right(answer, method="POST", secret=secret)
    other = hashes(user="Mufasa", realm="http-auth@example.org", password="Circle of life")
    assert not is_right(answer, method="GET", secret=other.md5 if answer.algorithm == "MD5" else other.sha256)


@pytest.mark.parametrize("field", ["nonce", "uri", "cnonce", "count"])
def test_everything_that_was_answered_is_in_the_answer(field: str) -> None:
    answer = parse_digest(header())
    known = hashes(user="Mufasa", realm="http-auth@example.org", password="Circle of Life")
    assert not is_right(dataclasses.replace(answer, **{field: "00000002"}), method="GET", secret=known.md5)


@pytest.mark.parametrize(
    "text",
    [
        header(without="algorithm"),  # §3.3: "If not present, it is assumed to be MD5"
        header(algorithm='"MD5"', qop='"auth"', nc='"00000001"'),  # libest quotes all of them
        header().replace(", ", " ,\t"),
        header(opaque='""', userhash="false", charset="UTF-8", x="y"),  # what is not known is not heeded
        header(response='"8CA523F5E9506FED4657C9700EEBDBEC"'),
        header().replace("username", "USERNAME"),
    ],
)
def test_what_clients_write_is_read_as_the_same_answer(text: str) -> None:
    assert parse_digest(text) == parse_digest(header())


@pytest.mark.parametrize("name", [name for name in GIVEN if name != "algorithm"])
def test_nothing_may_be_missing(name: str) -> None:
    with pytest.raises(Rejection):
        parse_digest(header(without=name))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        header() + ",",
        header() + ", ,",
        header() + ', username="Scar"',
        header() + ', UserName="Mufasa"',
        header() + " x=y",
        header(username='"Muf\\"asa"'),  # a quoted-pair: two readers of one text would disagree
        header(username='"Muf\x00asa"'),
        header(username='"Mufasa'),
        header(username="Muf asa"),
        header(**{"username*": "UTF-8''Mufasa"}),
        header(userhash="true"),
        header(algorithm="MD5-sess"),
        header(algorithm="SHA-512-256"),
        header(qop="auth-int"),
        header(qop='""'),
        header(nc="1"),
        header(nc="0000000g"),
        header(response='"8ca5"'),
        header(response='"' + "z" * 32 + '"'),
        header(algorithm="SHA-256"),  # an MD5 response
        header(response=SHA256["response"]),
        "username",
        "username=",
        '="x"',
    ],
)
def test_anything_else_is_one_and_the_same_refusal(text: str) -> None:
    with pytest.raises(Rejection) as refused:
        parse_digest(text)
    assert refused.value.reason is Reason.UNAUTHENTICATED
    assert refused.value.detail == "this is no answer to a Digest challenge of this server (RFC 7616)"


PIECES = st.sampled_from([f"{name}={value}" for name, value in GIVEN.items()] + ["userhash=true", "x", '"', "\\", "=", "é"])


@given(st.one_of(st.text(), st.lists(PIECES).map(", ".join), st.lists(PIECES).map("".join)))
def test_any_header_is_a_value_or_a_typed_error(text: str) -> None:
    with contextlib.suppress(Rejection):
        answer = parse_digest(text)
        assert isinstance(answer, DigestAnswer)
        assert isinstance(response(answer, method="POST", secret=""), str)


def test_a_long_header_is_read_in_one_pass() -> None:
    with pytest.raises(Rejection):
        parse_digest(", ".join(f"x{n}=y" for n in range(20_000)) + '"')
    with pytest.raises(Rejection):
        parse_digest("a" * 100_000 + " " * 100_000)


def test_the_response_is_not_in_a_repr() -> None:
    assert "8ca523" not in repr(parse_digest(header()))


@pytest.mark.parametrize(
    ("uri", "target", "same"),
    [
        ("/.well-known/est/simpleenroll", "/.well-known/est/simpleenroll", True),
        ("https://ca.test/.well-known/est/simpleenroll", "/.well-known/est/simpleenroll", True),
        ("/.well-known/est/simpleenroll", "https://ca.test:9443/.well-known/est/simpleenroll", True),
        ("/.well-known/est/simpleenroll?", "/.well-known/est/simpleenroll", False),
        ("/.well-known/est/vpn/simpleenroll", "/.well-known/est/simpleenroll", False),
        ("/.well-known/est/%73impleenroll", "/.well-known/est/simpleenroll", False),
        ("/a?b=c", "/a?b=c", True),
        ("http://[/a", "/a", False),
        ("", "/", False),
        ("*", "*", True),
    ],
)
def test_an_answer_is_for_the_target_that_it_came_with(uri: str, target: str, same: bool) -> None:
    # RFC 7616 §3.4.6: "The server MUST check that the above was sent to the same resource"
    assert same_target(uri, target) is same


# ---------------------------------------------------------------------- nonces


@pytest.fixture
def nonces() -> Nonces:
    return Nonces([b"k" * 32])


def answer(nonce: str, count: str = "00000001") -> DigestAnswer:
    return dataclasses.replace(parse_digest(header()), nonce=nonce, count=count)


def test_a_nonce_is_taken_by_every_node_that_has_the_keys(nonces: Nonces) -> None:
    nonce = nonces.new("default", NOW)
    nonces.check(nonce, "default", NOW)
    Nonces([b"new" + b"k" * 29, b"k" * 32]).check(nonce, "default", NOW)
    for other in (Nonces([b"x" * 32]), Nonces([b"k" * 31 + b"x"])):
        with pytest.raises(StaleNonce):
            other.check(nonce, "default", NOW)
    assert len(nonce) <= 64  # libest cuts what is longer
    assert nonces.new("default", NOW) != nonce


@pytest.mark.parametrize(
    ("age", "fresh"),
    [
        (timedelta(0), True),
        (timedelta(minutes=5), True),
        (timedelta(minutes=5, seconds=1), False),
        (-timedelta(minutes=6), False),
    ],
)
def test_a_nonce_is_fresh_for_five_minutes(nonces: Nonces, age: timedelta, fresh: bool) -> None:
    nonce = nonces.new("default", NOW)
    with contextlib.nullcontext() if fresh else pytest.raises(StaleNonce):
        nonces.check(nonce, "default", after(NOW, age))


def test_a_nonce_of_one_endpoint_is_none_of_another(nonces: Nonces) -> None:
    with pytest.raises(StaleNonce):
        nonces.check(nonces.new("vpn", NOW), "default", NOW)


@given(st.one_of(st.text(), st.binary().map(bytes.hex)))
def test_any_other_text_is_a_stale_nonce(text: str) -> None:
    with pytest.raises(StaleNonce):
        Nonces([b"k" * 32]).check(text, "default", NOW)


def test_a_nonce_and_its_count_are_used_once(nonces: Nonces) -> None:
    # §3.4: nc "allows the server to detect request replays by maintaining its own copy of this count"
    nonce = nonces.new("default", NOW)
    nonces.use(answer(nonce), NOW)
    with pytest.raises(StaleNonce):
        nonces.use(answer(nonce), NOW)
    nonces.use(answer(nonce, "0000000a"), NOW)
    with pytest.raises(StaleNonce):
        nonces.use(answer(nonce, "0000000A"), NOW)
    nonces.use(answer(nonces.new("default", NOW)), NOW)


def test_what_cannot_be_remembered_is_stale_and_never_taken_twice() -> None:
    nonces = Nonces([b"k" * 32], remembered=3)
    old = [nonces.new("default", NOW) for _ in range(4)]
    for nonce in old[:3]:
        nonces.use(answer(nonce), NOW)
    later = after(NOW, timedelta(seconds=1))
    with pytest.raises(StaleNonce):
        nonces.use(answer(old[3]), later)
    for nonce in old:
        with pytest.raises(StaleNonce):
            nonces.check(nonce, "default", later)
    new = nonces.new("default", later)
    nonces.check(new, "default", later)
    nonces.use(answer(new), later)


def test_what_is_stale_anyway_is_not_remembered() -> None:
    nonces = Nonces([b"k" * 32], remembered=3)
    at = NOW
    for _ in range(20):
        nonces.use(answer(nonces.new("default", at)), at)
        at = after(at, timedelta(minutes=4))


def test_the_challenge_is_one_that_libest_and_bouncycastle_read() -> None:
    # BouncyCastle fails on a bare algorithm=MD5, libest on any other; both look at the first header alone.
    first, second = challenges(realm="estrealm", nonce="n", stale=False)
    assert first == 'Digest realm="estrealm", nonce="n", qop="auth"'
    assert second == 'Digest realm="estrealm", nonce="n", qop="auth", algorithm=SHA-256'
    assert all("stale=true" in each for each in challenges(realm="estrealm", nonce="n", stale=True))
