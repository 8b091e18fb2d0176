"""Our own migrations, and what is made of those that a database has had."""

from __future__ import annotations

import re

import pytest

from storage.schema import OURS, Migration, SchemaError, Status, pending, require_current


def test_our_migrations_are_numbered_without_gaps() -> None:
    assert [int(migration.name[:4]) for migration in OURS] == list(range(1, len(OURS) + 1))
    assert all(re.fullmatch(r"\d{4}_[a-z0-9_]+", migration.name) for migration in OURS)


def test_pending_is_what_has_not_run_in_order() -> None:
    first, second, third = (Migration(f"000{number}_x", str(number)) for number in (1, 2, 3))
    assert pending([first, second, third], {}) == [first, second, third]
    assert pending([first, second, third], {first.name: first.checksum}) == [second, third]
    assert pending([first], {first.name: first.checksum}) == []


def test_a_newer_migration_is_told_from_a_foreign_one() -> None:
    ours = [Migration("0002_x", "")]
    with pytest.raises(SchemaError, match="newer than this program"):
        pending(ours, {"0003_x": ""})
    with pytest.raises(SchemaError, match="does not know"):
        pending(ours, {"0001_y": ""})


def test_a_schema_with_nothing_pending_is_current() -> None:
    require_current(Status(("0001_x",), ()))
    with pytest.raises(SchemaError, match="0002_y, 0003_z; run `certwright db upgrade`"):
        require_current(Status(("0001_x",), ("0002_y", "0003_z")))
