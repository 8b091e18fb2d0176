"""Limits, origins and retention in the configuration: defaults for a private CA, null for none, and mistakes at their line."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from acmeserver.limits import LimitRules
from acmeserver.retention import Kept
from certwright.compose_acme import acme_endpoint
from certwright.config import Config, parse
from certwright.yaml_positions import ConfigError
from policy.limits import Limit

HOUR = timedelta(hours=1)
ENDPOINT = "challenges: [http-01, dns-01, tls-alpn-01]"


def read(made: Path, *, endpoint: str = "", end: str = "") -> Config:
    text = (made / "certwright.yaml").read_text()
    assert text.count(ENDPOINT) == 1
    return parse(made / "certwright.yaml", text.replace(ENDPOINT, f"{ENDPOINT}{endpoint}") + end, {})


def mistakes(made: Path, **parts: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read(made, **parts)
    return [str(problem) for problem in raised.value.problems]


def test_the_defaults_stop_a_broken_client_and_not_a_fleet(made: Path) -> None:
    config = read(made)
    assert acme_endpoint(config.acme["default"]).limits == LimitRules(
        accounts_per_address=Limit(100, 3 * HOUR),
        orders_per_account=Limit(1000, 3 * HOUR),
        orders_per_name=None,
        failed_validations=Limit(60, HOUR),
        pending_authorizations=1000,
    )
    assert acme_endpoint(config.acme["default"]).cors == ()
    assert config.retention == Kept(unfinished=timedelta(days=30), issued=timedelta(days=730))


def test_each_limit_is_raised_by_itself_and_only_null_removes_one(made: Path) -> None:
    given = ", limits: {orders_per_account: 9/1m, orders_per_name: 5/7d, failed_validations: null, help: 'https://ca.test/l'}"
    rules = acme_endpoint(read(made, endpoint=given).acme["default"]).limits
    assert rules == LimitRules(
        accounts_per_address=Limit(100, 3 * HOUR),
        orders_per_account=Limit(9, timedelta(minutes=1)),
        orders_per_name=Limit(5, timedelta(days=7)),
        failed_validations=None,
        pending_authorizations=1000,
        help="https://ca.test/l",
    )


def test_without_a_page_about_limits_the_website_helps(made: Path) -> None:
    config = read(made, endpoint=", website: 'https://ca.test/about'")
    assert acme_endpoint(config.acme["default"]).limits.help == "https://ca.test/about"


@pytest.mark.parametrize(
    "value",
    ["false", "off", "0/3h", "-1/3h", "300", "300/0s", "300 per hour", "1e3/3h", "300/3h/2", "300/", "/3h", "9999999999/1s"],
)
def test_what_is_no_limit_is_a_mistake_and_not_the_end_of_all_limits(made: Path, value: str) -> None:
    (said,) = mistakes(made, endpoint=f", limits: {{orders_per_account: {value}}}")
    assert "a limit " in said or "a duration is" in said


@pytest.mark.parametrize("value", ["null", "false", "off", "none"])
def test_there_is_no_switch_for_all_limits(made: Path, value: str) -> None:
    assert mistakes(made, endpoint=f", limits: {value}")


@pytest.mark.parametrize("value", ["0", "-5", "1.5", "many"])
def test_a_cap_is_a_number_of_authorizations(made: Path, value: str) -> None:
    assert mistakes(made, endpoint=f", limits: {{pending_authorizations: {value}}}")


@pytest.mark.parametrize("origin", ["https://portal.example.com", "http://localhost:3000", "https://[::1]:8443", "*"])
def test_an_origin_is_taken_as_browsers_send_it(made: Path, origin: str) -> None:
    assert acme_endpoint(read(made, endpoint=f", cors: ['{origin}']").acme["default"]).cors == (origin,)


@pytest.mark.parametrize(
    "origins",
    [
        "['https://portal.example.com/']",
        "['https://Portal.example.com']",
        "['https://portal.example.com:443']",
        "['http://portal.example.com:80']",
        "['https://portal.example.com/acme']",
        "['portal.example.com']",
        "['null']",
        "['https://*.example.com']",
        "['*', 'https://portal.example.com']",
        "'*'",
    ],
)
def test_an_origin_that_no_browser_sends_is_a_mistake(made: Path, origins: str) -> None:
    assert mistakes(made, endpoint=f", cors: {origins}")


@pytest.mark.parametrize("name", ["unfinished", "issued"])
def test_what_has_just_expired_is_not_removed(made: Path, name: str) -> None:
    (said,) = mistakes(made, end=f"\nretention: {{{name}: 1h}}\n")
    assert "at least 1d" in said
    kept = read(made, end=f"\nretention: {{{name}: 1d}}\n").retention
    assert getattr(kept, name) == timedelta(days=1)
