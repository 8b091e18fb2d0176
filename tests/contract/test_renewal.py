"""Renewals that are pulled forward: a decision about a set of certificates, on both databases, with the real pipeline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from cryptography import x509

from issuance.renewal import Pull, RenewalRecord, Renewals
from pki.clock import Micros, after
from pki.reasons import Reason, Rejection, RevocationReason
from policy.principal import Principal, PrincipalKind
from storage.database import Database
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import ANYTHING, PROGRAM, Issuing
from tests.helpers.profiles import profile

OPERATOR = Principal(PrincipalKind.OPERATOR, "command-line", frozenset({"operator"}))
URL = "https://ca.example/incident-7"
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Site:
    issuing: Issuing
    renewals: Renewals
    clock: FakeClock

    async def issue(self, name: str, **changes: object) -> str:
        certificate = await self.issuing.issued(name, **changes)
        return f"{certificate.serial_number:x}"

    async def record(self, serial: str) -> RenewalRecord:
        key_identifier = self.issuing.ca.issuer.key_identifier
        found = await self.issuing.issuance.renewal(key_identifier=key_identifier, serial=serial)
        assert found is not None
        return found

    async def pull(self, **changes: object) -> tuple[Pull, int]:
        fields: dict[str, object] = {
            "issuer": "issuing",
            "profile": "",
            "issued_from": Micros(0),
            "issued_before": self.clock.micros(),
            "within": timedelta(hours=24),
            "explanation_url": URL,
            "principal": OPERATOR,
        }
        return await self.renewals.pull(**{**fields, **changes})  # type: ignore[arg-type]  # a test's own defaults


@pytest.fixture
def site(database: Database, clock: FakeClock) -> Site:
    both = replace(ANYTHING, allowed_profiles=frozenset({"tls-server", "short-lived"}))
    issuing = Issuing(database, clock, policies=(both,), profiles=(profile(), profile("short-lived")))
    return Site(issuing, Renewals(database=database, clock=clock, new_id=issuing.new_id), clock)


async def test_a_decision_reaches_the_certificates_it_describes_and_no_others(site: Site) -> None:
    too_early = await site.issue("a.example.com")
    site.clock.advance(HOUR)
    begin = site.clock.micros()
    meant = await site.issue("b.example.com")
    other_profile = await site.issue("c.example.com", profile="short-lived")
    site.clock.advance(HOUR)
    end = site.clock.micros()
    too_late = await site.issue("d.example.com")
    site.clock.advance(HOUR)
    pull, certificates = await site.pull(profile="tls-server", issued_from=begin, issued_before=end)
    assert certificates == 1
    assert pull.window.start == site.clock.micros()
    assert pull.window.end == after(pull.window.start, timedelta(hours=24))
    pulled = await site.record(meant)
    assert (pulled.pulled, pulled.explanation_url) == (pull.window, URL)
    for serial in (too_early, other_profile, too_late):
        assert (await site.record(serial)).pulled is None
    site.clock.advance(HOUR)
    assert (await site.record(await site.issue("b.example.com"))).pulled is None  # else it would be renewed for ever


async def test_of_several_decisions_the_earliest_counts_and_a_withdrawn_one_does_not(site: Site) -> None:
    serial = await site.issue("a.example.com")
    site.clock.advance(HOUR)
    first, _ = await site.pull(within=timedelta(days=5))
    site.clock.advance(HOUR)
    second, _ = await site.pull(explanation_url="https://ca.example/later")
    assert (await site.record(serial)).pulled == first.window
    await site.renewals.withdraw(first.id, OPERATOR)
    assert (await site.record(serial)).pulled == second.window
    await site.renewals.withdraw(second.id, OPERATOR)
    assert (await site.record(serial)).pulled is None
    with pytest.raises(Rejection) as caught:
        await site.renewals.withdraw(second.id, OPERATOR)
    assert caught.value.reason is Reason.NOT_FOUND
    assert [one.withdrawn_at > 0 for one in await site.renewals.list()] == [True, True]


async def test_the_decision_is_in_the_audit_with_its_size_and_revoked_ones_are_not_counted(site: Site) -> None:
    serials = [await site.issue(f"n{number}.example.com") for number in range(3)]
    await site.issuing.issuance.revoke(
        issuer="issuing", serial=serials[0], reason=RevocationReason.SUPERSEDED, principal=PROGRAM
    )
    site.clock.advance(HOUR)
    _, certificates = await site.pull()
    assert certificates == 2
    assert (await site.record(serials[0])).revoked_by == str(PROGRAM)
    assert (await site.record(serials[1])).revoked_by == ""
    (row,) = await site.issuing.rows("SELECT * FROM audit WHERE event = 'renewals.pulled'")
    assert row["principal"] == "operator:command-line"
    assert '"certificates":2' in row["detail"]
    assert URL in row["detail"]


@pytest.mark.parametrize("issued_before", [timedelta(seconds=1), timedelta(days=1)])
async def test_certificates_of_the_future_cannot_be_pulled_forward(site: Site, issued_before: timedelta) -> None:
    with pytest.raises(Rejection) as caught:
        await site.pull(issued_before=after(site.clock.micros(), issued_before))
    assert caught.value.reason is Reason.MALFORMED
    assert await site.renewals.list() == []


async def test_a_span_or_a_window_of_nothing_is_refused(site: Site) -> None:
    for changes in ({"issued_from": site.clock.micros()}, {"within": timedelta(0)}, {"within": timedelta(seconds=59)}):
        with pytest.raises(Rejection):
            await site.pull(**changes)


async def test_the_serial_counts_only_together_with_its_issuers_key(site: Site) -> None:
    serial = await site.issue("a.example.com")
    assert await site.issuing.issuance.renewal(key_identifier=b"another key", serial=serial) is None
    certificate = await site.issuing.issued("b.example.com")
    key = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert key is not None
    assert await site.issuing.issuance.renewal(key_identifier=key, serial="1") is None
    assert await site.issuing.issuance.renewal(key_identifier=key, serial=f"{certificate.serial_number:x}") is not None
