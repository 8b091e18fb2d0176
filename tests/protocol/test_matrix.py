"""Every entry point by every check, against a real server.

The worst defects of this field are one idea: a second way in that skips a check which the first one makes. So the ways in and
the checks are two closed lists, and each pair of them is a cell: refused, or granted harmlessly, or impossible for a reason.
A new way in (a new EST operation, a new SCEP message type, a new resource) makes `test_every_way_in_is_in_the_matrix` fail.

After each refusal: no certificate, no intent to make one, no traceback, and an error in the protocol's own form that says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from acmeserver.resources import RESOURCES
from est.endpoint import METHODS as EST_OPERATIONS
from pki.cms.scep import MessageType
from scep.wire import Operation
from tests.helpers.front_doors import Door, pending, refusal
from tests.helpers.wanted import Wanted
from tests.protocol.matrix.accounts import ACCOUNTS
from tests.protocol.matrix.cells import (
    Granted,
    Impossible,
    Refused,
    Row,
    Waits,
)
from tests.protocol.matrix.form import FORM
from tests.protocol.matrix.identity import IDENTITY
from tests.protocol.matrix.keys import KEYS
from tests.protocol.matrix.names import GRANTED, NAMES, TERMS
from tests.protocol.matrix.orders import ORDERS
from tests.protocol.matrix.site import Site, opened
from tests.protocol.matrix.speakers import EST_DOORS, SKIPPED, spoken


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with opened() as site:
        yield site


MATRIX: dict[str, Row] = {**IDENTITY, **KEYS, **NAMES, **TERMS, **GRANTED, **FORM, **ORDERS, **ACCOUNTS}
TRIED = [(check, door) for check, row in MATRIX.items() for door, cell in row.items() if not isinstance(cell, Impossible)]


@pytest.mark.parametrize(("check", "door"), [pytest.param(check, door, id=f"{door.value}: {check}") for check, door in TRIED])
def test_every_check_is_made_at_every_door(check: str, door: Door, site: Site, tmp_path: Path) -> None:
    cell = MATRIX[check][door]
    site.watch.begin()
    match cell:
        case Refused(attempt, because):
            text = refusal(door, attempt(site, door))
            assert re.search(because, text), text
            site.watch.nothing_happened()
        case Waits(attempt):
            assert pending(door, attempt(site, door)) > 0
            site.watch.nothing_happened()
        case Granted(wanted, judge):
            judge(site.doors.certificate(door, site.doors.ask(door, wanted), wanted, tmp_path))
            site.watch.no_bug()
        case Impossible():
            raise AssertionError(cell.because)


TRIED_OTHERWISE = [
    (check, door, how)
    for how, skipped in SKIPPED.items()
    for check, door in TRIED
    if door in EST_DOORS and (check, door) not in skipped and (how != "signature" or door is Door.EST_CMC)
]


@pytest.fixture(scope="module")
def ways(site: Site) -> Iterator[dict[str, Site]]:
    ways = spoken(site)
    yield ways
    for way in ways.values():
        way.doors.close()


@pytest.mark.parametrize(
    ("check", "door", "how"), [pytest.param(*each, id=f"{each[1].value} by {each[2]}: {each[0]}") for each in TRIED_OTHERWISE]
)
def test_whoever_asks_by_another_proof_meets_the_same_checks(
    check: str, door: Door, how: str, ways: dict[str, Site], tmp_path: Path
) -> None:
    """EST's operations by Digest, token and client certificate: other ways to be somebody are other ways in."""
    test_every_check_is_made_at_every_door(check, door, ways[how], tmp_path)


@pytest.mark.parametrize("door", EST_DOORS)
def test_a_token_past_its_time_opens_nothing(door: Door, ways: dict[str, Site], site: Site) -> None:
    """The one secret of EST that has an end: "credentials past their time" is impossible by password."""
    site.watch.begin()
    reply = ways["bearer"].doors.ask(door, Wanted(), replace(site.own, est=("any", "expired-est")))
    assert refusal(door, reply) == "unauthenticated"
    site.watch.nothing_happened()


def test_the_matrix_is_total_and_every_gap_has_its_reason() -> None:
    parts = (IDENTITY, KEYS, NAMES, TERMS, GRANTED, FORM, ORDERS, ACCOUNTS)
    assert len(MATRIX) == sum(map(len, parts)), "two checks of one name"
    for check, row in MATRIX.items():
        assert set(row) == set(Door), check
        assert any(not isinstance(cell, Impossible) for cell in row.values()), check
        assert all(cell.because for cell in row.values() if isinstance(cell, Impossible)), check
    for door in Door:
        assert isinstance(MATRIX["what everybody may have"][door], Granted), "without this one, every refusal proves nothing"
    for how, skipped in SKIPPED.items():
        assert set(skipped) <= set(TRIED), how
        assert all(because for because in skipped.values()), how
        assert not {check for check, _ in skipped} & {"what everybody may have"}, how


# Everything that a client can reach and that takes a request, and which door it is; "" makes no certificate.
ACME_RESOURCES = {
    "new-account": "",
    "new-order": "",
    "new-authz": "",  # off unless an endpoint says pre_authorization
    "revoke-cert": "",
    "account": "",
    "account/orders": "",
    "key-change": "",
    "order": "",
    "order/finalize": "ACME",
    "authz": "",
    "challenge": "",
    "cert": "",  # its alternate chains are below it
    "star-cert": "",
}
EST_SERVED = {
    "cacerts": "",
    "simpleenroll": "EST",
    "simplereenroll": "EST_RENEWAL",  # by the holder of a certificate: test_est_certificates.py, test_est_renewal.py
    "serverkeygen": "EST_KEYGEN",
    "fullcmc": "EST_CMC",
    "csrattrs": "",
}
EST_REFUSED: set[str] = set()  # in "an operation that is not served"
SCEP_OPERATIONS = {
    Operation.GET_CA_CAPS: "",
    Operation.GET_CA_CERT: "",
    Operation.GET_NEXT_CA_CERT: "",
    Operation.PKI_OPERATION: "SCEP",
}
SCEP_MESSAGES = {
    MessageType.PKCS_REQ: "SCEP",
    MessageType.RENEWAL_REQ: "SCEP_RENEWAL",
    MessageType.CERT_POLL: "",
    MessageType.GET_CERT: "",
    MessageType.GET_CRL: "",
    MessageType.CERT_REP: "",
}
REST_RESOURCES = {
    "/api/v1": set(),
    "/api/v1/certificates": {"get", "post"},
    "/api/v1/certificates/{serial}": {"get"},
    "/api/v1/certificates/{serial}/revoke": {"post"},
    "/api/v1/scep/challenges": {
        "get",
        "post",
    },  # what they are good for is at SCEP_ONCE; who makes them: test_rest_scep_challenges.py
    "/api/v1/scep/challenges/{id}": {"delete"},
}


def test_every_way_in_is_in_the_matrix(site: Site) -> None:
    """Whoever adds one comes here, and then says for each check above what it does at the new door."""
    assert {re.sub(r"\{[^/]*\}/?", "", each.path).rstrip("/") for each in RESOURCES} == set(ACME_RESOURCES)
    assert set(EST_OPERATIONS) == set(EST_SERVED) | EST_REFUSED
    assert set(Operation) == set(SCEP_OPERATIONS)
    assert set(MessageType) == set(SCEP_MESSAGES)
    described = site.doors.https.send("GET", "/api/openapi.json").json["paths"]
    assert {path: {*methods} & {"get", "post", "put", "patch", "delete"} for path, methods in described.items()} == {
        path: methods for path, methods in REST_RESOURCES.items() if methods
    }
