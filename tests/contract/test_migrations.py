"""The schema comes up once, in order, on both engines, and what does not fit is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pki.reasons import Unavailable
from storage.migrate import status, upgrade
from storage.open import open_database
from storage.schema import OURS, Migration, SchemaError, Status
from storage.url import DatabaseUrlError
from tests.helpers.postgres import PostgresServer

FIRST = Migration("0001_first", "CREATE TABLE a (x BIGINT, y BYTES); -- don't; split\nCREATE INDEX a_x ON a (x);")
SECOND = Migration("0002_second", "INSERT INTO a (x) VALUES (7);")
BROKEN = Migration("0002_broken", "CREATE TABLE b (x BIGINT); CREATE TABLE a (x BIGINT);")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/new.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    yield server.empty_database()


async def test_our_schema_comes_up_and_a_second_run_has_nothing_to_do(empty_url: str) -> None:
    names = [migration.name for migration in OURS]
    assert await status(empty_url) == Status((), tuple(names))
    assert await upgrade(empty_url) == names
    assert await upgrade(empty_url) == []
    assert await status(empty_url) == Status(tuple(names), ())


async def test_later_migrations_run_after_what_is_there(empty_url: str) -> None:
    assert await upgrade(empty_url, migrations=[FIRST]) == ["0001_first"]
    assert await upgrade(empty_url, migrations=[FIRST, SECOND]) == ["0002_second"]


async def test_nodes_that_upgrade_at_once_run_each_migration_once(empty_url: str) -> None:
    done = await asyncio.gather(*(upgrade(empty_url, migrations=[FIRST, SECOND]) for _ in range(4)))
    assert sorted(name for names in done for name in names) == ["0001_first", "0002_second"]


async def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str) -> None:
    with pytest.raises(Exception, match="already exists"):
        await upgrade(empty_url, migrations=[FIRST, BROKEN])
    assert await status(empty_url, migrations=[FIRST]) == Status(("0001_first",), ())
    with pytest.raises(Exception, match="already exists"):  # of a, again: b was taken back
        await upgrade(empty_url, migrations=[FIRST, BROKEN])


async def test_an_altered_migration_is_refused_by_name(empty_url: str) -> None:
    await upgrade(empty_url, migrations=[FIRST])
    altered = Migration("0001_first", FIRST.sql + " ")
    for call in (status, upgrade):
        with pytest.raises(SchemaError, match=r"0001_first .* checksums differ"):
            await call(empty_url, migrations=[altered])


async def test_a_newer_schema_is_refused_by_name(empty_url: str) -> None:
    await upgrade(empty_url, migrations=[FIRST, SECOND])
    for call in (status, upgrade):
        with pytest.raises(SchemaError, match="0002_second, which is newer than this program"):
            await call(empty_url, migrations=[FIRST])


async def test_a_migration_from_elsewhere_is_refused_by_name(empty_url: str) -> None:
    await upgrade(empty_url, migrations=[FIRST, Migration("0002_alien", "SELECT 1")])
    with pytest.raises(SchemaError, match="0002_alien, which this program does not know"):
        await upgrade(empty_url, migrations=[FIRST, SECOND])


async def test_opening_without_migrating_names_the_command(empty_url: str) -> None:
    with pytest.raises(SchemaError, match="`certwright db upgrade`"):
        await open_database(empty_url, migrate=False)
    await upgrade(empty_url)
    database = await open_database(empty_url, migrate=False)
    await database.ping()
    await database.close()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param("@/", "@/nosuch", 'database "nosuch', id="a database that is not there"),
        pytest.param("certwright@", "nobody:geheim@", 'role "nobody" does not exist', id="a role that is not there"),
    ],
)
async def test_a_server_that_refuses_us_is_unavailable_in_its_own_words(
    postgres_server: PostgresServer, old: str, new: str, said: str
) -> None:
    url = postgres_server.url("postgres").replace(old, new)
    with pytest.raises(Unavailable) as caught:
        await status(url)
    assert said in caught.value.what
    assert "geheim" not in caught.value.what


async def test_a_server_that_does_not_listen_is_named_by_its_address() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1.*1"):
        await status("postgresql://u:geheim@127.0.0.1:1/x")


@pytest.mark.parametrize("rest", ["geheim@127.0.0.1:port/x", "p@geheim:x@127.0.0.1:1/x", "geheim@127.0.0.1/x?sslmode=maybe"])
async def test_a_url_that_cannot_be_used_is_refused_without_repeating_its_password(rest: str) -> None:
    with pytest.raises(DatabaseUrlError) as caught:
        await status(f"postgresql://u:{rest}")
    assert "geheim" not in str(caught.value)
