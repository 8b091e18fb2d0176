"""Lists of compromised keys: read whole or not at all, refused from then on, and what is affected is named."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from issuance.blocklist import affected, block, parse_list
from issuance.request import Rejected
from pki.reasons import Reason, Rejection, RevocationReason
from storage.database import Database
from tests.helpers.ca import make_csr
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import PROGRAM, Issuing


def number(value: int) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()


def spki(key: ec.EllipticCurvePrivateKey | x509.Certificate) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_list_of_hashes_is_read_as_people_write_them() -> None:
    text = f"# found in 2026\n\n{number(1)}\n  SHA256:{number(2).upper()}  \r\n{number(3)},router firmware\n{number(1)}\n"
    assert parse_list(text.encode()) == (number(1), number(2), number(3))


def test_keys_and_certificates_in_pem_are_taken_for_their_keys() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert parse_list(b"any text\n" + pem + pem) == (hashlib.sha256(spki(key)).hexdigest(),)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (number(1).encode() + b"\nabc", "line 2"),
        (number(1)[:63].encode(), "line 1"),
        (number(1).encode() + b"0", "line 1"),
        (b"\xff\xfe\x00", "line 1"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "damaged"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "PRIVATE KEY"),
    ],
)
def test_a_list_that_cannot_be_read_whole_is_refused_with_the_place(content: bytes, why: str) -> None:
    with pytest.raises(Rejection) as refused:
        parse_list(content)
    assert refused.value.reason is Reason.MALFORMED
    assert why in refused.value.detail


async def test_a_long_list_is_blocked_once_and_every_batch_is_in_the_audit(database: Database, clock: FakeClock) -> None:
    issuing = Issuing(database, clock)
    hashes = [number(value) for value in range(2500)]
    put = {"reason": "listed", "principal": "operator:command-line", "now": clock.micros(), "new_id": issuing.new_id}
    assert await block(database, hashes, **put) == 2500  # type: ignore[arg-type]  # a test's
    assert await block(database, [*hashes, number(9999)], **put) == 1  # type: ignore[arg-type]  # a test's
    rows = await database.fetch("SELECT spki_sha256 FROM blocked_key")
    assert {row["spki_sha256"] for row in rows} == {*hashes, number(9999)}
    assert len(await database.fetch("SELECT id FROM audit WHERE event = 'key.blocked'")) == 6


async def test_a_listed_key_is_certified_no_more_and_who_has_it_is_named(database: Database, clock: FakeClock) -> None:
    issuing = Issuing(database, clock)
    key = ec.generate_private_key(ec.SECP256R1())
    kept = await issuing.issued("a.example.com", csr=make_csr("a.example.com", key=key))
    gone = await issuing.issued("b.example.com", csr=make_csr("b.example.com", key=key))
    await issuing.issued("other.example.com")
    serial = f"{gone.serial_number:x}"
    await issuing.issuance.revoke(issuer="issuing", serial=serial, reason=RevocationReason.SUPERSEDED, principal=PROGRAM)
    hashes = parse_list(kept.public_bytes(Encoding.PEM))
    await block(database, hashes, reason="listed", principal="operator:x", now=clock.micros(), new_id=issuing.new_id)
    refused = await issuing.issuance.submit(issuing.request("c.example.com", csr=make_csr("c.example.com", key=key)))
    assert isinstance(refused, Rejected)
    assert refused.rejection.reason is Reason.BAD_PUBLIC_KEY
    assert [one.serial for one in await affected(database, clock.micros())] == [f"{kept.serial_number:x}"]
    clock.advance(timedelta(days=400))
    assert await affected(database, clock.micros()) == []
