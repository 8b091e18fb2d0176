"""ACME on the wire: headers, bodies and types that real clients depend on (RFC 8555 §6, §7), one test for each."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from acmeserver.resources import RESOURCES, STAR_PATH
from pki.strict import base64url
from storage.database import Database
from tests.helpers.acme_client import BASE, JOSE, AccountKey, AcmeClient, make_jws, to_json
from tests.helpers.acme_world import AcmeWorld, acme_world, issued, ready
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr

INDEX = f'<{BASE}/acme/directory>;rel="index"'


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock) as world:
        yield world


@pytest.fixture
async def client(world: AcmeWorld) -> AcmeClient:
    return await world.registered()


# ------------------------------------------------------------------------------------------------ directory and nonces


@pytest.mark.parametrize("path", ["/acme/directory", "/acme/default/directory"])
async def test_the_directory_names_what_there_is_and_nothing_else(world: AcmeWorld, path: str) -> None:
    reply = await world.client().request("GET", path)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json == {
        "newNonce": f"{BASE}/acme/default/new-nonce",
        "newAccount": f"{BASE}/acme/default/new-account",
        "newOrder": f"{BASE}/acme/default/new-order",
        "revokeCert": f"{BASE}/acme/default/revoke-cert",
        "keyChange": f"{BASE}/acme/default/key-change",
    }
    assert reply.links == ()  # "index" on everything but the directory


async def test_the_directory_of_an_endpoint_tells_its_terms(world: AcmeWorld) -> None:
    reply = await world.client().request("GET", "/acme/choice/directory")
    assert reply.json["meta"] == {
        "termsOfService": "https://ca.test/terms",
        "website": "https://ca.test",
        "caaIdentities": ["ca.test"],
        "profiles": {"tls-server": "valid for 47 days", "short-lived": "valid for 47 days"},
    }


async def test_new_nonce_is_200_to_head_and_204_to_get_and_never_stored(world: AcmeWorld) -> None:
    for method, status in (("HEAD", 200), ("GET", 204)):
        reply = await world.client().request(method, "/acme/default/new-nonce")
        assert reply.status == status
        assert reply.headers["Cache-Control"] == "no-store"
        assert re.fullmatch("[A-Za-z0-9_-]+", reply.headers["Replay-Nonce"])  # certbot decodes it
        assert reply.links == (INDEX,)
        assert reply.body == b""


async def test_urls_come_from_the_configuration_whatever_the_client_says_its_host_is(world: AcmeWorld) -> None:
    forged = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http", "Forwarded": "host=evil"}
    directory = await world.client().request("GET", "/acme/directory", headers=forged)
    assert b"evil" not in directory.body
    client = world.client()
    url = client.url("new-account")
    reply = await client.send(url, make_jws(client.key, await client.header(url, jwk=True), b"{}"), headers=forged)
    assert reply.status == 201
    assert reply.location.startswith(f"{BASE}/acme/default/account/")


# ------------------------------------------------------------------------------------------------ headers of every answer


async def test_every_answer_to_a_post_has_a_fresh_nonce_and_an_index_link(world: AcmeWorld, client: AcmeClient) -> None:
    order, final = await issued(client, "a.example.com")
    authorization = await client.post(order.json["authorizations"][0])
    challenge = authorization.json["challenges"][0]["url"]
    replies = [
        order,
        final,
        authorization,
        await client.post(challenge),
        await client.post(challenge, {}),
        await client.post(order.location),
        await client.post(client.kid),
        await client.post(final.json["certificate"]),
        await client.post(order.json["finalize"], {"csr": "-"}),
        await client.post(client.url("nowhere")),
        await client.send(client.url("new-order"), b"garbage"),
        await client.post(client.url("new-order"), {"identifiers": "x"}),
        await client.request("POST", client.url("new-order"), body=b"{}"),
    ]
    nonces = [reply.headers["Replay-Nonce"] for reply in replies]
    assert len(set(nonces)) == len(nonces)
    for reply in replies:
        assert INDEX in reply.links
        assert reply.headers["Cache-Control"] == "no-store"


async def test_links_are_one_header_line_each_with_quotes(client: AcmeClient) -> None:
    """lego's and uacme's parsers need it so."""
    order = await client.order("a.example.com")
    authorization = await client.post(order.json["authorizations"][0])
    reply = await client.post(authorization.json["challenges"][0]["url"], {})
    up = f'<{order.json["authorizations"][0]}>;rel="up"'
    assert sorted(reply.links) == sorted([up, INDEX])


async def test_location_is_on_account_order_and_finalize_answers(world: AcmeWorld) -> None:
    client = world.client()
    created = await client.register()
    again = await client.register()
    assert (created.status, again.status) == (201, 200)
    assert created.location == again.location
    order, final = await issued(client, "a.example.com")
    read = await client.post(order.location)
    assert final.location == read.location == order.location


async def test_a_certificate_is_a_pem_chain_without_rel_up(world: AcmeWorld, client: AcmeClient) -> None:
    """acmez and mod_md would follow rel=up and append the chain a second time."""
    _, final = await issued(client, "a.example.com")
    reply = await client.post(final.json["certificate"])
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/pem-certificate-chain"
    assert reply.links == (INDEX,)
    assert reply.body.count(b"BEGIN CERTIFICATE") == 2
    assert reply.body.startswith(b"-----BEGIN CERTIFICATE-----\n")


async def test_json_is_application_json_and_errors_are_problem_json(client: AcmeClient) -> None:
    order = await client.order("a.example.com")
    assert order.headers["Content-Type"] == "application/json"
    bad = await client.order("not a name")
    assert bad.headers["Content-Type"] == "application/problem+json"
    assert bad.json["status"] == bad.status == 400


# ------------------------------------------------------------------------------------------------ accounts


async def test_an_account_keeps_its_contacts_and_consent(world: AcmeWorld) -> None:
    client = world.client()
    created = await client.register(contact=["mailto:ops@example.com"])
    orders = f"{client.kid}/orders"
    expected = {"status": "valid", "contact": ["mailto:ops@example.com"], "termsOfServiceAgreed": True, "orders": orders}
    assert created.json == expected
    assert (await client.post(client.kid)).json == expected
    assert (await client.post(client.kid, {})).json == expected  # both are reads


async def test_contacts_can_be_changed_and_taken_away(client: AcmeClient) -> None:
    changed = await client.post(client.kid, {"contact": ["mailto:new@example.com"]})
    assert changed.json["contact"] == ["mailto:new@example.com"]
    assert (await client.post(client.kid, {"contact": []})).json["contact"] == []
    assert (await client.post(client.kid)).json["contact"] == []


async def test_an_update_with_the_whole_account_in_it_changes_the_contacts_only(client: AcmeClient) -> None:
    """RFC 8555 §7.3.2: certbot sends back all that it knows."""
    whole = {"status": "valid", "contact": ["mailto:new@example.com"], "orders": "x", "termsOfServiceAgreed": False, "key": {}}
    reply = await client.post(client.kid, whole)
    assert reply.json == {
        "status": "valid",
        "contact": ["mailto:new@example.com"],
        "termsOfServiceAgreed": True,
        "orders": f"{client.kid}/orders",
    }


@pytest.mark.parametrize(
    ("contact", "problem"),
    [
        ("tel:+15555", "unsupportedContact"),
        ("mailto:a@example.com,b@example.com", "invalidContact"),
        ("mailto:a@example.com?subject=x", "invalidContact"),
        ("mailto:", "invalidContact"),
        ("mailto:a b@example.com", "invalidContact"),
    ],
)
async def test_bad_contacts_are_refused_by_their_own_type(world: AcmeWorld, contact: str, problem: str) -> None:
    assert (await world.client().register(contact=[contact])).problem == problem


async def test_only_return_existing_finds_or_says_that_there_is_none(world: AcmeWorld) -> None:
    client = world.client()
    missing = await client.register(onlyReturnExisting=True)
    assert (missing.status, missing.problem) == (400, "accountDoesNotExist")
    created = await client.register()
    found = await client.register(onlyReturnExisting=True)
    assert (found.status, found.location) == (200, created.location)


async def test_an_endpoint_with_terms_wants_consent(world: AcmeWorld) -> None:
    client = world.client("choice")
    refused = await client.register(termsOfServiceAgreed=False)
    assert (refused.status, refused.problem) == (403, "userActionRequired")
    assert '<https://ca.test/terms>;rel="terms-of-service"' in refused.links
    assert (await client.register()).status == 201


async def test_a_deactivated_account_is_unauthorized_everywhere(world: AcmeWorld, client: AcmeClient) -> None:
    order = await ready(client, "a.example.com")
    gone = await client.post(client.kid, {"status": "deactivated"})
    assert (gone.status, gone.json["status"]) == (200, "deactivated")
    replies = [
        await client.post(client.kid),
        await client.order("b.example.com"),
        await client.post(order.location),
        await client.post(order.json["authorizations"][0]),
        await client.finalize(order, der_of(make_csr("a.example.com"))),
        await client.register(),
        await client.register(onlyReturnExisting=True),
    ]
    assert {(reply.status, reply.problem) for reply in replies} == {(403, "unauthorized")}
    assert world.issuance.requests == []


async def test_one_key_has_an_account_of_its_own_at_each_endpoint(world: AcmeWorld, client: AcmeClient) -> None:
    elsewhere = AcmeClient(world.http, key=client.key, endpoint="other", kid=client.kid)
    assert (await elsewhere.order("a.example.com")).problem == "accountDoesNotExist"  # a kid is good at its endpoint only
    assert (await elsewhere.register()).status == 201
    assert elsewhere.kid != client.kid


# ------------------------------------------------------------------------------------------------ JWS and HTTP strictness


async def test_a_nonce_is_good_once(client: AcmeClient) -> None:
    nonce = await client.nonce()
    assert (await client.post(client.kid, nonce=nonce)).status == 200
    replay = await client.post(client.kid, nonce=nonce)
    assert (replay.status, replay.problem) == (400, "badNonce")
    assert replay.json["detail"] == "JWS has an invalid anti-replay nonce"  # acme.sh looks for this text
    assert (await client.post(client.kid, nonce=replay.headers["Replay-Nonce"])).status == 200


async def test_a_bad_signature_does_not_spend_the_nonce(client: AcmeClient) -> None:
    nonce = await client.nonce()
    jws = make_jws(AccountKey(), await client.header(client.kid, nonce=nonce), b"")
    assert (await client.send(client.kid, jws)).problem == "malformed"
    assert (await client.post(client.kid, nonce=nonce)).status == 200


@pytest.mark.parametrize("nonce", ["AAAA", base64url(bytes(40)), "A" * 200])
async def test_nonces_that_are_not_ours_are_bad(client: AcmeClient, nonce: str) -> None:
    assert (await client.post(client.kid, nonce=nonce)).problem == "badNonce"


async def test_the_url_must_be_the_one_that_is_posted_to(client: AcmeClient) -> None:
    for url in (client.url("new-order"), client.kid + "/", client.kid + "?x", client.kid.replace("https", "http")):
        reply = await client.send(client.kid, make_jws(client.key, await client.header(url), b""))
        assert (reply.status, reply.problem) == (403, "unauthorized")


@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream", "text/plain", ""])
async def test_requests_have_the_jose_content_type(client: AcmeClient, content_type: str) -> None:
    jws = make_jws(client.key, await client.header(client.kid), b"")
    reply = await client.send(client.kid, jws, headers={"Content-Type": content_type})
    assert (reply.status, reply.problem) == (415, "malformed")


async def test_a_content_type_with_parameters_is_the_same_type(client: AcmeClient) -> None:
    jws = make_jws(client.key, await client.header(client.kid), b"")
    reply = await client.send(client.kid, jws, headers={"Content-Type": "application/jose+json; charset=utf-8"})
    assert reply.status == 200


async def test_a_request_with_a_replay_nonce_header_is_refused(client: AcmeClient) -> None:
    jws = make_jws(client.key, await client.header(client.kid), b"")
    assert (await client.send(client.kid, jws, headers={"Replay-Nonce": "x"})).problem == "malformed"


async def test_a_body_past_50000_octets_is_413(client: AcmeClient) -> None:
    reply = await client.send(client.kid, b"x" * 50_001)
    assert (reply.status, reply.problem) == (413, "malformed")


async def test_a_chunked_or_compressed_body_is_a_body(client: AcmeClient) -> None:
    body = to_json(make_jws(client.key, await client.header(client.kid), b""))

    async def chunks() -> AsyncIterator[bytes]:
        yield body[:10]
        yield body[10:]

    async with client.http.post(client.kid.removeprefix(BASE), data=chunks(), headers={"Content-Type": JOSE}) as response:
        assert response.status == 200
    body = to_json(make_jws(client.key, await client.header(client.kid), b""))
    reply = await client.send(client.kid, zlib.compress(body), headers={"Content-Encoding": "deflate"})
    assert reply.status == 200


async def test_a_compressed_body_counts_as_long_as_it_is_unpacked(client: AcmeClient) -> None:
    reply = await client.send(client.kid, zlib.compress(bytes(10_000_000)), headers={"Content-Encoding": "deflate"})
    assert (reply.status, reply.problem) == (413, "malformed")


async def test_a_compressed_body_that_is_not_what_it_says_is_400(client: AcmeClient) -> None:
    reply = await client.send(client.kid, b"not gzip", headers={"Content-Encoding": "gzip"})
    assert (reply.status, reply.problem) == (400, "malformed")


@pytest.mark.parametrize(
    "key",
    [
        AccountKey(ec.generate_private_key(ec.SECP256R1())),
        AccountKey(ec.generate_private_key(ec.SECP384R1())),
        AccountKey(ec.generate_private_key(ec.SECP521R1())),
        AccountKey(rsa.generate_private_key(65537, 2048)),
        AccountKey(ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=lambda key: str(key.alg),
)
async def test_accounts_of_every_kind_of_key(world: AcmeWorld, key: AccountKey) -> None:
    client = AcmeClient(world.http, key=key)
    assert (await client.register()).status == 201
    _, final = await issued(client, "a.example.com")
    assert final.json["status"] == "valid"


async def test_key_or_account_as_the_resource_wants_it(client: AcmeClient) -> None:
    assert (await client.post(client.url("new-account"), {})).problem == "malformed"  # kid
    order = await client.order("a.example.com")
    for url in (client.kid, client.url("new-order"), order.location, order.json["finalize"], order.json["authorizations"][0]):
        assert (await client.post(url, jwk=True)).problem == "malformed"


@pytest.mark.parametrize("kid", ["x", "", f"{BASE}/acme/default/account/", f"{BASE}/acme/default/account/nobody", "\x00"])
async def test_a_kid_that_is_no_account_is_account_does_not_exist(client: AcmeClient, kid: str) -> None:
    client.kid = kid
    reply = await client.post(client.url("new-order"), {})
    assert (reply.status, reply.problem) == (400, "accountDoesNotExist")


async def test_post_as_get_has_an_empty_payload(client: AcmeClient) -> None:
    order, final = await issued(client, "a.example.com")
    for url in (order.location, final.json["certificate"], order.json["authorizations"][0]):
        assert (await client.post(url, {})).problem == "malformed"


async def test_plain_get_of_what_needs_a_signature_is_405(client: AcmeClient) -> None:
    """RFC 8555 §6.3: for every resource of the table, and for every method."""
    for each in RESOURCES:
        url = client.url(re.sub("{[^/]*}", "ab", each.path).replace("cert/ab/ab", "cert/ab/1"))
        for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH"):
            reply = await client.request(method, url)
            if each.path == STAR_PATH and method in {"GET", "HEAD"}:  # RFC 8739 §3.4: where an order allows it
                assert reply.status == 404
                continue
            assert (reply.status, reply.headers["Allow"]) == (405, "POST")
        unsigned = await client.send(url, b"{}")
        assert (unsigned.status, unsigned.problem) == (400, "malformed")


@pytest.mark.parametrize(
    "path", ["nowhere", "", "order/", "order/a%2Fb", "order/a;x", "directory/", "account/%00", "Directory"]
)
async def test_unknown_paths_are_404_problems(world: AcmeWorld, path: str) -> None:
    reply = await world.client().request("POST", world.client().url(path))
    assert (reply.status, reply.problem) == (404, "malformed")


@pytest.mark.parametrize("path", ["/acme", "/acme/", "/acme/default", "/acme/nowhere", "/acme//default/new-order"])
async def test_what_is_below_acme_and_no_endpoint_is_a_404_problem_too(world: AcmeWorld, path: str) -> None:
    """Clients read errors as problem documents, also those that come of a directory URL that was cut short."""
    for method in ("GET", "POST"):
        reply = await world.client().request(method, path)
        assert (reply.status, reply.problem) == (404, "malformed")


async def test_an_unknown_endpoint_is_404(world: AcmeWorld) -> None:
    for path in ("directory", "new-nonce", "new-order"):
        reply = await world.client("nowhere").request("GET", world.client("nowhere").url(path))
        assert (reply.status, reply.problem) == (404, "malformed")
