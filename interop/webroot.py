"""A web server for the clients that put files into a directory and leave the serving to somebody else."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """What was asked is in the log of the server that asked."""


@contextmanager
def webroot(directory: Path, port: int) -> Iterator[Path]:
    """Serves `directory` on loopback; gives the place of the challenge files (RFC 8555 §8.3)."""
    challenges = directory / ".well-known" / "acme-challenge"
    challenges.mkdir(parents=True)
    with ThreadingHTTPServer(("127.0.0.1", port), functools.partial(_Quiet, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever, name="webroot")
        thread.start()
        try:
            yield challenges
        finally:
            server.shutdown()
            thread.join()
