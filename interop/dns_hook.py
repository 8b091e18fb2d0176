"""How a client's hook reaches the DNS server of the tests: a POST of "name value" adds a text record, as any DNS provider's API would."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def dns_provider(txt: Callable[..., None]) -> Iterator[str]:
    """Its URL. `txt` sets all text records of a name at once; two authorizations may share a name, so they add up here."""
    records: defaultdict[str, list[str]] = defaultdict(list)

    class Provider(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            name, value = self.rfile.read(int(self.headers["Content-Length"])).decode().split()
            records[name].append(value)
            txt(name, *records[name])
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """What was set is seen by who asks for it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever, name="dns-provider")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()
