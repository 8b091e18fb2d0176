"""EST as a registration authority and a device of its own come to it, with requests that are kept: who asks again sends the same octets.

    site = Asking(server, around)
    ask = site.enroll("host.example.test")
    reply = site.send(ask)
    serial = ask.serial(reply)

The label `default` is the one that `init` made; `asked` is the same with an approval before every certificate.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import sqlite3
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key, pkcs7

from tests.helpers import cmc, scep
from tests.helpers.authorities import ec_key
from tests.helpers.books import Books
from tests.helpers.est_world import renewal_csr
from tests.helpers.front_doors import basic
from tests.helpers.keygen import AES256_CBC, RSA_ENCRYPTION, delivered, keygen_csr, spki_in, spki_of, to_held_key
from tests.helpers.neighbourhood import Neighbourhood
from tests.helpers.postgres import run_apart
from tests.helpers.server import PATIENCE, Server, run
from tests.helpers.wanted import Wanted
from tests.helpers.wire import Reply, Wire

PKCS10 = "application/pkcs10"
CMC = "application/pkcs7-mime; smime-type=CMC-request"
ASKED = (
    "    asked: {{profile: device, authenticate: [certificate], agents: {{anchors: [{registrars}], roles: [device]}}, "
    "server_keygen: true, full_cmc: true, registration_authority: est, require_approval: true}}\n"
)


def labels(around: Neighbourhood) -> Callable[[str], str]:
    """The configuration that `init` wrote, with all of EST at `default`, and with the label `asked`."""

    def edit(text: str) -> str:
        made = ASKED.format(registrars=around.registrars)
        changed, found = re.subn(r"(?m)^  est:\n(    default: .*\n)", rf"  est:\n\1{made}", around.every_door(text))
        assert found == 1
        return changed

    return edit


def _enrolled(reply: Reply) -> x509.Certificate:
    [leaf] = pkcs7.load_der_pkcs7_certificates(base64.b64decode(reply.body))
    return leaf


def _with_its_key(reply: Reply) -> x509.Certificate:
    given = delivered(reply.headers["Content-Type"], reply.body)
    assert spki_of(given.key) == spki_in(given.certificate)
    return given.certificate


def _with_a_sealed_key(reply: Reply) -> x509.Certificate:
    given = delivered(reply.headers["Content-Type"], reply.body)
    assert given.key_type == "application/pkcs7-mime; smime-type=server-generated-key"
    return given.certificate


def _of_cmc(reply: Reply) -> x509.Certificate:
    return cmc.read_reply(reply.body).certificate_of(ec_key("subscriber"))


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `host` is in no other one's names."""

    host: str
    target: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    shows: Path  # the client's key and certificate
    read: Callable[[Reply], x509.Certificate] = field(repr=False)

    def serial(self, reply: Reply) -> str:
        assert reply.status == 200, (self.target, reply.status, reply.body)
        return f"{self.read(reply).serial_number:x}"


class Asking:
    """Each request in a TLS connection of its own."""

    def __init__(self, server: Server, around: Neighbourhood) -> None:
        self.server = server
        self.around = around
        self._agent = x509.load_pem_x509_certificate(around.agent.read_bytes())

    # ------------------------------------------------------------------ requests

    def _ask(self, operation: str, label: str, host: str, body: bytes, **changes: Any) -> Ask:
        given: dict[str, Any] = {"headers": {"Content-Type": PKCS10}, "shows": self.around.agent, "read": _enrolled}
        return Ask(host, f"/.well-known/est/{label}/{operation}", base64.b64encode(body), **{**given, **changes})

    def enroll(self, host: str, *, label: str = "default") -> Ask:
        return self._ask("simpleenroll", label, host, _wanted(host).csr())

    def enroll_key(self, host: str, key: cmc.Key) -> Ask:
        """For the public key of this one."""
        return self._ask("simpleenroll", "default", host, Wanted(names=(host,), key=lambda: key).csr())

    def renew(self, host: str) -> Ask:
        """A device for itself; the certificate that it renews is got by password."""
        first = self.send(self._ask("simpleenroll", "default", host, _wanted(host).csr(), headers=self._with_password()))
        held = _enrolled(first).public_bytes(Encoding.DER)
        shows = self.around.client(host, held, ec_key("subscriber"))
        return self._ask("simplereenroll", "default", host, renewal_csr(held), shows=shows)

    def keygen(self, host: str, *, label: str = "default") -> Ask:
        body = keygen_csr(host, common_name=None, like=ec_key("subscriber"))
        return self._ask("serverkeygen", label, host, body, read=_with_its_key)

    def sealed_keygen(self, host: str, *, to: Path) -> Ask:
        """Asked for by password, and encrypted to the certificate that the client shows."""
        private = load_pem_private_key(to.read_bytes(), None)
        assert isinstance(private, cmc.Key)
        wish = to_held_key(cmc.key_identifier(private), RSA_ENCRYPTION, AES256_CBC)
        body = keygen_csr(host, common_name=None, like=ec_key("subscriber"), attributes=wish)
        return self._ask(
            "serverkeygen", "default", host, body, headers=self._with_password(), shows=to, read=_with_a_sealed_key
        )

    def full_cmc(self, *hosts: str, label: str = "default") -> Ask:
        """Signed by the agent, in a transaction of its own; one request for each host."""
        transaction = cmc.control(1, cmc.TRANSACTION_ID, scep.integer(int.from_bytes(os.urandom(8), "big")))
        requests = [cmc.tcr(number, _wanted(host).csr()) for number, host in enumerate(hosts, 2)]
        message = cmc.signed(cmc.pki_data([transaction], requests), cmc.SignerOf(ec_key("leaf"), self._agent))
        return self._ask("fullcmc", label, hosts[0], message, headers={"Content-Type": CMC}, read=_of_cmc)

    def _with_password(self) -> Mapping[str, str]:
        given = self.server.environment
        return {"Content-Type": PKCS10, **basic(given["CERTWRIGHT_EST_USER"], given["CERTWRIGHT_EST_PASSWORD"])}

    # ------------------------------------------------------------------ sending

    def wire(self, ask: Ask, *, timeout: float = PATIENCE) -> Wire:
        context = ssl.create_default_context(cafile=str(self.server.ca_file))
        context.load_cert_chain(ask.shows)
        return Wire(self.server.mtls_port, context, timeout=timeout)

    def send(self, ask: Ask) -> Reply:
        wire = self.wire(ask)
        try:
            return wire.send("POST", ask.target, ask.body, ask.headers)
        finally:
            wire.close()

    def insist(self, ask: Ask) -> Reply:
        """As a client does that has to get its certificate: after a 503, 202 or a lost connection the same again, for a bounded time."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                reply = self.send(ask)
            except OSError:
                reply = None
            if reply is not None and reply.status not in {202, 503}:
                return reply
            assert time.monotonic() < deadline, (ask.target, reply)
            time.sleep(0.1)

    def octets(self, ask: Ask) -> bytes:
        """The whole request as it goes over the wire."""
        head = [f"POST {ask.target} HTTP/1.1", "Host: localhost", f"Content-Length: {len(ask.body)}"]
        return "\r\n".join([*head, *(f"{name}: {value}" for name, value in ask.headers.items()), "", ""]).encode() + ask.body

    # ------------------------------------------------------------------ approvals

    def approve(self, asks: Iterable[Ask]) -> None:
        """Each of them waits, and is approved."""
        for ask in asks:
            reply = self.send(ask)
            assert (reply.status, int(reply.headers["Retry-After"]) >= 30) == (202, True), (
                ask.target,
                reply.status,
                reply.body,
            )
        for waits in orjson.loads(self._requests("list", "-o", "json")):
            if waits["state"] == "pending":
                self._requests("approve", waits["id"])

    def _requests(self, *arguments: str) -> str:
        return run("requests", *arguments, "--config", self.server.config_file).stdout


def let_leases_end(books: Books) -> None:
    """Of everything between intent and record; and the sweeper, which comes every 15 s, is due."""
    statements = (
        "UPDATE issuance SET lease_until = 0 WHERE state = 'issuing'",
        "UPDATE job SET run_at = 0 WHERE kind = 'sweep'",
    )
    if books.url is not None:
        run_apart(_execute(books.url, statements))
        return
    with contextlib.closing(sqlite3.connect(books.server.directory / "certwright.db", timeout=PATIENCE)) as connection:
        for sql in statements:
            connection.execute(sql)
        connection.commit()


async def _execute(url: str, statements: Iterable[str]) -> None:
    connection = await asyncpg.connect(url)
    try:
        for sql in statements:
            await connection.execute(sql)
    finally:
        await connection.close()


def _wanted(host: str) -> Wanted:
    return Wanted(names=(host,), key=partial(ec_key, "subscriber"))
