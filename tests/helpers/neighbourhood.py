"""What is around a server that tests start: names and web servers of subscribers, an office that renews for others, ACME accounts."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hashes import Hash
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from pki.strict import base64url
from tests.helpers.acme_client import JOSE, AccountKey, make_jws, to_json
from tests.helpers.authorities import CLIENT_AUTH, CMC_RA, Authority, ec_key, purposes
from tests.helpers.dns import DnsServer
from tests.helpers.server import PATIENCE
from tests.helpers.wanted import PrivateKey
from tests.helpers.wire import Reply, Wire
from tests.helpers.world import HttpTarget

ACME_PROBLEM = "urn:ietf:params:acme:error:"


def with_key_generation(text: str) -> str:
    """The configuration that `init` wrote, with keys made for devices, and CMC."""
    text = text.replace("  device:\n", "  device:\n    server_keygen: true\n", 1)
    return text.replace("  est:\n    default: {", "  est:\n    default: {server_keygen: true, full_cmc: true, ", 1)


class Neighbourhood:
    """A DNS server and the web servers of subscribers on loopback, in a thread of their own, and an office that renews for others.

    `agent` is a file with its key and certificate, and `former_agent` one that has expired.
    """

    def __init__(self) -> None:
        self.dns = DnsServer()
        self.http = HttpTarget()
        self._folder = tempfile.TemporaryDirectory(prefix="cw-around-")
        now, day = datetime.now(UTC).replace(microsecond=0), timedelta(days=1)
        office = Authority("Office", begin=now - 9 * day, end=now + 9 * day)
        self.registrars = Path(self._folder.name) / "registrars.pem"
        self.registrars.write_bytes(office.certificate.public_bytes(Encoding.PEM))
        speaks = purposes(CLIENT_AUTH, CMC_RA)
        self.agent = self.client("agent", office.leaf("clerk", speaks, begin=now - day, end=now + day))
        self.former_agent = self.client("former", office.leaf("former clerk", speaks, begin=now - 3 * day, end=now - day))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="neighbourhood")

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self.dns.__aenter__())
        self._run(self.http.start("127.0.0.1"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._run(self.http.stop())
        self._run(self.dns.__aexit__(kind, error, at))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._folder.cleanup()

    def client(self, name: str, certificate: bytes, key: PrivateKey | None = None) -> Path:
        """A file with this certificate (DER) and its key, which is `authorities.ec_key("leaf")` unless given."""
        file = Path(self._folder.name) / f"{name}.pem"
        private = (key or ec_key("leaf")).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(private + x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM))
        return file

    def every_door(self, text: str) -> str:
        """The configuration that `init` wrote, with keys made for devices, and with our office as an agent."""
        agents = f"agents: {{anchors: [{self.registrars}], roles: [device]}}, "
        return with_key_generation(text).replace("  est:\n    default: {", "  est:\n    default: {" + agents, 1)

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)


class Account:
    """An ACME account with its own key, at one endpoint."""

    def __init__(
        self, wire: Wire, base: str, around: Neighbourhood, *, endpoint: str = "default", key: AccountKey | None = None
    ) -> None:
        self.wire = wire
        self.base = base
        self.around = around
        self.endpoint = endpoint
        self.key = key or AccountKey()
        self.kid = ""
        self._nonce = ""

    def url(self, path: str) -> str:
        return f"{self.base}/acme/{self.endpoint}/{path}"

    def nonce(self) -> str:
        nonce, self._nonce = self._nonce, ""
        if not nonce:
            reply = self.wire.send("HEAD", self.url("new-nonce").removeprefix(self.base))
            assert reply.status == 200
            nonce = reply.headers["Replay-Nonce"]
        return nonce

    def header(self, url: str, *, jwk: bool = False, **changes: Any) -> dict[str, Any]:
        """A protected header as it should be, then `changes`; None removes a member."""
        header: dict[str, Any] = {"alg": self.key.alg, "nonce": self.nonce(), "url": url}
        header |= {"jwk": self.key.jwk} if jwk else {"kid": self.kid}
        header.update(changes)
        return {name: value for name, value in header.items() if value is not None}

    def send(self, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        reply = self.wire.send("POST", url.removeprefix(self.base), body, {"Content-Type": JOSE, **(headers or {})})
        self._nonce = reply.headers.get("Replay-Nonce") or ""
        return reply

    def post(
        self, url: str, payload: object = b"", *, jwk: bool = False, by: AccountKey | None = None, **changes: Any
    ) -> Reply:
        """Signed with `by`, else with the account's key; a payload of bytes goes as it is, everything else as JSON.

        As RFC 8555 section 6.5 has it, badNonce is tried once more with the nonce that came with it.
        """
        content = payload if isinstance(payload, bytes) else to_json(payload)

        def signed() -> bytes:
            return to_json(make_jws(by or self.key, self.header(url, jwk=jwk, **changes), content))

        reply = self.send(url, signed())
        if reply.status == 400 and reply.json["type"] == ACME_PROBLEM + "badNonce" and "nonce" not in changes:
            reply = self.send(url, signed())
        return reply

    def register(self) -> Self:
        reply = self.post(self.url("new-account"), {"termsOfServiceAgreed": True}, jwk=True)
        assert reply.status == 201, reply.body
        self.kid = reply.headers["Location"]
        return self

    def order(self, *names: str, **members: Any) -> Reply:
        """newOrder. Names are of type dns, but for those that are addresses."""
        identifiers = [{"type": "ip" if _is_address(name) else "dns", "value": name} for name in names]
        return self.post(self.url("new-order"), {"identifiers": identifiers, **members})

    def authorize(self, order: Reply) -> None:
        """Prove control of every name, by http-01 at our neighbours'."""
        for url in order.json["authorizations"]:
            found = self.post(url).json
            self.around.dns[found["identifier"]["value"]] = ["127.0.0.1"]
            challenge = next(each for each in found["challenges"] if each["type"] == "http-01")
            self.around.http.serve(challenge["token"], f"{challenge['token']}.{self.thumbprint()}")
            deadline = time.monotonic() + PATIENCE
            state = self.post(challenge["url"], {}).json
            while state["status"] in {"pending", "processing"} and time.monotonic() < deadline:
                time.sleep(0.02)  # the server was slow to validate, and says so; a client asks again
                state = self.post(challenge["url"]).json
            assert state["status"] == "valid", state

    def ready(self, *names: str, **members: Any) -> Reply:
        """An order whose names are all proved."""
        order = self.order(*names, **members)
        assert order.status == 201, order.body
        self.authorize(order)
        return order

    def finalize(self, order: Reply, csr: bytes) -> Reply:
        return self.post(order.json["finalize"], {"csr": base64url(csr)})

    def read(self, order: Reply) -> dict[str, Any]:
        found: dict[str, Any] = self.post(order.headers["Location"]).json
        return found

    def thumbprint(self) -> str:
        """RFC 7638."""
        digest = Hash(hashes.SHA256())
        digest.update(orjson.dumps(self.key.jwk, option=orjson.OPT_SORT_KEYS))
        return base64url(digest.finalize())


def _is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        ip_address(name)
        return True
    return False
