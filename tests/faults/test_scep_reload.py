"""SIGHUP with other challenges, algorithms and renewals, while requests are on their way: what began before ends by the old rules, all else
goes by the new ones, and whom it does not concern notices nothing.
"""

from __future__ import annotations

import contextlib
import email
import email.message
import re
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.scep_asks import SUCCESS, Ask, ScepAsking
from tests.helpers.books import until
from tests.helpers.server import Server
from tests.helpers.wire import Reply

COMMON = "profile: device, registration_authority: scep"
BEFORE = {
    "default": "challenge: [static]",
    "open": "challenge: [static, one-time], legacy: [sha1, des-ede3-cbc], renewal: {roles: [device]}, require_approval: false",
    "asked": "challenge: [static], require_approval: true",
    "removed": "challenge: [static]",
}
AFTER = {
    "default": "challenge: [static]",
    "open": "challenge: [one-time]",
    "asked": "challenge: [one-time], require_approval: true",
    "added": "challenge: [one-time]",
}
BAD_ALG, BAD_REQUEST = "0", "2"
REFUSED = "reload failed; the old configuration goes on"


def configured(text: str, endpoints: dict[str, str]) -> str:
    made = "".join(f"    {name}: {{{COMMON}, {rest}}}\n" for name, rest in endpoints.items())
    changed, found = re.subn(r"(?ms)^(endpoints:\n.*?^  scep:\n).*?(?=^\S)", rf"\1{made}\n", text)
    assert found == 1
    return changed


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScepAsking]:
    server = Server(directory=tmp_path_factory.mktemp("scep-reload") / "certwright", edit=lambda text: configured(text, BEFORE))
    with server:
        yield ScepAsking(server)


@contextlib.contextmanager
def half_sent(asking: ScepAsking, ask: Ask) -> Iterator[socket.socket]:
    """A device in the middle of its message, which a worker has already begun to read."""
    with asking.wire().socket() as connection:
        head, _, body = asking.octets(ask).partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(body[:100])
        yield connection


def finished(connection: socket.socket, ask: Ask) -> Reply:
    """The answer to the whole of it, to the end of the connection."""
    connection.sendall(ask.body[100:])
    got = b""
    while chunk := connection.recv(65536):
        got += chunk
    head, _, body = got.partition(b"\r\n\r\n")
    headers = scep_headers(head)
    return Reply(int(head.split()[1]), headers, body)


def scep_headers(head: bytes) -> email.message.Message:
    return email.message_from_bytes(head.partition(b"\r\n")[2])


def capabilities(asking: ScepAsking, endpoint: str) -> set[str]:
    status, body = asking.server.get(f"{asking.server.http_url}/scep/{endpoint}?operation=GetCACaps")
    assert status == 200
    return set(body.decode().split())


def insist(asking: ScepAsking, name: str, enough: threading.Event) -> list[str]:
    """Somebody whom none of it concerns: the statuses of new requests, one after the other."""
    statuses: list[str] = []
    while not enough.is_set():
        ask = asking.enroll(f"{name}-{len(statuses)}.example.test")
        statuses.append(ask.status(asking.send(ask)))
    return statuses


def test_a_configuration_that_is_wrong_changes_nothing(asking: ScepAsking) -> None:
    ask = asking.enroll("still.example.test", endpoint="removed")
    asking.server.edit_config(lambda text: configured(text, {"default": "challenge: [webhook]"}))
    asking.server.signal(signal.SIGHUP)
    asking.server.wait_for_log(REFUSED)
    assert ask.status(asking.send(ask)) == SUCCESS
    asking.server.edit_config(lambda text: configured(text, BEFORE))


def test_what_a_configuration_let_in_ends_with_it(asking: ScepAsking) -> None:
    server, logged = asking.server, len(asking.server.log_lines())
    [first, second] = asking.one_time(2, endpoint="open")
    des = {"cipher": "des-ede3-cbc", "digest": "sha1"}
    before = {
        "static": asking.enroll("static.example.test", endpoint="open"),
        "legacy": asking.enroll("legacy.example.test", endpoint="open", **des),
        "one-time": asking.enroll("one-time.example.test", endpoint="open", challenge=first),
        "renewal": asking.renew("renewal.example.test", endpoint="open"),
        "removed": asking.enroll("removed.example.test", endpoint="removed"),
    }
    answers = {name: asking.send(ask) for name, ask in before.items()}
    assert {name: before[name].status(answer) for name, answer in answers.items()} == dict.fromkeys(before, SUCCESS)
    half = asking.enroll("half.example.test", endpoint="open", **des)
    gone = asking.enroll("gone.example.test", endpoint="removed")
    waiting = asking.enroll("waiting.example.test", endpoint="asked")
    asking.approve([waiting])
    assert {"DES3", "SHA-1", "Renewal"} <= capabilities(asking, "open")

    old = server.children()["worker"]
    enough = threading.Event()
    with ThreadPoolExecutor(2) as threads, half_sent(asking, half) as one, half_sent(asking, gone) as other:
        others = [threads.submit(insist, asking, f"other-{number}", enough) for number in range(2)]
        try:
            server.edit_config(lambda text: configured(text, AFTER))
            server.signal(signal.SIGHUP)
            server.wait_for_log("reloaded")
            until(lambda: all("DES3" not in capabilities(asking, "open") for _ in range(5)), "the new worker alone to accept")
            assert not {"SHA-1", "Renewal"} & capabilities(asking, "open")

            static = asking.enroll("static-later.example.test", endpoint="open")
            assert static.refused(asking.send(static))[0] == BAD_REQUEST
            once = asking.enroll("one-time-later.example.test", endpoint="open", challenge=second)
            assert once.status(asking.send(once)) == SUCCESS
            legacy = asking.enroll("legacy-later.example.test", endpoint="open", challenge=second, **des)
            assert legacy.refused(asking.send(legacy))[0] == BAD_ALG
            renewal = asking.renew_as("renewal.example.test", before["renewal"].device, endpoint="open")
            fail_info, text = renewal.refused(asking.send(renewal))
            assert (fail_info, "nothing is renewed" in text) == (BAD_REQUEST, True)
            assert asking.send(asking.enroll("removed-later.example.test", endpoint="removed")).status == 404
            once = before["one-time"]
            assert once.serial(asking.send(once)) == once.serial(answers["one-time"])
            poll = asking.poll(waiting)  # it was let in when it was
            assert poll.status(asking.send(poll)) == SUCCESS

            # What the old worker still has.
            assert set(old) <= set(server.children()["worker"])
            for connection, ask in ((one, half), (other, gone)):
                reply = finished(connection, ask)
                assert ask.status(reply) == SUCCESS
                assert reply.headers["Connection"] == "close"
            until(lambda: not set(old) & set(server.children()["worker"]), "the old worker's end")
        finally:
            enough.set()
        statuses = [status for each in others for status in each.result()]
    assert set(statuses) == {SUCCESS}
    assert [line for line in server.log_lines()[logged:] if line["level"] == "error"] == []
