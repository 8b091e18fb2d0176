"""serverkeygen over a real socket (RFC 7030 §4.4). Keys that come encrypted are opened by OpenSSL."""

from __future__ import annotations

import base64
import logging
import shutil
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from est.endpoint import Base64Wrap, EstEndpoint, RegistrationKey
from est.http import routes
from est.keymaker import KeyMaker
from issuance.request import BasicPassword, Pending, Rejected
from pki import der
from pki.certificate import PublicKey
from pki.cms.fields import null, octet_string, oid, sequence
from pki.cms.keyencryption import oaep_parameters
from pki.cms.types import Digest
from pki.identifiers import parse_dns
from pki.reasons import Reason, Rejection
from policy.profiles import Profiles
from tests.helpers.est import KnownKeys, TestSigner, est_server
from tests.helpers.issuance_simulator import KnownCredentials, SimulatedIssuance
from tests.helpers.keygen import (
    AES128_CBC,
    AES128_WRAP,
    AES256_CBC,
    AES256_GCM,
    AES256_WRAP,
    ASYMMETRIC_DECRYPT_KEY,
    DECRYPT_KEY,
    DES_EDE3_CBC,
    ECDH_SHA1,
    ECDH_SHA256,
    KEY_PACKAGE,
    RSA_ENCRYPTION,
    RSAES_OAEP,
    Delivered,
    PrivateKey,
    attribute,
    capabilities,
    content_info,
    delivered,
    holder_certificate,
    identifier_of,
    keygen_csr,
    loaded,
    pem_key,
    read_package,
    spki_in,
    spki_of,
    to_held_key,
    to_shared_key,
)
from tests.helpers.profiles import CLIENT_AUTH, SERVER_AUTH, device, profile

URL = "/.well-known/est/serverkeygen"
AUTH = {"Authorization": "Basic " + base64.b64encode(b"estuser:estpwd").decode(), "Content-Type": "application/pkcs10"}
KEY_ID = b"line-7"
SMALL, LARGE = bytes(range(16)), bytes(range(32))  # they stand in the names of tests, which must not change from run to run
Client = TestClient[web.Request, web.Application]

PROFILES = Profiles(
    [
        device(server_keygen=True),
        profile("handmade", extended_key_usage=(CLIENT_AUTH,)),
        profile("servers", server_keygen=True, extended_key_usage=(CLIENT_AUTH, SERVER_AUTH)),
    ]
)


class CountingMaker(KeyMaker):
    made = 0

    async def like(self, key: PublicKey) -> PrivateKey:
        self.made += 1
        return await super().like(key)


class World:
    """An endpoint that makes keys, with people, key-encryption keys, and a registration authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.issuance = SimulatedIssuance()
        self.credentials = KnownCredentials()
        self.credentials.add_est_user("default", "estuser", "estpwd")
        self.credentials.add_est_user("default", "handmade", "estpwd", profile="handmade")
        self.credentials.add_est_user("default", "servers", "estpwd", profile="servers")
        self.keys = KnownKeys({("default", KEY_ID): LARGE, ("default", b"small"): SMALL, ("other", b"other"): LARGE})
        self.signer = TestSigner(rsa.generate_private_key(65537, 2048))
        assert self.signer.key is not None
        self.registration = holder_certificate(self.signer.key)
        self.endpoint = EstEndpoint(
            label="default",
            profile="device",
            ca_certificates=(self.issuance.ca.der,),
            server_keygen=True,
            registration_key=RegistrationKey("ra/est", self.registration.public_bytes(Encoding.DER)),
        )
        self.maker = CountingMaker()
        self.held: tuple[x509.Certificate, PrivateKey] | None = None  # what the client presents in TLS

    def app(self, endpoint: EstEndpoint) -> web.Application:
        app = web.Application()
        server = est_server(
            endpoints={"default": endpoint},
            issuance=self.issuance,
            credentials=self.credentials,
            profiles=PROFILES,
            keys=self.keys,
            signer=self.signer,
            maker=self.maker,
        )
        app.add_routes(routes(server))
        return app

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """The server's and the client's."""
        serving = self.issuance.ca.server_context(self.folder)
        trusting = ssl.create_default_context(cadata=self.issuance.ca.pem)
        if self.held is not None:
            certificate, key = self.held
            text = certificate.public_bytes(Encoding.PEM)
            (self.folder / "held.pem").write_bytes(text)
            (self.folder / "held.key").write_bytes(pem_key(key))
            serving.verify_mode = ssl.CERT_OPTIONAL
            serving.load_verify_locations(cadata=text.decode())
            trusting.load_cert_chain(self.folder / "held.pem", self.folder / "held.key")
        return serving, trusting

    async def post(self, csr: bytes, *, endpoint: EstEndpoint | None = None, **headers: str) -> tuple[int, Any, bytes]:
        """Status, headers, body."""
        serving, trusting = self.contexts()
        server = TestServer(self.app(endpoint or self.endpoint), scheme="https", host="localhost")
        await server.start_server(ssl=serving)
        async with TestClient(server, connector=aiohttp.TCPConnector(ssl=trusting)) as client:
            response = await client.post(URL, data=base64.b64encode(csr), headers=AUTH | headers)
            return response.status, response.headers, await response.read()

    async def key(self, csr: bytes, **options: Any) -> Delivered:
        status, headers, body = await self.post(csr, **options)
        assert status == 200, body
        assert headers["Content-Length"] == str(len(body))
        assert "Transfer-Encoding" not in headers
        assert headers["Cache-Control"] == "no-store"
        return delivered(headers["Content-Type"], body)

    async def refused(self, csr: bytes, status: int, says: str, **options: Any) -> None:
        found, _, body = await self.post(csr, **options)
        assert (found, says in body.decode()) == (status, True), (found, body)
        assert self.issuance.requests == []
        assert b"pkcs8" not in body

    def opened(self, message: bytes, *arguments: str | Path) -> bytes:
        """The key in it (OneAsymmetricKey), decrypted and verified by OpenSSL."""
        signed = openssl("cms", "-decrypt", "-inform", "DER", "-binary", *arguments, stdin=message)
        (self.folder / "ra.pem").write_bytes(self.registration.public_bytes(Encoding.PEM))
        (self.folder / "signed.der").write_bytes(content_info(signed))
        openssl(
            *("cms", "-verify", "-inform", "DER", "-binary", "-in", self.folder / "signed.der"),
            *("-CAfile", self.folder / "ra.pem", "-purpose", "any"),
        )
        key, kind = read_package(signed)
        assert kind == KEY_PACKAGE
        return key


def openssl(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    ran = subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True, check=False, timeout=30)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


# ---------------------------------------------------------------------- in the clear, under TLS


@pytest.mark.parametrize(
    "like",
    [
        p256(),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
        rsa.generate_private_key(65537, 3072),
    ],
    ids=["P-256", "P-384", "P-521", "Ed25519", "RSA-2048", "RSA-3072"],
)
async def test_the_key_comes_first_is_of_the_kind_of_the_requests_and_fits_the_certificate(
    world: World, like: PrivateKey
) -> None:
    # §4.4.2, of multipart/mixed: "consisting of two parts: one part is the private key data and the other part is the certificate data"
    given = await world.key(keygen_csr("router-7.example.com", like=like))
    assert spki_of(given.key) == spki_in(given.certificate)
    assert spki_of(given.key) != spki_of(like)
    assert type(given.key) is type(like)
    assert getattr(given.key, "key_size", None) == getattr(like, "key_size", None)
    given.certificate.verify_directly_issued_by(world.issuance.ca.certificate)


async def test_it_is_asked_for_like_any_certificate_with_our_key_and_the_names_of_the_request(world: World) -> None:
    asked = keygen_csr("router-7.example.com")
    given = await world.key(asked)
    [request] = world.issuance.requests
    assert (request.profile, request.endpoint, request.evidence) == ("device", "default", (BasicPassword("default/estuser"),))
    assert (request.common_name, request.identifiers) == ("router-7", (parse_dns("router-7.example.com"),))
    assert request.csr.spki == spki_in(given.certificate)
    assert request.asked_with is not None
    assert request.asked_with.der == asked
    assert x509.load_der_x509_csr(request.csr.der).is_signature_valid


async def test_key_and_signature_of_the_request_are_not_looked_at(world: World) -> None:
    # §4.4.1: "the server MUST ignore the public key values and signature in the CSR"
    given = await world.key(keygen_csr("router-7.example.com", signature=b"none"))
    assert spki_of(given.key) == spki_in(given.certificate)


async def test_a_second_identical_request_gets_another_key(world: World) -> None:
    asked = keygen_csr()
    first, second = await world.key(asked), await world.key(asked)
    assert spki_of(first.key) != spki_of(second.key)
    assert first.certificate != second.certificate


async def test_lines_have_76_characters_unless_the_label_wants_none(world: World) -> None:
    # RFC 2045 §6.8, also for clients that do not say who they are
    _, _, body = await world.post(keygen_csr())
    assert max(map(len, body.split(b"\r\n"))) == 76
    _, _, body = await world.post(keygen_csr(), endpoint=replace(world.endpoint, base64_wrap=Base64Wrap.UNWRAPPED))
    assert max(map(len, body.split(b"\r\n"))) > 76


async def test_boundaries_cannot_be_foretold(world: World) -> None:
    boundaries = {(await world.post(keygen_csr()))[1]["Content-Type"].partition("boundary=")[2] for _ in range(3)}
    assert {len(one) for one in boundaries} == {32}
    assert len(boundaries) == 3


# ---------------------------------------------------------------------- not given


async def test_a_label_that_does_not_say_so_makes_no_keys(world: World) -> None:
    await world.refused(keygen_csr(), 501, "keys are not made here", endpoint=replace(world.endpoint, server_keygen=False))


@pytest.mark.parametrize("user", ["handmade", "servers"])
async def test_a_callers_own_profile_has_to_allow_it_and_never_for_servers(world: World, user: str) -> None:
    basic = "Basic " + base64.b64encode(f"{user}:estpwd".encode()).decode()
    await world.refused(keygen_csr(), 403, f"no keys are made here for certificates of profile {user}", Authorization=basic)


async def test_the_labels_profile_is_looked_at_again(world: World) -> None:
    for name in ("handmade", "servers"):
        await world.refused(keygen_csr(), 403, f"of profile {name}", endpoint=replace(world.endpoint, profile=name))


async def test_whoever_is_not_known_gets_a_401_without_a_body(world: World) -> None:
    wrong = "Basic " + base64.b64encode(b"estuser:wrong").decode()
    status, _, body = await world.post(keygen_csr(), Authorization=wrong)
    assert (status, body, world.issuance.requests) == (401, b"", [])


async def test_without_tls_no_key_is_sent(world: World) -> None:
    async with TestClient(TestServer(world.app(world.endpoint))) as client:
        response = await client.post(URL, data=base64.b64encode(keygen_csr()), headers=AUTH)
        assert (response.status, world.issuance.requests) == (403, [])
        assert b"pkcs8" not in await response.read()


@pytest.mark.parametrize(
    "like",
    [ec.generate_private_key(ec.SECP256K1()), rsa.generate_private_key(65537, 1024), rsa.generate_private_key(65537, 2056)],
)
async def test_keys_that_nobody_should_have_are_not_made(world: World, like: PrivateKey) -> None:
    spki = spki_of(like)
    ordinary = p256()
    csr = keygen_csr(like=ordinary, signature=b"-")
    info, algorithm, signature = der.children(der.whole(csr, der.SEQUENCE).content)
    changed = sequence(
        sequence(*(spki if one.raw == spki_of(ordinary) else one.raw for one in der.children(info.content))),
        algorithm.raw,
        signature.raw,
    )
    await world.refused(changed, 400, "RSA 2048, 3072, 4096")


async def test_what_waits_for_an_approval_keeps_no_key(world: World) -> None:
    asked = keygen_csr()
    world.issuance.script.append(Pending("id", 7))
    status, headers, body = await world.post(asked)
    assert (status, headers["Retry-After"], body) == (202, "7", b"")
    given = await world.key(asked)
    waiting, granted = world.issuance.requests
    assert waiting.csr.spki != granted.csr.spki == spki_in(given.certificate)
    assert waiting.asked_with == granted.asked_with  # by which it is found again


@pytest.mark.parametrize(
    ("foreseen", "status"),
    [(Rejected(Rejection(Reason.FORBIDDEN, "no policy grants that")), 403), (Pending("id", 7), 202)],
    ids=["refused", "pending"],
)
async def test_whoever_gets_nothing_costs_no_key(world: World, foreseen: Pending | Rejected, status: int) -> None:
    # A key of RSA takes up to a second of a core, and whoever is known may ask as often as they like.
    world.issuance.foresight.append(foreseen)
    found, _, body = await world.post(keygen_csr(like=rsa.generate_private_key(65537, 2048)))
    assert (found, world.maker.made, world.issuance.requests) == (status, 0, [])
    assert b"pkcs8" not in body
    await world.key(keygen_csr())
    assert world.maker.made == 1


async def test_a_refusal_of_the_pipeline_says_its_reason_and_nothing_of_the_key(world: World) -> None:
    world.issuance.script.append(Rejected(Rejection(Reason.REJECTED_IDENTIFIER, "not yours")))
    status, headers, body = await world.post(keygen_csr())
    assert (status, headers["Content-Type"].partition(";")[0], body) == (400, "text/plain", b"not yours\n")


# ---------------------------------------------------------------------- encrypted to a symmetric key


@pytest.mark.parametrize(
    ("key_id", "key", "offers"),
    [
        (KEY_ID, LARGE, (AES256_WRAP, AES256_CBC)),
        (KEY_ID, LARGE, (AES256_WRAP,)),
        (b"small", SMALL, (AES256_GCM, AES256_WRAP, AES128_CBC, AES128_WRAP)),
    ],
)
async def test_a_key_encrypted_to_a_shared_one_is_opened_by_openssl(
    world: World, key_id: bytes, key: bytes, offers: tuple[str, ...]
) -> None:
    given = await world.key(keygen_csr(attributes=to_shared_key(key_id, *offers)))
    assert given.key_type == "application/pkcs7-mime; smime-type=server-generated-key"
    opened = world.opened(given.key_part, "-secretkey", key.hex(), "-secretkeyid", key_id.hex())
    assert spki_of(loaded(opened)) == spki_in(given.certificate)


async def test_the_clients_order_decides_what_the_content_is_encrypted_with(world: World) -> None:
    for offers, cipher in (((AES128_CBC, AES256_CBC), "aes-128-cbc"), ((DES_EDE3_CBC, AES256_CBC), "aes-256-cbc")):
        given = await world.key(keygen_csr(attributes=to_shared_key(KEY_ID, AES256_WRAP, *offers)))
        text = openssl("cms", "-cmsout", "-print", "-inform", "DER", stdin=given.key_part)
        assert f"algorithm: {cipher}".encode() in text
        assert b"contentType: pkcs7-signedData" in text
        assert b"id-aes256-wrap" in text
        assert b"version: 4" in text  # of the KEKRecipientInfo


async def test_a_second_identical_request_gets_another_key_encrypted_anew(world: World) -> None:
    asked = keygen_csr(attributes=to_shared_key(KEY_ID, AES256_WRAP))
    first, second = [
        world.opened((await world.key(asked)).key_part, "-secretkey", LARGE.hex(), "-secretkeyid", KEY_ID.hex())
        for _ in range(2)
    ]
    assert first != second


# ---------------------------------------------------------------------- encrypted to the key of the TLS client's certificate

OAEP_SHA512 = sequence(oid(RSAES_OAEP), oaep_parameters(Digest.SHA512))
ECDH_WITH_WRAP = sequence(oid(ECDH_SHA256), sequence(oid(AES128_WRAP)))


@pytest.mark.parametrize(
    ("make", "usages", "offers"),
    [
        (lambda: rsa.generate_private_key(65537, 2048), None, (RSA_ENCRYPTION, AES256_CBC)),
        (lambda: rsa.generate_private_key(65537, 2048), ("digital_signature", "key_encipherment"), (RSAES_OAEP,)),
        (lambda: rsa.generate_private_key(65537, 2048), None, (OAEP_SHA512, RSA_ENCRYPTION)),
        (p256, None, (ECDH_SHA256, AES256_WRAP, AES128_CBC)),
        (p256, ("digital_signature", "key_agreement"), (ECDH_WITH_WRAP,)),
        (lambda: ec.generate_private_key(ec.SECP384R1()), None, (AES256_WRAP,)),
    ],
)
async def test_a_key_encrypted_to_the_clients_certificate_is_opened_by_openssl(
    world: World, make: Callable[[], Any], usages: tuple[str, ...] | None, offers: tuple[str | bytes, ...]
) -> None:
    key = make()
    world.held = (holder_certificate(key, usages=usages), key)
    given = await world.key(keygen_csr(attributes=to_held_key(identifier_of(world.held[0]), *offers)))
    assert given.key_type == "application/pkcs7-mime; smime-type=server-generated-key"
    opened = world.opened(given.key_part, "-recip", world.folder / "held.pem", "-inkey", world.folder / "held.key")
    assert spki_of(loaded(opened)) == spki_in(given.certificate)


# ---------------------------------------------------------------------- encryption that cannot be had is never left out


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ((*to_shared_key(KEY_ID, AES256_WRAP), attribute(ASYMMETRIC_DECRYPT_KEY, octet_string(b"x"))), "both"),
        (to_shared_key(b"nobody", AES256_WRAP), "no key-encryption key of that identifier"),
        (to_shared_key(b"other", AES256_WRAP), "no key-encryption key of that identifier"),  # of another label
        ((attribute(DECRYPT_KEY, octet_string(KEY_ID)),), "no SMIMECapabilities"),
        (to_shared_key(KEY_ID), "do not have the key wrap"),
        (to_shared_key(KEY_ID, AES128_WRAP), "do not have the key wrap that fits that key (AES-256)"),
        (to_shared_key(KEY_ID, AES256_WRAP, DES_EDE3_CBC), "no content encryption"),
        (to_shared_key(KEY_ID, AES256_WRAP, AES256_GCM), "no content encryption"),
        (to_shared_key(b"", AES256_WRAP), "cannot be read"),
        (to_shared_key(b"x" * 65, AES256_WRAP), "cannot be read"),
        ((attribute(DECRYPT_KEY), capabilities(AES256_WRAP)), "cannot be read"),
        ((attribute(DECRYPT_KEY, octet_string(b"1"), octet_string(b"2")), capabilities(AES256_WRAP)), "cannot be read"),
        ((attribute(DECRYPT_KEY, null()), capabilities(AES256_WRAP)), "cannot be read"),
        ((attribute(DECRYPT_KEY, octet_string(KEY_ID)), capabilities(null())), "cannot be read"),
        ((attribute(DECRYPT_KEY, octet_string(KEY_ID)), capabilities(sequence(null()))), "cannot be read"),
        (to_held_key(b"x" * 20, RSA_ENCRYPTION), "knows no key of that identifier"),
    ],
)
async def test_a_wish_that_cannot_be_granted_is_refused_and_no_key_is_sent(
    world: World, attributes: tuple[bytes, ...], says: str
) -> None:
    await world.refused(keygen_csr(attributes=attributes), 400, says)


@pytest.mark.parametrize(
    ("make", "usages", "offers", "says"),
    [
        (p256, ("digital_signature",), (ECDH_SHA256, AES256_WRAP), "may not be encrypted to"),
        (lambda: rsa.generate_private_key(65537, 2048), ("digital_signature",), (RSA_ENCRYPTION,), "may not be encrypted to"),
        (lambda: rsa.generate_private_key(65537, 2048), None, (AES256_WRAP,), "no key transport"),
        (lambda: rsa.generate_private_key(65537, 2048), None, (sequence(oid(RSAES_OAEP), null()),), "no key transport"),
        (p256, None, (RSA_ENCRYPTION, ECDH_SHA256), "no key agreement and key wrap"),
        (p256, None, (ECDH_SHA1, RSA_ENCRYPTION), "no key agreement and key wrap"),
    ],
)
async def test_a_certificate_that_cannot_be_encrypted_to_is_refused(
    world: World, make: Callable[[], Any], usages: tuple[str, ...] | None, offers: tuple[str | bytes, ...], says: str
) -> None:
    key = make()
    world.held = (holder_certificate(key, usages=usages), key)
    await world.refused(keygen_csr(attributes=to_held_key(identifier_of(world.held[0]), *offers)), 400, says)


async def test_without_anybody_to_sign_the_package_none_is_made(world: World) -> None:
    csr = keygen_csr(attributes=to_shared_key(KEY_ID, AES256_WRAP))
    await world.refused(csr, 400, "nobody to sign", endpoint=replace(world.endpoint, registration_key=None))


async def test_capabilities_alone_ask_for_no_encryption(world: World) -> None:
    # Clients put them into requests for certificates that have them as an extension.
    given = await world.key(keygen_csr(attributes=[capabilities(AES256_CBC)]))
    assert given.key_type == "application/pkcs8"


# ---------------------------------------------------------------------- kept nowhere


async def test_nothing_that_is_logged_or_shown_has_the_key_in_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        given = await world.key(keygen_csr())
    [request] = world.issuance.requests
    shown = caplog.text + repr(request) + repr(request.csr)
    for secret in forms_of(given.key_part):
        assert secret not in shown
    assert base64.b64encode(given.key_part)[:40].decode() not in repr(given)


def forms_of(key: bytes) -> list[str]:
    """As it might be written down: hex and base64, whole and in part (the private octets are in the middle)."""
    middle = key[len(key) // 3 : len(key) // 3 + 24]
    return [middle.hex(), base64.b64encode(key).decode(), repr(middle)[2:-1]]
