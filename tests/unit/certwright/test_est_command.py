"""`certwright est`: what it prints once, what it never prints, and what it refuses with what to do."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from issuance.digests import hashes
from tests.helpers.server import run


@pytest.fixture
def configured(made: Path, tmp_path: Path) -> Path:
    """A CA whose endpoint takes everything; the label `plain` passwords alone."""
    directory = tmp_path / "certwright"
    shutil.copytree(made, directory)
    file = directory / "certwright.yaml"
    every = "authenticate: [basic, digest, bearer, certificate]"
    text, found = re.subn(r"authenticate: \[basic[^\]]*\]", every, file.read_text())
    assert found == 1
    text, found = re.subn(r"(?m)^  est:\n(?=    default: )", "  est:\n    plain: {profile: device}\n", text)
    assert found == 1
    file.write_text(text)
    return file


def est(config: Path, *words: str | Path) -> str:
    return run("est", *words, "--config", config).stdout


def refused(config: Path, *words: str | Path, code: int = 1) -> str:
    done = run("est", *words, "--config", config, check=False)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (code, "", False)
    return done.stderr


def listed(config: Path, kind: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = orjson.loads(est(config, kind, "list", "-o", "json"))
    return found


def rows(config: Path, kind: str) -> list[tuple[str, bytes]]:
    with closing(sqlite3.connect(config.parent / "certwright.db")) as connection:
        return connection.execute("SELECT name, secret FROM sealed_secret WHERE kind = ? ORDER BY name", (kind,)).fetchall()


def test_a_user_of_digest_has_what_digest_takes_sealed_with_the_hashed_password(configured: Path, tmp_path: Path) -> None:
    password = est(configured, "user", "add", "printer-7").strip()
    assert re.fullmatch(r"cws_[A-Za-z0-9_-]{43}", password)
    [(name, box)] = rows(configured, "est-digest")
    assert name == "printer-7"
    assert hashes(user="printer-7", realm="estrealm", password=password).md5.encode() not in box
    (tmp_path / "password").write_text("Guest Zugang 7\n")
    assert "Guest" not in est(configured, "user", "add", "printer-7", "--password-file", tmp_path / "password")
    [(_, newer)] = rows(configured, "est-digest")
    assert newer != box
    est(configured, "user", "add", "printer-7", "--endpoint", "plain")
    assert len(rows(configured, "est-digest")) == 1  # where nobody takes Digest, nothing is kept for it
    users = {(row["id"], row["opens"]) for row in listed(configured, "user")}
    assert {("default/printer-7", True), ("plain/printer-7", True)} <= users
    est(configured, "user", "disable", "printer-7")
    assert ("default/printer-7", False) in {(row["id"], row["opens"]) for row in listed(configured, "user")}
    assert "there is no enabled est-user" in refused(configured, "user", "disable", "printer-7")
    assert "quotes" in refused(configured, "user", "add", 'print"er')


def test_a_token_is_shown_once_and_ends_at_once(configured: Path) -> None:
    token = est(configured, "token", "create", "--role", "device", "--expires", "90d").strip()
    form = re.fullmatch(r"cwe_([0-9a-f]{16})_[A-Za-z0-9_-]{43}", token)
    assert form is not None
    [row] = listed(configured, "token")
    assert (row["id"], row["endpoint"], row["opens"]) == (form[1], "default", True)
    assert token not in est(configured, "token", "list")
    est(configured, "token", "disable", form[1])
    assert [row["opens"] for row in listed(configured, "token")] == [False]
    assert "add bearer to its authenticate" in refused(configured, "token", "create", "--endpoint", "plain")
    assert "there is no EST endpoint 'nosuch'" in refused(configured, "token", "create", "--endpoint", "nosuch")
    assert "--expires" in refused(configured, "token", "create", "--expires", "0d")


def test_a_shared_secret_is_shown_once_and_sealed(configured: Path, tmp_path: Path) -> None:
    secret = est(configured, "secret", "create", "--identification", "router-7").strip()
    assert re.fullmatch(r"[a-z2-7]{32}", secret)
    [(name, box)] = rows(configured, "cmc-secret")
    assert (name, secret.encode() in box) == ("router-7", False)
    (tmp_path / "secret").write_text("a secret that the router has already\n")
    said = est(configured, "secret", "create", "--identification", "router-7", "--secret-file", tmp_path / "secret")
    assert said == "shared secret of 'router-7' set\n"
    (tmp_path / "secret").write_text("short\n")
    why = refused(configured, "secret", "create", "--identification", "router-7", "--secret-file", tmp_path / "secret")
    assert ("16 octets or more" in why, "short" in why) == (True, False)
    est(configured, "secret", "disable", "--identification", "router-7")
    [row] = listed(configured, "secret")
    assert (row["identification"], row["opens"]) == ("router-7", False)


def test_a_key_is_named_by_octets_in_any_spelling(configured: Path, tmp_path: Path) -> None:
    key = est(configured, "key", "create", "--id", "0BADCAFE").strip()
    assert re.fullmatch(r"[0-9a-f]{64}", key)
    (tmp_path / "key").write_text("ab" * 16 + "\n")
    assert est(configured, "key", "create", "--id", "01", "--key-file", tmp_path / "key") == "key 01 set\n"
    assert [row["id"] for row in listed(configured, "key")] == ["01", "0badcafe"]
    est(configured, "key", "disable", "--id", "0badCAFE")
    assert [row["opens"] for row in listed(configured, "key")] == [True, False]
    assert "octets in hex" in refused(configured, "key", "create", "--id", "xyz")
    (tmp_path / "key").write_text("ab" * 17 + "\n")
    why = refused(configured, "key", "create", "--id", "01", "--key-file", tmp_path / "key")
    assert ("16, 24 or 32 octets" in why, "abab" in why) == (True, False)


def test_without_the_file_of_keys_it_says_how_to_make_one(configured: Path) -> None:
    configured.write_text(re.sub(r"(?m)^secrets_key_file:.*\n", "", configured.read_text()))
    assert "openssl rand -hex 32" in refused(configured, "user", "add", "a", code=3)
    configured.write_text(configured.read_text().replace("digest, ", ""))
    est(configured, "user", "add", "a")
    for words in (("secret", "create", "--identification", "a"), ("key", "create", "--id", "01")):
        assert "openssl rand -hex 32" in refused(configured, *words)
    assert listed(configured, "secret") == listed(configured, "key") == []
