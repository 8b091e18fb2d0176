"""SCEP clients that have a certificate, with a whole server: what it renews, what it reads (RFC 8894 §3.3.1.2, §3.3.4, §3.3.5)."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from tests.helpers.books import Books, Watch
from tests.helpers.front_doors import basic
from tests.helpers.scep import Message, certificate, csr, issuer_and_serial, rsa_key
from tests.helpers.scep_endpoints import CHALLENGE, ServedScep, scep_server
from tests.helpers.scep_site import by_issuer_and_serial, opened, renewal, the_certificate
from tests.helpers.server import run
from tests.helpers.wanted import pem_csr
from tests.helpers.wire import Wire

BAD_REQUEST, BAD_CERT_ID = "2", "4"


@pytest.fixture(scope="module")
def scep() -> Iterator[ServedScep]:
    with scep_server() as served:
        yield served


@pytest.fixture
def nothing_happens(scep: ServedScep) -> Iterator[None]:
    watch = Watch(Books(scep.server)).begin()
    yield
    watch.nothing_happened()


def renews(scep: ServedScep, held: x509.Certificate, label: str, message_type: str = "17", **changes: object) -> Message:
    """The names of `label`, whose key signs."""
    names: dict[str, object] = {"common_name": label, "sans": (f"{label}.example.com",), "message_type": message_type}
    return renewal(scep, held, rsa_key(label), **{**names, **changes})  # type: ignore[arg-type]  # a test's own keywords


def by_rest(scep: ServedScep, request: bytes) -> x509.Certificate:
    wire = Wire(scep.server.https_port, ssl.create_default_context(cafile=str(scep.server.ca_file)))
    headers = {"Content-Type": "application/x-pem-file", "X-API-Key": scep.server.environment["CERTWRIGHT_API_KEY"]}
    reply = wire.send("POST", "/api/v1/certificates?profile=device", pem_csr(request).encode(), headers)
    wire.close()
    assert reply.status == 201, reply.body
    return x509.load_pem_x509_certificate(reply.json["certificate"].encode())


def by_est(scep: ServedScep, request: bytes) -> x509.Certificate:
    given = scep.server.environment
    wire = Wire(scep.server.mtls_port, ssl.create_default_context(cafile=str(scep.server.ca_file)))
    user = basic(given["CERTWRIGHT_EST_USER"], given["CERTWRIGHT_EST_PASSWORD"])
    headers = {"Content-Type": "application/pkcs10", **user}
    reply = wire.send("POST", "/.well-known/est/simpleenroll", base64.b64encode(request), headers)
    wire.close()
    assert reply.status == 200, reply.body
    [found] = pkcs7.load_der_pkcs7_certificates(base64.b64decode(reply.body))
    return found


def test_a_device_renews_itself_again_and_again_with_and_without_a_new_key(scep: ServedScep) -> None:
    first = scep.pkcs_req("router")
    held = scep.certificate(first)
    octets = csr(rsa_key("router"), common_name="router", sans=("router.example.com",), challenge=CHALLENGE)
    seen = [held]
    for message_type, get in (("17", False), ("19", True)):  # the CSR of the beginning, and its transactionID
        request = renews(scep, seen[-1], "router", message_type, request=octets, transaction_id="TX-1")
        seen.append(scep.certificate(request, get=get))
        assert scep.certificate(request) == seen[-1]
    rekeyed = csr(rsa_key("router 2"), common_name="router", sans=("router.example.com",), challenge=None)
    new = scep.certificate(renews(scep, seen[-1], "router", request=rekeyed))
    assert new.public_key() == rsa_key("router 2").public_key()
    assert {one.subject for one in (*seen, new)} == {held.subject}
    assert len({one.serial_number for one in (*seen, new)}) == 4
    assert scep.certificate(first) == held


@pytest.mark.usefixtures("nothing_happens")
def test_other_names_are_no_renewal(scep: ServedScep) -> None:
    held = scep.certificate(scep.pkcs_req("router"))  # had before: the same request
    for changes in ({"common_name": "admin"}, {"sans": ("admin.example.com",)}, {"sans": ()}):
        for message_type in ("17", "19"):
            answer = scep.ask(renews(scep, held, "router", message_type, **changes))
            assert (answer.status, answer.fail_info) == ("2", BAD_REQUEST)
            assert "other names than it has" in (answer.text or "")
            assert "admin" not in (answer.text or "")


def test_a_certificate_renews_itself_where_it_came_from_and_nowhere_else(scep: ServedScep) -> None:
    request = csr(rsa_key("switch"), common_name="switch", sans=("switch.example.com",), challenge=None)
    mine = scep.certificate(scep.pkcs_req("switch"))
    strangers = {
        "another endpoint": scep.certificate(scep.pkcs_req("switch"), "plain"),
        "REST": by_rest(scep, request),
        "EST": by_est(scep, request),
        "somebody who calls himself like our CA": _forged(scep),
    }
    watch = Watch(Books(scep.server)).begin()
    for where, held in strangers.items():
        for message_type in ("17", "19"):
            answer = scep.ask(renews(scep, held, "switch", message_type))
            assert (answer.status, answer.fail_info, answer.content) == ("2", BAD_REQUEST, b""), where
    for endpoint in ("plain", "brief"):
        assert scep.ask(renews(scep, mine, "switch"), endpoint).fail_info == BAD_REQUEST
    watch.nothing_happened()
    scep.certificate(renews(scep, mine, "switch"))


def _forged(scep: ServedScep) -> x509.Certificate:
    theirs = certificate("switch", rsa_key("switch").public_key(), "Test CA", rsa_key("stranger"))
    builder = x509.CertificateBuilder(
        scep.ca.subject, theirs.subject, theirs.public_key(), 4711, theirs.not_valid_before_utc, theirs.not_valid_after_utc
    )
    return builder.sign(rsa_key("stranger"), hashes.SHA256())


def test_what_is_revoked_renews_and_reads_nothing_from_that_moment_on(scep: ServedScep) -> None:
    held = scep.certificate(scep.pkcs_req("lost"))
    scep.certificate(renews(scep, held, "lost"))
    run("cert", "revoke", f"{held.serial_number:x}", "--config", scep.server.config_file)
    watch = Watch(Books(scep.server)).begin()
    messages = [
        renews(scep, held, "lost"),
        renews(scep, held, "lost", transaction_id="TX-9"),
        renews(scep, held, "lost", "19", challenge=CHALLENGE),
        by_issuer_and_serial(scep, held, rsa_key("lost"), "21", issuer_and_serial(held)),
    ]
    for message in messages:
        answer = scep.ask(message)
        assert (answer.status, answer.fail_info) == ("2", BAD_REQUEST)
        assert answer.text == "the certificate that signs this message is revoked"
    watch.nothing_happened()


def test_after_its_end_a_certificate_renews_itself_within_the_grace_only(scep: ServedScep) -> None:
    held = {name: scep.certificate(scep.pkcs_req("late"), name) for name in ("brief", "patient")}
    ends = max(one.not_valid_after_utc for one in held.values())
    scep.server.wait_until(lambda: datetime.now(UTC) > ends + timedelta(seconds=1), "the end of two certificates")
    answer = scep.ask(renews(scep, held["brief"], "late"), "brief")
    assert (answer.status, "it has expired" in (answer.text or "")) == ("2", True)
    scep.certificate(renews(scep, held["patient"], "late"), "patient")
    by_challenge = renews(scep, held["brief"], "late", "19", challenge=CHALLENGE)  # as on the first day, but for its signer
    assert scep.ask(replace(by_challenge, message_type="17"), "brief").status == "2"
    assert scep.certificate(by_challenge, "brief").serial_number != held["brief"].serial_number


def test_a_device_reads_certificates_and_the_crl_of_its_endpoint(scep: ServedScep) -> None:
    """As sscep does: signed with its certificate, and all with one transactionID."""
    held = scep.certificate(scep.pkcs_req("reader"))
    key, names = rsa_key("reader"), issuer_and_serial(held)
    get_cert = by_issuer_and_serial(scep, held, key, "21", names)
    assert the_certificate(scep.ask(get_cert), get_cert) == held
    assert the_certificate(scep.ask(get_cert, get=True), get_cert) == held
    get_crl = by_issuer_and_serial(scep, held, key, "22", names)
    [crl] = opened(scep.ask(get_crl), get_crl).crls
    assert crl.is_signature_valid(scep.ca.public_key())  # type: ignore[arg-type]  # an RSA CA
    status, published = scep.server.get(f"{scep.server.http_url}/crl/devices.crl")
    assert (status, crl.public_bytes(Encoding.DER)) == (200, published)
    elsewhere = scep.certificate(scep.pkcs_req("reader"), "plain")
    for inside in (issuer_and_serial(elsewhere), issuer_and_serial(scep.ra), b"garbage"):
        answer = scep.ask(by_issuer_and_serial(scep, held, key, "21", inside))
        assert (answer.status, answer.fail_info) == ("2", BAD_CERT_ID)
    stranger = by_issuer_and_serial(scep, elsewhere, key, "21", names)
    assert scep.ask(stranger).fail_info == BAD_REQUEST


def test_the_log_has_no_traceback_and_no_secret(scep: ServedScep) -> None:
    text = scep.server.log_text()
    assert CHALLENGE not in text
    assert not re.search(r"Traceback|\"level\": ?\"error\"", text)
