"""What both engines promise (storage/database.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from storage.database import Conflict, Database, Step

TABLES = (
    "CREATE TABLE thing (owner TEXT NOT NULL, number BIGINT NOT NULL, body /*pg*/BYTEA/*end*/ NOT NULL, at BIGINT, PRIMARY KEY (owner, number))",
    "CREATE TABLE note (id TEXT PRIMARY KEY, text TEXT NOT NULL, at BIGINT)",
)
INSERT = "INSERT INTO thing (owner, number, body, at) VALUES ($1, $2, $3, $4)"
COUNT = "SELECT count(*) AS n FROM thing"
NUMBER = "SELECT number FROM thing WHERE owner = $1"


def insert(owner: str, number: int = 1) -> Step:
    return Step(INSERT, (owner, number, b"\x30\x00", 10))


@pytest.fixture(autouse=True)
async def _tables(database: Database) -> AsyncIterator[None]:
    """Of our own, so that these tests stand whatever the schema becomes."""
    for sql in TABLES:
        await database.write(Step(sql, rows=None))
    yield
    for table in ("thing", "note"):
        await database.write(Step(f"DROP TABLE {table}", rows=None))


async def count(database: Database) -> int:
    row = await database.fetch_one(COUNT)
    assert row is not None
    return int(row["n"])


async def test_a_row_is_a_mapping_with_bytes_text_and_numbers_as_they_went_in(database: Database) -> None:
    await database.write(insert("a", 2**62))
    row = await database.fetch_one("SELECT * FROM thing WHERE owner = $1 AND number = $2", "a", 2**62)
    assert row == {"owner": "a", "number": 2**62, "body": b"\x30\x00", "at": 10}
    assert list(await database.fetch("SELECT owner FROM thing WHERE number < $1", 2)) == []
    assert await database.fetch_one("SELECT owner FROM thing WHERE owner = $1", "b") is None


async def test_true_and_false_are_stored_as_one_and_nought_and_none_as_null(database: Database) -> None:
    await database.write(
        *(Step("INSERT INTO note (id, text, at) VALUES ($1, '', $2)", row) for row in (("a", None), ("b", True), ("c", False)))
    )
    rows = await database.fetch("SELECT at FROM note ORDER BY id")
    assert [row["at"] for row in rows] == [None, 1, 0]


async def test_a_write_of_no_steps_does_nothing(database: Database) -> None:
    assert list(await database.write()) == []


async def test_all_steps_are_written(database: Database) -> None:
    results = await database.write(insert("a"), insert("b"), Step("DELETE FROM thing WHERE owner = $1", ("c",), rows=0))
    assert [list(rows) for rows in results] == [[], [], []]
    assert await count(database) == 2


@pytest.mark.parametrize("rows", [1, 2])
async def test_a_step_that_touches_another_number_of_rows_undoes_the_whole_write(database: Database, rows: int) -> None:
    with pytest.raises(Conflict) as caught:
        await database.write(
            insert("a"),
            Step("UPDATE thing SET number = $2 WHERE owner = $1", ("nobody", 5), rows=rows),
            insert("b"),
        )
    assert caught.value.step == 1
    assert await count(database) == 0


async def test_a_single_step_that_touches_too_many_rows_is_undone(database: Database) -> None:
    await database.write(insert("a"), insert("b"))
    with pytest.raises(Conflict) as caught:
        await database.write(Step("UPDATE thing SET number = $1", (5,)))
    assert caught.value.step == 0
    with pytest.raises(Conflict):
        await database.write(Step("UPDATE thing SET number = $1 RETURNING owner", (5,)))
    assert [row["number"] for row in await database.fetch("SELECT number FROM thing")] == [1, 1]


async def test_a_unique_violation_is_a_conflict_and_undoes_the_write(database: Database) -> None:
    await database.write(insert("a"))
    note = Step("INSERT INTO note (id, text) VALUES ($1, '')", ("x",))
    with pytest.raises(Conflict) as caught:
        await database.write(note, insert("a"))
    assert caught.value.step == 1
    assert await database.fetch("SELECT id FROM note") == []


async def test_returning_gives_each_step_its_own_rows(database: Database) -> None:
    await database.write(insert("a", 1), insert("a", 2))
    one = await database.write(
        Step("UPDATE thing SET at = $2 WHERE owner = $1 RETURNING number, at", ("a", 99), rows=2),
        insert("b"),
    )
    assert sorted(row["number"] for row in one[0]) == [1, 2]
    assert {row["at"] for row in one[0]} == {99}
    assert list(one[1]) == []
    two = await database.write(
        Step("DELETE FROM thing WHERE owner = $1 AND number = $2 RETURNING number", ("a", 1)),
        Step("DELETE FROM thing WHERE owner = $1 RETURNING owner, body", ("b",)),
    )
    assert [list(rows) for rows in two] == [[{"number": 1}], [{"owner": "b", "body": b"\x30\x00"}]]


async def test_a_guard_refuses_although_the_returning_step_returned_nothing(database: Database) -> None:
    with pytest.raises(Conflict) as caught:
        await database.write(
            insert("a"),
            Step("DELETE FROM thing WHERE owner = $1 RETURNING number", ("nobody",), rows=None),
            Step("UPDATE thing SET number = $1 WHERE owner = $2", (1, "nobody")),
        )
    assert caught.value.step == 2
    assert await count(database) == 0


async def test_a_conflict_among_several_returning_steps_undoes_the_write(database: Database) -> None:
    await database.write(insert("a"))
    with pytest.raises(Conflict) as caught:
        await database.write(
            Step("DELETE FROM thing WHERE owner = $1 RETURNING number", ("a",)),
            Step("DELETE FROM thing WHERE owner = $1 RETURNING number", ("b",)),
        )
    assert caught.value.step == 1
    with pytest.raises(Conflict) as caught:
        await database.write(
            Step("DELETE FROM thing WHERE owner = $1 RETURNING number", ("c",), rows=0),
            Step(f"{INSERT} RETURNING number", ("a", 1, b"", 0)),
        )
    assert caught.value.step == 1
    assert await count(database) == 1


async def test_a_select_may_guard_a_write(database: Database) -> None:
    await database.write(insert("a"))
    guard = Step("SELECT 1 FROM thing WHERE owner = $1", ("a",))
    await database.write(guard, insert("b"))
    with pytest.raises(Conflict) as caught:
        await database.write(insert("c"), Step("SELECT 1 FROM thing WHERE owner = $1", ("nobody",)))
    assert caught.value.step == 1
    assert await count(database) == 2


async def test_literals_that_look_like_parameters_and_comments_stay_as_they_are(database: Database) -> None:
    text = "'; -- $1 /* \" RETURNING (("
    await database.write(
        insert("a"),
        Step("UPDATE thing SET owner = $1 || ' $2; -- ('  -- RETURNING $3 ;\nWHERE owner = $2", (text, "b"), rows=0),
        Step("INSERT INTO note (id, text, at) SELECT $1, ' $9 ''(', $2 WHERE 1 = 1", (text, 5)),
    )
    rows = await database.fetch("SELECT id, text, at FROM note")
    assert [tuple(row.values()) for row in rows] == [(text, " $9 '(", 5)]


async def test_many_writers_that_increment_by_compare_and_set_lose_no_increment(database: Database) -> None:
    await database.write(insert("counter", 0))

    async def increment(times: int) -> None:
        while times:
            row = await database.fetch_one(NUMBER, "counter")
            assert row is not None
            step = Step(
                "UPDATE thing SET number = $2 WHERE owner = 'counter' AND number = $1", (row["number"], row["number"] + 1)
            )
            try:
                await database.write(step)
            except Conflict:
                continue
            times -= 1

    await asyncio.gather(*(increment(5) for _ in range(8)))
    row = await database.fetch_one(NUMBER, "counter")
    assert row == {"number": 40}


async def test_of_many_concurrent_writes_only_those_in_conflict_fail(database: Database) -> None:
    async def write(index: int) -> bool:
        try:
            await database.write(insert("unique", index // 2), insert(f"own-{index}"))
        except Conflict:
            return False
        return True

    verdicts = await asyncio.gather(*(write(index) for index in range(40)))
    assert sum(verdicts) == 20
    assert await count(database) == 40


async def test_writes_that_lock_rows_in_opposite_orders_all_succeed(database: Database) -> None:
    await database.write(insert("a", 0), insert("b", 0))
    bump = "UPDATE thing SET number = number + 1 WHERE owner = $1"

    async def write(first: str, second: str) -> None:
        await database.write(Step(bump, (first,)), Step(bump, (second,)))

    await asyncio.gather(*(write("a", "b") if index % 2 else write("b", "a") for index in range(4)))
    assert [row["number"] for row in await database.fetch("SELECT number FROM thing")] == [4, 4]


async def test_a_read_after_a_write_sees_it(database: Database) -> None:
    for number in range(20):
        await database.write(insert("a", number))
        assert await count(database) == number + 1


async def test_a_mistake_in_the_sql_is_neither_a_conflict_nor_an_outage(database: Database) -> None:
    for call in (
        lambda: database.write(insert("a"), Step("UPDATE no_such_table SET x = 1")),
        lambda: database.write(insert("a"), Step("INSERT INTO thing (owner) VALUES ($1)", ("null elsewhere",))),
        lambda: database.fetch("SELECT FROM WHERE"),
        lambda: database.fetch("SELECT number FROM thing WHERE owner = $1 AND number = $2", "a"),
    ):
        with pytest.raises(Exception) as caught:  # each driver has its own
            await call()
        assert type(caught.value).__module__.startswith(("sqlite3", "asyncpg")), caught.value
    assert await count(database) == 0


async def test_a_bad_write_among_good_ones_fails_alone(database: Database) -> None:
    results = await asyncio.gather(
        *(database.write(insert("a", number)) for number in range(5)),
        database.write(Step("UPDATE no_such_table SET x = 1")),
        *(database.write(insert("b", number)) for number in range(5)),
        return_exceptions=True,
    )
    assert [isinstance(result, Exception) for result in results] == [False] * 5 + [True] + [False] * 5
    assert await count(database) == 10


async def test_ping_answers(database: Database) -> None:
    await database.ping()
