"""`certwright requests`: what an approver is shown, also of what has changed since it was asked for."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from certwright.admin_requests import unix_user
from certwright.compose import make_approvals
from certwright.config import Config, load
from issuance.plan import wanted_names
from issuance.request import ApiKey, Channel, IssuanceRequest, Pending
from pki.clock import Clock, SystemClock
from pki.csr import parse_csr
from policy.engine import NeedsApproval
from policy.principal import Principal, PrincipalKind
from storage.open import open_database
from tests.helpers.ca import make_csr
from tests.helpers.clock import FakeClock
from tests.helpers.server import run


@pytest.fixture
def config(made: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "certwright"
    shutil.copytree(made, directory)
    return directory / "certwright.yaml"


def waiting(config: Path, *names: str, clock: Clock | None = None, **changes: Any) -> str:
    """The id of a request that waits, as if it had come to the server."""
    return asyncio.run(_waiting(load(config), clock or SystemClock(), names, changes))


async def _waiting(config: Config, clock: Clock, names: tuple[str, ...], changes: dict[str, Any]) -> str:
    csr = parse_csr(make_csr(*(names or ("a.example.com",))))
    fields: dict[str, Any] = {
        "channel": Channel.EST,
        "endpoint": "default",
        "principal": Principal(PrincipalKind.EST_USER, "default/printer", frozenset({"device"}), source_address="192.0.2.7"),
        "evidence": (ApiKey("k1"),),
        "profile": "tls-server",
        "csr": csr,
        "identifiers": csr.identifiers,
    }
    request = IssuanceRequest(**{**fields, **changes})
    profile = config.profiles.get(request.profile)
    database = await open_database(config.database, migrate=False)
    try:
        approvals = make_approvals(config, database=database, clock=clock)
        found = await approvals.clear(request, NeedsApproval("careful", ("approver",)), wanted_names(request, profile), profile)
    finally:
        await database.close()
    assert isinstance(found, Pending)
    return found.id


def shown(config: Path, request_id: str) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(run("requests", "show", request_id, "--config", config, "-o", "json").stdout)
    return found


def listed(config: Path, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(run("requests", "list", "--config", config, "-o", "json", *arguments).stdout)
    return found


def test_nothing_waits_at_first(config: Path) -> None:
    assert run("requests", "list", "--config", config).stdout == "none\n"


def test_an_id_never_looks_like_an_option(config: Path) -> None:
    assert re.fullmatch("[0-9a-f]{32}", waiting(config))


def test_all_that_an_approver_has_to_know_is_shown(config: Path) -> None:
    request_id = waiting(config, "*.example.com", "b.example.com")
    found = shown(config, request_id)
    assert found | {"names": [], "subject_alternative_names": []} == {
        **found,
        "id": request_id,
        "state": "pending",
        "names": [],
        "profile": "tls-server",
        "requester": "est-user:default/printer",
        "asked_by": "est default",
        "source_address": "192.0.2.7",
        "roles": ["device"],
        "policy": "careful",
        "key": "EC secp256r1",
        "decided": None,
        "decided_by": None,
        "comment": None,
        "issuer": "issuing",
        "subject": ["CN=*.example.com"],
        "subject_alternative_names": [],
        "key_usage": ["digital_signature"],
        "extended_key_usage": ["1.3.6.1.5.5.7.3.1"],
        "must_staple": False,
        "note": None,
    }
    assert found["names"] == found["subject_alternative_names"] == ["dns:*.example.com", "dns:b.example.com"]
    assert found["not_before"] < found["not_after"]


def test_a_device_is_shown_by_its_name(config: Path) -> None:
    found = shown(config, waiting(config, profile="device", identifiers=(), common_name="router7"))
    assert found["names"] == ["cn:router7"]
    assert found["subject"] == ["CN=router7"]
    assert found["subject_alternative_names"] == []


def test_that_the_server_makes_the_key_is_said(config: Path) -> None:
    asked = parse_csr(make_csr("a.example.com"))
    found = shown(config, waiting(config, asked_with=asked))
    assert found["key"] == "made by the server"
    assert found["key_sha256"] == asked.spki_sha256


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("validity: 47d", "validity: 46d"), "profile tls-server has changed since"),
        (("tls-server", "tls-web"), "there is no profile 'tls-server'"),
    ],
)
def test_a_profile_that_has_changed_is_told_before_and_after_the_decision(
    config: Path, change: tuple[str, str], said: str
) -> None:
    request_id = waiting(config)
    text = config.read_text()
    assert change[0] in text
    config.write_text(text.replace(*change))
    assert said in shown(config, request_id)["note"]
    done = run("requests", "approve", request_id, "--config", config)
    assert said in done.stderr


def test_what_is_over_is_not_listed_as_waiting(config: Path) -> None:
    """The job that writes it down may not have run yet."""
    clock = FakeClock()
    clock.advance(timedelta(microseconds=SystemClock().micros() - clock.micros()) - timedelta(days=8))
    request_id = waiting(config, clock=clock)
    assert listed(config) == []
    (row,) = listed(config, "--state", "all")
    assert (row["id"], row["state"]) == (request_id, "expired")
    done = run("requests", "approve", request_id, "--config", config, check=False)
    assert done.returncode == 1
    assert "has expired" in done.stderr


def test_a_decision_is_listed_with_the_person_who_made_it(config: Path) -> None:
    request_id = waiting(config)
    run("requests", "deny", request_id, "--reason", "no such printer", "--config", config)
    assert listed(config) == []
    (row,) = listed(config, "--state", "denied")
    assert row["id"] == request_id
    found = shown(config, request_id)
    assert found["decided_by"] == f"operator:command-line/{unix_user()}"
    assert found["comment"] == "no such printer"


def test_the_person_is_no_variable_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = unix_user()
    for name in ("USER", "LOGNAME", "SUDO_USER", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert unix_user() == before
    assert pwd.getpwuid(os.getuid()).pw_name in before


@pytest.mark.parametrize("line", ["expire_after: 59m", "pending_per_requester: 0", "stages: 2", "expire_after: forever"])
def test_terms_that_make_no_sense_are_refused_at_their_line(config: Path, line: str) -> None:
    config.write_text(config.read_text() + f"\napprovals: {{{line}}}\n")
    done = run("check", "--config", config, check=False)
    assert done.returncode == 3
    assert re.search(r"certwright\.yaml:\d+:\d+: ", done.stderr)


def test_terms_are_taken(config: Path) -> None:
    config.write_text(config.read_text() + "\napprovals: {expire_after: 30d, pending_per_requester: 5}\n")
    terms = load(config).approvals
    assert (terms.expire_after, terms.pending_per_requester) == (timedelta(days=30), 5)
