"""A challenge that a webhook knows: what it is sent, which answer lets in, and that every other one does not."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from issuance.lockout import FailureLimits
from issuance.request import DelegatedChallenge, Pending
from pki.csr import parse_csr
from policy.limits import Limit
from policy.principal import PrincipalKind
from scep import message
from scep.authorization import REFUSED, Asked
from scep.endpoint import ScepEndpoint, Way
from scep.services import AT_ONCE, NOT_CHECKED, HttpReply, HttpRequest, ServiceFailure, Turns
from scep.transactions import Place
from scep.webhook import Webhook, WebhookWay, objection, question
from tests.helpers.clock import FakeClock
from tests.helpers.scep import SECRET, Answer, Message, ScepCa, csr, enveloped, parse_answer, rsa_key
from tests.helpers.scep_world import ADDRESS, ScepWorld, scep_world

KEY = bytes(range(32))
CHALLENGE = "a secret that only the webhook knows"
YES = HttpReply(200, b'{"allow": true}')
NO = HttpReply(200, b'{"allow": false, "data": {}}')


@dataclass(slots=True)
class Service:
    """scep.services.HttpClient: says `reply`, fails, or hangs until it is given up."""

    reply: HttpReply = YES
    failure: str = ""
    hangs: bool = False
    requests: list[HttpRequest] = field(default_factory=list)
    hanging: int = 0
    most: int = 0  # at once
    full: asyncio.Event = field(default_factory=asyncio.Event)  # as many as there are turns

    async def send(self, request: HttpRequest) -> HttpReply:
        self.requests.append(request)
        if self.hangs:
            await self._hang()
        if self.failure:
            raise ServiceFailure(self.failure)
        return self.reply

    async def _hang(self) -> None:
        self.hanging += 1
        self.most = max(self.most, self.hanging)
        if self.hanging >= AT_ONCE:
            self.full.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.hanging -= 1


def webhook(timeout: timedelta = timedelta(seconds=5)) -> Webhook:
    return Webhook("https://mdm.example.com/scep", KEY, timeout, frozenset({"phone"}))


@dataclass(slots=True)
class Site:
    world: ScepWorld
    service: Service

    def endpoint(self, *ways: Way, name: str = "default", limits: int | None = None) -> ScepEndpoint:
        found = dataclasses.replace(self.world.ca.endpoint(name=name), challenges=ways or (Way.WEBHOOK,))
        if limits is None:
            return found
        failures = FailureLimits(per_address=Limit(limits, timedelta(minutes=15)))
        return dataclasses.replace(found, limits=dataclasses.replace(found.limits, failures=failures))

    async def ask(self, endpoint: ScepEndpoint | None = None, **changes: str) -> Answer:
        return await self.world.ask(scep_message(self.world.ca, **changes), endpoint=endpoint or self.endpoint())


def scep_message(ca: ScepCa, *, challenge: str = CHALLENGE, transaction_id: str = "TX-1", **more: str) -> Message:
    request = csr(rsa_key("device"), challenge=challenge, **more)
    return Message(content=enveloped(request, ca.ra), transaction_id=transaction_id)


def way(world: ScepWorld, service: Service, *names: str, timeout: timedelta = timedelta(seconds=5)) -> WebhookWay:
    ids = iter(range(1_000_000))
    webhooks = {name: (webhook(timeout), service) for name in names or ("default",)}
    return WebhookWay(webhooks, clock=world.clock, new_id=lambda: f"id-{next(ids)}", observer=world.counts)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with scep_world() as world:
        service = Service()
        world.ways[Way.WEBHOOK] = way(world, service)
        yield Site(world, service)


# ---------------------------------------------------------------- what it is sent


def asked(**changes: str) -> Asked:
    return Asked(
        ScepCa().endpoint(), Place("default", "TX/+=1", "00"), parse_csr(csr(rsa_key("device"), challenge=CHALLENGE)), ADDRESS
    )


def test_the_question_has_the_fields_of_step_ca_and_is_signed_as_there() -> None:
    """X-Smallstep-Signature is the HMAC-SHA256 of the body, in hex, with the secret that is shown in Base64."""
    request = question(webhook(), asked(), at=FakeClock().micros(), new_id="0123")
    content = json.loads(request.body)
    assert (request.method, request.url) == ("POST", "https://mdm.example.com/scep")
    assert request.headers["X-Smallstep-Signature"] == hmac.new(KEY, request.body, hashlib.sha256).hexdigest()
    assert request.headers["X-Smallstep-Webhook-ID"] == "default"
    assert request.headers["Content-Type"] == "application/json"
    certificate_request = content.pop("x509CertificateRequest")
    assert content == {
        "timestamp": "2026-11-23T12:00:00Z",
        "id": "0123",
        "provisionerName": "default",
        "scepChallenge": CHALLENGE,
        "scepTransactionID": "TX/+=1",
    }
    assert base64.b64decode(certificate_request.pop("raw")) == asked().csr.der
    assert base64.b64decode(certificate_request.pop("rawSubject")) == asked().csr.subject
    assert base64.b64decode(certificate_request.pop("publicKey")) == asked().csr.spki
    assert certificate_request == {
        "subject": {"commonName": "dev1"},
        "dnsNames": ["dev1.example.com"],
        "ipAddresses": [],
        "publicKeyAlgorithm": "RSA",
    }


def test_no_representation_shows_a_secret() -> None:
    request = question(webhook(), asked(), at=FakeClock().micros(), new_id="0123")
    shown = f"{webhook()!r} {request!r} {asked()!r} {HttpReply(200, CHALLENGE.encode())!r}"
    assert CHALLENGE not in shown
    assert request.headers["X-Smallstep-Signature"] not in shown
    assert repr(KEY) not in shown


# ---------------------------------------------------------------- what it answers


def test_one_answer_lets_in() -> None:
    for reply in (YES, HttpReply(201, b' {"data": {"role": "x"}, "allow":true}\n')):
        assert objection(reply) is None


def test_a_clear_no_is_no() -> None:
    for reply in (NO, *(HttpReply(status, b'{"allow": true}') for status in (400, 401, 403, 404, 410, 451, 499))):
        assert objection(reply)


UNCLEAR = {
    "a string": b'{"allow": "true"}',
    "a number": b'{"allow": 1}',
    "null": b'{"allow": null}',
    "a list": b'{"allow": [true]}',
    "another case": b'{"Allow": true}',
    "missing": b'{"data": {"allow": true}}',
    "no object": b"true",
    "an array": b'[{"allow": true}]',
    "no JSON": b"<p>allow</p>",
    "cut off": b'{"allow": true',
    "two values": b'{"allow": true}{"allow": true}',
    "nothing": b"",
    "not UTF-8": b'{"allow": true, "data": "\xff"}',
    "nested deeply": b"[" * 60_000,
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_an_unclear_answer_is_a_failure(name: str) -> None:
    with pytest.raises(ServiceFailure):
        objection(HttpReply(200, UNCLEAR[name]))


def test_a_status_that_is_no_answer_is_a_failure_whatever_comes_with_it() -> None:
    for status in (100, 199, 300, 301, 302, 304, 307, 308, 408, 425, 429, 500, 502, 503, 504, 599):
        with pytest.raises(ServiceFailure, match=str(status)):
            objection(HttpReply(status, b'{"allow": true}'))


# ---------------------------------------------------------------- who gets in


async def test_a_yes_lets_in_with_the_roles_of_the_configuration(site: Site) -> None:
    assert (await site.ask()).status == "0"
    (request,) = site.world.issuance.requests
    assert (request.principal.kind, request.principal.id) == (PrincipalKind.SCEP_CLIENT, "webhook/default")
    assert (request.principal.roles, request.principal.source_address) == (frozenset({"phone"}), ADDRESS)
    assert request.evidence == (DelegatedChallenge("webhook/default"),)
    assert site.world.counts.authorizations == [("default", "webhook", "allowed")]


async def test_a_no_is_refused_as_a_wrong_password_is(site: Site) -> None:
    site.service.reply = NO
    answer = await site.ask()
    assert (answer.status, answer.fail_info, answer.text) == ("2", "2", REFUSED)
    assert site.world.issuance.requests == []
    assert site.world.counts.authorizations == [("default", "webhook", "denied"), ("default", "challenge", "refused")]


async def test_no_answer_is_refused_and_says_nothing_of_why(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    site.service.failure = "its TLS certificate is not accepted: self-signed certificate"
    answer = await site.ask()
    assert (answer.status, answer.fail_info, answer.text) == ("2", "2", NOT_CHECKED)
    assert site.world.issuance.requests == []
    assert site.world.counts.authorizations == [("default", "webhook", "failed")]
    assert "default: webhook: its TLS certificate is not accepted: self-signed certificate; transaction TX-1" in caplog.text
    assert CHALLENGE not in caplog.text


async def test_without_a_challenge_nobody_is_asked(site: Site) -> None:
    assert (await site.ask(challenge="")).text == REFUSED
    assert site.service.requests == []


# ---------------------------------------------------------------- in which order


async def test_ways_are_asked_in_their_order(site: Site) -> None:
    """A static password never reaches a webhook that comes after it."""
    assert (await site.ask(site.endpoint(Way.STATIC, Way.WEBHOOK), challenge=SECRET)).status == "0"
    assert site.service.requests == []
    assert (await site.ask(site.endpoint(Way.STATIC, Way.WEBHOOK), transaction_id="TX-2")).status == "0"
    assert len(site.service.requests) == 1
    site.service.reply = NO
    answer = await site.ask(site.endpoint(Way.WEBHOOK, Way.STATIC), challenge=SECRET, transaction_id="TX-3")
    assert answer.status == "0"
    assert [way for _, way, result in site.world.counts.authorizations if result == "allowed"] == [
        "static",
        "webhook",
        "static",
    ]


async def test_a_long_static_password_does_not_reach_a_webhook_that_comes_after_it(site: Site) -> None:
    site.world.challenges.right.add(("default", "p" * 100))
    assert (await site.ask(site.endpoint(Way.STATIC, Way.WEBHOOK), challenge="p" * 100)).status == "0"
    assert site.service.requests == []


async def test_nobody_else_is_asked_when_a_webhook_gives_no_answer(site: Site) -> None:
    site.service.failure = "no connection"
    answer = await site.ask(site.endpoint(Way.WEBHOOK, Way.STATIC), challenge=SECRET)
    assert (answer.status, answer.text) == ("2", NOT_CHECKED)
    assert site.world.challenges.asked == []


# ---------------------------------------------------------------- again


async def test_the_same_request_again_does_not_ask_again(site: Site) -> None:
    first = await site.ask()
    site.service.reply = NO  # it opens once
    again = await site.ask()
    assert (first.status, again.status) == ("0", "0")
    assert len(site.service.requests) == 1
    assert len(site.world.issuance.issued) == 1


async def test_a_request_that_waits_is_polled_for_without_asking_again(site: Site) -> None:
    site.world.issuance.script.append(Pending("A-1", 5))
    assert (await site.ask()).status == "3"
    site.service.reply = NO
    assert (await site.ask()).status == "0"
    assert len(site.service.requests) == 1


async def test_another_request_in_the_same_transaction_asks_again(site: Site) -> None:
    assert (await site.ask()).status == "0"
    site.service.reply = NO
    assert (await site.ask(common_name="dev2")).status == "2"
    assert (await site.ask(transaction_id="TX-2")).status == "2"
    assert len(site.service.requests) == 3


async def test_what_a_webhook_once_allowed_is_nothing_where_there_is_no_webhook_any_more(site: Site) -> None:
    assert (await site.ask()).status == "0"
    assert (await site.ask(site.endpoint(Way.STATIC))).status == "2"


async def test_every_question_has_an_id_of_its_own(site: Site) -> None:
    for number in range(3):
        await site.ask(transaction_id=f"TX-{number}")
    assert len({json.loads(request.body)["id"] for request in site.service.requests}) == 3


# ---------------------------------------------------------------- many, and slow ones


async def test_a_no_is_a_failed_attempt_and_no_answer_is_none(site: Site) -> None:
    endpoint = site.endpoint(limits=2)
    site.service.failure = "no connection"
    for number in range(4):
        assert (await site.ask(endpoint, transaction_id=f"A{number}")).text == NOT_CHECKED
    site.service.failure, site.service.reply = "", NO
    texts = [(await site.ask(endpoint, transaction_id=f"B{number}")).text for number in range(3)]
    assert texts[:2] == [REFUSED, REFUSED]
    assert str(texts[2]).startswith("too many failed attempts from")
    asked_so_far = len(site.service.requests)
    long = await site.ask(endpoint, challenge="j" * 500, transaction_id="C")
    assert str(long.text).startswith("too many failed attempts from")
    assert len(site.service.requests) == asked_so_far  # a flood ends here


async def test_long_challenges_of_one_address_are_asked_about_at_once(site: Site) -> None:
    """All devices of a company may come from one address: a webhook that takes its time for one keeps no other waiting."""
    endpoint = site.endpoint(limits=100)
    site.world.ways[Way.WEBHOOK] = way(site.world, site.service, timeout=timedelta(seconds=0.5))
    site.service.hangs = True
    authority = site.world.authority(endpoint)  # one, as in a worker: its turns are shared

    async def ask(number: int) -> str | None:
        request = scep_message(site.world.ca, challenge="j" * 500, transaction_id=f"T{number}").encode()
        return parse_answer(await authority.answer(message.parse(request), source_address=ADDRESS)).text

    async with asyncio.timeout(10):
        texts = await asyncio.gather(*(ask(number) for number in range(30)))
    assert set(texts) == {NOT_CHECKED}
    assert (site.service.most, site.service.hanging) == (AT_ONCE, 0)


async def test_one_endpoints_slow_webhook_is_not_anothers(site: Site) -> None:
    slow, quick = Service(hangs=True), Service()
    webhooks = {"slow": (webhook(timedelta(seconds=1)), slow), "default": (webhook(), quick)}
    site.world.ways[Way.WEBHOOK] = WebhookWay(webhooks, clock=site.world.clock, new_id=lambda: "id", observer=site.world.counts)
    waiting = [asyncio.create_task(site.ask(site.endpoint(name="slow"), transaction_id=f"S{number}")) for number in range(20)]
    await slow.full.wait()
    assert (await site.ask()).status == "0"
    assert not any(task.done() for task in waiting)
    assert {answer.text for answer in await asyncio.gather(*waiting)} == {NOT_CHECKED}


async def test_turns_are_given_back(site: Site) -> None:
    turns = Turns(timeout=timedelta(seconds=0.05), at_once=1)
    never: Callable[[], asyncio.Future[None]] = asyncio.get_running_loop().create_future

    async def wait() -> None:
        await never()

    async def done() -> str:
        return "done"

    with pytest.raises(ServiceFailure, match=r"it did not answer within 0\.05 s"):
        await turns.run(wait)
    assert await turns.run(done) == "done"
