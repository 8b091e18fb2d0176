"""One-time challenges of a whole server: made by the command line and by REST, used by SCEP, and nowhere in a log."""

from __future__ import annotations

import sqlite3
import ssl
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.helpers.scep import Message, csr, enveloped, parse_answer, rsa_key
from tests.helpers.scep_endpoints import ServedScep
from tests.helpers.scep_site import the_certificate
from tests.helpers.server import Server, run
from tests.helpers.wire import Wire

PKI_OPERATION = "/scep?operation=PKIOperation"
SPOKEN: list[str] = []  # every challenge that was made here


def with_makers(text: str) -> str:
    edited = text.replace(
        "challenge: [static, one-time]", "one_time: {makers: [operator]}\n      challenge: [static, one-time]"
    )
    assert edited != text
    return edited


@pytest.fixture(scope="module")
def scep() -> Iterator[ServedScep]:
    with Server(edit=with_makers) as server:
        served = ServedScep(server)
        yield served
        served.http.close()


def cli(scep: ServedScep, *words: str) -> str:
    return run("scep", "challenge", *words, "--config", scep.server.config_file).stdout


def created(scep: ServedScep, *words: str) -> str:
    SPOKEN.append(cli(scep, "create", *words).strip())
    return SPOKEN[-1]


def state(scep: ServedScep, challenge_id: str = "") -> str:
    """What the list says of the newest, or of one. Read where the list reads it, for a command takes a second."""
    with closing(sqlite3.connect(scep.server.directory / "certwright.db")) as connection:
        found = connection.execute(
            "SELECT used_by, disabled_at FROM scep_challenge WHERE $1 IN (id, '') ORDER BY created_at DESC", (challenge_id,)
        )
        used_by, disabled_at = found.fetchone()
    if used_by:
        return "burnt" if used_by.startswith("refused:") else "used"
    return "open" if disabled_at is None else "disabled"


def request(scep: ServedScep, challenge: str, label: str, names: Sequence[str], transaction: str = "") -> Message:
    content = csr(rsa_key(label), common_name=label, sans=names, challenge=challenge)
    return Message(key=rsa_key(label), content=enveloped(content, scep.ra), transaction_id=transaction or f"TX {label}")


def rest(scep: ServedScep, method: str, path: str = "", body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    wire = Wire(scep.server.https_port, ssl.create_default_context(cafile=str(scep.server.ca_file)))
    headers = {"X-API-Key": scep.server.environment["CERTWRIGHT_API_KEY"]}
    data = None if body is None else orjson.dumps(body)
    reply = wire.send(method, f"/api/v1/scep/challenges{path}", data, headers)
    wire.close()
    return reply.status, orjson.loads(reply.body) if reply.body else {}


def test_what_an_operator_made_a_challenge_for_is_issued_once(scep: ServedScep) -> None:
    challenge = created(scep, "--subject", "CN=router7,O=Proto", "--san", "router7.example.com", "--expires", "10m")
    asked = request(scep, challenge, "router7", ["router7.example.com"])
    certificate = scep.certificate(asked)
    assert scep.certificate(replace(asked, nonce=b"again and again!")) == certificate
    assert scep.certificate(asked, get=True) == certificate
    again = scep.ask(request(scep, challenge, "router8", ["router7.example.com"]))
    assert (again.status, again.fail_info) == ("2", "2")
    assert state(scep) == "used"


def test_another_request_burns_it(scep: ServedScep) -> None:
    challenge = created(scep, "--subject", "CN=router9,O=Proto", "--san", "router9.example.com")
    for names, said in ((["www.example.com"], "made for another request"), (["router9.example.com"], "missing, wrong, used")):
        answer = scep.ask(request(scep, challenge, "router9", names, transaction=f"TX {names[0]}"))
        assert answer.status == "2"
        assert said in (answer.text or "")
    assert state(scep) == "burnt"


def test_a_disabled_challenge_opens_nothing(scep: ServedScep) -> None:
    challenge = created(scep, "--any-name")
    made = next(row for row in orjson.loads(cli(scep, "list", "-o", "json")) if row["kind"] == "one-time")
    assert (made["state"], made["for"]) == ("open", "any request")
    cli(scep, "disable", str(made["id"]))
    assert scep.ask(request(scep, challenge, "router10", ["router10.example.com"])).status == "2"


def test_what_a_program_made_a_challenge_for_is_issued(scep: ServedScep) -> None:
    status, made = rest(scep, "POST", body={"names": ["phone1.example.com"], "expires_in": 600})
    assert status == 201
    SPOKEN.append(made["challenge"])
    asked = request(scep, made["challenge"], "phone1.example.com", ["phone1.example.com"])
    assert the_certificate(scep.ask(asked), asked).subject.rfc4514_string() == "CN=phone1.example.com"
    _, page = rest(scep, "GET", "?limit=1")
    assert [(each["id"], each["status"]) for each in page["challenges"]] == [(made["id"], "used")]
    assert state(scep, made["id"]) == "used"
    assert rest(scep, "DELETE", f"/{made['id']}")[0] == 404
    _, other = rest(scep, "POST", body={"subject": "CN=phone2"})
    SPOKEN.append(other["challenge"])
    assert rest(scep, "DELETE", f"/{other['id']}")[0] == 204
    assert state(scep, other["id"]) == "disabled"
    assert rest(scep, "POST", body={"names": ["a.example.com"], "endpoint": "vpn"})[0] == 403


def test_two_of_a_kind_at_once_are_one_certificate(scep: ServedScep) -> None:
    """More than one worker may have them."""
    challenge = created(scep, "--any-name")
    asked = [request(scep, challenge, f"phone{n}", [f"phone{n}.example.com"]).encode() for n in (3, 4, 5)]
    with ThreadPoolExecutor(len(asked)) as pool:
        wires = [Wire(scep.server.http_port) for _ in asked]
        replies = list(pool.map(lambda each: each[0].send("POST", PKI_OPERATION, each[1]), zip(wires, asked, strict=True)))
    for wire in wires:
        wire.close()
    assert sorted(parse_answer(reply.body).status for reply in replies) == ["0", "2", "2"]


def test_no_challenge_is_in_a_log_or_in_the_database(scep: ServedScep) -> None:
    scep.ask(request(scep, created(scep, "--any-name"), "phone6", ["phone6.example.com"]), "default", get=True)
    kept = scep.server.log_text() + repr([path.read_bytes() for path in scep.server.directory.glob("certwright.db*")])
    for challenge in SPOKEN:
        assert challenge not in kept
        assert challenge.lower() not in kept
