"""Rows on the terminal: a table for people, JSON and YAML for programs."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence

import orjson
from ruamel.yaml import YAML

Row = Mapping[str, object]


def show(rows: Sequence[Row] | Row, form: str) -> None:
    """`form`: table, json or yaml."""
    match form:
        case "json":
            sys.stdout.write(orjson.dumps(rows, default=str, option=orjson.OPT_INDENT_2).decode() + "\n")
        case "yaml":
            stream = io.StringIO()
            yaml = YAML(typ="safe", pure=True)
            yaml.default_flow_style = False
            yaml.dump(orjson.loads(orjson.dumps(rows, default=str)), stream)
            sys.stdout.write(stream.getvalue())
        case _:
            sys.stdout.write(_details(rows) if isinstance(rows, Mapping) else _table(rows))


def _details(row: Row) -> str:
    width = max(map(len, row), default=0)
    return "".join(
        f"{key}\n{value}" if "\n" in str(value) else f"{key:<{width}}  {_cell(value)}\n" for key, value in row.items()
    )


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return "none\n"
    columns = list(rows[0])
    cells = [
        [column.upper().replace("_", " ") for column in columns],
        *([_cell(row[column]) for column in columns] for row in rows),
    ]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    return "".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in cells
    )


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(str, value)) or "-"
        case _:
            return str(value)
