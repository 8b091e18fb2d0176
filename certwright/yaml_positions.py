"""YAML 1.2 into plain values that remember where they stood.

ruamel.yaml composes the nodes; this file turns them into dict, list, str, int, float, bool and None, by the YAML 1.2 core
schema: `NO` is a country, `12:30` is text. Twice the same key is refused, for one of the two would silently not count.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, StringMark, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

MAX_SIZE = 1 << 20  # characters; a configuration, not a database
MAX_NODES = 100_000  # after aliases are followed: a few lines of YAML can ask for billions
MAX_DEPTH = 50

Place = tuple[str | int, ...]
Position = tuple[int, int]  # line and column, both from 1

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing to mend, at one place. No secret is ever part of it."""

    file: Path
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ConfigError(Exception):
    """Everything that is wrong with a configuration, at once."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(slots=True)
class Document:
    """What was read, and where each key and value of it stood."""

    file: Path
    value: Any = None
    keys: dict[Place, Position] = field(default_factory=dict)
    values: dict[Place, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def note(self, place: Place, message: str, *, at_key: bool = False) -> None:
        """Add a problem at the value of `place` (or at its key), or at the nearest thing around it that was written."""
        while place and place not in self.values:
            place = place[:-1]
        positions = self.keys if at_key and place in self.keys else self.values
        line, column = positions.get(place, (1, 1))
        self.problems.append(Problem(self.file, line, column, message))

    def check(self) -> None:
        if self.problems:
            raise ConfigError(self.problems)


def read_document(file: Path, text: str, environment: Mapping[str, str] = os.environ) -> Document:
    """Problems of the text itself (syntax, keys given twice, unset variables) are raised as ConfigError at once."""
    document = Document(file)
    node = _compose(document, text)
    if node is not None:
        _Reader(document, environment).read_root(node)
    document.check()
    return document


def _compose(document: Document, text: str) -> Node | None:
    def fail(line: int, column: int, message: str) -> ConfigError:
        return ConfigError([Problem(document.file, line, column, message)])

    if len(text) > MAX_SIZE:
        raise fail(1, 1, f"the file is longer than {MAX_SIZE} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ReusedAnchorWarning)
            composed: Node | None = YAML(typ="safe", pure=True).compose(text)
    except ReusedAnchorWarning as error:
        raise fail(1, 1, "two anchors (&name) have the same name") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if isinstance(mark, StringMark) else (1, 1)
        said = str(error.problem or error.context or "this is not YAML")
        raise fail(line, column, said + _hint(said, line, error.context_mark)) from error
    except ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise fail(line, column, "a character that YAML does not allow") from error
    except RecursionError as error:
        raise fail(1, 1, "it is nested too deeply") from error
    except (YAMLError, ValueError, IndexError, AttributeError, AssertionError, TypeError, NotImplementedError) as error:
        # ruamel.yaml's scanner trips over some broken texts without saying where
        raise fail(1, 1, "this is not YAML") from error
    return composed


class _Reader:
    def __init__(self, document: Document, environment: Mapping[str, str]) -> None:
        self._document = document
        self._environment = environment
        self._nodes = 0

    def read_root(self, node: Node) -> None:
        self._document.value = self._read(node, (), 0)

    def _complain(self, node: Node, message: str) -> None:
        self._document.problems.append(Problem(self._document.file, *_position(node), message))

    def _read(self, node: Node, place: Place, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            self._complain(node, "it is nested too deeply" if depth > MAX_DEPTH else "aliases make this too large")
            raise ConfigError(self._document.problems)
        self._document.values[place] = _position(node)
        match node:
            case MappingNode():
                return self._read_mapping(node, place, depth)
            case SequenceNode():
                return [self._read(item, (*place, index), depth + 1) for index, item in enumerate(node.value)]
            case ScalarNode():
                return self._read_scalar(node)
            case _:
                self._complain(node, "this is neither a value nor a list nor a mapping")
                return None

    def _read_mapping(self, node: MappingNode, place: Place, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._complain(key_node, "a key must be text")
                continue
            key = str(key_node.value)
            if key in result:
                line, _ = self._document.keys[(*place, key)]
                self._complain(key_node, f"the key {key!r} is here twice; the first one is in line {line}")
                continue
            self._document.keys[(*place, key)] = _position(key_node)
            result[key] = self._read(value_node, (*place, key), depth + 1)
        return result

    def _read_scalar(self, node: ScalarNode) -> Any:
        text = str(node.value)
        if node.style in {"'", '"', "|", ">"}:
            return self._expand(node, text)
        plain = _plain(text)
        return self._expand(node, plain) if isinstance(plain, str) else plain

    def _expand(self, node: ScalarNode, text: str) -> str:
        """`${NAME}` becomes the variable's value; `$` alone means itself."""

        def value(match: re.Match[str]) -> str:
            name = match[1]
            found = self._environment.get(name)
            if found is None:
                self._complain(node, f"the environment variable {name!r} is not set")
                return ""
            return found

        return _VARIABLE.sub(value, text)


_INDENTATION = "; is a line indented differently, or a quote left open?"
_HINTS = {  # from how ruamel.yaml's text begins to what the mistake mostly is
    "found character '\\t'": "; indent with spaces",
    "mapping values are not allowed": _INDENTATION,
    "expected <block end>": _INDENTATION,
    "expected alphabetic or numeric character": '; a text that begins with * or & needs quotes: "*"',
    "found undefined alias": '; a text that begins with * needs quotes: "*.example.com"',
}


def _hint(said: str, line: int, began: object) -> str:
    """YAML is often found wrong some lines after the mistake; so where it began is told too."""
    hint = next((hint for start, hint in _HINTS.items() if said.startswith(start)), "")
    if isinstance(began, StringMark) and began.line + 1 < line:
        return f"{hint} (in what begins in line {began.line + 1})"
    return hint


def _plain(text: str) -> Any:
    """An unquoted scalar by the core schema (YAML 1.2.2 §10.3.2), decimal numbers only."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def _position(node: Node) -> Position:
    mark = node.start_mark
    return (mark.line + 1, mark.column + 1) if isinstance(mark, StringMark) else (1, 1)
