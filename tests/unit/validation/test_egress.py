"""Which addresses validation may go to: IANA's special-purpose registries, IPv4 inside IPv6, and the operator's word."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.egress import SPECIAL_V4, SPECIAL_V6, Egress, Refused, embedded


@pytest.mark.parametrize("text", [network for network, _ in (*SPECIAL_V4, *SPECIAL_V6)])
def test_first_and_last_address_of_every_special_block_are_refused(text: str) -> None:
    network = ipaddress.ip_network(text)
    for address in (network[0], network[-1]):
        assert "special-purpose" in (Egress().refusal(address) or "")


@pytest.mark.parametrize(
    "text", ["1.1.1.1", "9.255.255.255", "11.0.0.0", "172.32.0.0", "223.255.255.255", "2606:4700::1", "2a00::1"]
)
def test_public_addresses_are_permitted(text: str) -> None:
    assert Egress().refusal(ipaddress.ip_address(text)) is None


@given(st.ip_addresses(v=6).filter(lambda address: int(address) >> 125 != 1))
def test_nothing_outside_global_unicast_is_permitted(address: ipaddress.IPv6Address) -> None:
    assert Egress().refusal(address) is not None


@given(st.ip_addresses())
def test_what_the_standard_library_calls_private_is_refused_too(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast or address.is_reserved:
        assert Egress().refusal(address) is not None


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("::ffff:192.0.2.33", ["192.0.2.33"]),
        ("::ffff:0:192.0.2.33", ["192.0.2.33"]),
        ("::192.0.2.33", ["192.0.2.33"]),
        ("64:ff9b::192.0.2.33", ["192.0.2.33"]),
        ("64:ff9b:1:2::192.0.2.33", ["192.0.2.33"]),
        ("2002:c000:221::1", ["192.0.2.33"]),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", ["65.54.227.120", "192.0.2.45"]),  # RFC 4380 §4 by example
        ("2a00:1450::5efe:c000:221", ["192.0.2.33"]),  # ISATAP
        ("2a00:1450::200:5efe:c000:221", ["192.0.2.33"]),
        ("2a00:1450::100:5efe:c000:221", []),
        ("::", []),
        ("::1", []),
        ("2001:db8::c000:221", []),
        ("192.0.2.33", []),
    ],
)
def test_ipv4_inside_ipv6_is_found(outer: str, inner: list[str]) -> None:
    assert [str(address) for address in embedded(ipaddress.ip_address(outer))] == inner


def test_an_allowed_network_opens_itself_and_nothing_else() -> None:
    egress = Egress(allow_networks=["10.1.0.0/16", "fd00::/8", "::1"])
    for text, permitted in (("10.1.2.3", True), ("10.2.0.0", False), ("fd00::1", True), ("fc00::1", False), ("::1", True)):
        assert (egress.refusal(ipaddress.ip_address(text)) is None) is permitted, text


def test_both_halves_of_an_embedded_address_must_be_allowed() -> None:
    nat64 = ipaddress.ip_address("64:ff9b::10.0.0.1")
    assert Egress(allow_networks=["64:ff9b::/96"]).refusal(nat64) is not None
    assert Egress(allow_networks=["10.0.0.0/8"]).refusal(nat64) is not None
    assert Egress(allow_networks=["64:ff9b::/96", "10.0.0.0/8"]).refusal(nat64) is None
    assert Egress(allow_networks=["64:ff9b::/96"]).refusal(ipaddress.ip_address("64:ff9b::8.8.8.8")) is None


def test_a_network_that_is_none_is_said_so() -> None:
    with pytest.raises(ValueError, match="host bits"):
        Egress(allow_networks=["10.0.0.1/8"])


async def test_connect_refuses_by_itself() -> None:
    """Whoever forgets to ask `refusal` first still gets no connection."""
    with pytest.raises(Refused, match="loopback"):
        await Egress().connect(ipaddress.ip_address("127.0.0.1"), 9)


async def test_a_failed_connection_leaves_no_socket_behind() -> None:
    with pytest.raises(ConnectionRefusedError):  # an unclosed socket would be a ResourceWarning, and so an error here
        await Egress(allow_networks=["127.0.0.0/8"]).connect(ipaddress.ip_address("127.0.0.1"), 1)
