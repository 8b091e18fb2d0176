"""How an answer is framed: the same for every operation of EST and every outcome, for there are clients that match it octet by octet.

strongSwan reads by Content-Length and knows no chunks; libest falls over on an answer without a Content-Type; BouncyCastle fails on the first
octet of a 401's or a 202's body (tests/protocol/test_est_client_habits.py plays each of them).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping

import pytest

from est.endpoint import METHODS
from tests.helpers.front_doors import EST_OPERATIONS, Door
from tests.helpers.wanted import Wanted
from tests.helpers.wire import Reply
from tests.protocol.matrix.form import raw_body
from tests.protocol.matrix.identity import anonymous, as_person
from tests.protocol.matrix.site import GUARDED, ORPHAN, Site, opened

CERTS_ONLY = "application/pkcs7-mime; smime-type=certs-only"
RESPONSE = "application/pkcs7-mime; smime-type=CMC-response"
TEXT = "text/plain; charset=utf-8"
GRANTED: Mapping[Door, str] = {
    Door.EST: re.escape(CERTS_ONLY),
    Door.EST_RENEWAL: re.escape(CERTS_ONLY),
    Door.EST_KEYGEN: r"multipart/mixed; ?boundary=\S+",
    Door.EST_CMC: re.escape(RESPONSE),  # the message of this door has a transactionId
}
DOORS = tuple(GRANTED)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with opened() as site:
        yield site


def framed(reply: Reply) -> None:
    """RFC 9112 §6: whoever reads as far as Content-Length has all of it, and nothing has to be decoded."""
    assert reply.headers.get_all("Content-Length") == [str(len(reply.body))]
    assert "Transfer-Encoding" not in reply.headers
    assert "Content-Encoding" not in reply.headers


def encoded(reply: Reply) -> None:
    """RFC 7030 §4.2.3; RFC 8951 §3.2 lets a server leave the header out, libest and BouncyCastle were written before it."""
    assert reply.headers["Content-Transfer-Encoding"] == "base64"
    assert base64.b64decode(b"".join(reply.body.split()), validate=True)


def silent(reply: Reply) -> None:
    assert reply.body == b""
    assert "Content-Transfer-Encoding" not in reply.headers


def said(reply: Reply) -> None:
    assert reply.headers["Content-Type"] == TEXT
    assert reply.body.endswith(b"\n")
    assert "Content-Transfer-Encoding" not in reply.headers


@pytest.mark.parametrize("door", DOORS)
def test_what_is_granted(site: Site, door: Door) -> None:
    reply = site.doors.ask(door, Wanted())
    assert reply.status == 200, reply.body
    framed(reply)
    assert re.fullmatch(GRANTED[door], reply.headers["Content-Type"])
    if door is Door.EST_KEYGEN:
        assert "Content-Transfer-Encoding" not in reply.headers  # each part has its own (RFC 7030 §4.4.2)
    else:
        encoded(reply)


@pytest.mark.parametrize("door", DOORS)
def test_what_waits(site: Site, door: Door) -> None:
    reply = as_person(GUARDED)(site, door)
    assert reply.status == 202
    framed(reply)
    assert int(reply.headers["Retry-After"]) > 0
    if door is Door.EST_CMC:  # §4.3.2: the PKIResponse says what it is that waits
        assert reply.headers["Content-Type"] == RESPONSE
        encoded(reply)
    else:
        silent(reply)


@pytest.mark.parametrize("door", DOORS)
def test_what_policy_refuses(site: Site, door: Door) -> None:
    reply = as_person(ORPHAN)(site, door)
    assert reply.status == 403
    framed(reply)
    if door is Door.EST_CMC:
        assert reply.headers["Content-Type"] == RESPONSE
        encoded(reply)
    else:
        said(reply)


@pytest.mark.parametrize("door", DOORS)
def test_who_is_nobody(site: Site, door: Door) -> None:
    reply = anonymous(site, door)
    framed(reply)
    if door is Door.EST_RENEWAL:  # credentials would not help: it is a certificate that is missing
        assert reply.status == 403
        said(reply)
        return
    assert reply.status == 401
    silent(reply)
    assert reply.headers["WWW-Authenticate"] == 'Basic realm="estrealm"'


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("body", "status"), [(b"\x30\x03 no", 400), (bytes(256 * 1024), 413)], ids=["garbage", "too much"])
def test_what_cannot_be_read(site: Site, door: Door, body: bytes, status: int) -> None:
    reply = raw_body(site, door, body)
    assert reply.status == status
    framed(reply)
    said(reply)


@pytest.mark.parametrize("operation", METHODS)
def test_another_method(site: Site, operation: str) -> None:
    other = "POST" if METHODS[operation] == "GET" else "GET"
    reply = site.doors.mtls.send(other, f"/.well-known/est/{operation}")
    assert (reply.status, reply.headers["Allow"]) == (405, METHODS[operation])
    framed(reply)
    said(reply)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("label", ["nosuch", "default%2F..", "DEFAULT"])
def test_a_label_that_is_not_there(site: Site, door: Door, label: str) -> None:
    reply = site.doors.mtls.send("POST", f"/.well-known/est/{label}/{EST_OPERATIONS[door]}", b"AAAA")
    assert reply.status == 404
    framed(reply)
    said(reply)


def test_what_is_read_without_credentials(site: Site) -> None:
    certificates = site.doors.mtls.send("GET", "/.well-known/est/cacerts")
    assert (certificates.status, certificates.headers["Content-Type"]) == (200, CERTS_ONLY)
    framed(certificates)
    encoded(certificates)
    nothing = site.doors.mtls.send("GET", "/.well-known/est/csrattrs")
    assert nothing.status == 204
    assert "Transfer-Encoding" not in nothing.headers
    silent(nothing)


def test_every_operation_that_makes_certificates_is_here() -> None:
    made = {EST_OPERATIONS[door] for door in DOORS}
    assert made | {"cacerts", "csrattrs"} == set(METHODS)
