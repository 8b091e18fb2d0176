"""Requests that ask for a little more than is granted, at the door of the pipeline."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from issuance.request import Rejected
from pki import der
from pki.clock import Micros, after
from pki.reasons import Reason, Rejection, RevocationReason
from policy.rules import Policy
from storage.database import Database
from tests.helpers.ca import make_csr
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import PROGRAM, Issuing
from tests.helpers.profiles import profile

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
BACKDATE = timedelta(minutes=5)
ONE_DAY = Policy(
    "one-day",
    roles=frozenset({"tester"}),
    allowed_profiles=frozenset({"tls-server"}),
    allowed_sans=("*",),
    max_validity=DAY,
)


@pytest.fixture
def brief(database: Database, clock: FakeClock) -> Issuing:
    return Issuing(database, clock, policies=[ONE_DAY], profiles=[profile(backdate=BACKDATE)])


def lifetime(certificate: x509.Certificate) -> timedelta:
    """Both ends are inclusive (RFC 5280 §4.1.2.5)."""
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc + SECOND


async def reason(issuing: Issuing, **changes: Any) -> Reason:
    outcome = await issuing.issuance.submit(issuing.request("www.example.com", **changes))
    assert isinstance(outcome, Rejected), outcome
    return outcome.rejection.reason


async def test_a_policy_s_limit_is_that_of_the_certificate_and_not_of_what_is_left_of_it(
    brief: Issuing, clock: FakeClock
) -> None:
    now = clock.micros()
    longest = await brief.issued("www.example.com", not_after=after(now, DAY - BACKDATE - SECOND))
    assert lifetime(longest) == DAY
    for more in (-BACKDATE, timedelta(0), 3 * DAY):  # one second more; the backdate more; much more
        assert await reason(brief, not_after=after(now, DAY + more)) is Reason.INVALID_VALIDITY


async def test_it_is_the_same_with_a_beginning_of_one_s_own(brief: Issuing, clock: FakeClock) -> None:
    now = clock.micros()
    begin = after(now, timedelta(hours=1))
    longest = await brief.issued("www.example.com", not_before=begin, not_after=after(begin, DAY - SECOND))
    assert lifetime(longest) == DAY
    assert await reason(brief, not_before=begin, not_after=after(begin, DAY)) is Reason.INVALID_VALIDITY


async def test_fractions_of_a_second_do_not_add_up_to_one(brief: Issuing, clock: FakeClock) -> None:
    begin = Micros(clock.micros() // 1_000_000 * 1_000_000)
    asked = {"not_before": Micros(begin + 999_999), "not_after": Micros(after(begin, DAY))}
    assert await reason(brief, **asked) is Reason.INVALID_VALIDITY


async def test_a_compromised_key_does_not_come_back_in_another_spelling(database: Database, clock: FakeClock) -> None:
    """BR 6.1.1.3 (5). A compressed point is the same key in other octets."""
    issuing = Issuing(database, clock)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = await issuing.issued("www.example.com", csr=make_csr("www.example.com", key=key))
    serial = f"{certificate.serial_number:x}"
    await issuing.issuance.revoke(issuer="issuing", serial=serial, reason=RevocationReason.KEY_COMPROMISE, principal=PROGRAM)
    outcome = await issuing.issuance.submit(issuing.request("www.example.com", csr=_compressed("www.example.com", key)))
    assert isinstance(outcome, Rejected), outcome
    assert outcome.rejection.reason is Reason.BAD_PUBLIC_KEY


def _compressed(name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    info, algorithm, _ = der.children(der.whole(make_csr(name, key=key), der.SEQUENCE).content)
    version, subject, spki, attributes = der.children(info.content)
    identifier, _ = der.children(spki.content)
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    short = der.encode(der.SEQUENCE, identifier.raw + der.encode(der.BIT_STRING, b"\0" + point))
    changed = der.encode(der.SEQUENCE, version.raw + subject.raw + short + attributes.raw)
    signature = key.sign(changed, ec.ECDSA(hashes.SHA256()))
    return der.encode(der.SEQUENCE, changed + algorithm.raw + der.encode(der.BIT_STRING, b"\0" + signature))


async def test_a_compromise_that_comes_after_another_reason_still_ends_the_key(database: Database, clock: FakeClock) -> None:
    """Whoever stole a key could else revoke its certificate as superseded first, and keep the key usable."""
    issuing = Issuing(database, clock)
    csr = make_csr("www.example.com")
    certificate = await issuing.issued("www.example.com", csr=csr)
    serial = f"{certificate.serial_number:x}"
    await issuing.issuance.revoke(issuer="issuing", serial=serial, reason=RevocationReason.SUPERSEDED, principal=PROGRAM)
    with pytest.raises(Rejection) as refused:
        await issuing.issuance.revoke(
            issuer="issuing", serial=serial, reason=RevocationReason.KEY_COMPROMISE, principal=PROGRAM
        )
    assert refused.value.reason is Reason.ALREADY_REVOKED
    outcome = await issuing.issuance.submit(issuing.request("www.example.com", csr=csr))
    assert isinstance(outcome, Rejected), outcome
    assert outcome.rejection.reason is Reason.BAD_PUBLIC_KEY


async def test_the_name_of_an_unknown_profile_comes_back_short_and_is_kept_short(database: Database, clock: FakeClock) -> None:
    issuing = Issuing(database, clock)
    name = "\x00\N{RIGHT-TO-LEFT OVERRIDE}" + "x" * 200_000
    outcome = await issuing.issuance.submit(issuing.request("www.example.com", profile=name))
    assert isinstance(outcome, Rejected)
    assert outcome.rejection.reason is Reason.UNKNOWN_PROFILE
    assert len(outcome.rejection.detail) < 200
    assert outcome.rejection.detail.isascii()
    (row,) = await issuing.rows("SELECT detail FROM audit")
    assert len(row["detail"]) < 2000


HOSTILE_NAMES = (
    'a","admin":true,"b":"',
    "{{ .Token }}",
    "${HOME}",
    "a,CN=admin",
    "a+CN=admin",
    'a"\\',
    "<script>",
    "%s%n",
    "'; --",
)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
async def test_a_subject_that_other_text_could_be_made_of_is_refused(database: Database, clock: FakeClock, name: str) -> None:
    """And it is data where it is kept: nothing is made by putting a request's text into other text (step-ca's templates, 2020)."""
    issuing = Issuing(database, clock)
    outcome = await issuing.issuance.submit(issuing.request(csr=make_csr(common_name=name), profile="device"))
    assert isinstance(outcome, Rejected)
    assert outcome.rejection.reason is Reason.REJECTED_IDENTIFIER
    assert await issuing.issued(csr=make_csr(common_name="router-1"), profile="device")
    details = [orjson.loads(row["detail"]) for row in await database.fetch("SELECT detail FROM audit")]
    assert details
    assert all("admin" not in detail for detail in details)
