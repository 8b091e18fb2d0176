"""`kill -9` at every point of what SCEP does, of the signer and of the workers, for every way in at once; and under load. On both engines,
PostgreSQL with two workers.

The points are exact: what the signer is asked is held at a gate, so a worker stands before it has opened a message, between the intent and
the record, or between the record and the answer. The lease of an intent is lived through in test_kill.py in real time; here it is
written to be over, and the sweeper of the server does the rest.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.faults.est_asks import let_leases_end
from tests.faults.gated_signer import GatedSigner, through
from tests.faults.scep_asks import FAILURE, KEYS, PENDING, SUCCESS, Ask, ScepAsking, with_asked
from tests.faults.stories import ENGINES, on_both, told
from tests.helpers.books import Books, until
from tests.helpers.server import PATIENCE, Server
from tests.helpers.wire import Reply

SWEPT = 60.0  # seconds: the sweeper comes every 15
POINTS = {"opening": "ra_decrypt", "signing": "sign_certificate", "answering": "ra_sign"}
VICTIMS = ("signer", "workers")
OPENED = ("static", "one-time", "renewal", "resumed")
POLLED = ("polled", "one-time polled")  # a CertPoll is not opened
DOORS = (*OPENED, *POLLED)
DEVICES, CROWD = 12, 4  # that ask under load: each with a challenge of its own, and all with one

pytestmark = pytest.mark.timeout(300)


@dataclass(slots=True)
class Kill:
    """One killing: by door, what the client saw and which serial was in the server's hands."""

    asks: Mapping[str, Ask]
    thief: Ask  # the one-time challenge in another request
    serials: dict[str, str] = field(default_factory=dict)
    at_the_kill: dict[str, Reply | None] = field(default_factory=dict)  # None: the connection was lost
    at_once: dict[str, Reply] = field(default_factory=dict)  # the same message, as soon as somebody answers
    in_the_end: dict[str, Reply] = field(default_factory=dict)  # and once more, after the sweeper
    stolen: Reply | None = None

    def granted(self, replies: Mapping[str, Reply]) -> dict[str, str]:
        """Serials. Fails where one was not."""
        return {door: self.asks[door].serial(reply) for door, reply in replies.items()}


@dataclass(slots=True)
class Story:
    kills: dict[tuple[str, str], Kill] = field(default_factory=dict)
    load: list[tuple[Ask, Reply]] = field(default_factory=list)
    crowd: list[tuple[Ask, Reply]] = field(default_factory=list)
    issuances: list[tuple[Any, ...]] = field(default_factory=list)  # issuer, serial, state, names
    certificates: list[tuple[Any, ...]] = field(default_factory=list)  # issuer, serial, DER, names
    challenges: list[tuple[Any, ...]] = field(default_factory=list)  # used_at, used_by
    made: int = 0  # challenges
    precautions: set[str] = field(default_factory=set)  # serials
    audit: list[tuple[str, str]] = field(default_factory=list)  # event, subject
    devices: x509.Certificate | None = None  # the issuing CA
    crl: set[str] = field(default_factory=set)  # serials
    log: str = field(default="", repr=False)


class Lived:
    def __init__(self, server: Server, gate: GatedSigner, books: Books) -> None:
        self.server = server
        self.gate = gate
        self.books = books
        self.asking = ScepAsking(server)
        self._threads = ThreadPoolExecutor(DEVICES + CROWD)

    def kills(self) -> dict[tuple[str, str], Kill]:
        """One request for each door; those that take an approval have one."""
        at, doors = self.asking, {}
        cases = [(point, victim) for point in POINTS for victim in VICTIMS]
        once, asked = iter(at.one_time(len(cases))), iter(at.one_time(len(cases), endpoint="asked"))
        waiting = []
        for point, victim in cases:
            zone = f"{point}.{victim}.example.test"
            challenge = next(once)
            doors[point, victim] = Kill(
                {
                    "static": at.enroll(f"static.{zone}"),
                    "one-time": at.enroll(f"once.{zone}", challenge=challenge),
                    "renewal": at.renew(f"renewal.{zone}"),
                    "resumed": at.enroll(f"resumed.{zone}", endpoint="asked"),
                    "polled": at.enroll(f"polled.{zone}", endpoint="asked"),
                    "one-time polled": at.enroll(f"once-polled.{zone}", endpoint="asked", challenge=next(asked)),
                },
                at.enroll(f"thief.{zone}", challenge=challenge),
            )
            waiting += [doors[point, victim].asks[door] for door in ("resumed", *POLLED)]
        at.approve(waiting)
        for kill in doors.values():
            kill.asks = {door: at.poll(ask) if door in POLLED else ask for door, ask in kill.asks.items()}
        return doors

    def live_through(self, kill: Kill, point: str, victim: str) -> None:
        doors = OPENED if point == "opening" else DOORS
        with self.gate.held(POINTS[point]):
            answers = {door: self._threads.submit(self.asking.send, kill.asks[door]) for door in doors}
            until(lambda: self.gate.waiting() == len(doors), f"{point} of each door")
            kill.serials = {door: self._in_hands(kill.asks[door], point) for door in doors} if point != "opening" else {}
            if victim == "signer":
                self.gate.kill()
            else:
                self._kill_workers()
            kill.at_the_kill = {door: outcome(answer) for door, answer in answers.items()}
        self.ready()
        kill.at_once = self.send_all(kill)

    def _in_hands(self, ask: Ask, point: str) -> str:
        table = "issuance" if point == "signing" else "certificate"
        order = "created_at" if point == "signing" else "issued_at"
        rows = self.books.rows(f"SELECT serial FROM {table} WHERE names LIKE '%:{ask.host}\"%' ORDER BY {order}")  # noqa: S608  # ours
        return str(rows[-1][0])

    def _kill_workers(self) -> None:
        before = self.server.children()["worker"]
        for gone in before:
            os.kill(gone, signal.SIGKILL)

        def replaced() -> bool:
            workers = self.server.children()["worker"]
            return len(workers) == len(before) and not set(workers) & set(before)

        until(replaced, "new workers")

    def _until_more_than(self, certificates: int) -> None:
        until(lambda: self.books.count("certificate") > certificates, "load")

    def _kill_one_of_each(self) -> None:
        os.kill(self.server.children()["worker"][0], signal.SIGKILL)
        self.gate.kill()

    def send_all(self, kill: Kill) -> dict[str, Reply]:
        running = {door: self._threads.submit(self.asking.send, ask) for door, ask in kill.asks.items()}
        return {door: reply.result() for door, reply in running.items()}

    def ready(self) -> None:
        def answers() -> bool:
            with contextlib.suppress(OSError):
                return self.server.get(f"{self.server.http_url}/readyz")[0] == 200
            return False

        until(answers, "the server to be ready")

    def under_load(self, story: Story) -> None:
        """Devices that insist, while one of the workers and the signer are killed twice."""
        at = self.asking
        [shared], own = at.one_time(1), at.one_time(DEVICES)
        devices = [at.enroll(f"load-{number}.example.test", challenge=challenge) for number, challenge in enumerate(own)]
        crowd = [at.enroll(f"crowd-{number}.example.test", challenge=shared) for number in range(CROWD)]
        running: list[tuple[Ask, Future[Reply]]] = []
        for wave in ((*crowd, *devices[: DEVICES // 2]), devices[DEVICES // 2 :]):
            before = self.books.count("certificate")
            running += [(ask, self._threads.submit(at.insist, ask)) for ask in wave]
            self._until_more_than(before + 1)
            self._kill_one_of_each()
            self.ready()
        let_leases_end(self.books)
        answers = [(ask, answer.result()) for ask, answer in running]
        story.crowd, story.load = answers[:CROWD], answers[CROWD:]

    def end(self) -> None:
        self._threads.shutdown()


def outcome(answer: Future[Reply]) -> Reply | None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return answer.result(PATIENCE)
    return None


def live(lived: Lived) -> Story:
    story = Story(lived.kills())
    for (point, victim), kill in story.kills.items():
        lived.live_through(kill, point, victim)
    lived.under_load(story)
    let_leases_end(lived.books)
    until(lambda: not lived.books.rows("SELECT 1 FROM issuance WHERE state = 'issuing'"), "the sweeper", seconds=SWEPT)
    for kill in story.kills.values():
        kill.in_the_end = lived.send_all(kill)
        kill.stolen = lived.asking.send(kill.thief)
    look(story, lived)
    return story


def look(story: Story, lived: Lived) -> None:
    books = lived.books
    story.issuances = books.rows("SELECT issuer, serial, state, names FROM issuance")
    story.certificates = books.rows("SELECT issuer, serial, der, names FROM certificate")
    story.challenges = books.rows("SELECT used_at, used_by FROM scep_challenge")
    story.made = lived.asking.made
    story.precautions = {serial for (serial,) in books.rows("SELECT serial FROM revocation WHERE precaution = 1")}
    story.audit = [(event, subject) for event, subject in books.rows("SELECT event, subject FROM audit")]
    story.devices = x509.load_pem_x509_certificate((lived.server.directory / "ca" / "devices.pem").read_bytes())

    def published() -> bool:
        status, der = lived.server.get(f"{lived.server.http_url}/crl/devices.crl")
        assert status == 200
        story.crl = {f"{entry.serial_number:x}" for entry in x509.load_der_x509_crl(der)}
        return story.precautions <= story.crl

    until(published, "the serials on the CRL", seconds=SWEPT)
    story.log = lived.server.log_text()


def on(url: str | None) -> Story:
    more: dict[str, Any] = {} if url is None else {"database": url, "workers": 2}
    with TemporaryDirectory(prefix="cw-scep-kill-") as folder:
        socket = Path(folder) / "signer.sock"
        server = Server(directory=Path(folder) / "ca", edit=lambda text: through(socket)(with_asked(text)), **more)
        server.init()
        with GatedSigner(server, socket) as gate:
            server.start()
            lived = Lived(server, gate, Books(server, url))
            try:
                return live(lived)
            finally:
                lived.end()
                server.stop()


@pytest.fixture(scope="module")
def stories(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Story]]]:
    with on_both(request, on) as both:
        yield both


@pytest.fixture(params=ENGINES)
def story(request: pytest.FixtureRequest, stories: dict[str, Future[Story]]) -> Story:
    return told(stories, request.param)


# ---------------------------------------------------------------------- what the client sees


@pytest.mark.parametrize("point", POINTS)
def test_a_signer_that_dies_is_503_and_a_worker_that_dies_a_lost_connection(story: Story, point: str) -> None:
    for reply in story.kills[point, "signer"].at_the_kill.values():
        assert reply is not None
        assert (reply.status, int(reply.headers["Retry-After"]) > 0) == (503, True)
    assert set(story.kills[point, "workers"].at_the_kill.values()) == {None}


@pytest.mark.parametrize("victim", VICTIMS)
def test_before_the_message_is_opened_nothing_has_happened(story: Story, victim: str) -> None:
    kill = story.kills["opening", victim]
    assert set(kill.granted(kill.at_once)) == set(DOORS)


def test_a_signer_that_dies_while_it_signs_costs_a_serial_and_the_same_message_gets_another(story: Story) -> None:
    kill = story.kills["signing", "signer"]
    granted = kill.granted(kill.at_once)
    assert set(kill.serials.values()) <= story.precautions
    assert not set(granted.values()) & story.crl


def test_while_nobody_knows_what_was_signed_the_same_message_is_pending_and_then_gets_another_serial(story: Story) -> None:
    kill = story.kills["signing", "workers"]
    assert {kill.asks[door].status(reply) for door, reply in kill.at_once.items()} == {PENDING}
    assert set(kill.serials.values()) <= story.precautions
    assert not set(kill.granted(kill.in_the_end).values()) & story.crl


@pytest.mark.parametrize("victim", VICTIMS)
def test_an_answer_that_was_lost_is_given_again(story: Story, victim: str) -> None:
    kill = story.kills["answering", victim]
    assert kill.granted(kill.at_once) == kill.serials


def test_whoever_sends_the_same_message_again_and_again_has_one_certificate(story: Story) -> None:
    for case, kill in story.kills.items():
        granted = kill.granted(kill.in_the_end)
        if case != ("signing", "workers"):
            assert granted == kill.granted(kill.at_once), case
        for door, serial in granted.items():
            assert serials_of(story, kill.asks[door])[-1:] == [serial], (case, door)
            assert len(serials_of(story, kill.asks[door])) == (2 if door == "renewal" else 1), (case, door)


def serials_of(story: Story, ask: Ask) -> list[str]:
    return [serial for _, serial, _, names in story.certificates if f':{ask.host}"' in names]


# ---------------------------------------------------------------------- one-time challenges


def test_a_used_challenge_is_of_no_use_to_another_request(story: Story) -> None:
    for case, kill in story.kills.items():
        assert kill.stolen is not None
        assert kill.thief.status(kill.stolen) == FAILURE, case
        assert serials_of(story, kill.thief) == [], case


def test_no_challenge_is_lost_under_load(story: Story) -> None:
    for ask, reply in story.load:
        assert serials_of(story, ask) == [ask.serial(reply)]


def test_one_challenge_in_many_requests_at_once_is_one_certificate(story: Story) -> None:
    won = [ask.serial(reply) for ask, reply in story.crowd if ask.status(reply) == SUCCESS]
    assert [serial for ask, _ in story.crowd for serial in serials_of(story, ask)] == won
    assert len(won) == 1


def test_every_challenge_was_used_once(story: Story) -> None:
    assert len(story.challenges) == story.made
    assert all(used_at is not None for used_at, _ in story.challenges)
    assert len({used_by for _, used_by in story.challenges}) == story.made


# ---------------------------------------------------------------------- the books


def test_no_serial_is_used_twice_and_every_certificate_has_its_intent(story: Story) -> None:
    used = [serial for _, serial, _, _ in story.issuances]
    assert len(used) == len(set(used))
    issued = {(issuer, serial, names) for issuer, serial, state, names in story.issuances if state == "issued"}
    assert issued == {(issuer, serial, names) for issuer, serial, _, names in story.certificates}
    assert {state for _, _, state, _ in story.issuances} == {"issued", "abandoned"}
    assert {serial for _, serial, state, _ in story.issuances if state == "abandoned"} == story.precautions


def test_the_audit_has_the_beginning_and_the_end_of_each(story: Story) -> None:
    ends = {"issued": "issue.done", "abandoned": "issue.abandoned"}
    wanted = sorted(
        (event, f"certificate:{issuer}/{serial}")
        for issuer, serial, state, _ in story.issuances
        for event in ("issue.intent", ends[state])
    )
    assert sorted(each for each in story.audit if each[0] in {"issue.intent", *ends.values()}) == wanted


def test_every_certificate_is_one(story: Story) -> None:
    """Read anew with other code: signed by the CA that says so, for a device's key and for no other names than its row's."""
    assert story.devices is not None
    keys = set()
    for _, serial, der, names in story.certificates:
        certificate = x509.load_der_x509_certificate(bytes(der))
        certificate.verify_directly_issued_by(story.devices)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names == "[" + ",".join(f'"dns:{name}"' for name in found.get_values_for_type(x509.DNSName)) + "]"
        assert f"{certificate.serial_number:x}" == serial
        keys.add(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    assert len(keys) == KEYS


def test_nobody_had_a_bug_on_the_way(story: Story) -> None:
    assert "Traceback" not in story.log
    assert '"trace"' not in story.log
    assert '"status":500' not in story.log
