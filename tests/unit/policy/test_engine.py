"""Who may have what: deny unless one rule allows all of it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pki.identifiers import parse_dns
from pki.reasons import Reason
from policy.engine import Allow, Decision, Deny, NeedsApproval, Wanted, decide
from policy.principal import Principal, PrincipalKind
from policy.rules import Policy
from tests.helpers.profiles import profile

SERVERS = Policy(
    name="webserver_issuer",
    roles=frozenset({"web_admin", "devops_engineer"}),
    allowed_profiles=frozenset({"tls-server"}),
    allowed_sans=("*.example.com", "*.prod.example.com"),
    max_validity=timedelta(days=90),
)
SIGNING = Policy(
    name="code_signing_issuer",
    roles=frozenset({"release_manager"}),
    allowed_profiles=frozenset({"code-signing"}),
    allowed_common_names=("*",),
    max_validity=timedelta(days=365),
    require_approval=True,
)
RULES = [SERVERS, SIGNING]


def ask(role: str, profile_name: str, *names: str, cn: str | None = None, days: int | None = None) -> Decision:
    principal = Principal(PrincipalKind.API_KEY, "k1", frozenset({role}))
    wanted = Wanted(profile(profile_name), tuple(parse_dns(name) for name in names), cn, timedelta(days=days) if days else None)
    return decide(RULES, principal, wanted)


def test_a_request_that_one_rule_allows_whole_is_allowed_by_name() -> None:
    assert ask("web_admin", "tls-server", "a.example.com", "b.prod.example.com") == Allow("webserver_issuer")


def test_a_rule_that_asks_for_an_approval_says_so() -> None:
    assert isinstance(ask("release_manager", "code-signing", cn="Release Key"), NeedsApproval)


@pytest.mark.parametrize(
    ("decision", "reason", "says"),
    [
        (ask("nobody", "tls-server", "a.example.com"), Reason.FORBIDDEN, "nobody"),
        (ask("web_admin", "code-signing", "a.example.com"), Reason.FORBIDDEN, "code-signing"),
        (ask("web_admin", "tls-server", "a.example.com", "a.evil.com"), Reason.REJECTED_IDENTIFIER, "a.evil.com"),
        (ask("web_admin", "tls-server", "evil-example.com"), Reason.REJECTED_IDENTIFIER, "evil-example.com"),
        (ask("web_admin", "tls-server", "a.example.com", cn="root"), Reason.REJECTED_IDENTIFIER, "root"),
        (ask("web_admin", "tls-server", "a.example.com", days=91), Reason.INVALID_VALIDITY, "90 days"),
    ],
)
def test_a_refusal_says_what_is_missing(decision: Decision, reason: Reason, says: str) -> None:
    assert isinstance(decision, Deny)
    assert decision.rejection.reason is reason
    assert says in decision.rejection.detail


def test_two_rules_do_not_add_up() -> None:
    """One grants the names, another the profile: together they grant nothing."""
    names = Policy("names", frozenset({"r"}), frozenset({"other"}), allowed_sans=("*",))
    profiles = Policy("profiles", frozenset({"r"}), frozenset({"tls-server"}), allowed_sans=("x.example.com",))
    principal = Principal(PrincipalKind.API_KEY, "k", frozenset({"r"}))
    assert isinstance(decide([names, profiles], principal, Wanted(profile("tls-server"), (parse_dns("a.b"),), None)), Deny)


def test_no_rules_allow_nothing() -> None:
    principal = Principal(PrincipalKind.OPERATOR, "root", frozenset({"admin", "operator"}))
    assert isinstance(decide([], principal, Wanted(profile("tls-server"), (parse_dns("a.b"),), None)), Deny)
