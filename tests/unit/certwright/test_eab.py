"""`certwright eab`: what it prints once, what it never prints, and what it refuses with what to do."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from pki.strict import from_base64url
from tests.helpers.server import run

ENDPOINT = re.compile(r"(?m)^(    default: \{profiles: \[tls-server, short-lived\].*)\}$")


@pytest.fixture
def configured(made: Path, tmp_path: Path) -> Path:
    """A CA whose endpoint takes external accounts."""
    directory = tmp_path / "certwright"
    shutil.copytree(made, directory)
    file = directory / "certwright.yaml"
    text, found = ENDPOINT.subn(r"\1, external_account: required}", file.read_text())
    assert found == 1
    file.write_text(text)
    return file


def made_key(config: Path, *options: str) -> dict[str, object]:
    found: dict[str, object] = orjson.loads(run("eab", "create", "--config", config, *options, "-o", "json").stdout)
    return found


def listed(config: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = orjson.loads(run("eab", "list", "--config", config, "-o", "json").stdout)
    return found


def test_a_key_is_shown_once_with_lines_for_clients(configured: Path) -> None:
    done = run(
        "eab", "create", "--config", configured, "--role", "acme", "--names", "*.example.com", "--names", "10.0.0.0/8",
        "--profile", "short-lived", "--expires", "90d",
    )  # fmt: skip
    kid, key = re.findall(r"^(?:key id|HMAC key) +(\S+)$", done.stdout, re.MULTILINE)
    assert len(from_base64url(key)) == 64
    for client, words in (
        ("certbot", ("--eab-kid", kid, "--eab-hmac-key", key)),
        ("lego", ("--eab", "--kid", kid, "--hmac", key)),
        ("acme.sh", ("--eab-kid", kid, "--eab-hmac-key", key)),
    ):
        (line,) = [line for line in done.stdout.splitlines() if re.search(rf"(^|\s){re.escape(client)} -?-?[a-z]", line)]
        assert " ".join(words) in line
        assert "https://localhost:8443/acme/directory" in shlex.split(line)
    (row,) = listed(configured)
    assert row | {"created": "", "expires": ""} == {
        "kid": kid,
        "endpoint": "default",
        "roles": ["acme"],
        "names": ["*.example.com", "10.0.0.0/8"],
        "profiles": ["short-lived"],
        "use": "single",
        "created": "",
        "expires": "",
        "accounts": 0,
        "state": "open",
    }


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_the_list_never_shows_the_key(configured: Path, form: str) -> None:
    key = made_key(configured)
    done = run("eab", "list", "--config", configured, "-o", form)
    assert str(key["kid"]) in done.stdout
    assert str(key["hmac_key"])[:8] not in done.stdout + done.stderr


def test_a_key_never_looks_like_an_option(configured: Path) -> None:
    for _ in range(3):
        key = made_key(configured)
        assert not str(key["hmac_key"]).startswith("-")
        assert not str(key["kid"]).startswith("-")


def test_a_revoked_key_stays_in_the_list(configured: Path) -> None:
    kid = str(made_key(configured, "--reusable")["kid"])
    assert "the accounts that it bound get nothing new" in run("eab", "revoke", kid, "--config", configured).stdout
    ((_, state),) = [(row["kid"], row["state"]) for row in listed(configured)]
    assert state == "revoked"
    again = run("eab", "revoke", kid, "--config", configured, check=False)
    assert (again.returncode, again.stdout) == (1, "")
    assert "certwright eab list" in again.stderr


def test_a_role_that_no_policy_names_is_remarked_upon(configured: Path) -> None:
    done = run("eab", "create", "--config", configured, "--role", "nosuch")
    assert "no policy names the role 'nosuch'" in done.stderr


REFUSED = [
    pytest.param(("--endpoint", "defualt"), 1, "did you mean 'default'", id="an endpoint that is not there"),
    pytest.param(("--names", "a*b.example.com"), 1, "stars stand at its front only", id="a pattern that is none"),
    pytest.param(("--profile", "tls-client"), 1, "has only: tls-server, short-lived", id="a profile of no account here"),
    pytest.param(("--profile", "nosuch"), 1, "nosuch", id="a profile that is not there"),
    pytest.param(("--expires", "0d"), 1, "no account could ever be bound", id="no time at all"),
    pytest.param(("--expires", "soon"), 1, "90d", id="a duration that is none"),
]


@pytest.mark.parametrize(("options", "code", "said"), REFUSED)
def test_what_could_never_work_is_not_made(configured: Path, options: tuple[str, ...], code: int, said: str) -> None:
    done = run("eab", "create", "--config", configured, *options, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert listed(configured) == []


def test_an_endpoint_without_external_accounts_is_told_how_to_have_them(made: Path) -> None:
    done = run("eab", "create", "--config", made / "certwright.yaml", check=False)
    assert done.returncode == 1
    assert "external_account: optional" in done.stderr


def without_line(text: str) -> str:
    return re.sub(r"(?m)^secrets_key_file:.*\n", "", text)


SPOILED: list[tuple[str, Callable[[Path], object], str]] = [
    ("no file is named", lambda file: file.write_text(without_line(file.read_text())), "openssl rand -hex 32"),
    ("the file is gone", lambda file: file.with_name("secrets.key").unlink(), "there is no file"),
    ("the file is no key", lambda file: file.with_name("secrets.key").write_text("geheim" * 10), "64 lower-case hex digits"),
    ("everybody can read it", lambda file: file.with_name("secrets.key").chmod(0o644), "anybody on this machine can read"),
]


@pytest.mark.parametrize(("spoil", "said"), [pytest.param(spoil, said, id=name) for name, spoil, said in SPOILED])
def test_a_sealing_key_that_is_not_right_stops_the_configuration(
    configured: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(configured)
    done = run("eab", "list", "--config", configured, check=False)
    assert done.returncode == 3
    assert said in done.stderr
    assert "geheim" not in done.stderr


def test_the_sealing_key_is_the_owners_alone(made: Path) -> None:
    file = made / "secrets.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(rb"[0-9a-f]{64}\n", file.read_bytes())
