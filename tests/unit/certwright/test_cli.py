"""The command line: help everywhere, documented exit codes, and nothing heavy is loaded only to print a help text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import typer
from ruamel.yaml import YAML

from certwright.cli import app
from tests.helpers.server import run

HEAVY = {"aiohttp", "asyncpg", "pydantic", "cryptography", "uvloop", "pkilint", "prometheus_client", "ruamel.yaml"}


def commands(
    group: typer.core.TyperGroup, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], typer.core.TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, (*path, name))
        else:
            assert isinstance(command, typer.core.TyperCommand)
            yield (*path, name), command


def every_command() -> list[tuple[tuple[str, ...], typer.core.TyperCommand]]:
    root = typer.main.get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    return list(commands(root))


@pytest.mark.parametrize(("path", "command"), [pytest.param(*one, id=" ".join(one[0])) for one in every_command()])
def test_every_command_says_what_it_does_and_shows_an_example(path: tuple[str, ...], command: typer.core.TyperCommand) -> None:
    assert command.help
    assert command.epilog is not None
    assert command.epilog.startswith(f"Example: certwright {' '.join(path)}")


def test_the_help_loads_nothing_that_only_a_command_needs() -> None:
    """`--help` has to answer at once (under 0.3 s); what costs time are imports, so they are what is looked at."""
    script = (
        "import sys\nfrom certwright.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.splitlines()[-1].split()[1:])
    assert "certwright.cli" in loaded
    assert not HEAVY & loaded
    assert "Exit codes" in done.stdout


def config_of(made: Path) -> tuple[str, Path]:
    return "--config", made / "certwright.yaml"


def test_reads_come_as_table_json_or_yaml(made: Path) -> None:
    table = run("ca", "list", *config_of(made)).stdout
    assert table.splitlines()[0].split() == ["ISSUER", "SUBJECT", "NOT", "AFTER", "SHA256"]
    rows = orjson.loads(run("ca", "list", *config_of(made), "-o", "json").stdout)
    assert [row["issuer"] for row in rows] == ["issuing", "devices"]
    assert YAML(typ="safe").load(run("ca", "list", *config_of(made), "-o", "yaml").stdout) == rows


def test_a_wrong_configuration_is_exit_code_3_and_its_lines_come_as_editors_read_them(made: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("base_url: x\nissuers: {}\n")
    done = run("check", "--config", bad, check=False)
    assert done.returncode == 3
    assert done.stderr.splitlines()[0].startswith(f"{bad}:1:1: ")
    assert "Traceback" not in done.stderr


def test_a_configuration_that_is_not_there_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    done = run("check", check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "certwright init" in done.stderr


def test_wrong_usage_is_exit_code_2() -> None:
    assert run("serve", "--workers", "many", check=False).returncode == 2


def test_a_certificate_that_is_not_there_is_exit_code_1(made: Path) -> None:
    done = run("cert", "show", "00:ff", *config_of(made), check=False)
    assert (done.returncode, "certwright cert list" in done.stderr) == (1, True)


def test_a_password_file_that_holds_no_text_is_refused_without_a_traceback(made: Path, tmp_path: Path) -> None:
    for content in (b"\xff\xfe", None):
        file = tmp_path / ("there" if content else "away")
        if content:
            file.write_bytes(content)
        done = run("scep", "challenge", "set", "--challenge-file", file, *config_of(made), check=False)
        assert (done.returncode, str(file) in done.stderr, "Traceback" in done.stderr) == (1, True, False)


def test_a_key_that_would_never_open_anything_is_not_made(made: Path) -> None:
    done = run("apikey", "create", "--expires", "0d", *config_of(made), check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_up_says_which_options_change_nothing_on_a_ca_that_is_there(tmp_path: Path) -> None:
    there = tmp_path / "ca"
    there.mkdir()
    (there / "certwright.yaml").write_text("not a configuration")
    done = run("up", "--dir", there, "--https-port", "18443", "--name", "ca.example.com", check=False)
    assert done.returncode == 3
    assert f"--https-port, --name changes nothing; edit {there}/certwright.yaml" in done.stderr


def test_check_finds_a_new_ca_well_and_reminds_of_the_secrets(made: Path) -> None:
    done = run("check", *config_of(made))
    assert "[fail]" not in done.stdout
    assert "bootstrap.env" in done.stdout


UNWELL = [
    pytest.param("key_file: tls/server.key", "key_file: ca/scep-ra.key", 1, "is not the key of", id="another key"),
    pytest.param("tls/server.pem", "ca/root.pem", 1, "is not for localhost, which `base_url` says", id="another certificate"),
    pytest.param(
        '"https://localhost:8443"', '"https://localhost"', 0, "says port 443, and listen.https is port 8443", id="port"
    ),
    pytest.param("sqlite:certwright.db", "sqlite:other.db", 1, "other.db: look at `database`", id="a database elsewhere"),
    pytest.param("roles: [acme]", "roles: [amce]", 0, "no policy has a role of it (acme)", id="a role that nobody grants"),
    pytest.param(
        "client_certificates: {roles: [device]}",
        "client_certificates: {roles: [divice]}",
        0,
        "EST endpoint default: no policy has a role of its client_certificates (divice)",
        id="a role of client certificates that nobody grants",
    ),
    pytest.param('mtls: "localhost:9443"', "mtls: null", 0, "EST is served on listen.mtls only", id="no listener for EST"),
]


@pytest.mark.parametrize(("old", "new", "code", "said"), UNWELL)
def test_check_finds_what_clients_would_stumble_over(made: Path, old: str, new: str, code: int, said: str) -> None:
    other = made / "unwell.yaml"
    other.write_text((made / "certwright.yaml").read_text().replace(old, new))
    try:
        done = run("check", "--config", other, check=False)
    finally:
        other.unlink()
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout


def test_check_finds_a_passphrase_that_does_not_open_the_key(made: Path, tmp_path: Path) -> None:
    phrase = tmp_path / "passphrase"
    phrase.write_text("wrong")
    phrase.chmod(0o600)
    other = made / "wrong.yaml"
    other.write_text((made / "certwright.yaml").read_text().replace("ca/passphrase", str(phrase)))
    try:
        done = run("check", "--config", other, check=False)
    finally:
        other.unlink()
    assert done.returncode == 1
    assert f"issuing.key does not open with the passphrase in {phrase}" in done.stdout
