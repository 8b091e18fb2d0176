"""Look-ups against a real server that behaves, and one that does not."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.helpers.dns import DnsFault as Trouble
from tests.helpers.dns import DnsServer
from validation.dnswire import RecordType
from validation.resolver import Addresses, DnsFault, DnsResolver, LookupFailed, SystemResolver

NAME = "www.example.com"
NOWHERE = "nameserver 255.255.255.255\n"  # no socket may be connected to it
V4 = (ipaddress.IPv4Address("192.0.2.1"),)
V6 = (ipaddress.IPv6Address("2001:db8::1"),)


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with DnsServer() as running:
        running[NAME] = ["192.0.2.1", "2001:db8::1"]
        yield running


def resolver(*servers: DnsServer | str, timeout: float = 1.0, tries: int = 2) -> DnsResolver:
    texts = [server if isinstance(server, str) else server.address for server in servers]
    return DnsResolver(texts, timeout=timeout, tries=tries)


async def fault(asking: DnsResolver, name: str = NAME) -> DnsFault:
    with pytest.raises(LookupFailed) as caught:
        await asking.addresses(name)
    assert name in str(caught.value)
    assert caught.value.resolver == asking.label
    return caught.value.fault


async def test_both_families_come_from_one_exchange(server: DnsServer) -> None:
    assert await resolver(server).addresses(NAME) == Addresses(V6, V4, server.address, secure=False)
    assert sorted(server.queries) == [(NAME, "A"), (NAME, "AAAA")]


async def test_one_family_is_enough(server: DnsServer) -> None:
    server[NAME] = ["192.0.2.1"]
    assert await resolver(server).addresses(NAME) == Addresses((), V4, server.address, secure=False)


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        (Trouble.SERVFAIL, DnsFault.SERVFAIL),
        (Trouble.REFUSED, DnsFault.REFUSED),
        (Trouble.REFUSED_BARE, DnsFault.REFUSED),
        (Trouble.GARBAGE, DnsFault.MALFORMED),
        (Trouble.TRUNCATED_ALWAYS, DnsFault.MALFORMED),
        (Trouble.TCP_CUT, DnsFault.MALFORMED),
    ],
)
async def test_every_trouble_has_its_own_fault_and_is_asked_again(
    server: DnsServer, trouble: Trouble, expected: DnsFault
) -> None:
    server.faults[NAME] = trouble
    assert await fault(resolver(server)) is expected
    assert server.queries.count((NAME, "A")) >= 2


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        (Trouble.BADVERS, DnsFault.ERROR),
        (Trouble.REFERRAL, DnsFault.REFERRAL),
        (Trouble.NX_WITH_DATA, DnsFault.MALFORMED),
        (Trouble.SERVFAIL, DnsFault.SERVFAIL),
        (Trouble.REFUSED_BARE, DnsFault.REFUSED),
        (Trouble.TCP_CUT, DnsFault.MALFORMED),
    ],
)
@pytest.mark.parametrize("present", [True, False])
async def test_an_error_is_never_taken_for_the_absence_of_caa_records(
    server: DnsServer, trouble: Trouble, expected: DnsFault, *, present: bool
) -> None:
    """Absence permits issuance, so nothing else may look like it (RFC 8659 §3)."""
    if present or trouble is Trouble.NX_WITH_DATA:
        server.caa(NAME, '0 issue "ca.test"')
    server.faults[NAME] = trouble
    with pytest.raises(LookupFailed) as caught:
        await resolver(server).caa(NAME)
    assert caught.value.fault is expected


@pytest.mark.parametrize("trouble", [Trouble.SILENT, Trouble.ONLY_FORGED])
async def test_silence_and_forgeries_time_out(server: DnsServer, trouble: Trouble) -> None:
    server.faults[NAME] = trouble
    assert await fault(resolver(server, timeout=0.1)) is DnsFault.TIMEOUT
    assert server.queries.count((NAME, "A")) == 2


async def test_a_name_that_does_not_exist_is_not_one_without_addresses(server: DnsServer) -> None:
    server.txt("text.example.com", "x")
    assert await fault(resolver(server), "nowhere.example.com") is DnsFault.NXDOMAIN
    assert await fault(resolver(server), "text.example.com") is DnsFault.NO_DATA
    assert len(server.queries) == 4  # conclusive: not asked again


async def test_one_lost_packet_does_no_harm(server: DnsServer) -> None:
    server.faults[NAME] = Trouble.SILENT_ONCE
    assert await resolver(server, timeout=0.2).addresses(NAME) == Addresses(V6, V4, server.address, secure=False)


@pytest.mark.parametrize("trouble", [Trouble.WRONG_ID, Trouble.WRONG_QUESTION])
async def test_a_forged_answer_before_the_right_one_is_ignored(server: DnsServer, trouble: Trouble) -> None:
    server.faults[NAME] = trouble
    assert await resolver(server).addresses(NAME) == Addresses(V6, V4, server.address, secure=False)


async def test_a_truncated_answer_is_asked_for_by_tcp(server: DnsServer) -> None:
    server.faults[NAME] = Trouble.TRUNCATED
    assert await resolver(server).addresses(NAME) == Addresses(V6, V4, server.address, secure=False)
    assert server.tcp_queries == 2


async def test_a_dead_server_is_passed_over(server: DnsServer) -> None:
    async with DnsServer() as stopped:
        pass
    assert await resolver(stopped, server, timeout=0.3).addresses(NAME) == Addresses(
        V6, V4, f"{stopped.address},{server.address}", secure=False
    )
    assert await fault(resolver(stopped, timeout=0.1)) in {DnsFault.UNREACHABLE, DnsFault.TIMEOUT}  # as its kernel tells us


async def test_a_failing_server_is_passed_over(server: DnsServer) -> None:
    async with DnsServer() as failing:
        failing.faults[NAME] = Trouble.SERVFAIL
        assert (await resolver(failing, server).addresses(NAME)).v4 == V4


@pytest.mark.parametrize("recursive", [True, False])
async def test_aliases_are_followed_whoever_must(*, recursive: bool) -> None:
    async with DnsServer(recursive=recursive) as server:
        server.cname(NAME, "a.example.net")
        server.cname("a.example.net", "b.example.net")
        server["b.example.net"] = ["192.0.2.1", "2001:db8::1"]
        assert await resolver(server).addresses(NAME) == Addresses(V6, V4, server.address, secure=False)


@pytest.mark.parametrize("recursive", [True, False])
async def test_aliases_in_a_circle_end(*, recursive: bool) -> None:
    async with DnsServer(recursive=recursive) as server:
        server.cname(NAME, "a.example.net")
        server.cname("a.example.net", NAME)
        assert await fault(resolver(server)) is DnsFault.LOOP
        assert len(server.queries) < 25


@pytest.mark.parametrize("name", ["localhost", "app.localhost", "a.b.localhost"])
async def test_localhost_is_loopback_and_nobody_is_asked(server: DnsServer, name: str) -> None:
    """RFC 6761 §6.3."""
    for asking in (resolver(server), SystemResolver()):
        found = await asking.addresses(name)
        assert [str(address) for address in (*found.v6, *found.v4)] == ["::1", "127.0.0.1"]
    assert server.queries == []


async def test_a_name_that_fits_into_no_message_is_not_asked_for(server: DnsServer) -> None:
    assert await fault(resolver(server), "a" * 64 + ".example") is DnsFault.NO_NAME
    assert server.queries == []


async def test_every_txt_record_is_read_with_its_strings_joined(server: DnsServer) -> None:
    server.txt("_acme-challenge.example.com", "a" * 300, "second")
    assert set((await resolver(server).txt("_acme-challenge.example.com")).values) == {b"a" * 300, b"second"}
    with pytest.raises(LookupFailed, match="TXT"):
        await resolver(server).txt(NAME)


async def test_caa_records_come_with_the_least_ttl_on_the_way(server: DnsServer) -> None:
    server.caa(NAME, '0 issue "ca.test"', '128 iodef "mailto:a@example.com"')
    server.cname("alias.example.com", NAME)
    server.ttls |= {NAME: 3600, "alias.example.com": 5}
    found = await resolver(server).caa(NAME)
    assert set(found.records) == {b"\0\5issueca.test", b"\x80\5iodefmailto:a@example.com"}
    assert (found.ttl, found.secure, found.resolver) == (3600, False, server.address)
    alias = await resolver(server).caa("alias.example.com")
    assert (set(alias.records), alias.ttl) == (set(found.records), 5)


@pytest.mark.parametrize("recursive", [True, False])
async def test_the_ttl_of_an_alias_counts_whoever_follows_it(*, recursive: bool) -> None:
    async with DnsServer(recursive=recursive) as server:
        server.caa(NAME, '0 issue "ca.test"')
        server.cname("alias.example.com", NAME)
        server.ttls["alias.example.com"] = 7
        assert (await resolver(server).caa("alias.example.com")).ttl == 7


async def test_no_caa_records_and_no_such_name_are_answers(server: DnsServer) -> None:
    for name in (NAME, "nowhere.example.com"):
        found = await resolver(server).caa(name)
        assert (found.records, found.ttl) == ((), 0)


async def test_long_answers_come_by_udp_thanks_to_edns_and_longer_ones_by_tcp(server: DnsServer) -> None:
    server.txt("long.example.com", *(f"{i:03}" + "x" * 200 for i in range(4)))
    assert len((await resolver(server).txt("long.example.com")).values) == 4
    assert server.tcp_queries == 0
    server.txt("longer.example.com", *(f"{i:03}" + "x" * 200 for i in range(200)))
    assert len((await resolver(server).txt("longer.example.com")).values) == 200
    assert server.tcp_queries == 1


async def test_a_server_from_before_edns_is_asked_without(server: DnsServer) -> None:
    server.txt(NAME, "text")
    server.faults[NAME] = Trouble.NO_EDNS
    assert (await resolver(server).txt(NAME)).values == (b"text",)
    assert len(server.queries) == 2


async def test_what_dnssec_proved_is_said(server: DnsServer) -> None:
    server.txt(NAME, "text")
    server.caa(NAME, '0 issue "ca.test"')
    server.secure = {NAME}
    asking = resolver(server)
    assert (await asking.addresses(NAME)).secure is True
    assert (await asking.txt(NAME)).secure
    assert (await asking.caa(NAME)).secure
    server.secure = set()
    assert (await asking.addresses(NAME)).secure is False
    assert not (await asking.txt(NAME)).secure
    assert not (await asking.caa(NAME)).secure


async def test_a_chain_is_as_secure_as_its_least_secure_link() -> None:
    async with DnsServer(recursive=False) as server:
        server.cname(NAME, "a.example.net")
        server.cname("a.example.net", "b.example.net")
        server.txt("b.example.net", "text")
        for secure, expected in [
            ({NAME, "a.example.net", "b.example.net"}, True),
            ({NAME, "b.example.net"}, False),
            ({NAME, "a.example.net"}, False),
        ]:
            server.secure = secure
            assert (await resolver(server).txt(NAME)).secure is expected


def strict(server: DnsServer) -> DnsResolver:
    return DnsResolver([server.address], timeout=0.5, tries=2, require_secure=True)


async def test_where_dnssec_is_required_every_unproved_answer_is_refused(server: DnsServer) -> None:
    """Denials too: "no CAA record" permits, so a forger would begin there."""
    server.txt(NAME, "text")
    server.caa(NAME, '0 issue "ca.test"')
    asking = strict(server)
    for look_up in (asking.addresses, asking.txt, asking.caa):
        for name in (NAME, "nowhere.example.com"):
            with pytest.raises(LookupFailed) as caught:
                await look_up(name)
            assert caught.value.fault is DnsFault.INSECURE


async def test_where_dnssec_is_required_proved_answers_are_taken(server: DnsServer) -> None:
    server.txt(NAME, "text")
    server.secure = None
    asking = strict(server)
    assert (await asking.addresses(NAME)).v4 == V4
    assert (await asking.txt(NAME)).values == (b"text",)
    assert (await asking.caa(NAME)).records == ()
    assert (await asking.caa("nowhere.example.com")).secure
    assert await fault(asking, "nowhere.example.com") is DnsFault.NXDOMAIN
    with pytest.raises(LookupFailed) as caught:
        await asking.txt("nowhere.example.com")
    assert caught.value.secure


async def test_where_dnssec_is_required_one_unproved_family_spoils_both() -> None:
    """Else who can forge AAAA answers would only have to leave A alone."""
    async with DnsServer(recursive=False) as server:
        server.cname(NAME, "a.example.net")
        server["a.example.net"] = ["192.0.2.1"]
        server.secure = {NAME}
        assert await fault(strict(server)) is DnsFault.INSECURE


async def test_where_dnssec_is_required_a_server_that_fails_still_says_so(server: DnsServer) -> None:
    """SERVFAIL is how a validating resolver says "bogus"."""
    server.faults[NAME] = Trouble.SERVFAIL
    assert await fault(strict(server)) is DnsFault.SERVFAIL


@pytest.mark.parametrize(
    ("name", "kind", "wire"),
    [("addresses", "A", b"\x7f\0\0"), ("addresses", "AAAA", b"\x7f\0\0\1"), ("txt", "TXT", b"\5abc")],
)
async def test_records_of_the_wrong_size_are_malformed(server: DnsServer, name: str, kind: str, wire: bytes) -> None:
    server[NAME] = []
    server.broken(NAME, kind, wire)
    with pytest.raises(LookupFailed, match="malformed"):
        await (resolver(server).txt(NAME) if name == "txt" else resolver(server).addresses(NAME))


async def test_ids_are_drawn_until_they_differ(server: DnsServer) -> None:
    ids = iter([7, 7, 7, 8])
    asking = DnsResolver([server.address], random_id=lambda: next(ids))
    assert (await asking.addresses(NAME)).v4 == V4


@pytest.mark.parametrize(
    "text", ["", "ns.example.com", "192.0.2.1:x", "192.0.2.1:0", "192.0.2.1:65536", "[::1:53", "192.0.2.1:-1"]
)
def test_a_server_that_is_no_address_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        DnsResolver([text])


def test_no_server_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no DNS server"):
        DnsResolver([])


@pytest.mark.parametrize("text", ["192.0.2.1", "192.0.2.1:53", "::1", "[::1]", "[::1]:53"])
def test_servers_are_written_as_people_write_them(text: str) -> None:
    assert DnsResolver([text]).label == text


async def test_the_hosts_file_counts_first(tmp_path: Path) -> None:
    hosts, conf = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.write_text(
        "# comment\n192.0.2.1 Www.Example.com alias # www.other.invalid\n\n2001:db8::1 www.example.com\nbroken www.example.com\n"
    )
    conf.write_text(NOWHERE)
    system = SystemResolver(hosts=hosts, servers=conf)
    assert await system.addresses(NAME) == Addresses(V6, V4, str(hosts))
    assert (await system.addresses("alias")).v4 == V4
    with pytest.raises(LookupFailed, match="cannot be reached"):  # a comment is no name
        await system.addresses("www.other.invalid")


async def test_then_the_servers_of_resolv_conf_are_asked_for_the_name_as_it_stands(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text(f"search example.com\noptions ndots:5\nnameserver not-an-address\nnameserver\n{NOWHERE}")
    system = SystemResolver(hosts=tmp_path / "missing", servers=conf)
    for look_up in (system.addresses, system.txt, system.caa):
        with pytest.raises(LookupFailed, match="for www failed: the DNS server cannot be reached") as caught:
            await look_up("www")
        assert caught.value.resolver == "255.255.255.255"


def test_record_types_are_those_of_iana() -> None:
    assert {kind.name: kind.value for kind in RecordType} == {"A": 1, "CNAME": 5, "TXT": 16, "AAAA": 28, "CAA": 257}
