"""dns-01 and dns-account-01 against a real DNS server: what proves control, and what the client is told when it does not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.identifiers import DnsName, IpAddress, parse_ip
from tests.helpers.challenges import challenge
from tests.helpers.dns import DnsFault, DnsServer
from tests.helpers.world import MovableClock, World
from validation.challenge import Challenge
from validation.dns01 import account_label, dns01, dns_account01
from validation.http01 import http01
from validation.outcome import Failed, FailureKind, Outcome, Proved
from validation.resolver import DnsResolver

KEY_AUTHORIZATION = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
DIGEST = base64.urlsafe_b64encode(hashlib.sha256(KEY_AUTHORIZATION.encode()).digest()).decode().rstrip("=")
DOMAIN = "example.com"
NAME = "_acme-challenge.example.com"
SECRET = "do-not-show-this"


def asked(*, wildcard: bool = False, account_url: str = "https://example.com/acme/acct/ExampleAccount") -> Challenge:
    return challenge(DnsName(DOMAIN), KEY_AUTHORIZATION, wildcard=wildcard, account_url=account_url)


async def attempt(world: World, *, deadline: float = 5, wildcard: bool = False) -> Outcome:
    return await dns01(asked(wildcard=wildcard), resolver=world.resolver(), clock=world.clock, deadline=deadline)


def failed(outcome: Outcome, kind: FailureKind) -> str:
    assert isinstance(outcome, Failed)
    assert outcome.kind is kind
    assert outcome.detail.startswith("dns-01 for example.com: ")
    assert SECRET not in outcome.detail
    assert DIGEST not in outcome.detail
    return outcome.detail


async def test_the_hash_of_the_key_authorization_in_a_txt_record_proves_control() -> None:
    async with World() as world:
        world.dns.txt(NAME, DIGEST)
        outcome = await attempt(world)
        assert isinstance(outcome, Proved)
        assert outcome.until is None
        evidence = outcome.evidence
        assert evidence.records == (f"{NAME} TXT '{DIGEST}'",)
        assert (evidence.method, evidence.identifier) == ("dns-01", DOMAIN)
        assert (evidence.resolver, evidence.secure) == (world.dns.address, False)
        assert evidence.started == evidence.finished == world.clock.micros()
        json.dumps(evidence.as_json())


async def test_the_name_that_is_asked_about_is_the_identifiers_and_no_other() -> None:
    async with World() as world:
        for wildcard in (False, True):
            world.dns.queries.clear()
            await attempt(world, wildcard=wildcard)
            assert world.dns.queries == [(NAME, "TXT")]


async def test_any_of_many_records_may_be_the_one() -> None:
    """A name and its wildcard, in one order, are proved by two records at one name (RFC 8555 §8.4)."""
    async with World() as world:
        world.dns.txt(NAME, "x" * 43, *(f"v=spf{i}" for i in range(30)), DIGEST, "")
        outcome = await attempt(world)
        assert isinstance(outcome, Proved)
        assert len(outcome.evidence.records) == 21
        assert outcome.evidence.records[-1] == "and 13 more"


async def test_a_record_split_into_strings_is_one_value() -> None:
    async with World() as world:
        world.dns.broken(NAME, "TXT", b"".join(bytes((1, octet)) for octet in DIGEST.encode()))
        assert isinstance(await attempt(world), Proved)


@pytest.mark.parametrize("recursive", [True, False])
async def test_the_record_may_stand_behind_an_alias(*, recursive: bool) -> None:
    async with DnsServer(recursive=recursive) as server:
        server.cname(NAME, "example-com.acme.test")
        server.txt("example-com.acme.test", DIGEST)
        outcome = await dns01(asked(), resolver=DnsResolver([server.address]), clock=MovableClock())
        assert isinstance(outcome, Proved)


@pytest.mark.parametrize(
    "value",
    [
        DIGEST.lower(),
        DIGEST + "=",
        DIGEST + " ",
        " " + DIGEST,
        DIGEST[:-1],
        DIGEST * 2,
        KEY_AUTHORIZATION,
        base64.b64encode(hashlib.sha256(KEY_AUTHORIZATION.encode()).digest()).decode() + "+",
        hashlib.sha256(KEY_AUTHORIZATION.encode()).hexdigest(),
    ],
)
async def test_nothing_that_only_resembles_the_value_proves_anything(value: str) -> None:
    async with World() as world:
        world.dns.txt(NAME, value)
        assert f"there is 1 TXT record at {NAME}, none is the expected value" in failed(
            await attempt(world), FailureKind.UNAUTHORIZED
        )


async def test_no_record_no_name_and_the_wrong_record_are_told_apart() -> None:
    async with World() as world:
        assert f"{NAME} does not exist (NXDOMAIN)" in failed(await attempt(world), FailureKind.DNS)
        world.dns[NAME] = ["192.0.2.1"]
        assert f"there is no TXT record at {NAME}" in failed(await attempt(world), FailureKind.UNAUTHORIZED)
        world.dns.txt(NAME, SECRET, SECRET + "2", SECRET + "3")
        outcome = await attempt(world)
        assert f"there are 3 TXT records at {NAME}, none is" in failed(outcome, FailureKind.UNAUTHORIZED)
        assert f"{NAME} TXT '{SECRET}'" in outcome.evidence.records


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (DnsFault.SERVFAIL, "SERVFAIL"),
        (DnsFault.REFUSED, "REFUSED"),
        (DnsFault.SILENT, "did not answer in time"),
        (DnsFault.GARBAGE, "malformed"),
        (DnsFault.TRUNCATED_ALWAYS, "malformed"),
        (DnsFault.REFERRAL, "must be one that recurses"),
    ],
)
async def test_a_dns_server_in_trouble_is_named_as_such(fault: DnsFault, words: str) -> None:
    async with World() as world:
        world.dns.txt(NAME, DIGEST)
        world.dns.faults[NAME] = fault
        outcome = await attempt(world)
        detail = failed(outcome, FailureKind.DNS)
        assert words in detail
        assert NAME in detail
        assert outcome.evidence.resolver == world.dns.address


async def test_a_truncated_answer_is_fetched_by_tcp() -> None:
    async with World() as world:
        world.dns.txt(NAME, *(f"{i:03}" + "y" * 240 for i in range(20)), DIGEST)
        assert isinstance(await attempt(world), Proved)
        assert world.dns.tcp_queries == 1


async def test_the_deadline_holds() -> None:
    async with World() as world:
        world.dns.faults[NAME] = DnsFault.SILENT
        outcome = await attempt(world, deadline=0.05)
        assert "the whole attempt has 0.05 s" in failed(outcome, FailureKind.DNS)
        assert (outcome.evidence.resolver, outcome.evidence.secure) == ("", None)


async def test_where_dnssec_is_required_an_unproved_record_proves_nothing() -> None:
    async with World() as world:
        world.dns.txt(NAME, DIGEST)
        strict = DnsResolver([world.dns.address], require_secure=True)
        outcome = await dns01(asked(), resolver=strict, clock=world.clock)
        assert "DNSSEC does not prove the answer" in failed(outcome, FailureKind.DNS)
        world.dns.secure = {NAME}
        outcome = await dns01(asked(), resolver=strict, clock=world.clock)
        assert isinstance(outcome, Proved)
        assert outcome.evidence.secure is True


async def test_methods_that_connect_say_too_whether_dnssec_proved_the_addresses() -> None:
    async with World() as world:
        port, resolver = world.http.port, world.resolver()
        for secure, expected in ((frozenset[str](), False), (frozenset({DOMAIN}), True)):
            world.dns[DOMAIN] = ["127.0.0.1"]
            world.dns.secure = set(secure)
            outcome = await http01(asked(), resolver=resolver, egress=world.egress(), clock=world.clock, port=port)
            assert outcome.evidence.secure is expected


async def test_a_name_that_leaves_no_room_for_the_label_fails_and_nobody_is_asked() -> None:
    async with World() as world:
        name = ".".join(["a" * 63] * 3 + ["b" * 61])
        outcome = await dns01(challenge(DnsName(name), KEY_AUTHORIZATION), resolver=world.resolver(), clock=world.clock)
        assert isinstance(outcome, Failed)
        assert "too long for the DNS" in outcome.detail
        assert world.dns.queries == []


async def test_the_dns_is_never_asked_about_onions() -> None:
    """RFC 7686 §2."""
    async with World() as world:
        name = DnsName("a" * 56 + ".onion")
        outcome = await dns01(challenge(name, KEY_AUTHORIZATION), resolver=world.resolver(), clock=world.clock)
        assert isinstance(outcome, Failed)
        assert world.dns.queries == []


async def test_an_address_is_a_callers_mistake() -> None:
    address = parse_ip("192.0.2.1")
    assert isinstance(address, IpAddress)
    async with World() as world:
        with pytest.raises(TypeError):
            await dns01(challenge(address, KEY_AUTHORIZATION), resolver=world.resolver(), clock=world.clock)


@given(st.binary(max_size=300))
def test_whatever_a_record_holds_its_evidence_is_printable(value: bytes) -> None:
    async def tell() -> Outcome:
        async with World() as world:
            strings = [value[i : i + 255] for i in range(0, len(value) or 1, 255)]
            world.dns.broken(NAME, "TXT", b"".join(bytes((len(each),)) + each for each in strings))
            return await attempt(world)

    outcome = asyncio.run(tell())
    assert isinstance(outcome, Failed)
    (text,) = outcome.evidence.records
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 600


# ---------------------------------------------------------------------- dns-account-01


@pytest.mark.parametrize(
    ("account_url", "label"),
    [
        ("https://example.com/acme/acct/ExampleAccount", "ujmmovf2vn55tgye"),  # the draft's own
        ("https://example.com/acme/acct/exampleaccount", None),
    ],
)
def test_an_accounts_label_comes_from_its_url_alone(account_url: str, label: str | None) -> None:
    made = account_label(account_url)
    assert made == label if label else made != "ujmmovf2vn55tgye"
    assert len(made) == 16


async def test_an_account_proves_a_name_at_a_place_of_its_own() -> None:
    async with World() as world:
        place = f"_ujmmovf2vn55tgye.{NAME}"
        world.dns.txt(place, DIGEST)
        outcome = await dns_account01(asked(wildcard=True), resolver=world.resolver(), clock=world.clock)
        assert isinstance(outcome, Proved)
        assert outcome.evidence.method == "dns-account-01"
        assert world.dns.queries == [(place, "TXT")]


async def test_what_stands_at_the_common_place_proves_nothing_for_an_account() -> None:
    async with World() as world:
        world.dns.txt(NAME, DIGEST)
        outcome = await dns_account01(asked(), resolver=world.resolver(), clock=world.clock)
        assert isinstance(outcome, Failed)
        assert f"_ujmmovf2vn55tgye.{NAME} does not exist" in outcome.detail
        other = asked(account_url="https://example.com/acme/acct/Other")
        world.dns.txt(f"_ujmmovf2vn55tgye.{NAME}", DIGEST)
        assert isinstance(await dns_account01(other, resolver=world.resolver(), clock=world.clock), Failed)
