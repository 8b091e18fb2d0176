"""A served CA whose policy asks for approvals: every door waits, `certwright requests` decides, and the same request is answered."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.helpers.books import Books
from tests.helpers.front_doors import PREPARED, Door, Doors, pending, refusal
from tests.helpers.neighbourhood import Neighbourhood
from tests.helpers.server import Server, run
from tests.helpers.wanted import Wanted

DOORS = [door for door in Door if door is not Door.ACME and door not in PREPARED]


def careful(text: str) -> str:
    """Every policy asks."""
    edited, found = re.subn(r"(?m)^(    roles: \[\S+\])$", r"\1\n    require_approval: true", text)
    assert found == 3, text
    return edited


@pytest.fixture(scope="module")
def doors() -> Iterator[Doors]:
    with Neighbourhood() as around, Server(edit=lambda text: around.every_door(careful(text))) as server:
        doors = Doors(server, around)
        yield doors
        doors.close()


def requests(doors: Doors, *arguments: str, check: bool = True) -> str:
    done = run("requests", *arguments, "--config", doors.server.config_file, check=check)
    return done.stdout if check else done.stderr


def listed(doors: Doors, *arguments: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = orjson.loads(requests(doors, "list", "-o", "json", *arguments))
    return found


def newest(doors: Doors) -> str:
    return str(listed(doors)[0]["id"])


def named(door: Door, word: str) -> Wanted:
    """One wish for each door and test: they share a key."""
    return Wanted((f"{word}-{door.name.lower().replace('_', '-')}.example.com",))


@pytest.mark.parametrize("door", DOORS)
def test_what_waits_at_a_door_is_approved_and_the_same_request_is_answered(doors: Doors, door: Door, tmp_path: Path) -> None:
    wanted = named(door, "granted")
    assert pending(door, doors.ask(door, wanted)) >= 30
    waits = newest(doors)
    assert pending(door, doors.ask(door, wanted)) >= 30
    assert newest(doors) == waits
    assert "is approved" in requests(doors, "approve", waits, "--comment", "ticket 4711")
    certificate = doors.certificate(door, doors.ask(door, wanted), wanted, tmp_path)
    if door is Door.EST_KEYGEN:  # nobody has the key any more, so the same request is a new one
        pending(door, doors.ask(door, wanted))
    else:
        assert doors.certificate(door, doors.ask(door, wanted), wanted, tmp_path) == certificate
    (row,) = [row for row in listed(doors, "--state", "issued") if row["id"] == waits]
    assert row["names"] == [f"dns:{wanted.names[0]}"]


@pytest.mark.parametrize("door", DOORS)
def test_what_is_denied_is_refused_in_the_door_s_own_words(doors: Doors, door: Door) -> None:
    wanted = named(door, "denied")
    pending(door, doors.ask(door, wanted))
    waits = newest(doors)
    assert "is denied" in requests(doors, "deny", waits, "--reason", "nobody knows that host")
    assert "nobody knows that host" in refusal(door, doors.ask(door, wanted))


def test_an_approver_sees_the_certificate_to_be(doors: Doors) -> None:
    wanted = Wanted(("seen.example.com",))
    pending(Door.REST_JSON, doors.ask(Door.REST_JSON, wanted))
    waits = newest(doors)
    shown = orjson.loads(requests(doors, "show", waits, "-o", "json"))
    assert shown["subject_alternative_names"] == ["dns:seen.example.com"]
    assert shown["subject"] == ["CN=seen.example.com"]
    assert shown["key"] == "RSA 2048"
    assert re.fullmatch("[0-9a-f]{64}", shown["key_sha256"])
    assert shown["requester"].startswith("api-key:")
    assert shown["source_address"] in {"127.0.0.1", "::1"}
    assert shown["extended_key_usage"] == ["1.3.6.1.5.5.7.3.1"]
    assert shown["note"] is None
    text = requests(doors, "show", waits)
    assert "seen.example.com" in text
    assert waits in requests(doors, "list")
    assert waits in requests(doors, "list", "-o", "yaml")


def test_the_password_in_a_scep_request_that_waits_is_not_stored(doors: Doors) -> None:
    # RFC 8894 §7.3: the CSR carries the challengePassword, which is every device's.
    pending(Door.SCEP_POST, doors.ask(Door.SCEP_POST, Wanted(("waiting.example.com",))))
    database = b"".join(file.read_bytes() for file in doors.server.directory.glob("*.db*"))
    assert b"waiting.example.com" in database
    assert (doors.secrets.challenge or "").encode() not in database


def test_the_audit_knows_who_ran_the_command(doors: Doors) -> None:
    pending(Door.REST_PEM, doors.ask(Door.REST_PEM, Wanted(("audited.example.com",))))
    waits = newest(doors)
    requests(doors, "approve", waits)
    ((principal, detail),) = Books(doors.server).rows(
        f"SELECT principal, detail FROM audit WHERE event = 'request.approved' AND subject = 'request:{waits}'"  # noqa: S608  # ours
    )
    assert principal == "operator:command-line"
    assert pwd.getpwuid(os.getuid()).pw_name in orjson.loads(detail)["by"]


def test_mistakes_are_told_with_what_to_do(doors: Doors) -> None:
    pending(Door.EST, doors.ask(Door.EST, Wanted(("mistaken.example.com",))))
    waits = newest(doors)
    for arguments, said in (
        (("approve", "0" * 32), "there is no request"),
        (("show", "nosuch"), "certwright requests list"),
        (("deny", waits, "--reason", " "), "needs a reason"),
        (("deny", waits, "--reason", "x" * 1001), "at most 1000"),
        (("deny", waits), "--reason"),
    ):
        assert said in requests(doors, *arguments, check=False), arguments
    requests(doors, "approve", waits)
    assert "already" in requests(doors, "deny", waits, "--reason", "too late", check=False)


def test_an_acme_order_is_refused_when_it_is_made(doors: Doors) -> None:
    account = doors.account().register()
    assert "approval" in refusal(Door.ACME, account.order("host.example.com"))


def test_the_doctor_says_what_an_approval_means_for_acme(doors: Doors) -> None:
    assert "requests approve" in run("check", "--config", doors.server.config_file, check=False).stdout
