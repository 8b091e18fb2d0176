"""SCEP: who signs, what they say, what they ask for, and whether they get it. Every signer by type, key, names and challenge, at every endpoint.

What has to become of a message is worked out here from the tables of docs/scep.md, in `expected`: pure, and without a look at what the
server does it with. Then the real pipeline is asked.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from issuance.lockout import Lockouts
from issuance.scep_challenges import ScepChallenges, Terms
from pki.identifiers import parse_dns
from pki.subject import parse_subject
from policy.principal import COMMAND_LINE, Principal, PrincipalKind
from policy.rules import Policy
from scep.authorization import Authorizer, ChallengeWay, StaticWay
from scep.endpoint import Renewal, ScepEndpoint, Way
from scep.enrolment import Enrolments
from scep.onetime import OneTimeWay
from storage.open import open_database
from tests.helpers.clock import FakeClock
from tests.helpers.scep import SECRET, Message, csr, enveloped, rsa_key, self_signed
from tests.helpers.scep_site import ROLES, ScepSite, poll, the_certificate

PKCS_REQ, RENEWAL_REQ = "19", "17"
RENEWERS, BEARERS = frozenset({"renewer"}), frozenset({"bearer"})
POLICIES = tuple(
    Policy(role, frozenset({role}), frozenset({"device", "changing"}), ("*.example.com",), ("*",))
    for role in ("device", "renewer", "bearer")
)

# Names that a request asks for: common name and alternative name. The certificates have those of "same".
NAMES = {
    "same": ("dev1", "dev1.example.com"),
    "other": ("dev2", "dev2.example.com"),
    "device's": ("dev2", "dev1.example.com"),
    "nobody's": ("dev1", "dev1.example.net"),
}
OURS = ("held", "changing", "graced", "ancient", "of another endpoint", "by REST", "revoked")
SIGNERS = (*OURS, "self-made", "self-made with a held key", "of our name", "EC")
CHALLENGES = ("none", "wrong", "static", "static elsewhere", "once", "once elsewhere", "once for another", "once before")


@dataclass(frozen=True, slots=True)
class Cell:
    endpoint: str
    signer: str
    type: str
    own_key: bool
    names: str
    challenge: str


def endpoints(site: ScepSite) -> dict[str, ScepEndpoint]:
    both = site.endpoint(challenges=(Way.STATIC, Way.ONE_TIME), renewal=Renewal(RENEWERS))
    return {
        "both": both,
        "nothing renews": replace(both, renewal=Renewal()),
        "in their grace": replace(both, challenges=(Way.ONE_TIME,), renewal=Renewal(RENEWERS, timedelta(days=30))),
        "careful": replace(both, challenges=(Way.STATIC,), require_approval=True),
        "nobody granted": replace(both, renewal=Renewal(frozenset({"nobody"}))),
    }


def expected(cell: Cell) -> str:
    """ "renewed", "enrolled", "refused"; "waits" where somebody has to agree."""
    found = _let_in(cell)
    if cell.names == "nobody's" or (found == "renewed" and cell.endpoint == "nobody granted"):
        return "refused"  # by policy
    return "waits" if found != "refused" and cell.endpoint == "careful" else found


def _let_in(cell: Cell) -> str:
    """docs/scep.md, "Renewal" and "Who may come"."""
    if cell.signer in {"revoked", "of our name", "EC"}:
        return "refused"
    if _renews(cell) and (cell.names == "same" or (cell.signer == "changing" and cell.own_key)):
        return "renewed"
    return "enrolled" if cell.type == PKCS_REQ and cell.own_key and _opens(cell) else "refused"


def _renews(cell: Cell) -> bool:
    in_time = {"held", "changing"} | ({"graced"} if cell.endpoint == "in their grace" else set())
    return cell.endpoint != "nothing renews" and cell.signer in in_time


def _opens(cell: Cell) -> bool:
    static = cell.endpoint != "in their grace"
    once = cell.endpoint != "careful"
    return (static and cell.challenge == "static") or (once and cell.challenge == "once")


# ---------------------------------------------------------------- what happens


class Stage:
    """Everybody's certificates and challenges, in front of one site."""

    def __init__(self, site: ScepSite, clock: FakeClock) -> None:
        self._site, self._clock = site, clock
        self._once = ScepChallenges(database=site.database, clock=clock)
        ways: dict[Way, ChallengeWay] = {
            Way.STATIC: StaticWay(site.challenges),
            Way.ONE_TIME: OneTimeWay(self._once, observer=site.counts),
        }
        site.challenges.right = {("default", SECRET), ("other", "of the other one")}
        site.enrolments = Enrolments(
            issuance=site.issuing.issuance,
            authorizer=Authorizer(ways=ways, lockouts=Lockouts(database=site.database, clock=clock), observer=site.counts),
            holders=site.holders,
            transactions=site.transactions,
            informed={},
            observer=site.counts,
            standing=self._once,
        )
        self._endpoints = endpoints(site)
        self._numbers = itertools.count()
        self._signers: dict[str, tuple[rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, x509.Certificate]] = {}

    async def open(self) -> None:
        site = self._site
        await self._hold("ancient", site.endpoint())
        self._clock.advance(timedelta(days=40))
        await self._hold("graced", site.endpoint())
        self._clock.advance(timedelta(days=60))
        await self._hold("held", site.endpoint())
        await self._hold("changing", site.endpoint(profile="changing"))
        await self._hold("of another endpoint", site.endpoint("other"), secret="of the other one")
        await self._hold("revoked", site.endpoint())
        await site.revoke(self._signers["revoked"][1])
        by_rest = rsa_key("by REST")
        asked, program = csr(by_rest, challenge=None), Principal(PrincipalKind.API_KEY, "k1", ROLES)
        self._signers["by REST"] = by_rest, await site.issuing.issued(csr=asked, profile="device", principal=program)
        self._signers["self-made"] = rsa_key("device"), self_signed(rsa_key("device"))
        key, held = self._signers["held"]
        assert isinstance(key, rsa.RSAPrivateKey)
        self._signers["self-made with a held key"] = key, self_signed(key, "another name")
        claims = x509.CertificateBuilder(held.issuer, held.subject, key.public_key(), held.serial_number)
        claims = claims.not_valid_before(held.not_valid_before_utc).not_valid_after(held.not_valid_after_utc)
        self._signers["of our name"] = key, claims.sign(key, held.signature_hash_algorithm)  # type: ignore[arg-type]  # SHA-256
        elliptic = ec.generate_private_key(ec.SECP256R1())
        self._signers["EC"] = elliptic, self_signed(elliptic)

    async def _hold(self, label: str, endpoint: ScepEndpoint, *, secret: str = SECRET) -> None:
        key = rsa_key(label)
        common_name, san = NAMES["same"]
        asked = csr(key, common_name=common_name, sans=[san], challenge=secret)
        request = Message(key=key, content=enveloped(asked, self._site.ca.ra), transaction_id=f"first {label}")
        self._signers[label] = key, await self._site.certificate(request, endpoint)

    async def _challenge(self, cell: Cell) -> str | None:
        common_name, san = NAMES["other" if cell.challenge == "once for another" and cell.names != "other" else cell.names]
        if cell.challenge == "once for another" and cell.names == "other":
            common_name, san = NAMES["same"]
        match cell.challenge:
            case "none":
                return None
            case "wrong":
                return "wrong"
            case "static":
                return SECRET
            case "static elsewhere":
                return "of the other one"
        endpoint = "other" if cell.challenge == "once elsewhere" else "default"
        terms = Terms(endpoint, BEARERS, parse_subject(f"CN={common_name},O=Proto"), frozenset({parse_dns(san)}))
        made = await self._once.create(terms, lifetime=timedelta(hours=1), made_by=COMMAND_LINE)
        if cell.challenge == "once before":
            await self._once.disable(made.id, by=COMMAND_LINE)
        return made.challenge

    async def verdict(self, cell: Cell) -> str:
        key, signer = self._signers[cell.signer]
        wanted = key if cell.own_key else rsa_key("stranger")
        common_name, san = NAMES[cell.names]
        asked = csr(wanted, common_name=common_name, sans=[san], challenge=await self._challenge(cell))
        message = Message(
            key=key,
            signer=signer,
            content=enveloped(asked, self._site.ca.ra),
            message_type=cell.type,
            transaction_id=f"TX {next(self._numbers)}",
        )
        endpoint = self._endpoints[cell.endpoint]
        before = await self._site.certificates()
        answer = await self._site.ask(message, endpoint)
        made = await self._site.certificates() - before
        polled = await self._site.ask(poll(self._site.ca, message), endpoint) if answer.status != "0" else answer
        assert await self._site.certificates() - before == made, cell
        if answer.status != "0":
            assert (made, polled.status) == (0, "3" if answer.status == "3" else "2"), cell
            return {"2": "refused", "3": "waits"}[answer.status]
        assert made == 1, cell
        got = the_certificate(answer, message)
        assert got.public_key() == wanted.public_key(), cell
        record = await self._site.issuing.issuance.certificate(f"{got.serial_number:x}", issuer="issuing")
        assert record is not None
        assert set(record.names) == {f"cn:{common_name}", f"dns:{san}"}, cell
        renewed = record.principal.startswith("tls-client:")
        assert record.certificate.profile == ("changing" if renewed and cell.signer == "changing" else "device"), cell
        return "renewed" if renewed else "enrolled"


def cells(step: int) -> Iterator[Cell]:
    """Every `step`-th of all."""
    names = ("both", "nothing renews", "in their grace", "careful", "nobody granted")
    all_of_them = itertools.product(names, SIGNERS, (PKCS_REQ, RENEWAL_REQ), (True, False), NAMES, CHALLENGES)
    return itertools.islice(itertools.starmap(Cell, all_of_them), 0, None, step)


@pytest.fixture
async def site(tmp_path: Path, clock: FakeClock) -> AsyncIterator[ScepSite]:
    database = await open_database(f"sqlite://{tmp_path}/certwright.db", migrate=True)
    yield ScepSite(database, clock, policies=POLICIES)
    await database.close()


async def test_everybody_gets_what_is_theirs_and_nothing_else(site: ScepSite, clock: FakeClock) -> None:
    """One of 29 of 7040 cells; 29 is prime to every one of their dimensions."""
    stage = Stage(site, clock)
    await stage.open()
    wrong, verdicts = [], set()
    for cell in cells(29):
        right, found = expected(cell), await stage.verdict(cell)
        verdicts.add(right)
        if found != right:
            wrong.append(f"{cell}:\n    found {found}\n    right {right}")
    assert not wrong, f"{len(wrong)} cells\n" + "\n".join(wrong)
    assert verdicts == {"renewed", "enrolled", "refused", "waits"}
