"""What is wrong with the webhook or the Intune of a SCEP endpoint is said at its line, and its secrets are nowhere shown."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from certwright.config import Config, parse
from certwright.yaml_positions import ConfigError
from tests.helpers.perspectives import Pki

KEY = bytes(range(32))
CLIENT_SECRET = "abc8Q~secret-value.of-the-application"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return secret_file(tmp_path / "secret", base64.b64encode(KEY))


def secret_file(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content + b"\n")
    return path


def read(made: Path, block: str, challenge: str) -> Config:
    text = (made / "certwright.yaml").read_text()
    mark = "\n  scep:\n    default:\n"
    assert text.count(mark) == 1
    given = f"{{profile: device, registration_authority: scep, challenge: [{challenge}], {block}}}"
    return parse(made / "certwright.yaml", text.replace(mark, f"\n  scep:\n    asking: {given}\n    default:\n"), {})


def refusals(made: Path, block: str, challenge: str) -> str:
    with pytest.raises(ConfigError) as raised:
        read(made, block, challenge)
    return str(raised.value)


def webhook(secret: Path, *, url: str = "https://mdm.example.com/scep", more: str = "") -> str:
    return f'webhook: {{url: "{url}", secret_file: {secret}, roles: [phone]{more}}}'


def intune(secret: Path, *, more: str = "") -> str:
    return f"intune: {{tenant: contoso.onmicrosoft.com, client_id: app, client_secret_file: {secret}, roles: [managed]{more}}}"


def test_a_webhooks_secret_is_read_from_base64_as_step_ca_shows_it(made: Path, secret: Path) -> None:
    found = read(made, webhook(secret), "webhook").scep["asking"].webhook
    assert found is not None
    assert (found.url, found.secret, found.roles) == ("https://mdm.example.com/scep", KEY, frozenset({"phone"}))
    assert (found.timeout.total_seconds(), found.ca_file) == (10, None)
    assert repr(KEY) not in repr(found)


def test_a_webhooks_secret_that_is_too_short_or_no_base64_is_refused(made: Path, tmp_path: Path) -> None:
    for content in (b"c2hvcnQ=", b"not base64 at all, however long it may be", b"\xff" * 40):
        said = refusals(made, webhook(secret_file(tmp_path / "other", content)), "webhook")
        assert "at least 16 octets in Base64: make them with (umask 077; openssl rand -base64 32 > FILE)" in said
        assert content.decode("latin-1") not in said
    assert "is empty" in refusals(made, webhook(secret_file(tmp_path / "other", b"")), "webhook")


def test_secrets_that_everybody_can_read_or_that_are_not_there_are_refused(made: Path, secret: Path) -> None:
    secret.chmod(0o644)
    assert "anybody on this machine can read" in refusals(made, webhook(secret), "webhook")
    secret.unlink()
    assert f"there is no file {secret}" in refusals(made, webhook(secret), "webhook")


def test_secrets_go_over_https_or_not_further_than_this_machine(made: Path, secret: Path) -> None:
    for url in ("http://mdm.example.com/scep", "http://192.0.2.1", "ftp://mdm.example.com", "https://u:p@mdm.example.com"):
        assert refusals(made, webhook(secret, url=url), "webhook")
    for url in ("http://127.0.0.1:8000/scep", "http://localhost:8000"):
        assert read(made, webhook(secret, url=url), "webhook")


def test_a_ca_file_has_to_hold_certificates(made: Path, secret: Path, tmp_path: Path) -> None:
    good = Pki(tmp_path).ca_file
    found = read(made, webhook(secret, more=f", ca_file: {good}"), "webhook").scep["asking"].webhook
    assert found is not None
    assert found.ca_file == good
    assert "holds no certificate in PEM" in refusals(made, webhook(secret, more=f", ca_file: {secret}"), "webhook")


def test_intune_speaks_to_microsoft_by_itself(made: Path, tmp_path: Path) -> None:
    secret = secret_file(tmp_path / "client", CLIENT_SECRET.encode())
    found = read(made, intune(secret), "intune").scep["asking"].intune
    assert found is not None
    assert (found.login_url, found.graph_url) == ("https://login.microsoftonline.com", "https://graph.microsoft.com")
    assert (found.client_secret, found.roles) == (CLIENT_SECRET, frozenset({"managed"}))
    assert CLIENT_SECRET not in repr(found)


def test_the_secrets_id_is_not_the_secret(made: Path, tmp_path: Path) -> None:
    """Microsoft shows both, one beside the other."""
    for content in (b"5d1e3c0a-0000-4000-8000-000000000001", b"short", b"with\nlines of text in it"):
        said = refusals(made, intune(secret_file(tmp_path / "client", content)), "intune")
        assert "its Value, which Microsoft shows once, not its Secret ID" in said
        assert content.decode() not in said


def test_intunes_devices_do_not_wait_for_approval(made: Path, tmp_path: Path) -> None:
    secret = secret_file(tmp_path / "client", CLIENT_SECRET.encode())
    assert "Intune's devices do not wait" in refusals(made, f"{intune(secret)}, require_approval: true", "intune")


def test_a_block_belongs_to_its_way_and_the_other_way_round(made: Path, secret: Path) -> None:
    assert "webhook belongs in `challenge` and has a block of its own: give both, or neither" in refusals(
        made, webhook(secret), "static"
    )
    assert "intune belongs in `challenge`" in refusals(made, "require_approval: false", "intune")


def test_what_makes_one_time_challenges_needs_a_way_in_for_them(made: Path) -> None:
    for block in ("challenge_page: {roles: [device]}", "one_time: {makers: [operator]}"):
        assert "it makes one-time challenges: add one-time to challenge" in refusals(made, block, "static")
        assert read(made, block, "static, one-time")
