"""Which challenge may prove which name, and how a name is proved in more than one way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acmeserver.endpoint import AcmeEndpoint
from acmeserver.names import Name, challenges_for, parse_names, slots
from acmeserver.problems import Problem, WireIdentifier
from issuance.evidence import family, is_below
from pki.identifiers import DnsName, Identifier, parse_dns, parse_ip
from pki.reasons import Rejection
from policy.limits import is_public_suffix
from tests.helpers.profiles import profile

ALL = ("http-01", "dns-01", "dns-account-01", "dns-persist-01", "tls-alpn-01", "onion-csr-01")
DNS = ("dns-01", "dns-account-01", "dns-persist-01")
ONION = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"


@pytest.mark.parametrize(
    ("identifier", "fit"),
    [
        (parse_dns("a.example.com"), ("http-01", *DNS, "tls-alpn-01")),
        (parse_dns("*.example.com"), DNS),
        (parse_ip("192.0.2.1"), ("http-01", "tls-alpn-01")),
        (parse_ip("2001:db8::1"), ("http-01", "tls-alpn-01")),
        (parse_dns(ONION), ("onion-csr-01",)),  # to connect to it would take Tor
        (parse_dns(f"*.{ONION}"), ("onion-csr-01",)),
    ],
    ids=str,
)
def test_what_fits_what(identifier: Identifier, fit: tuple[str, ...]) -> None:
    assert challenges_for(identifier, ALL) == fit


def test_an_ancestor_is_proved_in_the_dns() -> None:
    assert challenges_for(parse_dns("a.example.com"), ALL, ancestor=DnsName("example.com")) == DNS


@pytest.mark.parametrize(
    ("identifier", "offered"),
    [
        (parse_dns("*.example.com"), ("http-01", "tls-alpn-01")),
        (parse_ip("192.0.2.1"), DNS),
        (parse_dns(ONION), DNS),
        (parse_dns("a.example.com"), ("onion-csr-01",)),
    ],
    ids=str,
)
def test_a_name_that_nothing_fits_is_refused_with_what_it_needs(identifier: Identifier, offered: tuple[str, ...]) -> None:
    with pytest.raises(Rejection) as refused:
        challenges_for(identifier, offered)
    assert str(identifier) in refused.value.detail
    assert ", ".join(offered) in refused.value.detail


@given(st.lists(st.sampled_from(ALL), min_size=1, unique=True), st.integers(1, 4))
def test_the_authorizations_of_a_name_share_no_family_and_leave_no_challenge_out(offered: list[str], wanted: int) -> None:
    name = Name(WireIdentifier("dns", "a.example.com"), parse_dns("a.example.com"), tuple(offered))
    families = {family(kind) for kind in offered}
    if len(families) < wanted:
        with pytest.raises(Problem):
            slots([name], profile(methods_required=wanted))
        return
    parts = slots([name], profile(methods_required=wanted))[name]
    assert len(parts) == wanted
    assert all(parts)
    assert sorted(kind for part in parts for kind in part) == sorted(offered)
    seen = [{family(kind) for kind in part} for part in parts]
    assert sum(map(len, seen)) == len(set().union(*seen))


_LABEL = st.from_regex(r"[a-z]{1,5}", fullmatch=True)
_NAME = st.lists(_LABEL, min_size=1, max_size=4).map(".".join)


@given(_NAME, _NAME)
def test_below_is_what_the_labels_say(name: str, ancestor: str) -> None:
    labels, above = name.split("."), ancestor.split(".")
    expected = len(labels) > len(above) and labels[-len(above) :] == above
    assert is_below(DnsName(name), DnsName(ancestor)) is expected


@given(_NAME, _NAME)
def test_no_order_is_let_past_a_public_suffix_or_to_a_stranger(name: str, ancestor: str) -> None:
    endpoint = AcmeEndpoint(name="e", profiles=("tls-server",), challenges=ALL, subdomains=True)
    try:
        (found,) = parse_names(
            [WireIdentifier("dns", name)],
            [ancestor],
            endpoint=endpoint,
            is_public_suffix=is_public_suffix,
            owns=lambda _: False,
        )
    except Problem:
        return
    assert found.proved == DnsName(name) or (is_below(DnsName(name), found.proved) and "." in str(found.proved))
