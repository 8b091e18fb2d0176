"""`certwright keys …`: lists of keys that nobody may use again."""

from __future__ import annotations

import functools
import secrets
import sys
from pathlib import Path

from acmeserver.blocked_accounts import revoke_accounts
from certwright.commands import find_config, say, with_database
from certwright.config import load
from certwright.errors import Refused
from certwright.failures import DONE
from issuance.blocklist import Affected, affected, parse_list
from issuance.blocklist import block as block_keys
from pki.clock import SystemClock
from policy.principal import COMMAND_LINE
from storage.database import Database


def block(config: Path | None, file: Path, reason: str) -> int:
    found = load(find_config(config))
    try:
        hashes = parse_list(file.read_bytes())
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}") from error
    if not hashes:
        raise Refused(f"{file} holds no keys; bring SHA-256 hashes of public keys, a line each, or PEM")
    added, hit, accounts = with_database(found, lambda database: _block(database, hashes, reason))
    say(f"{len(hashes)} keys read, {added} of them new; they are refused from now on, on every node")
    if accounts:
        say(f"{accounts} ACME accounts had one of them and are revoked; their owners have to register anew, with another key")
    if hit:
        sys.stderr.write(f"certwright: note: {len(hit)} valid certificates have a key that is blocked; revoke each:\n")
        for one in hit:
            sys.stderr.write(f"  certwright cert revoke {one.serial} --reason key-compromise\n")
    return DONE


async def _block(database: Database, hashes: tuple[str, ...], reason: str) -> tuple[int, list[Affected], int]:
    now = SystemClock().micros()
    new_id = functools.partial(secrets.token_urlsafe, 16)
    added = await block_keys(database, hashes, reason=reason, principal=str(COMMAND_LINE), now=now, new_id=new_id)
    accounts = await revoke_accounts(database, hashes, principal=str(COMMAND_LINE), now=now, new_id=new_id)
    return added, await affected(database, now), accounts
