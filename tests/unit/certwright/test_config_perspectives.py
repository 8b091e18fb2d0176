"""What is wrong with `validation.perspectives`, or cannot go with an onion, is said at its line before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from certwright import doctor
from certwright.config import Config, parse
from certwright.failures import REFUSED
from certwright.yaml_positions import ConfigError
from pki.clock import SystemClock
from tests.helpers.perspectives import Pki


def text_of(made: Path, pki: Pki, *addresses: str, more: str = "", profile: str = "") -> str:
    certificate, key = pki.server()
    files = f"ca_file: {pki.ca_file}, certificate: {certificate}, key_file: {key}"
    listed = "".join(f'    at-{number}: {{url: "{url}", {files}}}\n' for number, url in enumerate(addresses))
    text = (made / "certwright.yaml").read_text()
    assert "\nvalidation:\n" in text
    text = text.replace("\n  tls-server:\n", f"\n  tls-server:\n{profile}", 1)
    return text.replace("\nvalidation:\n", f"\nvalidation:\n{more}" + (f"  perspectives:\n{listed}" if listed else ""), 1)


def read(made: Path, text: str) -> Config:
    return parse(made / "certwright.yaml", text, {})


def refusals(made: Path, text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        read(made, text)
    return str(raised.value)


URLS = ("https://198.51.100.1:9444", "https://198.51.100.2:9444", "https://198.51.100.3:9444")


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def test_without_any_nobody_else_is_asked(made: Path, pki: Pki) -> None:
    validation = read(made, text_of(made, pki)).validation
    assert (validation.perspectives, validation.perspectives_needed) == ((), 0)


def test_without_a_quorum_it_is_that_of_the_baseline_requirements(made: Path, pki: Pki) -> None:
    validation = read(made, text_of(made, pki, *URLS)).validation
    assert [one.url for one in validation.perspectives] == list(URLS)
    assert [one.name for one in validation.perspectives] == ["at-0", "at-1", "at-2"]
    assert validation.perspectives_needed == 2


def test_a_quorum_is_what_the_operator_says(made: Path, pki: Pki) -> None:
    assert read(made, text_of(made, pki, *URLS, more="  quorum: 3\n")).validation.perspectives_needed == 3


def test_as_many_are_waited_for_as_the_strictest_profile_wants(made: Path, pki: Pki) -> None:
    text = text_of(made, pki, *URLS, more="  quorum: 1\n")
    strict = text.replace("validity: 47d", "validity: 47d\n    perspectives_required: 3", 1)
    assert strict != text
    assert read(made, strict).validation.perspectives_needed == 3


def test_a_quorum_above_their_number_is_refused(made: Path, pki: Pki) -> None:
    assert "it is 4, and there are 3 perspectives" in refusals(made, text_of(made, pki, *URLS, more="  quorum: 4\n"))
    assert "it is 1, and there are 0 perspectives" in refusals(made, text_of(made, pki, more="  quorum: 1\n"))


def test_a_profile_that_asks_for_more_than_there_are_is_refused(made: Path, pki: Pki) -> None:
    said = refusals(made, text_of(made, pki, *URLS, profile="    perspectives_required: 4\n"))
    assert "4 perspectives, and validation.perspectives has 3" in said
    assert read(made, text_of(made, pki, *URLS, profile="    perspectives_required: 3\n"))


def test_they_are_asked_over_https_only(made: Path, pki: Pki) -> None:
    assert "https only" in refusals(made, text_of(made, pki, "http://198.51.100.1:9444"))


def test_files_that_are_not_there_or_are_for_everybody_are_named(made: Path, pki: Pki) -> None:
    text = text_of(made, pki, *URLS[:1])
    pki.server()[1].chmod(0o644)
    assert "anybody on this machine can read" in refusals(made, text)
    pki.ca_file.unlink()
    assert f"there is no file {pki.ca_file}" in refusals(made, text)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("https://198.51.100.1:9444", "https://198.51.100.1:9444"),
        ("https://agent.example.com", "https://AGENT.example.com:443"),
        ("https://[2001:db8::1]:9444", "https://[2001:db8:0::1]:9444"),
    ],
)
def test_one_agent_has_one_voice(made: Path, pki: Pki, first: str, second: str) -> None:
    said = refusals(made, text_of(made, pki, first, "https://198.51.100.7:9444", second))
    assert "'at-0' is there already; every perspective is an agent of its own" in said


def test_a_quorum_of_nobody_is_refused(made: Path, pki: Pki) -> None:
    assert "greater than or equal to 1" in refusals(made, text_of(made, pki, *URLS, more="  quorum: 0\n"))


def test_caa_and_onions_do_not_go_together(made: Path) -> None:
    """Their CAA records are where only Tor gets at (RFC 9799 §6)."""
    text = (made / "certwright.yaml").read_text()
    identities = text.replace("\nvalidation:\n", "\nvalidation:\n  caa_identities: [ca.example.com]\n", 1)
    old = "challenges: [http-01, dns-01, tls-alpn-01]"
    assert old in text
    assert read(made, text.replace(old, "challenges: [http-01, onion-csr-01]", 1)).acme["default"].challenges == (
        "http-01",
        "onion-csr-01",
    )
    for both in (
        identities.replace(old, "challenges: [http-01, onion-csr-01], caa: true", 1),
        identities.replace(old, "challenges: [onion-csr-01]", 1).replace(
            "\n  short-lived:\n", "\n  short-lived:\n    caa: true\n", 1
        ),
    ):
        assert "make an endpoint of its own" in refusals(made, both)


def test_check_finds_a_key_that_is_not_its_certificates(made: Path, pki: Pki, capsys: pytest.CaptureFixture[str]) -> None:
    file = made / "certwright.yaml"
    file.write_text(text_of(made, pki, *URLS[:1]))
    clock = SystemClock()
    doctor.check(file, clock)
    assert "[warn] our certificate for perspective at-0 is good until" in capsys.readouterr().out  # Pki's live for a day
    pki.server()[1].write_bytes(pki.agent("127.0.0.2")[1].read_bytes())
    assert doctor.check(file, clock) == REFUSED
    assert "[fail] perspective at-0: " in capsys.readouterr().out
