"""`database:` in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.url import DatabaseUrlError, PostgresUrl, SqliteUrl, parse_database_url


def test_a_path_or_a_server() -> None:
    assert parse_database_url("sqlite:///var/lib/a%20b.db") == SqliteUrl(Path("/var/lib/a b.db"))
    for scheme in ("postgresql", "postgres"):
        url = f"{scheme}://user:secret@host/db?sslmode=verify-full"
        assert parse_database_url(url) == PostgresUrl(url)
        assert "secret" not in repr(parse_database_url(url))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "certwright.db",
        "/var/lib/x.db",
        "sqlite://relative.db",
        "sqlite:",
        "sqlite:///x.db?mode=ro",
        "mysql://u:secret@h/d",
        "//[secret",
    ],
)
def test_anything_else_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(DatabaseUrlError) as caught:
        parse_database_url(text)
    assert "secret" not in str(caught.value)
