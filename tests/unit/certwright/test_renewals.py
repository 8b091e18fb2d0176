"""`certwright renewal` on a real CA directory: what is decided is listed, and what makes no sense is refused with its option."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.helpers.server import run


def config_of(made: Path) -> tuple[str, Path]:
    return "--config", made / "certwright.yaml"


def rows(made: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = orjson.loads(run("renewal", "list", *config_of(made), "-o", "json").stdout)
    return found


def test_a_decision_is_made_listed_and_withdrawn(made: Path) -> None:
    before = rows(made)
    options = ("--issuer", "issuing", "--profile", "TLS_Server", "--before", "2026-01-01", "--within", "12h")
    said = run("renewal", "pull", *options, "--reason-url", "https://ca.example.com/why", *config_of(made)).stdout
    assert "0 certificates are to be renewed before" in said
    (row,) = [one for one in rows(made) if one not in before]
    assert said.startswith(f"{row['id']}: ")
    assert (row["issuer"], row["profile"], row["issued_before"]) == ("issuing", "tls-server", "2026-01-01T00:00:00Z")
    assert (row["reason_url"], row["in_force"]) == ("https://ca.example.com/why", True)
    run("renewal", "withdraw", str(row["id"]), *config_of(made))
    assert [one["in_force"] for one in rows(made) if one["id"] == row["id"]] == [False]
    again = run("renewal", "withdraw", str(row["id"]), *config_of(made), check=False)
    assert (again.returncode, "Traceback" in again.stderr) == (1, False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--issuer", "isuing"), "did you mean 'issuing'?"),
        (("--issuer", "issuing", "--profile", "nope"), "there is no profile"),
        (("--issuer", "issuing", "--before", "yesterday"), "--before: a date or time"),
        (("--issuer", "issuing", "--before", "2999-01-01"), "two times in the past"),
        (("--issuer", "issuing", "--from", "2026-01-02", "--before", "2026-01-01"), "two times in the past"),
        (("--issuer", "issuing", "--within", "1"), "--within: a duration"),
        (("--issuer", "issuing", "--within", "1s"), "at least a minute"),
        (("--issuer", "issuing", "--reason-url", "javascript:alert(1)"), "--reason-url"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(made: Path, options: tuple[str, ...], said: str) -> None:
    before = rows(made)
    done = run("renewal", "pull", *options, *config_of(made), check=False)
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr
    assert rows(made) == before
