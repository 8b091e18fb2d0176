"""`server_keygen`: it takes the profile's word and the label's, and no server's key is ever made elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from certwright.config import Config, parse
from certwright.yaml_positions import ConfigError
from tests.helpers.neighbourhood import with_key_generation


def load(made: Path, text: str) -> Config:
    return parse(made / "certwright.yaml", text)


def configured(made: Path) -> str:
    return (made / "certwright.yaml").read_text()


def test_it_is_off_until_both_say_so(made: Path) -> None:
    assert not load(made, configured(made)).est["default"].server_keygen
    config = load(made, with_key_generation(configured(made)))
    assert config.est["default"].server_keygen
    assert config.profiles.get("device").server_keygen


def test_a_label_whose_profile_does_not_allow_it_is_refused(made: Path) -> None:
    text = with_key_generation(configured(made)).replace("  device:\n    server_keygen: true\n", "  device:\n", 1)
    with pytest.raises(ConfigError, match="profile device does not allow it; say server_keygen: true there"):
        load(made, text)


@pytest.mark.parametrize(
    "profile",
    [
        "server_keygen: true, extended_key_usage: [serverAuth]",
        "server_keygen: true, extended_key_usage: [clientAuth, 1.3.6.1.5.5.7.3.1]",
        "server_keygen: true",  # a profile that says nothing of usages is a server's
    ],
)
def test_a_profile_for_servers_is_refused(made: Path, profile: str) -> None:
    text = configured(made).replace("  device:\n", f"  gateway: {{issuer: devices, {profile}}}\n  device:\n", 1)
    with pytest.raises(ConfigError, match="the key of a server is made by the server"):
        load(made, text)
