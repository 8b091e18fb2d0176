"""docs/est.md against the program: its configurations load, they have every key that there is, and its commands exist."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from ruamel.yaml import YAML

from certwright.config import Config, parse
from certwright.config_schema import Approvals, EstAgents, EstClientCertificates, EstEndpoint, EstLimits, Proxy
from tests.helpers.authorities import Authority
from tests.helpers.ca import CaKey
from tests.helpers.rollover import Rollover
from tests.helpers.server import run

TEXT = (Path(__file__).parents[3] / "docs" / "est.md").read_text()
FENCED = re.findall(r"(?ms)^```yaml\n(.*?)^```", TEXT)
INDENTED = re.findall(r"(?m)^(?:    (?:endpoints|policies|profiles):.*\n(?:     +.*\n|    [a-z_]+:.*\n)*)", TEXT)
SNIPPETS = [*FENCED, *INDENTED]


def yaml() -> YAML:
    made = YAML(typ="safe")
    made.default_flow_style = True
    return made


def read(snippet: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml().load(snippet)
    return found


@pytest.fixture(scope="module")
def folder(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `init` made, with the files beside it that the manual names."""
    folder = tmp_path_factory.mktemp("docs") / "certwright"
    shutil.copytree(made, folder)
    ca = folder / "ca"
    key = load_pem_private_key((ca / "root.key").read_bytes(), (ca / "root.passphrase").read_bytes().strip())
    assert isinstance(key, CaKey)
    rollover = Rollover(x509.load_pem_x509_certificate((ca / "root.pem").read_bytes()), key)
    others = {
        "camera-maker.pem": Authority("Camera Maker").certificate,
        "maker-ca.pem": Authority("Maker").certificate,
        "registrars-ca.pem": Authority("Registrars").certificate,
        "ca/agents.pem": Authority("Agents").certificate,
        "ca/root-1.pem": rollover.old,
        "ca/root-2.pem": rollover.new,
        "ca/root-2-by-root-1.pem": rollover.new_with_old,
        "ca/root-1-by-root-2.pem": rollover.old_with_new,
    }
    for name, certificate in others.items():
        (folder / name).write_bytes(certificate.public_bytes(Encoding.PEM))
    return folder


def loaded(folder: Path, snippet: str) -> Config:
    whole = read((folder / "certwright.yaml").read_text())
    for section, value in read(snippet).items():
        if isinstance(value, list) or section == "approvals":
            whole[section] = value
            continue
        for name, one in value.items():
            if section == "endpoints":
                whole[section].setdefault(name, {}).update(one)
            else:
                whole.setdefault(section, {})[name] = one
    out = io.StringIO()
    yaml().dump(whole, out)
    return parse(folder / "certwright.yaml", out.getvalue())


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_every_configuration_of_the_manual_is_one(folder: Path, number: int) -> None:
    assert loaded(folder, SNIPPETS[number])


def test_the_manual_has_its_configurations_where_they_are_looked_for() -> None:
    """Whatever begins like one is one, so that none is passed over."""
    begun = re.findall(r"(?m)^ *(?:endpoints|issuers|proxies|approvals):", TEXT)
    assert len(begun) == sum(len(re.findall(r"(?m)^ *(?:endpoints|issuers|proxies|approvals):", one)) for one in SNIPPETS)
    assert len(SNIPPETS) >= 8


def keys_in(value: object) -> Iterator[str]:
    match value:
        case dict():
            for name, below in value.items():
                yield str(name)
                yield from keys_in(below)
        case list():
            for one in value:
                yield from keys_in(one)
        case _:
            pass


@pytest.mark.parametrize("model", [EstEndpoint, EstClientCertificates, EstAgents, EstLimits, Proxy, Approvals])
def test_every_key_has_an_example(model: type[EstEndpoint]) -> None:
    shown = {key for snippet in SNIPPETS for key in keys_in(read(snippet))}
    assert set(model.model_fields) - shown == set(), model.__name__


@pytest.mark.parametrize("key", ["server_keygen", "subject_change", "rollover", "require_approval", "secrets_key_file"])
def test_keys_elsewhere_that_est_needs_are_told(key: str) -> None:
    assert f"`{key}" in TEXT or f"{key}:" in TEXT


COMMANDS = sorted(set(re.findall(r"certwright ((?:est|requests|ca|cert) [a-z-]+(?: [a-z-]+)?)", TEXT)))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_manual_is_one_and_has_an_example(command: str) -> None:
    words = command.split()
    words = words if words[0] == "est" else words[:2]
    assert "Example: certwright " in run(*words, "--help").stdout
