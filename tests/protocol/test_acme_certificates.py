"""Certificates as clients fetch them (RFC 8555 §7.4.2): the form, whose they are, and alternate chains."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from storage.database import Database
from tests.helpers.acme_client import BASE, AcmeClient, make_jws
from tests.helpers.acme_world import AcmeWorld, acme_world, issued
from tests.helpers.ca import TestCa, ca_certificate
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import ThrowAwayCa
from tests.helpers.issuing import Issuing

INDEX = f'<{BASE}/acme/directory>;rel="index"'


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock) as world:
        yield world


@pytest.fixture
async def client(world: AcmeWorld) -> AcmeClient:
    return await world.registered()


async def fetched(client: AcmeClient, *names: str) -> str:
    _, final = await issued(client, *names)
    return str(final.json["certificate"])


async def test_a_certificate_comes_leaf_first_as_pem_and_nothing_else(client: AcmeClient) -> None:
    """acmez takes this media type only; text between the blocks confuses others."""
    reply = await client.post(await fetched(client, "a.example.com"))
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/pem-certificate-chain")
    assert reply.body.startswith(b"-----BEGIN CERTIFICATE-----\n")
    assert reply.body.endswith(b"-----END CERTIFICATE-----\n")
    assert reply.body.count(b"-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\n") == 1
    leaf, issuer = x509.load_pem_x509_certificates(reply.body)
    leaf.verify_directly_issued_by(issuer)


@pytest.mark.parametrize("accept", ["*/*", "application/pem-certificate-chain", "application/pkix-cert", "text/html", ";;,"])
async def test_whatever_a_client_accepts_it_gets_pem(client: AcmeClient, accept: str) -> None:
    """RFC 8555 §7.4.2: the default, and the one form that everybody reads."""
    url = await fetched(client, "a.example.com")
    header = await client.header(url)
    reply = await client.send(url, make_jws(client.key, header, b""), headers={"Accept": accept})
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/pem-certificate-chain")


async def test_there_is_no_link_up_and_without_other_chains_no_alternate(client: AcmeClient) -> None:
    """acmez and mod_md would fetch what is `up` and append it to the chain that has it already."""
    reply = await client.post(await fetched(client, "a.example.com"))
    assert reply.links == (INDEX,)


async def test_every_other_chain_has_its_link_on_every_chain(world: AcmeWorld, client: AcmeClient) -> None:
    """Boulder's form: <certificate>/<n>. certbot --preferred-chain follows all of them."""
    world.issuance.other_cas += [ThrowAwayCa(), ThrowAwayCa()]
    url = await fetched(client, "a.example.com")
    urls = [url, f"{url}/1", f"{url}/2"]
    roots = [world.issuance.ca, *world.issuance.other_cas]
    leaves = set()
    for own, root in zip(urls, roots, strict=True):
        reply = await client.post(own)
        assert reply.status == 200
        assert reply.links == (*(f'<{other}>;rel="alternate"' for other in urls if other != own), INDEX)
        leaf, top = x509.load_pem_x509_certificates(reply.body)
        assert top == root.certificate
        leaves.add(leaf)
    assert len(leaves) == 1  # one certificate, several ways up


async def test_a_chain_that_is_not_there_is_not_found(world: AcmeWorld, client: AcmeClient) -> None:
    world.issuance.other_cas.append(ThrowAwayCa())
    url = await fetched(client, "a.example.com")
    for wrong in ("2", "0", "01", "99", "100", "-1", "+1", "1/1", "x", "%31"):
        assert (await client.post(f"{url}/{wrong}")).status in {403, 404}, wrong  # 403: %31 is another URL than was signed


async def test_an_alternate_chain_belongs_to_who_owns_the_certificate(world: AcmeWorld, client: AcmeClient) -> None:
    world.issuance.other_cas.append(ThrowAwayCa())
    url = await fetched(client, "a.example.com")
    stranger, elsewhere = await world.registered(), await world.registered("other")
    for path in (url, f"{url}/1"):
        assert (await stranger.post(path)).status == 404
        assert (await elsewhere.post(path.replace("/default/", "/other/"))).status == 404
        assert (await client.post(path, {})).problem == "malformed"  # POST-as-GET has no payload
        assert (await client.request("GET", path)).status == 405
        assert (await client.post(path)).status == 200


async def test_a_deactivated_account_fetches_nothing_more(client: AcmeClient) -> None:
    url = await fetched(client, "a.example.com")
    assert (await client.post(client.kid, {"status": "deactivated"})).status == 200
    assert (await client.post(url)).problem == "unauthorized"


# ------------------------------------------------------------------------------------------------ the real thing


async def test_each_chain_of_the_pipeline_verifies_up_to_its_own_root_and_leaves_it_out(
    database: Database, clock: FakeClock
) -> None:
    ca = TestCa()
    old_key = ec.generate_private_key(ec.SECP256R1())
    old_root = ca_certificate(old_key, "Old Root")
    cross = ca_certificate(ca.key, "Test Issuing CA", by=(old_root, old_key))
    ca.issuer = replace(ca.issuer, alternates=((cross, old_root),))
    issuing = Issuing(database, clock, ca=ca)
    serial = f"{(await issuing.issued('a.example.com')).serial_number:x}"
    issuance = issuing.issuance
    assert issuance.alternates("issuing") == 1
    for number, root in ((0, ca.root), (1, old_root)):
        text = await issuance.chain(issuer="issuing", serial=serial, alternate=number)
        assert text is not None
        leaf, middle = x509.load_pem_x509_certificates(text.encode())
        leaf.verify_directly_issued_by(middle)
        middle.verify_directly_issued_by(root)
