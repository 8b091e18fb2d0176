"""http-01 as subscribers' servers meet it: RFC 8555 §8.3, and the limits that Boulder sets to it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pki.identifiers import DnsName, Identifier, parse_dns, parse_ip
from tests.helpers.challenges import challenge
from tests.helpers.dns import DnsFault
from tests.helpers.world import CHALLENGES, HttpTarget, Trouble, World
from validation.http01 import MAX_REDIRECTS, USER_AGENT, http01
from validation.outcome import Failed, FailureKind, Outcome, Proved

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
PROOF = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
NAME = parse_dns("www.example.com")
FIRST_PATH = CHALLENGES + TOKEN


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as simulated:
        simulated.dns[NAME.name] = ["127.0.0.1"]
        yield simulated


async def attempt(world: World, *allow: str, identifier: Identifier = NAME, tls: bool = False, deadline: float = 10) -> Outcome:
    ports = frozenset({80, 443, world.http.tls_port} if tls else {80, 443})
    return await http01(
        challenge(identifier, PROOF),
        resolver=world.resolver(),
        egress=world.egress(*allow),
        clock=world.clock,
        port=world.http.port,
        redirect_ports=ports,
        deadline=deadline,
    )


def failed(outcome: Outcome, kind: FailureKind) -> Failed:
    assert isinstance(outcome, Failed), outcome
    assert outcome.kind is kind, outcome
    assert str(outcome.evidence.identifier) in outcome.detail  # says which name
    return outcome


# --- what proves control


async def test_the_key_authorization_at_the_tokens_url_proves_control(world: World) -> None:
    world.http.serve(TOKEN, PROOF)
    outcome = await attempt(world)
    assert isinstance(outcome, Proved)
    assert outcome.evidence.as_json() == {
        "method": "http-01",
        "identifier": "www.example.com",
        "resolver": world.dns.address,
        "resolved": ["127.0.0.1"],
        "tried": ["127.0.0.1"],
        "redirects": [],
        "status": 200,
        "records": [],
        "secure": False,
        "attempts": 1,
        "perspectives": [],
        "started": world.clock.micros(),
        "finished": world.clock.micros(),
    }


async def test_the_request_carries_what_strict_servers_want(world: World) -> None:
    world.http.serve(TOKEN, PROOF)
    await attempt(world)
    (request,) = world.http.requests
    assert request.line == f"GET {FIRST_PATH} HTTP/1.1"
    assert request.headers == {
        "host": f"www.example.com:{world.http.port}",
        "user-agent": USER_AGENT,
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "close",
    }


@pytest.mark.parametrize("after", ["", "\n", "\r\n", " \t\r\n\n"])
async def test_white_space_after_the_key_authorization_is_fine(world: World, after: str) -> None:
    """RFC 8555 §8.3: "The server SHOULD ignore whitespace characters at the end of the body"."""
    world.http.serve(TOKEN, PROOF + after)
    assert isinstance(await attempt(world), Proved)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n" + PROOF.encode(), id="HTTP/1.0, ended by closing"),
        pytest.param(OK + b"\r\n" + PROOF.encode(), id="ended by closing"),
        pytest.param(b"HTTP/1.1 200\r\n\r\n" + PROOF.encode(), id="no reason phrase"),
        pytest.param(OK.replace(b"\r", b"") + b"A: b\n\n" + PROOF.encode(), id="bare line feeds"),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n1;x=y\r\ne\r\n56\r\n" + PROOF[1:].encode() + b"\r\n0\r\nT: t\r\n\r\n",
            id="chunked",
        ),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK + b"\r\n" + PROOF.encode(), id="early hints"),
    ],
)
async def test_every_framing_of_http_is_read(world: World, wire: bytes) -> None:
    world.http.raw(FIRST_PATH, wire)
    assert isinstance(await attempt(world), Proved)


async def test_a_keep_alive_server_does_not_make_us_wait(world: World) -> None:
    world.http.raw(FIRST_PATH, OK + b"Content-Length: %d\r\n\r\n" % len(PROOF) + PROOF.encode(), keep_open=True)
    assert isinstance(await attempt(world), Proved)


async def test_an_ip_address_is_asked_at_itself_and_nobody_is_looked_up(world: World) -> None:
    """RFC 8738 §4."""
    world.http.serve(TOKEN, PROOF)
    for text, host in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
        assert isinstance(await attempt(world, identifier=parse_ip(text)), Proved)
        assert world.http.requests[-1].headers["host"] == f"{host}:{world.http.port}"
    assert world.dns.queries == []


async def test_a_key_authorization_that_would_not_be_read_whole_is_the_callers_mistake(world: World) -> None:
    with pytest.raises(ValueError, match="128"):
        await http01(
            challenge(NAME, f"{TOKEN}.{'x' * 128}"),
            resolver=world.resolver(),
            egress=world.egress(),
            clock=world.clock,
        )


async def test_a_wildcard_cannot_even_be_asked_for(world: World) -> None:
    with pytest.raises(ValueError, match="wildcard"):
        await attempt(world, identifier=DnsName("example.com", wildcard=True))


# --- what does not


@pytest.mark.parametrize(
    "content", ["", PROOF[:-1], PROOF + "x", " " + PROOF, PROOF.lower(), TOKEN, PROOF + " " * 200, "x" * 1000, "\0" * 87]
)
async def test_any_other_content_does_not(world: World, content: str) -> None:
    world.http.serve(TOKEN, content)
    failed(await attempt(world), FailureKind.UNAUTHORIZED)


@pytest.mark.parametrize("status", [201, 204, 206, 300, 303, 304, 400, 401, 404, 410, 500, 503])
async def test_any_status_but_200_does_not_even_with_the_right_content(world: World, status: int) -> None:
    world.http.serve(TOKEN, PROOF, status=f"{status} Whatever")
    outcome = failed(await attempt(world), FailureKind.UNAUTHORIZED)
    assert f"status {status}" in outcome.detail
    assert outcome.evidence.status == status


async def test_nothing_the_server_sends_comes_back_in_the_outcome(world: World) -> None:
    """Else a validation reads internal pages for strangers (Dogtag 5407)."""
    world.http.raw(FIRST_PATH, b"HTTP/1.1 404 secret-reason\r\nX-Key: secret-header\r\n\r\nsecret-body")
    first = await attempt(world)
    world.http.raw(FIRST_PATH, OK + b"Server: secret-header\r\n\r\nsecret-body")
    for outcome in (first, await attempt(world)):
        assert "secret" not in repr(outcome)


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (Trouble.SILENT, FailureKind.TIMEOUT),
        (Trouble.DRIP, FailureKind.TIMEOUT),
        (Trouble.DRIP_BODY, FailureKind.TIMEOUT),
        (Trouble.ENDLESS_BODY, FailureKind.UNAUTHORIZED),
        (Trouble.ENDLESS_CHUNKS, FailureKind.RESPONSE),
        (Trouble.HUGE_HEADERS, FailureKind.RESPONSE),
        (Trouble.ENDLESS_INTERIM, FailureKind.RESPONSE),
        (Trouble.GZIP, FailureKind.UNAUTHORIZED),
        (Trouble.RESET, FailureKind.CONNECTION),
        (Trouble.CLOSE, FailureKind.RESPONSE),
        (Trouble.CUT_BODY, FailureKind.RESPONSE),
        (Trouble.NOT_HTTP, FailureKind.RESPONSE),
        (Trouble.SWITCH, FailureKind.RESPONSE),
    ],
)
async def test_a_target_in_trouble_fails_with_its_kind_and_in_time(world: World, trouble: Trouble, kind: FailureKind) -> None:
    world.http.misbehave(trouble)
    outcome = failed(await attempt(world, deadline=0.3 if kind is FailureKind.TIMEOUT else 10), kind)
    assert "secret" not in repr(outcome)


# --- names and addresses


@pytest.mark.parametrize(
    ("fault", "words"),
    [(None, "NXDOMAIN"), (DnsFault.SERVFAIL, "SERVFAIL"), (DnsFault.REFUSED, "REFUSED"), (DnsFault.SILENT, "in time")],
)
async def test_a_name_without_address_fails_with_dns_and_says_which_way(
    world: World, fault: DnsFault | None, words: str
) -> None:
    if fault is not None:
        world.dns.faults["nowhere.example.com"] = fault
    outcome = failed(await attempt(world, identifier=parse_dns("nowhere.example.com")), FailureKind.DNS)
    assert outcome.problem == "dns"
    assert words in outcome.detail
    assert outcome.evidence.resolver == world.dns.address


async def test_a_look_up_past_the_deadline_is_a_dns_failure(world: World) -> None:
    world.dns.faults[NAME.name] = DnsFault.SILENT
    failed(await attempt(world, deadline=0.1), FailureKind.DNS)


async def test_ipv6_is_tried_first(world: World) -> None:
    world.dns[NAME.name] = ["127.0.0.1", "::1"]
    world.http.serve(TOKEN, PROOF)
    outcome = await attempt(world)
    assert isinstance(outcome, Proved)
    assert outcome.evidence.tried == ("::1",)
    assert world.http.connections == ["::1"]


async def test_ipv4_is_tried_once_when_ipv6_gives_no_connection() -> None:
    async with World() as world:
        only_v4 = HttpTarget()
        await only_v4.start("127.0.0.1")
        only_v4.serve(TOKEN, PROOF)
        world.dns[NAME.name] = ["127.0.0.1", "::1"]
        world.http, other = only_v4, world.http
        outcome = await attempt(world)
        world.http = other
        await only_v4.stop()
    assert isinstance(outcome, Proved)
    assert outcome.evidence.tried == ("::1", "127.0.0.1")


async def test_ipv4_is_not_tried_after_a_wrong_answer_by_ipv6(world: World) -> None:
    """One identifier, one vantage point: a second try would let the better of two servers win."""
    world.dns[NAME.name] = ["127.0.0.1", "::1"]
    world.http.serve(TOKEN, "wrong")
    assert failed(await attempt(world), FailureKind.UNAUTHORIZED).evidence.tried == ("::1",)


async def test_a_closed_port_is_a_connection_failure_that_names_address_and_port(world: World) -> None:
    await world.http.stop()
    outcome = failed(await attempt(world), FailureKind.CONNECTION)
    assert f"127.0.0.1, port {world.http.port}: Connection refused" in outcome.detail


# --- redirects


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_permanent_and_temporary_redirects_are_followed(world: World, status: int) -> None:
    world.http.redirect(FIRST_PATH, f"http://other.example.com:{world.http.port}/elsewhere?a=b#part", status=status)
    world.http.serve("x", PROOF)
    world.http.answers["/elsewhere?a=b"] = world.http.answers[CHALLENGES + "x"]
    world.dns["other.example.com"] = ["127.0.0.1"]
    outcome = await attempt(world)
    assert isinstance(outcome, Proved)
    assert outcome.evidence.redirects == (f"'http://other.example.com:{world.http.port}/elsewhere?a=b'",)
    assert world.http.requests[-1].headers["host"] == f"other.example.com:{world.http.port}"


@pytest.mark.parametrize("status", [300, 303, 304, 305, 306])
async def test_other_statuses_of_redirection_are_not_followed(world: World, status: int) -> None:
    """303 says "elsewhere is another resource", which is not what was asked for."""
    world.http.redirect(FIRST_PATH, "/elsewhere", status=status)
    world.http.serve("x", PROOF)
    world.http.answers["/elsewhere"] = world.http.answers[CHALLENGES + "x"]
    assert f"status {status}" in failed(await attempt(world), FailureKind.UNAUTHORIZED).detail
    assert len(world.http.requests) == 1


async def test_a_redirect_may_lead_to_an_internal_name_if_its_address_is_permitted(world: World) -> None:
    """docs/divergences.md: no list of top-level domains; the address decides."""
    world.http.redirect(FIRST_PATH, f"http://intranet:{world.http.port}/x")
    world.http.raw("/x", OK + b"\r\n" + PROOF.encode())
    world.dns["intranet"] = ["127.0.0.1"]
    assert isinstance(await attempt(world), Proved)
    world.dns["intranet"] = ["10.0.0.1"]
    failed(await attempt(world), FailureKind.REFUSED_ADDRESS)


async def test_a_path_of_2000_octets_is_followed_and_no_longer_one(world: World) -> None:
    for length, expected in ((2000, Proved), (2001, Failed)):
        world.http.redirect(FIRST_PATH, "/" + "a" * (length - 1))
        world.http.raw("/" + "a" * (length - 1), OK + b"\r\n" + PROOF.encode())
        assert isinstance(await attempt(world), expected)


async def test_a_relative_redirect_stays_at_host_and_port(world: World) -> None:
    world.http.redirect(FIRST_PATH, "../relative")
    world.http.serve("x", PROOF)
    world.http.answers["/.well-known/relative"] = world.http.answers[CHALLENGES + "x"]
    assert isinstance(await attempt(world), Proved)


async def test_ten_redirects_are_followed_and_no_eleventh(world: World) -> None:
    world.http.serve("x", PROOF)
    for length, expected in ((MAX_REDIRECTS, Proved), (MAX_REDIRECTS + 1, Failed)):
        world.http.redirect(FIRST_PATH, "/hop1")
        for hop in range(1, length):
            world.http.redirect(f"/hop{hop}", f"/hop{hop + 1}")
        world.http.answers[f"/hop{length}"] = world.http.answers[CHALLENGES + "x"]
        assert isinstance(await attempt(world), expected)


async def test_a_circle_of_redirects_is_noticed(world: World) -> None:
    world.http.redirect(FIRST_PATH, "/a")
    world.http.redirect("/a", "/b")
    world.http.redirect("/b", "/a")
    assert "in a circle" in failed(await attempt(world), FailureKind.REDIRECT).detail
    assert len(world.http.requests) == 3


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("ftp://www.example.com/", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
        ("gopher://127.0.0.1:6379/_x", "only http and https"),
        ("javascript:alert(1)", "only http and https"),
        ("http://www.example.com:22/", "port 22"),
        ("https://www.example.com:8443/", "port 8443"),
        ("http://www.example.com:0/", "port 0"),
        ("http://www.example.com:99999/", "not a URL"),
        ("http://www.example.com:x/", "not a URL"),
        ("http://user:password@www.example.com/", "user name"),
        ("http://@www.example.com/", "user name"),
        ("http://2130706433/", "neither a DNS name"),
        ("http://0x7f000001/", "neither a DNS name"),
        ("http://0x7f.1/", "neither a DNS name"),
        ("http://0177.0.0.1/", "neither a DNS name"),
        ("http://127.1/", "neither a DNS name"),
        ("http://[fe80::1%25eth0]/", "neither a DNS name"),
        ("http://[::1/", "not a URL"),
        ("http://*.example.com/", "neither a DNS name"),
        ("http://exa_mple.com/", "neither a DNS name"),
        ("http://www.example.com%2f.evil/", "neither a DNS name"),
        ("http://www.example.com/" + "a" * 2000, "longer than 2000"),
        ("http://www.example.com/a b", "not a URL"),
        ("http://www.example.com/\x00", "header line"),
        ("http://www.example.com/\xe9", "not a URL"),
        ("", "not a URL"),
    ],
)
async def test_other_redirects_are_refused_without_a_further_connection(world: World, to: str, words: str) -> None:
    world.http.redirect(FIRST_PATH, to)
    outcome = await attempt(world)
    assert isinstance(outcome, Failed)
    assert outcome.kind in {FailureKind.REDIRECT, FailureKind.RESPONSE}
    assert words in outcome.detail
    assert len(world.http.connections) == 1


async def test_a_redirect_without_location_is_refused(world: World) -> None:
    world.http.raw(FIRST_PATH, b"HTTP/1.1 302 Found\r\n\r\n")
    failed(await attempt(world), FailureKind.REDIRECT)


async def test_a_redirect_target_is_escaped_and_cut_before_it_is_shown(world: World) -> None:
    world.http.redirect(FIRST_PATH, "ftp://x/\x1b[31m" + "y" * 500)
    detail = failed(await attempt(world), FailureKind.REDIRECT).detail
    assert "\x1b" not in detail
    assert len(detail) < 300


async def test_https_with_any_certificate_is_followed(world: World) -> None:
    """The target may be asking for its first certificate (vault#22074)."""
    await world.http.start_tls("127.0.0.1")
    world.http.redirect(FIRST_PATH, f"https://www.example.com:{world.http.tls_port}/proof")
    world.http.serve("x", PROOF)
    world.http.answers["/proof"] = world.http.answers[CHALLENGES + "x"]
    assert isinstance(await attempt(world, tls=True), Proved)
    assert [request.tls for request in world.http.requests] == [False, True]


async def test_https_to_an_address_sends_no_server_name_and_is_followed(world: World) -> None:
    await world.http.start_tls("127.0.0.1")
    world.http.redirect(FIRST_PATH, f"https://127.0.0.1:{world.http.tls_port}/proof")
    world.http.raw("/proof", OK + b"\r\n" + PROOF.encode())
    assert isinstance(await attempt(world, tls=True), Proved)


async def test_https_by_tls_1_2_is_followed(world: World) -> None:
    await world.http.start_tls("127.0.0.1", at_most=ssl.TLSVersion.TLSv1_2)
    world.http.redirect(FIRST_PATH, f"https://www.example.com:{world.http.tls_port}/proof")
    world.http.raw("/proof", OK + b"\r\n" + PROOF.encode())
    assert isinstance(await attempt(world, tls=True), Proved)


async def test_https_below_tls_1_2_is_a_tls_failure(world: World) -> None:
    await world.http.start_tls("127.0.0.1", at_most=ssl.TLSVersion.TLSv1_1)
    world.http.redirect(FIRST_PATH, f"https://www.example.com:{world.http.tls_port}/proof")
    assert failed(await attempt(world, tls=True), FailureKind.TLS).problem == "tls"


async def test_https_to_a_port_that_speaks_no_tls_is_a_tls_failure(world: World) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.internal.example secret\r\n")
        writer.close()

    mail = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with mail:
        world.http.tls_port = mail.sockets[0].getsockname()[1]
        world.http.redirect(FIRST_PATH, f"https://www.example.com:{world.http.tls_port}/proof")
        assert "secret" not in repr(failed(await attempt(world, tls=True), FailureKind.TLS))


async def test_https_that_never_finishes_its_handshake_ends_by_the_deadline(world: World) -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with silent:
        world.http.tls_port = silent.sockets[0].getsockname()[1]
        world.http.redirect(FIRST_PATH, f"https://www.example.com:{world.http.tls_port}/proof")
        failed(await attempt(world, tls=True, deadline=0.2), FailureKind.TIMEOUT)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\r\n"), max_size=60))
async def test_whatever_the_location_is_an_outcome_comes_back(to: str) -> None:
    async with World() as world:
        world.dns[NAME.name] = ["127.0.0.1"]
        world.http.redirect(FIRST_PATH, to)
        assert isinstance(await attempt(world, "127.0.0.1/32", deadline=2), Failed)
