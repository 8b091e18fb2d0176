"""The real pipeline around a test CA: one object with everything that a story about issuance needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509

from acmeserver.settlement import ORIGIN, OrderSettler
from acmeserver.star import ORIGIN as STAR
from acmeserver.star_settlement import StarSettler
from issuance.approvals import Approvals, Terms
from issuance.caa import CaaChecker
from issuance.pipeline import Ownership, Pipeline, Rules
from issuance.request import ApiKey, Channel, IssuanceRequest, Issued, IssuedCertificate, Origin, Settler
from issuance.service import Issuance
from issuance.sweeper import Sweeper
from pki.clock import Clock, Micros
from pki.csr import parse_csr
from pki.reasons import Reason, Rejection
from policy.lints import LintGate
from policy.principal import Principal, PrincipalKind
from policy.profiles import Profile, Profiles
from policy.rules import Policy
from storage.database import Database, Row, Step
from tests.helpers.ca import LocalSigner, TestCa, counter, make_csr
from tests.helpers.profiles import device, profile

ANYTHING = Policy(
    "anything",
    roles=frozenset({"tester"}),
    allowed_profiles=frozenset({"tls-server", "device", "caa", "short"}),
    allowed_sans=("*",),
    allowed_common_names=("*",),
)
PROGRAM = Principal(PrincipalKind.API_KEY, "k1", frozenset({"tester"}), source_address="192.0.2.7")


class Counted:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.results: list[tuple[str, str, str]] = []

    def outcome(self, *, profile: str, channel: str, result: str) -> None:
        self.results.append((profile, channel, result))


class JobSettler:
    """Origins of kind "job": rows of the job table stand for orders; `attempts` is their state (0 ready, 1 begun ...)."""

    READY, BEGUN, ISSUED, FAILED = 0, 1, 2, 3

    def began(self, origin_id: str, *, now: Micros, key: str = "") -> Sequence[Step]:
        return [self._move(origin_id, self.READY, self.BEGUN, 1)]

    def issued(self, origin_id: str, certificate: IssuedCertificate, *, now: Micros) -> Sequence[Step]:
        return [self._move(origin_id, self.BEGUN, self.ISSUED, 1)]

    def failed(self, origin_id: str, rejection: Rejection, *, now: Micros) -> Sequence[Step]:
        return [self._move(origin_id, self.BEGUN, self.FAILED, None)]

    def released(self, origin_id: str, *, now: Micros) -> Sequence[Step]:
        return [self._move(origin_id, self.BEGUN, self.READY, None)]

    def not_begun(self) -> Rejection:
        return Rejection(Reason.CONFLICT, "the job is not ready")

    @staticmethod
    def _move(job: str, old: int, new: int, rows: int | None) -> Step:
        return Step("UPDATE job SET attempts = $3 WHERE id = $1 AND attempts = $2", (job, old, new), rows)


@dataclass
class Issuing:
    """`submit` takes names; everything else has defaults that a test can change."""

    database: Database
    clock: Clock
    ca: TestCa = field(default_factory=TestCa)
    other_cas: Sequence[TestCa] = ()
    policies: Sequence[Policy] = (ANYTHING,)
    profiles: Sequence[Profile] = (profile(), device(), profile("caa", caa=True))
    serials: list[int] = field(default_factory=list)  # forced ones, used up first
    caa: CaaChecker | None = None
    ownership: Ownership | None = None
    terms: Terms = field(default_factory=Terms)
    new_id: Callable[[], str] = field(default_factory=counter)
    settlers: Mapping[str, Settler] = field(
        default_factory=lambda: {"job": JobSettler(), ORIGIN: OrderSettler(), STAR: StarSettler()}
    )

    def __post_init__(self) -> None:
        cas = (self.ca, *self.other_cas)
        self.signer = LocalSigner(*cas)
        self.observer = Counted()
        self.rules = Rules(self.policies, Profiles(self.profiles), {one.issuer.name: one.issuer for one in cas})
        self.approvals = Approvals(database=self.database, clock=self.clock, new_id=self.new_id, terms=self.terms)
        self.pipeline = Pipeline(
            rules=self.rules,
            database=self.database,
            signer=self.signer,
            gate=LintGate(),
            approvals=self.approvals,
            settlers=self.settlers,
            clock=self.clock,
            new_id=self.new_id,
            new_serial=lambda: self.serials.pop(0) if self.serials else x509.random_serial_number(),
            caa=self.caa,
            ownership=self.ownership,
        )
        self.issuance = Issuance(
            pipeline=self.pipeline,
            rules=self.rules,
            database=self.database,
            clock=self.clock,
            new_id=self.new_id,
            observer=self.observer,
        )
        self.sweeper = Sweeper(database=self.database, settlers=self.settlers, clock=self.clock, new_id=self.new_id)

    def request(self, *names: str, csr: bytes | None = None, **changes: Any) -> IssuanceRequest:
        parsed = parse_csr(csr or make_csr(*names))
        fields: dict[str, Any] = {
            "channel": Channel.REST,
            "endpoint": "default",
            "principal": PROGRAM,
            "evidence": (ApiKey("k1"),),
            "profile": "tls-server",
            "csr": parsed,
            "identifiers": parsed.identifiers,
            "common_name": parsed.common_name,
        }
        return IssuanceRequest(**{**fields, **changes})

    async def issued(self, *names: str, **changes: Any) -> x509.Certificate:
        outcome = await self.issuance.submit(self.request(*names, **changes))
        assert isinstance(outcome, Issued), outcome
        return x509.load_der_x509_certificate(outcome.certificate.der)

    async def add_job(self, job: str) -> Origin:
        step = Step(
            "INSERT INTO job (id, kind, payload, run_at, lease_until, claim, attempts, created_at)"
            " VALUES ($1, 'order', '', 0, 0, '', 0, 0)",
            (job,),
        )
        await self.database.write(step)
        return Origin("job", job)

    async def job(self, job: str) -> int:
        row = await self.database.fetch_one("SELECT attempts FROM job WHERE id = $1", job)
        assert row is not None
        return int(row["attempts"])

    async def rows(self, sql: str) -> Sequence[Row]:
        return await self.database.fetch(sql)
