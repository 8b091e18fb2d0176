"""What certwright.yaml says of orders, in a whole server: parsed, composed, advertised, obeyed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.front_doors import Doors
from tests.helpers.neighbourhood import Account, Neighbourhood
from tests.helpers.server import Server
from tests.helpers.wanted import Wanted
from tests.helpers.wire import Reply

NAME = "www.example.test"
ENDPOINTS = """\
    orders:
      profiles: [tls-server]
      challenges: [http-01, tls-alpn-01]
      authorization_reuse: 3d
      pre_authorization: true
      caa: true
    twice: {profiles: [precious], challenges: [http-01, tls-alpn-01], order_reuse: true}
"""
PRECIOUS = "  precious: {issuer: issuing, validity: 1d, methods_required: 2}\n"


def edited(text: str) -> str:
    for old, new in (
        ("\n  est:\n    default:", f"\n{ENDPOINTS}  est:\n    default:"),
        ("\n  tls-server:", f"\n{PRECIOUS}  tls-server:"),
        ("allowed_profiles: [tls-server, short-lived]\n", "allowed_profiles: [tls-server, short-lived, precious]\n"),
        ("\n  http01_port:", "\n  attempts: 2\n  retry_delay: 2s\n  caa_identities: [ca.example.test]\n  http01_port:"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def doors() -> Iterator[Doors]:
    with Neighbourhood() as around:
        server = Server(resolver=around.dns.address, http01_port=around.http.port, allow_networks=["127.0.0.0/8"], edit=edited)
        with server:
            doors = Doors(server, around)
            yield doors
            doors.close()


@pytest.fixture
def account(doors: Doors) -> Account:
    return doors.account("orders").register()


def finalized(account: Account) -> Reply:
    return account.finalize(account.ready(NAME), Wanted(names=(NAME,)).csr())


def test_the_directory_says_it(doors: Doors) -> None:
    directory = doors.https.send("GET", "/acme/orders/directory").json
    assert directory["newAuthz"].endswith("/acme/orders/new-authz")
    assert directory["meta"]["caaIdentities"] == ["ca.example.test"]
    plain = doors.https.send("GET", "/acme/directory").json
    assert "newAuthz" not in plain
    assert "caaIdentities" not in plain.get("meta", {})


def test_caa_is_asked_of_the_configured_resolver(doors: Doors, account: Account) -> None:
    doors.around.dns.caa("example.test", '0 issue "other.test"')
    refused = finalized(account)
    assert (refused.status, refused.json["type"].rpartition(":")[2]) == (403, "caa")
    doors.around.dns.caa("example.test", '0 issue "ca.example.test"')
    assert finalized(account).json["status"] == "valid"


def test_what_was_proved_serves_the_next_order(account: Account) -> None:
    account.ready(NAME)
    assert account.order(NAME).json["status"] == "ready"


def test_a_profile_that_wants_two_methods_makes_two_authorizations(doors: Doors) -> None:
    order = doors.account("twice").register().order(NAME)
    assert order.status == 201, order.body
    assert len(order.json["authorizations"]) == 2


def test_an_open_order_is_given_again_where_the_endpoint_says_so(doors: Doors, account: Account) -> None:
    twice = doors.account("twice").register()
    assert twice.order(NAME).json["finalize"] == twice.order(NAME).json["finalize"]
    assert account.order(NAME).json["finalize"] != account.order(NAME).json["finalize"]


def test_a_name_that_nobody_serves_is_tried_twice(doors: Doors, account: Account) -> None:
    order = account.order("late.example.test")
    authorization = account.post(order.json["authorizations"][0]).json
    challenge = next(each for each in authorization["challenges"] if each["type"] == "http-01")
    doors.around.dns["late.example.test"] = ["127.0.0.1"]
    first = account.post(challenge["url"], {}).json
    assert first["status"] == "processing"  # the first try is over, the second waits
    doors.around.http.serve(challenge["token"], f"{challenge['token']}.{account.thumbprint()}")
    doors.server.wait_until(lambda: account.post(challenge["url"]).json["status"] != "processing", "the second try")
    assert account.post(challenge["url"]).json["status"] == "valid"
