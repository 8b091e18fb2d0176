"""The database or the signer is away, under a real server: everybody is told 503 and when to ask again, and nobody restarts anything.

PostgreSQL is stopped as a crash stops it; the signer is stopped (SIGSTOP: it is there and does not answer) and killed again and
again. After each outage the same server serves everybody, and its log has no bug in it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests.helpers.books import Books, Watch, freeze, settle, until
from tests.helpers.front_doors import PREPARED, Door, Doors
from tests.helpers.neighbourhood import Neighbourhood
from tests.helpers.postgres import NO_POSTGRESQL, PostgresServer, binaries, running_server
from tests.helpers.server import Server
from tests.helpers.wanted import Wanted
from tests.helpers.wire import Reply

BRISK = 20.0  # seconds; a bound against hanging, not a measurement. The worker waits 10 s for a signer that does not answer.
HOST = Wanted(names=("outage.example.test",))


@dataclass(slots=True)
class Site:
    server: Server
    doors: Doors
    around: Neighbourhood
    postgres: PostgresServer
    watch: Watch
    leaf: x509.Certificate

    def signer(self) -> int:
        [pid] = self.server.children()["signer"]
        return pid


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if binaries() is None:
        pytest.skip(NO_POSTGRESQL)
    with running_server() as postgres, Neighbourhood() as around:
        url = postgres.empty_database()
        server = Server(
            database=url,
            workers=2,
            resolver=around.dns.address,
            http01_port=around.http.port,
            allow_networks=["127.0.0.0/8"],
            edit=around.every_door,
        )
        with server:
            doors = Doors(server, around)
            doors.secrets.account.register()
            leaf = doors.certificate(Door.REST_PEM, doors.ask(Door.REST_PEM, HOST), HOST, tmp_path_factory.mktemp("outage"))
            watch = Watch(Books(server, url)).begin()
            yield Site(server, doors, around, postgres, watch, leaf)
            doors.close()


def ocsp_request(site: Site) -> bytes:
    issuer = x509.load_pem_x509_certificate((site.server.directory / "ca" / "issuing.pem").read_bytes())
    return ocsp.OCSPRequestBuilder().add_certificate(site.leaf, issuer, hashes.SHA256()).build().public_bytes(Encoding.DER)


Call = Callable[[Doors], Reply]


def at_once(site: Site, calls: Mapping[str, Call]) -> dict[str, tuple[Reply, float]]:
    """All calls at the same time, each by a client of its own: the replies, and after how many seconds."""

    def make(call: Call) -> tuple[Reply, float]:
        doors = Doors(site.server, site.around)
        doors.secrets = replace(site.doors.secrets, account=doors.account(key=site.doors.secrets.account.key))
        doors.secrets.account.kid = site.doors.secrets.account.kid
        started = time.monotonic()
        try:
            return call(doors), time.monotonic() - started
        finally:
            doors.close()

    with ThreadPoolExecutor(len(calls)) as threads:
        running = {name: threads.submit(make, call) for name, call in calls.items()}
        return {name: one.result() for name, one in running.items()}


def asking(door: Door) -> Call:
    return lambda doors: doors.ask(door, HOST)


OTHERS = [door for door in Door if door is not Door.ACME and door not in PREPARED]
BY_OTHERS: dict[str, Call] = {door.value: asking(door) for door in OTHERS}


def until_refused(door: Door, enough: threading.Event) -> Call:
    """Asks again and again, until it is refused or `enough`: the last reply."""

    def call(doors: Doors) -> Reply:
        reply = doors.ask(door, HOST)
        while reply.status < 300 and not enough.is_set():
            reply = doors.ask(door, HOST)
        return reply

    return call


@contextmanager
def loaded(site: Site, clients: Mapping[str, Door]) -> Iterator[Future[dict[str, tuple[Reply, float]]]]:
    """Clients that ask all the time meanwhile; their last replies, and how long they asked."""
    enough = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        try:
            yield threads.submit(at_once, site, {name: until_refused(door, enough) for name, door in clients.items()})
        finally:
            enough.set()


def is_replaced(site: Site, gone: int) -> bool:
    return site.server.children()["signer"] not in ([], [gone])


def told_to_wait(replies: Mapping[str, tuple[Reply, float]]) -> None:
    for name, (reply, _) in replies.items():
        assert reply.status == 503, (name, reply.status, reply.body)
        assert int(reply.headers["Retry-After"]) > 0, name


def briskly(replies: Mapping[str, tuple[Reply, float]]) -> None:
    assert {name: seconds for name, (_, seconds) in replies.items() if seconds > BRISK} == {}


def unready(site: Site, part: str) -> None:
    """/readyz says which part; /livez is about this process alone: a restart would mend nothing."""
    wire = Doors(site.server, site.around).http
    ready = wire.send("GET", "/readyz?verbose")
    assert ready.status == 503
    assert f"[failed] {part}:" in ready.body.decode()
    alive = wire.send("GET", "/livez")
    assert (alive.status, alive.body) == (200, b"ok\n")
    wire.close()


def everything_works(site: Site, folder: Path) -> None:
    def ready() -> bool:
        return site.doors.http.send("GET", "/readyz").status == 200

    until(ready, "the server to be ready again")
    for door in (Door.ACME, *OTHERS):
        site.doors.certificate(door, site.doors.ask(door, HOST), HOST, folder)
    assert site.doors.http.send("GET", "/crl/issuing.crl").status == 200
    answer = site.doors.http.send("POST", "/ocsp/issuing", ocsp_request(site))
    assert ocsp.load_der_ocsp_response(answer.body).response_status is ocsp.OCSPResponseStatus.SUCCESSFUL


def no_bug(site: Site) -> None:
    """Lines of level `error` say that a child ended, when we have killed it, and nothing else."""
    bugs = [line for line in site.server.log_lines() if "trace" in line or line.get("status") == 500]
    assert not bugs, bugs
    assert {line["event"] for line in site.server.log_lines() if line["level"] == "error"} <= {"child ended"}


def test_without_its_database_everybody_is_told_503_and_after_it_everything_works(site: Site, tmp_path: Path) -> None:
    account = site.doors.secrets.account
    order = account.ready("outage.example.test")  # proved before; to be finalized after
    nonce = account.nonce()
    site.postgres.stop()
    try:
        calls: dict[str, Call] = {
            **BY_OTHERS,
            "ACME newOrder": lambda doors: doors.secrets.account.post(
                doors.secrets.account.url("new-order"),
                {"identifiers": [{"type": "dns", "value": "outage.example.test"}]},
                nonce=nonce,
            ),
            "CRL of another issuer": lambda doors: doors.http.send("GET", "/crl/devices.crl"),
            "REST list": lambda doors: doors.https.send(
                "GET", "/api/v1/certificates", headers={"X-API-Key": doors.secrets.api_key or ""}
            ),
        }
        replies = at_once(site, calls)
        # A CRL that a worker has read before is good for as long as it says itself.
        crl, _ = replies.pop("CRL of another issuer")
        assert crl.status in {200, 503}
        assert crl.status == 200 or int(crl.headers["Retry-After"]) > 0
        told_to_wait(replies)
        briskly(replies)
        acme, _ = replies["ACME newOrder"]
        assert acme.json["type"] == "urn:ietf:params:acme:error:serverInternal"
        # RFC 6960 section 2.3: a responder that cannot say now says tryLater.
        answer, _ = at_once(site, {"OCSP": lambda doors: doors.http.send("POST", "/ocsp/issuing", ocsp_request(site))})["OCSP"]
        assert ocsp.load_der_ocsp_response(answer.body).response_status is ocsp.OCSPResponseStatus.TRY_LATER
        unready(site, "database")
        assert site.doors.https.send("GET", "/acme/directory").status == 200  # needs nothing but the configuration
    finally:
        site.postgres.start()
    everything_works(site, tmp_path)
    assert account.finalize(order, HOST.csr()).json["status"] == "valid"
    no_bug(site)


def test_a_database_that_restarts_under_load_costs_nobody_more_than_a_503(site: Site, tmp_path: Path) -> None:
    """Requests that were under way when it went: each ends in a certificate or in a 503, and what is valid has its row."""

    before = site.watch.books.count("certificate")
    with loaded(site, {f"client {number}": Door.REST_PEM for number in range(4)}) as load:
        until(lambda: site.watch.books.count("certificate") > before + 4, "load")
        site.postgres.stop()
        try:
            told_to_wait(load.result())
        finally:
            site.postgres.start()
    everything_works(site, tmp_path)
    no_bug(site)


def test_a_signer_that_does_not_answer_is_503_and_orders_stay_finalizable(site: Site, tmp_path: Path) -> None:
    order = site.doors.secrets.account.ready("outage.example.test")
    stopped = site.signer()
    freeze(stopped)
    try:
        replies = at_once(
            site,
            {
                **BY_OTHERS,
                "ACME finalize": lambda doors: doors.secrets.account.finalize(order, HOST.csr()),
                "not ready": lambda doors: doors.http.send("GET", "/readyz?verbose"),
                "alive": lambda doors: doors.http.send("GET", "/livez"),
                "CRL": lambda doors: doors.http.send("GET", "/crl/issuing.crl"),
                "OCSP": lambda doors: doors.http.send("POST", "/ocsp/issuing", ocsp_request(site)),
            },
        )
    finally:
        os.kill(stopped, signal.SIGCONT)
    not_ready, _ = replies.pop("not ready")
    assert not_ready.status == 503
    assert "[failed] signer:" in not_ready.body.decode()
    assert [replies.pop(name)[0].status for name in ("alive", "CRL")] == [200, 200]
    answer, _ = replies.pop("OCSP")
    assert ocsp.load_der_ocsp_response(answer.body).response_status is ocsp.OCSPResponseStatus.TRY_LATER
    told_to_wait(replies)
    briskly(replies)
    everything_works(site, tmp_path)
    assert site.doors.secrets.account.finalize(order, HOST.csr()).json["status"] == "valid"
    no_bug(site)


def test_while_a_signer_takes_its_time_the_order_is_processing_and_then_valid(
    site: Site, request: pytest.FixtureRequest
) -> None:
    """RFC 8555 §7.4: who finalized waits, who looks is told when to look again, who finalizes again is told where to look."""
    client = Doors(site.server, site.around)
    request.addfinalizer(client.close)
    account = client.account(key=site.doors.secrets.account.key)  # the same one, over a connection of its own
    account.kid = site.doors.secrets.account.kid
    order = account.ready("outage.example.test")
    finalize, url = order.json["finalize"], order.json["finalize"].removesuffix("/finalize")
    before = site.watch.books.count("issuance")
    slow = site.signer()
    freeze(slow)
    try:
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(site.doors.secrets.account.finalize, order, HOST.csr())
            until(lambda: site.watch.books.count("issuance") > before, "the intent")
            looked = account.post(url)
            again = account.finalize(order, HOST.csr())
            os.kill(slow, signal.SIGCONT)
            final = answer.result()
    finally:
        os.kill(slow, signal.SIGCONT)
    assert (looked.status, looked.json["status"], looked.headers["retry-after"]) == (200, "processing", "3")
    assert (again.status, again.json["type"].rpartition(":")[2]) == (403, "orderNotReady")
    assert url in again.json["detail"]
    assert (final.status, final.json["status"], final.json["finalize"]) == (200, "valid", finalize)
    no_bug(site)


def test_a_signer_that_is_killed_again_and_again_costs_nobody_more_than_a_503(
    site: Site, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Under load from every door. Whoever got a certificate has a row for it, and no serial stands in two."""

    victim, name = Doors(site.server, site.around), Wanted(names=("victim.example.test",))
    request.addfinalizer(victim.close)
    in_its_hands = "SELECT 1 FROM issuance WHERE state = 'issuing' AND names LIKE '%victim%'"
    for _ in range(3):
        assert victim.ask(Door.REST_PEM, name).status == 201  # so its worker is connected to this signer
        with loaded(site, {door.value: door for door in OTHERS}) as load, ThreadPoolExecutor(1) as thread:
            gone = site.signer()
            freeze(gone)
            answer = thread.submit(victim.ask, Door.REST_PEM, name)
            until(lambda: site.watch.books.rows(in_its_hands) != [], "the victim's intent")
            settle(
                site.server.children()["worker"]
            )  # everybody waits for the signer now, and the victim's request is in its socket
            os.kill(gone, signal.SIGKILL)
        told_to_wait({"victim": (answer.result(), 0.0)})
        # Of the others, who came a moment later has waited for the next signer.
        told_to_wait({who: reply for who, reply in load.result().items() if reply[0].status >= 300})
        until(partial(is_replaced, site, gone), "a new signer")
    everything_works(site, tmp_path)
    books = site.watch.books
    assert books.rows("SELECT serial FROM issuance GROUP BY serial HAVING count(*) > 1") == []
    without_intent = """
        SELECT c.serial FROM certificate c LEFT JOIN issuance i ON i.id = c.issuance_id AND i.state = 'issued' WHERE i.id IS NULL
    """
    assert books.rows(without_intent) == []
    abandoned = "SELECT i.serial FROM issuance i LEFT JOIN revocation r ON r.serial = i.serial WHERE i.state = 'abandoned'"
    assert books.rows(abandoned) != []
    assert books.rows(f"{abandoned} AND r.serial IS NULL") == []
    no_bug(site)
