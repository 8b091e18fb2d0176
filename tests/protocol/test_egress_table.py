"""No name, redirect or trick of DNS makes a validator open a connection to where it must not: address x way x method.

Listeners stand at the port in question on 127.0.0.1 and ::1, which many of these addresses end up at on Linux: nothing may
reach them. Only 127.0.0.2 is permitted, for the subscriber's own server.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from pki.identifiers import Identifier, IpAddress, parse_dns, parse_ip
from pki.reasons import Reason, Rejection
from tests.helpers.alpn import AlpnTarget, Shown, acme_identifier, dns
from tests.helpers.challenges import challenge
from tests.helpers.world import CHALLENGES, HttpTarget, World
from validation.egress import Egress, IpAddr
from validation.methods import Method, local_methods
from validation.outcome import Failed, FailureKind, Outcome, Proved
from validation.resolver import Addresses, DnsResolver, Resolver

TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
PROOF = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
NAME = parse_dns("victim.example.com")
METHODS = ("http-01", "tls-alpn-01")

FORBIDDEN = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.170",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:93.184.216.34",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "::ffff:0:10.0.0.1",
    "::10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "64:ff9b:1::7f00:1",
    "100::1",
    "100:0:0:1::1",
    "2001::1",
    "2001:1::1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2002:808:808::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "2a00:1450::5efe:7f00:1",
    "2a00:1450::200:5efe:a00:1",
    "2620:4f:8000::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]


def literal(address: str) -> str:
    return f"[{address}]" if ":" in address else address


class Rebinding(DnsResolver):
    """Its addresses change from one look-up to the next; the last one stays. It asks nobody."""

    def __init__(self, answers: list[str]) -> None:
        super().__init__(["127.0.0.1:1"])
        self.asked = 0
        self._answers = answers

    async def addresses(self, name: str) -> Addresses:
        address = ipaddress.ip_address(self._answers[min(self.asked, len(self._answers) - 1)])
        self.asked += 1
        if isinstance(address, ipaddress.IPv6Address):
            return Addresses((address,), (), "rebinding")
        return Addresses((), (address,), "rebinding")


class Way(enum.Enum):
    """How an attacker makes us want to go there."""

    RECORD = "its A or AAAA record"
    IDENTIFIER = "the identifier itself"
    REDIRECT_TO_ADDRESS = "a redirect to the address"
    REDIRECT_TO_NAME = "a redirect to a name with such a record"
    REDIRECT_BY_TLS = "a redirect to https"
    REBINDING = "a record that changes between two look-ups"


WAYS = [("http-01", way) for way in Way] + [("tls-alpn-01", Way.RECORD), ("tls-alpn-01", Way.IDENTIFIER)]


@dataclass(frozen=True, slots=True)
class Scene:
    world: World  # its HTTP target must not be reached
    stranger: HttpTarget  # the subscriber's server, at 127.0.0.2 and the same port

    def method(self, kind: str, *allow: str, resolver: Resolver | None = None, egress: Egress | None = None) -> Method:
        methods = local_methods(
            resolver=resolver or self.world.resolver(),
            egress=egress or self.world.egress("127.0.0.2/32", *allow),
            clock=self.world.clock,
            http01_port=self.world.http.port,
            tlsalpn01_port=self.world.http.port,
        )
        return methods[kind]

    async def lure(self, kind: str, way: Way, address: str) -> Outcome:
        """The attack, and what came of it."""
        port, dns_zone = self.world.http.port, self.world.dns
        identifier: Identifier = NAME
        resolver: Resolver | None = None
        dns_zone[NAME.name] = ["127.0.0.2"]
        dns_zone["inside.example.com"] = [address]
        match way:
            case Way.RECORD:
                dns_zone[NAME.name] = [address]
            case Way.IDENTIFIER:
                identifier = parse_ip(address)
            case Way.REDIRECT_TO_ADDRESS:
                self.stranger.redirect(CHALLENGES + TOKEN, f"http://{literal(address)}:{port}/")
            case Way.REDIRECT_TO_NAME:
                self.stranger.redirect(CHALLENGES + TOKEN, f"http://inside.example.com:{port}/")
            case Way.REDIRECT_BY_TLS:
                self.stranger.redirect(CHALLENGES + TOKEN, f"https://{literal(address)}:{port}/")
            case Way.REBINDING:
                resolver = Rebinding(["127.0.0.2", address])
                self.stranger.redirect(CHALLENGES + TOKEN, f"http://{NAME}:{port}/again")
        return await self.method(kind, resolver=resolver)(challenge(identifier, PROOF))

    def assert_untouched(self, outcome: Outcome, forbidden: str) -> None:
        assert isinstance(outcome, Failed), outcome
        assert outcome.kind is FailureKind.REFUSED_ADDRESS
        assert "special-purpose" in outcome.detail
        assert set(outcome.evidence.tried) <= {"127.0.0.2"}
        assert str(parse_ip(forbidden)) in outcome.evidence.resolved
        assert self.world.http.connections == []


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with World() as world:
        stranger = HttpTarget()
        await stranger.start("127.0.0.2", port=world.http.port)
        world.http.serve(TOKEN, PROOF)  # would prove control, if it were asked
        world.http.answers["*"] = world.http.answers[CHALLENGES + TOKEN]
        yield Scene(world, stranger)
        await stranger.stop()


@pytest.mark.parametrize("address", FORBIDDEN)
@pytest.mark.parametrize(("kind", "way"), WAYS, ids=lambda value: value.name if isinstance(value, Way) else value)
async def test_nobody_is_lured_there(scene: Scene, kind: str, way: Way, address: str) -> None:
    scene.assert_untouched(await scene.lure(kind, way, address), address)


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len(FORBIDDEN) == len(set(FORBIDDEN)) >= 30
    assert {kind for kind, _ in WAYS} == set(METHODS)


@pytest.mark.parametrize("address", [address for address in FORBIDDEN if ":" not in address])
async def test_rebinding_between_look_up_and_connection_finds_no_second_look_up(scene: Scene, address: str) -> None:
    """The address that was judged is the address that is connected to."""
    scene.world.dns.flip(NAME.name, ["127.0.0.2"], [address])
    scene.stranger.serve(TOKEN, PROOF)
    outcome = await scene.method("http-01")(challenge(NAME, PROOF))
    assert isinstance(outcome, Proved)
    assert outcome.evidence.tried == ("127.0.0.2",)
    assert [kind for _, kind in scene.world.dns.queries] == ["AAAA", "A"]
    assert scene.world.http.connections == []


async def test_nor_does_it_for_tls(scene: Scene) -> None:
    resolver = Rebinding(["127.0.0.2", "127.0.0.1"])
    async with AlpnTarget(Shown((dns(NAME.name), acme_identifier(PROOF))), "127.0.0.2") as target:
        methods = local_methods(
            resolver=resolver,
            egress=scene.world.egress("127.0.0.2/32"),
            clock=scene.world.clock,
            http01_port=9,
            tlsalpn01_port=target.port,
        )
        outcome = await methods["tls-alpn-01"](challenge(NAME, PROOF))
    assert isinstance(outcome, Proved), outcome
    assert resolver.asked == 1


@pytest.mark.parametrize("kind", METHODS)
async def test_a_permitted_address_beside_forbidden_ones_is_the_only_one_used(scene: Scene, kind: str) -> None:
    scene.world.dns[NAME.name] = ["127.0.0.1", "127.0.0.2", "::1", "fe80::1"]
    scene.stranger.serve(TOKEN, PROOF)
    outcome = await scene.method(kind)(challenge(NAME, PROOF))
    assert outcome.evidence.tried == ("127.0.0.2",)
    assert scene.world.http.connections == []


@pytest.mark.parametrize("kind", METHODS)
async def test_localhost_is_loopback_and_so_forbidden(scene: Scene, kind: str) -> None:
    """RFC 6761 §6.3, without asking a server that might say otherwise."""
    scene.world.dns["app.localhost"] = ["127.0.0.2"]
    outcome = await scene.method(kind)(challenge(parse_dns("app.localhost"), PROOF))
    scene.assert_untouched(outcome, "127.0.0.1")
    assert scene.world.dns.queries == []


async def test_permitting_the_outer_address_alone_does_not_open_the_embedded_one(scene: Scene) -> None:
    mapped = challenge(parse_ip("::ffff:127.0.0.1"), PROOF)
    scene.assert_untouched(await scene.method("http-01", "::ffff:0:0/96")(mapped), "::ffff:127.0.0.1")
    assert isinstance(await scene.method("http-01", "::ffff:0:0/96", "127.0.0.1/32")(mapped), Proved)


@pytest.mark.parametrize("kind", METHODS)
async def test_the_door_judges_by_itself_even_if_nobody_asked_before(scene: Scene, kind: str) -> None:
    class Forgetful(Egress):
        """Says yes the first time it is asked about an address."""

        def __init__(self) -> None:
            super().__init__()
            self._asked: set[object] = set()

        def refusal(self, address: IpAddr) -> str | None:
            if address in self._asked:
                return super().refusal(address)
            self._asked.add(address)
            return None

    outcome = await scene.method(kind, egress=Forgetful())(challenge(parse_ip("127.0.0.1"), PROOF))
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.REFUSED_ADDRESS
    assert scene.world.http.connections == []


# --- addresses that do not look like any

SPELLINGS = [
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0x7f.0.0.1",
    "0X7F.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.0x1",
    "127.0.0.01",
    "1.1",
    "0",
    "0x",
    "169.254.43518",
    "\uff11\uff12\uff17.\uff10.\uff10.\uff11",  # fullwidth digits
    "127\u30020\u30020\u30021",  # ideographic full stops
    "\u2460\u2461\u2466.0.0.1",  # digits in circles
    "0\u212a.1",
    "127.0.0.1.",
    "[::1]",
    "::1%lo",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_no_spelling_of_an_address_is_a_name(text: str) -> None:
    with pytest.raises(Rejection) as refused:
        parse_dns(text)
    assert refused.value.reason is Reason.REJECTED_IDENTIFIER


@pytest.mark.parametrize("text", SPELLINGS)
def test_nor_an_address_in_another_spelling_than_its_own(text: str) -> None:
    with pytest.raises(Rejection):
        parse_ip(text)


@pytest.mark.parametrize("text", [text for text in SPELLINGS if text != "[::1]"])
@pytest.mark.parametrize("spelt", ["as it is", "in percent"])
async def test_nor_a_redirects_host(scene: Scene, text: str, spelt: str) -> None:
    scene.world.dns[NAME.name] = ["127.0.0.2"]
    host = "".join(f"%{octet:02x}" for octet in text.encode()) if spelt == "in percent" else text
    wire = f"HTTP/1.1 302 Found\r\nLocation: http://{host}:{scene.world.http.port}/\r\n\r\n".encode()
    scene.stranger.raw(CHALLENGES + TOKEN, wire)
    outcome = await scene.method("http-01")(challenge(NAME, PROOF))
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.REDIRECT
    assert scene.world.http.connections == []
    assert len(scene.stranger.connections) == 1


def test_an_address_has_one_canonical_spelling() -> None:
    assert parse_ip("0:0:0:0:0:0:0:1") == parse_ip("::1") == IpAddress(ipaddress.ip_address("::1"))
