"""ACME's own: orders, authorizations and accounts that do not belong together."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from cryptography.hazmat.primitives.asymmetric import ec

from pki.strict import base64url
from tests.helpers.acme_client import make_jws, to_json
from tests.helpers.neighbourhood import Account
from tests.helpers.wanted import (
    Wanted,
    ip_name,
    rsa_key,
)
from tests.helpers.wire import Reply
from tests.protocol.matrix.cells import (
    Row,
    acme_only,
    finalize_with,
)
from tests.protocol.matrix.site import Site


def names_differ(*names: str, more: tuple[bytes, ...] = ()) -> Row:
    return acme_only(lambda site: finalize_with(site, Wanted(names=names, more=more)), "badCSR")


def other_account(site: Site) -> Account:
    if "other" not in site.accounts:
        site.accounts["other"] = site.doors.account().register()
    return site.accounts["other"]


def not_ready(site: Site) -> Reply:
    return site.account.finalize(site.account.order("host.example.test"), Wanted().csr())


def twice(site: Site) -> Reply:
    order = site.account.ready("host.example.test")
    assert site.account.finalize(order, Wanted().csr()).status == 200
    site.watch.begin()
    return site.account.finalize(order, Wanted(key=partial(rsa_key, "eavesdropper")).csr())


def invalid(site: Site) -> Reply:
    """Its one authorization failed: nobody serves the challenge."""
    order = site.account.order("fails.example.test")
    authorization = site.account.post(order.json["authorizations"][0]).json
    site.doors.around.dns["fails.example.test"] = ["127.0.0.1"]
    site.account.post(authorization["challenges"][0]["url"], {})
    return site.account.finalize(order, Wanted(names=("fails.example.test",)).csr())


def by_another_account(site: Site) -> Reply:
    return other_account(site).finalize(site.account.ready("host.example.test"), Wanted().csr())


def anothers_authorization(site: Site) -> Reply:
    """Account B proves the name of account A's order, with its own key; then A's order is still not ready."""
    order = site.account.order("host.example.test")
    other = other_account(site)
    url = order.json["authorizations"][0]
    theirs = other.ready("host.example.test")  # B's own authorization for the same name counts for B alone
    assert theirs.status == 201
    for reply in (other.post(url), other.post(url, {"status": "deactivated"})):
        assert reply.status == 404
    challenge = site.account.post(url).json["challenges"][0]
    site.doors.around.http.serve(challenge["token"], f"{challenge['token']}.{other.thumbprint()}")
    assert other.post(challenge["url"], {}).status == 404
    return site.account.finalize(order, Wanted().csr())


def deactivated_authorization(site: Site) -> Reply:
    order = site.account.ready("host.example.test")
    assert site.account.post(order.json["authorizations"][0], {"status": "deactivated"}).json["status"] == "deactivated"
    return site.account.finalize(order, Wanted().csr())


def one_of_two_proved(site: Site) -> Reply:
    order = site.account.order("host.example.test", "second.example.test")
    first = replace(order, body=to_json({**order.json, "authorizations": order.json["authorizations"][:1]}))
    site.account.authorize(first)
    return site.account.finalize(order, Wanted(names=("host.example.test", "second.example.test")).csr())


def accounts_own_key(site: Site) -> Reply:
    key = site.account.key.key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return finalize_with(site, Wanted(key=lambda: key))


def with_a_bare_key(site: Site) -> Reply:
    order = site.account.ready("host.example.test")
    return site.account.post(order.json["finalize"], {"csr": base64url(Wanted().csr())}, jwk=True)


def for_another_url(site: Site) -> Reply:
    """A signature that was made for another order."""
    first, second = (site.account.ready("host.example.test") for _ in range(2))
    payload = to_json({"csr": base64url(Wanted().csr())})
    jws = make_jws(site.account.key, site.account.header(first.json["finalize"]), payload)
    return site.account.send(second.json["finalize"], to_json(jws))


def replayed(site: Site) -> Reply:
    order = site.account.order("host.example.test")
    body = to_json(
        make_jws(site.account.key, site.account.header(order.json["finalize"]), to_json({"csr": base64url(Wanted().csr())}))
    )
    assert site.account.send(order.json["finalize"], body).status == 403  # not ready yet
    site.account.authorize(order)
    return site.account.send(order.json["finalize"], body)


def through_another_endpoint(site: Site) -> Reply:
    order = site.account.ready("host.example.test")
    url = order.json["finalize"].replace("/acme/default/", "/acme/branch/")
    return site.account.post(url, {"csr": base64url(Wanted().csr())})


ORDERS: dict[str, Row] = {
    "an order that is not ready": acme_only(not_ready, "orderNotReady"),
    "an order with one name still to prove": acme_only(one_of_two_proved, "orderNotReady"),
    "an order that is valid already": acme_only(twice, "orderNotReady"),
    "an order that is invalid": acme_only(invalid, "orderNotReady"),
    "an order of another account": acme_only(by_another_account, "malformed|unauthorized"),
    "an authorization of another account": acme_only(anothers_authorization, "orderNotReady"),
    "an authorization that was deactivated": acme_only(deactivated_authorization, "orderNotReady"),
    "an order at another endpoint": acme_only(through_another_endpoint, "accountDoesNotExist|malformed"),
    "a bare key instead of an account": acme_only(with_a_bare_key, "malformed"),
    "a signature for another order": acme_only(for_another_url, "unauthorized"),
    "a request that was sent before": acme_only(replayed, "badNonce"),
    "the account's own key": acme_only(accounts_own_key, "badCSR: the CSR's key is the account's own"),
    "one name more than ordered": names_differ("host.example.test", "evil.test"),
    "another name than ordered": names_differ("evil.test"),
    "a deeper name than ordered": names_differ("www.host.example.test"),
    "a wildcard of the name ordered": names_differ("host.example.test", "*.host.example.test"),
    "the parent of the name ordered": names_differ("host.example.test", "example.test"),
    "an address besides the names ordered": names_differ("host.example.test", more=(ip_name("127.0.0.1"),)),
}
