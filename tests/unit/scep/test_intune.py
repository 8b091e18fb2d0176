"""Challenges of Microsoft Intune, against a stand-in of its service: who is let in, what it is told, and what no log shows."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from issuance.lockout import FailureLimits
from issuance.request import DelegatedChallenge, Pending, Rejected
from pki.clock import Micros
from pki.reasons import Reason, Rejection, Unavailable
from policy.limits import Limit
from policy.principal import PrincipalKind
from scep.authorization import REFUSED
from scep.endpoint import ScepEndpoint, Way
from scep.intune import AGAIN, Intune, IntuneWay
from scep.intune_api import DENIED, FOREIGN, Application, Token, read_address, read_code, read_token, token_request
from scep.services import NOT_CHECKED, HttpReply, HttpRequest, ServiceFailure
from tests.helpers.scep import SECRET, Answer, Message, ScepCa, csr, enveloped, rsa_key
from tests.helpers.scep_services import Heard, MicrosoftService, Said
from tests.helpers.scep_world import ScepWorld, scep_world

URL = "https://microsoft.example.com"
CHALLENGE = "MIIGintune+" + "challenge/" * 60 + "=="
# Of Microsoft's library; all but the first refuse.
CODES = (
    "CertificateRequestDecodingFailed",
    "ChallengePasswordMissing",
    "ChallengeDeserializationError",
    "ChallengeDecryptionError",
    "ChallengeDecodingError",
    "ChallengeInvalidTimestamp",
    "ChallengeExpired",
    "SubjectNameMissing",
    "SubjectNameMismatch",
    "SubjectAltNameMissing",
    "SubjectAltNameMismatch",
    "KeyUsageMismatch",
    "KeyLengthMismatch",
    "EnhancedKeyUsageMissing",
    "EnhancedKeyUsageMismatch",
    "AadKeyIdentifierListMissing",
    "RegisteredKeyMismatch",
    "SigningCertThumbprintMismatch",
    "ScepProfileNoLongerTargetedToTheClient",
    "SignatureValidationFailed",
    "BadCertificateRequestIdInChallenge",
    "BadDeviceIdInChallenge",
    "BadUserIdInChallenge",
    "Unknown",
    "success",
    "SUCCESS",
    "Succeeded",
    "1",
    "SomethingNew",
)


@dataclass(slots=True)
class Wire:
    """scep.services.HttpClient, to the stand-in and nowhere else. `failing`: part of the path -> what is said there instead."""

    service: MicrosoftService
    heard: list[Heard] = field(default_factory=list)
    failing: dict[str, Said | str] = field(default_factory=dict)

    async def send(self, request: HttpRequest) -> HttpReply:
        await asyncio.sleep(0)
        assert request.url.startswith(f"{URL}/")
        path = request.url.removeprefix(URL)
        heard = Heard(request.method, path, {name.lower(): value for name, value in request.headers.items()}, request.body)
        self.heard.append(heard)
        said = next((said for part, said in self.failing.items() if part in path), None) or self.service.answer(heard)
        if isinstance(said, str):
            raise ServiceFailure(said)
        return HttpReply(said.status, said.body)

    def paths(self) -> list[str]:
        return [heard.path.rpartition("/")[2] for heard in self.heard]


@dataclass(slots=True)
class Site:
    world: ScepWorld
    service: MicrosoftService
    wire: Wire

    def endpoint(self, *ways: Way, limits: int | None = None) -> ScepEndpoint:
        found = dataclasses.replace(self.world.ca.endpoint(), challenges=ways or (Way.INTUNE,))
        failures = FailureLimits(per_address=None if limits is None else Limit(limits, timedelta(minutes=15)))
        return dataclasses.replace(found, limits=dataclasses.replace(found.limits, failures=failures))

    async def ask(self, endpoint: ScepEndpoint | None = None, **changes: str) -> Answer:
        return await self.world.ask(message(self.world.ca, **changes), endpoint=endpoint or self.endpoint())

    async def poll(self) -> Answer:
        request = message(self.world.ca)
        request.message_type = "20"
        return await self.world.ask(request, endpoint=self.endpoint())

    @contextmanager
    def failing(self, part: str, said: Said | str) -> Iterator[None]:
        self.wire.failing[part] = said
        yield
        del self.wire.failing[part]


def message(ca: ScepCa, *, challenge: str = CHALLENGE, transaction_id: str = "TX-1", **more: str) -> Message:
    request = csr(rsa_key("device"), challenge=challenge, **more)
    return Message(content=enveloped(request, ca.ra), transaction_id=transaction_id)


def application(service: MicrosoftService) -> Application:
    return Application(service.tenant, service.client_id, service.client_secret, URL, URL)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with scep_world() as world:
        service = MicrosoftService(url=URL, known={CHALLENGE: "dev1"})
        wire = Wire(service)
        intune = Intune(application(service), timedelta(seconds=5), frozenset({"managed"}))
        way = IntuneWay({"default": (intune, wire)}, clock=world.clock, observer=world.counts)
        world.ways[Way.INTUNE] = way
        world.informed[Way.INTUNE] = way
        yield Site(world, service, wire)


# ---------------------------------------------------------------- who gets in


async def test_a_challenge_that_intune_takes_lets_in_with_the_roles_of_the_configuration(site: Site) -> None:
    assert (await site.ask()).status == "0"
    (request,) = site.world.issuance.requests
    assert (request.principal.kind, request.principal.id) == (PrincipalKind.SCEP_CLIENT, "intune/default")
    assert request.principal.roles == frozenset({"managed"})
    assert request.evidence == (DelegatedChallenge("intune/default"),)
    assert site.world.counts.authorizations == [("default", "intune", "allowed")]
    assert site.wire.paths() == ["token", "endpoints", "token", "validateRequest", "successNotification"]


async def test_every_other_code_refuses(site: Site) -> None:
    for number, code in enumerate(CODES):
        site.service.codes["validateRequest"] = [code]
        answer = await site.ask(transaction_id=f"TX-{number}")
        assert (answer.status, answer.fail_info, answer.text) == ("2", "2", REFUSED), code
    assert (site.world.issuance.requests, site.service.notified) == ([], [])
    assert site.world.counts.authorizations.count(("default", "intune", "denied")) == len(CODES)


async def test_a_challenge_that_was_made_for_another_name_refuses(site: Site) -> None:
    assert (await site.ask(common_name="dev2")).text == REFUSED
    assert site.world.issuance.requests == []


async def test_what_is_no_challenge_of_intunes_is_left_to_the_other_ways(site: Site) -> None:
    for number, code in enumerate(sorted(FOREIGN)):
        site.service.codes["validateRequest"] = [code]
        site.world.challenges.right.add(("default", CHALLENGE))
        assert (await site.ask(site.endpoint(Way.INTUNE, Way.STATIC), transaction_id=f"TX-{number}")).status == "0"
    site.service.codes["validateRequest"] = ["ChallengeExpired"]
    assert (await site.ask(site.endpoint(Way.INTUNE, Way.STATIC), transaction_id="TX-Z")).text == REFUSED


async def test_short_passwords_of_others_are_not_sent_to_microsoft(site: Site) -> None:
    assert (await site.ask(site.endpoint(Way.INTUNE, Way.STATIC), challenge=SECRET)).status == "0"
    assert (await site.ask(challenge="x" * 63)).text == REFUSED
    assert site.wire.heard == []


async def test_what_intune_says_of_its_own_challenges_locks_nobody_out(site: Site) -> None:
    """A profile with a mistake in it sends all devices of a company with challenges that do not fit, from one address."""
    endpoint = site.endpoint(limits=2)
    site.service.codes["validateRequest"] = ["SubjectNameMismatch"] * 4
    for number in range(4):
        assert (await site.ask(endpoint, transaction_id=f"A{number}")).text == REFUSED
    site.service.codes["validateRequest"] = ["ChallengeDecryptionError"] * 2
    for number in range(2):
        assert (await site.ask(endpoint, transaction_id=f"B{number}")).text == REFUSED
    assert str((await site.ask(endpoint, transaction_id="C")).text).startswith("too many failed attempts from")


FAILURES: dict[str, list[Said | str]] = {
    "token": [
        Said(500),
        Said(200, b"{}"),
        Said(200, b'{"token_type": "mac", "expires_in": 3599, "access_token": "x"}'),
        Said(200, b'{"token_type": "Bearer", "expires_in": "3599", "access_token": "x"}'),
        Said(200, b'{"token_type": "Bearer", "expires_in": true, "access_token": "x"}'),
        Said(200, b'{"token_type": "Bearer", "expires_in": 3599, "access_token": "x\\r\\nX-Evil: 1"}'),
        Said(302),
        "no connection: Connection refused",
    ],
    "endpoints": [
        Said(403),
        Said(401),
        Said(200, b'{"value": []}'),
        Said(200, b'{"value": {"providerName": "ScepRequestValidationFEService"}}'),
        Said(200, b'{"value": [{"providerName": "ScepRequestValidationFEService", "uri": "http://fef.example.com"}]}'),
        Said(200, b'{"value": [{"providerName": "ScepRequestValidationFEService", "uri": "https://a@fef.example.com"}]}'),
        Said(200, b'{"value": [{"providerName": "ScepRequestValidationFEService", "uri": "https://["}]}'),
        Said(200, b"[]"),
        "its host name has no address",
    ],
    "validateRequest": [
        Said(500),
        Said(401),
        Said(307),
        Said(202, b'{"code": "Success"}'),
        Said(200, b"{}"),
        Said(200, b'{"code": null}'),
        Said(200, b'{"code": ["Success"]}'),
        Said(200, b'{"code": "Success\\n"}'),
        Said(200, b'"Success"'),
        Said(200, b""),
        "it did not answer in time",
    ],
}


@pytest.mark.parametrize("part", FAILURES)
async def test_no_clear_answer_lets_nobody_in_and_is_in_the_log(
    site: Site, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for number, said in enumerate(FAILURES[part]):
        caplog.clear()
        with site.failing(part, said):
            answer = await site.ask(transaction_id=f"TX-{number}")
        assert (answer.status, answer.fail_info, answer.text) == ("2", "2", NOT_CHECKED), said
        assert f"default: Intune: {said if isinstance(said, str) else ''}" in caplog.text
        secrets(site, caplog.text)
    assert site.world.issuance.requests == []
    assert {result for _, _, result in site.world.counts.authorizations} == {"failed"}
    assert (await site.ask(transaction_id="TX-Z")).status == "0"  # and when it is back, it is back


def secrets(site: Site, text: str) -> None:
    assert site.service.client_secret not in text
    assert CHALLENGE[:20] not in text
    assert not any(token in text for token in site.service.tokens)


async def test_a_hanging_service_ends_in_its_time(site: Site) -> None:
    @dataclass(slots=True)
    class Hanging:
        async def send(self, request: HttpRequest) -> HttpReply:
            await asyncio.Event().wait()
            raise AssertionError

    intune = Intune(application(site.service), timedelta(seconds=0.05), frozenset())
    site.world.ways[Way.INTUNE] = IntuneWay(
        {"default": (intune, Hanging())}, clock=site.world.clock, observer=site.world.counts
    )
    async with asyncio.timeout(5):
        assert (await site.ask()).text == NOT_CHECKED


# ---------------------------------------------------------------- what it is told


async def test_intune_knows_the_certificate_before_the_device_does(site: Site) -> None:
    assert (await site.ask()).status == "0"
    ((action, content),) = site.service.notified
    (issued,) = site.world.issuance.issued.values()
    certificate = x509.load_der_x509_certificate(issued[1].certificate.der)
    assert action == "successNotification"
    assert content["transactionId"] == "TX-1"
    assert content["certificateThumbprint"] == certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303  # Microsoft's
    assert int(content["certificateSerialNumber"], 16) == certificate.serial_number
    assert len(content["certificateSerialNumber"]) % 2 == 0
    assert content["certificateExpirationDateUtc"] == f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%S}.000Z"
    assert content["issuingCertificateAuthority"] == "CN=Test CA,O=Proto"


@pytest.mark.parametrize(
    "said", [Said(500), Said(401), Said(200, b'{"code": "ChallengeExpired"}'), Said(200, b"{}"), "no connection"]
)
async def test_a_certificate_that_intune_cannot_be_told_of_is_not_given_away(
    site: Site, said: Said | str, caplog: pytest.LogCaptureFixture
) -> None:
    """The device asks again, and gets the same certificate once Intune has heard of it."""
    with site.failing("successNotification", said), pytest.raises(Unavailable):
        await site.ask()
    assert len(site.world.issuance.issued) == 1
    assert (await site.ask()).status == "0"
    assert len(site.world.issuance.issued) == 1
    assert [action for action, _ in site.service.notified] == ["successNotification"]
    assert site.wire.paths().count("validateRequest") == 1
    assert "successNotification of certificate" in caplog.text
    secrets(site, caplog.text)


async def test_intune_is_told_of_a_refusal_as_well(site: Site) -> None:
    long = "this name is not for you: " + "x" * 300
    site.world.issuance.script.append(Rejected(Rejection(Reason.FORBIDDEN, long)))
    assert (await site.ask()).status == "2"
    ((action, content),) = site.service.notified
    assert (action, content["hResult"], content["errorDescription"]) == ("failureNotification", DENIED, long[:255])
    assert -(1 << 31) <= DENIED < 0


async def test_a_refusal_that_intune_cannot_be_told_of_is_a_refusal(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.world.issuance.script.append(Rejected(Rejection(Reason.FORBIDDEN, "not for you")))
    with site.failing("failureNotification", Said(500)):
        answer = await site.ask()
    assert (answer.status, answer.text) == ("2", "not for you")
    assert "failureNotification: Intune answered with status 500" in caplog.text


async def test_whoever_had_to_wait_sends_the_request_again(site: Site) -> None:
    """A poll carries no request, and Intune wants one with every notification: no certificate is given that it has not heard of."""
    site.world.issuance.script.append(Pending("A-1", 5))
    assert (await site.ask()).status == "3"
    poll = await site.poll()
    assert (poll.status, poll.fail_info, poll.text) == ("2", "2", AGAIN)
    assert site.service.notified == []
    assert (await site.ask()).status == "0"
    assert len(site.service.notified) == 1
    assert site.wire.paths().count("validateRequest") == 1


async def test_a_refused_poll_is_not_reported(site: Site) -> None:
    site.world.issuance.script += [Pending("A-1", 5), Rejected(Rejection(Reason.FORBIDDEN, "denied"))]
    assert (await site.ask()).status == "3"
    assert (await site.poll()).text == "denied"
    assert site.service.notified == []


async def test_a_poll_is_answered_after_intune_is_gone_from_the_configuration(site: Site) -> None:
    site.world.issuance.script.append(Pending("A-1", 5))
    assert (await site.ask()).status == "3"
    gone = IntuneWay({}, clock=site.world.clock, observer=site.world.counts)
    site.world.informed[Way.INTUNE] = gone
    assert (await site.poll()).status == "0"
    site.world.issuance.script.append(Rejected(Rejection(Reason.FORBIDDEN, "denied")))
    assert (await site.poll()).text == "denied"


async def test_the_same_request_again_does_not_ask_but_tells_again(site: Site) -> None:
    assert [(await site.ask()).status for _ in range(2)] == ["0", "0"]
    assert site.wire.paths().count("validateRequest") == 1
    assert len(site.service.notified) == 2
    assert site.service.notified[0] == site.service.notified[1]


# ---------------------------------------------------------------- tokens, and where the service is


async def test_tokens_and_address_are_asked_for_once(site: Site) -> None:
    statuses = await asyncio.gather(*(site.ask(transaction_id=f"TX-{number}") for number in range(10)))
    assert {answer.status for answer in statuses} == {"0"}
    assert (site.wire.paths().count("token"), site.wire.paths().count("endpoints")) == (2, 1)


async def test_a_token_is_not_used_in_its_last_minutes(site: Site) -> None:
    await site.ask()
    site.world.clock.advance(timedelta(seconds=3599 - 301))
    await site.ask(transaction_id="TX-2")
    assert site.wire.paths().count("token") == 2
    site.world.clock.advance(timedelta(seconds=2))
    await site.ask(transaction_id="TX-3")
    assert site.wire.paths().count("token") == 3


async def test_the_address_is_looked_for_again_after_an_hour_or_a_failure(site: Site) -> None:
    await site.ask()
    site.world.clock.advance(timedelta(hours=1))
    await site.ask(transaction_id="TX-2")
    assert site.wire.paths().count("endpoints") == 2
    with site.failing("validateRequest", Said(404)):
        await site.ask(transaction_id="TX-3")
    await site.ask(transaction_id="TX-4")
    assert site.wire.paths().count("endpoints") == 3


async def test_a_token_that_is_refused_is_replaced_once(site: Site) -> None:
    await site.ask()
    site.service.tokens.clear()  # withdrawn before their time
    answers = await asyncio.gather(*(site.ask(transaction_id=f"TX-{number}") for number in range(2, 7)))
    assert {answer.status for answer in answers} == {"0"}
    assert site.wire.paths().count("token") == 3  # one more, for all of them
    with site.failing("validateRequest", Said(401)):
        before = site.wire.paths().count("validateRequest")
        assert (await site.ask(transaction_id="TX-9")).text == NOT_CHECKED
        assert site.wire.paths().count("validateRequest") == before + 2


async def test_a_wrong_client_secret_is_named_for_the_operator(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Microsoft's number for it is; its text, which quotes what was sent, is not."""
    secret, site.service.client_secret = site.service.client_secret, "another"
    assert (await site.ask()).text == NOT_CHECKED
    assert "default: Intune: no token: status 401, invalid_client, AADSTS7000215; transaction TX-1" in caplog.text
    assert secret not in caplog.text


def test_no_representation_shows_a_secret() -> None:
    service = MicrosoftService(url=URL)
    request = token_request(application(service), URL)
    reply = HttpReply(200, b'{"token_type": "bearer", "expires_in": 3599, "access_token": "eyJ0.token"}')
    token = read_token(reply, Micros(0))
    assert token == Token("eyJ0.token", Micros((3599 - 300) * 1_000_000))
    shown = f"{application(service)!r} {request!r} {reply!r} {token!r}"
    assert service.client_secret not in shown
    assert "T0p" not in shown
    assert "eyJ0" not in shown


def test_the_tenant_is_one_part_of_the_path() -> None:
    service = MicrosoftService(url=URL, tenant="../evil?x=1#")
    assert token_request(application(service), URL).url == f"{URL}/..%2Fevil%3Fx%3D1%23/oauth2/v2.0/token"


def test_a_token_for_ever_is_one_for_a_day() -> None:
    reply = HttpReply(200, b'{"token_type": "Bearer", "expires_in": 99999999999999, "access_token": "x"}')
    assert read_token(reply, Micros(0)).good_until == Micros((86400 - 300) * 1_000_000)
    short = HttpReply(200, b'{"token_type": "Bearer", "expires_in": 60, "access_token": "x"}')
    assert read_token(short, Micros(7)).good_until == Micros(7)


def test_names_of_services_are_compared_without_regard_to_case() -> None:
    reply = HttpReply(
        200, b'{"value": [1, {}, {"providerName": "SCEPREQUESTVALIDATIONFESERVICE", "uri": "https://fef.example.com/x/"}]}'
    )
    assert read_address(reply) == "https://fef.example.com/x"


def test_a_code_is_a_word() -> None:
    assert read_code(HttpReply(200, b'{"code": "Success", "errorDescription": ""}')) == "Success"
    for code in ("", "a b", "x" * 65, "<script>"):
        with pytest.raises(ServiceFailure):
            read_code(HttpReply(200, f'{{"code": "{code}"}}'.encode()))
