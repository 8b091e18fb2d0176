"""Who gets by SCEP's challenges, or past what guards them, what nobody meant them to have. On both engines."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from dataclasses import replace
from datetime import timedelta

import pytest
from aiohttp.test_utils import make_mocked_request
from cryptography import x509

from issuance.credentials import Credential, CredentialKind, Credentials
from issuance.lockout import Attempt, FailureLimits, Lockouts
from issuance.scep_challenges import ScepChallenges, Terms
from pki.csr import parse_csr
from pki.identifiers import parse_dns
from pki.reasons import Rejection
from policy.limits import Limit
from policy.principal import Principal, PrincipalKind
from scep.authorization import CROWD, LONG, Asked, Authorization
from scep.challenge_page import ChallengePage, ChallengePages
from scep.endpoint import ScepLimits, Way
from scep.onetime import OneTimeWay
from storage.database import Conflict, Database
from tests.helpers.clock import FakeClock
from tests.helpers.scep import Message, csr, enveloped, rsa_key, self_signed
from tests.helpers.scep_site import ROLES, ScepSite, poll
from tests.helpers.scep_world import Counts

HERE = "192.0.2.7"
QUARTER = timedelta(minutes=15)


async def is_locked(lockouts: Lockouts, attempt: Attempt) -> bool:
    try:
        await lockouts.check(attempt)
    except Rejection:
        return True
    return False


async def test_failures_at_an_est_label_of_the_same_name_open_no_lock_of_scep_and_close_none(
    database: Database, clock: FakeClock
) -> None:
    """One bucket for two limits is none: what the slower one writes lies too far ahead for the faster one, which begins it anew."""
    lockouts = Lockouts(database=database, clock=clock)
    scep, est = (
        Attempt(kind, "default", "", HERE, FailureLimits(per_address=limit))
        for kind, limit in (("scep", Limit(5, timedelta(hours=4))), ("est-user", Limit(30, QUARTER)))
    )
    for _ in range(5):
        await lockouts.failed(scep)
    assert (await is_locked(lockouts, scep), await is_locked(lockouts, est)) == (True, False)
    await lockouts.failed(est)
    assert await is_locked(lockouts, scep)
    for _ in range(30):
        await lockouts.failed(est)
    page = Attempt("scep-user", "default", "somebody", HERE, scep.limits)
    assert (await is_locked(lockouts, est), await is_locked(lockouts, page)) == (True, True)
    clock.advance(timedelta(hours=1))
    assert (await is_locked(lockouts, est), await is_locked(lockouts, scep)) == (False, False)


class Elsewhere:
    """Somebody else's server, which takes its time and says no."""

    def __init__(self) -> None:
        self.asked = 0

    async def authorize(self, _asked: Asked) -> Authorization | None:
        self.asked += 1
        await asyncio.sleep(0.01)
        return None


async def test_however_many_long_guesses_come_at_once_somebody_elses_server_is_asked_few(
    database: Database, clock: FakeClock
) -> None:
    """They do not wait for one another, for a company's devices may have one address; but they do not all come before the lock."""
    webhook, failures = Elsewhere(), FailureLimits(per_address=Limit(5, QUARTER))
    site = ScepSite(database, clock, ways={Way.WEBHOOK: webhook})
    endpoint = site.endpoint(challenges=(Way.WEBHOOK,), limits=ScepLimits(failures=failures))
    content = [enveloped(csr(rsa_key("device"), challenge=f"{number:0{LONG}}"), site.ca.ra) for number in range(60)]
    guesses = [Message(content=each, transaction_id=f"TX-{number}") for number, each in enumerate(content)]
    answers = await asyncio.gather(*[site.ask(guess, endpoint) for guess in guesses])
    assert {answer.status for answer in answers} == {"2"}
    assert 5 < webhook.asked <= 5 + CROWD


class Site(ScepSite):
    """With real one-time challenges, and a program whose key makes them."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        counts = Counts()
        self.one_time = ScepChallenges(database=database, clock=clock)
        ways = {Way.ONE_TIME: OneTimeWay(self.one_time, observer=counts)}
        super().__init__(database, clock, ways=ways, standing=self.one_time)
        self.moving = clock
        self.credentials = Credentials(database=database, clock=clock)

    async def maker(self) -> Principal:
        key = await self.credentials.create_api_key(roles=ROLES, profile="", expires_at=None)
        return Principal(PrincipalKind.API_KEY, key[3:19], ROLES)

    async def request(self, label: str, *, by: Principal) -> Message:
        terms = Terms("default", ROLES, None, frozenset({parse_dns(f"{label}.example.com")}))
        made = await self.one_time.create(terms, lifetime=timedelta(hours=1), made_by=by)
        own, name = rsa_key(label), f"{label}.example.com"
        content = csr(own, common_name=name, sans=(name,), challenge=made.challenge)
        return Message(key=own, content=enveloped(content, self.ca.ra), transaction_id=f"TX {label}")


@pytest.fixture
def site(database: Database, clock: FakeClock) -> Site:
    return Site(database, clock)


async def test_what_a_limit_refused_does_not_come_after_its_way_or_the_maker_of_its_challenge_is_gone(site: Site) -> None:
    """It waited for nothing but the limit, so nobody was asked. From then on somebody is."""
    one = Limit(1, timedelta(hours=1))
    endpoint = site.endpoint(challenges=(Way.ONE_TIME,), limits=ScepLimits(enrollments_per_address=one))
    maker = await site.maker()
    first, second, third = [await site.request(label, by=maker) for label in ("dev1", "dev2", "dev3")]
    await site.certificate(first, endpoint)
    for request in (second, third):
        assert "too many enrolments" in ((await site.ask(request, endpoint)).text or "")
    site.moving.advance(timedelta(hours=1))
    elsewhere = replace(endpoint, challenges=(Way.STATIC,))
    assert [(await site.ask(again, elsewhere)).status for again in (second, poll(site.ca, second))] == ["2", "3"]
    await site.certificate(poll(site.ca, second), endpoint)
    await site.credentials.disable(CredentialKind.API_KEY, maker.id)
    site.moving.advance(timedelta(hours=1))
    assert [(await site.ask(again, endpoint)).status for again in (third, poll(site.ca, third))] == ["2", "3"]
    assert await site.certificates() == 2


async def test_a_challenge_whose_maker_goes_while_it_is_looked_at_opens_nothing(site: Site) -> None:
    maker = await site.maker()
    made = await site.one_time.create(Terms("default", ROLES), lifetime=timedelta(hours=1), made_by=maker)
    found = await site.one_time.find(endpoint="default", challenge=made.challenge)
    assert found is not None
    await site.credentials.disable(CredentialKind.API_KEY, maker.id)
    with pytest.raises(Conflict):
        await site.database.write(*site.one_time.use(found, csr=parse_csr(csr(rsa_key("dev1"))), source=HERE))


async def test_what_somebody_made_with_a_password_ends_with_the_password(site: Site) -> None:
    """Who takes a password back because it has leaked takes back what it opens, also where the user stays."""
    user = Principal(PrincipalKind.SCEP_USER, "scep:default/ndes", frozenset())
    await site.credentials.set_scep_user(endpoint="default", user="ndes", password="leaked")
    thiefs = await site.request("dev1", by=user)
    site.moving.advance(timedelta(seconds=1))
    await site.credentials.set_scep_user(endpoint="default", user="ndes", password="another")
    endpoint = site.endpoint(challenges=(Way.ONE_TIME,))
    assert (await site.ask(thiefs, endpoint)).status == "2"
    await site.certificate(await site.request("dev2", by=user), endpoint)


async def test_another_certificate_of_the_same_key_beside_a_captured_message_gets_nobody_another_name_or_key(
    site: Site,
) -> None:
    """CMS does not sign which certificate is meant. Who knows two of one key makes a renewal of it out of what its owner sent: it is
    counted as one, is for the same key and names, and is encrypted to the owner. Out of a RenewalReq comes no enrolment.
    """
    maker = await site.maker()
    limits = ScepLimits(enrollments_per_caller=Limit(1, timedelta(hours=1)))
    endpoint = site.endpoint(challenges=(Way.ONE_TIME,), limits=limits)
    captured = await site.request("dev1", by=maker)
    held = await site.certificate(captured, endpoint)
    swapped = replace(captured, signer=held)
    renewed = await site.certificate(swapped, endpoint)
    assert (names(renewed), renewed.public_key()) == (names(held), held.public_key())
    assert "too many enrolments" in ((await site.ask(replace(captured, signer=renewed), endpoint)).text or "")
    asked = replace(swapped, message_type="17")
    assert (await site.ask(replace(asked, signer=self_signed(rsa_key("dev1"))), endpoint)).status == "2"
    await site.revoke(held)
    assert (await site.ask(swapped, endpoint)).status == "2"
    assert await site.certificates() == 2


def names(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return found.get_values_for_type(x509.DNSName)


async def test_who_opens_the_page_many_times_at_once_fills_its_cache_and_no_more(database: Database, clock: FakeClock) -> None:
    credentials = Credentials(database=database, clock=clock)
    await credentials.set_scep_user(endpoint="default", user="ndes", password="x")
    challenges = ScepChallenges(database=database, clock=clock)
    page = ChallengePage("default", b"", ROLES, timedelta(hours=1), FailureLimits())
    pages = ChallengePages({"default": page}, users=credentials, challenges=challenges, clock=clock, most=5)
    login = {"Authorization": f"Basic {base64.b64encode(b'ndes:x').decode()}"}
    tls = ssl.create_default_context()
    visits = [make_mocked_request("GET", "/certsrv/mscep_admin", login, sslcontext=tls) for _ in range(20)]
    replies = await asyncio.gather(*[pages.handle(visit) for visit in visits])
    assert {reply.status for reply in replies} == {200}
    assert len(await challenges.list()) == 5


class Reset:
    """`scep.challenge_page.Users` whose password is set anew while somebody who knew the old one is being let in."""

    def __init__(self, credentials: Credentials, clock: FakeClock) -> None:
        self._credentials = credentials
        self._clock = clock

    async def check_scep_user(
        self, *, endpoint: str, user: str, password: str, address: str, limits: FailureLimits
    ) -> Credential:
        found = await self._credentials.check_scep_user(
            endpoint=endpoint, user=user, password=password, address=address, limits=limits
        )
        self._clock.advance(timedelta(milliseconds=50))
        await self._credentials.set_scep_user(endpoint=endpoint, user=user, password="new")
        self._clock.advance(timedelta(milliseconds=50))
        return found


async def test_who_comes_with_a_password_while_it_is_set_anew_gets_a_challenge_that_opens_nothing(
    database: Database, clock: FakeClock
) -> None:
    credentials = Credentials(database=database, clock=clock)
    await credentials.set_scep_user(endpoint="default", user="ndes", password="x")
    challenges = ScepChallenges(database=database, clock=clock)
    page = ChallengePage("default", b"", ROLES, timedelta(hours=1), FailureLimits())
    pages = ChallengePages({"default": page}, users=Reset(credentials, clock), challenges=challenges, clock=clock)
    login = {"Authorization": f"Basic {base64.b64encode(b'ndes:x').decode()}"}
    reply = await pages.handle(
        make_mocked_request("GET", "/certsrv/mscep_admin", login, sslcontext=ssl.create_default_context())
    )
    assert isinstance(reply.body, bytes)
    found = re.search("password is: <B> ([0-9A-F]{32}) </B>", reply.body.decode("utf-16"))
    assert found is not None
    assert await challenges.find(endpoint="default", challenge=found[1]) is None
