"""What `database:` in the configuration means. No error here repeats the URL, for it may hold a password."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit


class DatabaseUrlError(ValueError):
    """Not a database URL that we know; the text says what one looks like."""


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    path: Path


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """As libpq reads it: several hosts, `?host=/run/postgresql`, `sslmode`, `target_session_attrs` and so on."""

    dsn: str = field(repr=False)


def parse_database_url(text: str) -> SqliteUrl | PostgresUrl:
    """Raises DatabaseUrlError."""
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise DatabaseUrlError("the database URL cannot be read") from error
    match parts.scheme:
        case "postgresql" | "postgres":
            return PostgresUrl(text)
        case "sqlite" if parts.netloc == "" and parts.path.startswith("/") and not parts.query:
            return SqliteUrl(Path(unquote(parts.path)))
        case "sqlite":
            raise DatabaseUrlError("an SQLite URL is sqlite:/// and an absolute path, as in sqlite:///var/lib/certwright.db")
        case _:
            raise DatabaseUrlError("a database URL begins with sqlite:/// or postgresql://")
