"""Ways past CAA that are in nobody's zone: the name that is no SAN, and the quorum that is somebody else's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from issuance.request import ChallengeEvidence, Issued, Rejected
from pki.clock import Clock
from pki.identifiers import DnsName, parse_dns
from pki.reasons import Reason
from policy.principal import Principal, PrincipalKind
from storage.database import Database
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import Issuing
from tests.helpers.profiles import device, profile
from validation.caa import CaaEvidence, CaaOutcome, Forbidden, Permitted
from validation.outcome import Verdict

ACCOUNT = Principal(PrincipalKind.ACME_ACCOUNT, "a1", frozenset({"tester"}))


@dataclass
class Zones:
    """Every name permits but those that forbid; `agreeing` of five perspectives see it."""

    clock: Clock
    forbidding: set[str] = field(default_factory=set)
    agreeing: int = 0
    asked: list[str] = field(default_factory=list)

    async def __call__(self, name: DnsName, *, account_url: str, methods: frozenset[str]) -> CaaOutcome:
        self.asked.append(str(name))
        seen = tuple(Verdict(f"p{number}", agrees=number < self.agreeing, detail="") for number in range(5))
        evidence = CaaEvidence(str(name), "", (), (name.name,), "test", secure=False, ttl=0, checked_at=self.clock.micros())
        evidence = replace(evidence, perspectives=seen if self.agreeing else ())
        return (Forbidden if str(name) in self.forbidding else Permitted)("as the zone says", evidence)


@pytest.fixture
def zones(clock: FakeClock) -> Zones:
    return Zones(clock)


async def test_a_device_that_calls_itself_by_a_hosts_name_is_asked_about(
    database: Database, clock: FakeClock, zones: Zones
) -> None:
    """A common name is what some readers still go by, so what its owner forbids is no common name either."""
    issuing = Issuing(database, clock, profiles=(replace(device(), caa=True),), caa=zones)
    zones.forbidding.add("www.bank.example")
    for common_name, verdict in (("printer 7", Issued), ("www.Bank.example", Rejected)):
        request = issuing.request(profile="device", common_name=common_name)
        assert isinstance(await issuing.issuance.submit(request), verdict), common_name
    assert zones.asked == ["www.bank.example"]


@pytest.mark.parametrize(("agreeing", "verdict"), [(0, Rejected), (2, Rejected), (3, Issued), (5, Issued)])
async def test_a_profile_that_wants_three_perspectives_wants_them_for_caa_as_well(
    database: Database, clock: FakeClock, zones: Zones, agreeing: int, verdict: type
) -> None:
    """With `quorum: 1` one of five that agrees is enough for the server, and was for this profile's CAA, too."""
    issuing = Issuing(database, clock, profiles=(profile("caa", caa=True, perspectives_required=3),), caa=zones)
    zones.agreeing = agreeing
    proof = ChallengeEvidence(parse_dns("a.example.com"), "dns-01", "authz", clock.micros(), perspectives=5)
    request = issuing.request("a.example.com", profile="caa", principal=ACCOUNT, evidence=(proof,))
    outcome = await issuing.issuance.submit(request)
    assert isinstance(outcome, verdict)
    if isinstance(outcome, Rejected):
        assert outcome.rejection.reason is Reason.CAA_FORBIDS
        assert "wants 3 perspectives" in outcome.rejection.detail
        assert outcome.rejection.retry_after == 60
        assert issuing.signer.signed == []
