"""Known-bad keys at the doors where ACME takes one for an account; CSRs with them are rows of the matrix (matrix/keys.py)."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acmeserver.urls import Urls
from pki.strict import base64url
from storage.database import Database, Step
from tests.helpers.acme_client import BASE, AccountKey, AcmeClient, Reply, make_jws, to_json
from tests.helpers.acme_world import AcmeWorld, acme_world
from tests.helpers.bad_keys import BAD_KEYS
from tests.helpers.clock import FakeClock

KEY_CHANGE = Urls(base_url=BASE, endpoint="default").key_change


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock) as world:
        yield world


async def change(client: AcmeClient, new: AccountKey) -> Reply:
    """keyChange (RFC 8555 §7.3.5) to `new`."""
    inner = {"alg": new.alg, "jwk": new.jwk, "url": KEY_CHANGE}
    return await client.post(KEY_CHANGE, make_jws(new, inner, to_json({"account": client.kid, "oldKey": client.key.jwk})))


async def thumbprints(database: Database) -> list[str]:
    return [row["thumbprint"] for row in await database.fetch("SELECT thumbprint FROM acme_account ORDER BY id")]


@pytest.mark.parametrize("name", BAD_KEYS)
async def test_no_account_is_made_with_a_known_bad_key_nor_given_one(world: AcmeWorld, name: str) -> None:
    make, why = BAD_KEYS[name]
    bad = AccountKey(make())
    refused = await AcmeClient(world.http, bad).register()
    assert (refused.status, refused.problem) == (400, "badPublicKey")
    assert why in refused.json["detail"]
    client = await world.registered()
    before = await thumbprints(world.database)
    refused = await change(client, bad)
    assert (refused.status, refused.problem) == (400, "badPublicKey")
    assert why in refused.json["detail"]
    assert await thumbprints(world.database) == before
    assert (await client.post(client.kid)).status == 200


async def test_the_doors_open_for_a_good_key(world: AcmeWorld) -> None:
    """So that what is refused above is refused for its key."""
    client = await world.registered()
    assert (await change(client, AccountKey(ec.generate_private_key(ec.SECP384R1())))).status == 200


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "OKP", "crv": "Ed25519", "x": base64url((1).to_bytes(32, "little"))},
        {"kty": "OKP", "crv": "Ed25519", "x": base64url(bytes(32))},
        {"kty": "EC", "crv": "P-256", "x": base64url(bytes(32)), "y": base64url(bytes(32))},
        {"kty": "EC", "crv": "P-256", "x": base64url(b"\x01" * 32), "y": base64url(b"\x02" * 32)},
    ],
    ids=["Ed25519, the neutral element", "Ed25519, order 4", "P-256, zero", "P-256, off the curve"],
)
async def test_a_point_that_is_no_key_verifies_nothing(world: AcmeWorld, jwk: dict[str, str]) -> None:
    """With a point of small order, R = 0 and S = 0 would be a signature of anything."""
    url = world.client().url("new-account")
    header = {"alg": "EdDSA" if jwk["kty"] == "OKP" else "ES256", "nonce": await world.client().nonce(), "url": url, "jwk": jwk}
    neutral = (1).to_bytes(32, "little") + bytes(32)
    jws = {"protected": base64url(to_json(header)), "payload": base64url(b"{}"), "signature": base64url(neutral)}
    refused = await world.client().send(url, jws)
    assert refused.status == 400
    assert refused.problem in {"badPublicKey", "malformed"}
    assert await thumbprints(world.database) == []


async def test_a_key_that_was_blocked_is_no_accounts_key(world: AcmeWorld) -> None:
    """What a revocation for keyCompromise, or an operator's list, has put there."""
    key = AccountKey()
    client = AcmeClient(world.http, key)
    sql = "INSERT INTO blocked_key (spki_sha256, reason, blocked_at) VALUES ($1, 'key-compromise', 0)"
    await world.database.write(Step(sql, (spki_sha256(key),)))
    refused = await client.register()
    assert refused.problem == "badPublicKey"
    other = await world.registered()
    assert (await change(other, key)).problem == "badPublicKey"


def spki_sha256(key: AccountKey) -> str:
    return hashlib.sha256(key.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
