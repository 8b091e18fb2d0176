"""Accounts whose key came onto the list of compromised ones: whoever else has the key could go on in their name.

Law of this file: to be called when the keys are blocked already. From then on no account gets such a key (account_keys.not_blocked),
so one walk over those that there are finds all. They are `revoked`, which is what RFC 8555 §7.1.2 calls it when the server does it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from acmeserver.account_keys import spki_sha256
from acmeserver.jwk import load_jwk
from issuance import audit
from pki.clock import Micros
from storage.database import Conflict, Database, Row, Step

VALID_PAGE_SQL = (
    "SELECT id, endpoint, thumbprint, jwk FROM acme_account WHERE id > $1 AND status = 'valid' ORDER BY id LIMIT 500"
)
REVOKE_SQL = "UPDATE acme_account SET status = 'revoked' WHERE id = $1 AND thumbprint = $2 AND status = 'valid'"


async def revoke_accounts(
    database: Database, hashes: Collection[str], *, principal: str, now: Micros, new_id: Callable[[], str]
) -> int:
    """How many accounts had one of these keys, and are no more."""
    blocked, last, revoked = frozenset(hashes), "", 0
    while rows := await database.fetch(VALID_PAGE_SQL, last):
        last = rows[-1]["id"]
        for row in rows:
            if spki_sha256(load_jwk(row["jwk"])) in blocked:
                revoked += await _revoke(database, row, principal=principal, now=now, record_id=new_id())
    return revoked


async def _revoke(database: Database, row: Row, *, principal: str, now: Micros, record_id: str) -> bool:
    recorded = audit.record(
        audit.Event.ACCOUNT_REVOKED,
        record_id=record_id,
        at=now,
        principal=principal,
        subject=f"acme-account:{row['id']}",
        detail={"endpoint": row["endpoint"], "why": "its key is blocked"},
    )
    try:
        await database.write(Step(REVOKE_SQL, (row["id"], row["thumbprint"])), recorded)
    except Conflict:  # it was given another key, or deactivated, at this moment
        return False
    return True
