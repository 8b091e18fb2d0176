"""What is refused when it is ordered and not only at the end; and every CSR that is not the order's, with its cause named."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from acmeserver.endpoint import AcmeEndpoint
from pki.clock import Micros, after, rfc3339
from policy.rules import Policy
from storage.database import Database
from tests.helpers.acme_client import AcmeClient
from tests.helpers.acme_real import ROLE, RealAcme, real_acme
from tests.helpers.acme_world import ready
from tests.helpers.clock import FakeClock
from tests.helpers.profiles import profile
from tests.helpers.wanted import Wanted

NAME = "a.example.com"
ENDPOINTS = (
    AcmeEndpoint(
        name="default",
        profiles=("tls-server", "careful", "plain"),
        challenges=("http-01", "dns-01"),
        identifiers=("dns", "ip"),
        roles=ROLE,
    ),
)
PROFILES = (profile(), profile("careful"), profile("plain", allow_wildcard=False))
POLICIES = (
    Policy("all", ROLE, frozenset({"tls-server", "plain"}), ("*",), max_validity=timedelta(days=30)),
    Policy("own", ROLE, frozenset({"tls-server"}), ("*.example.com", "192.0.2.0/24")),
    Policy("careful", ROLE, frozenset({"careful"}), ("*",), require_approval=True),
)


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[RealAcme]:
    async with real_acme(database, clock, endpoints=ENDPOINTS, profiles=PROFILES, policies=POLICIES) as world:
        yield world


@pytest.fixture
async def client(world: RealAcme) -> AcmeClient:
    return await world.registered()


def time(clock: FakeClock, ahead: timedelta) -> str:
    return rfc3339(Micros(after(clock.micros(), ahead)))


# ------------------------------------------------------------------------------------------------ at newOrder


async def test_an_order_that_would_need_an_approval_is_refused_and_nobody_is_left_processing(
    world: RealAcme, client: AcmeClient
) -> None:
    reply = await client.order(NAME, profile="careful")
    assert (reply.status, reply.problem) == (403, "unauthorized")
    assert "approval" in reply.json["detail"]
    assert await world.issuing.rows("SELECT id FROM acme_order") == []


@pytest.mark.parametrize(
    ("not_before", "not_after", "said"),
    [
        (timedelta(0), timedelta(days=48), "at most 47 days"),
        (timedelta(hours=49), timedelta(days=10), "48 hours ahead"),
        (timedelta(minutes=-6), timedelta(days=10), "between"),
        (timedelta(days=1), timedelta(hours=23), "expired before it is used"),
        (timedelta(0), timedelta(0), "expired before it is used"),
        (None, timedelta(days=47), "at most 47 days"),
        (None, timedelta(days=9000), "at most 47 days"),
    ],
)
async def test_times_outside_the_profile_are_refused_when_they_are_ordered(
    client: AcmeClient, clock: FakeClock, not_before: timedelta | None, not_after: timedelta, said: str
) -> None:
    times = {"notAfter": time(clock, not_after)}
    if not_before is not None:
        times["notBefore"] = time(clock, not_before)
    reply = await client.order(NAME, **times)
    assert (reply.status, reply.problem) == (400, "malformed")
    assert said in reply.json["detail"]


async def test_a_validity_that_policy_forbids_for_the_name_is_refused_when_it_is_ordered(
    client: AcmeClient, clock: FakeClock
) -> None:
    """`own` grants the profile's 47 days for its names; for others 30 days are the most."""
    long = {"notAfter": time(clock, timedelta(days=40))}
    assert (await client.order(NAME, **long)).status == 201
    reply = await client.order("a.example.org", **long)
    assert reply.status == 400
    assert (await client.order("a.example.org", notAfter=time(clock, timedelta(days=29)))).status == 201


async def test_times_inside_are_what_the_certificate_says(world: RealAcme, client: AcmeClient, clock: FakeClock) -> None:
    order = await ready(client, NAME, notBefore=time(clock, timedelta(hours=1)), notAfter=time(clock, timedelta(days=7)))
    final = await client.finalize(order, csr())
    chain = await client.post(final.json["certificate"])
    leaf = x509.load_pem_x509_certificate(chain.body)
    assert rfc3339(Micros(int(leaf.not_valid_before_utc.timestamp()) * 1_000_000)) == order.json["notBefore"]
    assert rfc3339(Micros(int(leaf.not_valid_after_utc.timestamp()) * 1_000_000)) == order.json["notAfter"]


async def test_a_wildcard_of_a_profile_that_has_none_is_refused_when_it_is_ordered(client: AcmeClient) -> None:
    reply = await client.order("*.example.com", profile="plain")
    assert (reply.status, reply.problem) == (400, "rejectedIdentifier")
    assert (await client.order("*.example.com")).status == 201


# ------------------------------------------------------------------------------------------------ the CSR


def csr(
    *names: x509.GeneralName,
    common_name: str | None = None,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
) -> bytes:
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name is not None else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    builder = builder.add_extension(x509.SubjectAlternativeName(names or [x509.DNSName(NAME)]), critical=False)
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


DNS, IP = x509.DNSName(NAME), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "SHA-1": (Wanted(names=(NAME,), digest="sha1").csr, "SHA1"),
    "MD5": (Wanted(names=(NAME,), digest="md5").csr, "MD5"),
    "CN outside the SAN": (lambda: csr(common_name="b.example.com"), "it has besides: b.example.com"),
    "CN that is no name": (lambda: csr(common_name="My Server"), "'My Server' is not one of the order's names"),
    "CN that is an address": (lambda: csr(common_name="192.0.2.1"), "'192.0.2.1' is an IP address"),
    "one name more": (lambda: csr(DNS, x509.DNSName("evil.test")), "it has besides: evil.test"),
    "one name less": (lambda: csr(x509.DNSName("b.example.com")), "it lacks: a.example.com"),
    "an address more": (lambda: csr(DNS, IP), "it has besides: 192.0.2.1"),
    "an e-mail address": (lambda: csr(DNS, x509.RFC822Name("a@example.com")), "rfc822Name"),
    "a URI": (lambda: csr(DNS, x509.UniformResourceIdentifier("https://a.example.com")), "uniformResourceIdentifier"),
    "a directory name": (lambda: csr(DNS, x509.DirectoryName(x509.Name([]))), "directoryName"),
    "a bad name": (lambda: csr(DNS, x509.DNSName("a_b.example.com")), "a_b.example.com"),
    "a small key": (lambda: csr(key=rsa.generate_private_key(65537, 1024)), "1024"),
    "no CSR": (lambda: b"\x30\x03\x02\x01\x00", "CSR|request"),
    "nothing": (lambda: b"", "CSR|request"),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_csr_that_is_not_the_orders_is_bad_csr_with_its_cause(world: RealAcme, client: AcmeClient, what: str) -> None:
    make, said = BAD[what]
    order = await ready(client, NAME)
    reply = await client.finalize(order, make())
    assert (reply.status, reply.problem) == (400, "badCSR"), reply.body
    assert any(word in reply.json["detail"] for word in said.split("|")), reply.json["detail"]
    assert world.issuing.signer.signed == []
    assert (await client.post(order.location)).json["status"] == "ready"


async def test_the_accounts_own_key_is_bad_csr(world: RealAcme, client: AcmeClient) -> None:
    own = client.key.key
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    order = await ready(client, NAME)
    reply = await client.finalize(order, csr(key=own))
    assert (reply.status, reply.problem) == (400, "badCSR")
    assert "account's own key" in reply.json["detail"]
    assert world.issuing.signer.signed == []


async def test_an_address_in_the_san_and_no_cn_is_fine(client: AcmeClient) -> None:
    order = await ready(client, NAME, "192.0.2.1")
    assert (await client.finalize(order, csr(DNS, IP))).json["status"] == "valid"
