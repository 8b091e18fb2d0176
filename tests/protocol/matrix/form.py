"""In which form: bodies that are none, and operations that are not served."""

from __future__ import annotations

import base64

from pki.strict import base64url
from tests.helpers import scep
from tests.helpers.acme_client import make_jws, to_json
from tests.helpers.front_doors import EST_OPERATIONS, Door, refusal
from tests.helpers.wanted import (
    Wanted,
    pem_csr,
)
from tests.helpers.wire import Reply
from tests.protocol.matrix.cells import (
    Impossible,
    Row,
    everywhere,
)
from tests.protocol.matrix.site import Site


def garbage(site: Site, door: Door) -> Reply:
    return raw_body(site, door, b"\x30\x82\x01\x00 this is nothing at all \xff\xfe")


def nothing(site: Site, door: Door) -> Reply:
    return raw_body(site, door, b"")


def certificate_instead(site: Site, door: Door) -> Reply:
    """A certificate where a request belongs: DER that is well-formed."""
    return raw_body(site, door, scep.der_of(site.doors.ra))


def raw_body(site: Site, door: Door, body: bytes) -> Reply:
    """Of the right people, in the right place."""
    doors = site.doors
    match door:
        case Door.ACME:
            order = site.account.ready("host.example.test")
            return site.account.post(order.json["finalize"], {"csr": base64url(body)})
        case Door.EST | Door.EST_KEYGEN:
            return doors.simple_enroll(body, site.own.est, operation=EST_OPERATIONS[door])
        case Door.EST_RENEWAL:
            return doors.renew(body, site.own)
        case Door.EST_CMC:
            return doors.full_cmc(body, site.own.est)
        case Door.SCEP_POST | Door.SCEP_GET:
            return doors.pki_operation(body, get=door is Door.SCEP_GET)
        case Door.SCEP_ONCE | Door.SCEP_RENEWAL:
            message = doors.scep_message(door, Wanted(), site.own)
            message.content = scep.enveloped(body, doors.ra)
            return doors.scep(door, message, site.own)
        case Door.REST_JSON:
            return doors.rest(to_json({"csr": base64.b64encode(body).decode()}), site.own.api_key)
        case Door.REST_PEM:
            return doors.rest(body, site.own.api_key, content_type="application/pkcs10")


def oversized(site: Site, door: Door) -> Reply:
    """One octet more than the door takes (EST in base64, as sent), by the right people."""
    limit = 256 * 1024
    match door:
        case Door.ACME:
            order = site.account.ready("host.example.test")
            url = order.json["finalize"]
            jws = to_json(make_jws(site.account.key, site.account.header(url), to_json({"csr": base64url(Wanted().csr())})))
            return site.account.send(url, jws + b" " * (50_001 - len(jws)))
        case Door.EST | Door.EST_KEYGEN:
            return site.doors.simple_enroll(Wanted().csr() + bytes(limit), site.own.est, operation=EST_OPERATIONS[door])
        case Door.EST_RENEWAL:
            return site.doors.renew(Wanted().csr() + bytes(limit), site.own)
        case Door.EST_CMC:
            return site.doors.full_cmc(site.doors.pki_data(Wanted()) + bytes(limit), site.own.est)
        case Door.SCEP_POST | Door.SCEP_GET | Door.SCEP_ONCE | Door.SCEP_RENEWAL:
            message = site.doors.scep_message(door, Wanted(), site.own).encode()
            return site.doors.pki_operation(message + bytes(limit + 1 - len(message)))
        case Door.REST_JSON:
            body = to_json({"csr": pem_csr(Wanted().csr())})
            return site.doors.rest(body + b" " * (limit + 1 - len(body)), site.own.api_key)
        case Door.REST_PEM:
            body = pem_csr(Wanted().csr()).encode()
            return site.doors.rest(body + b"\n" * (limit + 1 - len(body)), site.own.api_key, content_type="text/plain")


def unserved(site: Site, door: Door) -> Reply:
    """The right people with a right request at an operation that is not served: the second way in."""
    doors = site.doors
    if door is Door.EST:
        replies = [
            doors.simple_enroll(Wanted().csr(), site.own.est, operation=operation)
            for operation in ("csrattrs", "SimpleEnroll", "nothing")
        ]
        assert {reply.status for reply in replies} <= {404, 405, 501}
        return replies[-1]
    for kind in ("17", "18", "20", "21", "22", "3", "019", "19 ", "+19", "1\xb9", ""):
        message = doors.pkcs_req(Wanted(), challenge=site.own.challenge, message_type=kind)
        reply = doors.pki_operation(message.encode(), get=door is Door.SCEP_GET)
        refusal(door, reply)
    return reply


FORM: dict[str, Row] = {
    "octets that are nothing": everywhere(garbage, "."),
    "an empty body": everywhere(nothing, "."),
    "a certificate in the request's place": everywhere(certificate_instead, "."),
    "a body that is too large": everywhere(
        oversized, "(?i)at most|longer than", scep_get=Impossible("a request line has 64 KiB at most: test_bad_input.py")
    ),
    "an operation that is not served": everywhere(
        unserved,
        "not one of RFC 8894|no such EST",
        keygen=Impossible("tried beside it, at simpleenroll"),
        renewal=Impossible("tried beside it, at simpleenroll"),
        scep_once=Impossible("tried beside it, with another challenge"),
        scep_renewal=Impossible("tried beside it, with PKCSReq"),
        cmc=Impossible("tried beside it, at simpleenroll"),
        acme=Impossible("every resource is in RESOURCES: test_every_way_in_is_in_the_matrix"),
        rest=Impossible("every resource answers by its method: test_bad_input.py"),
    ),
}
