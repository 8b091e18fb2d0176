"""`renewal_info`, `auto_renewal` and the descriptions of profiles: off unless they are there, and refused where they cannot work."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from acmeserver.endpoint import AutoRenewalRules, RenewalInfo
from certwright.compose_acme import acme_endpoint
from certwright.config import Config, parse
from certwright.yaml_positions import ConfigError

ENDPOINT = "profiles: [tls-server, short-lived], "
DAY = timedelta(days=1)


def load(made: Path, added: str, *, old: str = ENDPOINT) -> Config:
    text = (made / "certwright.yaml").read_text().replace(", renewal_info: {}", "")
    assert text.count(old) == 1
    return parse(made / "certwright.yaml", text.replace(old, f"{old}{added}, " if old is ENDPOINT else f"{old}{added}"))


def test_the_defaults_of_renewal_information(made: Path) -> None:
    endpoint = acme_endpoint(load(made, "renewal_info: {}").acme["default"])
    assert endpoint.renewal_info == RenewalInfo(window_start=66, window_end=83, retry_after=timedelta(hours=6))
    assert endpoint.auto_renewal is None


def test_a_window_of_ones_own(made: Path) -> None:
    added = "renewal_info: {window_start: 50%, window_end: 60%, retry_after: 1h}"
    endpoint = acme_endpoint(load(made, added).acme["default"])
    assert endpoint.renewal_info == RenewalInfo(window_start=50, window_end=60, retry_after=timedelta(hours=1))


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("renewal_info: {window_start: 90%}", "the window ends after its start"),
        ("renewal_info: {window_start: 50%, window_end: 50%}", "the window ends after its start"),
        ("renewal_info: {window_start: 0.66}", "a share of the lifetime, such as 66%"),
        ("renewal_info: {window_end: 101%}", "a share of the lifetime, such as 66%"),
        ("renewal_info: {retry_after: 30s}", "clients take 1m to 24h"),
        ("renewal_info: {retry_after: 2d}", "clients take 1m to 24h"),
        ("renewal_info: {windowstart: 60%}", "did you mean 'window_start'"),
    ],
)
def test_renewal_information_that_makes_no_sense_is_refused_at_its_place(made: Path, added: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(made, added)


def renewing(made: Path, rules: str, *, evidence: str = "evidence_max_age: 30d", validity: str = "47d") -> Config:
    """On an endpoint of one profile."""
    text = (made / "certwright.yaml").read_text()
    text = text.replace(ENDPOINT, f"profiles: [tls-server], auto_renewal: {rules}, ", 1)
    first = "    issuer: issuing\n    validity: 47d\n"
    return parse(
        made / "certwright.yaml", text.replace(first, f"    issuer: issuing\n    validity: {validity}\n    {evidence}\n", 1)
    )


def test_orders_that_renew_themselves_need_proofs_that_last_as_long(made: Path) -> None:
    endpoint = acme_endpoint(renewing(made, "{max_duration: 30d, allow_certificate_get: true}").acme["default"])
    assert endpoint.auto_renewal == AutoRenewalRules(min_lifetime=DAY, max_duration=30 * DAY, allow_get=True)


@pytest.mark.parametrize(
    ("rules", "changes", "said"),
    [
        ("{}", {}, "no proof that is older than its evidence_max_age"),  # 90 days, and the profile takes 30
        ("{max_duration: 31d}", {}, "no proof that is older than its evidence_max_age"),
        ("{max_duration: 30d, min_lifetime: 59m}", {}, "at least 1h"),
        ("{max_duration: 1d, min_lifetime: 2d}", {}, "shorter than min_lifetime"),
        ("{max_duration: 30d}", {"validity": "36h"}, "one and a half lifetimes"),
    ],
)
def test_a_renewal_that_could_not_go_on_to_its_end_is_refused(
    made: Path, rules: str, changes: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        renewing(made, rules, **changes)


def test_the_description_of_a_profile_is_handed_over(made: Path) -> None:
    old = "  tls-server:\n    issuer: issuing\n"
    config = load(made, "    description: for web servers\n", old=old)
    assert config.profiles.get("tls-server").description == "for web servers"
    assert config.profiles.get("short-lived").description == ""


def test_orders_that_renew_themselves_do_not_rest_on_records_that_end(made: Path) -> None:
    """An order of ninety days would go on long after the persistUntil of the record that proved its name."""
    changes = [
        (
            "challenges: [http-01, dns-01, tls-alpn-01]",
            "challenges: [http-01, dns-persist-01], auto_renewal: {max_duration: 30d}",
        ),
        ("\nvalidation:\n", "\nvalidation:\n  caa_identities: [ca.example.com]\n"),
    ]
    text = (made / "certwright.yaml").read_text()
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    with pytest.raises(ConfigError, match="prove nothing after their persistUntil"):
        parse(made / "certwright.yaml", text)
    assert parse(made / "certwright.yaml", text.replace(", auto_renewal: {max_duration: 30d}", "")).acme
