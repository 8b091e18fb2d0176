"""Full CMC around the real pipeline and its database: agents, devices, holders of certificates, of secrets and of passwords.

async with CmcWorld(database, clock) as world:
    reply = await world.send(signed(pki_data(requests=[tcr(1, csr(key))]), world.agent()))
    assert reply.said...
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from est.connection import Connections
from est.endpoint import Agents, Authentication, ClientCertificates, EstEndpoint, EstLimits, RegistrationKey
from issuance.cmc_secrets import CmcSecrets
from issuance.crl import CrlPublisher, CrlSchedule, PublishedCrls
from issuance.lockout import Lockouts
from issuance.sealed import SealedSecrets
from pki.clock import Clock
from pki.sealing import Sealer
from policy.limits import Limit
from policy.rules import Policy
from storage.database import Database
from tests.helpers import cmc
from tests.helpers.authorities import CMC_RA, Authority, ec_key, purposes
from tests.helpers.ca import TestCa
from tests.helpers.cmc import Reply, SignerOf, read_reply
from tests.helpers.est import TestSigner
from tests.helpers.est_world import EstWorld
from tests.helpers.profiles import device
from tests.helpers.scep import rsa_key

CA = TestCa()
OLD_CA = TestCa(name="old")  # which the labels had before
REGISTRARS = Authority("Registrars")
MANUFACTURER = Authority("Manufacturer")
ROLES = frozenset({"device"})
EVERYTHING = Policy("everything", ROLES, frozenset({"device", "old"}), ("*.example.com",), ("*",))
SECRET = "correct horse battery"  # a shared secret
RA_KEY = rsa_key("cmc-ra")


def _ra() -> x509.Certificate:
    made = Authority("EST RA", key=RA_KEY, extensions=(purposes(CMC_RA),))
    return made.certificate


RA = _ra()


def endpoint(label: str = "default", **changes: Any) -> EstEndpoint:
    base = EstEndpoint(
        label,
        "device",
        (CA.certificate.public_bytes(Encoding.DER),),
        issuer="issuing",
        authenticate=frozenset({Authentication.BASIC, Authentication.CERTIFICATE}),
        client_certificates=ClientCertificates(anchors=(MANUFACTURER.der,), roles=ROLES),
        agents=Agents((REGISTRARS.der,), ROLES),
        full_cmc=True,
        registration_key=RegistrationKey("ra/est", RA.public_bytes(Encoding.DER)),
    )
    return replace(base, **changes)


class CmcWorld:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        endpoints: Iterable[EstEndpoint] | None = None,
        connections: Connections | None = None,
    ) -> None:
        self.database = database
        self.clock = clock
        self.sealed = SealedSecrets(database=database, clock=clock, sealer=Sealer([b"s" * 32]))
        lockouts = Lockouts(database=database, clock=clock)
        self.ra = RA
        self._agents: dict[tuple[str, str], bytes] = {}
        self.signer = TestSigner(RA_KEY)
        served = [
            endpoint(),
            endpoint("other"),
            endpoint("waiting", require_approval=True),
            endpoint("closed", authenticate=frozenset({Authentication.CERTIFICATE})),
            endpoint("passwords", authenticate=frozenset({Authentication.BASIC})),
            endpoint("off", full_cmc=False),
            endpoint("guarded", limits=EstLimits(failures_per_user=Limit(3, timedelta(hours=1)))),
            endpoint("gateways", client_certificates=ClientCertificates(anchors=(MANUFACTURER.der,), roles=ROLES, enroll=True)),
        ]
        self.est = EstWorld(
            database,
            clock,
            endpoints=served if endpoints is None else endpoints,
            ca=CA,
            other_cas=[OLD_CA],
            policies=[EVERYTHING],
            profiles=[device(), replace(device(), name="old", issuer="old")],
            serving={
                "crls": PublishedCrls(database),
                "cmc_secrets": CmcSecrets(database=database, clock=clock, sealed=self.sealed, lockouts=lockouts),
                "signer": self.signer,
                "connections": connections,
            },
        )
        self.publisher = CrlPublisher(
            issuers=self.est.issuing.rules.issuers,
            schedules={"issuing": CrlSchedule(timedelta(days=1), timedelta(days=4))},
            database=database,
            signer=self.est.issuing.signer,
            clock=clock,
            new_id=self.est.issuing.new_id,
        )

    async def __aenter__(self) -> Self:
        await self.est.__aenter__()
        self.est.credentials.add_est_user("default", "alice", "password")
        await self.sealed.set_cmc_secret(
            endpoint="default", identification="device-7", roles=ROLES, profile="", expires_at=None, secret=SECRET
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        await self.est.__aexit__(kind, error, at)

    # ------------------------------------------------------------------ who signs

    def agent(self, label: str = "agent", *, by: Authority = REGISTRARS, **changes: Any) -> SignerOf:
        """The same certificate for the same label, as a registration authority has."""
        key = ec_key(label)
        if changes or (label, by.common_name) not in self._agents:
            self._agents[label, by.common_name] = by.leaf(label, purposes(CMC_RA), key=key, **changes)
        return SignerOf(key, x509.load_der_x509_certificate(self._agents[label, by.common_name]))

    def device(self) -> SignerOf:
        key = ec_key("device")
        return SignerOf(key, x509.load_der_x509_certificate(MANUFACTURER.idevid("device-1", key=key)))

    async def holder(self, label: str = "default", *, common_name: str = "dev1", key: cmc.Key | None = None) -> SignerOf:
        """Of a certificate that the label has issued, through CMC."""
        key = key or ec_key("holder")
        reply = await self.send(
            cmc.signed(cmc.pki_data(requests=[cmc.tcr(1, cmc.csr(key, common_name=common_name))]), self.agent()), label=label
        )
        return SignerOf(key, reply.certificate_of(key))

    # ------------------------------------------------------------------ what is sent

    async def post(
        self, body: bytes, *, label: str = "default", auth: tuple[str, str] | None = None, content_type: str | None = None
    ) -> tuple[int, Mapping[str, str], str]:
        headers = {"Content-Type": content_type or "application/pkcs7-mime; smime-type=CMC-request"}
        if auth is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(auth).encode()).decode()
        reply = await self.est.post("fullcmc", body, headers, label=label)
        return reply.status, reply.headers, reply.text

    async def send(
        self, message: bytes, *, label: str = "default", auth: tuple[str, str] | None = None, status: int | None = None
    ) -> Reply:
        """The response to a message, verified; `status` is the HTTP status that it has to have."""
        found, headers, text = await self.post(base64.encodebytes(message), label=label, auth=auth)
        assert status is None or found == status, (found, text)
        assert headers["Content-Type"].startswith("application/pkcs7-mime; smime-type="), text
        reply = read_reply(text.encode(), by=RA)
        assert headers["Content-Type"].endswith("=CMC-response" if reply.full else "=certs-only")
        return reply

    async def certificates(self) -> int:
        [row] = await self.est.issuing.rows("SELECT count(*) AS n FROM certificate")
        return int(row["n"])

    async def intents(self) -> int:
        [row] = await self.est.issuing.rows("SELECT count(*) AS n FROM issuance")
        return int(row["n"])
