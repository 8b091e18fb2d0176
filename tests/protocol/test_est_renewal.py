"""simplereenroll through the whole pipeline (RFC 7030 §4.2.2): what comes out has the names of what went in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from est.endpoint import Agents, Authentication, ClientCertificates, EstEndpoint
from est.renewal import CHANGE_SUBJECT_NAME, identity
from policy.profiles import CommonName
from policy.rules import Policy
from storage.database import Step
from storage.open import open_database
from tests.helpers.authorities import CLIENT_AUTH, CMC_RA, Authority, purposes
from tests.helpers.ca import TestCa
from tests.helpers.clock import FakeClock
from tests.helpers.est_world import EstWorld, general_names, make_request, renewal_csr, subject
from tests.helpers.profiles import device, profile
from tests.helpers.scep import seq

CA = TestCa()
REGISTRARS = Authority("Registrars")
FIXED = (("C", "DE"), ("O", "Example GmbH"), ("OU", "Devices"))
CLIENT: dict[str, Any] = {"extended_key_usage": (CLIENT_AUTH,)}
PROFILES = (
    device(subject=FIXED),
    profile("by-name", **CLIENT),
    profile("by-name-with-company", **CLIENT, subject=FIXED),
    profile("names-only", **CLIENT, common_name=CommonName.NONE),
    replace(device(subject_change=True), name="changing"),
    profile("changing-by-name", **CLIENT, subject_change=True),
)
ROLES = frozenset({"tester"})
EVERYTHING = Policy("everything", ROLES, frozenset(one.name for one in PROFILES), ("*",), ("*",))
ENDPOINT = EstEndpoint(
    "default",
    "device",
    (CA.certificate.public_bytes(Encoding.DER),),
    authenticate=frozenset({Authentication.CERTIFICATE}),
    client_certificates=ClientCertificates(roles=ROLES),
    agents=Agents((REGISTRARS.der,), ROLES),
)


@pytest.fixture
async def world(tmp_path: Path, clock: FakeClock) -> AsyncIterator[EstWorld]:
    database = await open_database(f"sqlite://{tmp_path}/certwright.db", migrate=True)
    async with EstWorld(database, clock, endpoints=[ENDPOINT], ca=CA, policies=[EVERYTHING], profiles=PROFILES) as world:
        yield world
    await database.close()


async def renewed(world: EstWorld, held: bytes, **changes: Any) -> bytes:
    reply = await world.ask("simplereenroll", renewal_csr(held, **changes), chain=[held])
    return reply.certificate.public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("profile_name", "common_name", "names"),
    [
        ("device", "device-1", ()),
        ("device", "device-1", ("device-1.example.com", "device.example.com")),
        ("device", "host.example.com", ("host.example.com",)),
        ("device", None, ("host.example.com",)),
        ("by-name", None, ("b.example.com", "a.example.com")),
        ("by-name", "a.example.com", ("b.example.com", "a.example.com")),
        ("by-name", "only.example.com", ()),
        ("by-name", None, (f"{'long.' * 14}example.com",)),
        ("by-name-with-company", "Some Text", ("a.example.com",)),
        ("names-only", None, ("a.example.com", "*.example.com")),
    ],
)
async def test_subject_and_alternative_names_stay_octet_for_octet_from_renewal_to_renewal(
    world: EstWorld, profile_name: str, common_name: str | None, names: tuple[str, ...]
) -> None:
    held = await world.enrolled("default", *names, common_name=common_name, profile=profile_name)
    second = await renewed(world, held)
    third = await renewed(world, second)
    assert identity(held) == identity(second) == identity(third)
    assert len({held, second, third}) == 3


async def test_a_request_for_the_common_name_alone_is_not_one_for_the_certificates_subject(world: EstWorld) -> None:
    """What enrolled as CN=device-1 has O and OU of its profile now; the request for its renewal has them, too."""
    held = await world.enrolled("default", common_name="device-1")
    reply = await world.ask("simplereenroll", make_request(subject=subject("device-1"), names=None), chain=[held])
    assert reply.status == 403
    assert "the certificate's is C='DE', O='Example GmbH', OU='Devices', CN='device-1'" in reply.text
    assert "openssl x509 -x509toreq" in reply.text


@pytest.mark.parametrize(
    ("profile_name", "old", "attribute", "new"),
    [
        ("changing", ("device-1", ()), (subject("device-2"),), ("CN=device-2", None)),
        ("changing", ("device-1", ("a.example",)), (general_names("b.example"),), ("CN=device-1", general_names("b.example"))),
        ("changing", ("device-1", ("a.example",)), (subject("device-2"),), ("CN=device-2", general_names("a.example"))),
        (
            "changing-by-name",
            (None, ("a.example",)),
            (general_names("b.example"),),
            ("CN=b.example", general_names("b.example")),
        ),
    ],
)
async def test_new_names_by_attribute(
    world: EstWorld,
    profile_name: str,
    old: tuple[str | None, tuple[str, ...]],
    attribute: tuple[bytes, ...],
    new: tuple[str, bytes | None],
) -> None:
    # RFC 7030 §4.2.2: "The ChangeSubjectName attribute ... MAY be included in the CSR to request that these fields be changed"
    common_name, names = old
    held = await world.enrolled("default", *names, common_name=common_name, profile=profile_name)
    changed = await renewed(world, held, attributes={CHANGE_SUBJECT_NAME: seq(*attribute)})
    certificate = x509.load_der_x509_certificate(changed)
    assert (certificate.subject.rfc4514_string(), identity(changed).alternative_names) == new


async def test_policy_decides_about_new_names(world: EstWorld) -> None:
    held = await world.enrolled("default", common_name="device-1", profile="changing")
    world.policies[:] = [Policy("mine", ROLES, frozenset({"changing"}), (), ("device-1",))]
    new = {"attributes": {CHANGE_SUBJECT_NAME: seq(subject("device-2"))}}
    reply = await world.ask("simplereenroll", renewal_csr(held, **new), chain=[held])
    assert (reply.status, "policy does not grant device-2" in reply.text) == (400, True)
    await renewed(world, held)


async def test_an_agent_renews_for_others_and_is_not_compared_with_them(world: EstWorld) -> None:
    # §3.7: "... if the client is authenticated as an RA, the EST server can allow ... on behalf of other clients"
    agent = REGISTRARS.leaf("registrar", purposes(CLIENT_AUTH, CMC_RA))
    reply = await world.ask("simplereenroll", make_request(subject=subject("device-9"), names=None), chain=[agent])
    assert "CN=device-9" in reply.certificate.subject.rfc4514_string()
    new = {CHANGE_SUBJECT_NAME: seq(subject("device-2"))}
    csr = make_request(subject=subject("device-9"), names=None, attributes=new)
    reply = await world.ask("simplereenroll", csr, chain=[agent])
    assert (reply.status, "ChangeSubjectName is not taken" in reply.text) == (403, True)


async def test_a_profile_that_is_gone_renews_nothing(world: EstWorld) -> None:
    held = await world.enrolled("default", "a.example.com", profile="by-name")
    await world.issuing.database.write(Step("UPDATE certificate SET profile = 'gone'", ()))
    reply = await world.ask("simplereenroll", renewal_csr(held), chain=[held])
    assert (reply.status, "there is no profile 'gone' here" in reply.text) == (403, True)


async def test_requests_that_are_none_are_told_so_after_it_is_known_who_asks(world: EstWorld) -> None:
    held = await world.enrolled("default", common_name="device-1")
    assert (await world.ask("simplereenroll", b"?", chain=[held])).status == 400
    assert (await world.ask("simplereenroll", b"?")).status == 403
