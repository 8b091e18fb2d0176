"""Step 4 of the pipeline: CAA is asked for each name of each certificate, and no answer is no permission."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from issuance.request import ApiKey, BasicPassword, ChallengeEvidence, Channel, Evidence, Issued, Rejected, ScepChallenge
from pki.clock import Clock, after
from pki.identifiers import DnsName, parse_dns, parse_ip
from pki.reasons import Reason
from policy.principal import Principal, PrincipalKind
from storage.database import Database
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import Issuing
from tests.helpers.profiles import profile
from validation.caa import CaaEvidence, CaaOutcome, Failed, Forbidden, Permitted

ACCOUNT = Principal(PrincipalKind.ACME_ACCOUNT, "a1", frozenset({"tester"}))
ACCOUNT_URL = "https://ca.test/acme/default/account/a1"


@dataclass
class Zones:
    """The DNS as CAA sees it: names that forbid, names that cannot be looked up, and parameters that a name insists on."""

    clock: Clock
    forbidding: set[str] = field(default_factory=set)
    dead: bool = False
    account: dict[str, str] = field(default_factory=dict)
    methods: dict[str, set[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    age: timedelta = timedelta(0)  # of what it says

    async def __call__(self, name: DnsName, *, account_url: str, methods: frozenset[str]) -> CaaOutcome:
        self.asked.append(str(name))
        at = after(self.clock.micros(), -self.age)
        evidence = CaaEvidence(
            str(name), name.name, ('0 issue "ca.test"',), (name.name,), "test", secure=False, ttl=300, checked_at=at
        )
        if self.dead:
            return Failed(f"nobody answered for {name}", evidence)
        permitted = str(name) not in self.forbidding
        if str(name) in self.account:
            permitted &= account_url == self.account[str(name)]
        if str(name) in self.methods:
            permitted &= bool(methods) and methods <= self.methods[str(name)]
        if not permitted:
            return Forbidden(f"the CAA records of {name} forbid issuance", evidence)
        return Permitted(f"the CAA records of {name} permit issuance", evidence)


@pytest.fixture
def zones(clock: FakeClock) -> Zones:
    return Zones(clock)


@pytest.fixture
def issuing(database: Database, clock: FakeClock, zones: Zones) -> Issuing:
    return Issuing(database, clock, profiles=(profile(), profile("caa", caa=True)), caa=zones)


async def test_what_was_found_for_each_name_is_part_of_the_record(issuing: Issuing, zones: Zones, clock: FakeClock) -> None:
    await issuing.issued("a.example.com", "*.b.example.com", profile="caa")
    (row,) = await issuing.rows("SELECT caa FROM issuance")
    found = json.loads(row["caa"])
    assert [(each["name"], each["checked_at"]) for each in found] == [
        ("a.example.com", clock.micros()),
        ("*.b.example.com", clock.micros()),
    ]
    assert found[0]["records"] == ['0 issue "ca.test"']
    assert zones.asked == ["a.example.com", "*.b.example.com"]


async def test_nobody_is_asked_where_neither_profile_nor_endpoint_wants_it(issuing: Issuing, zones: Zones) -> None:
    await issuing.issued("a.example.com")
    assert zones.asked == []
    (row,) = await issuing.rows("SELECT caa FROM issuance")
    assert row["caa"] == ""


async def test_an_endpoint_may_want_it_for_every_profile(issuing: Issuing, zones: Zones) -> None:
    zones.forbidding.add("a.example.com")
    outcome = await issuing.issuance.submit(issuing.request("a.example.com", caa=True))
    assert isinstance(outcome, Rejected)
    assert outcome.rejection.reason is Reason.CAA_FORBIDS


async def test_an_order_of_three_whose_second_name_is_forbidden_eight_hours_later_is_refused_and_names_it(
    issuing: Issuing, zones: Zones, clock: FakeClock
) -> None:
    """2020: a large CA asked about one name as often as the order had names, and let the other two pass."""
    names = ("a.example.com", "b.example.com", "c.example.com")
    evidence = tuple(ChallengeEvidence(parse_dns(name), "dns-01", "authz", clock.micros()) for name in names)
    request = issuing.request(*names, profile="caa", principal=ACCOUNT, evidence=evidence, account_url=ACCOUNT_URL)
    assert isinstance(await issuing.issuance.submit(request), Issued)
    signed = len(issuing.signer.signed)
    clock.advance(timedelta(hours=8, seconds=1))
    zones.forbidding.add("b.example.com")
    zones.asked.clear()
    outcome = await issuing.issuance.submit(request)
    assert isinstance(outcome, Rejected)
    assert outcome.rejection.reason is Reason.CAA_FORBIDS
    assert [sub.identifier for sub in outcome.rejection.sub] == ["b.example.com"]
    assert "b.example.com" in outcome.rejection.detail
    assert sorted(zones.asked) == list(names)
    assert len(issuing.signer.signed) == signed
    refusals = await issuing.rows("SELECT detail FROM audit WHERE event = 'issue.refused'")
    assert [json.loads(row["detail"])["reason"] for row in refusals] == ["caa-forbids"]


async def test_a_resolver_that_is_away_is_no_permission(issuing: Issuing, zones: Zones) -> None:
    """2015: what could not be looked up was taken for allowed."""
    zones.dead = True
    outcome = await issuing.issuance.submit(issuing.request("a.example.com", profile="caa"))
    assert isinstance(outcome, Rejected)
    assert outcome.rejection.reason is Reason.CAA_FORBIDS
    assert outcome.rejection.retry_after == 60  # the same request may be granted when the DNS answers again
    assert issuing.signer.signed == []
    assert await issuing.rows("SELECT * FROM issuance") == []
    zones.dead = False
    zones.forbidding.add("a.example.com")
    outcome = await issuing.issuance.submit(issuing.request("a.example.com", profile="caa"))
    assert isinstance(outcome, Rejected)
    assert outcome.rejection.retry_after is None


async def test_what_asks_for_caa_gets_nothing_where_nothing_can_be_asked(database: Database, clock: FakeClock) -> None:
    issuing = Issuing(database, clock)
    for request in (issuing.request("a.example.com", profile="caa"), issuing.request("a.example.com", caa=True)):
        outcome = await issuing.issuance.submit(request)
        assert isinstance(outcome, Rejected)
        assert outcome.rejection.reason is Reason.CAA_FORBIDS


@pytest.mark.parametrize("age", [timedelta(hours=8, seconds=1), timedelta(seconds=-1)])
async def test_an_answer_that_is_too_old_or_of_the_future_stops_everything(
    issuing: Issuing, zones: Zones, age: timedelta
) -> None:
    """BR 3.2.2.8. A checker that kept its answers too long is a bug, and must not reach a key."""
    zones.age = age
    with pytest.raises(AssertionError, match="was about to stand for"):
        await issuing.issuance.submit(issuing.request("a.example.com", profile="caa"))
    assert issuing.signer.signed == []


async def test_an_answer_about_another_name_stops_everything(database: Database, clock: FakeClock, zones: Zones) -> None:
    async def one_name_for_all(name: DnsName, *, account_url: str, methods: frozenset[str]) -> CaaOutcome:
        found = await zones(name, account_url=account_url, methods=methods)
        return replace(found, evidence=replace(found.evidence, name="a.example.com"))

    issuing = Issuing(database, clock, caa=one_name_for_all)
    with pytest.raises(AssertionError, match=r"stand for b\.example\.com"):
        await issuing.issuance.submit(issuing.request("a.example.com", "b.example.com", profile="caa"))
    assert issuing.signer.signed == []


async def test_account_and_method_of_the_proof_are_what_the_records_are_held_against(
    issuing: Issuing, zones: Zones, clock: FakeClock
) -> None:
    """RFC 8657 §3 and §4."""
    zones.account["a.example.com"] = ACCOUNT_URL
    zones.methods["a.example.com"] = {"dns-01"}
    for method, url, permitted in [
        ("dns-01", ACCOUNT_URL, True),
        ("http-01", ACCOUNT_URL, False),
        ("dns-01", ACCOUNT_URL.replace("/a1", "/a2"), False),
        ("dns-01", "", False),
    ]:
        evidence = (ChallengeEvidence(parse_dns("a.example.com"), method, "authz", clock.micros()),)
        request = issuing.request("a.example.com", profile="caa", principal=ACCOUNT, evidence=evidence, account_url=url)
        assert isinstance(await issuing.issuance.submit(request), Issued if permitted else Rejected), (method, url)


@pytest.mark.parametrize(
    ("channel", "kind", "evidence"),
    [
        (Channel.EST, PrincipalKind.EST_USER, BasicPassword("u")),
        (Channel.SCEP, PrincipalKind.SCEP_CLIENT, ScepChallenge("s")),
        (Channel.REST, PrincipalKind.API_KEY, ApiKey("k")),
    ],
)
async def test_no_channel_goes_past_it(
    issuing: Issuing, zones: Zones, channel: Channel, kind: PrincipalKind, evidence: Evidence
) -> None:
    zones.forbidding.add("a.example.com")
    zones.methods["b.example.com"] = {"dns-01"}  # who is not an ACME account has no method that could be listed
    principal = Principal(kind, "x", frozenset({"tester"}))
    for name in ("a.example.com", "b.example.com"):
        request = issuing.request(name, channel=channel, principal=principal, evidence=(evidence,), profile="caa")
        outcome = await issuing.issuance.submit(request)
        assert isinstance(outcome, Rejected)
        assert outcome.rejection.reason is Reason.CAA_FORBIDS


async def test_an_address_has_no_caa(issuing: Issuing, zones: Zones) -> None:
    await issuing.issued("a.example.com", identifiers=(parse_ip("192.0.2.1"),), profile="caa")
    assert zones.asked == []
