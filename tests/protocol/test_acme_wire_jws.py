"""JWS over HTTP (RFC 8555 §6.2-6.5): whatever is forged, confused or ambiguous is refused by its type, and does nothing."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from pki.strict import base64url, from_base64url
from storage.open import open_database
from tests.helpers.acme_client import BASE, AccountKey, AcmeClient, Reply, make_jws, to_json
from tests.helpers.acme_world import AcmeWorld, acme_world, ready
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr

RSA = AccountKey(rsa.generate_private_key(65537, 2048))
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
CONTACT = to_json({"contact": ["mailto:thief@example.com"]})


@pytest.fixture
async def world(clock: FakeClock, tmp_path: Path) -> AsyncIterator[AcmeWorld]:
    """On one engine: nothing here is a question to the database, but for nonces (tests/contract/test_acme_nonces.py)."""
    database = await open_database(f"sqlite://{tmp_path}/certwright.db", migrate=True)
    async with acme_world(database, clock) as world:
        yield world
    await database.close()


@pytest.fixture
async def client(world: AcmeWorld) -> AcmeClient:
    return await world.registered()


async def unchanged(client: AcmeClient) -> bool:
    return bool((await client.post(client.kid)).json["contact"] == [])


def enveloped(header: object, payload: bytes, signature: bytes) -> dict[str, str]:
    return {"protected": base64url(to_json(header)), "payload": base64url(payload), "signature": base64url(signature)}


# ------------------------------------------------------------------------------------------------ algorithms


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "RSA1_5", "dir", "A128KW", "ES256K"]
)
async def test_no_signature_and_macs_are_no_signatures(client: AcmeClient, alg: str) -> None:
    """RFC 8555 §6.2: neither "none" nor a MAC; the answer lists what is taken."""
    for key in ({"kid": client.kid}, {"jwk": client.key.jwk}, {"jwk": {"kty": "oct", "k": base64url(bytes(32))}}):
        header = {"alg": alg, "nonce": await client.nonce(), "url": client.kid, **key}
        for signature in (b"", bytes(64)):
            reply = await client.send(client.kid, enveloped(header, CONTACT, signature))
            assert (reply.status, reply.problem) == (400, "badSignatureAlgorithm")
            assert reply.json["algorithms"] == ["ES256", "ES384", "ES512", "RS256", "EdDSA"]
    assert await unchanged(client)


@pytest.mark.parametrize("form", ["pem", "der", "jwk"])
async def test_a_mac_keyed_with_the_accounts_public_key_is_no_signature(world: AcmeWorld, form: str) -> None:
    """The classic confusion: the verifier's public key taken for an HMAC secret."""
    client = AcmeClient(world.http, key=RSA)
    assert (await client.register()).status == 201
    assert isinstance(RSA.key, rsa.RSAPrivateKey)
    public = RSA.key.public_key()
    encoding = serialization.Encoding.PEM if form == "pem" else serialization.Encoding.DER
    secret = public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    secret = to_json(RSA.jwk) if form == "jwk" else secret
    for alg in ("HS256", "RS256"):
        header = {"alg": alg, "nonce": await client.nonce(), "url": client.kid, "kid": client.kid}
        jws = enveloped(header, CONTACT, b"")
        mac = hmac.new(secret, f"{jws['protected']}.{jws['payload']}".encode(), hashlib.sha256).digest()
        reply = await client.send(client.kid, {**jws, "signature": base64url(mac)})
        assert reply.problem == ("badSignatureAlgorithm" if alg == "HS256" else "malformed")
    assert await unchanged(client)


async def test_a_symmetric_key_gets_no_account_whatever_it_is_signed_with(world: AcmeWorld) -> None:
    client, secret = world.client(), bytes(range(32))
    url = client.url("new-account")
    for alg, extra in itertools.product(
        ("HS256", "ES256", "RS256", "EdDSA"), ({}, {"crv": "P-256"}, {"n": "AQAB", "e": "AQAB"})
    ):
        jwk = {"kty": "oct", "k": base64url(secret), **extra}
        jws = enveloped({"alg": alg, "nonce": await client.nonce(), "url": url, "jwk": jwk}, b"{}", b"")
        mac = hmac.new(secret, f"{jws['protected']}.{jws['payload']}".encode(), hashlib.sha256).digest()
        reply = await client.send(url, {**jws, "signature": base64url(mac)})
        assert reply.problem == ("badSignatureAlgorithm" if alg == "HS256" else "badPublicKey")
    assert await world.database.fetch("SELECT id FROM acme_account") == []


@pytest.mark.parametrize("alg", ["RS256", "ES384", "ES512", "EdDSA"])
async def test_the_alg_is_that_of_the_accounts_key(client: AcmeClient, alg: str) -> None:
    reply = await client.post(client.kid, CONTACT, alg=alg)
    assert (reply.status, reply.problem) == (400, "badSignatureAlgorithm")
    assert "ES256" in reply.json["detail"]
    assert "ES256" in reply.json["algorithms"]
    assert await unchanged(client)


@pytest.mark.parametrize(
    ("alg", "digest", "salted"),
    [
        ("RS384", hashes.SHA384(), False),
        ("RS512", hashes.SHA512(), False),
        ("RS1", hashes.SHA1(), False),  # noqa: S303  # what must be refused
        ("PS256", hashes.SHA256(), True),
        ("RS256", hashes.SHA256(), True),  # PSS under the name of PKCS #1
        ("RS256", hashes.SHA384(), False),  # another digest than the name says
        ("RS256", hashes.SHA1(), False),  # noqa: S303  # what must be refused
    ],
)
async def test_rsa_signatures_are_pkcs1_with_sha_256_and_nothing_else(
    world: AcmeWorld, alg: str, digest: hashes.HashAlgorithm, *, salted: bool
) -> None:
    client = AcmeClient(world.http, key=RSA)
    assert (await client.register()).status == 201
    assert isinstance(RSA.key, rsa.RSAPrivateKey)
    jws = enveloped(await client.header(client.kid, alg=alg), CONTACT, b"")
    scheme = padding.PSS(padding.MGF1(digest), digest.digest_size) if salted else padding.PKCS1v15()
    signature = RSA.key.sign(f"{jws['protected']}.{jws['payload']}".encode(), scheme, digest)
    reply = await client.send(client.kid, {**jws, "signature": base64url(signature)})
    assert reply.problem == ("malformed" if alg == "RS256" else "badSignatureAlgorithm")
    assert await unchanged(client)


@pytest.mark.parametrize("r", [0, 1, P256_ORDER, P256_ORDER + 1, (1 << 256) - 1])
@pytest.mark.parametrize("s", [0, 1, P256_ORDER, P256_ORDER + 1, (1 << 256) - 1])
async def test_signatures_of_zeros_and_orders_sign_nothing(client: AcmeClient, r: int, s: int) -> None:
    """CVE-2022-21449: r = s = 0 verified for every key and message."""
    for octets in {32, max(1, (max(r, s).bit_length() + 7) // 8)}:
        if max(r, s).bit_length() > octets * 8:
            continue
        signature = r.to_bytes(octets, "big") + s.to_bytes(octets, "big")
        reply = await client.send(client.kid, enveloped(await client.header(client.kid), CONTACT, signature))
        assert (reply.status, reply.problem) == (400, "malformed")
    assert await unchanged(client)


async def test_a_signature_with_something_added_or_taken_away_signs_nothing(client: AcmeClient) -> None:
    good = make_jws(client.key, await client.header(client.kid), CONTACT)
    signature = from_base64url(good["signature"])
    for changed in (b"", signature + b"\0", b"\0" + signature, signature[:-3], signature * 2, signature[32:] + signature[:32]):
        reply = await client.send(client.kid, {**good, "signature": base64url(changed)})
        assert (reply.status, reply.problem) == (400, "malformed")
    assert await unchanged(client)
    assert (await client.send(client.kid, good)).status == 200  # and the nonce was not spent by any of them


async def test_octets_that_macos_dropped_from_a_signature_are_put_back(world: AcmeWorld) -> None:
    """RFC 7518 §3.4 wants R and S in full length; the ACME client of macOS leaves their leading zeros away."""
    client = world.client()
    assert (await client.register()).status == 201
    for half in (0, 32):
        while True:
            jws = make_jws(client.key, await client.header(client.kid), b"")
            signature = from_base64url(jws["signature"])
            if signature[half] == 0:
                break
        short = signature[:half] + signature[half + 1 :]
        assert (await client.send(client.kid, {**jws, "signature": base64url(short)})).status == 200


# ------------------------------------------------------------------------------------------------ the envelope


async def right(client: AcmeClient) -> dict[str, str]:
    return make_jws(client.key, await client.header(client.kid), CONTACT)


ENVELOPES: dict[str, Callable[[dict[str, str]], object]] = {
    "an empty signature": lambda jws: {**jws, "signature": ""},
    "no signature": lambda jws: {name: jws[name] for name in ("protected", "payload")},
    "a signature that is null": lambda jws: {**jws, "signature": None},
    "an unprotected header": lambda jws: {**jws, "header": {"kid": "x"}},
    "an empty unprotected header": lambda jws: {**jws, "header": {}},
    "an unprotected header that is null": lambda jws: {**jws, "header": None},
    "one signature in the general form": lambda jws: {
        "payload": jws["payload"],
        "signatures": [{"protected": jws["protected"], "signature": jws["signature"]}],
    },
    "several signatures": lambda jws: {
        "payload": jws["payload"],
        "signatures": [{"protected": jws["protected"], "signature": jws["signature"]}] * 2,
    },
    "no signatures": lambda jws: {"payload": jws["payload"], "signatures": []},
    "both forms at once": lambda jws: {**jws, "signatures": [{"protected": jws["protected"], "signature": jws["signature"]}]},
    "the compact form": lambda jws: ".".join((jws["protected"], jws["payload"], jws["signature"])).encode(),
    "the compact form as JSON": lambda jws: ".".join((jws["protected"], jws["payload"], jws["signature"])),
    "an array of it": lambda jws: [jws],
    "a member besides": lambda jws: {**jws, "resource": "reg"},
    "a payload twice": lambda jws: (json.dumps(jws)[:-1] + ', "payload": "e30"}').encode(),
    "a protected header twice": lambda jws: (json.dumps(jws)[:-1] + f', "protected": "{jws["protected"]}"}}').encode(),
    "two of them": lambda jws: to_json(jws) * 2,
    "something behind it": lambda jws: to_json(jws) + b"x",
    "a byte order mark before it": lambda jws: b"\xef\xbb\xbf" + to_json(jws),
    "in UTF-16": lambda jws: json.dumps(jws).encode("utf-16"),
    "padding": lambda jws: {name: text + "=" * (-len(text) % 4) or text + "=" for name, text in jws.items()},
    "the alphabet of plain base64": lambda jws: {**jws, "signature": jws["signature"][:-4] + "+/+/"},
    "a line feed in base64": lambda jws: {**jws, "payload": jws["payload"][:4] + "\n" + jws["payload"][4:]},
    "the payload as JSON": lambda jws: {**jws, "payload": json.loads(from_base64url(jws["payload"]))},
    "an encoded payload that is not signed": lambda jws: {**jws, "payload": base64url(b"{}")},
    "a header that is not signed": lambda jws: {**jws, "protected": base64url(from_base64url(jws["protected"]) + b" ")},
}


@pytest.mark.parametrize("spoil", ENVELOPES.values(), ids=ENVELOPES.keys())
async def test_an_envelope_that_is_not_one_flattened_jws_is_malformed(
    client: AcmeClient, spoil: Callable[[dict[str, str]], object]
) -> None:
    jws = await right(client)
    spoilt = spoil(jws)
    assert spoilt != jws
    reply = await client.send(client.kid, spoilt)
    assert (reply.status, reply.problem) == (400, "malformed")
    assert await unchanged(client)
    assert (await client.send(client.kid, jws)).status == 200  # as it was, it is good


async def header_twice(client: AcmeClient, member: str, first: object, second: object) -> Reply:
    """A signed header in which `member` stands two times: parsers differ in which one they see."""
    header = await client.header(client.kid)
    header.pop(member, None)
    inner = json.dumps(header)[1:-1]
    raw = f"{{{json.dumps(member)}: {json.dumps(first)}, {inner}, {json.dumps(member)}: {json.dumps(second)}}}"
    return await client.send(client.kid, make_jws(client.key, raw.encode(), CONTACT))


@pytest.mark.parametrize("member", ["alg", "nonce", "url", "kid", "jwk", "unknown"])
async def test_a_header_member_that_stands_twice_is_malformed(client: AcmeClient, member: str) -> None:
    """RFC 7515 §4; whichever of the two is the right one."""
    header = {**await client.header(client.kid), "jwk": client.key.jwk, "unknown": 1}
    for first, second in ((header[member], "x"), ("x", header[member]), (header[member], header[member])):
        reply = await header_twice(client, member, first, second)
        assert (reply.status, reply.problem) == (400, "malformed")
    assert await unchanged(client)


HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "b64 false": ({"b64": False}, "malformed"),
    "b64 false and critical": ({"b64": False, "crit": ["b64"]}, "malformed"),
    "b64 true": ({"b64": True, "crit": ["b64"]}, "malformed"),
    "an empty crit": ({"crit": []}, "malformed"),
    "an unknown crit": ({"crit": ["http://example.com/x"], "http://example.com/x": 1}, "malformed"),
    "a crit of what is known": ({"crit": ["alg", "nonce", "url"]}, "malformed"),
    "a crit that is null": ({"crit": [None]}, "malformed"),
    "jwk and kid": ({"jwk": AccountKey().jwk}, "malformed"),
    "neither jwk nor kid": ({"kid": None}, "malformed"),
    "a kid that is no text": ({"kid": 7}, "malformed"),
    "a url that is a list": ({"url": [f"{BASE}/acme/default/new-order"]}, "malformed"),
    "no url": ({"url": None}, "malformed"),
    "no alg": ({"alg": None}, "malformed"),
    "an alg that is a list": ({"alg": ["ES256"]}, "malformed"),
    "a nonce that is a number": ({"nonce": 7}, "malformed"),
    "a nonce with padding": ({"nonce": "AAAA="}, "malformed"),
    "a nonce that is empty": ({"nonce": ""}, "badNonce"),
}


@pytest.mark.parametrize(("changes", "problem"), HEADERS.values(), ids=HEADERS.keys())
async def test_a_signed_header_that_is_not_as_it_should_be_is_refused(
    client: AcmeClient, changes: dict[str, Any], problem: str
) -> None:
    header = await client.header(client.kid)
    header = {name: value for name, value in {**header, **changes}.items() if value is not None}
    reply = await client.send(client.kid, make_jws(client.key, header, CONTACT))
    assert (reply.status, reply.problem) == (400, problem)
    assert await unchanged(client)


async def test_a_request_without_a_nonce_is_bad_nonce_and_gets_one(client: AcmeClient) -> None:
    """RFC 8555 §6.5."""
    header = await client.header(client.kid)
    del header["nonce"]
    reply = await client.send(client.kid, make_jws(client.key, header, CONTACT))
    assert (reply.status, reply.problem) == (400, "badNonce")
    assert (await client.post(client.kid, nonce=reply.headers["Replay-Nonce"])).status == 200


async def test_header_parameters_that_point_elsewhere_are_not_followed(client: AcmeClient) -> None:
    """RFC 7515 §4.1.2-4.1.8: jku, x5u and x5c would let the sender choose the key; here the key is the account's alone."""
    thief = AccountKey()
    elsewhere = {"jku": "http://169.254.169.254/", "x5u": "http://127.0.0.1/", "x5c": ["MAA="], "typ": "JWT", "cty": "x"}
    header = {**await client.header(client.kid), **elsewhere}
    assert (await client.send(client.kid, make_jws(thief, header, CONTACT))).problem == "malformed"
    assert (await client.send(client.kid, make_jws(client.key, header, b""))).status == 200  # they are ignored


# ------------------------------------------------------------------------------------------------ whose key, which URL


async def test_a_request_by_a_key_and_an_account_at_once_is_by_neither(world: AcmeWorld, client: AcmeClient) -> None:
    """RFC 8555 §6.2: jwk and kid are mutually exclusive, also where the resource takes either, or the right one of them."""
    by_key = world.client()
    for path in ("new-account", "revoke-cert", "new-order"):
        url = client.url(path)
        for kid in (client.kid, "x", ""):
            for signer in (by_key, client):
                header = {**await signer.header(url, jwk=True), "kid": kid}
                reply = await client.send(url, make_jws(signer.key, header, to_json({"certificate": "AAAA"})))
                assert (reply.status, reply.problem) == (400, "malformed")
                assert "exactly one of jwk and kid" in reply.json["detail"]


async def test_a_key_in_the_request_never_stands_in_for_the_accounts(client: AcmeClient) -> None:
    """The account's own key, and a thief's, in place of its kid: such a request is by no account."""
    for key in (client.key, AccountKey()):
        by_key = AcmeClient(client.http, key=key)
        for url in (client.kid, client.url("new-order")):
            reply = await by_key.post(url, CONTACT, jwk=True)
            assert (reply.status, reply.problem) == (400, "malformed")
    assert await unchanged(client)


@pytest.mark.parametrize(
    "spell",
    [
        lambda kid: kid.replace("https", "http"),
        lambda kid: kid.replace(":8443", ""),
        lambda kid: kid.replace("ca.test", "CA.test"),
        lambda kid: kid.replace("ca.test", "evil.test"),
        lambda kid: kid.replace("/default/", "/other/"),
        lambda kid: kid.replace("/default/", "/Default/"),
        lambda kid: kid.replace("/acme/", "/acme//"),
        lambda kid: kid + "/",
        lambda kid: kid + "?",
        lambda kid: kid + "#",
        lambda kid: kid + "\0",
        lambda kid: kid + " ",
        lambda kid: kid + "\n",
        lambda kid: kid.rpartition("/")[2],
        lambda kid: kid[:-1] + f"%{ord(kid[-1]):02x}",
        lambda kid: kid.rpartition("/")[0] + "/../account/" + kid.rpartition("/")[2],
        lambda kid: kid.swapcase(),
    ],
)
async def test_a_kid_has_one_spelling(client: AcmeClient, spell: Callable[[str], str]) -> None:
    """RFC 8555 §6.2: the account URL as the server gave it."""
    reply = await client.post(client.kid, CONTACT, kid=spell(client.kid))
    assert (reply.status, reply.problem) == (400, "accountDoesNotExist")
    assert await unchanged(client)


@pytest.mark.parametrize(
    "spell",
    [
        lambda url: url.replace("https", "http"),
        lambda url: url.replace(":8443", ""),
        lambda url: url.replace("ca.test", "CA.TEST"),
        lambda url: url.replace("ca.test", "user@ca.test"),
        lambda url: url + "/",
        lambda url: url + "?",
        lambda url: url + "#x",
        lambda url: url + ";x",
        lambda url: url.replace("/default/", "/other/"),
        lambda url: url.rpartition("/")[0] + "/%61ccount",
        lambda url: url.removeprefix(BASE),
        lambda _: "",
        lambda _: BASE,
    ],
)
async def test_the_signed_url_has_one_spelling(client: AcmeClient, spell: Callable[[str], str]) -> None:
    """RFC 8555 §6.4: compared as it is, so that no request can be taken to another resource."""
    jws = make_jws(client.key, await client.header(spell(client.kid)), CONTACT)
    reply = await client.send(client.kid, jws)
    assert (reply.status, reply.problem) == (403, "unauthorized")
    assert await unchanged(client)


async def test_a_request_for_one_resource_does_nothing_at_another(world: AcmeWorld, client: AcmeClient) -> None:
    """Whoever sees one signed request cannot send it elsewhere."""
    order = await ready(client, "a.example.com")
    url, payload = client.url("new-order"), to_json({"status": "deactivated"})
    for elsewhere in (client.kid, order.json["authorizations"][0], order.location, order.json["finalize"]):
        reply = await client.send(elsewhere, make_jws(client.key, await client.header(url), payload))
        assert (reply.status, reply.problem) == (403, "unauthorized")
    assert (await client.post(client.kid)).json["status"] == "valid"
    assert (await client.post(order.location)).json["status"] == "ready"
    assert world.issuance.requests == []


# ------------------------------------------------------------------------------------------------ order of the checks


@dataclass(slots=True)
class Attempt:
    """A request that is right until it is made wrong."""

    client: AcmeClient
    header: dict[str, Any]
    key: AccountKey
    payload: bytes = to_json({"contact": 7})
    content_type: str = "application/jose+json"
    envelope: bool = True

    async def send(self) -> Reply:
        jws = make_jws(self.key, self.header, self.payload)
        if not self.envelope:
            jws["header"] = ""
        return await self.client.send(self.client.kid, jws, headers={"Content-Type": self.content_type})


Fault = Callable[[Attempt], Awaitable[None]]


async def content_type(attempt: Attempt) -> None:
    attempt.content_type = "application/json"


async def envelope(attempt: Attempt) -> None:
    attempt.envelope = False


async def unknown_account(attempt: Attempt) -> None:
    attempt.header["kid"] += "x"


async def algorithm(attempt: Attempt) -> None:
    attempt.header["alg"] = "ES384"


async def signature(attempt: Attempt) -> None:
    attempt.key = AccountKey()


async def spent_nonce(attempt: Attempt) -> None:
    await attempt.client.post(attempt.client.kid, nonce=attempt.header["nonce"])


async def another_url(attempt: Attempt) -> None:
    attempt.header["url"] = attempt.client.url("new-order")


async def payload(attempt: Attempt) -> None:
    attempt.payload = b"{"


# As Boulder checks them: nothing of a request is believed before its signature, and a stranger can spend nobody's nonce.
CHECKS: list[tuple[Fault, int, str]] = [
    (content_type, 415, "malformed"),
    (envelope, 400, "malformed"),
    (unknown_account, 400, "accountDoesNotExist"),
    (algorithm, 400, "badSignatureAlgorithm"),
    (signature, 400, "malformed"),
    (spent_nonce, 400, "badNonce"),
    (another_url, 403, "unauthorized"),
    (payload, 400, "malformed"),
]
PAIRS = list(itertools.combinations(CHECKS, 2))


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{a[0].__name__}-{b[0].__name__}" for a, b in PAIRS])
async def test_of_two_faults_the_earlier_check_answers(
    client: AcmeClient, first: tuple[Fault, int, str], second: tuple[Fault, int, str]
) -> None:
    async def answer(*faults: Fault) -> Reply:
        attempt = Attempt(client, await client.header(client.kid), client.key)
        for fault in faults:
            await fault(attempt)
        return await attempt.send()

    alone, both = await answer(first[0]), await answer(first[0], second[0])
    assert (alone.status, alone.problem) == first[1:]
    assert (both.status, both.problem, both.json["detail"]) == (alone.status, alone.problem, alone.json["detail"])


@pytest.mark.parametrize("check", CHECKS, ids=[check[0].__name__ for check in CHECKS])
async def test_a_nonce_is_spent_by_a_right_signature_and_by_nothing_before_it(
    client: AcmeClient, check: tuple[Fault, int, str]
) -> None:
    fault = check[0]
    if fault is spent_nonce:
        return
    attempt = Attempt(client, await client.header(client.kid), client.key)
    await fault(attempt)
    assert (await attempt.send()).status == check[1]
    again = await client.post(client.kid, nonce=attempt.header["nonce"])
    assert (again.status == 200) == (fault not in {another_url, payload})


# ------------------------------------------------------------------------------------------------ HTTP around it


@pytest.mark.parametrize("agent", [None, "", "x" * 4000, "'; DROP TABLE acme_account; --"])
async def test_whatever_a_client_calls_itself_it_is_served(client: AcmeClient, agent: str | None) -> None:
    """RFC 8555 §6.1 asks clients for a User-Agent; a server that refuses those without one helps nobody."""
    body = to_json(make_jws(client.key, await client.header(client.kid), b""))
    headers = {"Content-Type": "application/jose+json", **({"User-Agent": agent} if agent is not None else {})}
    skipped = {"User-Agent"} if agent is None else set()
    path = client.kid.removeprefix(BASE)
    async with client.http.request("POST", path, data=body, headers=headers, skip_auto_headers=skipped) as response:
        assert response.status == 200


@pytest.mark.parametrize("content_type", ["application/jose+json", "Application/JOSE+JSON", "application/jose+json ;x=y"])
async def test_the_media_type_is_compared_as_media_types_are(client: AcmeClient, content_type: str) -> None:
    """RFC 9110 §8.3.1: case and parameters do not matter."""
    jws = make_jws(client.key, await client.header(client.kid), b"")
    assert (await client.send(client.kid, jws, headers={"Content-Type": content_type})).status == 200


@pytest.mark.parametrize(
    "content_type",
    ["application/jose", "application/jose+json+x", "text/application/jose+json", "application/jose+json, text/plain", "*/*"],
)
async def test_what_only_looks_like_the_media_type_is_415(client: AcmeClient, content_type: str) -> None:
    jws = make_jws(client.key, await client.header(client.kid), b"")
    reply = await client.send(client.kid, jws, headers={"Content-Type": content_type})
    assert (reply.status, reply.problem) == (415, "malformed")


async def test_a_challenge_is_not_begun_by_a_request_that_is_refused(world: AcmeWorld, client: AcmeClient) -> None:
    order = await client.order("a.example.com")
    url = (await client.post(order.json["authorizations"][0])).json["challenges"][0]["url"]
    for jws in (
        make_jws(AccountKey(), await client.header(url), b"{}"),
        make_jws(client.key, await client.header(url, alg="none"), b"{}"),
        make_jws(client.key, await client.header(client.kid), b"{}"),
        make_jws(client.key, await client.header(url), b"[]"),
        make_jws(client.key, await client.header(url), b"null"),
    ):
        assert (await client.send(url, jws)).status in {400, 403}
    assert world.http01.calls == []
    assert (await client.finalize(order, der_of(make_csr("a.example.com")))).problem == "orderNotReady"


async def test_keys_of_one_number_are_one_account_however_they_are_written(world: AcmeWorld) -> None:
    """RFC 7638: members that are not required, and their order, make no other account."""
    key = AccountKey(ec.generate_private_key(ec.SECP256R1()))
    client = AcmeClient(world.http, key=key)
    assert (await client.register()).status == 201
    url = client.url("new-account")
    for jwk in ({**key.jwk, "use": "sig", "kid": "mine", "alg": "ES256"}, dict(reversed(list(key.jwk.items())))):
        header = {**await client.header(url, jwk=True), "jwk": jwk}
        reply = await client.send(url, make_jws(key, header, b"{}"))
        assert (reply.status, reply.location) == (200, client.kid)
