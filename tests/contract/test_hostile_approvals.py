"""Approvals and idempotency as somebody would misuse them, and what is left of a request in the database."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID

from issuance.approvals import Verdict
from issuance.request import IssuanceRequest, Issued, IssuedCertificate, Pending, Rejected
from pki.csr import parse_csr
from pki.reasons import Reason, RevocationReason
from policy.principal import COMMAND_LINE
from storage.database import Database
from storage.schema import OURS
from tests.helpers.ca import make_csr
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import ANYTHING, PROGRAM, Issuing

CAREFUL = replace(ANYTHING, name="careful", require_approval=True)
SECRET = "the-secret-of-all-devices"


def csr_with_a_secret() -> bytes:
    """As SCEP has it (RFC 8894 §7.3): the endpoint's password is in the request."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example.com")]), critical=False)
    builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, SECRET.encode())
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


async def everything(database: Database) -> Sequence[str]:
    """All that is stored, a text for each row, with octets as they are."""
    tables = {name for each in OURS for name in re.findall(r"CREATE TABLE (\w+)", each.sql)}
    assert {"approval_request", "issuance", "audit"} <= tables
    rows = [row for table in sorted(tables) for row in await database.fetch(f"SELECT * FROM {table}")]  # noqa: S608  # ours
    return [repr([bytes(value) if isinstance(value, memoryview) else value for value in row.values()]) for row in rows]


# ---------------------------------------------------------------- what is kept of a request


async def test_no_secret_in_a_request_that_waits_is_stored(database: Database, clock: FakeClock) -> None:
    issuing = Issuing(database, clock, policies=[CAREFUL])
    request = issuing.request(csr=csr_with_a_secret())
    assert request.csr.challenge_password == SECRET
    outcome = await issuing.issuance.submit(request)
    assert isinstance(outcome, Pending)
    stored = await everything(database)
    assert any(request.csr.spki_sha256 in row for row in stored)
    assert not [row for row in stored if SECRET in row]
    await issuing.approvals.decide(outcome.id, Verdict.APPROVE, approver=COMMAND_LINE)
    assert isinstance(await issuing.issuance.submit(request), Issued)
    assert not [row for row in await everything(database) if SECRET in row]


# ---------------------------------------------------------------- what is given again


async def issued(issuing: Issuing, request: IssuanceRequest) -> IssuedCertificate:
    outcome = await issuing.issuance.submit(request)
    assert isinstance(outcome, Issued), outcome
    return outcome.certificate


@pytest.mark.parametrize("ended", ["revoked", "expired"])
async def test_what_counts_no_more_is_not_given_again_for_the_same_key(
    database: Database, clock: FakeClock, ended: str
) -> None:
    """A device that sends the same message again would install it, and believe that all is well."""
    issuing = Issuing(database, clock)
    request = issuing.request("a.example.com", idempotency_key="once")
    certificate = await issued(issuing, request)
    assert await issued(issuing, request) == certificate
    if ended == "revoked":
        await issuing.issuance.revoke(
            issuer=certificate.issuer, serial=certificate.serial, reason=RevocationReason.SUPERSEDED, principal=PROGRAM
        )
    else:
        clock.advance(timedelta(microseconds=certificate.not_after - clock.micros()))
        assert await issued(issuing, request) == certificate
        clock.advance(timedelta(seconds=1))
    outcome = await issuing.issuance.submit(request)
    assert isinstance(outcome, Rejected)
    assert outcome.rejection.reason is Reason.CONFLICT
    assert ended in outcome.rejection.detail
    assert len(await issuing.rows("SELECT id FROM issuance")) == 1, "and what is replayed makes no second one"
    again = replace(request, csr=parse_csr(make_csr("a.example.com")), idempotency_key="twice")
    assert (await issued(issuing, again)).serial != certificate.serial
