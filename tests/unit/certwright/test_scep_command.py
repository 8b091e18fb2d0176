"""`certwright scep challenge`: what it prints once, what it never prints, and what it refuses with what to do."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from tests.helpers.server import run


@pytest.fixture
def configured(made: Path, tmp_path: Path) -> Path:
    """A CA whose default endpoint takes both kinds; the endpoint `plain` static ones alone."""
    directory = tmp_path / "certwright"
    shutil.copytree(made, directory)
    file = directory / "certwright.yaml"
    plain = "  scep:\n    plain: {profile: device, registration_authority: scep}\n"
    text, found = re.subn(r"(?m)^  scep:\n(?=    default:)", plain, file.read_text())
    assert found == 1
    file.write_text(text)
    return file


def scep(config: Path, *words: str | Path) -> str:
    return run("scep", "challenge", *words, "--config", config).stdout


def refused(config: Path, *words: str | Path, code: int = 1) -> str:
    done = run("scep", "challenge", *words, "--config", config, check=False)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (code, "", False)
    return done.stderr


def listed(config: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = orjson.loads(scep(config, "list", "-o", "json"))
    return found


def test_several_static_challenges_are_set_by_name_and_ended_one_by_one(configured: Path, tmp_path: Path) -> None:
    (tmp_path / "challenge").write_text("Guest Zugang 7\n")
    generated = scep(configured, "set", "--name", "printers", "--role", "device").strip()
    assert re.fullmatch(r"cws_[A-Za-z0-9_-]{43}", generated)
    assert scep(configured, "set", "--challenge-file", tmp_path / "challenge") == "challenge of default set\n"
    assert scep(configured, "disable", "default:printers") == "challenge 'default:printers' opens nothing any more\n"
    shown = listed(configured)
    assert [(row["id"], row["kind"], row["state"]) for row in shown] == [
        ("default", "static", "open"),
        ("default:printers", "static", "disabled"),
    ]
    assert generated not in str(shown)
    with closing(sqlite3.connect(configured.parent / "certwright.db")) as connection:
        stored = str(connection.execute("SELECT * FROM credential").fetchall())
    assert generated not in stored
    assert "Guest" not in stored
    assert "letters, digits" in refused(configured, "set", "--name", "a/b")
    assert "scep-challenge 'default:printers'; list them first" in refused(configured, "disable", "default:printers")


def test_who_sets_a_static_challenge_again_is_told_that_the_one_before_has_ended(configured: Path) -> None:
    """`init` set one, and whoever has that is locked out without a word."""
    for words, said in (
        ((), "note: the challenge 'default' that was set before opens nothing any more; --name sets another beside it\n"),
        (("--name", "printers"), ""),
    ):
        done = run("scep", "challenge", "set", *words, "--config", configured)
        assert done.stdout.startswith("cws_")
        assert said in done.stderr
        assert bool(done.stderr) is bool(said)


def test_a_challenge_that_opens_once_is_shown_once_and_listed_with_what_it_is_for(configured: Path) -> None:
    challenge = scep(
        configured, "create", "--subject", "CN=router7,O=Example", "--san", "R7.example.com", "--san", "ip:192.0.2.7"
    )
    assert re.fullmatch("[0-9A-F]{32}\n", challenge)
    made = orjson.loads(scep(configured, "create", "--any-name", "--expires", "30d", "-o", "json"))
    assert set(made) == {"id", "challenge", "endpoint", "expires_at"}
    _, newest, oldest = listed(configured)
    assert (newest["id"], newest["for"], newest["state"]) == (made["id"], "any request", "open")
    assert oldest["for"] == "O=Example,CN=router7 dns:r7.example.com ip:192.0.2.7"
    assert oldest["made_by"] == "operator:command-line"
    assert challenge.strip() not in str([newest, oldest])
    scep(configured, "disable", made["id"])
    assert [row["state"] for row in listed(configured)] == ["open", "disabled", "open"]


def test_what_makes_no_sense_is_refused_with_what_to_do(configured: Path) -> None:
    for words, said in (
        ((), "Give --subject, --san or both"),
        (("--any-name", "--san", "r7.example.com"), "leave out one or the other"),
        (("--any-name", "--expires", "31d"), "at most 30 days"),
        (("--any-name", "--endpoint", "plain"), "`challenge: [static, one-time]`"),
        (("--subject", "router7"), "CN=router7,O=Example"),
    ):
        assert said in refused(configured, "create", *words)


def test_who_makes_a_challenge_that_policy_will_refuse_is_told_so(configured: Path) -> None:
    done = run("scep", "challenge", "create", "--san", "www.elsewhere.test", "--role", "nobody", "--config", configured)
    assert re.fullmatch("[0-9A-F]{32}\n", done.stdout)
    assert "its request will be refused as things are: no policy grants anything" in done.stderr
