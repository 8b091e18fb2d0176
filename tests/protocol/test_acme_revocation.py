"""revokeCert (RFC 8555 §7.6): who may revoke what, with which reason, and in which order that is looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pki.reasons import SUBSCRIBER_REASONS, RevocationReason
from pki.strict import base64url
from storage.database import Database
from tests.helpers.acme_client import AccountKey, AcmeClient, Reply
from tests.helpers.acme_world import AcmeWorld, acme_world, ready
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr

NAMES = ("a.example.com", "b.example.com")


@dataclass(frozen=True, slots=True)
class Story:
    """A certificate, and everybody who might want it revoked. `holder` signs with its key, `controller` has proved its names."""

    world: AcmeWorld
    der: bytes
    owner: AcmeClient
    holder: AcmeClient
    controller: AcmeClient
    half: AcmeClient  # has proved one of the two names
    stranger: AcmeClient

    async def revoke(self, who: str, **members: object) -> Reply:
        client: AcmeClient = getattr(self, who)
        payload = {"certificate": base64url(self.der), **members}
        return await client.post(client.url("revoke-cert"), payload, jwk=who in {"holder", "passer_by"})

    @property
    def reason(self) -> RevocationReason | None:
        (record,) = self.world.issuance.records.values()
        return record.reason

    @property
    def passer_by(self) -> AcmeClient:
        return self.world.client()  # a bare key that is nobody's


@pytest.fixture
async def story(database: Database, clock: FakeClock) -> AsyncIterator[Story]:
    async with acme_world(database, clock) as world:
        key = AccountKey()
        assert isinstance(key.key, ec.EllipticCurvePrivateKey)
        owner = await world.registered()
        order = await ready(owner, *NAMES)
        final = await owner.finalize(order, der_of(make_csr(*NAMES, key=key.key)))
        assert final.json["status"] == "valid"
        (record,) = world.issuance.records.values()
        controller, half, stranger = [await world.registered() for _ in range(3)]
        await ready(controller, *NAMES)
        await ready(half, NAMES[0])
        yield Story(world, record.certificate.der, owner, AcmeClient(world.http, key=key), controller, half, stranger)


MAY = ("owner", "holder", "controller")
MAY_NOT = ("half", "stranger", "passer_by")


@pytest.mark.parametrize("reason", [None, *sorted(SUBSCRIBER_REASONS)])
@pytest.mark.parametrize("who", MAY)
async def test_who_may_revoke_gives_any_reason_of_a_subscriber(story: Story, who: str, reason: int | None) -> None:
    """Exactly 200: certbot takes nothing else. Control of the names alone says nothing about the key."""
    reply = await story.revoke(who, **({} if reason is None else {"reason": reason}))
    if who == "controller" and reason == RevocationReason.KEY_COMPROMISE:
        assert (reply.status, reply.problem) == (400, "badRevocationReason")
        assert "signed by its key" in reply.json["detail"]
        assert story.reason is None
        return
    assert (reply.status, reply.body) == (200, b"")
    assert "Replay-Nonce" in reply.headers
    assert story.reason == (reason or 0)


@pytest.mark.parametrize("reason", [2, 6, 7, 8, 10, 11, 256, -1, 2**70, True, "1", 1.0, None, [1]])
@pytest.mark.parametrize("who", MAY)
async def test_every_other_reason_is_refused_and_revokes_nothing(story: Story, who: str, reason: object) -> None:
    reply = await story.revoke(who, reason=reason)
    assert (reply.status, reply.problem) == (400, "badRevocationReason")
    assert story.reason is None


@pytest.mark.parametrize("who", MAY_NOT)
@pytest.mark.parametrize("reason", [0, 1, 4, 6])
async def test_whoever_may_not_is_unauthorized_whatever_the_reason(story: Story, who: str, reason: int) -> None:
    reply = await story.revoke(who, reason=reason)
    assert (reply.status, reply.problem) == (403, "unauthorized")
    assert story.reason is None


@pytest.mark.parametrize("who", MAY)
async def test_a_second_revocation_is_400_already_revoked(story: Story, who: str) -> None:
    assert (await story.revoke("owner", reason=4)).status == 200
    again = await story.revoke(who, reason=5)
    assert (again.status, again.problem) == (400, "alreadyRevoked")
    assert story.reason == 4  # the first reason stays


@pytest.mark.parametrize("who", MAY_NOT)
async def test_whoever_may_not_learns_nothing_of_the_state(story: Story, who: str) -> None:
    """Authorised first, told afterwards: the answer before and after the revocation is the same."""
    before = await story.revoke(who)
    assert (await story.revoke("owner")).status == 200
    after = await story.revoke(who)
    assert (before.status, before.json) == (after.status, after.json)


async def test_control_of_the_names_ends_with_the_authorizations(story: Story) -> None:
    order = await story.controller.order(*NAMES)
    for url in order.json["authorizations"]:
        await story.controller.post(url, {"status": "deactivated"})
    rows = await story.world.database.fetch(
        "SELECT z.id FROM acme_authorization z WHERE z.account_id = $1 AND z.status = 'valid'",
        story.controller.kid.rpartition("/")[2],
    )
    for row in rows:
        url = story.controller.url(f"authz/{row['id']}")
        assert (await story.controller.post(url, {"status": "deactivated"})).status == 200
    reply = await story.revoke("controller")
    assert (reply.status, reply.problem) == (403, "unauthorized")


async def test_a_deactivated_account_revokes_nothing_but_the_key_still_does(story: Story) -> None:
    assert (await story.owner.post(story.owner.kid, {"status": "deactivated"})).status == 200
    assert (await story.revoke("owner")).problem == "unauthorized"
    assert (await story.revoke("holder", reason=4)).status == 200


async def test_at_another_endpoint_only_the_key_counts(story: Story) -> None:
    """The account is another one there, even with the same key; the certificate's key is the certificate's everywhere."""
    elsewhere = AcmeClient(story.world.http, key=story.owner.key, endpoint="other")
    assert (await elsewhere.register()).status == 201
    payload = {"certificate": base64url(story.der)}
    assert (await elsewhere.post(elsewhere.url("revoke-cert"), payload)).problem == "unauthorized"
    holder = AcmeClient(story.world.http, key=story.holder.key, endpoint="other")
    assert (await holder.post(holder.url("revoke-cert"), payload, jwk=True)).status == 200


def _another_signature(der: bytes) -> bytes:
    return der[:-1] + bytes([der[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (_another_signature, 404),  # another certificate with our serial
        (lambda der: der + b"\0", 400),
        (lambda der: der[:-3], 400),
        (lambda _: b"", 400),
        (lambda _: b"\x30\x80" + bytes(40), 400),
    ],
)
async def test_only_the_certificate_itself_octet_for_octet(story: Story, change: Callable[[bytes], bytes], status: int) -> None:
    payload = {"certificate": base64url(change(story.der))}
    reply = await story.owner.post(story.owner.url("revoke-cert"), payload)
    assert (reply.status, reply.problem) == (status, "malformed")
    assert story.reason is None


@pytest.mark.parametrize("text", [None, 1, "", "-----BEGIN CERTIFICATE-----", "AAAA", "A", "+/=="])
async def test_what_is_no_certificate_is_malformed(story: Story, text: object) -> None:
    reply = await story.owner.post(story.owner.url("revoke-cert"), {"certificate": text})
    assert (reply.status, reply.problem) == (400, "malformed")


async def test_padded_base64_and_pem_are_not_der(story: Story) -> None:
    certificate = x509.load_der_x509_certificate(story.der)
    padded = base64url(story.der) + "=" * (-len(base64url(story.der)) % 4 or 4)
    for text in (padded, base64url(certificate.public_bytes(Encoding.PEM))):
        reply = await story.owner.post(story.owner.url("revoke-cert"), {"certificate": text})
        assert (reply.status, reply.problem) == (400, "malformed")
