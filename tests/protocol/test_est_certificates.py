"""Client certificates at EST labels: who issued it, at which label it is shown, and what it opens there (RFC 7030 §3.3.2, §3.7, §4.2.2).

Real pipeline, real ledger; the connection is as a proxy reports it. TLS itself is in the tests with a whole server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from est.endpoint import Agents, Authentication, ClientCertificates, EstEndpoint
from issuance.request import Channel
from pki.clock import after
from policy.rules import Policy
from storage.open import open_database
from tests.helpers.authorities import CLIENT_AUTH, CMC_RA, SERVER_AUTH, START, Authority, constraints, ec_key, purposes, usage
from tests.helpers.ca import TestCa, counter
from tests.helpers.clock import FakeClock
from tests.helpers.est_world import EstWorld, make_request, renewal_csr, subject
from tests.helpers.issuing import ANYTHING
from tests.helpers.profiles import device, profile

CERTIFICATE = frozenset({Authentication.CERTIFICATE})
DAY = timedelta(days=1)

OWN, OTHER = TestCa(), TestCa(name="other")
MAKER_A, MAKER_B, REGISTRARS = Authority("Maker A"), Authority("Maker B"), Authority("Registrars")
STRANGER = Authority("Stranger")
TWIN = Authority("Test Issuing CA")  # our issuer's name, another key

ROLES = frozenset({"tester"})
ISSUED_HERE = (OWN.certificate.public_bytes(Encoding.DER),)
ENDPOINTS = (
    EstEndpoint(
        "default",
        "device",
        ISSUED_HERE,
        authenticate=CERTIFICATE,
        client_certificates=ClientCertificates(anchors=(MAKER_A.der,), roles=ROLES),
        agents=Agents((REGISTRARS.der, OTHER.certificate.public_bytes(Encoding.DER)), frozenset({"registrar"})),
    ),
    EstEndpoint(
        "branch",
        "device",
        ISSUED_HERE,
        authenticate=CERTIFICATE,
        client_certificates=ClientCertificates(anchors=(MAKER_B.der,), roles=ROLES, grace=7 * DAY),
    ),
    EstEndpoint(
        "chained",  # what another label of this server issued enrols here, as a manufacturer's certificates would
        "device",
        ISSUED_HERE,
        authenticate=CERTIFICATE,
        client_certificates=ClientCertificates(anchors=ISSUED_HERE, roles=ROLES, enroll=True),
    ),
    EstEndpoint("passwords", "device", ISSUED_HERE, authenticate=frozenset({Authentication.BASIC})),
    EstEndpoint(
        "both",
        "device",
        ISSUED_HERE,
        authenticate=frozenset({Authentication.BASIC, Authentication.CERTIFICATE}),
        client_certificates=ClientCertificates(roles=ROLES),
    ),
)
POLICIES = (ANYTHING, Policy("registrars", frozenset({"registrar"}), frozenset({"device"}), ("*",), ("*",)))
PROFILES = (
    device(),
    profile("other-device", issuer="other", extended_key_usage=(CLIENT_AUTH,), require_san=False),
    profile("server"),
    replace(device(issuer="other", extended_key_usage=(CLIENT_AUTH, CMC_RA)), name="agent"),
)


@pytest.fixture
async def world(tmp_path: Path, clock: FakeClock) -> AsyncIterator[EstWorld]:
    database = await open_database(f"sqlite://{tmp_path}/certwright.db", migrate=True)
    every = Policy("every profile", ROLES, frozenset({one.name for one in PROFILES}), ("*",), ("*",))
    policies = (every, *POLICIES)
    world = EstWorld(database, clock, endpoints=ENDPOINTS, ca=OWN, other_cas=(OTHER,), policies=policies, profiles=PROFILES)
    async with world:
        yield world
    await database.close()


# ---------------------------------------------------------------------- label x issuing CA x operation

Made = Callable[[EstWorld], Awaitable[list[bytes]]]


def _request(common_name: str) -> bytes:
    return make_request(subject=subject(common_name), names=None)


def by(authority: Authority, *extensions: object, **changes: object) -> Made:
    async def made(_: EstWorld) -> list[bytes]:
        return [authority.leaf("device-1", *extensions, **changes), authority.der]  # type: ignore[arg-type]  # of Authority.leaf

    return made


def ours(endpoint: str, *, profile: str = "device", channel: Channel = Channel.EST) -> Made:
    async def made(world: EstWorld) -> list[bytes]:
        return [await world.enrolled(endpoint, common_name="device-1", profile=profile, channel=channel)]

    return made


async def unrecorded(_: EstWorld) -> list[bytes]:
    """By our CA's own key, past the server: whoever has stolen it."""
    return [Authority("Test Issuing CA", key=OWN.key).leaf("device-1", purposes(CLIENT_AUTH))]


async def doctored(world: EstWorld) -> list[bytes]:
    """One of ours, under its serial, with another signature value."""
    [der] = await ours("default")(world)
    return [der[:-1] + bytes([der[-1] ^ 1])]


WHO: dict[str, Made] = {
    "issued here": ours("default"),
    "issued at another label": ours("branch"),
    "issued here, by another CA of ours": ours("default", profile="other-device"),
    "issued to a program by REST": ours("default", channel=Channel.REST),
    "issued by SCEP at an endpoint of the same name": ours("default", channel=Channel.SCEP),
    "issued by ACME at an endpoint of the same name": ours("default", channel=Channel.ACME),
    "by our key, and nobody recorded it": unrecorded,
    "one of ours with another signature": doctored,
    "manufacturer A's": by(MAKER_A),
    "manufacturer B's": by(MAKER_B),
    "an agent's": by(REGISTRARS, purposes(CLIENT_AUTH, CMC_RA)),
    "an agent's of ours": ours("anywhere", profile="agent", channel=Channel.REST),
    "of the agents' CA, without id-kp-cmcRA": by(REGISTRARS, purposes(CLIENT_AUTH)),
    "a stranger's": by(STRANGER),
    "a stranger's that says it is an agent": by(STRANGER, purposes(CLIENT_AUTH, CMC_RA)),
    "of a CA that has our CA's name": by(TWIN),
    "self-signed": by(Authority("device-1", key=ec_key("leaf"), extensions=())),
}
# (at simpleenroll, at simplereenroll); labels as above.
YES, NO = 200, 403
VERDICTS: dict[str, dict[str, tuple[int, int]]] = {
    "issued here": {"default": (NO, YES), "branch": (NO, NO), "chained": (YES, NO)},
    "issued at another label": {"default": (NO, NO), "branch": (NO, YES), "chained": (YES, NO)},
    "issued here, by another CA of ours": {"default": (NO, YES), "branch": (NO, NO), "chained": (NO, NO)},
    "issued to a program by REST": {"default": (NO, NO), "branch": (NO, NO), "chained": (YES, NO)},
    "issued by SCEP at an endpoint of the same name": {"default": (NO, NO), "branch": (NO, NO), "chained": (YES, NO)},
    "issued by ACME at an endpoint of the same name": {"default": (NO, NO), "branch": (NO, NO), "chained": (YES, NO)},
    "by our key, and nobody recorded it": {"default": (NO, NO), "branch": (NO, NO), "chained": (NO, NO)},
    "one of ours with another signature": {"default": (NO, NO), "branch": (NO, NO), "chained": (NO, NO)},
    "manufacturer A's": {"default": (YES, NO), "branch": (NO, NO), "chained": (NO, NO)},
    "manufacturer B's": {"default": (NO, NO), "branch": (YES, NO), "chained": (NO, NO)},
    "an agent's": {"default": (YES, YES), "branch": (NO, NO), "chained": (NO, NO)},
    "an agent's of ours": {"default": (YES, YES), "branch": (NO, NO), "chained": (NO, NO)},
    "of the agents' CA, without id-kp-cmcRA": {"default": (NO, NO), "branch": (NO, NO), "chained": (NO, NO)},
    "a stranger's": {"default": (NO, NO), "branch": (NO, NO), "chained": (NO, NO)},
    "a stranger's that says it is an agent": {"default": (NO, NO), "branch": (NO, NO), "chained": (NO, NO)},
    "of a CA that has our CA's name": {"default": (NO, NO), "branch": (NO, NO), "chained": (NO, NO)},
    "self-signed": {"default": (NO, NO), "branch": (NO, NO), "chained": (NO, NO)},
}


def test_the_table_is_total() -> None:
    assert set(VERDICTS) == set(WHO)
    assert all(set(row) == {"default", "branch", "chained"} for row in VERDICTS.values())


@pytest.mark.parametrize("label", ["default", "branch", "chained"])
@pytest.mark.parametrize("who", WHO)
async def test_what_a_certificate_opens_depends_on_the_label_and_on_who_issued_it(
    world: EstWorld, who: str, label: str
) -> None:
    """A TLS listener has one store for all labels; what it let pass is looked at again by each."""
    chain = await WHO[who](world)
    csr = renewal_csr(chain[0])
    issued = len(await world.issuing.rows("SELECT 1 FROM certificate"))
    replies = [await world.ask(operation, csr, chain=chain, label=label) for operation in ("simpleenroll", "simplereenroll")]
    assert tuple(reply.status for reply in replies) == VERDICTS[who][label], [reply.text for reply in replies]
    granted = sum(reply.status == YES for reply in replies)
    assert len(await world.issuing.rows("SELECT 1 FROM certificate")) == issued + granted
    assert all("client certificate" in reply.text for reply in replies if reply.status == NO)


async def test_a_label_without_client_certificates_heeds_none(world: EstWorld) -> None:
    held = await world.enrolled("passwords", common_name="device-1")
    assert (await world.ask("simpleenroll", renewal_csr(held), chain=[held], label="passwords")).status == 401
    reply = await world.ask("simplereenroll", renewal_csr(held), chain=[held], label="passwords")
    assert (reply.status, "takes no client certificates" in reply.text) == (403, True)


# ---------------------------------------------------------------------- what else can be wrong with one


async def test_a_revoked_certificate_opens_nothing_whatever_it_was(world: EstWorld) -> None:
    for endpoint, profile_name, channel in (
        ("default", "device", Channel.EST),
        ("anywhere", "agent", Channel.REST),
        ("branch", "device", Channel.EST),
    ):
        held = await world.enrolled(endpoint, common_name="device-1", profile=profile_name, channel=channel)
        label = "chained" if endpoint == "branch" else "default"
        operation = "simpleenroll" if endpoint == "branch" else "simplereenroll"
        assert (await world.ask(operation, renewal_csr(held), chain=[held], label=label)).status == 200
        await world.revoke(held)
        reply = await world.ask(operation, renewal_csr(held), chain=[held], label=label)
        assert (reply.status, "it is revoked" in reply.text) == (403, True)


async def test_what_this_server_revoked_stays_revoked_when_its_ca_has_left_the_configuration(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Its CA may still be among a label's anchors, as any other's: the ledger has not forgotten."""
    database = await open_database(f"sqlite://{tmp_path}/certwright.db", migrate=True)
    every = Policy("every profile", ROLES, frozenset({one.name for one in PROFILES}), ("*",), ("*",))
    settings: dict[str, Any] = {"endpoints": ENDPOINTS[:1], "ca": OWN, "new_id": counter()}
    async with EstWorld(
        database, clock, other_cas=(OTHER,), policies=(every, *POLICIES), profiles=PROFILES, **settings
    ) as before:
        good, bad = [await before.enrolled("anywhere", common_name="agent", profile="agent") for _ in range(2)]
        await before.revoke(bad)
    async with EstWorld(database, clock, policies=(every, *POLICIES), profiles=PROFILES[:1], **settings) as after_it_left:
        taken = await after_it_left.ask("simpleenroll", _request("device-1"), chain=[good])
        reply = await after_it_left.ask("simpleenroll", _request("device-1"), chain=[bad])
    await database.close()
    assert taken.status == 200, taken.text
    assert (reply.status, "it is revoked" in reply.text) == (403, True)


@pytest.mark.parametrize(
    ("label", "later", "status"),
    [
        ("default", 46 * DAY, 200),
        ("default", 47 * DAY, 403),
        ("branch", 47 * DAY, 200),  # grace of a week
        ("branch", 53 * DAY, 200),
        ("branch", 54 * DAY, 403),
    ],
)
async def test_an_expired_certificate_renews_itself_within_the_grace(
    world: EstWorld, clock: FakeClock, label: str, later: timedelta, status: int
) -> None:
    held = await world.enrolled(label, common_name="device-1")
    clock.advance(later)
    reply = await world.ask("simplereenroll", renewal_csr(held), chain=[held], label=label)
    assert reply.status == status, reply.text
    if status == 403:
        assert "it expired at" in reply.text


async def test_a_grace_opens_renewal_and_nothing_else(world: EstWorld, clock: FakeClock) -> None:
    device_held = MAKER_B.leaf("device-1", end=START + 30 * DAY)
    own = await world.enrolled("chained", common_name="device-1")
    assert (await world.ask("simpleenroll", renewal_csr(own), chain=[own], label="chained")).status == 200
    assert (await world.ask("simpleenroll", renewal_csr(own), chain=[device_held], label="branch")).status == 200
    clock.advance(48 * DAY)
    for held, label in ((own, "chained"), (device_held, "branch")):
        reply = await world.ask("simpleenroll", renewal_csr(own), chain=[held], label=label)
        assert (reply.status, "it expired at" in reply.text) == (403, True)


async def test_a_certificate_that_is_not_yet_valid_opens_nothing(world: EstWorld, clock: FakeClock) -> None:
    held = await world.enrolled("branch", common_name="device-1", not_before=after(clock.micros(), timedelta(hours=1)))
    reply = await world.ask("simplereenroll", renewal_csr(held), chain=[held], label="branch")
    assert (reply.status, "not valid before" in reply.text) == (403, True)
    clock.advance(timedelta(hours=1))
    assert (await world.ask("simplereenroll", renewal_csr(held), chain=[held], label="branch")).status == 200


async def test_a_certificate_for_servers_only_renews_nothing(world: EstWorld) -> None:
    """OpenSSL's server would end the handshake before us ("unsuitable certificate purpose"); a proxy may not."""
    held = await world.enrolled("default", "host.example.com", profile="server")
    reply = await world.ask("simplereenroll", renewal_csr(held), chain=[held])
    assert (reply.status, "no clientAuth" in reply.text) == (403, True)


@pytest.mark.parametrize(
    "leaf",
    [
        pytest.param(MAKER_A.leaf("d", purposes(SERVER_AUTH)), id="serverAuth"),
        pytest.param(MAKER_A.leaf("d", constraints()), id="a CA's"),
        pytest.param(MAKER_A.leaf("d", usage(key_agreement=True)), id="no digitalSignature"),
        pytest.param(MAKER_A.leaf("d", end=START + DAY), id="expired"),
        pytest.param(MAKER_A.leaf("d", begin=START + 300 * DAY), id="not yet valid"),
        pytest.param(MAKER_A.der, id="the manufacturer's own"),
        pytest.param(b"\x30\x00", id="no certificate at all"),
    ],
)
async def test_a_manufacturers_certificate_that_is_no_devices_enrols_nothing(world: EstWorld, leaf: bytes) -> None:
    reply = await world.ask("simpleenroll", _request("device-1"), chain=[leaf])
    assert (reply.status, await world.issuing.rows("SELECT 1 FROM issuance")) == (403, [])


async def test_an_idevid_below_an_intermediate_enrols_when_it_brings_it_along(world: EstWorld) -> None:
    devices = Authority("Maker A Devices", MAKER_A, (constraints(length=0), usage(key_cert_sign=True)))
    leaf = devices.idevid()
    assert (await world.ask("simpleenroll", _request("device-1"), chain=[leaf])).status == 403
    assert (await world.ask("simpleenroll", _request("device-1"), chain=[leaf, devices.der])).status == 200


async def test_what_a_device_gets_is_policys_to_say(world: EstWorld) -> None:
    """A manufacturer's certificate says that the device is genuine. It says nothing about the names that it asks for."""
    world.policies.clear()
    reply = await world.ask("simpleenroll", _request("device-1"), chain=[MAKER_A.idevid()])
    assert (reply.status, "no policy grants anything to tls-client" in reply.text) == (403, True)


async def test_where_passwords_do_too_a_certificate_that_opens_nothing_is_answered_by_asking_for_one(world: EstWorld) -> None:
    """A client that shows an old certificate to everybody still has to be asked for its password (RFC 7030 §3.2.3)."""
    world.credentials.add_est_user("both", "estuser", "estpwd")
    held = await world.enrolled("both", common_name="device-1")
    reply = await world.ask("simpleenroll", renewal_csr(held), chain=[held], label="both")
    assert (reply.status, reply.text) == (401, "")
    assert reply.headers["WWW-Authenticate"].startswith("Basic ")
    reply = await world.ask("simpleenroll", renewal_csr(held), chain=[held], label="both", auth=("estuser", "estpwd"))
    assert reply.status != 401


async def test_credentials_do_not_stand_in_for_the_certificate_that_is_renewed(world: EstWorld) -> None:
    world.credentials.add_est_user("both", "estuser", "estpwd")
    held = await world.enrolled("both", common_name="device-1")
    right, wrong = ("estuser", "estpwd"), ("estuser", "guess")
    assert (await world.ask("simplereenroll", renewal_csr(held), label="both", auth=right)).status == 403
    assert (await world.ask("simplereenroll", renewal_csr(held), chain=[held], label="both", auth=wrong)).status == 401
    assert (await world.ask("simplereenroll", renewal_csr(held), chain=[held], label="both", auth=right)).status == 200


# ---------------------------------------------------------------------- renewal


async def test_a_renewal_is_recorded_with_the_certificate_that_it_rests_on(world: EstWorld) -> None:
    held = await world.enrolled("default", common_name="device-1")
    old = x509.load_der_x509_certificate(held)
    new = (await world.ask("simplereenroll", renewal_csr(held), chain=[held])).certificate
    [row] = await world.issuing.rows(
        f"SELECT principal, evidence, endpoint, protocol FROM issuance WHERE serial = '{new.serial_number:x}'"  # noqa: S608
    )
    assert row["principal"] == f"tls-client:issuing/{old.serial_number:x}"
    assert '"role":"previous"' in row["evidence"]
    assert (row["endpoint"], row["protocol"]) == ("default", "est")


async def test_the_key_may_be_the_same_or_a_new_one_and_the_new_certificate_renews_itself_again(world: EstWorld) -> None:
    # §4.2.2: "the client ... MUST ... for rekey: a new key; for renew: the same"
    held = await world.enrolled("default", common_name="device-1")
    for key in (ec_key("subscriber"), ec_key("new"), ec_key("newer")):
        new = (await world.ask("simplereenroll", renewal_csr(held, key=key), chain=[held])).certificate
        assert new.public_key() == key.public_key()
        held = new.public_bytes(Encoding.DER)


async def test_what_is_renewed_is_the_certificates_own_profile(world: EstWorld) -> None:
    held = await world.enrolled("default", common_name="device-1", profile="other-device")
    new = (await world.ask("simplereenroll", renewal_csr(held), chain=[held])).certificate
    assert new.issuer == OTHER.certificate.subject
    record = await world.issuing.issuance.certificate(f"{new.serial_number:x}")
    assert record is not None
    assert record.certificate.profile == "other-device"


async def test_policy_decides_about_a_renewal_as_about_any_request(world: EstWorld) -> None:
    held = await world.enrolled("default", common_name="device-1", profile="other-device")
    world.policies[:] = [ANYTHING]
    reply = await world.ask("simplereenroll", renewal_csr(held), chain=[held])
    assert (reply.status, "no policy grants profile other-device" in reply.text) == (403, True)
