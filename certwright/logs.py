"""One JSON object a line on stderr: our own events, and whatever the libraries say through `logging`.

No line carries a query string, a header, a body or a secret. One `write` call a line, so that the lines of several processes do
not mix.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping
from typing import Final

import orjson

from certwright.log_sink import Sink
from pki.clock import Clock, rfc3339

_LEVELS: Final = {"DEBUG": "debug", "INFO": "info", "WARNING": "warning", "ERROR": "error", "CRITICAL": "error"}


class Log:
    """`process` tells supervisor and workers apart; it is in every line."""

    def __init__(self, *, clock: Clock, process: str, descriptor: int = 2) -> None:
        self._clock = clock
        self._process = process
        self._sink = Sink(descriptor)

    def event(self, level: str, event: str, **fields: object) -> None:
        """`fields` are what a JSON encoder takes."""
        self._sink.put(self._line(level, event, fields), self._lost)

    def _line(self, level: str, event: str, fields: Mapping[str, object]) -> bytes:
        line = {"time": rfc3339(self._clock.micros()), "level": level, "process": self._process, "event": event, **fields}
        return orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)

    def _lost(self, count: int) -> bytes:
        return self._line("warning", "log lines lost", {"lines": count})

    def info(self, event: str, **fields: object) -> None:
        self.event("info", event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        self.event("warning", event, **fields)

    def error(self, event: str, **fields: object) -> None:
        self.event("error", event, **fields)

    def bug(self, event: str, error: BaseException, **fields: object) -> None:
        """With the traceback, which names code and never values."""
        self.event("error", event, error=type(error).__name__, trace="".join(traceback.format_exception(error)), **fields)

    def exception(self, event: str, **fields: object) -> None:
        """As structlog spells it: the exception is `exc_info`, or the one being handled."""
        given = fields.pop("exc_info", None)
        error = given if isinstance(given, BaseException) else sys.exc_info()[1]
        if error is None:
            self.error(event, **fields)
        else:
            self.bug(event, error, **fields)

    def take_over_logging(self) -> None:
        """What `logging` is given from now on comes out here."""
        root = logging.getLogger()
        root.handlers[:] = [_Handler(self)]
        root.setLevel(logging.INFO)
        logging.captureWarnings(capture=True)


class _Handler(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = _LEVELS.get(record.levelname, "info")
        fields: dict[str, object] = {"logger": record.name}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and _is_clients_doing(record, error):
            level, error = "info", None  # a request that is not HTTP: no traceback, nobody here made a mistake
        if error is not None:
            fields["error"] = type(error).__name__
            if not _is_an_outage(record):
                fields["trace"] = "".join(traceback.format_exception(error))
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        self._log.event(level, message, **fields)


def _is_clients_doing(record: logging.LogRecord, error: BaseException) -> bool:
    """Whether aiohttp reports bytes that it could not read, which it does with a traceback."""
    return record.name == "aiohttp.server" and type(error).__module__ == "aiohttp.http_exceptions"


def _is_an_outage(record: logging.LogRecord) -> bool:
    """Whether asyncpg's pool reports that the database is away, which it does with a traceback."""
    return record.name == "asyncpg.pool"
