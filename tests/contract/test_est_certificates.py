"""What EST asks the ledger about client certificates, on both databases: whose they are, and that a revocation comes first."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from est.authentication import Authenticator
from est.certificates import CertificateChecks
from est.connection import Connection
from est.endpoint import Agents, Authentication, ClientCertificates, EstEndpoint
from est.enroll import Enroller
from est.secrets import SecretChecks
from issuance.request import CertificateRole, Channel, Issued, Rejected
from pki.csr import parse_csr
from pki.reasons import Reason
from policy.rules import Policy
from storage.database import Database
from tests.helpers.authorities import CLIENT_AUTH, CMC_RA
from tests.helpers.ca import TestCa
from tests.helpers.clock import FakeClock
from tests.helpers.est_world import EstWorld, renewal_csr
from tests.helpers.profiles import device

CA = TestCa()
DER = CA.certificate.public_bytes(Encoding.DER)
ROLES = frozenset({"tester"})
ENDPOINTS = [
    EstEndpoint(
        label,
        "device",
        (DER,),
        authenticate=frozenset({Authentication.CERTIFICATE}),
        client_certificates=ClientCertificates(anchors=anchors, roles=ROLES),
        agents=Agents((DER,), ROLES) if label == "agents" else None,
    )
    for label, anchors in (("default", ()), ("chained", (DER,)), ("agents", ()))
]
POLICY = Policy("everything", ROLES, frozenset({"device"}), ("*",), ("*",))


class Front:
    """EST's own objects without HTTP, so that something can happen between two of its steps."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        profiles = [device(extended_key_usage=(CLIENT_AUTH, CMC_RA))]
        self.world = EstWorld(database, clock, endpoints=ENDPOINTS, ca=CA, policies=[POLICY], profiles=profiles)
        issuance = self.world.issuing.issuance
        self.checks = CertificateChecks(register=issuance, endpoints=ENDPOINTS, clock=clock)
        authenticator = Authenticator(secrets=SecretChecks(self.world.credentials), certificates=self.checks)
        self.enroller = Enroller(issuance=issuance, authenticator=authenticator, profiles=self.world.issuing.rules.profiles)


@pytest.fixture
def front(database: Database, clock: FakeClock) -> Front:
    return Front(database, clock)


@pytest.mark.parametrize(
    ("label", "role"),
    [("default", CertificateRole.PREVIOUS), ("chained", CertificateRole.DEVICE), ("agents", CertificateRole.AGENT)],
)
async def test_a_certificate_that_is_revoked_between_the_check_and_the_intent_gets_nothing(
    front: Front, label: str, role: CertificateRole
) -> None:
    endpoint = next(one for one in ENDPOINTS if one.label == label)
    held = await front.world.enrolled("default", common_name="device-1")
    caller = await front.checks.holder(endpoint, Connection(chain=(held,)), source_address="")
    assert caller.held is not None
    assert (caller.held.role, caller.held.issuer) == (role, "issuing")
    csr = parse_csr(renewal_csr(held))
    assert isinstance(await front.enroller.submit(endpoint, caller, csr), Issued)
    await front.world.revoke(held)
    before = await front.world.issuing.rows("SELECT id FROM issuance")
    outcome = await front.enroller.submit(endpoint, caller, csr)
    assert isinstance(outcome, Rejected)
    assert (outcome.rejection.reason, "revoked" in outcome.rejection.detail) == (Reason.FORBIDDEN, True)
    assert await front.world.issuing.rows("SELECT id FROM issuance") == before


@pytest.mark.parametrize("channel", list(Channel))
async def test_a_certificate_is_known_with_the_door_and_the_endpoint_that_it_came_through(
    front: Front, channel: Channel
) -> None:
    der = await front.world.enrolled("some-endpoint", common_name="device-1", channel=channel)
    serial = f"{x509.load_der_x509_certificate(der).serial_number:x}"
    record = await front.world.issuing.issuance.certificate(serial, issuer="issuing")
    assert record is not None
    assert (record.channel, record.endpoint, record.certificate.der) == (channel.value, "some-endpoint", der)


async def test_our_issuers_are_known_by_name_and_by_key(front: Front) -> None:
    claimed = front.world.issuing.issuance.claimed_issuers
    name, key = CA.issuer.subject_der, CA.issuer.key_identifier
    assert claimed(name=name, key_identifier=key) == claimed(name=name, key_identifier=None) == {"issuing"}
    assert claimed(name=b"other", key_identifier=key) == {"issuing"}
    assert claimed(name=b"other", key_identifier=b"other") == claimed(name=b"", key_identifier=None) == frozenset()
