"""CRLs: published on start, on schedule, and soon after a revocation; numbers only rise; entries stay long enough."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from issuance.crl import CrlPublisher, CrlSchedule, PublishedCrls
from pki.clock import to_datetime
from pki.reasons import RevocationReason, Unavailable
from storage.database import Database
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import PROGRAM, Issuing

DAY = timedelta(days=1)


class Story:
    def __init__(self, database: Database, clock: FakeClock) -> None:
        self.issuing = Issuing(database, clock)
        self.clock = clock
        self.publisher = CrlPublisher(
            issuers=self.issuing.rules.issuers,
            schedules={"issuing": CrlSchedule(refresh=DAY, lifetime=4 * DAY)},
            database=database,
            signer=self.issuing.signer,
            clock=clock,
            new_id=self.issuing.new_id,
        )

    async def crls(self) -> list[x509.CertificateRevocationList]:
        rows = await self.issuing.rows("SELECT der FROM crl ORDER BY number")
        lists = [x509.load_der_x509_crl(bytes(row["der"])) for row in rows]
        public_key = self.issuing.ca.certificate.public_key()
        assert all(one.is_signature_valid(public_key) for one in lists)  # type: ignore[arg-type]  # an EC key
        return lists

    async def revoke(self, certificate: x509.Certificate, reason: RevocationReason = RevocationReason.SUPERSEDED) -> None:
        serial = f"{certificate.serial_number:x}"
        await self.issuing.issuance.revoke(issuer="issuing", serial=serial, reason=reason, principal=PROGRAM)


@pytest.fixture
def story(database: Database, clock: FakeClock) -> Story:
    return Story(database, clock)


def number(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


async def test_an_empty_crl_is_there_from_the_start_and_stays_until_it_is_due(story: Story) -> None:
    await story.publisher.look("issuing")
    await story.publisher.look("issuing")
    (crl,) = await story.crls()
    assert len(crl) == 0
    assert crl.next_update_utc is not None
    assert crl.next_update_utc - crl.last_update_utc == 4 * DAY
    story.clock.advance(DAY)
    await story.publisher.look("issuing")
    assert [number(one) for one in await story.crls()] == [1, 2]


async def test_a_revocation_is_on_the_next_crl_with_its_reason(story: Story) -> None:
    certificate = await story.issuing.issued("a.example.com")
    plain = await story.issuing.issued("b.example.com")
    await story.publisher.look("issuing")
    await story.revoke(certificate, RevocationReason.KEY_COMPROMISE)
    await story.revoke(plain, RevocationReason.UNSPECIFIED)
    await story.publisher.look("issuing")
    crl = (await story.crls())[-1]
    entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
    assert entry is not None
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.key_compromise
    other = crl.get_revoked_certificate_by_serial_number(plain.serial_number)
    assert other is not None
    assert list(other.extensions) == []  # RFC 5280 §5.3.1: no reason rather than `unspecified`
    assert entry.revocation_date_utc == to_datetime(story.clock.micros())


async def test_an_entry_is_on_one_crl_after_its_certificate_has_ended(story: Story) -> None:
    """RFC 5280 §3.3. A CA dropped entries early in 2025, and another tidied revoked certificates away in 2021."""
    certificate = await story.issuing.issued("a.example.com")
    await story.revoke(certificate)
    for _ in range(60):
        await story.publisher.look("issuing")
        newest = (await story.crls())[-1]
        listed = newest.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
        assert listed or newest.last_update_utc > certificate.not_valid_after_utc + DAY
        story.clock.advance(DAY)
    assert not listed


async def test_a_published_crl_is_found_by_the_time_for_which_it_is_wanted(story: Story) -> None:
    """RFC 5272 §6.10: "that one whose thisUpdate value is less than but nearest to the specified time"."""
    published, first_day = PublishedCrls(story.issuing.database), story.clock.micros()
    assert await published.find("issuing", at=first_day) is None
    await story.publisher.look("issuing")
    story.clock.advance(2 * DAY)
    await story.publisher.look("issuing")
    old, new = (one.public_bytes(Encoding.DER) for one in await story.crls())
    assert await published.find("issuing", at=first_day) == old
    assert await published.find("issuing", at=story.clock.micros()) == new
    assert await published.find("former", at=story.clock.micros()) is None


async def test_two_publishers_at_once_make_one_crl(story: Story) -> None:
    await asyncio.gather(*(story.publisher.look("issuing") for _ in range(5)))
    assert [number(one) for one in await story.crls()] == [1]


async def test_without_the_signer_the_old_crl_stays(story: Story) -> None:
    await story.publisher.look("issuing")
    story.clock.advance(2 * DAY)
    story.issuing.signer.fail = lambda _: b"\x30\x06\x02\x01\x01\x02\x01\x01"
    with pytest.raises(Unavailable):
        await story.publisher.look("issuing")
    assert [number(one) for one in await story.crls()] == [1]


async def test_an_issuer_that_is_gone_is_not_looked_at_again(story: Story) -> None:
    assert await story.publisher.look("former") is None


def test_a_crl_that_would_expire_before_its_successor_is_no_schedule() -> None:
    with pytest.raises(ValueError, match="refreshed"):
        CrlSchedule(refresh=4 * DAY, lifetime=4 * DAY)
