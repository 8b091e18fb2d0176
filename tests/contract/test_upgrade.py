"""A database of the released schema, with what was in it: after the upgrade everything in it goes on, on both engines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import assert_never
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from est.endpoint import Authentication, ClientCertificates, EstEndpoint
from issuance.credentials import INSERT_SQL, CredentialKind, Credentials
from issuance.digests import Digests
from issuance.lockout import Lockouts
from issuance.request import Channel, Pending
from issuance.sealed import SealedSecrets
from pki.sealing import Sealer
from storage.database import Database, Step
from storage.migrate import upgrade
from storage.open import open_database
from storage.postgres import PostgresDatabase
from storage.schema import OURS
from storage.sqlite import SqliteDatabase
from storage.url import PostgresUrl, SqliteUrl, parse_database_url
from tests.helpers.ca import TestCa
from tests.helpers.clock import FakeClock
from tests.helpers.est_world import EstWorld, make_request, renewal_csr, subject
from tests.helpers.issuing import Issuing
from tests.helpers.postgres import PostgresServer
from tests.helpers.profiles import device

RELEASED = [migration for migration in OURS if migration.name < "0007"]
CA = TestCa()
PASSWORD, KEY = "a password that somebody chose", f"cw_{'0' * 16}_{'k' * 43}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/old.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    yield server.empty_database()


async def opened(url: str) -> Database:
    """As it is, whatever its schema."""
    match parse_database_url(url):
        case SqliteUrl(path):
            return await SqliteDatabase.open(path)
        case PostgresUrl(dsn):
            return await PostgresDatabase.open(dsn)
        case other:
            assert_never(other)


def scrypt(password: str) -> str:
    """As it was stored then, written by the standard library."""
    made = hashlib.scrypt(password.encode(), salt=bytes(16), n=2**14, r=8, p=1, dklen=32)
    return f"scrypt:{2**14}:8:1:{bytes(16).hex()}:{made.hex()}"


@pytest.fixture
async def before(url: str, clock: FakeClock) -> bytes:
    """DER of a certificate that was issued before the upgrade, beside a user and an API key."""
    await upgrade(url, migrations=RELEASED)
    database = await opened(url)
    now = clock.micros()
    rows = [
        ("default/printer-7", CredentialKind.EST_USER, "default", scrypt(PASSWORD)),
        ("0" * 16, CredentialKind.API_KEY, "", f"sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"),
    ]
    for id_, kind, endpoint, stored in rows:
        await database.write(Step(INSERT_SQL, (id_, kind.value, endpoint, stored, '["tester"]', "", now, None)))
    issuing = Issuing(database, clock, ca=CA, profiles=(device(),))
    csr = make_request(subject=subject("dev1"), names=None)
    issued = await issuing.issued(csr=csr, profile="device", channel=Channel.EST)
    await database.close()
    return issued.public_bytes(Encoding.DER)


async def test_what_was_there_before_the_upgrade_goes_on_after_it(url: str, before: bytes, clock: FakeClock) -> None:
    assert [name[:4] for name in await upgrade(url)] == [migration.name[:4] for migration in OURS[len(RELEASED) :]]
    database = await open_database(url, migrate=False)
    lockouts = Lockouts(database=database, clock=clock)
    credentials = Credentials(database=database, clock=clock, lockouts=lockouts)
    user = await credentials.check_est_user(endpoint="default", user="printer-7", password=PASSWORD, address="192.0.2.1")
    assert (user.id, user.roles) == ("default/printer-7", frozenset({"tester"}))
    assert (await credentials.check_api_key(KEY)).kind is CredentialKind.API_KEY

    endpoint = EstEndpoint(
        "default",
        "device",
        (CA.certificate.public_bytes(Encoding.DER),),
        authenticate=frozenset({Authentication.BASIC, Authentication.CERTIFICATE}),
        client_certificates=ClientCertificates(roles=frozenset({"tester"})),
    )
    world = EstWorld(
        database,
        clock,
        endpoints=[endpoint],
        ca=CA,
        profiles=[device()],
        serving={"credentials": credentials},
        new_id=lambda: uuid4().hex,
    )
    async with world:
        again = await world.ask("simpleenroll", make_request(subject=subject("dev2"), names=None), auth=("printer-7", PASSWORD))
        assert again.certificate.subject.rfc4514_string() == "CN=dev2"
        renewed = await world.ask("simplereenroll", renewal_csr(before), chain=[before])
        assert renewed.certificate.subject.rfc4514_string() == "CN=dev1"
        await world.revoke(before)
        assert (await world.ask("simplereenroll", renewal_csr(before), chain=[before])).status == 403
    await database.close()


async def test_what_came_with_the_upgrade_works_beside_it(url: str, before: bytes, clock: FakeClock) -> None:
    """A user of before gets Digest by a new password; a request waits for an approval."""
    await upgrade(url)
    database = await open_database(url, migrate=False)
    lockouts = Lockouts(database=database, clock=clock)
    sealed = SealedSecrets(database=database, clock=clock, sealer=Sealer([b"s" * 32]))
    digests = Digests(database=database, clock=clock, sealed=sealed, lockouts=lockouts)
    step = digests.step(endpoint="default", user="printer-7", realm="estrealm", password="another one")
    await Credentials(database=database, clock=clock, lockouts=lockouts).set_est_user(
        endpoint="default", user="printer-7", password="another one", roles=["tester"], profile="", digest=step
    )
    issuing = Issuing(database, clock, ca=CA, profiles=(device(),), new_id=lambda: uuid4().hex)
    csr = make_request(subject=subject("dev3"), names=None)
    waits = await issuing.issuance.submit(issuing.request(csr=csr, profile="device", require_approval=True))
    assert isinstance(waits, Pending)
    await database.close()
