"""Every way in to a real server.

with Neighbourhood() as around, Server(resolver=around.dns.address, http01_port=around.http.port) as server:
    doors = Doors(server, around)
    reply = doors.ask(Door.EST, Wanted())
    doors.certificate(Door.EST, reply)

Requests are written with other code than ours: by hand, with http.client and raw sockets.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.message
import enum
import http.client
import itertools
import os
import select
import signal
import socket
import sqlite3
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self, assert_never
from urllib.parse import quote

import asyncpg
import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import Hash
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    pkcs7,
)

from pki.strict import base64url
from tests.helpers import cmc, scep
from tests.helpers.acme_client import JOSE, AccountKey, make_jws, to_json
from tests.helpers.authorities import CLIENT_AUTH, CMC_RA, Authority, ec_key, purposes
from tests.helpers.dns import DnsServer
from tests.helpers.keygen import delivered, spki_in, spki_of
from tests.helpers.postgres import run_apart
from tests.helpers.scep import Message, enveloped
from tests.helpers.server import PATIENCE, Server
from tests.helpers.wanted import PrivateKey, Wanted, pem_csr
from tests.helpers.world import HttpTarget

ACME_PROBLEM = "urn:ietf:params:acme:error:"
REST_PROBLEM = "urn:certwright:problem:"


class Door(enum.Enum):
    """What can end in a certificate."""

    ACME = "ACME finalize"
    EST = "EST simpleenroll"
    EST_KEYGEN = "EST serverkeygen"
    EST_RENEWAL = "EST simplereenroll by an agent"  # the one kind of renewal whose names are the requester's own
    EST_CMC = (
        "EST fullcmc by password"  # signed with the request's own key: every other signer is somebody by it, test_est_cmc.py
    )
    SCEP_POST = "SCEP PKCSReq by POST"
    SCEP_GET = "SCEP PKCSReq by GET"
    SCEP_ONCE = "SCEP PKCSReq by a challenge that opens once"
    SCEP_RENEWAL = "SCEP RenewalReq"  # signed with a certificate that may change its names; by PKCSReq: test_scep_renewal.py
    REST_JSON = "REST with JSON"
    REST_PEM = "REST with a bare CSR"


EST_OPERATIONS = {
    Door.EST: "simpleenroll",
    Door.EST_KEYGEN: "serverkeygen",
    Door.EST_RENEWAL: "simplereenroll",
    Door.EST_CMC: "fullcmc",
}

SCEP_DOORS = (Door.SCEP_POST, Door.SCEP_GET, Door.SCEP_ONCE, Door.SCEP_RENEWAL)
# They need something that was made beforehand for each request: a challenge, a certificate.
PREPARED = frozenset({Door.SCEP_ONCE, Door.SCEP_RENEWAL})

# ---------------------------------------------------------------------- the wire


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: email.message.Message
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def media_type(self) -> str:
        return (self.headers.get("Content-Type") or "").partition(";")[0].strip()


class Wire:
    """One listener. The connection is kept, and made anew when the server has closed it meanwhile."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None, *, timeout: float = PATIENCE) -> None:
        self.port = port
        self.context = context
        self.timeout = timeout
        self._connection: http.client.HTTPConnection | None = None

    def send(self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Sent once, whatever happens. Raises OSError and http.client.HTTPException."""
        if self._connection is not None and self._is_stale(self._connection):
            self.close()
        return self._send(method, target, body, headers or {})

    @staticmethod
    def _is_stale(connection: http.client.HTTPConnection) -> bool:
        """Whether the server has closed it since the last answer."""
        return connection.sock is not None and bool(select.select([connection.sock], [], [], 0)[0])

    @property
    def local_port(self) -> int:
        """Ours, of the connection that is kept."""
        assert self._connection is not None
        return int(self._connection.sock.getsockname()[1])

    def _send(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        if self._connection is None:
            self._connection = (
                http.client.HTTPConnection("localhost", self.port, timeout=self.timeout)
                if self.context is None
                else http.client.HTTPSConnection("localhost", self.port, timeout=self.timeout, context=self.context)
            )
        try:
            self._connection.request(method, target, body, {"Connection": "keep-alive", **headers})
            response = self._connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def socket(self) -> Iterator[socket.socket]:
        """A connection of one's own, for what http.client would not send."""
        with socket.create_connection(("localhost", self.port), timeout=self.timeout) as plain:
            if self.context is None:
                yield plain
            else:
                with self.context.wrap_socket(plain, server_hostname="localhost") as secure:
                    yield secure

    def raw(self, *parts: bytes, end: bool = True) -> bytes:
        """Everything that comes back until the server closes. `end`: we say that nothing follows (not possible in TLS)."""
        with self.socket() as connection:
            return converse(connection, *parts, end=end and self.context is None)


def converse(connection: socket.socket, *parts: bytes, end: bool = True) -> bytes:
    received = bytearray()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        for part in parts:
            connection.sendall(part)
    if end:
        with contextlib.suppress(OSError):  # it is not connected any more
            connection.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)


def with_key_generation(text: str) -> str:
    """The configuration that `init` wrote, with keys made for devices, and CMC."""
    text = text.replace("  device:\n", "  device:\n    server_keygen: true\n", 1)
    return text.replace("  est:\n    default: {", "  est:\n    default: {server_keygen: true, full_cmc: true, ", 1)


# ---------------------------------------------------------------------- what is around a server


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


# ---------------------------------------------------------------------- the doors


@dataclass(frozen=True, slots=True)
class Secrets:
    """What somebody has. None: nothing is sent at all."""

    api_key: str | None
    est: tuple[str, str] | None
    challenge: str | None
    account: Account
    est_label: str = ""
    scep_endpoint: str = "default"
    certificate: Path | None = None  # with its key, for renewals
    renewal_label: str = ""
    once: Callable[[], str] | None = None  # makes a SCEP challenge that opens once
    held: Path | None = None  # a certificate of SCEP's, with its key


class Doors:
    """A client of every protocol, with the credentials that `init` made unless others are given."""

    def __init__(self, server: Server, around: Neighbourhood, *, timeout: float = PATIENCE) -> None:
        context = ssl.create_default_context(cafile=str(server.ca_file))
        self.server = server
        self.around = around
        self.https = Wire(server.https_port, context, timeout=timeout)
        self.mtls = Wire(server.mtls_port, context, timeout=timeout)
        self.http = Wire(server.http_port, timeout=timeout)
        self.ra = x509.load_pem_x509_certificate((server.directory / "ca" / "scep-ra.pem").read_bytes())
        given = server.environment
        self.secrets = Secrets(
            api_key=given["CERTWRIGHT_API_KEY"],
            est=(given["CERTWRIGHT_EST_USER"], given["CERTWRIGHT_EST_PASSWORD"]),
            challenge=given["CERTWRIGHT_SCEP_CHALLENGE"],
            account=self.account(),
            certificate=around.agent,
        )
        self._certified: dict[Path | None, Wire] = {None: self.mtls}
        self._transactions = (f"TX-{number}" for number in itertools.count(1))
        self._signers: dict[bytes, x509.Certificate] = {}

    def account(self, endpoint: str = "default", *, key: AccountKey | None = None) -> Account:
        """Not registered yet."""
        return Account(self.https, self.server.base_url, self.around, endpoint=endpoint, key=key)

    def close(self) -> None:
        for wire in (self.https, self.http, *self._certified.values()):
            wire.close()

    def _shows(self, certificate: Path | None) -> Wire:
        """The mtls listener, in a connection with this certificate."""
        if certificate not in self._certified:
            context = ssl.create_default_context(cafile=str(self.server.ca_file))
            assert certificate is not None
            context.load_cert_chain(certificate)
            self._certified[certificate] = Wire(self.server.mtls_port, context, timeout=self.mtls.timeout)
        return self._certified[certificate]

    def ask(self, door: Door, wanted: Wanted, secrets: Secrets | None = None, **members: Any) -> Reply:
        """One request for a certificate. `members` go into ACME's newOrder or REST's JSON."""
        own = secrets or self.secrets
        match door:
            case Door.ACME:
                return self._by_acme(own.account, wanted, members)
            case Door.EST | Door.EST_KEYGEN:
                return self.simple_enroll(wanted.csr(), own.est, label=own.est_label, operation=EST_OPERATIONS[door])
            case Door.EST_RENEWAL:
                return self.renew(wanted.csr(), own)
            case Door.EST_CMC:
                return self.full_cmc(self.pki_data(wanted), own.est, label=own.est_label)
            case Door.SCEP_POST | Door.SCEP_GET | Door.SCEP_ONCE | Door.SCEP_RENEWAL:
                return self.scep(door, self.scep_message(door, wanted, own), own)
            case Door.REST_JSON:
                return self.rest(to_json({"csr": pem_csr(wanted.csr()), **members}), own.api_key)
            case Door.REST_PEM:
                return self.rest(pem_csr(wanted.csr()).encode(), own.api_key, content_type="application/x-pem-file", **members)
            case _:
                assert_never(door)

    def _by_acme(self, account: Account, wanted: Wanted, members: Mapping[str, Any]) -> Reply:
        order = account.order(*wanted.names, **members)
        if order.status != 201:
            return order
        account.authorize(order)
        return account.finalize(order, wanted.csr())

    def renew(self, csr: bytes, secrets: Secrets) -> Reply:
        label = f"{secrets.renewal_label}/" if secrets.renewal_label else ""
        path = f"/.well-known/est/{label}{EST_OPERATIONS[Door.EST_RENEWAL]}"
        headers = {"Content-Type": "application/pkcs10"}
        return self._shows(secrets.certificate).send("POST", path, base64.b64encode(csr), headers)

    def simple_enroll(
        self, csr: bytes, user: tuple[str, str] | None, *, label: str = "", operation: str = "simpleenroll", **headers: str
    ) -> Reply:
        path = f"/.well-known/est/{label}/{operation}" if label else f"/.well-known/est/{operation}"
        sent = {"Content-Type": "application/pkcs10", **(basic(*user) if user else {}), **headers}
        return self.mtls.send("POST", path, base64.b64encode(csr), sent)

    def pki_data(self, wanted: Wanted, *, by: PrivateKey | None = None, signs_for: PrivateKey | None = None) -> bytes:
        """A CMC message with this request in a transaction of its own, for the same message is the same request. Signed with its
        key, or with the key of somebody else; or `signs_for` it.
        """
        key = by or wanted.key()
        signer = cmc.SignerOf(key, self._signer(key), signs_for=signs_for)
        transaction = cmc.control(2, cmc.TRANSACTION_ID, scep.integer(int.from_bytes(os.urandom(8), "big")))
        return cmc.signed(cmc.pki_data([transaction], [cmc.tcr(1, wanted.csr())]), signer)

    def full_cmc(self, message: bytes, user: tuple[str, str] | None, *, label: str = "", **headers: str) -> Reply:
        sent = {"Content-Type": "application/pkcs7-mime; smime-type=CMC-request", **headers}
        return self.simple_enroll(message, user, label=label, operation=EST_OPERATIONS[Door.EST_CMC], **sent)

    def pkcs_req(self, wanted: Wanted, *, challenge: str | None, **changes: Any) -> Message:
        content = enveloped(wanted.csr(challenge=challenge), self.ra)
        message = Message(key=wanted.key(), content=content, transaction_id=next(self._transactions), **changes)
        message.signer = self._signer(message.key)
        return message

    def scep_message(self, door: Door, wanted: Wanted, own: Secrets, **changes: Any) -> Message:
        """What asks for a certificate at this door of SCEP."""
        match door:
            case Door.SCEP_ONCE:
                return self.pkcs_req(wanted, challenge=own.once() if own.once else None, **changes)
            case Door.SCEP_RENEWAL:
                message = self.pkcs_req(wanted, challenge=own.challenge, message_type="17", **changes)
                if own.held is not None:
                    message.key, message.signer = holder_of(own.held)
                return message
            case _:
                return self.pkcs_req(wanted, challenge=own.challenge, **changes)

    def scep(self, door: Door, message: Message, own: Secrets) -> Reply:
        return self.pki_operation(message.encode(), get=door is Door.SCEP_GET, endpoint=own.scep_endpoint)

    def _signer(self, key: PrivateKey) -> x509.Certificate:
        """One self-signed certificate for each key: answers are encrypted to its issuer and serial."""
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if spki not in self._signers:
            self._signers[spki] = scep.self_signed(key)
        return self._signers[spki]

    def pki_operation(self, message: bytes, *, get: bool = False, endpoint: str = "default") -> Reply:
        path = f"/scep/{endpoint}?operation=PKIOperation"
        if get:
            return self.http.send("GET", f"{path}&message={quote(base64.b64encode(message), safe='')}")
        return self.http.send("POST", path, message, {"Content-Type": "application/x-pki-message"})

    def rest(
        self,
        body: bytes,
        api_key: str | None,
        *,
        content_type: str = "application/json",
        profile: str | None = None,
        **headers: str,
    ) -> Reply:
        sent = {"Content-Type": content_type, **({"X-API-Key": api_key} if api_key is not None else {}), **headers}
        query = f"?profile={quote(profile)}" if profile is not None else ""
        return self.https.send("POST", f"/api/v1/certificates{query}", body, sent)

    # ------------------------------------------------------------------ what came back

    def certificate(self, door: Door, reply: Reply, wanted: Wanted, folder: Path) -> x509.Certificate:
        """The certificate in a reply that grants."""
        match door:
            case Door.ACME:
                assert reply.status == 200, reply.body
                chain = self.secrets.account.post(reply.json["certificate"])
                return x509.load_pem_x509_certificates(chain.body)[0]
            case Door.EST | Door.EST_RENEWAL:
                assert reply.status == 200, reply.body
                [leaf] = pkcs7.load_der_pkcs7_certificates(base64.b64decode(reply.body))
                return leaf
            case Door.EST_CMC:
                assert reply.status == 200, reply.body
                return cmc.read_reply(reply.body).certificate_of(wanted.key())
            case Door.EST_KEYGEN:
                assert reply.status == 200, reply.body
                given = delivered(reply.headers["Content-Type"], reply.body)
                assert spki_of(given.key) == spki_in(given.certificate)
                return given.certificate
            case Door.SCEP_POST | Door.SCEP_GET | Door.SCEP_ONCE | Door.SCEP_RENEWAL:
                assert reply.status == 200, reply.body
                answer = scep.parse_answer(reply.body)
                assert answer.status == "0", answer.text
                if door is Door.SCEP_RENEWAL:
                    assert self.secrets.held is not None
                    key, signer = holder_of(self.secrets.held)
                else:
                    key, signer = wanted.key(), self._signer(wanted.key())
                [leaf] = scep.opened_certificates(answer, Message(key=key, signer=signer), folder)
                return leaf
            case Door.REST_JSON | Door.REST_PEM:
                assert reply.status == 201, reply.body
                return x509.load_pem_x509_certificate(reply.json["certificate"].encode())
            case _:
                assert_never(door)


def refusal(door: Door, reply: Reply) -> str:
    """What the protocol's own error says. Fails for anything that is not one: a certificate, a 500, an HTML page."""
    assert reply.status < 500, (reply.status, reply.body)
    match door:
        case Door.ACME:
            assert reply.status >= 400, reply.body
            assert reply.media_type == "application/problem+json"
            content = reply.json
            assert content["status"] == reply.status
            assert content["type"].startswith(ACME_PROBLEM)
            return f"{content['type'].removeprefix(ACME_PROBLEM)}: {content['detail']}"
        case Door.EST | Door.EST_KEYGEN | Door.EST_RENEWAL:
            assert reply.status >= 400, reply.body
            if reply.status == 401:
                assert reply.headers["WWW-Authenticate"].startswith(("Basic realm=", "Digest realm=", "Bearer realm="))
                assert reply.body == b""
                return "unauthenticated"
            assert reply.media_type == "text/plain"
            assert reply.body.endswith(b"\n")
            return reply.body.decode()
        case Door.EST_CMC:
            if reply.media_type != "application/pkcs7-mime":  # not to be read, or HTTP has to say who it is
                return refusal(Door.EST, reply)
            assert reply.status >= 400, reply.body
            said = cmc.read_reply(reply.body).said
            assert all(each.fail_info is not None for each in said)
            return "\n".join(each.text for each in said)
        case Door.SCEP_POST | Door.SCEP_GET | Door.SCEP_ONCE | Door.SCEP_RENEWAL:
            if reply.status == 200:
                assert reply.media_type == "application/x-pki-message"
                answer = scep.parse_answer(reply.body)
                assert (answer.status, answer.message_type, answer.content) == ("2", "3", b"")
                assert answer.fail_info is not None
                return answer.text or ""
            assert reply.status >= 400, reply.body  # nobody could be found to address a CertRep to
            assert reply.media_type == "text/plain"
            return reply.body.decode()
        case Door.REST_JSON | Door.REST_PEM:
            assert reply.status >= 400, reply.body
            assert reply.media_type == "application/problem+json"
            content = reply.json
            assert content["type"].startswith(REST_PROBLEM)
            assert content["detail"] == content["error"]
            return f"{content['type'].removeprefix(REST_PROBLEM)}: {content['detail']}"
        case _:
            assert_never(door)


def pending(door: Door, reply: Reply) -> int:
    """In how many seconds to ask again, as the protocol says that a request waits; 60 where it says no time (SCEP)."""
    match door:
        case Door.ACME:
            raise AssertionError("no ACME order waits for a person")
        case Door.SCEP_POST | Door.SCEP_GET | Door.SCEP_ONCE | Door.SCEP_RENEWAL:
            assert (reply.status, reply.media_type) == (200, "application/x-pki-message"), reply.body
            answer = scep.parse_answer(reply.body)
            assert (answer.status, answer.message_type, answer.fail_info, answer.content) == ("3", "3", None, b"")
            return 60
        case Door.REST_JSON | Door.REST_PEM:
            assert (reply.status, reply.json["status"]) == (202, "pending"), reply.body
            assert reply.json["id"]
            assert reply.headers["Retry-After"] == str(reply.json["retry_after"])
        case Door.EST | Door.EST_KEYGEN | Door.EST_RENEWAL:  # RFC 7030 §4.2.3, and no body, which BouncyCastle would fail on
            assert (reply.status, reply.body, reply.headers["Content-Length"]) == (202, b"", "0")
        case Door.EST_CMC:  # the body has the token to ask with (RFC 5272 §6.13)
            [said] = cmc.read_reply(reply.body).said
            assert (reply.status, said.status) == (202, 3)
            assert said.token
    return int(reply.headers["Retry-After"])


def holder_of(file: Path) -> tuple[PrivateKey, x509.Certificate]:
    """The key and the certificate in it."""
    content = file.read_bytes()
    key = load_pem_private_key(content, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key, x509.load_pem_x509_certificate(content)


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


# ---------------------------------------------------------------------- behind the doors


@dataclass(slots=True)
class Books:
    """The server's tables, read past the server. `url` is the database's; None means the SQLite file of the directory."""

    server: Server
    url: str | None = None

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        if self.url is None:
            uri = f"file:{self.server.directory / 'certwright.db'}?mode=ro"
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE)) as connection:
                return connection.execute(sql).fetchall()
        return run_apart(self._fetch(self.url, sql))

    async def _fetch(self, url: str, sql: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row.values()) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    def count(self, table: str) -> int:
        [(found,)] = self.rows(f"SELECT count(*) FROM {table}")  # noqa: S608  # our own tables' names
        return int(found)


@dataclass(slots=True)
class Watch:
    """What a refused request must not leave behind: a certificate, an intent, a traceback, an error in the log."""

    books: Books
    _before: tuple[int, int] = (0, 0)
    _logged: int = 0

    @property
    def _facts(self) -> tuple[int, int]:
        return self.books.count("certificate"), self.books.count("issuance")

    def begin(self) -> Self:
        self._before = self._facts
        self._logged = len(self.books.server.log_text())
        return self

    def nothing_happened(self) -> None:
        assert self._facts == self._before, "(certificates, intents)"
        self.no_bug()

    def no_bug(self) -> None:
        text = self.books.server.log_text()[self._logged :]
        assert "Traceback" not in text, text
        wrong = [line for line in text.splitlines() if '"level":"error"' in line or '"status":500' in line]
        assert not wrong, wrong


def counted(server: Server, status: str) -> float:
    """HTTP requests of this class ("5xx") that the metrics know, on all listeners."""
    code, body = server.get(server.metrics_url)
    assert code == 200
    lines = [line for line in body.decode().splitlines() if line.startswith("certwright_http_requests_total{")]
    assert lines
    return sum(float(line.rpartition(" ")[2]) for line in lines if f'status="{status}"' in line)


def until(true: Callable[[], bool], what: str, *, seconds: float = PATIENCE) -> None:
    """Looks again and again, for a bounded time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)


def freeze(pid: int) -> None:
    """Every thread of it, until SIGCONT."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: set(_states(pid)) == {"T"}, f"process {pid} to stop")


def settle(pids: Iterable[int]) -> None:
    """Until they all wait for somebody else: every thread asleep, at five looks in a row. One that was only late would be runnable."""
    looks: list[set[str]] = []

    def asleep() -> bool:
        looks.append({state for pid in pids for state in _states(pid)})
        return looks[-5:] == [{"S"}] * 5

    until(asleep, "the workers to wait")


def _states(pid: int) -> list[str]:
    stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [stat.rpartition(")")[2].split()[0] for stat in stats]
