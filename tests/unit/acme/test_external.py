"""What a binding gives: its names by the patterns of policy, and nothing when the key has ended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from acmeserver.authentication import Acting
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.external import Binding, binding_from
from acmeserver.external_keys import ExternalKey, KeyState
from acmeserver.jwk import parse_jwk
from acmeserver.problems import Problem
from acmeserver.standing import check_wanted, principal
from pki.clock import Micros
from pki.identifiers import Identifier, parse_dns, parse_ip
from pki.reasons import Rejection
from tests.helpers.acme_client import AccountKey

ENDPOINT = AcmeEndpoint(name="default", profiles=("tls-server",), roles=frozenset({"acme"}))
ACTING = Acting("id", parse_jwk(AccountKey().jwk), "192.0.2.1")
ROW = {
    "external_kid": "kid",
    "e_kid": "kid",
    "e_roles": '["web"]',
    "e_names": '["*.example.com"]',
    "e_profiles": "[]",
    "e_revoked_at": None,
}


def names(*patterns: str) -> Binding:
    return Binding("kid", frozenset(), patterns, ())


@pytest.mark.parametrize(
    ("patterns", "identifier", "owned", "permitted"),
    [
        ((), parse_dns("a.example.com"), False, True),
        (("*.example.com",), parse_dns("a.example.com"), True, True),
        (("*.example.com",), parse_dns("*.example.com"), True, True),
        (("*.example.com",), parse_dns("example.com"), False, False),
        (("*.example.com",), parse_dns("a.b.example.com"), False, False),
        (("*.example.com",), parse_dns("evil-example.com"), False, False),
        (("**.example.com",), parse_dns("a.b.example.com"), True, True),
        (("10.0.0.0/8",), parse_ip("10.1.2.3"), True, True),
        (("10.0.0.0/8",), parse_ip("11.1.2.3"), False, False),
        (("*.example.com",), parse_ip("10.1.2.3"), False, False),
    ],
)
def test_names_are_owned_by_pattern(patterns: tuple[str, ...], identifier: Identifier, owned: bool, permitted: bool) -> None:
    binding = names(*patterns)
    assert (binding.owns(identifier), binding.permits(identifier)) == (owned, permitted)


def test_a_row_without_a_key_is_bound_to_nobody() -> None:
    assert binding_from({**ROW, "external_kid": ""}) is None
    assert binding_from(ROW) == Binding("kid", frozenset({"web"}), ("*.example.com",), ())


@pytest.mark.parametrize("changes", [{"e_revoked_at": 1}, {"e_kid": None}], ids=["revoked", "gone"])
def test_a_key_that_ended_gives_no_binding_at_all(changes: dict[str, object]) -> None:
    """Not even an empty one, which would have the endpoint's roles."""
    with pytest.raises(Problem, match="unauthorized"):
        binding_from({**ROW, **changes})


def test_the_principal_has_the_keys_roles_or_the_endpoints() -> None:
    assert principal(ACTING, ENDPOINT).roles == {"acme"}
    bound = Acting(ACTING.account_id, ACTING.jwk, "", binding_from(ROW))
    assert principal(bound, ENDPOINT).roles == {"web"}
    assert principal(Acting("id", ACTING.jwk, "", names()), ENDPOINT).roles == {"acme"}


def test_what_the_key_does_not_have_is_refused_by_name() -> None:
    binding = Binding("kid", frozenset(), ("*.example.com",), ("short-lived",))
    bound = Acting("id", ACTING.jwk, "", binding)
    check_wanted(bound, profile="short-lived", identifiers=[parse_dns("a.example.com")])
    with pytest.raises(Rejection, match="tls-server"):
        check_wanted(bound, profile="tls-server", identifiers=[parse_dns("a.example.com")])
    with pytest.raises(Rejection) as caught:
        check_wanted(bound, profile="short-lived", identifiers=[parse_dns("a.example.com"), parse_dns("a.example.org")])
    assert [part.identifier for part in caught.value.sub] == ["a.example.org"]


KEY = ExternalKey("kid", "default", frozenset(), (), (), False, Micros(1), None, None, None)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, KeyState.OPEN),
        ({"expires_at": 11}, KeyState.OPEN),
        ({"expires_at": 10}, KeyState.EXPIRED),
        ({"used_at": 5}, KeyState.USED),
        ({"used_at": 5, "reusable": True}, KeyState.OPEN),
        ({"used_at": 5, "expires_at": 9}, KeyState.EXPIRED),
        ({"revoked_at": 9, "expires_at": 9, "used_at": 5}, KeyState.REVOKED),
    ],
)
def test_the_state_of_a_key(changes: dict[str, object], state: KeyState) -> None:
    assert replace(KEY, **changes).state(Micros(10)) is state  # type: ignore[arg-type]  # a table of any fields
