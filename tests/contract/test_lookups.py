"""What was done before slows nobody down: the statements of an issuance read a few rows, however many there are.

PostgreSQL plans a prepared statement before it has any figures about young tables, and keeps the plan; so the plan that it
makes without figures has to be right. The big account is one of a busy proxy: thousands of
orders under one key, at an endpoint with thousands of accounts.
"""

# ruff: noqa: S608  # the numbers in the statements are constants

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from acmeserver import store
from issuance import approval_requests, ledger
from storage.migrate import upgrade
from storage.sql import Engine, for_engine, parameters
from tests.helpers.postgres import PostgresServer, run_apart

ORDERS = 2000
FEW = 60  # rows that any one step of a plan may touch
NOW, LATER = 1_000, 2_000

FILL = (
    (
        "INSERT INTO acme_account (id, endpoint, thumbprint, jwk, status, contact, terms_agreed, created_at) "
        "SELECT CASE WHEN n = 7 THEN 'big' ELSE 'a' || n END, 'default', 'thumb' || n, '{}', 'valid', '[]', 0, 1 "
        f"FROM generate_series(1, {ORDERS}) AS n"
    ),
    (
        "INSERT INTO acme_order (id, account_id, status, identifiers, profile, profile_version, expires_at, error, issuer, serial, created_at) "
        f"SELECT 'o' || n, 'big', CASE WHEN n = 7 THEN 'open' ELSE 'valid' END, '[]', 'p', 'v', {LATER}, '', 'i', 's' || n, n "
        f"FROM generate_series(1, {ORDERS}) AS n"
    ),
    (
        "INSERT INTO acme_authorization (id, account_id, identifier_type, identifier, wildcard, status, token, challenges, chosen, error, "
        "evidence, validated_at, expires_at, lease_until, created_at) "
        "SELECT 'z' || n, 'big', 'dns', 'n' || n || '.example.com', 0, 'valid', 't', '[]', 'http-01', '', '', 10, "
        f"{LATER}, 0, n FROM generate_series(1, {ORDERS}) AS n"
    ),
    f"INSERT INTO acme_order_authorization SELECT 'o' || n, 'z' || n, 0 FROM generate_series(1, {ORDERS}) AS n",
    (
        "INSERT INTO certificate (issuer, serial, issuance_id, der, spki_sha256, profile, names, protocol, endpoint, principal, not_before, "
        "not_after, issued_at) SELECT 'i', 's' || n, 'a' || n, '\\x30', 'k', 'p', '[]', 'acme', 'default', 'acme-account:big', 1, 2, n "
        f"FROM generate_series(1, {ORDERS}) AS n"
    ),
    (
        "INSERT INTO approval_request SELECT 'r' || n, 'd' || n, 1, CASE WHEN n % 40 = 7 THEN 'pending' ELSE 'issued' END, "
        "CASE WHEN n % 40 = 7 THEN 'est-user:p' || n ELSE 'est-user:big' END, '[]', '', 'est', 'default', 'p', 'v', 'careful', '[]', NULL, "
        f"NULL, 'k', 0, '\\x30', n, {LATER}, {LATER}, NULL, '', '', 'u' || n FROM generate_series(1, {ORDERS}) AS n"
    ),
)

NAMES = ("n7.example.com", *(f"m{n}.example.com" for n in range(store.NAMES_AT_ONCE - 1)))
STATEMENTS = {
    "order": (store.ORDER_SQL, ("big", "default", "o7", NOW)),
    "authorization": (store.AUTHORIZATION_SQL, ("big", "default", "z7", NOW)),
    "certificate": (store.CERTIFICATE_SQL, ("big", "default", "s7")),
    "reusable": (store.REUSABLE_SQL, ("big", NOW, 1, *NAMES)),
    "standing": (store.STANDING_SQL, ("big", "default")),
    "begin": (store.BEGIN_ORDER_SQL, ("o7", "open", "processing", NOW, "")),
    "settle": (store.SETTLE_ORDER_SQL, ("o7", "processing", "valid", "", "i", "s7")),
    "account": (store.ACCOUNT_SQL, ("big", "default")),
    "account by key": (store.ACCOUNT_BY_KEY_SQL, ("default", "thumb7")),
    "approval of a wish": (approval_requests.LIVE_SQL, ("d7",)),
    "approval": (approval_requests.FIND_SQL, ("r7", "")),
    "waiting of one": (approval_requests.PENDING_OF_SQL, ("est-user:big",)),
    "use of an approval": (approval_requests.USE_SQL, ("r7", "approved", "issued", "i", 0, NOW)),
    "approval given back": (approval_requests.RELEASE_SQL, ("u7", "issued", "approved")),
    "by serial": (ledger.BY_SERIAL_SQL, ("s7", "i", "")),
}


@dataclass(frozen=True, slots=True)
class Filled:
    url: str


@pytest.fixture(scope="module")
def filled(postgres_server: PostgresServer) -> Filled:
    """Never analyzed: a database that other tests have used and emptied may have figures, and they say that it is empty."""
    url = postgres_server.empty_database()
    run_apart(upgrade(url))
    return Filled(url)


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_statement_of_an_issuance_touches_few_rows_of_a_big_account(filled: Filled, name: str) -> None:
    sql, args = STATEMENTS[name]
    (text,) = for_engine(sql, Engine.POSTGRESQL)
    connection = await asyncpg.connect(filled.url)
    try:
        if await connection.fetchval("SELECT count(*) FROM acme_account") == 0:
            for statement in FILL:
                await connection.execute(statement)
        # As the server's connections see it: no figures, and one plan for all arguments.
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE asked AS {text}")
        written = ", ".join(f"'{arg}'" if isinstance(arg, str) else str(arg) for arg in args)
        assert len(args) == parameters(text)
        async with connection.transaction():
            plan = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE asked({written})")
    finally:
        await connection.close()
    touched = {line: rows for line, rows in _touched(json.loads(plan)[0]["Plan"]) if rows > FEW}
    assert touched == {}


def _touched(node: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Every step of a plan, and how many rows it looked at, those included that it threw away."""
    looked = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    yield f"{node['Node Type']} {node.get('Index Name', node.get('Relation Name', ''))}", looked * node["Actual Loops"]
    for below in node.get("Plans", ()):
        yield from _touched(below)
