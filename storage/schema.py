"""Which schema this program wants, and what it makes of one that it finds. No I/O but reading our own files.

Numbered migrations run once each, in order, and never change afterwards: their checksums are kept in the database. A schema
that is newer than the program is refused, so a roll-out expands first and contracts later.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Final

UPGRADE_COMMAND = "certwright db upgrade"

# `applied_at` is microseconds UTC. No BYTES in it, so the text runs as it is on both engines.
CREATE_TABLE_SQL = (
    "CREATE TABLE IF NOT EXISTS schema_migration (name TEXT PRIMARY KEY, checksum TEXT NOT NULL, applied_at BIGINT NOT NULL)"
)


class SchemaError(Exception):
    """The database's schema and this program do not fit. The text says what to do; it is for the operator."""


@dataclass(frozen=True, slots=True)
class Migration:
    """`name` is the file's without ".sql": "0001_first"."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Status:
    """Names in order. `pending` is empty when the schema is the program's."""

    applied: tuple[str, ...]
    pending: tuple[str, ...]


def load(folder: Traversable) -> tuple[Migration, ...]:
    """The numbered files of a folder, in order."""
    files = sorted(file.name for file in folder.iterdir() if file.name[:4].isdigit() and file.name.endswith(".sql"))
    return tuple(Migration(name.removesuffix(".sql"), (folder / name).read_text("utf-8")) for name in files)


def pending(ours: Sequence[Migration], applied: Mapping[str, str]) -> list[Migration]:
    """What has still to run, given name -> checksum of what has run. Raises SchemaError."""
    known = {migration.name: migration for migration in ours}
    last = ours[-1].name if ours else ""
    for name, checksum in sorted(applied.items()):
        if name not in known and name > last:
            raise SchemaError(
                f"the database has the migration {name}, which is newer than this program; start a newer certwright"
            )
        if name not in known:
            raise SchemaError(f"the database has the migration {name}, which this program does not know")
        if known[name].checksum != checksum:
            raise SchemaError(f"the migration {name} in the database is not the one of this program: their checksums differ")
    return [migration for migration in ours if migration.name not in applied]


def require_current(status: Status) -> None:
    """Raises SchemaError that names the command when migrations are pending."""
    if status.pending:
        raise SchemaError(f"the database lacks the migrations {', '.join(status.pending)}; run `{UPGRADE_COMMAND}`")


_FOLDER = importlib.resources.files("storage") / "migrations"
OURS: Final = load(_FOLDER)
SCRATCH: Final = Migration("scratch", (_FOLDER / "scratch.sql").read_text("utf-8"))
