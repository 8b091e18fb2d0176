"""certbot's own library against our server, over a real socket: the client that we did not write."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from acme import challenges, client, jws, messages
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from josepy.interfaces import JSONDeSerializable
from josepy.jwa import ES256, RS256
from josepy.jwk import JWK, JWKEC, JWKRSA

from acmeserver.endpoint import AcmeEndpoint
from acmeserver.http import routes
from pki.clock import SystemClock
from storage.database import Database
from tests.helpers.acme_account import new_external_key
from tests.helpers.acme_world import ENDPOINTS, RememberedErrors, ScriptedMethod, ScriptedPolicy, SettlingIssuance, make_server
from tests.helpers.issuance_simulator import make_csr, pem_of
from validation.outcome import FailureKind


@pytest.fixture
async def base_url(database: Database) -> AsyncIterator[str]:
    clock = SystemClock()
    http01, dns01 = ScriptedMethod("http-01", clock), ScriptedMethod("dns-01", clock)
    http01.gate.set()
    http01.failing["bad.example.com"] = FailureKind.CONNECTION
    port, log = unused_port(), RememberedErrors()
    server = make_server(
        database,
        clock,
        issuance=SettlingIssuance(database=database, clock=clock),
        policy=ScriptedPolicy(),
        methods=(http01, dns01),
        log=log,
        base_url=f"http://127.0.0.1:{port}",
        endpoints=(*ENDPOINTS, AcmeEndpoint(name="bound", profiles=("tls-server",), external_account="required")),
    )
    app = web.Application()
    app.add_routes(routes(server))
    async with TestServer(app, port=port):
        yield f"http://127.0.0.1:{port}"
    assert log.events == []


def connect(base_url: str, *, elliptic: bool, directory: str = "/acme/directory") -> client.ClientV2:
    if elliptic:
        net = client.ClientNetwork(JWKEC(key=ec.generate_private_key(ec.SECP256R1())), alg=ES256)
    else:
        net = client.ClientNetwork(JWKRSA(key=rsa.generate_private_key(65537, 2048)), alg=RS256)
    return client.ClientV2(client.ClientV2.get_directory(base_url + directory, net), net)


def order(acme: client.ClientV2, *names: str) -> messages.OrderResource:
    """An order with all its http-01 challenges answered."""
    wanted = acme.new_order(pem_of(make_csr(*names)).encode())
    for authorization in wanted.authorizations:
        (challenge,) = [each for each in authorization.body.challenges if isinstance(each.chall, challenges.HTTP01)]
        acme.answer_challenge(challenge, challenge.chall.response(acme.net.key))
    return wanted


@pytest.mark.parametrize("elliptic", [True, False])
async def test_register_issue_revoke_update_and_deactivate(base_url: str, *, elliptic: bool) -> None:
    def story() -> None:
        acme = connect(base_url, elliptic=elliptic)
        account = acme.new_account(messages.NewRegistration.from_data(email="a@example.com", terms_of_service_agreed=True))
        until = datetime.now() + timedelta(seconds=20)  # noqa: DTZ005  # the library compares naive local times
        done = acme.poll_and_finalize(order(acme, "a.example.com", "b.example.com"), until)
        assert done.fullchain_pem.count("BEGIN CERTIFICATE") == 2
        acme.revoke(x509.load_pem_x509_certificate(done.fullchain_pem.encode()), 4)
        assert acme.query_registration(account).body.contact == ("mailto:a@example.com",)
        body = account.body.update(contact=("mailto:b@example.com",))
        assert acme.update_registration(account.update(body=body)).body.contact == ("mailto:b@example.com",)
        assert acme.deactivate_registration(account).body.status == "deactivated"
        acme.net.session.close()

    await asyncio.to_thread(story)


async def test_a_failed_validation_ends_with_its_reason(base_url: str) -> None:
    def story() -> None:
        acme = connect(base_url, elliptic=True)
        acme.new_account(messages.NewRegistration.from_data(terms_of_service_agreed=True))
        wanted = order(acme, "bad.example.com")
        authorization, _ = acme.poll(wanted.authorizations[0])
        assert authorization.body.status == messages.STATUS_INVALID
        (challenge,) = authorization.body.challenges
        assert challenge.error is not None
        assert challenge.error.code == "connection"
        acme.net.session.close()

    await asyncio.to_thread(story)


def public(acme: client.ClientV2) -> JWK:
    assert acme.net.key is not None
    key: JWK = acme.net.key.public_key()
    return key


async def test_an_external_account_is_bound_and_its_key_is_used_once(base_url: str, database: Database) -> None:
    keys = [await new_external_key(database, SystemClock(), endpoint="bound") for _ in range(2)]

    def story() -> None:
        acme = connect(base_url, elliptic=True, directory="/acme/bound/directory")
        assert acme.external_account_required()
        wanted = messages.NewRegistration.from_data(terms_of_service_agreed=True)
        with pytest.raises(messages.Error) as caught:
            acme.new_account(wanted)
        assert caught.value.code == "externalAccountRequired"
        for alg, key in zip(("HS256", "HS512"), keys, strict=True):
            each = connect(base_url, elliptic=alg == "HS256", directory="/acme/bound/directory")
            bound = messages.ExternalAccountBinding.from_data(public(each), key.kid, key.hmac_key, each.directory, alg)
            account = each.new_account(wanted.update(external_account_binding=bound))
            assert account.body.external_account_binding == bound
            assert each.poll_and_finalize(order(each, "a.example.com")).fullchain_pem
            each.net.session.close()
        again = messages.ExternalAccountBinding.from_data(public(acme), keys[0].kid, keys[0].hmac_key, acme.directory)
        with pytest.raises(messages.Error, match="has been used"):
            acme.new_account(wanted.update(external_account_binding=again))
        acme.net.session.close()

    await asyncio.to_thread(story)


async def test_the_key_of_an_account_is_changed_from_elliptic_to_rsa(base_url: str) -> None:
    """The library has no call for it; its JWS and its way of posting are what a client would use."""

    def story() -> None:
        acme = connect(base_url, elliptic=True)
        account = acme.new_account(messages.NewRegistration.from_data(terms_of_service_agreed=True))
        url = acme.directory["keyChange"]
        new = JWKRSA(key=rsa.generate_private_key(65537, 2048))
        payload = json.dumps({"account": account.uri, "oldKey": public(acme).to_json()}).encode()
        inner = jws.JWS.sign(payload, new, RS256, None, url)
        assert acme._post(url, _Whole(inner.to_json())).status_code == 200  # it has no public one
        acme.net.key, acme.net.alg = new, RS256
        assert acme.query_registration(account).uri == account.uri
        assert acme.poll_and_finalize(order(acme, "a.example.com")).fullchain_pem
        acme.net.session.close()

    await asyncio.to_thread(story)


class _Whole(JSONDeSerializable):
    """An object that the library sends as it is."""

    def __init__(self, members: dict[str, object]) -> None:
        self._members = members

    def to_partial_json(self) -> dict[str, object]:
        return self._members

    @classmethod
    def from_json(cls, jobj: dict[str, object]) -> _Whole:
        return cls(jobj)
