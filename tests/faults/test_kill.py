"""`kill -9` between the intent and the record: of the signer, of the worker, of everything. On both engines, PostgreSQL with two workers.

The moment is made exact from outside: a stopped signer (SIGSTOP) signs nothing, so once the issuance row says `issuing` the
worker stands between step 8 and step 10 for as long as we like. What follows is in real time: the lease of an intent is 30 s
and the sweeper comes every 15 s, so the stories of both engines are lived at once, and the tests look at how they ended.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.faults.stories import ENGINES, on_both, told
from tests.helpers.books import Books, freeze, settle, until
from tests.helpers.front_doors import Door, Doors
from tests.helpers.neighbourhood import Account, Neighbourhood
from tests.helpers.server import Server
from tests.helpers.wanted import Wanted, rsa_key
from tests.helpers.wire import Reply

SWEPT = 75.0  # seconds: lease, sweep, and a slow machine
PUBLISHED = 60.0


@dataclass(slots=True)
class Story:
    """What happened on one engine."""

    while_signer_was_killed: Reply
    order_then: Mapping[str, Any]
    finalized_again: Reply
    serials_of_that_order: list[tuple[str, str]]  # (serial, state), oldest first
    orders: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # what was killed -> the order at the end
    serials: dict[str, str] = field(default_factory=dict)  # what was killed -> the serial that was being signed
    asked_again: dict[str, x509.Certificate] = field(default_factory=dict)
    issuances: list[tuple[Any, ...]] = field(default_factory=list)  # issuer, serial, state
    certificates: list[tuple[Any, ...]] = field(default_factory=list)  # issuer, serial
    revocations: list[tuple[Any, ...]] = field(default_factory=list)  # serial, reason, precaution
    unsettled_orders: int = 0
    abandoned_in_audit: set[str] = field(default_factory=set)  # subjects
    log: str = field(default="", repr=False)
    crl: set[str] = field(default_factory=set)  # serials


# ---------------------------------------------------------------------- from outside


def worker_of(server: Server, local_port: int) -> int:
    """The process that holds the other end of our connection."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            ports = [int(columns[at].rpartition(":")[2], 16) for at in (1, 2)]
            if ports == [server.https_port, local_port]:
                inodes.add(f"socket:[{columns[9]}]")
    for pid in server.children()["worker"]:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) in inodes:
                    return pid
    raise AssertionError(f"no worker has the connection from port {local_port}")


class Lived:
    """One server, and the means to catch it in the middle of an issuance."""

    def __init__(self, server: Server, around: Neighbourhood, books: Books) -> None:
        self.server = server
        self.doors = Doors(server, around)
        self.account = self.doors.secrets.account.register()
        self.books = books
        self._threads = ThreadPoolExecutor(1)

    @property
    def signer(self) -> int:
        [pid] = self.server.children()["signer"]
        return pid

    def caught(self, order: Reply, account: Account, csr: bytes) -> tuple[str, Future[Reply]]:
        """Finalize, with the signer stopped: the serial of the intent, and the client that waits."""
        freeze(self.signer)
        answer = self._threads.submit(account.finalize, order, csr)
        sql = "SELECT serial FROM issuance WHERE state = 'issuing' AND origin_id = '{}'"
        place = sql.format(order.headers["Location"].rpartition("/")[2])
        until(lambda: bool(self.books.rows(place)) or answer.done(), "an issuance in state `issuing`")
        [(serial,)] = self.books.rows(place)
        settle(self.server.children()["worker"])  # the request is in the signer's socket, and not only about to be sent
        assert not answer.done()
        return serial, answer

    def kill_signer(self, gone: int) -> None:
        os.kill(gone, signal.SIGKILL)
        until(lambda: self.server.children()["signer"] not in ([], [gone]), "a new signer")

    def kill_worker(self, gone: int) -> None:
        number = len(self.server.children()["worker"])
        os.kill(gone, signal.SIGKILL)

        def replaced() -> bool:
            workers = self.server.children()["worker"]
            return len(workers) == number and gone not in workers

        until(replaced, "a new worker")

    def kill_everything(self) -> None:
        """At one instant: nobody sees another one die."""
        children = self.server.children()
        freeze(self.server.pid)
        for pid in (*children["worker"], *children["signer"]):
            os.kill(pid, signal.SIGKILL)
        self.server.kill()

    def end(self) -> None:
        self.doors.close()
        self._threads.shutdown()


def lost(answer: Future[Reply]) -> None:
    """The client's connection ended with its worker."""
    with pytest.raises((OSError, http.client.HTTPException)):
        answer.result(30)


def live(lived: Lived) -> Story:
    account, csr = lived.account, Wanted(names=("killed.example.test",)).csr()

    order = account.ready("killed.example.test")
    _, answer = lived.caught(order, account, csr)
    lived.kill_signer(lived.signer)
    reply = answer.result(30)
    story = Story(reply, account.read(order), account.finalize(order, csr), serials_of(lived.books, order))

    orders = {}
    orders["worker"] = account.ready("killed.example.test")
    story.serials["worker"], answer = lived.caught(orders["worker"], account, csr)
    signer = lived.signer
    lived.kill_worker(worker_of(lived.server, account.wire.local_port))
    os.kill(signer, signal.SIGCONT)  # and now it signs, for nobody
    lost(answer)
    until(lambda: account.read(orders["worker"])["status"] == "processing", "the order as another worker sees it")

    orders["everything"] = account.ready("killed.example.test")
    story.serials["everything"], answer = lived.caught(orders["everything"], account, csr)
    lived.kill_everything()
    lost(answer)
    lived.server.start()

    def all_settled() -> bool:
        return all(account.read(each)["status"] != "processing" for each in orders.values())

    until(all_settled, "the sweeper", seconds=SWEPT)
    story.orders = {what: account.read(each) for what, each in orders.items()}
    abandoned = {*story.serials.values(), story.serials_of_that_order[0][0]}

    def published() -> bool:
        # Of this look: a worker keeps what it serves for some seconds, so the next one that answers may still have the one before.
        story.crl = crl(lived)
        return abandoned <= story.crl

    until(published, "the serials on the CRL", seconds=PUBLISHED)
    look(story, lived)
    return story


def serials_of(books: Books, order: Reply) -> list[tuple[str, str]]:
    identity = order.headers["Location"].rpartition("/")[2]
    return [
        (serial, state)
        for serial, state in books.rows(
            f"SELECT serial, state FROM issuance WHERE origin_id = '{identity}' ORDER BY created_at"  # noqa: S608  # our own id
        )
    ]


def crl(lived: Lived) -> set[str]:
    status, der = lived.server.get(f"{lived.server.http_url}/crl/issuing.crl")
    assert status == 200
    return {f"{entry.serial_number:x}" for entry in x509.load_der_x509_crl(der)}


def look(story: Story, lived: Lived) -> None:
    """The state of things at the end, after everybody has asked again."""
    books = lived.books
    for number, what in enumerate(story.orders):
        wanted = Wanted(names=("killed.example.test",), key=partial(rsa_key, f"again-{number}"))
        reply = lived.doors.ask(Door.ACME, wanted)
        story.asked_again[what] = lived.doors.certificate(Door.ACME, reply, wanted, lived.server.directory)
    story.issuances = books.rows("SELECT issuer, serial, state FROM issuance")
    story.certificates = books.rows("SELECT issuer, serial FROM certificate")
    story.revocations = books.rows("SELECT serial, reason, precaution FROM revocation")
    [(story.unsettled_orders,)] = books.rows("SELECT count(*) FROM acme_order WHERE status = 'processing'")
    story.abandoned_in_audit = {
        subject for (subject,) in books.rows("SELECT subject FROM audit WHERE event = 'issue.abandoned'")
    }
    story.log = lived.server.log_text()


# ---------------------------------------------------------------------- both engines at once


def on(url: str | None) -> Story:
    more: dict[str, Any] = {} if url is None else {"database": url, "workers": 2}
    with Neighbourhood() as around:
        settings: dict[str, Any] = {"resolver": around.dns.address, "http01_port": around.http.port, **more}
        with Server(**settings, allow_networks=["127.0.0.0/8"]) as server:
            lived = Lived(server, around, Books(server, url))
            try:
                return live(lived)
            finally:
                lived.end()


@pytest.fixture(scope="module")
def stories(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Story]]]:
    with on_both(request, on) as both:
        yield both


@pytest.fixture(params=ENGINES)
def story(request: pytest.FixtureRequest, stories: dict[str, Future[Story]]) -> Story:
    return told(stories, request.param)


pytestmark = pytest.mark.timeout(300)


def test_a_signer_that_dies_while_it_signs_is_503_and_the_order_can_be_finalized_again(story: Story) -> None:
    assert story.while_signer_was_killed.status == 503
    assert int(story.while_signer_was_killed.headers["Retry-After"]) > 0
    assert story.while_signer_was_killed.json["type"] == "urn:ietf:params:acme:error:serverInternal"
    assert story.order_then["status"] == "ready"
    assert "error" not in story.order_then
    assert story.finalized_again.status == 200
    assert story.finalized_again.json["status"] == "valid"


def test_the_second_attempt_takes_another_serial_and_the_first_one_is_revoked(story: Story) -> None:
    (first, was), (second, is_now) = story.serials_of_that_order
    assert (was, is_now) == ("abandoned", "issued")
    assert first != second
    assert (first, 0, 1) in story.revocations
    assert first in story.crl
    assert second not in story.crl


@pytest.mark.parametrize("killed", ["worker", "everything"])
def test_an_order_whose_server_died_ends_and_says_why(story: Story, killed: str) -> None:
    order = story.orders[killed]
    assert order["status"] == "invalid"
    assert order["error"]["type"] == "urn:ietf:params:acme:error:serverInternal"
    assert "interrupted" in order["error"]["detail"]
    assert "certificate" not in order


@pytest.mark.parametrize("killed", ["worker", "everything"])
def test_a_serial_that_may_have_been_signed_is_revoked_and_on_the_crl(story: Story, killed: str) -> None:
    serial = story.serials[killed]
    assert ("issuing", serial, "abandoned") in story.issuances
    assert ("issuing", serial) not in story.certificates
    assert (serial, 0, 1) in story.revocations
    assert serial in story.crl
    assert f"certificate:issuing/{serial}" in story.abandoned_in_audit


@pytest.mark.parametrize("killed", ["worker", "everything"])
def test_a_new_order_gets_a_certificate_with_a_new_serial(story: Story, killed: str) -> None:
    assert f"{story.asked_again[killed].serial_number:x}" not in {*story.serials.values(), *story.crl}


def test_no_serial_is_used_twice_and_no_certificate_is_without_its_intent(story: Story) -> None:
    serials = [serial for _, serial, _ in story.issuances]
    assert len(serials) == len(set(serials))
    assert {(issuer, serial) for issuer, serial, state in story.issuances if state == "issued"} == set(story.certificates)
    assert {serial for serial, _, _ in story.revocations} <= set(serials)
    assert story.crl <= set(serials)


def test_nothing_is_left_half_done(story: Story) -> None:
    assert {state for _, _, state in story.issuances} == {"issued", "abandoned"}
    assert story.unsettled_orders == 0


def test_nobody_had_a_bug_on_the_way(story: Story) -> None:
    assert "Traceback" not in story.log
    assert '"status":500' not in story.log
