"""No name, redirect or trick of DNS makes the validator open a connection to where it must not.

Listeners stand at the port in question on 127.0.0.1 and ::1, which many of these addresses end up at on Linux: nothing may
reach them. Only 127.0.0.2 is permitted, for the redirecting server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from pki.identifiers import Identifier, parse_dns, parse_ip
from tests.helpers.challenges import challenge
from tests.helpers.world import CHALLENGES, HttpTarget, World
from validation.egress import Egress, IpAddr
from validation.http01 import http01
from validation.outcome import Failed, FailureKind, Outcome, Proved

TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
PROOF = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
NAME = parse_dns("victim.example.com")

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
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "100:0:0:1::1",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
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


@dataclass(frozen=True, slots=True)
class Scene:
    world: World  # its HTTP target must not be reached
    stranger: HttpTarget  # the subscriber's server, at 127.0.0.2 and the same port

    async def attempt(self, identifier: Identifier = NAME, *allow: str) -> Outcome:
        return await http01(
            challenge(identifier, PROOF),
            resolver=self.world.resolver(),
            egress=self.world.egress("127.0.0.2/32", *allow),
            clock=self.world.clock,
            port=self.world.http.port,
            deadline=5,
        )

    def assert_untouched(self, outcome: Outcome, forbidden: str) -> None:
        assert isinstance(outcome, Failed)
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
        yield Scene(world, stranger)
        await stranger.stop()


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_a_record_is_refused(scene: Scene, address: str) -> None:
    """A or AAAA, as the address is."""
    scene.world.dns[NAME.name] = [address]
    scene.assert_untouched(await scene.attempt(), address)


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_an_identifier_is_refused(scene: Scene, address: str) -> None:
    scene.assert_untouched(await scene.attempt(parse_ip(address)), address)


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_a_redirect_to_the_literal_is_refused(scene: Scene, address: str) -> None:
    scene.world.dns[NAME.name] = ["127.0.0.2"]
    literal = f"[{address}]" if ":" in address else address
    scene.stranger.redirect(CHALLENGES + TOKEN, f"http://{literal}:{scene.world.http.port}/")
    scene.assert_untouched(await scene.attempt(), address)


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_a_redirect_to_a_name_that_points_there_is_refused(scene: Scene, address: str) -> None:
    scene.world.dns[NAME.name] = ["127.0.0.2"]
    scene.world.dns["inside.example.com"] = [address]
    scene.stranger.redirect(CHALLENGES + TOKEN, f"http://inside.example.com:{scene.world.http.port}/")
    scene.assert_untouched(await scene.attempt(), address)


@pytest.mark.parametrize("address", [address for address in FORBIDDEN if ":" not in address])
async def test_rebinding_between_look_up_and_connection_finds_no_second_look_up(scene: Scene, address: str) -> None:
    """The address that was judged is the address that is connected to."""
    scene.world.dns.flip(NAME.name, ["127.0.0.2"], [address])
    scene.stranger.serve(TOKEN, PROOF)
    outcome = await scene.attempt()
    assert isinstance(outcome, Proved)
    assert outcome.evidence.tried == ("127.0.0.2",)
    assert [kind for _, kind in scene.world.dns.queries] == ["AAAA", "A"]
    assert scene.world.http.connections == []


@pytest.mark.parametrize("address", [address for address in FORBIDDEN if ":" not in address])
async def test_rebinding_between_redirects_is_judged_again(scene: Scene, address: str) -> None:
    scene.world.dns.flip(NAME.name, ["127.0.0.2"], [address])
    scene.stranger.redirect(CHALLENGES + TOKEN, f"http://{NAME}:{scene.world.http.port}/again")
    scene.assert_untouched(await scene.attempt(), address)


async def test_a_permitted_address_beside_a_forbidden_one_is_the_only_one_used(scene: Scene) -> None:
    scene.world.dns[NAME.name] = ["127.0.0.1", "127.0.0.2", "::1", "fe80::1"]
    scene.stranger.serve(TOKEN, PROOF)
    outcome = await scene.attempt()
    assert isinstance(outcome, Proved)
    assert outcome.evidence.tried == ("127.0.0.2",)
    assert scene.world.http.connections == []


async def test_localhost_is_loopback_and_so_forbidden(scene: Scene) -> None:
    """RFC 6761 §6.3, without asking a server that might say otherwise."""
    scene.world.dns["app.localhost"] = ["127.0.0.2"]
    scene.assert_untouched(await scene.attempt(parse_dns("app.localhost")), "127.0.0.1")
    assert scene.world.dns.queries == []


async def test_permitting_the_outer_address_alone_does_not_open_the_embedded_one(scene: Scene) -> None:
    mapped = parse_ip("::ffff:127.0.0.1")
    scene.assert_untouched(await scene.attempt(mapped, "::ffff:0:0/96"), "::ffff:127.0.0.1")
    assert isinstance(await scene.attempt(mapped, "::ffff:0:0/96", "127.0.0.1/32"), Proved)


async def test_the_door_judges_by_itself_even_if_nobody_asked_before(scene: Scene) -> None:
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

    outcome = await http01(
        challenge(parse_ip("127.0.0.1"), PROOF),
        resolver=scene.world.resolver(),
        egress=Forgetful(),
        clock=scene.world.clock,
        port=scene.world.http.port,
    )
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.REFUSED_ADDRESS
    assert scene.world.http.connections == []
