"""Complete ACME issuances against any directory URL, counted and timed.

One issuance: newOrder, authorization, challenge, polls as needed, finalize, polls as needed, certificate; http-01 is answered
for real. Keys, accounts and CSRs are made before the measured window, certificates are checked after it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.client import BenchError, Client, Reply, tls_context
from bench.figures import WHOLE, Tally, share, summary, table
from bench.processes import Meter
from bench.subscriber import Challenges, start_dns

FIRST_POLL = 0.002  # seconds; doubles up to
LAST_POLL = 0.2
POLL_FOR = 60.0
NONCE_TRIES = 5


def base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One certificate to get: everything that the client prepares beforehand."""

    name: str
    csr: str  # base64url
    spki: bytes


def prepare(name: str) -> Wanted:
    key = ec.generate_private_key(ec.SECP256R1())
    san = x509.SubjectAlternativeName([x509.DNSName(name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(san, critical=False)
    der = csr.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    return Wanted(name, base64url(der), key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


class Account:
    """One ACME account with its key and its connection."""

    def __init__(self, *, directory: Mapping[str, str], client: Client, tally: Tally) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        numbers = self._key.public_key().public_numbers()
        jwk = {"crv": "P-256", "kty": "EC", "x": base64url(numbers.x.to_bytes(32)), "y": base64url(numbers.y.to_bytes(32))}
        self.thumbprint = base64url(sha256(json.dumps(jwk, separators=(",", ":"), sort_keys=True).encode()).digest())
        self._identity: dict[str, object] = {"jwk": jwk}
        self._nonces: list[str] = []
        self.directory = directory
        self.client = client
        self.tally = tally

    async def register(self) -> None:
        reply = await self.post(self.directory["newAccount"], {"termsOfServiceAgreed": True})
        self._identity = {"kid": reply.headers["location"]}

    async def post(self, url: str, payload: object) -> Reply:
        """A signed POST; `None` is POST-as-GET. Raises BenchError for everything but a success."""
        body = b"" if payload is None else orjson.dumps(payload)
        for _ in range(NONCE_TRIES):
            nonce = self._nonces.pop() if self._nonces else await self._new_nonce()
            message = self._sign({"alg": "ES256", "nonce": nonce, "url": url, **self._identity}, body)
            reply = await self.client.request("POST", url, message, content_type="application/jose+json")
            fresh = reply.headers.get("replay-nonce")
            if fresh is not None:
                self._nonces = [fresh]
            if reply.status < 400:
                return reply
            error = problem(reply)
            if error.kind != "badNonce":
                raise error
            self.tally.error(error)
        raise BenchError("badNonce", "too often in a row")

    async def _new_nonce(self) -> str:
        return (await self.client.request("HEAD", self.directory["newNonce"])).headers["replay-nonce"]

    def _sign(self, header: Mapping[str, object], payload: bytes) -> bytes:
        protected, encoded = base64url(orjson.dumps(header)), base64url(payload)
        r, s = decode_dss_signature(self._key.sign(f"{protected}.{encoded}".encode("ascii"), ec.ECDSA(hashes.SHA256())))
        return orjson.dumps(
            {"protected": protected, "payload": encoded, "signature": base64url(r.to_bytes(32) + s.to_bytes(32))}
        )


def problem(reply: Reply) -> BenchError:
    try:
        document = orjson.loads(reply.body)
        kind = str(document["type"]).rpartition(":")[2]
        return BenchError(kind, str(document.get("detail", "")))
    except (ValueError, KeyError, TypeError):
        return BenchError(f"status {reply.status}", reply.body[:200].decode("utf-8", "replace"))


async def issue(account: Account, wanted: Wanted, challenges: Challenges, tally: Tally) -> str:
    """The PEM chain. Raises BenchError."""
    new_order = {"identifiers": [{"type": "dns", "value": wanted.name}]}
    created = await tally.step("newOrder", account.post(account.directory["newOrder"], new_order))
    order_url, order = created.headers["location"], orjson.loads(created.body)
    for url in order["authorizations"]:
        await _authorize(account, url, challenges, tally)
    finalized = await tally.step("finalize", account.post(order["finalize"], {"csr": wanted.csr}))
    order = orjson.loads(finalized.body)
    if order["status"] != "valid":
        order = await _poll(account, order_url, tally, "order poll", {"pending", "ready", "processing"})
    if order["status"] != "valid":
        raise BenchError(f"order {order['status']}", json.dumps(order.get("error")))
    chain = await tally.step("certificate", account.post(order["certificate"], None))
    return chain.body.decode("ascii")


async def _authorize(account: Account, url: str, challenges: Challenges, tally: Tally) -> None:
    authorization = orjson.loads((await tally.step("authorization", account.post(url, None))).body)
    if authorization["status"] == "valid":
        return
    challenge = next((item for item in authorization["challenges"] if item["type"] == "http-01"), None)
    if challenge is None:
        raise BenchError("no http-01 offered")
    token = challenge["token"]
    challenges.add(token, f"{token}.{account.thumbprint}")
    answered = orjson.loads((await tally.step("challenge", account.post(challenge["url"], {}))).body)
    if answered["status"] != "valid":
        authorization = await _poll(account, url, tally, "authorization poll", {"pending", "processing"})
        if authorization["status"] != "valid":
            errors = [item["error"] for item in authorization["challenges"] if "error" in item]
            raise BenchError(f"authorization {authorization['status']}", json.dumps(errors))
    challenges.remove(token)


async def _poll(account: Account, url: str, tally: Tally, step: str, waiting: set[str]) -> dict[str, Any]:
    pause, ends = FIRST_POLL, time.monotonic() + POLL_FOR
    while time.monotonic() < ends:
        await asyncio.sleep(pause)
        pause = min(pause * 2, LAST_POLL)
        document: dict[str, Any] = orjson.loads((await tally.step(step, account.post(url, None))).body)
        if document["status"] not in waiting:
            return document
    raise BenchError("polled too long", url)


@dataclass(frozen=True, slots=True)
class Options:
    directory: str
    ca: Path | None
    clients: int
    count: int
    warm_up: int
    domain: str
    http01_port: int
    dns_port: int | None
    pid: int | None
    database_pid: int | None
    keep_alive: bool


async def load(options: Options) -> dict[str, object]:
    """The figures of one window of `count` issuances, as JSON."""
    challenges, tls = Challenges(), tls_context(options.ca)
    await challenges.start(options.http01_port)
    dns = None if options.dns_port is None else await start_dns(options.dns_port)
    run = int(time.time())  # a name is never asked for twice, so no authorization is ever reused
    try:
        accounts = await _accounts(options, tls)
        first = [prepare(f"w{item}-{run}.{options.domain}") for item in range(options.warm_up)]
        warm = await _window(options, accounts, first, challenges, [], meters=False)
        if warm["errors"] and not warm["done"]:
            raise SystemExit(f"nothing was issued: {warm['examples']}")
        wanted = [prepare(f"c{item}-{run}.{options.domain}") for item in range(options.count)]
        chains: list[tuple[Wanted, str]] = []
        figures = await _window(options, accounts, wanted, challenges, chains, meters=True)
    finally:
        challenges.stop()
        if dns is not None:
            dns.close()
    return figures | {"wrong_certificates": sum(not _right(item, pem) for item, pem in chains), "clients": options.clients}


async def _accounts(options: Options, tls: ssl.SSLContext) -> list[Account]:
    found = await Client(options.directory, tls).request("GET", options.directory)
    if found.status != 200:
        raise SystemExit(f"{options.directory}: status {found.status}")
    directory = orjson.loads(found.body)
    accounts = []
    for _ in range(options.clients):
        client = Client(options.directory, tls, keep_alive=options.keep_alive)
        accounts.append(Account(directory=directory, client=client, tally=Tally()))
        await accounts[-1].register()
    return accounts


async def _window(
    options: Options,
    accounts: Sequence[Account],
    wanted: Sequence[Wanted],
    challenges: Challenges,
    chains: list[tuple[Wanted, str]],
    *,
    meters: bool,
) -> dict[str, object]:
    tally = Tally()
    for account in accounts:
        account.tally, account.client.requests = tally, 0

    async def one(client: int, item: int) -> None:
        async def whole() -> None:
            chains.append((wanted[item], await issue(accounts[client], wanted[item], challenges, tally)))

        await tally.item(whole())

    server = Meter(options.pid if meters else None)
    database = Meter(options.database_pid if meters else None)
    started, own = time.perf_counter(), time.process_time()
    await share(len(accounts), len(wanted), one)
    seconds, own = time.perf_counter() - started, time.process_time() - own
    requests = sum(account.client.requests for account in accounts)
    figures = summary(tally, seconds=max(seconds, 1e-9), requests=requests, server=server.read(), database=database.read())
    return figures | {"generator_cpu_ms_per_item": round(own * 1000 / max(1, tally.done), 3)}


def _right(wanted: Wanted, pem: str) -> bool:
    leaf = x509.load_pem_x509_certificate(pem.encode("ascii"))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return names == [wanted.name] and spki == wanted.spki


def printed(figures: Mapping[str, object]) -> str:
    """For people."""
    lines = [
        f"{figures['done']} in {figures['seconds']} s: {figures['per_second']}/s, {figures['requests_per_item']} requests each"
    ]
    for who in ("server", "database"):
        cost = figures[who]
        if isinstance(cost, dict):
            lines.append(
                f"{who}: {cost['cpu_ms_per_item']} ms CPU each; "
                f"PSS {cost['pss_mib_before']} -> {cost['pss_mib_after']} MiB, {cost['pss_kib_per_item']} KiB each"
            )
    steps = figures["steps"]
    assert isinstance(steps, dict)
    rows = [["step", "count", "p50 ms", "p95 ms", "p99 ms"]]
    rows += [
        [name, of["count"], of["p50"], of["p95"], of["p99"]]
        for name, of in sorted(steps.items(), key=lambda kv: kv[0] == WHOLE)
    ]
    lines.append(table(rows))
    errors = figures["errors"]
    assert isinstance(errors, dict)
    lines += [f"ERROR {kind}: {count} times" for kind, count in errors.items()]
    examples = figures["examples"]
    assert isinstance(examples, dict)
    lines += [f"  e.g. {example}" for example in examples.values()]
    if figures.get("wrong_certificates"):
        lines.append(f"WRONG CERTIFICATES: {figures['wrong_certificates']}")
    return "\n".join(lines)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.acme_load", description="Complete ACME issuances, counted and timed."
    )
    parser.add_argument("--directory", required=True, help="the ACME directory URL")
    parser.add_argument("--ca", type=Path, help="PEM file that the server's certificate is verified with")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--count", type=int, default=1000, help="issuances in the measured window")
    parser.add_argument("--warm-up", type=int, help="issuances before it (default: four for each client)")
    parser.add_argument("--domain", default="bench.localhost", help="names below it are asked for")
    parser.add_argument("--http01-port", type=int, default=5002, help="where http-01 is answered, on 127.0.0.1 and ::1")
    parser.add_argument("--dns-port", type=int, help="also run a DNS server there that sends every name to 127.0.0.1")
    parser.add_argument("--pid", type=int, help="the server's process; CPU and memory of its tree are measured")
    parser.add_argument("--database-pid", type=int, help="the database's process, likewise")
    parser.add_argument("--new-connections", action="store_true", help="a new TLS connection for each request")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    given = _arguments().parse_args(arguments)
    options = Options(
        directory=given.directory,
        ca=given.ca,
        clients=given.clients,
        count=given.count,
        warm_up=given.clients * 4 if given.warm_up is None else given.warm_up,
        domain=given.domain,
        http01_port=given.http01_port,
        dns_port=given.dns_port,
        pid=given.pid,
        database_pid=given.database_pid,
        keep_alive=not given.new_connections,
    )
    figures = uvloop.run(load(options))
    print(json.dumps(figures, indent=2) if given.output == "json" else printed(figures))
    return 1 if figures["errors"] or figures["wrong_certificates"] else 0


if __name__ == "__main__":
    sys.exit(main())
