"""Step 3 of the pipeline: what counts as a proof of control for which name, and what does not."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from issuance.evidence import is_below
from issuance.request import ChallengeEvidence, IssuanceRequest, Issued, PolicyOwnership, Rejected
from pki.clock import after
from pki.identifiers import DnsName, Identifier, IpAddress, parse_dns
from pki.reasons import Reason, Rejection
from policy.principal import Principal, PrincipalKind
from policy.rules import Policy
from storage.database import Database
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import Issuing
from tests.helpers.profiles import profile

ACCOUNT = Principal(PrincipalKind.ACME_ACCOUNT, "a1", frozenset({"tester"}))
EVERYTHING = Policy("everything", frozenset({"tester"}), frozenset({"tls-server", "strict", "watched"}), ("*",))
STRICT = profile("strict", methods_required=2)
WATCHED = profile("watched", perspectives_required=3)


@dataclass
class Register:
    """Which external account keys own what for whom: (principal, key) -> names."""

    names: dict[tuple[str, str], set[Identifier]] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    async def owned(
        self, principal: Principal, credential_ids: Collection[str], identifiers: Collection[Identifier]
    ) -> Collection[Identifier]:
        self.asked.append(tuple(credential_ids))
        mine = {name for key in credential_ids for name in self.names.get((str(principal), key), set())}
        return mine & set(identifiers)


@pytest.fixture
def register() -> Register:
    return Register({("acme-account:a1", "key-1"): {parse_dns("a.example.com"), parse_dns("b.example.com")}})


@pytest.fixture
def issuing(database: Database, clock: FakeClock, register: Register) -> Issuing:
    return Issuing(database, clock, policies=[EVERYTHING], profiles=(profile(), STRICT, WATCHED), ownership=register)


def proof(clock: FakeClock, name: str, method: str = "dns-01", **members: Any) -> ChallengeEvidence:
    return ChallengeEvidence(parse_dns(name), method, "authz", clock.micros(), **members)


def owned(name: str, key: str = "key-1") -> PolicyOwnership:
    return PolicyOwnership(key, parse_dns(name), "authz")


async def refused(issuing: Issuing, request: IssuanceRequest) -> Rejection:
    outcome = await issuing.issuance.submit(request)
    assert isinstance(outcome, Rejected), outcome
    assert outcome.rejection.reason is Reason.NOT_VALIDATED
    assert issuing.signer.signed == []
    return outcome.rejection


# ---------------------------------------------------------------- subdomains (RFC 9444)


@pytest.mark.parametrize(
    ("wanted", "proved", "below"),
    [
        ("a.example.com", "example.com", True),
        ("a.b.example.com", "example.com", True),
        ("*.a.example.com", "example.com", True),
        ("example.com", "example.com", False),
        ("evil-example.com", "example.com", False),
        ("example.com", "a.example.com", False),
        ("a.example.com", "b.example.com", False),
    ],
)
def test_below_means_whole_labels_in_front(wanted: str, proved: str, below: bool) -> None:
    assert is_below(parse_dns(wanted), parse_dns(proved)) is below


def test_no_address_is_below_a_name_and_nothing_is_below_a_wildcard() -> None:
    assert not is_below(IpAddress(ipaddress.ip_address("192.0.2.1")), parse_dns("example.com"))
    assert not is_below(parse_dns("a.b.example.com"), DnsName("example.com", wildcard=True))


async def test_a_proof_of_an_ancestor_counts_for_the_names_below_when_it_was_asked_for_as_one(
    issuing: Issuing, clock: FakeClock
) -> None:
    evidence = (proof(clock, "example.com", subdomains=True),)
    assert await issuing.issued("a.example.com", "*.b.example.com", principal=ACCOUNT, evidence=evidence)


@pytest.mark.parametrize(
    ("name", "method", "subdomains"),
    [
        ("example.com", "dns-01", False),  # nobody asked for the names below
        ("example.com", "http-01", True),  # a web server proves its own name
        ("example.com", "tls-alpn-01", True),
        ("ample.com", "dns-01", True),  # not an ancestor
        ("b.example.com", "dns-01", True),
        ("www.a.example.com", "dns-01", True),
    ],
)
async def test_a_proof_of_something_else_is_none(
    issuing: Issuing, clock: FakeClock, name: str, method: str, subdomains: bool
) -> None:
    evidence = (proof(clock, name, method, subdomains=subdomains),)
    await refused(issuing, issuing.request("a.example.com", principal=ACCOUNT, evidence=evidence))


@pytest.mark.parametrize("method", ["dns-01", "dns-account-01", "dns-persist-01", "onion-csr-01"])
async def test_a_wildcard_is_proved_by_these_methods(issuing: Issuing, clock: FakeClock, method: str) -> None:
    evidence = (proof(clock, "example.com", method, wildcard=True),)
    assert await issuing.issued("*.example.com", principal=ACCOUNT, evidence=evidence)


async def test_a_proof_of_the_name_is_none_of_its_wildcard_nor_the_other_way_round(issuing: Issuing, clock: FakeClock) -> None:
    """A record of dns-persist-01 without policy=wildcard proves the one and not the other."""
    plain = (proof(clock, "example.com", "dns-persist-01"),)
    await refused(issuing, issuing.request("*.example.com", principal=ACCOUNT, evidence=plain))
    starred = (proof(clock, "example.com", "dns-persist-01", wildcard=True),)
    await refused(issuing, issuing.request("example.com", principal=ACCOUNT, evidence=starred))
    above = (proof(clock, "example.com", "dns-persist-01", subdomains=True),)
    assert await issuing.issued("*.example.com", "example.com", principal=ACCOUNT, evidence=above)


@pytest.mark.parametrize("method", ["http-01", "tls-alpn-01", "device-attest-01", ""])
async def test_a_wildcard_is_proved_by_no_other(issuing: Issuing, clock: FakeClock, method: str) -> None:
    evidence = (proof(clock, "example.com", method, wildcard=True),)
    await refused(issuing, issuing.request("*.example.com", principal=ACCOUNT, evidence=evidence))


# ---------------------------------------------------------------- more than one look


async def test_two_methods_are_two_families(issuing: Issuing, clock: FakeClock) -> None:
    """Whoever holds the zone answers dns-01 and dns-account-01 alike, so they are one proof."""
    first = proof(clock, "a.example.com", "dns-01")
    for again in ("dns-01", "dns-account-01", "dns-persist-01"):
        both = (first, proof(clock, "a.example.com", again))
        request = issuing.request("a.example.com", principal=ACCOUNT, profile="strict", evidence=both)
        assert "by 2 different methods" in (await refused(issuing, request)).detail
    evidence = (first, proof(clock, "a.example.com", "http-01"))
    assert await issuing.issued("a.example.com", principal=ACCOUNT, profile="strict", evidence=evidence)


async def test_both_of_two_methods_have_to_be_fresh_and_for_the_name(issuing: Issuing, clock: FakeClock) -> None:
    stale = ChallengeEvidence(
        parse_dns("a.example.com"), "http-01", "authz", after(clock.micros(), -timedelta(days=10, seconds=1))
    )
    for second in (stale, proof(clock, "b.example.com", "http-01")):
        evidence = (proof(clock, "a.example.com"), second)
        await refused(issuing, issuing.request("a.example.com", principal=ACCOUNT, profile="strict", evidence=evidence))


@pytest.mark.parametrize("perspectives", [0, 2, 3])
async def test_a_proof_that_too_few_perspectives_saw_is_none(issuing: Issuing, clock: FakeClock, perspectives: int) -> None:
    evidence = (proof(clock, "a.example.com", perspectives=perspectives),)
    request = issuing.request("a.example.com", principal=ACCOUNT, profile="watched", evidence=evidence)
    if perspectives < 3:
        assert "from 3 perspectives" in (await refused(issuing, request)).detail
    else:
        assert isinstance(await issuing.issuance.submit(request), Issued)
        (row,) = await issuing.rows("SELECT evidence FROM issuance")
        assert '"perspectives":3' in row["evidence"]


# ---------------------------------------------------------------- names owned by an external account key


async def test_a_name_that_the_accounts_external_key_owns_needs_no_proof(issuing: Issuing, clock: FakeClock) -> None:
    mixed = (owned("a.example.com"), proof(clock, "c.example.com"))
    assert await issuing.issued("a.example.com", "c.example.com", principal=ACCOUNT, evidence=mixed)
    (row,) = await issuing.rows("SELECT evidence FROM issuance")
    assert '"kind":"ownership","identifier":"dns:a.example.com","credential":"key-1"' in row["evidence"]


async def test_ownership_is_looked_up_when_the_certificate_is_made(issuing: Issuing, register: Register) -> None:
    """The key was taken back between the order and its finalization."""
    register.names.clear()
    await refused(issuing, issuing.request("a.example.com", principal=ACCOUNT, evidence=(owned("a.example.com"),)))
    assert register.asked == [("key-1",)]


@pytest.mark.parametrize(
    ("claim", "principal"),
    [
        (owned("a.example.com", "key-2"), ACCOUNT),  # a key that owns nothing
        (owned("c.example.com"), ACCOUNT),  # a name that the key does not own
        (owned("b.example.com"), ACCOUNT),  # another name than the one that is wanted
        (owned("*.a.example.com"), ACCOUNT),
        (owned("a.example.com"), Principal(PrincipalKind.ACME_ACCOUNT, "a2", frozenset({"tester"}))),  # not its key
        (owned("a.example.com"), Principal(PrincipalKind.API_KEY, "a1", frozenset({"tester"}))),
        (owned("a.example.com"), Principal(PrincipalKind.EST_USER, "a1", frozenset({"tester"}))),
        (owned("a.example.com"), Principal(PrincipalKind.SCEP_CLIENT, "a1", frozenset({"tester"}))),
    ],
)
async def test_a_claim_to_own_a_name_is_nothing_by_itself(
    issuing: Issuing, claim: PolicyOwnership, principal: Principal
) -> None:
    await refused(issuing, issuing.request("a.example.com", principal=principal, evidence=(claim,)))


async def test_owning_a_name_is_not_owning_its_wildcard(issuing: Issuing) -> None:
    await refused(issuing, issuing.request("*.a.example.com", principal=ACCOUNT, evidence=(owned("a.example.com"),)))


@pytest.mark.parametrize("name", ["strict", "watched"])
async def test_a_profile_that_wants_more_than_one_look_is_not_content_with_none(issuing: Issuing, name: str) -> None:
    await refused(
        issuing, issuing.request("a.example.com", principal=ACCOUNT, profile=name, evidence=(owned("a.example.com"),))
    )


async def test_without_a_register_nobody_owns_anything(database: Database, clock: FakeClock) -> None:
    issuing = Issuing(database, clock)
    await refused(issuing, issuing.request("a.example.com", principal=ACCOUNT, evidence=(owned("a.example.com"),)))


async def test_nothing_is_looked_up_for_whoever_claims_nothing(issuing: Issuing, clock: FakeClock, register: Register) -> None:
    await issuing.issued("c.example.com", principal=ACCOUNT, evidence=(proof(clock, "c.example.com"),))
    assert register.asked == []


def test_profiles_that_were_pinned_before_keep_their_version() -> None:
    """An order that was made by the release before can still be finalized."""
    assert profile().version == profile(methods_required=1, perspectives_required=0).version
    assert len({profile().version, STRICT.version, profile("strict").version, WATCHED.version}) == 4
