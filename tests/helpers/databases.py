"""What every database test needs: our SQL constants, and a second node on the same database."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sqlite3
from collections.abc import AsyncIterator

from storage.database import Database
from storage.open import open_database
from storage.schema import OURS, SCRATCH
from storage.sql import Engine, for_engine, for_sqlite, parameters

PACKAGES = ("pki", "storage", "signer", "validation", "policy", "issuance", "rest", "scep", "est", "acmeserver", "certwright")


def named_queries() -> dict[str, str]:
    """Every module-level constant of ours whose name ends in _SQL: `module.NAME` -> a complete statement."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        names = [package, *(info.name for info in pkgutil.walk_packages(module.__path__, f"{package}."))]
        for name in names:
            if name.rpartition(".")[2] == "__main__":
                continue
            for constant, value in vars(importlib.import_module(name)).items():
                if constant.endswith("_SQL") and isinstance(value, str):
                    found[f"{name}.{constant}"] = value
    return found


def sqlite_with_schema() -> sqlite3.Connection:
    """In memory, all tables in one: only for preparing statements."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for migration in (*OURS, SCRATCH):
        for statement in for_engine(migration.sql, Engine.SQLITE):
            connection.execute(statement)
    connection.execute("CREATE TABLE IF NOT EXISTS schema_migration (name TEXT PRIMARY KEY, checksum TEXT, applied_at BIGINT)")
    return connection


def prepare_on_sqlite(connection: sqlite3.Connection, sql: str) -> None:
    """Raises sqlite3.Error."""
    text = for_sqlite(sql)
    connection.execute(f"EXPLAIN {text}", {str(number): None for number in range(1, parameters(text) + 1)}).fetchall()


@contextlib.asynccontextmanager
async def second_node(url: str) -> AsyncIterator[Database]:
    database = await open_database(url, migrate=False)
    try:
        yield database
    finally:
        await database.close()
