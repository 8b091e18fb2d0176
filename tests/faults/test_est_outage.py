"""A part of the server is away while EST is asked: 503 and when to ask again, nothing lost, nothing twice, and nobody restarts anything.

What every door does without its database and without its signer is in test_outage.py. Here are the parts that only EST has: the key
of the registration authority, which is in a token that is pulled out, messages with many requests, and clients that insist.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from tests.faults.est_asks import Ask, Asking, labels, let_leases_end
from tests.helpers import cmc
from tests.helpers.books import Books, Watch, freeze, until
from tests.helpers.neighbourhood import Neighbourhood
from tests.helpers.postgres import NO_POSTGRESQL, PostgresServer, binaries, running_server
from tests.helpers.server import Server
from tests.helpers.softhsm import SoftHsm
from tests.helpers.wanted import rsa_key
from tests.helpers.wire import Reply

BATCH = 90  # requests in one CMC message: enough for the signer to die in the middle of it
WISHES = 12  # of each client


@dataclass(slots=True)
class Site:
    server: Server
    asking: Asking
    postgres: PostgresServer
    token: SoftHsm
    books: Books
    recipient: Path  # key and certificate that generated keys are encrypted to

    def certificates(self, host: str) -> list[str]:
        return [serial for (serial,) in self.books.rows(f"SELECT serial FROM certificate WHERE names LIKE '%{host}\"%'")]  # noqa: S608  # ours

    def intents(self, host: str) -> int:
        return len(self.books.rows(f"SELECT 1 FROM issuance WHERE names LIKE '%{host}\"%'"))  # noqa: S608  # ours


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if binaries() is None:
        pytest.skip(NO_POSTGRESQL)
    token = SoftHsm.create(tmp_path_factory.mktemp("hsm"))
    directory = tmp_path_factory.mktemp("est-outage") / "certwright"
    with pytest.MonkeyPatch.context() as patch, running_server() as postgres, Neighbourhood() as around:
        for name, value in token.environment.items():
            patch.setenv(name, value)
        url = postgres.empty_database()
        edit = with_key_in_token(directory, token, labels(around))
        with Server(directory=directory, database=url, workers=2, edit=edit) as server:
            asking, books = Asking(server, around), Books(server, url)
            watch = Watch(books).begin()
            yield Site(server, asking, postgres, token, books, holder(asking))
            watch_for_bugs(watch)


def with_key_in_token(directory: Path, token: SoftHsm, edit: Callable[[str], str]) -> Callable[[str], str]:
    """The RA key of EST is moved into the token."""

    def moved(text: str) -> str:
        key = directory / "ca" / "est-ra.key"
        private = load_pem_private_key(key.read_bytes(), (directory / "ca" / "passphrase").read_bytes().strip())
        assert isinstance(private, cmc.Key)
        there = token.put("est-ra", private, 1)
        key.unlink()
        before = "key: {software: {file: ca/est-ra.key, passphrase_file: ca/passphrase}}"
        after = f"{{module: {there.module}, token: {there.token}, label: {there.label}, pin_file: {there.pin_file}}}"
        assert before in text
        return edit(text.replace(before, f"key: {{pkcs11: {after}}}"))

    return moved


def holder(asking: Asking) -> Path:
    """A device with an RSA certificate of this server."""
    key = rsa_key("recipient")
    ask = asking.enroll_key("recipient.example.test", key)
    certificate = ask.read(asking.send(ask))
    return asking.around.client("recipient", certificate.public_bytes(Encoding.DER), key)


def watch_for_bugs(watch: Watch) -> None:
    lines = watch.books.server.log_lines()
    assert [line for line in lines if "trace" in line or line.get("status") == 500] == []
    assert {line["event"] for line in lines if line["level"] == "error"} <= {"child ended", "token-lost"}


def told_to_wait(reply: Reply) -> None:
    assert reply.status == 503, reply.body
    assert int(reply.headers["Retry-After"]) > 0


def test_without_the_ra_key_nothing_is_issued_that_could_not_be_had_again(site: Site) -> None:
    asking = site.asking
    message = asking.full_cmc("pulled-cmc.example.test")
    sealed = asking.sealed_keygen("pulled-sealed.example.test", to=site.recipient)
    site.token.pull_out()
    try:
        told_to_wait(asking.send(sealed))  # before there is an intent: nobody gets a key that is not encrypted
        assert site.intents(sealed.host) == 0
        for _ in range(2):
            told_to_wait(asking.send(message))
        assert len(site.certificates(message.host)) == 1
        for ask in (asking.enroll("pulled-enroll.example.test"), asking.keygen("pulled-keygen.example.test")):
            assert ask.serial(asking.send(ask)) in site.certificates(ask.host)  # take no RA key
    finally:
        site.token.put_back()
    assert [message.serial(asking.insist(message))] == site.certificates(message.host)
    assert [sealed.serial(asking.insist(sealed))] == site.certificates(sealed.host)


def test_clients_that_insist_get_all_they_want_from_a_database_that_restarts(site: Site) -> None:
    """What has a transaction or an approval is issued once, however often it was sent."""
    asking = site.asking
    approved = [asking.enroll(f"restart-approved-{number}.example.test", label="asked") for number in range(3)]
    asking.approve(approved)

    def wishes(make: Callable[[str], Ask], word: str) -> list[Ask]:
        return [make(f"restart-{word}-{number}.example.test") for number in range(WISHES)]

    once = wishes(asking.full_cmc, "cmc")
    lists = [wishes(asking.enroll, "enroll"), wishes(asking.keygen, "keygen"), once, approved]

    def insist(asks: list[Ask]) -> list[str]:
        return [ask.serial(asking.insist(ask)) for ask in asks]

    with ThreadPoolExecutor(len(lists)) as threads:
        before = site.books.count("certificate")
        running = [threads.submit(insist, asks) for asks in lists]
        until(lambda: site.books.count("certificate") > before + 4, "load")
        site.postgres.stop()
        site.postgres.start()
        let_leases_end(site.books)  # of what was signed and could not be recorded; a client in that place waits for the sweeper
        granted = {
            ask.host: serial
            for asks, serials in zip(lists, running, strict=True)
            for ask, serial in zip(asks, serials.result(), strict=True)
        }
    for host, serial in granted.items():
        assert serial in site.certificates(host)
    for ask in (*once, *approved):
        assert site.certificates(ask.host) == [granted[ask.host]]


def test_a_signer_that_dies_in_the_middle_of_a_batch_costs_a_503_and_the_same_message_gets_all_of_it(site: Site) -> None:
    hosts = [f"batch-{number}.example.test" for number in range(BATCH)]
    ask, [gone] = site.asking.full_cmc(*hosts), site.server.children()["signer"]
    issued = "SELECT names FROM certificate WHERE names LIKE '%batch-%'"
    held = "SELECT 1 FROM issuance WHERE state = 'issuing' AND names LIKE '%batch-%'"
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(site.asking.send, ask)
        until(lambda: len(site.books.rows(issued)) > 0, "the first of the batch")
        freeze(gone)
        until(lambda: len(site.books.rows(held)) == 1 or answer.done(), "an intent")
        assert not answer.done(), "the batch was too quick for the killer"
        os.kill(gone, signal.SIGKILL)
        told_to_wait(answer.result())
    first = len(site.books.rows(issued))
    assert 0 < first < BATCH
    reply = site.asking.insist(ask)
    assert reply.status == 200
    everything = {f"{one.serial_number:x}" for one in cmc.read_reply(reply.body).certificates}
    for host in hosts:
        [serial] = site.certificates(host)
        assert serial in everything
    [(abandoned,)] = site.books.rows("SELECT count(*) FROM issuance WHERE state = 'abandoned' AND names LIKE '%batch-%'")
    assert abandoned == 1


@pytest.fixture
def small() -> Iterator[tuple[Server, Asking]]:
    with Neighbourhood() as around, Server(edit=labels(around)) as server:
        yield server, Asking(server, around)


def test_a_sqlite_file_that_somebody_else_has_locked_is_503_until_it_is_let_go(small: tuple[Server, Asking]) -> None:
    server, asking = small
    books = Books(server)
    asks = [
        asking.enroll("locked.example.test"),
        asking.keygen("locked-key.example.test"),
        asking.full_cmc("locked-cmc.example.test"),
    ]
    with contextlib.closing(sqlite3.connect(server.directory / "certwright.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(len(asks)) as threads:
            replies: list[Any] = list(threads.map(asking.send, asks))
        other.execute("ROLLBACK")
    for reply in replies:
        told_to_wait(reply)
    granted = [ask.serial(asking.insist(ask)) for ask in asks]
    assert {serial for (serial,) in books.rows("SELECT serial FROM certificate")} == set(granted)
    watch_for_bugs(Watch(books).begin())
