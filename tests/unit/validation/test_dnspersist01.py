"""dns-persist-01 (draft-ietf-acme-dns-persist-02): tables of records and verdicts, and the draft's own test vectors."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import Micros
from pki.identifiers import DnsName
from tests.helpers.dns import DnsFault
from tests.helpers.world import MovableClock, World
from validation.challenge import Challenge
from validation.dnspersist01 import account_uris, dns_persist01, hashed_uri
from validation.outcome import Failed, FailureKind, Outcome, Proved
from validation.resolver import DnsResolver

NAME = "_validation-persist.example.com"
PREFIX = "https://ca.example/account-hash/"
ACCOUNT = "https://ca.example/acct/123"
THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
HASHED = PREFIX + "sha-256/5SQm7n6tPh2-PlLbCKGnViTXX5z19SCN4cPGQHSk-kw"  # §10.2
HASHED_FOR_ALL = PREFIX + "sha-256/NpDnSwUthQK8zCgFdefYxAdAVPnygMLbs9US6oO-5ug"
ISSUERS = ("authority.example", "ca.example.net")
NOW = MovableClock().micros() // 1_000_000


def asked(*, wildcard: bool = False, subdomains: bool = False, name: str = "example.com") -> Challenge:
    return Challenge(DnsName(name), wildcard, "token", THUMBPRINT, ACCOUNT, subdomains, ISSUERS, PREFIX)


async def attempt(*records: str, wildcard: bool = False, subdomains: bool = False) -> Outcome:
    async with World() as world:
        world.dns.txt(NAME, *records)
        return await dns_persist01(
            asked(wildcard=wildcard, subdomains=subdomains), resolver=world.resolver(), clock=world.clock
        )


def test_the_hashes_are_those_of_the_draft() -> None:
    """§10.2."""
    assert hashed_uri(PREFIX, "example.com", THUMBPRINT, ACCOUNT) == HASHED
    assert hashed_uri(PREFIX, "*", THUMBPRINT, ACCOUNT) == HASHED_FOR_ALL
    assert account_uris(asked(), "example.com") == {ACCOUNT, HASHED, HASHED_FOR_ALL}


@pytest.mark.parametrize(
    ("record", "plain", "wild"),
    [
        (f"authority.example; accounturi={HASHED}", True, False),
        (f"authority.example; accounturi={HASHED_FOR_ALL}", True, False),
        (f"authority.example; accounturi={ACCOUNT}", True, False),
        (f"authority.example;accounturi={ACCOUNT}", True, False),
        (f"  Authority.Example ;\taccounturi = {ACCOUNT} ", True, False),
        (f"ca.example.net; accounturi={ACCOUNT}", True, False),
        (f"authority.example; accounturi={HASHED}; policy=wildcard", True, True),
        (f"authority.example; accounturi={ACCOUNT}; policy=WildCard", True, True),
        (f"authority.example; policy=wildcard; accounturi={ACCOUNT}", True, True),
        (f"authority.example; accounturi={ACCOUNT}; policy=specific-subdomains-only", True, False),
        (f"authority.example; accounturi={ACCOUNT}; policy=", True, False),
        (f"authority.example; accounturi={ACCOUNT}; policy=wildcard; persistUntil={NOW}", True, True),
        (f"authority.example; accounturi={ACCOUNT}; persistUntil={NOW + 1}; later=x; later=y", True, False),
        (f"authority.example; accounturi={ACCOUNT}; persistUntil=0{NOW + 1}", True, False),
    ],
)
async def test_records_that_prove_control(record: str, *, plain: bool, wild: bool) -> None:
    assert isinstance(await attempt(record), Proved) is plain
    assert isinstance(await attempt(record, wildcard=True), Proved) is wild
    assert isinstance(await attempt(record, subdomains=True), Proved) is wild


OTHER_CA = "none names this CA"
MALFORMED = "one names this CA, but is malformed"
OTHER_ACCOUNT = "one names this CA, but another account"
PAST = "its persistUntil is past"
NO_WILDCARD = "lacks policy=wildcard"


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("", OTHER_CA),
        ("v=spf1 -all", OTHER_CA),
        (f"other.example; accounturi={ACCOUNT}; policy=wildcard", OTHER_CA),
        (f"sub.authority.example; accounturi={ACCOUNT}", OTHER_CA),
        (f"authority.example.; accounturi={ACCOUNT}", OTHER_CA),
        (f"; accounturi={ACCOUNT}", OTHER_CA),
        (f"accounturi={ACCOUNT}", OTHER_CA),
        ("authority.example", MALFORMED),
        ("authority.example;", MALFORMED),
        ("authority.example; policy=wildcard", MALFORMED),
        (f"authority.example; accounturi={ACCOUNT};", MALFORMED),
        (f"authority.example; accounturi={ACCOUNT}; accounturi={ACCOUNT}", MALFORMED),
        (f"authority.example; accounturi={ACCOUNT}; policy=wildcard; policy=wildcard", MALFORMED),
        (f"authority.example; accounturi={ACCOUNT}; persistUntil=1; persistUntil=9999999999", MALFORMED),
        (f"authority.example; accounturi={ACCOUNT}; persistUntil=", MALFORMED),
        (f"authority.example; accounturi={ACCOUNT}; persistUntil=-1", MALFORMED),
        (f"authority.example; accounturi={ACCOUNT}; persistUntil=+9999999999", MALFORMED),
        (f"authority.example; accounturi={ACCOUNT}; persistUntil=9999999999.0", MALFORMED),
        (f"authority.example; accounturi={ACCOUNT}; persistUntil=2099-01-01T00:00:00Z", MALFORMED),
        (f"authority.example; accounturi={ACCOUNT}; persistUntil={'9' * 40}", MALFORMED),
        (f"authority.example; accounturi={ACCOUNT}; policy", MALFORMED),
        ("authority.example; accounturi=", OTHER_ACCOUNT),
        (f"authority.example; accounturi={ACCOUNT}4", OTHER_ACCOUNT),
        (f"authority.example; accounturi={ACCOUNT}/", OTHER_ACCOUNT),
        (f"authority.example; accounturi={ACCOUNT.replace('ca', 'CA')}", OTHER_ACCOUNT),
        (f"authority.example; accounturi={HASHED.lower()}", OTHER_ACCOUNT),
        (f"authority.example; accounturi={HASHED.replace('sha-256', 'sha-256-32')}", OTHER_ACCOUNT),
        (f"authority.example; accounturi={hashed_uri(PREFIX, 'example.net', THUMBPRINT, ACCOUNT)}", OTHER_ACCOUNT),
        (f"authority.example; accounturi={hashed_uri(PREFIX, 'example.com', 'A' * 43, ACCOUNT)}", OTHER_ACCOUNT),
        (f"authority.example; accounturi={hashed_uri(PREFIX, 'example.com', THUMBPRINT, ACCOUNT + '4')}", OTHER_ACCOUNT),
        (f"authority.example; accounturi={ACCOUNT}; policy=wildcard; persistUntil={NOW - 1}", PAST),
        (f"authority.example; accounturi={ACCOUNT}; persistUntil=0", PAST),
        (f"authority.example; accounturi={ACCOUNT}", NO_WILDCARD),
        (f"authority.example; accounturi={ACCOUNT}; policy=wildcards", NO_WILDCARD),
    ],
)
async def test_records_that_do_not_and_what_the_client_is_told(record: str, why: str) -> None:
    outcome = await attempt(record, wildcard=True)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.UNAUTHORIZED
    assert outcome.detail.startswith(f"dns-persist-01 for example.com: there is 1 TXT record at {NAME}, ")
    assert why in outcome.detail
    assert ACCOUNT not in outcome.detail


async def test_other_cas_and_other_accounts_records_do_no_harm() -> None:
    """§4.3: each record stands for itself."""
    others = (
        "v=spf1 -all",
        "other.example; accounturi=https://other.example/1",
        "authority.example; accounturi=https://ca.example/acct/4",
        "authority.example; accounturi",
        "other.example; persistUntil=never",
    )
    outcome = await attempt(*others, f"authority.example; accounturi={ACCOUNT}")
    assert isinstance(outcome, Proved)
    assert len(outcome.evidence.records) == 6
    failed = await attempt(*others)
    assert isinstance(failed, Failed)
    assert OTHER_ACCOUNT in failed.detail  # of all the reasons, the one of the record that came nearest


async def test_a_ca_without_a_name_is_proved_nothing() -> None:
    nameless = Challenge(DnsName("example.com"), wildcard=False, token="token", thumbprint=THUMBPRINT, account_url=ACCOUNT)
    async with World() as world:
        world.dns.txt(NAME, f"; accounturi={ACCOUNT}", f"authority.example; accounturi={ACCOUNT}")
        assert isinstance(await dns_persist01(nameless, resolver=world.resolver(), clock=world.clock), Failed)


async def test_two_halves_make_no_whole() -> None:
    outcome = await attempt(
        f"authority.example; accounturi={ACCOUNT}",
        "authority.example; accounturi=https://ca.example/acct/4; policy=wildcard",
        wildcard=True,
    )
    assert isinstance(outcome, Failed)


@pytest.mark.parametrize(
    ("untils", "expected"),
    [((None,), None), ((NOW + 60,), NOW + 60), ((NOW + 60, NOW + 90), NOW + 90), ((NOW + 60, None), None), ((NOW - 1, NOW + 5), NOW + 5)],
)  # fmt: skip
async def test_what_was_proved_is_not_relied_on_after_persist_until(
    untils: tuple[int | None, ...], expected: int | None
) -> None:
    """§4.1 item 5."""
    records = [
        f"authority.example; accounturi={ACCOUNT}" + (f"; persistUntil={until}" if until is not None else "")
        for until in untils
    ]
    outcome = await attempt(*records)
    assert isinstance(outcome, Proved)
    assert outcome.until == (None if expected is None else Micros(expected * 1_000_000))


async def test_the_record_is_looked_for_at_the_name_itself_and_nowhere_above() -> None:
    async with World() as world:
        world.dns.txt(NAME, f"authority.example; accounturi={ACCOUNT}; policy=wildcard")
        outcome = await dns_persist01(asked(name="www.example.com"), resolver=world.resolver(), clock=world.clock)
        assert isinstance(outcome, Failed)
        assert "_validation-persist.www.example.com does not exist" in outcome.detail
        assert world.dns.queries == [("_validation-persist.www.example.com", "TXT")]


async def test_a_failed_dnssec_validation_is_a_failed_challenge() -> None:
    """§7.8.1."""
    async with World() as world:
        world.dns.txt(NAME, f"authority.example; accounturi={ACCOUNT}")
        world.dns.faults[NAME] = DnsFault.SERVFAIL
        outcome = await dns_persist01(asked(), resolver=world.resolver(), clock=world.clock)
        assert isinstance(outcome, Failed)
        assert outcome.kind is FailureKind.DNS
        strict = DnsResolver([world.dns.address], require_secure=True)
        del world.dns.faults[NAME]
        outcome = await dns_persist01(asked(), resolver=strict, clock=world.clock)
        assert isinstance(outcome, Failed)


@given(
    st.sampled_from(["authority.example", "other.example", "", "authority..example"]),
    st.lists(
        st.tuples(
            st.sampled_from(["accounturi", "policy", "persistUntil", "x"]),
            st.sampled_from([ACCOUNT, HASHED, "wildcard", str(NOW), str(NOW - 1), "", "a b"]),
        ),
        max_size=5,
    ),
    st.booleans(),
)
def test_what_is_proved_was_said_in_so_many_words(issuer: str, parameters: list[tuple[str, str]], wildcard: bool) -> None:
    record = "; ".join([issuer, *(f"{tag}={value}" for tag, value in parameters)])
    outcome = asyncio.run(attempt(record, wildcard=wildcard))
    by_tag = {tag: [value for name, value in parameters if name == tag] for tag in ("accounturi", "policy", "persistUntil")}
    expected = (
        issuer == "authority.example"
        and by_tag["accounturi"] in ([ACCOUNT], [HASHED])
        and by_tag["persistUntil"] in ([], [str(NOW)])
        and (by_tag["policy"] == ["wildcard"] or (not wildcard and len(by_tag["policy"]) <= 1))
        and "a b" not in [value for _, value in parameters]
    )
    assert isinstance(outcome, Proved) is expected
