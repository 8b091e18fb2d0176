"""Limits of a label, for somebody who has a certificate and wants more of them than the label admits."""

from __future__ import annotations

from datetime import timedelta

from cryptography.hazmat.primitives.serialization import Encoding

from est.endpoint import Authentication, ClientCertificates, EstEndpoint, EstLimits
from policy.limits import Limit
from storage.database import Database
from tests.helpers.ca import TestCa
from tests.helpers.clock import FakeClock
from tests.helpers.est_world import EstWorld, renewal_csr

CA = TestCa()
ENDPOINT = EstEndpoint(
    "default",
    "device",
    (CA.certificate.public_bytes(Encoding.DER),),
    authenticate=frozenset({Authentication.CERTIFICATE}),
    client_certificates=ClientCertificates(roles=frozenset({"tester"})),
    limits=EstLimits(enrollments_per_caller=Limit(3, timedelta(hours=1))),
)


async def test_what_renews_itself_is_one_caller_from_certificate_to_certificate(database: Database, clock: FakeClock) -> None:
    """Each renewal has another serial: were that the caller, every new certificate would bring its own admissions."""
    async with EstWorld(database, clock, endpoints=[ENDPOINT], ca=CA) as world:
        held, others = [await world.enrolled("default", common_name=name) for name in ("device-1", "device-2")]
        for _ in range(3):
            reply = await world.ask("simplereenroll", renewal_csr(held), chain=[held])
            held = reply.certificate.public_bytes(Encoding.DER)
        refused = await world.ask("simplereenroll", renewal_csr(held), chain=[held])
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1200")
        assert "too many enrolments of this caller: 3 in 1h are admitted" in refused.text
        assert (await world.ask("simplereenroll", renewal_csr(others), chain=[others])).status == 200
        clock.advance(timedelta(minutes=20))
        assert (await world.ask("simplereenroll", renewal_csr(held), chain=[held])).status == 200
