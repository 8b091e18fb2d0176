"""Challenges that open once, from their making to the certificate, on both engines."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import AttributeOID

from issuance.credentials import CredentialKind, Credentials
from issuance.lockout import FailureLimits, Lockouts
from issuance.scep_challenges import Found, Made, ScepChallenges, State, Terms
from pki.csr import Csr, parse_csr
from pki.identifiers import parse_dns, parse_ip
from pki.reasons import Reason, Rejection, Unavailable
from pki.subject import parse_subject
from policy.limits import Limit
from policy.principal import COMMAND_LINE, Principal, PrincipalKind
from scep.authorization import Authorizer, ChallengeWay, StaticWay
from scep.endpoint import ScepEndpoint, ScepLimits, Way
from scep.enrolment import Enrolments
from scep.onetime import OneTimeWay
from storage.database import Database, Row, Step
from tests.helpers.clock import FakeClock
from tests.helpers.databases import second_node
from tests.helpers.issuing import Issuing
from tests.helpers.scep import Answer, Message, csr, der_of, enveloped, name, rsa_key
from tests.helpers.scep_site import ROLES, ScepSite, the_certificate

HOUR = timedelta(hours=1)
DEV1 = Terms("default", ROLES, parse_subject("CN=dev1,O=Proto"), frozenset({parse_dns("dev1.example.com")}))
BAD_MESSAGE_CHECK, BAD_REQUEST = "1", "2"


class Gate:
    """Holds up whoever looks for a challenge until a test lets them go on."""

    def __init__(self, challenges: ScepChallenges) -> None:
        self._challenges = challenges
        self.waiting: asyncio.Event | None = None
        self.arrived = asyncio.Event()

    async def find(self, *, endpoint: str, challenge: str) -> Found | None:
        if self.waiting is not None:
            self.arrived.set()
            await self.waiting.wait()
        return await self._challenges.find(endpoint=endpoint, challenge=challenge)

    def use(self, found: Found, *, csr: Csr, source: str) -> Sequence[Step]:
        return self._challenges.use(found, csr=csr, source=source)

    async def burn(self, found: Found, *, csr: Csr, source: str, why: str) -> bool:
        return await self._challenges.burn(found, csr=csr, source=source, why=why)


class Site(ScepSite):
    """With real challenges of both kinds; "secret" is the static one of both endpoints."""

    def __init__(self, database: Database, clock: FakeClock, *, issuing: Issuing | None = None) -> None:
        super().__init__(database, clock)
        self.issuing = issuing or self.issuing
        self.moving = clock
        self.one_time = ScepChallenges(database=database, clock=clock)
        self.credentials = Credentials(database=database, clock=clock)
        self.gate = Gate(self.one_time)
        ways: dict[Way, ChallengeWay] = {
            Way.STATIC: StaticWay(self.credentials),
            Way.ONE_TIME: OneTimeWay(self.gate, observer=self.counts),
        }
        self.enrolments = Enrolments(
            issuance=self.issuing.issuance,
            authorizer=Authorizer(ways=ways, lockouts=Lockouts(database=database, clock=clock), observer=self.counts),
            holders=self.holders,
            transactions=self.transactions,
            informed={},
            observer=self.counts,
            standing=self.one_time,
        )

    def endpoint(self, name: str = "default", **changes: Any) -> ScepEndpoint:
        return super().endpoint(name, **{"challenges": (Way.STATIC, Way.ONE_TIME), **changes})

    async def made(self, terms: Terms = DEV1, *, lifetime: timedelta = HOUR, by: Principal = COMMAND_LINE) -> Made:
        made = await self.one_time.create(terms, lifetime=lifetime, made_by=by)
        self.moving.advance(timedelta(seconds=1))  # so that what comes after has another time
        return made

    def request(
        self,
        challenge: str | None,
        *,
        common_name: str = "dev1",
        sans: Sequence[str] = ("dev1.example.com",),
        label: str = "dev1",
        transaction: str = "TX-1",
    ) -> Message:
        key: rsa.RSAPrivateKey = rsa_key(label)
        content = csr(key, common_name=common_name, sans=sans, challenge=challenge)
        return Message(key=key, content=enveloped(content, self.ca.ra), transaction_id=transaction)

    async def states(self) -> list[State]:
        return [each.state(self.clock.micros()) for each in await self.one_time.list()]

    async def recorded(self, prefix: str = "scep_challenge") -> list[Row]:
        rows = await self.database.fetch("SELECT event, principal, subject, detail FROM audit ORDER BY at, event")
        return [row for row in rows if row["event"].startswith(prefix)]


@pytest.fixture
def site(database: Database, clock: FakeClock) -> Site:
    return Site(database, clock)


def refused(answer: Answer) -> str:
    assert answer.status == "2", answer
    return answer.text or ""


# ---------------------------------------------------------------------- making


async def test_a_challenge_is_what_clients_of_ndes_can_parse_and_stored_as_its_hash(site: Site) -> None:
    made = await site.made()
    assert re.fullmatch("[0-9A-F]{32}", made.challenge)
    assert re.fullmatch("[0-9a-f]{16}", made.id)
    assert made.challenge not in repr(made)
    tables = [await site.database.fetch(f"SELECT * FROM {table}") for table in ("scep_challenge", "audit")]  # noqa: S608  # constants
    assert made.challenge.lower() not in repr(tables).lower()
    (row,) = await site.recorded()
    assert (row["event"], row["principal"]) == ("scep_challenge.created", "operator:command-line")
    assert row["subject"] == f"scep-challenge:{made.id}"
    assert orjson.loads(row["detail"])["names"] == ["dns:dev1.example.com"]


async def test_a_challenge_opens_for_thirty_days_at_most(site: Site) -> None:
    for lifetime in (timedelta(0), timedelta(days=30, seconds=1), -HOUR):
        with pytest.raises(Rejection) as found:
            await site.made(lifetime=lifetime)
        assert found.value.reason is Reason.MALFORMED


async def test_a_list_shows_what_became_of_each_newest_first_and_of_whom(site: Site) -> None:
    by = [Principal(PrincipalKind.API_KEY, name, ROLES) for name in ("k1", "k2")]
    made = [await site.made(by=by[number % 2]) for number in range(5)]
    everything = [each.id for each in await site.one_time.list()]
    assert everything == [each.id for each in reversed(made)]
    first = await site.one_time.list(limit=2)
    rest = await site.one_time.list(before=(first[-1].created_at, first[-1].id))
    assert [each.id for each in (*first, *rest)] == everything
    theirs = await site.one_time.list(made_by="api-key:k2")
    assert [each.id for each in theirs] == [made[3].id, made[1].id]
    assert theirs[0].terms == DEV1


async def test_only_what_somebody_made_do_they_disable_and_only_while_it_opens(site: Site) -> None:
    made = await site.made()
    for id_, owner in ((made.id, "api-key:other"), ("0" * 16, ""), ("\ud7ff", "")):
        with pytest.raises(Rejection) as found:
            await site.one_time.disable(id_, by=COMMAND_LINE, made_by=owner)
        assert found.value.reason is Reason.NOT_FOUND
    await site.one_time.disable(made.id, by=COMMAND_LINE, made_by=str(COMMAND_LINE))
    with pytest.raises(Rejection):
        await site.one_time.disable(made.id, by=COMMAND_LINE)
    assert await site.states() == [State.DISABLED]
    assert refused(await site.ask(site.request(made.challenge))).startswith("the challenge password is missing")
    assert [row["event"] for row in await site.recorded()] == ["scep_challenge.created", "scep_challenge.disabled"]


async def test_what_ended_long_ago_is_forgotten_and_the_audit_is_not(site: Site) -> None:
    await site.made()
    site.moving.advance(HOUR + timedelta(days=2))
    await site.one_time.forget(kept=timedelta(days=3))
    assert await site.states() == [State.EXPIRED]
    await site.one_time.forget(kept=timedelta(days=2))
    assert await site.states() == []
    assert len(await site.recorded()) == 1


# ---------------------------------------------------------------------- opening


async def test_a_challenge_lets_its_request_in_with_its_roles_and_is_used(site: Site) -> None:
    made = await site.made()
    certificate = await site.certificate(site.request(made.challenge))
    assert certificate.subject.rfc4514_string() == "CN=dev1"
    (row,) = await site.issuing.rows("SELECT principal, names FROM certificate")
    assert row["principal"] == f"scep-client:one-time/{made.id}"
    (used,) = await site.one_time.list()
    assert (used.state(site.clock.micros()), len(used.used_by)) == (State.USED, 64)
    assert [row["event"] for row in await site.recorded()][-1] == "scep_challenge.used"
    assert site.counts.authorizations == [("default", "one-time", "allowed")]


async def test_it_may_be_typed_in_either_case(site: Site) -> None:
    await site.certificate(site.request((await site.made()).challenge.lower()))


async def test_who_repeats_the_request_gets_the_same_certificate_and_another_request_gets_none(site: Site) -> None:
    made = await site.made()
    request = site.request(made.challenge)
    first = await site.certificate(request)
    assert await site.certificate(replace(request, nonce=b"r" * 16)) == first
    for other in (
        site.request(made.challenge, transaction="TX-2"),
        site.request(made.challenge, label="dev2", transaction="TX-2"),
        site.request(made.challenge, label="dev2"),
        site.request(made.challenge, common_name="dev9"),
    ):
        assert refused(await site.ask(other)).startswith("the challenge password is missing")
    assert await site.certificates() == 1
    assert await site.states() == [State.USED]


async def test_what_does_not_open_sounds_the_same(site: Site) -> None:
    expired = await site.made(lifetime=timedelta(minutes=1))
    elsewhere = await site.made(replace(DEV1, endpoint="other"))
    site.moving.advance(timedelta(minutes=1))
    presented = ("wrong", "0" * 32, expired.challenge, elsewhere.challenge)
    said = {refused(await site.ask(site.request(challenge))) for challenge in presented}
    assert len(said) == 1
    assert await site.certificates() == 0
    await site.certificate(site.request(elsewhere.challenge), site.endpoint("other"))


async def test_an_endpoint_without_that_way_lets_none_in(site: Site) -> None:
    made = await site.made()
    refused(await site.ask(site.request(made.challenge), site.endpoint(challenges=(Way.STATIC,))))
    assert await site.states() == [State.OPEN]


OTHER_REQUESTS: tuple[dict[str, Any], ...] = (
    {"common_name": "dev2"},
    {"common_name": "DEV1"},
    {"sans": ()},
    {"sans": ("dev2.example.com",)},
    {"sans": ("dev1.example.com", "dev2.example.com")},
    {"sans": ("*.example.com",)},
)


async def test_a_challenge_that_comes_with_another_request_is_burnt(site: Site) -> None:
    for changes in OTHER_REQUESTS:
        made = await site.made()
        answer = await site.ask(site.request(made.challenge, **changes))
        assert "made for another request" in refused(answer), changes
        assert "dev1" not in (answer.text or "")
        assert refused(await site.ask(site.request(made.challenge))).startswith("the challenge password is missing")
        row = (await site.recorded())[-1]
        assert (row["event"], row["principal"]) == ("scep_challenge.burnt", f"scep-client:one-time/{made.id}")
    assert await site.states() == [State.BURNT] * len(OTHER_REQUESTS)
    assert await site.certificates() == 0
    assert site.counts.authorizations[0] == ("default", "one-time", "burnt")


async def test_of_two_other_requests_at_once_one_burns_a_challenge_and_both_are_refused(site: Site) -> None:
    made = await site.made()
    found = await site.one_time.find(endpoint="default", challenge=made.challenge)
    assert found is not None
    other = parse_csr(csr(rsa_key("dev1"), sans=("other.example.com",)))
    assert [await site.one_time.burn(found, csr=other, source="192.0.2.7", why="") for _ in range(2)] == [True, False]
    made = await site.made()
    answers = await asyncio.gather(
        *(site.ask(site.request(made.challenge, sans=(f"{host}.example.com",), transaction=host)) for host in ("b", "c"))
    )
    assert sorted("made for another request" in refused(answer) for answer in answers) == [False, True]
    assert [row["event"] for row in await site.recorded()].count("scep_challenge.burnt") == 2


async def test_a_windows_identity_beside_the_right_names_is_refused_or_left_out(site: Site) -> None:
    """A user's name (UPN) and security identifier (SID) are what domain controllers log people in by."""
    key: rsa.RSAPrivateKey = rsa_key("dev1")
    names: list[x509.GeneralName] = [x509.DNSName("dev1.example.com")]
    upn = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x0dadmin@example")
    sid = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.311.25.2"), b"\x30\x00")
    made = await site.made()
    builder = x509.CertificateSigningRequestBuilder().subject_name(name("dev1"))
    builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, made.challenge.encode())

    def asks(names: Sequence[x509.GeneralName]) -> Message:
        request = builder.add_extension(x509.SubjectAlternativeName(names), critical=False).add_extension(sid, critical=False)
        return Message(key=key, content=enveloped(der_of(request.sign(key, hashes.SHA256())), site.ca.ra))

    assert "otherName" in refused(await site.ask(asks([*names, upn])))
    assert await site.certificates() == 0
    certificate = await site.certificate(asks(names))
    assert sid.oid not in {extension.oid for extension in certificate.extensions}


NAMES = frozenset({parse_dns("dev1.example.com"), parse_dns("dev2.example.com")})


EXACTLY: tuple[tuple[Terms, tuple[str, tuple[str, ...]], bool], ...] = (
    (Terms("default", ROLES, None, NAMES), ("dev1.example.com", ("dev2.example.com", "DEV1.example.com")), True),
    (Terms("default", ROLES, None, NAMES), ("dev3", ("dev2.example.com", "dev1.example.com")), False),
    (Terms("default", ROLES, None, NAMES), ("dev1.example.com", ("dev1.example.com",)), False),
    (Terms("default", ROLES, parse_subject("O=Proto,CN=dev1")), ("dev1", ()), True),
    (Terms("default", ROLES, parse_subject("O=Proto,CN=dev1")), ("dev1", ("dev1.example.com",)), False),
    (Terms("default", ROLES, parse_subject("CN=dev1")), ("dev1", ()), False),
    (Terms("default", ROLES, None, frozenset({parse_ip("192.0.2.1")})), ("dev1", ("192.0.2.1",)), False),
    (Terms("default", ROLES), ("dev1", ("dev7.example.com",)), True),
    (Terms("default", frozenset({"nobody"})), ("dev1", ()), False),
)


async def test_a_request_has_exactly_what_the_challenge_says(site: Site) -> None:
    for number, (terms, (common_name, sans), let_in) in enumerate(EXACTLY):
        made = await site.made(terms)
        request = site.request(made.challenge, common_name=common_name, sans=sans, transaction=f"TX-{number}")
        answer = await site.ask(request)
        assert answer.status == ("0" if let_in else "2"), (number, answer.text)


async def test_a_challenge_ends_with_the_api_key_that_made_it(site: Site) -> None:
    key = await site.credentials.create_api_key(roles=ROLES, profile="", expires_at=None)
    maker = Principal(PrincipalKind.API_KEY, key[3:19], ROLES)
    first, second = await site.made(by=maker), await site.made(by=maker)
    await site.certificate(site.request(first.challenge))
    await site.credentials.disable(CredentialKind.API_KEY, maker.id)
    refused(await site.ask(site.request(second.challenge, label="dev2", transaction="TX-2")))


# ---------------------------------------------------------------------- at the same moment, and in between


async def test_of_two_requests_at_once_one_gets_a_certificate(site: Site) -> None:
    made = await site.made()
    asked = [site.request(made.challenge, label=label, transaction=label) for label in ("dev1", "dev2", "dev3")]
    answers = await asyncio.gather(*map(site.ask, asked))
    assert sorted(answer.status for answer in answers) == ["0", "2", "2"]
    assert await site.certificates() == 1


async def test_two_nodes_let_one_of_them_in(database_url: str, database: Database, clock: FakeClock) -> None:
    async with second_node(database_url) as other:
        first = Site(database, clock)
        sites = [first, Site(other, clock, issuing=first.issuing)]
        for number in range(3):
            made = await sites[0].made()
            asked = [
                site.ask(site.request(made.challenge, label=f"dev{n}", transaction=f"TX-{number}{n}"))
                for n, site in enumerate(sites * 2)
            ]
            answers = await asyncio.gather(*asked)
            assert sorted(answer.status for answer in answers) == ["0", "2", "2", "2"]
        assert await sites[1].certificates() == 3


async def test_the_same_request_twice_at_once_is_one_certificate(site: Site) -> None:
    made = await site.made()
    request = site.request(made.challenge)
    answers = await asyncio.gather(site.ask(request), site.ask(request))
    for answer in answers:
        again = answer.status == "3"  # it is being signed right now
        the_certificate(await site.ask(request) if again else answer, request)
    assert await site.certificates() == 1


async def test_a_repetition_that_comes_too_late_for_its_challenge_is_still_the_same_request(site: Site) -> None:
    """It had looked for an earlier request before there was one, and looks for its challenge when that is used."""
    made = await site.made()
    request = site.request(made.challenge)
    site.gate.waiting = asyncio.Event()
    late = asyncio.create_task(site.ask(request))
    await site.gate.arrived.wait()
    released, site.gate.waiting = site.gate.waiting, None
    first = await site.certificate(request)
    released.set()
    assert the_certificate(await late, request) == first


async def test_a_crash_between_use_and_certificate_costs_the_client_nothing(site: Site) -> None:
    made = await site.made()
    request = site.request(made.challenge)

    async def fails() -> None:
        raise Unavailable("signer")

    site.issuing.signer.meanwhile = fails
    with pytest.raises(Unavailable):
        await site.ask(request)
    assert await site.states() == [State.USED]
    site.issuing.signer.meanwhile = None
    site.moving.advance(HOUR * 2)
    refused(await site.ask(site.request(made.challenge, label="dev2", transaction="TX-2")))
    await site.certificate(request)
    assert await site.certificates() == 1


async def test_what_has_to_be_approved_waits_with_its_challenge_used(site: Site) -> None:
    made = await site.made()
    careful = site.endpoint(require_approval=True)
    request = site.request(made.challenge)
    assert (await site.ask(request, careful)).status == "3"
    assert refused(await site.ask(site.request(made.challenge, label="dev2", transaction="TX-2"), careful))
    await site.decide()
    await site.certificate(request, careful)


# ---------------------------------------------------------------------- guessing

LIMITS = ScepLimits(failures=FailureLimits(per_address=Limit(5, timedelta(minutes=10))))


async def test_of_fifty_guesses_at_once_no_more_than_the_limit_are_looked_at(site: Site) -> None:
    await site.credentials.set_scep_challenge(endpoint="default", challenge="secret", roles=ROLES, profile="")
    guarded = site.endpoint(limits=LIMITS)
    base = site.request("guess")
    answers = await asyncio.gather(*(site.ask(replace(base, transaction_id=f"TX-{n}"), guarded) for n in range(50)))
    said = [refused(answer) for answer in answers]
    assert sum("too many failed attempts from 192.0.2.7" in text for text in said) == 45
    assert sum(text.startswith("the challenge password is missing") for text in said) == 5
    assert "too many failed attempts" in refused(await site.ask(site.request("secret"), guarded))
    site.moving.advance(timedelta(minutes=10))
    await site.certificate(site.request("secret"), guarded)


async def test_who_knows_a_generated_challenge_is_not_locked_out_by_neighbours(site: Site) -> None:
    """Many devices come from one address, and one of them may have a wrong password in it."""
    guarded = site.endpoint(limits=LIMITS)
    generated = f"cws_{'A' * 43}"
    await site.credentials.set_scep_challenge(endpoint="default", challenge=generated, roles=ROLES, profile="")
    made = await site.made()
    for number in range(6):
        refused(await site.ask(site.request("guess", transaction=f"TX-{number}"), guarded))
    for wrong in ("0" * 32, f"cws_{'B' * 43}", "guess"):
        assert "too many failed attempts" in refused(await site.ask(site.request(wrong, transaction="TX-9"), guarded))
    await site.certificate(site.request(made.challenge, transaction="TX-10"), guarded)
    await site.certificate(site.request(generated, label="dev2", transaction="TX-11"), guarded)


async def test_a_request_without_a_challenge_is_no_guess(site: Site) -> None:
    guarded = site.endpoint(limits=LIMITS)
    for challenge in (None, "", None, "", None, "", None):
        assert refused(await site.ask(site.request(challenge), guarded)).startswith("the challenge password is missing")
    assert await site.database.fetch("SELECT * FROM rate_bucket") == []
