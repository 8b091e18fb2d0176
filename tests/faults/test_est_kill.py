"""`kill -9` in the middle of what EST does, at every one of its doors at once, on both engines; PostgreSQL with two workers.

As in test_kill.py, a stopped signer holds an issuance between its intent and its record. The lease of an intent is lived through
there in real time; here it is written to be over, and the sweeper of the server does the rest.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography import x509

from tests.faults.est_asks import Ask, Asking, labels, let_leases_end
from tests.faults.stories import ENGINES, on_both, told
from tests.helpers.books import Books, freeze, settle, until
from tests.helpers.neighbourhood import Neighbourhood
from tests.helpers.server import PATIENCE, Server, run
from tests.helpers.wire import Reply

SWEPT = 60.0  # seconds: the sweeper comes every 15
FREE, APPROVED = ("enroll", "renew", "keygen", "cmc"), ("enroll asked", "keygen asked", "cmc asked")
DOORS = (*FREE, *APPROVED)
KILLS = ("signer", "workers", "everything")

pytestmark = pytest.mark.timeout(300)


@dataclass(slots=True)
class Kill:
    """One killing: by door, what the client saw and which serial was in the server's hands."""

    asks: Mapping[str, Ask]
    serials: dict[str, str] = field(default_factory=dict)
    at_the_kill: dict[str, Reply | None] = field(default_factory=dict)  # None: the connection was lost
    at_once: dict[str, Reply] = field(default_factory=dict)  # the same request, as soon as somebody answers
    in_the_end: dict[str, Reply] = field(default_factory=dict)  # and once more, after the sweeper


@dataclass(slots=True)
class Story:
    kills: dict[str, Kill] = field(default_factory=dict)
    issuances: list[tuple[Any, ...]] = field(default_factory=list)  # id, issuer, serial, state
    certificates: list[tuple[Any, ...]] = field(default_factory=list)  # issuer, serial
    precautions: set[str] = field(default_factory=set)  # serials
    revoked: set[str] = field(default_factory=set)  # serials, by command
    approvals: list[tuple[Any, ...]] = field(default_factory=list)  # names, state, issuance
    crl: set[str] = field(default_factory=set)  # serials
    log: str = field(default="", repr=False)


class Lived:
    def __init__(self, server: Server, around: Neighbourhood, books: Books) -> None:
        self.server = server
        self.books = books
        self.asking = Asking(server, around)
        self._threads = ThreadPoolExecutor(len(DOORS))

    def asks(self, kill: str) -> dict[str, Ask]:
        """One for each door; those that take an approval have one."""
        at = self.asking
        made = {
            "enroll": at.enroll(f"enroll.{kill}.example.test"),
            "renew": at.renew(f"renew.{kill}.example.test"),
            "keygen": at.keygen(f"keygen.{kill}.example.test"),
            "cmc": at.full_cmc(f"cmc.{kill}.example.test"),
            "enroll asked": at.enroll(f"enroll-asked.{kill}.example.test", label="asked"),
            "keygen asked": at.keygen(f"keygen-asked.{kill}.example.test", label="asked"),
            "cmc asked": at.full_cmc(f"cmc-asked.{kill}.example.test", label="asked"),
        }
        at.approve(made[door] for door in APPROVED)
        return made

    def caught(self, kill: Kill) -> dict[str, Future[Reply]]:
        """All of them sent, none of them signed."""
        [signer] = self.server.children()["signer"]
        freeze(signer)
        answers = {door: self._threads.submit(self.asking.send, ask) for door, ask in kill.asks.items()}
        until(lambda: len(self._issuing()) == len(DOORS), "an intent of each door")
        settle(self.server.children()["worker"])
        assert not any(answer.done() for answer in answers.values())
        hands = self._issuing()
        kill.serials = {door: next(serial for names, serial in hands if ask.host in names) for door, ask in kill.asks.items()}
        return answers

    def _issuing(self) -> list[tuple[Any, ...]]:
        return self.books.rows("SELECT names, serial FROM issuance WHERE state = 'issuing'")

    def send_all(self, kill: Kill) -> dict[str, Reply]:
        running = {door: self._threads.submit(self.asking.send, ask) for door, ask in kill.asks.items()}
        return {door: reply.result() for door, reply in running.items()}

    def sent_by_who_never_reads(self, kill: Kill) -> contextlib.ExitStack:
        """All of them recorded, their answers on the way."""
        open_still = contextlib.ExitStack()
        for ask in kill.asks.values():
            open_still.enter_context(self.asking.wire(ask).socket()).sendall(self.asking.octets(ask))
        until(lambda: all(self.recorded(ask) for ask in kill.asks.values()), "a certificate of each door")
        kill.serials = {door: self.recorded(ask)[-1] for door, ask in kill.asks.items()}
        return open_still

    def recorded(self, ask: Ask) -> list[str]:
        """Serials, oldest first; without the one that a renewal began with."""
        sql = "SELECT serial FROM certificate WHERE names LIKE '%{}%' ORDER BY issued_at"
        found = [serial for (serial,) in self.books.rows(sql.format(ask.host))]
        return found[1:] if ask.target.endswith("simplereenroll") else found

    def kill_signer(self) -> None:
        [gone] = self.server.children()["signer"]
        os.kill(gone, signal.SIGKILL)
        until(lambda: self.server.children()["signer"] not in ([], [gone]), "a new signer")

    def kill_workers(self) -> None:
        children = self.server.children()
        for gone in children["worker"]:
            os.kill(gone, signal.SIGKILL)
        os.kill(children["signer"][0], signal.SIGCONT)  # and now it signs, for nobody

        def replaced() -> bool:
            workers = self.server.children()["worker"]
            return len(workers) == len(children["worker"]) and not set(workers) & set(children["worker"])

        until(replaced, "new workers")
        self.ready()

    def kill_everything(self) -> None:
        children = self.server.children()
        freeze(self.server.pid)
        for pid in (*children["worker"], *children["signer"]):
            os.kill(pid, signal.SIGKILL)
        self.server.kill()

    def ready(self) -> None:
        def answers() -> bool:
            with contextlib.suppress(OSError):
                return self.server.get(f"{self.server.http_url}/readyz")[0] == 200
            return False

        until(answers, "the server to be ready")

    def end(self) -> None:
        self._threads.shutdown()


def outcome(answer: Future[Reply]) -> Reply | None:
    with contextlib.suppress(OSError):
        return answer.result(PATIENCE)
    return None


def live(lived: Lived) -> Story:
    story = Story({kill: Kill(lived.asks(kill)) for kill in KILLS})

    kill = story.kills["signer"]
    answers = lived.caught(kill)
    lived.kill_signer()
    kill.at_the_kill = {door: outcome(answer) for door, answer in answers.items()}
    lived.ready()
    kill.at_once = lived.send_all(kill)
    kill.in_the_end = lived.send_all(kill)

    kill = story.kills["workers"]
    answers = lived.caught(kill)
    lived.kill_workers()
    kill.at_the_kill = {door: outcome(answer) for door, answer in answers.items()}
    kill.at_once = lived.send_all(kill)
    let_leases_end(lived.books)
    until(lambda: not lived.books.rows("SELECT 1 FROM issuance WHERE state = 'issuing'"), "the sweeper", seconds=SWEPT)
    kill.in_the_end = lived.send_all(kill)

    kill = story.kills["everything"]
    with lived.sent_by_who_never_reads(kill):
        lived.kill_everything()
    lived.server.start()
    lived.ready()
    kill.at_once = lived.send_all(kill)
    story.revoked = {kill.serials["enroll"], kill.serials["keygen"], kill.serials["keygen asked"]}
    for serial in story.revoked:
        run("cert", "revoke", serial, "--reason", "superseded", "--config", lived.server.config_file)
    look(story, lived)
    return story


def look(story: Story, lived: Lived) -> None:
    books = lived.books
    story.issuances = books.rows("SELECT id, issuer, serial, state FROM issuance")
    story.certificates = books.rows("SELECT issuer, serial FROM certificate")
    story.precautions = {serial for (serial,) in books.rows("SELECT serial FROM revocation WHERE precaution = 1")}
    story.approvals = books.rows("SELECT names, state, issuance_id FROM approval_request ORDER BY requested_at")

    def published() -> bool:
        story.crl = crl(lived.server)
        return story.precautions | story.revoked <= story.crl

    until(published, "the serials on the CRL", seconds=SWEPT)
    story.log = lived.server.log_text()


def crl(server: Server) -> set[str]:
    status, der = server.get(f"{server.http_url}/crl/devices.crl")
    assert status == 200
    return {f"{entry.serial_number:x}" for entry in x509.load_der_x509_crl(der)}


def on(url: str | None) -> Story:
    more: dict[str, Any] = {} if url is None else {"database": url, "workers": 2}
    with Neighbourhood() as around, Server(edit=labels(around), **more) as server:
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


def serials(kill: Kill, replies: Mapping[str, Reply], doors: Sequence[str] = DOORS) -> dict[str, str]:
    """What the replies granted. Fails where one did not."""
    return {door: kill.asks[door].serial(replies[door]) for door in doors}


def waits(kill: Kill, reply: Reply) -> bool:
    return reply.status == 202 and int(reply.headers["Retry-After"]) > 0


# ---------------------------------------------------------------------- the signer


@pytest.mark.parametrize("door", DOORS)
def test_a_signer_that_dies_while_it_signs_is_503_and_the_same_request_gets_another_serial(story: Story, door: str) -> None:
    kill = story.kills["signer"]
    reply = kill.at_the_kill[door]
    assert reply is not None
    assert (reply.status, int(reply.headers["Retry-After"]) > 0) == (503, True)
    granted = kill.asks[door].serial(kill.at_once[door])
    assert granted != kill.serials[door]
    assert kill.serials[door] in story.precautions
    assert granted not in story.crl


# ---------------------------------------------------------------------- the workers


@pytest.mark.parametrize("door", DOORS)
def test_a_client_whose_worker_died_has_lost_its_connection_and_the_serial_is_revoked(story: Story, door: str) -> None:
    kill = story.kills["workers"]
    assert kill.at_the_kill[door] is None
    assert kill.serials[door] in story.precautions
    assert ("devices", kill.serials[door]) not in story.certificates


def test_who_asks_again_while_nobody_knows_what_was_signed_gets_another_one_or_waits(story: Story) -> None:
    """An approval, and a CMC transaction, is for one certificate: it may have been signed, and nobody is told so yet."""
    kill = story.kills["workers"]
    granted = serials(kill, kill.at_once, [door for door in FREE if door != "cmc"])
    assert not set(granted.values()) & set(kill.serials.values())
    assert [door for door in ("cmc", *APPROVED) if not waits(kill, kill.at_once[door])] == []


def test_after_the_sweeper_everybody_is_served_and_the_same_approval_is_used(story: Story) -> None:
    kill = story.kills["workers"]
    granted = serials(kill, kill.in_the_end)
    assert not set(granted.values()) & {*kill.serials.values(), *story.crl}


# ---------------------------------------------------------------------- an answer that never arrived


def test_a_lost_answer_can_be_had_again_where_the_request_has_a_name_or_an_approval(story: Story) -> None:
    kill = story.kills["everything"]
    again = ("cmc", "enroll asked", "cmc asked")
    assert serials(kill, kill.at_once, again) == {door: kill.serials[door] for door in again}


def test_where_it_has_none_the_same_request_is_another_one(story: Story) -> None:
    kill = story.kills["everything"]
    granted = serials(kill, kill.at_once, ("enroll", "renew", "keygen"))
    assert not set(granted.values()) & set(kill.serials.values())


def test_a_generated_key_whose_answer_was_lost_is_never_given_again_and_waits_for_another_approval(story: Story) -> None:
    kill = story.kills["everything"]
    assert waits(kill, kill.at_once["keygen asked"])
    assert [state for names, state, _ in story.approvals if kill.asks["keygen asked"].host in names] == ["issued", "pending"]


def test_a_certificate_that_nobody_has_the_key_of_is_in_the_ledger_and_can_be_revoked(story: Story) -> None:
    assert {("devices", serial) for serial in story.revoked} <= set(story.certificates)
    assert story.revoked <= story.crl


# ---------------------------------------------------------------------- the books


def test_no_serial_is_used_twice_and_every_certificate_has_its_intent(story: Story) -> None:
    used = [serial for _, _, serial, _ in story.issuances]
    assert len(used) == len(set(used))
    assert {(issuer, serial) for _, issuer, serial, state in story.issuances if state == "issued"} == set(story.certificates)
    assert {state for *_, state in story.issuances} == {"issued", "abandoned"}
    assert {serial for _, _, serial, state in story.issuances if state == "abandoned"} == story.precautions


def test_every_answer_is_in_the_ledger(story: Story) -> None:
    granted = [
        kill.asks[door].serial(reply)
        for kill in story.kills.values()
        for replies in (kill.at_once, kill.in_the_end)
        for door, reply in replies.items()
        if reply.status == 200
    ]
    assert {("devices", serial) for serial in granted} <= set(story.certificates)


def test_one_approval_is_one_certificate(story: Story) -> None:
    used = [issuance for _, state, issuance in story.approvals if state == "issued"]
    assert len(used) == len(set(used)) == len(KILLS) * len(APPROVED)
    assert set(used) <= {identity for identity, _, _, state in story.issuances if state == "issued"}


def test_one_transaction_is_one_certificate(story: Story) -> None:
    for kill in ("signer", "workers"):
        about = story.kills[kill]
        for door in ("cmc asked", "enroll asked"):
            assert about.asks[door].serial(about.in_the_end[door]) not in story.crl
    signer = story.kills["signer"]
    once, again = (
        serials(signer, replies, ("cmc", "cmc asked", "enroll asked")) for replies in (signer.at_once, signer.in_the_end)
    )
    assert once == again


def test_nobody_had_a_bug_on_the_way(story: Story) -> None:
    assert "Traceback" not in story.log
    assert '"trace"' not in story.log
    assert '"status":500' not in story.log
