"""The pure part: one text becomes what each engine runs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.sql import (
    Engine,
    Merged,
    Shape,
    for_engine,
    for_sqlite,
    merge,
    parameters,
    refused_step,
    renumber,
    shape,
    split,
    step_on_table,
)


def test_what_only_postgresql_runs_is_cut_out_for_sqlite() -> None:
    assert for_sqlite("SELECT 1 /*pg*/FOR UPDATE\nSKIP LOCKED/*end*/ -- x") == "SELECT 1  -- x"
    assert for_sqlite("a /*pg*/b/*end*/ c /*pg*/d/*end*/ /* e */") == "a  c  /* e */"


def test_bytes_are_mapped_as_a_type_and_not_in_text_or_comments() -> None:
    script = "CREATE TABLE t (x BYTES, y TEXT DEFAULT 'BYTES'); -- BYTES\nCREATE /*pg*/UNLOGGED/*end*/ TABLE u (BYTES_ BYTES)"
    assert for_engine(script, Engine.POSTGRESQL) == [
        "CREATE TABLE t (x BYTEA, y TEXT DEFAULT 'BYTES')",
        "-- BYTES\nCREATE /*pg*/UNLOGGED/*end*/ TABLE u (BYTES_ BYTEA)",
    ]
    assert for_engine(script, Engine.SQLITE)[1] == "-- BYTES\nCREATE  TABLE u (BYTES_ BLOB)"


def test_a_script_is_split_at_semicolons_outside_text_and_comments() -> None:
    script = "-- it's; a comment\nA 'x;''y;' \"q;\"; /* ; ' */ ;\n B; -- end;"
    assert split(script) == ["-- it's; a comment\nA 'x;''y;' \"q;\"", "B"]
    assert split("") == split(" ;; -- nothing") == []


@pytest.mark.parametrize(
    ("sql", "highest", "shifted"),
    [
        ("SELECT 1", 0, "SELECT 1"),
        ("a = $1 AND b = $12", 12, "a = $4 AND b = $15"),
        ("a = '$1' -- $2\nAND b = $1 /* $3 */", 1, "a = '$1' -- $2\nAND b = $4 /* $3 */"),
        ("\"$9\" = $2 || 'it''s $5'", 2, "\"$9\" = $5 || 'it''s $5'"),
    ],
)
def test_parameters_are_counted_and_shifted_outside_text_and_comments(sql: str, highest: int, shifted: str) -> None:
    assert parameters(sql) == highest
    assert renumber(sql, 3) == shifted
    assert renumber(sql, 0) == sql


@given(st.text(alphabet="$1'\"-/*;() \nax", max_size=40))
@settings(max_examples=200)
def test_any_text_can_be_scanned_and_moving_parameters_by_nothing_changes_nothing(text: str) -> None:
    assert renumber(text, 0) == text
    assert all(piece in text for piece in split(text))
    shape(text)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("INSERT INTO t (a) VALUES ($1)", Shape("INSERT", returning=False, table="t")),
        ("insert into T select 1 returning a", Shape("INSERT", returning=True, table="t")),
        ("UPDATE t SET a = 'RETURNING' -- RETURNING", Shape("UPDATE", returning=False, table="t")),
        ("DELETE FROM t WHERE a IN (SELECT b FROM u) RETURNING *", Shape("DELETE", returning=True, table="t")),
        ("WITH d AS (DELETE FROM u RETURNING a) UPDATE t SET a = 1", Shape("UPDATE", returning=False, table="t")),
        ("WITH d AS (SELECT 1) SELECT * FROM d", Shape("SELECT", returning=False, table="")),
        ("CREATE TABLE t (a TEXT)", Shape("", returning=False, table="")),
        ("INSERT", Shape("INSERT", returning=False, table="")),
    ],
)
def test_the_shape_of_a_statement_is_that_of_its_outermost_verb(sql: str, expected: Shape) -> None:
    assert shape(sql) == expected


def test_steps_are_merged_with_their_parameters_moved_and_their_guards_in_order() -> None:
    merged = merge(
        (("UPDATE a SET x = $2 WHERE y = $1", 1), ("INSERT INTO b VALUES ($1)", None), ("DELETE FROM c WHERE z = $1", 2))
    )
    assert merged is not None
    assert merged.arguments == (2, 1, 1)
    assert merged.returning is None
    assert " ".join(merged.sql.split()) == (
        "WITH s0 AS ( UPDATE a SET x = $2 WHERE y = $1 RETURNING 1 ), s1 AS ( INSERT INTO b VALUES ($3) ), "
        "s2 AS ( DELETE FROM c WHERE z = $4 RETURNING 1 ) SELECT CASE "
        "WHEN (SELECT count(*) FROM s0) <> 1 THEN CAST('certwright guard 0 met ' || CAST((SELECT count(*) FROM s0) AS TEXT) AS INTEGER) "
        "WHEN (SELECT count(*) FROM s2) <> 2 THEN CAST('certwright guard 2 met ' || CAST((SELECT count(*) FROM s2) AS TEXT) AS INTEGER) "
        "ELSE 1 END"
    )


def test_the_rows_of_the_one_returning_step_come_out() -> None:
    merged = merge((("DELETE FROM a", None), ("DELETE FROM b RETURNING x", None)))
    assert merged is not None
    assert merged.returning == 1
    assert merged.sql.endswith("SELECT * FROM s1 WHERE TRUE")


def test_a_single_step_without_a_guard_stays_as_it_is() -> None:
    assert merge((("DELETE FROM a WHERE x = $1", None),)) == Merged("DELETE FROM a WHERE x = $1", (1,), 0)


def test_two_returning_steps_or_a_select_need_a_transaction() -> None:
    assert merge((("DELETE FROM a RETURNING x", 1), ("DELETE FROM b RETURNING x", 1))) is None
    assert merge((("SELECT 1", 1), ("DELETE FROM b", 1))) is None


def test_the_refusing_guard_is_read_from_the_message_in_any_language() -> None:
    assert refused_step("ungültige Eingabesyntax für Typ integer: »certwright guard 12 met 0«") == 12
    assert refused_step('invalid input syntax for type integer: "x"') is None


def test_a_violation_is_traced_to_the_only_step_on_its_table() -> None:
    steps = ["INSERT INTO a VALUES (1)", "UPDATE b SET x = 1", "INSERT INTO a VALUES (2)"]
    assert step_on_table(steps, "b") == 1
    assert step_on_table(steps, "a") is None
    assert step_on_table(steps, None) is None
