"""EST by passwords, Digest and tokens over a real socket (RFC 7030 §3.2.3), with the stored secrets of a real database."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from est.digest import Nonces
from est.endpoint import Authentication, EstEndpoint, EstLimits
from est.http import routes
from est.secrets import DigestLogin
from issuance.credentials import Credentials
from issuance.digests import Digests
from issuance.lockout import Lockouts
from issuance.request import BasicPassword, BearerToken, DigestPassword
from issuance.sealed import SealedSecrets
from pki.sealing import Sealer
from policy.limits import Limit
from policy.principal import PrincipalKind
from storage.database import Database
from tests.helpers.clock import FakeClock
from tests.helpers.est import est_server
from tests.helpers.issuance_simulator import SimulatedIssuance, der_of, make_csr

PREFIX = "/.well-known/est"
ENROLL = f"{PREFIX}/simpleenroll"
PASSWORD = "Guest Zugang 7"
QUARTER = timedelta(minutes=15)
SEALING_KEY = b"k" * 32
BY = Authentication
LABELS = {
    "default": {BY.BASIC, BY.DIGEST, BY.BEARER},
    "plain": {BY.BASIC},
    "digest": {BY.DIGEST},
    "token": {BY.BEARER},
    "tls": {BY.CERTIFICATE},
}


@dataclass
class World:
    """A server with five labels, each of which takes something else."""

    client: TestClient[web.Request, web.Application]
    issuance: SimulatedIssuance
    credentials: Credentials
    digests: Digests
    sealed: SealedSecrets
    clock: FakeClock
    database: Database
    csr: bytes = field(default_factory=lambda: base64.b64encode(der_of(make_csr("device.example.com"))))

    async def add_user(self, user: str = "estuser", password: str = PASSWORD, *, label: str = "default") -> None:
        digest = self.digests.step(endpoint=label, user=user, realm="estrealm", password=password)
        await self.credentials.set_est_user(
            endpoint=label, user=user, password=password, roles=["device"], profile="", digest=digest
        )

    async def post(self, *authorizations: str, path: str = ENROLL) -> aiohttp.ClientResponse:
        headers = [("Authorization", value) for value in authorizations]
        response = await self.client.post(path, data=self.csr, headers=[("Content-Type", "application/pkcs10"), *headers])
        await response.read()
        return response

    async def status(self, *authorizations: str, path: str = ENROLL) -> int:
        return (await self.post(*authorizations, path=path)).status

    async def nonce(self, path: str = ENROLL) -> str:
        return nonce_of(await self.post(path=path))


@asynccontextmanager
async def serving(database: Database, clock: FakeClock, tmp_path: Path, limits: EstLimits) -> AsyncIterator[World]:
    issuance = SimulatedIssuance()
    lockouts = Lockouts(database=database, clock=clock)
    credentials = Credentials(database=database, clock=clock, lockouts=lockouts)
    sealed = SealedSecrets(database=database, clock=clock, sealer=Sealer([SEALING_KEY]))
    digests = Digests(database=database, clock=clock, sealed=sealed, lockouts=lockouts)
    endpoints = {
        label: EstEndpoint(
            label=label, profile="device", ca_certificates=(issuance.ca.der,), authenticate=frozenset(taken), limits=limits
        )
        for label, taken in LABELS.items()
    }
    digest = DigestLogin(digests, Nonces([SEALING_KEY]), clock)
    app = web.Application()
    app.add_routes(routes(est_server(endpoints=endpoints, issuance=issuance, credentials=credentials, digest=digest)))
    server = TestServer(app, scheme="https", host="127.0.0.1")
    await server.start_server(ssl=issuance.ca.server_context(tmp_path))
    trust = ssl.create_default_context(cadata=issuance.ca.pem)
    trust.check_hostname = False
    async with TestClient(server, connector=aiohttp.TCPConnector(ssl=trust)) as client:
        yield World(client, issuance, credentials, digests, sealed, clock, database)


@pytest.fixture
async def world(database: Database, clock: FakeClock, tmp_path: Path) -> AsyncIterator[World]:
    limits = EstLimits(failures_per_user=Limit(10, QUARTER), failures_per_address=Limit(40, QUARTER))
    async with serving(database, clock, tmp_path, limits) as world:
        await world.add_user()
        yield world


def basic(user: str = "estuser", password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def nonce_of(response: aiohttp.ClientResponse) -> str:
    challenge = response.headers["WWW-Authenticate"]
    found = re.search(r'nonce="([^"]+)"', challenge)
    assert found is not None
    return found[1]


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def digest(
    nonce: str,
    user: str = "estuser",
    password: str = PASSWORD,
    *,
    uri: str = ENROLL,
    realm: str = "estrealm",
    method: str = "POST",
    count: str = "00000001",
) -> str:
    """Written from the RFC, not with our code."""
    secret, asked = md5(f"{user}:{realm}:{password}"), md5(f"{method}:{uri}")
    response = md5(f"{secret}:{nonce}:{count}:c:auth:{asked}")
    return (
        f'Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{uri}", cnonce="c", nc={count}, qop="auth", '
        f'algorithm="MD5", response="{response}"'
    )


# ---------------------------------------------------------------------- who is let in


async def test_password_digest_and_token_each_let_their_owner_in(world: World) -> None:
    token = await world.credentials.create_est_token(endpoint="default", roles=["device"], profile="vpn", expires_at=None)
    assert await world.status(basic()) == 200
    assert await world.status(digest(await world.nonce())) == 200
    assert await world.status(f"Bearer {token}") == 200
    by_password, by_digest, by_token = world.issuance.requests
    assert by_password.evidence == (BasicPassword("default/estuser"),)
    assert by_digest.evidence == (DigestPassword("default/estuser"),)
    assert by_token.evidence == (BearerToken(token[4:20]),)
    assert str(by_password.principal) == str(by_digest.principal) == "est-user:default/estuser"
    assert (by_token.principal.kind, by_token.principal.id) == (PrincipalKind.EST_TOKEN, token[4:20])
    assert (by_token.profile, by_token.principal.roles) == ("vpn", frozenset({"device"}))
    assert by_digest.principal.source_address == "127.0.0.1"


CHALLENGES = {
    "default": ["Digest", "Digest", "Basic", "Bearer"],
    "plain": ["Basic"],
    "digest": ["Digest", "Digest"],
    "token": ["Bearer"],
}


@pytest.mark.parametrize("label", CHALLENGES)
@pytest.mark.parametrize("sent", ["", "Basic eDp5", "Digest x=y", "Bearer x", "Negotiate YQ==", "Hawk", "-"])
async def test_a_401_says_what_the_label_takes_whatever_was_sent(world: World, label: str, sent: str) -> None:
    # RFC 9110 §11.6.1: a 401 has "at least one challenge applicable to the target resource"
    response = await world.post(
        *([sent] if sent else []), path=f"{PREFIX}/{label}/simpleenroll" if label != "default" else ENROLL
    )
    assert (response.status, response.headers["Content-Length"]) == (401, "0")
    assert [value.partition(" ")[0] for value in response.headers.getall("WWW-Authenticate")] == CHALLENGES[label]
    # libest and BouncyCastle look at the first alone, and know no algorithm but MD5.
    assert "algorithm" not in response.headers["WWW-Authenticate"]


async def test_a_label_of_certificates_alone_says_403_to_secrets(world: World) -> None:
    for sent in (basic(), "Bearer x", "Digest x=y"):
        response = await world.post(sent, path=f"{PREFIX}/tls/simpleenroll")
        assert response.status == 403
        assert "client certificates" in await response.text()


async def test_two_authorization_headers_are_nobodys(world: World) -> None:
    assert await world.status(basic(), basic()) == 401
    assert await world.status(basic("estuser", "wrong"), basic()) == 401


@pytest.mark.parametrize(
    "sent",
    [
        "Basic",
        "Basic ?",
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        "Basic é",
        "Bearer é",
        "Bearer",
        'Digest username="é"',
        "Digest " + "x=y, " * 1000,
        "Basic " + "A" * 7000,
        "Bearer " + "A" * 7000,
    ],
)
async def test_what_cannot_be_read_is_a_401_and_nobodys_failure(world: World, sent: str) -> None:
    assert await world.status(sent) == 401
    assert await world.database.fetch("SELECT * FROM rate_bucket") == [] or "A" * 7000 in sent


async def test_secrets_of_one_label_or_protocol_open_no_other(world: World) -> None:
    token = await world.credentials.create_est_token(endpoint="default", roles=["device"], profile="", expires_at=None)
    key = await world.credentials.create_api_key(roles=["device"], profile="", expires_at=None)
    await world.credentials.set_scep_challenge(endpoint="default", challenge="scep-secret", roles=["device"], profile="")
    shared = await world.sealed.set_cmc_secret(
        endpoint="default", identification="cmcuser", roles=["device"], profile="", expires_at=None
    )
    uri = f"{PREFIX}/digest/simpleenroll"
    assert await world.status(basic(), path=f"{PREFIX}/plain/simpleenroll") == 401
    assert await world.status(f"Bearer {token}", path=f"{PREFIX}/token/simpleenroll") == 401
    assert await world.status(digest(await world.nonce(uri), uri=uri), path=uri) == 401
    for user, password in [
        ("default", "scep-secret"),
        ("estuser", "scep-secret"),
        ("cmcuser", shared),
        (token[4:20], token),
        ("", key),
    ]:
        assert await world.status(basic(user, password)) == 401
        assert await world.status(digest(await world.nonce(), user, password)) == 401
    assert await world.status(f"Bearer {key}") == 401
    assert world.issuance.requests == []


# ---------------------------------------------------------------------- Digest


async def test_an_answer_is_good_once_and_a_newer_one_is_asked_for(world: World) -> None:
    nonce = await world.nonce()
    assert await world.status(digest(nonce)) == 200
    replayed = await world.post(digest(nonce))
    assert replayed.status == 401
    assert "stale=true" in replayed.headers["WWW-Authenticate"]
    assert await world.status(digest(nonce, count="00000002")) == 200
    assert await world.status(digest(nonce_of(replayed))) == 200


async def test_an_old_challenge_is_stale_and_a_wrong_answer_is_not(world: World) -> None:
    nonce = await world.nonce()
    wrong = await world.post(digest(nonce, password="wrong"))
    assert "stale" not in wrong.headers["WWW-Authenticate"]
    world.clock.advance(timedelta(minutes=5, seconds=1))
    stale = await world.post(digest(nonce))
    assert (stale.status, "stale=true" in stale.headers["WWW-Authenticate"]) == (401, True)
    assert await world.status(digest(nonce_of(stale))) == 200


@pytest.mark.parametrize(
    "changed",
    [
        {"uri": f"{PREFIX}/cacerts"},
        {"uri": f"{PREFIX}/digest/simpleenroll"},
        {"uri": ENROLL + "?x"},
        {"realm": "other"},
        {"method": "GET"},
        {"user": "nobody"},
        {"user": ""},
    ],
    ids=str,
)
async def test_an_answer_to_something_else_is_refused(world: World, changed: dict[str, str]) -> None:
    assert await world.status(digest(await world.nonce(), **changed)) == 401
    assert world.issuance.requests == []


async def test_challenges_of_strangers_and_of_other_labels_are_stale_and_no_failures(world: World) -> None:
    other = await world.nonce(f"{PREFIX}/digest/simpleenroll")
    for nonce in ("", "x", other, Nonces([b"x" * 32]).new("default", world.clock.micros())):
        response = await world.post(digest(nonce))
        assert (response.status, "stale=true" in response.headers["WWW-Authenticate"]) == (401, True)
    assert await world.database.fetch("SELECT * FROM rate_bucket") == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("scheme", ["--basic", "--digest", "--anyauth"])
async def test_curl_enrols_by_what_it_is_told(world: World, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "ca.pem").write_text(world.issuance.ca.pem)
    (tmp_path / "csr").write_bytes(world.csr)
    port = world.client.port
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "--cacert", str(tmp_path / "ca.pem"), scheme, "-u", f"estuser:{PASSWORD}", "-o", "/dev/null"),
        *("-w", "%{http_code}", "-H", "Content-Type: application/pkcs10", "--data-binary", f"@{tmp_path / 'csr'}"),
        f"https://localhost:{port}{ENROLL}",
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert out == b"200"
    [request] = world.issuance.requests
    assert isinstance(request.evidence[0], BasicPassword if scheme == "--basic" else DigestPassword)


# ---------------------------------------------------------------------- guessing


async def test_the_eleventh_guess_locks_that_user_from_that_address(world: World) -> None:
    await world.add_user("other")
    for n in range(10):
        assert await world.status(basic(password=f"wrong{n}")) == 401
    for sent in (basic(password="wrong"), basic(), digest(await world.nonce())):
        response = await world.post(sent)
        assert response.status == 429
        assert response.headers["Retry-After"] == "90"
        assert response.content_type == "text/plain"
        assert "too many failed attempts from 127.0.0.1" in await response.text()
    assert await world.status(basic("other")) == 200
    world.clock.advance(timedelta(seconds=90))
    assert await world.status(basic()) == 200


async def test_another_address_of_the_same_user_still_works(world: World) -> None:
    for n in range(11):
        await world.status(basic(password=f"wrong{n}"))
    connector = aiohttp.TCPConnector(ssl=False, local_addr=("127.0.0.2", 0))
    async with aiohttp.ClientSession(connector=connector) as elsewhere:
        url = f"https://127.0.0.1:{world.client.port}{ENROLL}"
        async with elsewhere.post(url, data=world.csr, headers={"Authorization": basic()}) as response:
            assert response.status == 200
    assert await world.status(basic()) == 429


async def test_a_user_that_is_not_there_is_locked_just_the_same(world: World) -> None:
    for n in range(10):
        await world.status(basic(password=f"wrong{n}"))
        await world.status(basic("nobody", f"wrong{n}"))
    there, nowhere = await world.post(basic(password="wrong")), await world.post(basic("nobody", "wrong"))
    assert there.status == nowhere.status == 429
    assert await there.text() == await nowhere.text()
    assert there.headers["Retry-After"] == nowhere.headers["Retry-After"]


async def test_a_locked_address_is_locked_for_every_kind_of_secret(world: World) -> None:
    token = await world.credentials.create_est_token(endpoint="default", roles=["device"], profile="", expires_at=None)
    for n in range(40):
        assert await world.status(f"Bearer cwe_{n:016}_{'x' * 43}") == 401
    for sent in (basic(), digest(await world.nonce()), f"Bearer {token}"):
        assert await world.status(sent) == 429
    await world.add_user(label="plain")
    assert await world.status(basic(), path=f"{PREFIX}/plain/simpleenroll") == 200


async def test_a_guess_is_counted_though_nobody_waits_for_the_answer(world: World) -> None:
    trust = ssl.create_default_context(cadata=world.issuance.ca.pem)
    trust.check_hostname = False
    head = f"POST {ENROLL} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n"
    for n in range(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.client.port, ssl=trust)
        writer.write(f"{head}Authorization: {basic(password=f'wrong{n}')}\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 100 ")  # the server has begun
        writer.transport.abort()
    for _ in range(200):
        if await world.status(basic()) == 429:
            return
        await asyncio.sleep(0.05)
    pytest.fail("ten guesses were not counted")


async def test_who_guesses_is_in_the_log_and_what_was_guessed_is_not(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await world.post(basic("Jörg", "geheim"))
        await world.post(f"Bearer cwe_{'ab' * 8}_{'geheim':x<43}")
        await world.post(digest(await world.nonce(), "estuser", "geheim"))
        for n in range(12):
            await world.post(basic("b", f"geheim{n}"))
    assert r"EST default: 'J\xf6rg' failed to log in from 127.0.0.1" in caplog.text
    assert "EST default: 'b' is locked out from 127.0.0.1" in caplog.text
    assert "EST default: 'a token' failed to log in from 127.0.0.1" in caplog.text
    assert "geheim" not in caplog.text


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_asking_first_is_how_libest_begins_and_never_an_attack(world: World) -> None:
    # RFC 7030 §3.2.3 lets a client wait for the challenge; libest posts, reads the 401, connects anew and posts again.
    for n in range(1000):
        assert await world.status() == 401
        if n % 100 == 0:
            connector = aiohttp.TCPConnector(ssl=False)
            async with aiohttp.ClientSession(connector=connector) as fresh:
                url = f"https://127.0.0.1:{world.client.port}{ENROLL}"
                async with fresh.post(url, data=world.csr, headers={"Authorization": basic()}) as response:
                    assert response.status == 200
    assert await world.database.fetch("SELECT * FROM rate_bucket") == []


async def test_fifty_guesses_at_once_are_ten_failures_and_forty_locks(world: World) -> None:
    said = await asyncio.gather(*(world.status(basic(password=f"wrong{n}")) for n in range(50)))
    assert (said.count(401), said.count(429)) == (10, 40)


async def test_an_enrolment_carries_what_the_label_charges(database: Database, clock: FakeClock, tmp_path: Path) -> None:
    limits = EstLimits(enrollments_per_caller=Limit(5, QUARTER), enrollments_per_address=Limit(9, QUARTER))
    async with serving(database, clock, tmp_path, limits) as world:
        await world.add_user()
        assert await world.status(basic()) == 200
        [request] = world.issuance.requests
        assert [(charge.bucket.owner, charge.bucket.name) for charge in request.charges] == [
            ("enrolled/caller/default", "est-user:default/estuser"),
            ("enrolled/address/default", "127.0.0.1"),
        ]
