"""SCEP's own rooms around a simulated pipeline: a real database for transactions and lock-outs, real authorisation, one RA key in memory.

async with scep_world() as world:
    answer = await world.ask(pkcs_req(world.ca))
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from issuance.crl import PublishedCrls
from issuance.lockout import Lockouts
from issuance.scep_challenges import ScepChallenges
from policy.profiles import Profiles
from scep import message
from scep.authority import Desk, RegistrationAuthority
from scep.authorization import Authorizer, ChallengeWay, Informed, StaticWay
from scep.endpoint import ScepEndpoint, Way
from scep.enrolment import Enrolments
from scep.holders import Holders
from scep.http import ScepServer
from scep.onetime import OneTimeWay
from scep.retrieval import Retrieval
from scep.transactions import Transactions
from storage.database import Database
from storage.open import open_database
from tests.helpers.clock import FakeClock
from tests.helpers.profiles import device
from tests.helpers.scep import Answer, Message, ScepCa, parse_answer
from tests.helpers.scep_simulators import KnownChallenges, SimulatedIssuance, SoftwareSigner

ADDRESS = "192.0.2.7"


@dataclass(slots=True)
class Counts:
    """scep.authorization.Observer: what was counted, in order."""

    authorizations: list[tuple[str, str, str]] = field(default_factory=list)
    answers: list[tuple[str, str, str]] = field(default_factory=list)
    legacies: list[tuple[str, str]] = field(default_factory=list)

    def authorized(self, *, endpoint: str, way: str, result: str) -> None:
        self.authorizations.append((endpoint, way, result))

    def answered(self, *, endpoint: str, message_type: str, result: str) -> None:
        self.answers.append((endpoint, message_type, result))

    def legacy(self, *, endpoint: str, algorithm: str) -> None:
        self.legacies.append((endpoint, algorithm))


@dataclass(slots=True)
class ScepWorld:
    database: Database
    clock: FakeClock
    ca: ScepCa
    challenges: KnownChallenges
    issuance: SimulatedIssuance
    signer: SoftwareSigner
    counts: Counts = field(default_factory=Counts)
    ways: dict[Way, ChallengeWay] = field(default_factory=dict)  # beside the static and the one-time one
    informed: dict[Way, Informed] = field(default_factory=dict)
    profiles: Profiles = field(default_factory=lambda: Profiles([device()]))

    @property
    def transactions(self) -> Transactions:
        return Transactions(database=self.database, clock=self.clock)

    @property
    def one_time(self) -> ScepChallenges:
        return ScepChallenges(database=self.database, clock=self.clock)

    def desk(self) -> Desk:
        holders = Holders(register=self.issuance, profiles=self.profiles, clock=self.clock)
        lockouts = Lockouts(database=self.database, clock=self.clock)
        static, one_time = StaticWay(self.challenges), OneTimeWay(self.one_time, observer=self.counts)
        ways: Mapping[Way, ChallengeWay] = {Way.STATIC: static, Way.ONE_TIME: one_time, **self.ways}
        return Desk(
            enrolments=Enrolments(
                issuance=self.issuance,
                authorizer=Authorizer(ways=ways, lockouts=lockouts, observer=self.counts),
                holders=holders,
                transactions=self.transactions,
                informed=self.informed,
                observer=self.counts,
                standing=self.one_time,
            ),
            holders=holders,
            retrieval=Retrieval(register=self.issuance, crls=PublishedCrls(self.database), clock=self.clock),
            signer=self.signer,
            observer=self.counts,
            random_bytes=os.urandom,
        )

    def authority(self, endpoint: ScepEndpoint) -> RegistrationAuthority:
        return RegistrationAuthority(endpoint, self.desk())

    def server(self, *endpoints: ScepEndpoint) -> ScepServer:
        return ScepServer(endpoints={endpoint.name: endpoint for endpoint in endpoints}, desk=self.desk())

    async def send(self, data: bytes, *, endpoint: ScepEndpoint | None = None, address: str = ADDRESS) -> bytes:
        authority = self.authority(endpoint or self.ca.endpoint())
        return await authority.answer(message.parse(data), source_address=address)

    async def ask(self, request: Message, *, legacy: tuple[str, ...] = (), endpoint: ScepEndpoint | None = None) -> Answer:
        return parse_answer(await self.send(request.encode(), endpoint=endpoint or self.ca.endpoint(legacy=legacy)))


@asynccontextmanager
async def scep_world(*, ca: ScepCa | None = None, challenges: KnownChallenges | None = None) -> AsyncIterator[ScepWorld]:
    """With `tests.helpers.scep`'s CA, one static challenge at the endpoint `default`, and an SQLite of its own."""
    authority = ca or ScepCa()
    with tempfile.TemporaryDirectory(prefix="cw-scep-") as folder:
        database = await open_database(f"sqlite:///{Path(folder) / 'scep.db'}", migrate=True)
        try:
            yield ScepWorld(
                database=database,
                clock=FakeClock(),
                ca=authority,
                challenges=challenges or KnownChallenges(),
                issuance=SimulatedIssuance(authority),
                signer=SoftwareSigner(authority.ra_key),
            )
        finally:
            await database.close()
