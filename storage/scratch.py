"""The scratch store's identity: a new random id whenever it was lost. Both engines share this SQL."""

from __future__ import annotations

import secrets

from pki.reasons import Unavailable
from storage.database import Scratch, Step

READ_ID_SQL = "SELECT id FROM scratch_id WHERE slot = 1"
CREATE_ID_SQL = "INSERT INTO scratch_id (slot, id) VALUES (1, $1) ON CONFLICT DO NOTHING"


async def scratch_id(scratch: Scratch) -> str:
    """The id, made when there is none. Nodes that come at once agree: the slot is unique, and the second insert does nothing."""
    for _ in range(3):
        row = await scratch.fetch_one(READ_ID_SQL)
        if row is not None:
            return str(row["id"])
        await scratch.write(Step(CREATE_ID_SQL, (secrets.token_hex(16),), rows=None))
    raise Unavailable("database: the scratch store is lost as fast as it is made")
