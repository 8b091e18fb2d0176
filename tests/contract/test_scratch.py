"""The scratch store on both engines: an id that is the same for all, and nonces that are redeemed once."""

from __future__ import annotations

import asyncio

import pytest

from storage.database import Conflict, Database, Step
from tests.helpers.databases import second_node

REDEEM = (
    "INSERT INTO nonce_used (nonce, expires_at) SELECT $1, $2 WHERE EXISTS (SELECT 1 FROM scratch_id WHERE id = $3)"
    " ON CONFLICT DO NOTHING RETURNING nonce"
)


async def redeem(database: Database, nonce: str, scratch_id: str) -> bool:
    (rows,) = await database.scratch.write(Step(REDEEM, (nonce, 5, scratch_id), rows=None))
    return bool(rows)


async def test_the_id_stays_the_same_for_all_who_ask_at_once(database: Database, database_url: str) -> None:
    async with second_node(database_url) as other:
        ids = await asyncio.gather(*(node.scratch.id() for node in (database, other) * 10))
    assert len(set(ids)) == 1
    assert len(ids[0]) == 32


async def test_of_fifty_who_redeem_a_nonce_at_once_one_succeeds(database: Database, database_url: str) -> None:
    scratch_id = await database.scratch.id()
    async with second_node(database_url) as other:
        verdicts = await asyncio.gather(*(redeem(node, "n", scratch_id) for node in (database, other) * 25))
    assert sum(verdicts) == 1


async def test_a_nonce_of_another_scratch_store_is_never_redeemed(database: Database) -> None:
    await database.scratch.id()
    assert not await redeem(database, "n", "0" * 32)


async def test_a_guard_undoes_a_write_in_the_scratch_store_too(database: Database) -> None:
    scratch_id = await database.scratch.id()
    assert await redeem(database, "n", scratch_id)
    insert = "INSERT INTO nonce_used (nonce, expires_at) VALUES ($1, 1)"
    with pytest.raises(Conflict) as caught:
        await database.scratch.write(Step(insert, ("m",)), Step("DELETE FROM nonce_used WHERE nonce = $1", ("nobody",)))
    assert caught.value.step == 1
    with pytest.raises(Conflict):
        await database.scratch.write(Step(insert, ("m",)), Step(insert, ("n",)))
    row = await database.scratch.fetch_one("SELECT count(*) AS n FROM nonce_used")
    assert row == {"n": 1}
