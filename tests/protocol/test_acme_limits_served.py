"""Limits, origins and retention of a real server with a configuration: that what the file says is what it does."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.helpers.front_doors import Doors
from tests.helpers.neighbourhood import Neighbourhood
from tests.helpers.server import PATIENCE, Server

PORTAL = "https://portal.example.com"
LIMITS = "limits: {accounts_per_address: 2/3h, orders_per_account: 3/3h, help: 'https://ca.example.com/limits'}"
OLD_ORDER = (
    "INSERT INTO acme_order (id, account_id, status, identifiers, profile, profile_version, not_before, not_after, expires_at, "
    "error, issuer, serial, created_at) VALUES (?, 'a', 'open', '[]', '', '', NULL, NULL, ?, '', '', '', 0)"
)


def edited(text: str) -> str:
    old = "challenges: [http-01, dns-01, tls-alpn-01]"
    assert text.count(old) == 1
    return text.replace(old, f"{old}, cors: ['{PORTAL}'], {LIMITS}") + "\nretention: {unfinished: 2d}\n"


@pytest.fixture(scope="module")
def doors() -> Iterator[Doors]:
    with (
        Neighbourhood() as around,
        Server(resolver=around.dns.address, http01_port=around.http.port, edit=edited) as server,
    ):
        doors = Doors(server, around)
        yield doors
        doors.close()


def test_the_file_s_limits_are_in_force(doors: Doors) -> None:
    account = doors.account().register()
    doors.account().register()
    with pytest.raises(AssertionError, match="rateLimited"):
        doors.account().register()
    for number in range(3):
        assert account.order(f"a{number}.example.com").status == 201
    refused = account.order("b.example.com")
    assert refused.status == 429
    assert refused.headers["Retry-After"] == "3600"
    assert '<https://ca.example.com/limits>;rel="help"' in refused.headers.get_all("Link", [])


def test_the_file_s_origins_are_answered(doors: Doors) -> None:
    headers = {"Origin": PORTAL, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    asked = doors.https.send("OPTIONS", "/acme/default/new-order", headers=headers)
    assert asked.status == 204
    assert asked.headers["Access-Control-Allow-Origin"] == PORTAL
    assert asked.headers["Access-Control-Allow-Methods"] == "POST"
    stranger = doors.https.send("OPTIONS", "/acme/default/new-order", headers={**headers, "Origin": "https://evil.example.net"})
    assert stranger.status == 405
    directory = doors.https.send("GET", "/acme/directory", headers={"Origin": PORTAL})
    assert directory.headers["Access-Control-Allow-Origin"] == PORTAL


def test_the_server_tidies_by_itself(doors: Doors) -> None:
    """What expired longer ago than the file says goes at the job's next turn; the rest stays."""
    now = time.time_ns() // 1000
    day = 86_400_000_000
    with closing(sqlite3.connect(doors.server.directory / "certwright.db", timeout=PATIENCE)) as database:
        with database:
            database.execute(OLD_ORDER, ("old", now - 3 * day))
            database.execute(OLD_ORDER, ("young", now - day))
            assert database.execute("UPDATE job SET run_at = 0 WHERE dedupe = 'acme-retention'").rowcount == 1
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            left = {name for (name,) in database.execute("SELECT id FROM acme_order WHERE account_id = 'a'")}
            if left == {"young"}:
                break
            time.sleep(0.1)
        assert left == {"young"}
