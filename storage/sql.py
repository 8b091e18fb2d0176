"""One SQL text for two engines: what is done to it before it runs. Pure.

Our SQL uses neither dollar quoting nor E'' strings, so literals, quoted names, comments, parameters, words and parentheses
are all that a scanner has to know.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

_TOKEN = re.compile(
    r"""(?P<skip>'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/)"""
    r"""|\$(?P<parameter>\d+)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<mark>[();])""",
    re.DOTALL,
)
_POSTGRES_ONLY = re.compile(r"/\*pg\*/.*?/\*end\*/", re.DOTALL)
_VERBS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})

# How the text of PostgreSQL's error begins when a guard refuses; the step's index and the rows that it touched follow.
_GUARD = "certwright guard"
_GUARD_TEXT = re.compile(re.escape(_GUARD) + r" (\d+)\b")


class Engine(enum.Enum):
    """`value` is the column type that BYTES stands for."""

    POSTGRESQL = "BYTEA"
    SQLITE = "BLOB"


@lru_cache(maxsize=2048)
def for_sqlite(sql: str) -> str:
    """Without what only PostgreSQL runs. For PostgreSQL itself the marks are comments, and the text runs as it is."""
    return _POSTGRES_ONLY.sub("", sql)


def for_engine(script: str, engine: Engine) -> list[str]:
    """A migration file as the statements that `engine` runs, in order, with BYTES mapped to the engine's type."""
    text = for_sqlite(script) if engine is Engine.SQLITE else script

    def mapped(found: re.Match[str]) -> str:
        return engine.value if found["word"] == "BYTES" else found[0]

    return split(_TOKEN.sub(mapped, text))


def split(script: str) -> list[str]:
    """The statements of a script, without their semicolons; pieces that hold nothing but comments are left out."""
    pieces: list[str] = []
    start = 0
    for found in _TOKEN.finditer(script):
        if found["mark"] == ";":
            pieces.append(script[start : found.start()])
            start = found.end()
    pieces.append(script[start:])
    return [piece.strip() for piece in pieces if any(found["skip"] is None for found in _TOKEN.finditer(piece))]


def parameters(sql: str) -> int:
    """The highest n of its $n, 0 without any."""
    return max((int(found["parameter"]) for found in _TOKEN.finditer(sql) if found["parameter"]), default=0)


def renumber(sql: str, offset: int) -> str:
    """Every $n becomes $(n + offset)."""

    def shifted(found: re.Match[str]) -> str:
        return f"${int(found['parameter']) + offset}" if found["parameter"] else found[0]

    return _TOKEN.sub(shifted, sql)


def _outer_words(sql: str) -> Iterator[str]:
    """The words outside all parentheses, in upper case: CTE bodies, subqueries and column lists do not count."""
    depth = 0
    for found in _TOKEN.finditer(sql):
        match found["mark"]:
            case "(":
                depth += 1
            case ")":
                depth -= 1
            case _:
                if depth == 0 and found["word"]:
                    yield found["word"].upper()


@dataclass(frozen=True, slots=True)
class Shape:
    """What a statement is, as far as merging cares. `verb` is "" for what is none of the four; `table` is its target."""

    verb: str
    returning: bool
    table: str


@lru_cache(maxsize=2048)
def shape(sql: str) -> Shape:
    words = list(_outer_words(sql))
    verb = next((word for word in words if word in _VERBS), "")
    table = ""
    if verb in {"INSERT", "UPDATE", "DELETE"}:
        target = words.index(verb) + (1 if verb == "UPDATE" else 2)  # INSERT INTO t, DELETE FROM t
        table = words[target].lower() if target < len(words) else ""
    return Shape(verb, "RETURNING" in words, table)


@dataclass(frozen=True, slots=True)
class Merged:
    """A whole write as one PostgreSQL statement.

    `arguments` is how many each step takes; `returning` is the index of the one step whose rows come back, if any.
    """

    sql: str
    arguments: tuple[int, ...]
    returning: int | None


@lru_cache(maxsize=1024)
def merge(steps: tuple[tuple[str, int | None], ...]) -> Merged | None:
    """(sql, rows) of every step -> one statement, or None when they cannot be one: then they need a transaction.

    Data-modifying CTEs share one snapshot and stand or fall together; the guards raise in the outermost SELECT, which takes
    every CTE back. Two steps with RETURNING, or a step that is a SELECT, do not fit into this form.
    """
    shapes = [shape(sql) for sql, _ in steps]
    returning = [index for index, form in enumerate(shapes) if form.returning]
    arguments = tuple(parameters(sql) for sql, _ in steps)
    if len(steps) == 1 and steps[0][1] is None:
        return Merged(steps[0][0], arguments, returning[0] if returning else 0)
    if len(returning) > 1 or any(form.verb in {"", "SELECT"} for form in shapes):
        return None
    parts = []
    for index, (sql, rows) in enumerate(steps):
        counted = "" if shapes[index].returning or rows is None else "\nRETURNING 1"
        parts.append(f"s{index} AS (\n{renumber(sql, sum(arguments[:index]))}{counted}\n)")
    guards = [
        _guard(index, rows, "BOOLEAN" if returning else "INTEGER") for index, (_, rows) in enumerate(steps) if rows is not None
    ]
    # PostgreSQL evaluates a WHERE without columns once, before it asks for rows: the guards also speak when there are none.
    verdict = f"CASE {' '.join(guards)} ELSE {'TRUE' if returning else '1'} END" if guards else "TRUE"
    rows_of = f"* FROM s{returning[0]} WHERE " if returning else ""
    final = f"SELECT {rows_of}{verdict}"
    return Merged(f"WITH {', '.join(parts)}\n{final}", arguments, returning[0] if returning else None)


def _guard(index: int, rows: int, kind: str) -> str:
    """Raises by a cast that fails. The count inside keeps the planner from folding the cast into a constant."""
    count = f"(SELECT count(*) FROM s{index})"  # noqa: S608  # an index of ours
    return f"WHEN {count} <> {rows} THEN CAST('{_GUARD} {index} met ' || CAST({count} AS TEXT) AS {kind})"


def refused_step(message: str) -> int | None:
    """The index of the step whose guard raised this message, None when no guard did. The text around it may be translated."""
    found = _GUARD_TEXT.search(message)
    return int(found[1]) if found else None


def step_on_table(steps: Sequence[str], table: str | None) -> int | None:
    """The index of the only step that changes `table`, for errors that name the table and not the step."""
    hits = [index for index, sql in enumerate(steps) if shape(sql).table == table]
    return hits[0] if len(hits) == 1 else None
