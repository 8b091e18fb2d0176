"""docs/scep.md against the program: its configurations load, they have every key that there is, and its commands are ones."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import json
import re
import shlex
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from typer.core import TyperGroup
from typer.exceptions import TyperException

from certwright.cli import app
from certwright.config import Config
from certwright.config_schema_scep import (
    ScepChallengePage,
    ScepEndpoint,
    ScepIntune,
    ScepLimits,
    ScepOneTime,
    ScepRenewal,
    ScepWebhook,
)
from pki.clock import Micros, SystemClock, after
from pki.cms.errors import CmsProblem
from pki.csr import parse_csr
from pki.reasons import Reason
from scep.authorization import Asked
from scep.endpoint import LEGACY, Way
from scep.failinfo import PROBLEMS, REASONS, FailInfo
from scep.services import HttpRequest
from scep.transactions import Place
from scep.webhook import Webhook, question
from tests.helpers.authorities import Extension, Key, certify, constraints, name, usage
from tests.helpers.scep import ScepCa, csr, rsa_key
from tests.unit.certwright.test_docs_est import keys_in, loaded, read

TEXT = (Path(__file__).parents[3] / "docs" / "scep.md").read_text()
SNIPPETS = re.findall(r"(?ms)^```yaml\n(.*?)^```", TEXT)
COMMANDS = sorted(set(re.findall(r"(?m)(?:^(?: {4})?|`|\$\()certwright ([a-z][^`\n#)]*)", TEXT)))


def certificate(
    subject: str, key: Key, *, by: tuple[x509.Name, Key], key_usage: Extension, ca: bool = True
) -> x509.Certificate:
    public = key.public_key()
    own = (x509.SubjectKeyIdentifier.from_public_key(public), False)
    return certify(name(subject), public, by=by, extensions=(constraints(ca=ca), key_usage, own))


@pytest.fixture(scope="module")
def folder(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `init` made, with the files beside it that the manual names."""
    folder = tmp_path_factory.mktemp("docs") / "certwright"
    shutil.copytree(made, folder)
    key = load_pem_private_key((folder / "ca/root.key").read_bytes(), (folder / "ca/root.passphrase").read_bytes().strip())
    assert isinstance(key, rsa.RSAPrivateKey)
    root = x509.load_pem_x509_certificate((folder / "ca/root.pem").read_bytes())
    following = rsa_key("docs following")
    speaks = usage(digital_signature=True, key_encipherment=True)
    signs = usage(key_cert_sign=True, crl_sign=True)
    both = usage(digital_signature=True, key_encipherment=True, key_cert_sign=True, crl_sign=True)
    second = certificate("Root 2", following, by=(name("Root 2"), following), key_usage=signs)
    others = {
        "inventory-ca.pem": root,
        "proxy-ca.pem": root,
        "ca/plain.pem": certificate("Plain", rsa_key("docs plain"), by=(root.subject, key), key_usage=both),
        "ca/devices-2.pem": certificate("Devices 2", rsa_key("docs plain"), by=(name("Root 2"), following), key_usage=signs),
        "ca/root-2.pem": second,
        "ca/scep-encryption.pem": certificate("RA", rsa_key("docs ra"), by=(root.subject, key), key_usage=speaks, ca=False),
        "ca/scep-ra-2.pem": certificate("RA 2", rsa_key("docs ra"), by=(name("Root 2"), following), key_usage=speaks, ca=False),
    }
    for file, one in others.items():
        (folder / file).write_bytes(one.public_bytes(Encoding.PEM))
    for file in ("ca/plain.key", "ca/scep-ra-2.key"):
        shutil.copy(folder / "ca" / "scep-ra.key", folder / file)
    for file, secret in (("webhook.secret", base64.b64encode(bytes(32))), ("intune.secret", b"a" * 40), ("pin", b"1234")):
        (folder / file).touch(0o600)
        (folder / file).write_bytes(secret)
    return folder


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_every_configuration_of_the_manual_is_one(folder: Path, number: int) -> None:
    found: Config = loaded(folder, SNIPPETS[number])
    assert set(read(SNIPPETS[number])["endpoints"]["scep"]) <= set(found.scep)


def test_the_manual_has_its_configurations_where_they_are_looked_for() -> None:
    """Whatever begins like one is one, so that none is passed over."""
    begun = re.findall(r"(?m)^ *(?:endpoints|issuers|profiles|registration_authorities):", TEXT)
    assert len(begun) == sum(len(re.findall(r"(?m)^[a-z_]+:", one)) for one in SNIPPETS)
    assert len(SNIPPETS) >= 10


@pytest.mark.parametrize(
    "model",
    [ScepEndpoint, ScepRenewal, ScepOneTime, ScepChallengePage, ScepWebhook, ScepIntune, ScepLimits],
)
def test_every_key_has_an_example(model: type[ScepEndpoint]) -> None:
    shown = {key for snippet in SNIPPETS for key in keys_in(read(snippet))}
    assert set(model.model_fields) - shown == set(), model.__name__


def parsed(words: Sequence[str]) -> None:
    """By the program's own command line, without running anything. Raises typer.exceptions.TyperException."""
    command: Any = typer.main.get_command(app)
    context, arguments = command.context_class(command), list(words)
    while isinstance(command, TyperGroup):
        _, command, arguments = command.resolve_command(context, arguments)
    command.make_context(words[-1], arguments, parent=context).close()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_manual_is_one(command: str) -> None:
    *words, last = shlex.split(command)
    for alternative in last.split("|"):
        parsed([*words, alternative])


def test_there_are_commands_and_one_that_is_none_is_seen() -> None:
    assert len(COMMANDS) >= 10
    with pytest.raises(TyperException):
        parsed(["scep", "challenge", "create", "--no-such-option"])


def test_what_a_webhooks_server_is_told_to_check_fits_what_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"(?ms)^```python\n(.*?)^```", TEXT)
    (tmp_path / "webhook.secret").write_bytes(base64.b64encode(b"k" * 32) + b"\n")
    monkeypatch.chdir(tmp_path)
    program: dict[str, Any] = {"base64": base64, "datetime": dt, "hashlib": hashlib, "hmac": hmac, "json": json, "Path": Path}
    exec(code, program)  # noqa: S102  # our own manual's

    def sent(at: Micros, new_id: str, secret: bytes = b"k" * 32) -> HttpRequest:
        hook = Webhook("https://a/", secret, timedelta(seconds=1), frozenset({"device"}))
        asked = Asked(ScepCa().endpoint(), Place("default", "TX", "00"), parse_csr(csr(rsa_key("device"))), "192.0.2.1")
        return question(hook, asked, at=at, new_id=new_id)

    def accepted(request: HttpRequest) -> bool:
        return program["verified"](request.headers, request.body) is not None

    now = SystemClock().micros()
    assert accepted(sent(now, "1"))
    assert not accepted(sent(now, "1"))  # again
    assert accepted(sent(now, "2"))
    assert not accepted(sent(now, "3", secret=b"x" * 32))
    assert not accepted(sent(after(now, timedelta(minutes=-6)), "4"))


def test_whatever_there_is_to_choose_is_told() -> None:
    assert [way.value for way in Way if f"`{way.value}`" not in TEXT] == []
    assert [one for one in LEGACY if one not in TEXT] == []


def test_every_fail_info_has_its_row_and_those_that_say_never_are_never_sent() -> None:
    rows = dict(re.findall(r"(?m)^\| (bad\w+) \((\d)\) \|", TEXT))
    spelled = {info: "".join(word.title() for word in info.name.split("_")) for info in FailInfo}
    assert {f"{name[0].lower()}{name[1:]}": info.value for info, name in spelled.items()} == rows
    sent = {*REASONS.values(), *PROBLEMS.values()}
    assert (len(REASONS), len(PROBLEMS)) == (len(Reason), len(CmsProblem))
    assert set(FailInfo) - sent == {FailInfo.BAD_TIME}
