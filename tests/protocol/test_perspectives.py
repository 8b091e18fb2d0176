"""Several perspectives: who diverts our view of the network alone gets no certificate (CA/B BR 3.2.2.9)."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import orjson
import pytest

from certwright.perspective import Options
from pki.identifiers import DnsName, parse_dns
from tests.helpers.challenges import challenge
from tests.helpers.dns import DnsFault
from tests.helpers.perspectives import Pki, RunningAgent
from tests.helpers.world import HttpTarget, World
from validation.caa import CaaOutcome, Forbidden, Permitted, check_caa
from validation.caa import Failed as CaaFailed
from validation.challenge import Challenge
from validation.methods import Method, local_methods
from validation.outcome import AttemptEvidence, Failed, FailureKind, Outcome, Proved, Verdict
from validation.perspectiveclient import HttpsPerspective
from validation.perspectives import CaaCheck, Perspective, agreeing_needed, corroborated, corroborated_caa
from validation.perspectivewire import VALIDATE, CaaQuestion, Question, encode_question

TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
PROOF = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
NAME = parse_dns("victim.example.com")


@dataclass(slots=True)
class Scene:
    """We see the attacker's server at 127.0.0.1; the true one is at 127.0.0.2, same port."""

    world: World
    true: HttpTarget
    agents: list[RunningAgent]
    clients: list[HttpsPerspective]

    def sees_truth(self, *agents: int) -> None:
        for number, agent in enumerate(self.agents):
            agent.dns[NAME.name] = ["127.0.0.2" if number in agents else "127.0.0.1"]

    def local(self) -> Method:
        return local_methods(
            resolver=self.world.resolver(),
            egress=self.world.egress(),
            clock=self.world.clock,
            http01_port=self.world.http.port,
            tlsalpn01_port=9,
        )["http-01"]

    async def attempt(self, *, needed: int | None = None, perspectives: list[Perspective] | None = None) -> Outcome:
        chosen: list[Perspective] = [*self.clients] if perspectives is None else perspectives
        count = agreeing_needed(len(chosen)) if needed is None else needed
        return await corroborated("http-01", self.local(), chosen, needed=count)(challenge(NAME, PROOF))


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
async def scene(pki: Pki) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(World())
        true = HttpTarget()
        await true.start("127.0.0.2", port=world.http.port)
        stack.push_async_callback(true.stop)
        agents = [
            await stack.enter_async_context(RunningAgent(f"127.0.0.{last}", pki, world.http.port, world.clock))
            for last in (2, 3, 4)
        ]
        names = ("frankfurt", "osaka", "recife")
        clients = [await stack.enter_async_context(agent.client(name)) for agent, name in zip(agents, names, strict=True)]
        world.dns[NAME.name] = ["127.0.0.1"]
        world.http.serve(TOKEN, PROOF)
        yield Scene(world, true, agents, clients)


async def test_what_all_see_is_proved_and_the_record_says_who_agreed(scene: Scene) -> None:
    scene.sees_truth()
    outcome = await scene.attempt()
    assert isinstance(outcome, Proved), outcome
    assert outcome.evidence.perspectives == tuple(
        Verdict(name, agrees=True, detail="", tried=("127.0.0.1",)) for name in ("frankfurt", "osaka", "recife")
    )
    assert len(scene.world.http.requests) == 4


async def test_a_hijack_of_our_own_view_alone_proves_nothing(scene: Scene) -> None:
    scene.sees_truth(0, 1, 2)
    outcome = await scene.attempt()
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.PERSPECTIVES
    assert outcome.problem == "unauthorized"
    assert "victim.example.com" in outcome.detail
    assert "0 see it too, and 2 must" in outcome.detail
    assert "frankfurt (unauthorized), osaka (unauthorized), recife (unauthorized)" in outcome.detail
    assert [verdict.tried for verdict in outcome.evidence.perspectives] == [("127.0.0.2",)] * 3


async def test_a_hijack_that_most_do_not_share_proves_nothing(scene: Scene) -> None:
    scene.sees_truth(0, 1)
    outcome = await scene.attempt()
    assert isinstance(outcome, Failed)
    assert [verdict.agrees for verdict in outcome.evidence.perspectives] == [False, False, True]


async def test_one_of_three_may_differ(scene: Scene) -> None:
    scene.sees_truth(1)
    outcome = await scene.attempt()
    assert isinstance(outcome, Proved)
    assert [verdict.agrees for verdict in outcome.evidence.perspectives] == [True, False, True]


async def test_unless_the_operator_wants_all(scene: Scene) -> None:
    scene.sees_truth(1)
    assert isinstance(await scene.attempt(needed=3), Failed)


async def test_others_do_not_prove_what_we_do_not_see(scene: Scene) -> None:
    scene.sees_truth()
    scene.world.dns[NAME.name] = ["127.0.0.2"]
    outcome = await scene.attempt()
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.UNAUTHORIZED


async def test_an_agent_that_is_away_does_not_agree(scene: Scene, pki: Pki) -> None:
    scene.sees_truth()
    async with HttpsPerspective("away", "https://127.0.0.9:1", pki.client_context()) as away:
        outcome = await scene.attempt(perspectives=[away, *scene.clients[:1]], needed=2)
        assert isinstance(outcome, Failed)
        assert "away (no answer)" in outcome.detail
        verdict = outcome.evidence.perspectives[0]
        assert (verdict.agrees, verdict.kind, verdict.detail[:23]) == (False, "", "it cannot be reached (C")
        assert isinstance(await scene.attempt(perspectives=[away, *scene.clients]), Proved)


async def test_a_failed_look_up_at_an_agent_is_its_verdict(scene: Scene) -> None:
    scene.sees_truth()
    for agent in scene.agents:
        agent.dns.faults[NAME.name] = DnsFault.SERVFAIL
    outcome = await scene.attempt()
    assert isinstance(outcome, Failed)
    assert [verdict.kind for verdict in outcome.evidence.perspectives] == ["dns"] * 3


async def test_no_verdict_is_kept_from_one_attempt_to_the_next(scene: Scene) -> None:
    scene.sees_truth()
    assert isinstance(await scene.attempt(), Proved)
    scene.sees_truth(0, 1, 2)
    assert isinstance(await scene.attempt(), Failed)


async def test_what_the_servers_say_goes_into_no_detail(scene: Scene) -> None:
    scene.sees_truth(0, 1, 2)
    scene.true.raw("*", b"HTTP/1.1 200 OK\r\nX-Key: secret-header\r\n\r\nsecret-body")
    assert "secret" not in repr(await scene.attempt())


async def test_a_slow_one_is_not_waited_for_when_enough_agree(scene: Scene, pki: Pki) -> None:
    forever = asyncio.Event()

    async def stuck(challenge: Challenge) -> Outcome:
        await forever.wait()
        raise AssertionError

    scene.sees_truth()
    async with (
        RunningAgent("127.0.0.5", pki, 9, scene.world.clock, methods={"http-01": stuck}) as agent,
        agent.client("slow", deadline=30) as slow,
        asyncio.timeout(10),
    ):
        outcome = await scene.attempt(perspectives=[slow, *scene.clients])
        forever.set()
    assert isinstance(outcome, Proved)
    assert outcome.evidence.perspectives[0] == Verdict(
        "slow", agrees=False, detail="it had not answered yet when the others had"
    )


async def test_a_primary_that_fails_waits_for_nobody(scene: Scene, pki: Pki) -> None:
    forever = asyncio.Event()

    async def stuck(challenge: Challenge) -> Outcome:
        await forever.wait()
        raise AssertionError

    scene.world.http.answers.clear()
    async with (
        RunningAgent("127.0.0.5", pki, 9, scene.world.clock, methods={"http-01": stuck}) as agent,
        agent.client("slow", deadline=30) as slow,
        asyncio.timeout(5),
    ):
        assert isinstance(await scene.attempt(perspectives=[slow]), Failed)
        forever.set()


@pytest.mark.parametrize(("count", "needed"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (6, 4), (7, 5), (10, 8)])
def test_the_quorum_is_that_of_the_baseline_requirements(count: int, needed: int) -> None:
    assert agreeing_needed(count) == needed


# --- who may ask, and what


async def test_nobody_asks_without_a_certificate_of_the_right_ca(scene: Scene, pki: Pki, tmp_path: Path) -> None:
    stranger = Pki(tmp_path, "stranger")
    certificate, key = stranger.server()
    wrong = ssl.create_default_context(cafile=str(pki.ca_file))
    wrong.load_cert_chain(certificate, key)
    none = ssl.create_default_context(cafile=str(pki.ca_file))
    agents_own = ssl.create_default_context(cafile=str(pki.ca_file))
    agents_own.load_cert_chain(*pki.agent("127.0.0.2"))  # of the right CA, but for servers
    scene.sees_truth()
    for context in (wrong, none, agents_own):
        async with scene.agents[0].client("frankfurt", context) as client:
            verdict = await client.validate(Question("http-01", challenge(NAME, PROOF)))
        assert not verdict.agrees
        assert "cannot be reached" in verdict.detail
    assert scene.agents[0].dns.queries == []


async def test_we_do_not_believe_an_agent_without_a_certificate_of_the_right_ca_for_its_name(
    scene: Scene, pki: Pki, tmp_path: Path
) -> None:
    certificate, key = pki.server()
    stranger = Pki(tmp_path, "stranger")
    other_ca = ssl.create_default_context(cafile=str(stranger.ca_file))
    other_ca.load_cert_chain(certificate, key)
    async with scene.agents[0].client("frankfurt", other_ca) as client:
        assert not (await client.validate(Question("http-01", challenge(NAME, PROOF)))).agrees
    url = scene.agents[0].url.replace("127.0.0.2", "localhost")
    async with HttpsPerspective("renamed", url, pki.client_context()) as client:
        assert not (await client.validate(Question("http-01", challenge(NAME, PROOF)))).agrees
    assert scene.agents[0].dns.queries == []


RIGHT = orjson.loads(encode_question(Question("http-01", challenge(NAME, PROOF))))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "strict JSON"),
        (b"[]", "members"),
        (orjson.dumps({**RIGHT, "more": 1}), "members"),
        (orjson.dumps({name: RIGHT[name] for name in RIGHT if name != "token"}), "members"),
        (orjson.dumps({**RIGHT, "wildcard": 0}), "wildcard is of another type"),
        (orjson.dumps({**RIGHT, "version": True}), "version is of another type"),
        (orjson.dumps({**RIGHT, "version": 2}), "same release"),
        (orjson.dumps({**RIGHT, "token": "é"}), "token is not of"),
        (orjson.dumps({**RIGHT, "token": "a/../b"}), "token"),
        (orjson.dumps({**RIGHT, "token": "a\r\nHost: x"}), "token"),
        (orjson.dumps({**RIGHT, "account_url": "é"}), "account_url is not ASCII"),
        (orjson.dumps({**RIGHT, "issuer_domains": [1]}), "list"),
        (orjson.dumps({**RIGHT, "response": {"csr": 1}}), "response"),
        (orjson.dumps({**RIGHT, "identifier": {"type": "dns", "value": "127.1"}}), "identifier"),
        (orjson.dumps({**RIGHT, "identifier": {"type": "email", "value": "a@b"}}), "identifier"),
        (orjson.dumps({**RIGHT, "method": "no-such-01"}), "methods"),
        (orjson.dumps({**RIGHT, "wildcard": True}), "wildcard"),
        (orjson.dumps({**RIGHT, "method": "dns-01", "identifier": {"type": "ip", "value": "192.0.2.1"}}), "address"),
        (orjson.dumps({**RIGHT, "method": "onion-csr-01"}), "onion"),
        (orjson.dumps({**RIGHT, "account_url": "x" * 70_000}), "longer than"),
    ],
)
async def test_a_question_that_is_none_is_refused_with_the_reason(scene: Scene, pki: Pki, body: bytes, words: str) -> None:
    connector = aiohttp.TCPConnector(ssl=pki.client_context())
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.post(scene.agents[0].url + VALIDATE, data=body) as response:
            assert response.status == 400
            assert words in (await response.json())["error"]
        async with session.get(scene.agents[0].url + VALIDATE) as response:
            assert response.status == 405
    assert scene.agents[0].dns.queries == []


async def test_more_questions_than_there_are_places_are_sent_away(pki: Pki) -> None:
    started, forever = asyncio.Event(), asyncio.Event()

    async def stuck(challenge: Challenge) -> Outcome:
        started.set()
        await forever.wait()
        return Proved(
            AttemptEvidence("http-01", str(challenge.identifier), started=agent.clock.micros(), finished=agent.clock.micros())
        )

    async with (
        RunningAgent("127.0.0.2", pki, 9, at_once=1, methods={"http-01": stuck}) as agent,
        agent.client("small") as client,
    ):
        question = Question("http-01", challenge(NAME, PROOF))
        first = asyncio.create_task(client.validate(question))
        await started.wait()
        verdict = await client.validate(question)
        assert (verdict.agrees, verdict.detail) == (False, "it answered with status 503")
        forever.set()
        assert (await first).agrees
        assert (await client.validate(question)).agrees


async def test_slow_targets_of_some_take_no_perspective_away_from_others(pki: Pki) -> None:
    """One account may have 64 validations under way; what they wait for must not be a "no" to somebody else's question."""
    waiting, forever = asyncio.Semaphore(0), asyncio.Event()

    async def stuck(challenge: Challenge) -> Outcome:
        if challenge.identifier != NAME:
            waiting.release()
            await forever.wait()
        return Proved(
            AttemptEvidence("http-01", str(challenge.identifier), started=agent.clock.micros(), finished=agent.clock.micros())
        )

    slow = Question("http-01", challenge(parse_dns("slow.example.com"), PROOF))
    options = Options(listen="", certificate=pki.ca_file, key=pki.ca_file, client_ca=pki.ca_file)
    async with (
        RunningAgent("127.0.0.2", pki, 9, at_once=options.at_once, methods={"http-01": stuck}) as agent,
        agent.client("busy", deadline=20) as client,
    ):
        others = [asyncio.create_task(client.validate(slow)) for _ in range(100)]
        for _ in others:
            await waiting.acquire()
        assert (await client.validate(Question("http-01", challenge(NAME, PROOF)))).agrees
        forever.set()
        assert all(verdict.agrees for verdict in await asyncio.gather(*others))


# --- and what we believe


async def test_an_agent_that_answers_nonsense_does_not_agree(pki: Pki) -> None:
    question = Question("http-01", challenge(NAME, PROOF))
    asked = hashlib.sha256(encode_question(question)).hexdigest()
    right = {"version": 1, "question": asked, "agrees": True, "kind": "", "detail": "", "tried": []}
    answers: list[bytes] = [
        b"",
        b"{",
        orjson.dumps({**right, "version": 2}),
        orjson.dumps({**right, "question": hashlib.sha256(encode_question(replace(question, method="dns-01"))).hexdigest()}),
        orjson.dumps({**right, "agrees": "true"}),
        orjson.dumps({**right, "agrees": 1}),
        orjson.dumps({**right, "kind": "dns"}),
        orjson.dumps({**right, "agrees": False}),
        orjson.dumps({**right, "agrees": False, "kind": "bad luck"}),
        orjson.dumps({**right, "tried": ["<script>"]}),
        orjson.dumps({**right, "tried": ["127.0.0.1"] * 65}),
        orjson.dumps({**right, "more": 1}),
        orjson.dumps(right) + b" " * 40_000,
        orjson.dumps(right).replace(b'"agrees":true', b'"agrees":false,"agrees":true'),
    ]
    served: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = served[0]
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*pki.agent("127.0.0.2"))
    async with await asyncio.start_server(handle, "127.0.0.2", 0, ssl=context) as liar:
        url = f"https://127.0.0.2:{liar.sockets[0].getsockname()[1]}"
        for body in answers:
            served[:] = [body]
            async with HttpsPerspective("liar", url, pki.client_context(), deadline=5) as client:
                verdict = await client.validate(Question("http-01", challenge(NAME, PROOF)))
            assert not verdict.agrees, body
            assert "cannot be read" in verdict.detail, (body, verdict)
        served[:] = [orjson.dumps({**right, "agrees": False, "kind": "dns", "detail": "\x1b[31m\n" + "x" * 5000})]
        async with HttpsPerspective("liar", url, pki.client_context(), deadline=5) as client:
            verdict = await client.validate(Question("http-01", challenge(NAME, PROOF)))
        assert verdict.detail.startswith("?[31m?x")
        assert len(verdict.detail) == 1000


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\0\xff" * 100,
        b"220 mail.internal.example ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    ],
)
async def test_an_agent_that_speaks_no_http_or_sends_us_away_does_not_agree(pki: Pki, wire: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(wire)
        await writer.drain()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*pki.agent("127.0.0.2"))
    async with await asyncio.start_server(handle, "127.0.0.2", 0, ssl=context) as liar:
        url = f"https://127.0.0.2:{liar.sockets[0].getsockname()[1]}"
        async with HttpsPerspective("liar", url, pki.client_context(), deadline=5) as client:
            verdict = await client.validate(Question("http-01", challenge(NAME, PROOF)))
    assert (verdict.agrees, verdict.kind) == (False, "")
    assert verdict.detail.startswith("it ")
    assert "internal" not in verdict.detail


# --- CAA


QUESTION = CaaQuestion(NAME, frozenset({"ca.test"}), "https://ca.test/acme/account/1", frozenset({"http-01"}))


async def test_an_agent_says_what_it_sees_of_caa(scene: Scene) -> None:
    agent, client = scene.agents[0], scene.clients[0]
    agent.dns[NAME.name] = ["127.0.0.1"]
    assert await client.caa(QUESTION) == Verdict("frankfurt", agrees=True, detail="")
    agent.dns.caa(NAME.name, '0 issue "ca.test"')
    assert (await client.caa(QUESTION)).agrees
    agent.dns.caa(NAME.name, '0 issue "other-ca.example"')
    verdict = await client.caa(QUESTION)
    assert (verdict.agrees, verdict.kind) == (False, "forbidden")
    agent.dns.faults[NAME.name] = DnsFault.SERVFAIL
    verdict = await client.caa(QUESTION)
    assert (verdict.agrees, verdict.kind) == (False, "failed")


def caa_of(scene: Scene, *, needed: int = 2) -> CaaCheck:
    async def local(name: DnsName, *, account_url: str, methods: frozenset[str]) -> CaaOutcome:
        return await check_caa(
            name.name,
            wildcard=name.wildcard,
            resolver=scene.world.resolver(),
            issuer_domains={"ca.test"},
            account_url=account_url,
            methods=methods,
            clock=scene.world.clock,
        )

    return corroborated_caa(local, scene.clients, needed=needed, issuer_domains={"ca.test"})


@pytest.mark.parametrize(
    ("sees", "expected"),
    [
        (("permit", "permit", "permit"), Permitted),
        (("permit", "forbid", "permit"), Permitted),
        (("permit", "forbid", "forbid"), Forbidden),
        (("permit", "forbid", "fail"), Forbidden),
        (("permit", "fail", "fail"), CaaFailed),
    ],
)
async def test_caa_counts_when_enough_see_no_objection(scene: Scene, sees: tuple[str, ...], expected: type[CaaOutcome]) -> None:
    for agent, view in zip(scene.agents, sees, strict=True):
        agent.dns[NAME.name] = ["127.0.0.1"]
        if view == "forbid":
            agent.dns.caa(NAME.name, '0 issue ";"')
        if view == "fail":
            agent.dns.faults[NAME.name] = DnsFault.SERVFAIL
    outcome = await caa_of(scene)(NAME, account_url="", methods=frozenset({"http-01"}))
    assert isinstance(outcome, expected), outcome
    assert [verdict.agrees for verdict in outcome.evidence.perspectives] == [view == "permit" for view in sees]
    assert outcome.evidence.name == str(NAME)


async def test_what_we_see_forbidden_is_forbidden_whoever_else_sees_what(scene: Scene) -> None:
    for agent in scene.agents:
        agent.dns[NAME.name] = ["127.0.0.1"]
    scene.world.dns.caa(NAME.name, '0 issue "other-ca.example"')
    assert isinstance(await caa_of(scene)(NAME, account_url="", methods=frozenset()), Forbidden)


async def test_wildcard_account_and_methods_reach_the_agents(scene: Scene) -> None:
    right = '0 issuewild "ca.test; accounturi=https://ca.test/acme/account/1; validationmethods=dns-01"'
    for dns in (scene.world.dns, *(agent.dns for agent in scene.agents)):
        dns[NAME.name] = ["127.0.0.1"]
        dns.caa(NAME.name, '0 issue ";"', right)
    star = DnsName(NAME.name, wildcard=True)
    outcome = await caa_of(scene, needed=3)(star, account_url=QUESTION.account_url, methods=frozenset({"dns-01"}))
    assert isinstance(outcome, Permitted), outcome
