"""The other front ends, one window each: REST, EST (by password and by certificate, kept-alive and new connections), SCEP (PKCSReq,
RenewalReq, CertPoll), and ACME's newNonce and newOrder.

Takes addresses and credentials from the `bootstrap.env` that `certwright init` wrote, so none is on a command line.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import shlex
import ssl
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import orjson
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs7
from cryptography.x509.oid import NameOID

from bench.acme_load import Account, printed
from bench.client import BenchError, Client, tls_context
from bench.figures import Tally, share, summary
from bench.processes import Meter
from tests.helpers import scep

Item = Callable[[Client, int], Awaitable[None]]
WAITING = "waiting"  # a SCEP endpoint with require_approval
PKCS_REQ, RENEWAL_REQ, CERT_POLL = "19", "17", "20"  # RFC 8894 §3.2.1.2


@dataclass(frozen=True, slots=True)
class Options:
    environment: Mapping[str, str]
    clients: int
    count: int
    domain: str
    pid: int | None
    database_pid: int | None


def read_environment(file: Path) -> dict[str, str]:
    """NAME=VALUE lines with a shell's quotes."""
    words = shlex.split(file.read_text(encoding="utf-8"), comments=True)
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _csr(name: str, key: ec.EllipticCurvePrivateKey | None = None) -> x509.CertificateSigningRequest:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    san = x509.SubjectAlternativeName([x509.DNSName(name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(san, critical=False)
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())


def _pkcs10(csr: x509.CertificateSigningRequest) -> bytes:
    return base64.encodebytes(csr.public_bytes(Encoding.DER))


class Bench:
    """Everything that the windows share."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._environment = options.environment
        self._tls: ssl.SSLContext = tls_context(Path(options.environment["CERTWRIGHT_CA_FILE"]))
        self._run = f"{int(time.time())}"

    def _names(self, kind: str) -> list[str]:
        count = self._options.count + self._options.clients
        return [f"{kind}{item}-{self._run}.{self._options.domain}" for item in range(count)]

    async def window(
        self, url: str, work: Item, *, keep_alive: bool = True, contexts: Sequence[ssl.SSLContext] = ()
    ) -> dict[str, object]:
        """Items 0 … clients - 1 warm the connections up, the rest are measured. `contexts`: one for each client."""
        every = contexts or [self._tls] * self._options.clients
        clients = [Client(url, context, keep_alive=keep_alive) for context in every]
        await asyncio.gather(*(work(client, item) for item, client in enumerate(clients)))
        for client in clients:
            client.requests = 0
        tally, first = Tally(), len(clients)
        server, database = Meter(self._options.pid), Meter(self._options.database_pid)
        started = time.perf_counter()
        await share(len(clients), self._options.count, lambda client, item: tally.item(work(clients[client], first + item)))
        seconds = time.perf_counter() - started
        requests = sum(client.requests for client in clients)
        for client in clients:
            client.close()
        return summary(tally, seconds=seconds, requests=requests, server=server.read(), database=database.read())

    async def rest(self) -> dict[str, object]:
        bodies = [_csr(name).public_bytes(Encoding.PEM) for name in self._names("rest")]
        url = f"{self._environment['CERTWRIGHT_BASE_URL']}/api/v1/certificates"
        authorization = f"Authorization: Bearer {self._environment['CERTWRIGHT_API_KEY']}\r\n"

        async def create(client: Client, item: int) -> None:
            reply = await client.request("POST", url, bodies[item], content_type="application/pkcs10", headers=authorization)
            _expect(reply.status, 201, reply.body)

        return await self.window(url, create)

    @property
    def _est_url(self) -> str:
        return f"{self._environment['CERTWRIGHT_EST_URL']}/.well-known/est"

    @property
    def _est_login(self) -> str:
        user = f"{self._environment['CERTWRIGHT_EST_USER']}:{self._environment['CERTWRIGHT_EST_PASSWORD']}"
        return f"Authorization: Basic {base64.b64encode(user.encode()).decode('ascii')}\r\n"

    async def est(self, *, keep_alive: bool) -> dict[str, object]:
        bodies = [_pkcs10(_csr(name)) for name in self._names("est" if keep_alive else "estnew")]
        url, login = f"{self._est_url}/simpleenroll", self._est_login

        async def enrol(client: Client, item: int) -> None:
            reply = await client.request("POST", url, bodies[item], content_type="application/pkcs10", headers=login)
            _expect(reply.status, 200, reply.body)

        return await self.window(url, enrol, keep_alive=keep_alive)

    async def est_renewals(self, *, keep_alive: bool) -> dict[str, object]:
        """Each client holds a certificate of its own, and asks for the next one by it, with a new key each time."""
        kind, url = "estold" if keep_alive else "estoldnew", f"{self._est_url}/simplereenroll"
        names = self._names(kind)[: self._options.clients]
        each = -(-self._options.count // len(names)) + 1
        bodies = [itertools.cycle([_pkcs10(_csr(name)) for _ in range(each)]) for name in names]
        contexts = [await self._holding(name) for name in names]
        of: dict[int, itertools.cycle[bytes]] = {}

        async def renew(client: Client, _item: int) -> None:
            body = next(of.setdefault(id(client), bodies[len(of) % len(bodies)]))
            reply = await client.request("POST", url, body, content_type="application/pkcs10")
            _expect(reply.status, 200, reply.body)

        return await self.window(url, renew, keep_alive=keep_alive, contexts=contexts)

    async def _holding(self, name: str) -> ssl.SSLContext:
        """Of a client that has enrolled for this name."""
        key = ec.generate_private_key(ec.SECP256R1())
        url = f"{self._est_url}/simpleenroll"
        client = Client(url, self._tls, keep_alive=False)
        body = _pkcs10(_csr(name, key))
        reply = await client.request("POST", url, body, content_type="application/pkcs10", headers=self._est_login)
        _expect(reply.status, 200, reply.body)
        [certificate] = pkcs7.load_der_pkcs7_certificates(base64.b64decode(reply.body))
        context = tls_context(Path(self._environment["CERTWRIGHT_CA_FILE"]))
        with tempfile.NamedTemporaryFile() as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.write(certificate.public_bytes(Encoding.PEM))
            file.flush()
            context.load_cert_chain(file.name)
        return context

    @property
    def _scep_url(self) -> str:
        return self._environment["CERTWRIGHT_SCEP_URL"]

    @property
    def _scep_challenge(self) -> str:
        return self._environment["CERTWRIGHT_SCEP_CHALLENGE"]

    async def _pki_operation(self, client: Client, message: bytes, status: str, *, endpoint: str = "default") -> scep.Answer:
        url = f"{self._scep_url}/{endpoint}?operation=PKIOperation"
        reply = await client.request("POST", url, message, content_type="application/x-pki-message")
        _expect(reply.status, 200, reply.body)
        answer = scep.parse_answer(reply.body)
        if answer.status != status:
            raise BenchError(f"pkiStatus {answer.status}, failInfo {answer.fail_info}", answer.text or "")
        return answer

    async def scep(self) -> dict[str, object]:
        """PKCSReq, RSA-2048, each in a transaction of its own. Keys are shared, for making one costs more than all the rest."""
        authority = await _registration_authority(self._scep_url, self._tls)
        keys, names = _rsa_keys(), self._names("scep")
        messages = [
            _pki_message(name, key, _request(name, key, authority, self._scep_challenge)).encode()
            for name, key in zip(names, itertools.cycle(keys), strict=False)
        ]

        async def enrol(client: Client, item: int) -> None:
            await self._pki_operation(client, messages[item], "0")

        return await self.window(self._scep_url, enrol)

    async def scep_renewals(self) -> dict[str, object]:
        """RenewalReq: each client holds a certificate, signs with it, and asks for the next one, with another key."""
        authority = await _registration_authority(self._scep_url, self._tls)
        keys, names = _rsa_keys(), self._names("renewal")
        held = [
            await self._enrolled(name, key, authority)
            for name, key in zip(names[: self._options.clients], itertools.cycle(keys), strict=False)
        ]
        messages = []
        for item, transaction in enumerate(names):
            at = item % len(held)
            content = _request(names[at], keys[(at + 1) % len(keys)], authority, None)
            messages.append(
                _pki_message(transaction, keys[at % len(keys)], content, signer=held[at], kind=RENEWAL_REQ).encode()
            )

        async def renew(client: Client, item: int) -> None:
            await self._pki_operation(client, messages[item], "0")

        return await self.window(self._scep_url, renew)

    async def _enrolled(self, name: str, key: rsa.RSAPrivateKey, authority: x509.Certificate) -> x509.Certificate:
        message = _pki_message(name, key, _request(name, key, authority, self._scep_challenge))
        answer = await self._pki_operation(Client(self._scep_url, self._tls, keep_alive=False), message.encode(), "0")
        with tempfile.TemporaryDirectory() as folder:
            [certificate] = scep.opened_certificates(answer, message, Path(folder))
        return certificate

    async def scep_polls(self) -> dict[str, object]:
        """CertPoll for a request that waits for a person, at the endpoint `waiting`, whose challenge is that of `default`."""
        authority = await _registration_authority(self._scep_url, self._tls)
        keys, polls = _rsa_keys(), []
        for name, key in zip(self._names("poll")[: self._options.clients], itertools.cycle(keys), strict=False):
            client = Client(self._scep_url, self._tls, keep_alive=False)
            asked = _pki_message(name, key, _request(name, key, authority, self._scep_challenge))
            await self._pki_operation(client, asked.encode(), "3", endpoint=WAITING)
            subject = scep.seq(authority.issuer.public_bytes(), scep.name(name).public_bytes())
            content = scep.enveloped(subject, authority)
            polls.append(_pki_message(name, key, content, signer=asked.certificate(), kind=CERT_POLL).encode())

        async def poll(client: Client, item: int) -> None:
            await self._pki_operation(client, polls[item % len(polls)], "3", endpoint=WAITING)

        return await self.window(self._scep_url, poll)

    async def new_nonce(self) -> dict[str, object]:
        url = (await self._directory())["newNonce"]

        async def head(client: Client, item: int) -> None:
            reply = await client.request("HEAD", url)
            _expect(reply.status, 200, reply.body)

        return await self.window(url, head)

    async def new_order(self) -> dict[str, object]:
        directory = await self._directory()
        accounts: dict[int, Account] = {}
        names = self._names("order")

        async def order(client: Client, item: int) -> None:
            account = accounts.get(id(client))
            if account is None:
                account = accounts[id(client)] = Account(directory=directory, client=client, tally=Tally())
                await account.register()
            await account.post(directory["newOrder"], {"identifiers": [{"type": "dns", "value": names[item]}]})

        return await self.window(directory["newOrder"], order)

    async def _directory(self) -> dict[str, str]:
        url = self._environment["CERTWRIGHT_ACME_DIRECTORY"]
        client = Client(url, self._tls, keep_alive=False)
        directory: dict[str, str] = orjson.loads((await client.request("GET", url)).body)
        return directory


def _expect(status: int, wanted: int, body: bytes) -> None:
    if status != wanted:
        raise BenchError(f"status {status}", body[:300].decode("utf-8", "replace"))


async def _registration_authority(url: str, tls: ssl.SSLContext) -> x509.Certificate:
    reply = await Client(url, tls, keep_alive=False).request("GET", f"{url}?operation=GetCACert&message={quote('ca')}")
    _expect(reply.status, 200, reply.body)
    if "ra" not in reply.headers["content-type"]:
        return x509.load_der_x509_certificate(reply.body)
    for certificate in pkcs7.load_der_pkcs7_certificates(reply.body):
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        if usage.key_encipherment:
            return certificate
    raise BenchError("no certificate to encrypt to")


def _rsa_keys() -> list[rsa.RSAPrivateKey]:
    return [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(4)]


def _request(name: str, key: rsa.RSAPrivateKey, authority: x509.Certificate, secret: str | None) -> bytes:
    """A certification request, encrypted."""
    return scep.enveloped(scep.csr(key, common_name=name, challenge=secret, sans=[name]), authority)


def _pki_message(
    transaction: str, key: rsa.RSAPrivateKey, content: bytes, *, signer: x509.Certificate | None = None, kind: str = PKCS_REQ
) -> scep.Message:
    return scep.Message(key=key, content=content, transaction_id=f"T{transaction}", signer=signer, message_type=kind)


async def measure(options: Options, wanted: Sequence[str]) -> dict[str, dict[str, object]]:
    """One window for each of `wanted`, in that order, one after the other."""
    bench = Bench(options)
    windows: Mapping[str, Callable[[], Awaitable[dict[str, object]]]] = {
        "rest": bench.rest,
        "est": lambda: bench.est(keep_alive=True),
        "est-new-connections": lambda: bench.est(keep_alive=False),
        "est-renewals": lambda: bench.est_renewals(keep_alive=True),
        "est-renewals-new-connections": lambda: bench.est_renewals(keep_alive=False),
        "scep": bench.scep,
        "scep-renewals": bench.scep_renewals,
        "scep-polls": bench.scep_polls,
        "newNonce": bench.new_nonce,
        "newOrder": bench.new_order,
    }
    return {name: await windows[name]() for name in wanted}


WINDOWS = (
    "rest",
    "est",
    "est-new-connections",
    "est-renewals",
    "est-renewals-new-connections",
    "scep",
    "scep-renewals",
    "scep-polls",
    "newNonce",
    "newOrder",
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.est_scep_rest", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--env", type=Path, required=True, help="the bootstrap.env of `certwright init`")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--count", type=int, default=1000, help="items in each measured window")
    parser.add_argument("--domain", default="bench.localhost")
    parser.add_argument("--pid", type=int, help="the server's process; CPU and memory of its tree are measured")
    parser.add_argument("--database-pid", type=int, help="the database's process, likewise")
    parser.add_argument("--window", action="append", choices=WINDOWS, help="may be given several times; default: all")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    given = parser.parse_args(arguments)
    options = Options(
        environment=read_environment(given.env),
        clients=given.clients,
        count=given.count,
        domain=given.domain,
        pid=given.pid,
        database_pid=given.database_pid,
    )
    figures = uvloop.run(measure(options, given.window or WINDOWS))
    if given.output == "json":
        print(json.dumps(figures, indent=2))
    else:
        print("\n\n".join(f"{name}: {printed(window)}" for name, window in figures.items()))
    return 1 if any(window["errors"] for window in figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
