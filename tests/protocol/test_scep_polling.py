"""SCEP requests that wait, with a whole server (RFC 8894 §3.3.2): polled for, decided by `certwright requests`, and answered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.helpers.books import Books
from tests.helpers.scep import Answer, rsa_key, self_signed
from tests.helpers.scep_endpoints import CHALLENGE, ServedScep, scep_server
from tests.helpers.scep_site import poll, the_certificate
from tests.helpers.server import run

BAD_REQUEST, BAD_CERT_ID = "2", "4"


@pytest.fixture(scope="module")
def scep() -> Iterator[ServedScep]:
    with scep_server() as served:
        yield served


def decide(scep: ServedScep, verdict: str, *arguments: str) -> None:
    """About the one that was asked for last."""
    ((newest,),) = Books(scep.server).rows("SELECT id FROM approval_request ORDER BY requested_at DESC LIMIT 1")
    run("requests", verdict, newest, *arguments, "--config", scep.server.config_file)


def waits(answer: Answer) -> None:
    assert (answer.status, answer.fail_info, answer.content, answer.message_type) == ("3", None, b"", "3"), answer.text


def unknown(answer: Answer) -> None:
    assert (answer.status, answer.fail_info, answer.content) == ("2", BAD_CERT_ID, b"")


def test_a_device_polls_until_an_operator_agrees_also_when_the_server_was_down_meanwhile(scep: ServedScep) -> None:
    request = scep.pkcs_req("patient")
    asked = poll(scep, request)
    waits(scep.ask(request, "careful"))
    waits(scep.ask(asked, "careful"))
    waits(scep.ask(request, "careful", get=True))
    scep.restart()
    waits(scep.ask(asked, "careful"))
    decide(scep, "approve", "--comment", "ticket 4711")
    answer = scep.ask(asked, "careful", get=True)
    certificate = the_certificate(answer, asked)
    assert certificate.public_key() == rsa_key("patient").public_key()
    assert certificate.issuer == scep.ca.subject
    assert scep.certificate(request, "careful") == certificate
    assert scep.certificate(asked, "careful") == certificate
    assert Books(scep.server).count("certificate") == 1


def test_who_was_denied_is_told_why(scep: ServedScep) -> None:
    request = scep.pkcs_req("denied")
    waits(scep.ask(request, "careful"))
    decide(scep, "deny", "--reason", "no such device")
    for again in (poll(scep, request), request):
        answer = scep.ask(again, "careful")
        assert (answer.status, answer.fail_info) == ("2", BAD_REQUEST)
        assert "no such device" in (answer.text or "")


def test_what_waits_is_nobody_else_s(scep: ServedScep) -> None:
    """Another key, another endpoint, another id; and devices that all use one id wait each for their own."""
    first, second = [scep.pkcs_req(label, transaction="SSCEP transactionId") for label in ("one", "two")]
    waits(scep.ask(second, "careful"))
    waits(scep.ask(first, "careful"))
    decide(scep, "approve")
    before = Books(scep.server).count("certificate")
    stranger = rsa_key("stranger")
    unknown(scep.ask(poll(scep, first, key=stranger, signer=self_signed(stranger)), "careful"))
    unknown(scep.ask(poll(scep, first), "other"))
    unknown(scep.ask(poll(scep, first), "default"))
    unknown(scep.ask(poll(scep, first, transaction_id="TX-9"), "careful"))
    assert Books(scep.server).count("certificate") == before
    waits(scep.ask(poll(scep, second), "careful"))
    assert scep.certificate(poll(scep, first), "careful").public_key() == first.key.public_key()


def test_what_waits_says_nothing_about_its_challenge(scep: ServedScep) -> None:
    waits(scep.ask(scep.pkcs_req("discreet"), "careful"))
    stored = b"".join(file.read_bytes() for file in scep.server.directory.glob("*.db*"))
    assert b"discreet.example.com" in stored
    assert CHALLENGE.encode() not in stored
    assert CHALLENGE not in scep.server.log_text()
    assert not re.search(r"Traceback|\"level\": ?\"error\"", scep.server.log_text())


def test_a_wrong_challenge_does_not_wait(scep: ServedScep) -> None:
    before = Books(scep.server).count("scep_transaction")
    request = scep.pkcs_req("guessing", challenge="guess")
    assert scep.ask(request, "careful").fail_info == BAD_REQUEST
    unknown(scep.ask(poll(scep, request), "careful"))
    unknown(scep.ask(replace(poll(scep, request), signer=self_signed(rsa_key("guessing"), "other")), "careful"))
    assert Books(scep.server).count("scep_transaction") == before
