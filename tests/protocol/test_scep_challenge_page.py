"""The challenge page on the real listeners, read as MDM systems read NDES's; and what of all of SCEP gets into the log there."""

from __future__ import annotations

import asyncio
import base64
import http.client
import re
import socket
import sqlite3
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from certwright.config import load
from issuance.credentials import Credentials
from issuance.hashing import generate_secret
from pki.clock import SystemClock
from pki.reasons import Reason, Rejection
from scep.challenge_page import MAX_UNUSED, parse_basic
from storage.open import open_database
from tests.helpers.scep import Message, csr, enveloped, parse_answer, rsa_key
from tests.helpers.server import Server, run

PAGE = "/certsrv/mscep_admin/"

ENDPOINTS = """  scep:
    default:
      profile: device
      challenge: [static, one-time]
      challenge_page: {roles: [device], expires: 30m}
      registration_authority: scep
      limits: {failures_per_user: 3/15m, failures_per_address: null}
    guarded:
      profile: device
      challenge: [one-time]
      challenge_page: {roles: [device]}
      registration_authority: scep
      limits: {failures_per_user: null, failures_per_address: 2/15m}
    second: {profile: device, challenge: [one-time], challenge_page: {roles: [device]}, registration_authority: scep}
    plain: {profile: device, challenge: [one-time], registration_authority: scep}
"""


def with_pages(text: str) -> str:
    return re.sub(r"(?ms)^  scep:\n    default:\n.*?(?=^validation:)", lambda _: ENDPOINTS + "\n", text)


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes = field(repr=False)

    @property
    def text(self) -> str:
        return self.body.decode("utf-16")  # fails on anything but a page


@dataclass(slots=True)
class Site:
    server: Server
    passwords: dict[str, str]

    def ask(
        self,
        path: str = PAGE,
        user: str | None = "ndes",
        password: str | None = None,
        *,
        method: str = "GET",
        secure: bool = True,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        sent = dict(headers or {})
        if user is not None:
            login = f"{user}:{self.passwords[user] if password is None else password}"
            sent["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        context = ssl.create_default_context(cafile=str(self.server.ca_file))
        connection = (
            http.client.HTTPSConnection("localhost", self.server.https_port, context=context, timeout=20)
            if secure
            else http.client.HTTPConnection("localhost", self.server.http_port, timeout=20)
        )
        try:
            connection.request(method, path, headers=sent)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def challenge(self, path: str = PAGE, user: str = "ndes") -> str:
        reply = self.ask(path, user)
        assert reply.status == 200
        found = re.search(r"challenge password is: <B> ([A-Z0-9]{16,32}) </B>", reply.text)
        assert found is not None
        return found[1]

    def enrol(self, challenge: str, label: str, endpoint: str = "default") -> str:
        """The pkiStatus."""
        ra = x509.load_pem_x509_certificate((self.server.directory / "ca" / "scep-ra.pem").read_bytes())
        key = rsa_key(label)
        request = csr(key, common_name=f"{label}.example.com", sans=(f"{label}.example.com",), challenge=challenge)
        data = Message(key=key, content=enveloped(request, ra), transaction_id=label).encode()
        connection = http.client.HTTPConnection("localhost", self.server.http_port, timeout=20)
        try:
            connection.request("POST", f"/scep/{endpoint}?operation=PKIOperation", data)
            return parse_answer(connection.getresponse().read()).status
        finally:
            connection.close()

    def rows(self, query: str, *arguments: object) -> list[tuple[object, ...]]:
        (file,) = self.server.directory.glob("*.db")
        connection = sqlite3.connect(file, timeout=20)
        try:
            with connection:
                return connection.execute(query, arguments).fetchall()
        finally:
            connection.close()

    def made(self) -> int:
        return int(str(self.rows("SELECT count(*) FROM scep_challenge")[0][0]))

    def command(self, *arguments: str) -> str:
        return run("scep", "user", *arguments, "--config", self.server.config_file).stdout


USERS = {"ndes": "default", "full": "default", "guarded": "guarded", "other": "default", "locked": "default"}


async def add_users(server: Server) -> dict[str, str]:
    """Their passwords. What a command does is below; each takes a second."""
    database = await open_database(load(server.config_file).database, migrate=False)
    try:
        credentials, passwords = Credentials(database=database, clock=SystemClock()), {}
        for user, endpoint in USERS.items():
            passwords[user] = generate_secret()
            await credentials.set_scep_user(endpoint=endpoint, user=user, password=passwords[user])
        return passwords
    finally:
        await database.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Server(edit=with_pages) as server:
        yield Site(server, asyncio.run(add_users(server)))


# ---------------------------------------------------------------- what it gives


def test_the_page_reads_as_that_of_ndes(site: Site) -> None:
    """Zentral decodes utf-16 and looks for [A-Z0-9]{16,32}; Fleet wants a byte order mark, or big-endian; others count the spaces."""
    reply = site.ask()
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-16")
    assert reply.body.startswith(b"\xff\xfe")
    assert reply.headers["Content-Length"] == str(len(reply.body))
    found = re.search(r"(?i)The enrollment challenge password is: <B> (?P<password>\S*)", reply.text)
    assert found is not None
    assert re.fullmatch(r"[0-9A-F]{32}", found["password"])
    after = reply.text[found.end() :]
    assert after.startswith(" </B> <P> This password can be used only once and will expire within 30 minutes.")
    # PSNDESEnrollment: the first word that begins with so many hex digits.
    assert next(word for word in reply.text.split() if re.match(r"[A-F0-9]{16}", word)) == found["password"]


def test_the_thumbprint_is_that_of_the_issuing_ca(site: Site) -> None:
    found = re.search(r"thumbprint \(hash value\) for the CA certificate is: <B> ([0-9A-F ]+) </B>", site.ask().text)
    assert found is not None
    ca = x509.load_pem_x509_certificate((site.server.directory / "ca" / "devices.pem").read_bytes())
    assert bytes.fromhex(found[1]) == ca.fingerprint(hashes.SHA256())


@pytest.mark.parametrize(
    "path",
    [
        "/certsrv/mscep_admin",
        "/certsrv/mscep_admin/",
        "/CertSrv/mscep_admin/",
        "/scep/default/mscep_admin",
        "/scep/default/mscep_admin/",
    ],
)
def test_every_visit_makes_another_challenge(site: Site, path: str) -> None:
    assert site.challenge(path) != site.challenge(path)


def test_nothing_on_the_way_keeps_the_page(site: Site) -> None:
    headers = site.ask().headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers


def test_its_challenge_enrols_any_name_once_at_its_endpoint(site: Site) -> None:
    challenge = site.challenge()
    assert site.enrol(challenge, "elsewhere", endpoint="plain") == "2"
    assert site.enrol(challenge, "one") == "0"
    assert site.enrol(challenge, "one") == "0"  # a retry
    assert site.enrol(challenge, "two") == "2"
    (row,) = site.rows("SELECT made_by, roles, names, expires_at - created_at FROM scep_challenge WHERE used_at IS NOT NULL")
    assert row == ("scep-user:scep:default/ndes", '["device"]', None, 30 * 60 * 1_000_000)


def test_who_was_given_a_challenge_is_on_record(site: Site) -> None:
    challenge = site.challenge(user="other")
    records = site.rows(
        "SELECT principal, subject, detail FROM audit WHERE event = 'scep_challenge.created' AND principal LIKE '%other'"
    )
    assert [record[0] for record in records] == ["scep-user:scep:default/other"]
    assert challenge not in str(records)


# ---------------------------------------------------------------- to whom


def test_plain_http_gets_nothing_and_reads_no_password(site: Site) -> None:
    before = site.made()
    for user in ("ndes", None):
        reply = site.ask(user=user, secure=False)
        assert (reply.status, "WWW-Authenticate" in reply.headers) == (403, False)
    for _ in range(4):
        assert site.ask(user="other", password="wrong", secure=False).status == 403  # and no failure of theirs
    assert site.ask(user="other").status == 200
    assert site.made() == before + 1


def test_who_does_not_log_in_is_asked_to(site: Site) -> None:
    before = site.made()
    for headers in (
        {},
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!!"},
        {"Authorization": "Basic " + base64.b64encode(b"ndes").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:x").decode()},
        {"Authorization": "Negotiate YII="},
        {"Authorization": "Bearer " + site.passwords["ndes"]},
    ):
        reply = site.ask(user=None, headers=headers)
        assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, 'Basic realm="SCEP default"')
        assert reply.body == b""
    assert site.made() == before


@pytest.mark.parametrize(
    ("path", "user"),
    [
        (PAGE, "guarded"),  # of another endpoint
        ("/scep/second/mscep_admin", "ndes"),
        (PAGE, "nobody"),
        (PAGE, "est"),
    ],
)
def test_whose_page_it_is_not_gets_nothing(site: Site, path: str, user: str) -> None:
    environment = site.server.environment
    passwords = {**site.passwords, "nobody": "x", "est": environment["CERTWRIGHT_EST_PASSWORD"]}
    name = environment["CERTWRIGHT_EST_USER"] if user == "est" else user
    assert site.ask(path, name, passwords[user]).status == 401


@pytest.mark.parametrize("path", ["/scep/plain/mscep_admin", "/scep/nosuch/mscep_admin/", "/scep/%64efault%2f/mscep_admin"])
def test_an_endpoint_without_a_page_has_none(site: Site, path: str) -> None:
    assert site.ask(path).status == 404


def test_only_get_makes_a_challenge(site: Site) -> None:
    before = site.made()
    for method in ("HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"):
        reply = site.ask(method=method)
        assert (reply.status, reply.headers["Allow"]) == (405, "GET"), method
    assert site.made() == before


def test_another_sites_page_cannot_have_a_browser_make_one(site: Site) -> None:
    before = site.made()
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "odd"},
        {"Origin": "https://evil.test"},
        {"Origin": "null", "Sec-Fetch-Site": "none"},
    ):
        assert site.ask(headers=headers).status == 403, headers
    assert site.made() == before
    for own in ("none", "same-origin"):
        assert site.ask(headers={"Sec-Fetch-Site": own}).status == 200


def test_guessing_locks_the_user_out(site: Site) -> None:
    assert [site.ask(user="locked", password=f"wrong{n}").status for n in range(3)] == [401] * 3
    reply = site.ask(user="locked")
    assert reply.status == 429
    assert int(reply.headers["Retry-After"]) > 0
    assert site.ask(user="ndes").status == 200
    said = [line["event"] for line in site.server.log_lines() if "locked" in str(line.get("event"))]
    assert "SCEP challenge page of default: 'locked' failed to log in from 127.0.0.1" in said
    assert "SCEP challenge page of default: 'locked' is locked out from 127.0.0.1" in said


def test_guessing_at_many_users_locks_the_address_out(site: Site) -> None:
    page = "/scep/guarded/mscep_admin"
    assert [site.ask(page, f"user{n}", "wrong").status for n in range(2)] == [401] * 2
    assert site.ask(page, "guarded").status == 429
    assert site.ask(user="ndes").status == 200  # another endpoint


def test_a_user_who_leaves_too_many_unused_gets_no_more(site: Site) -> None:
    now = int(time.time() * 1_000_000)
    by = "scep-user:scep:default/full"
    site.rows(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "INSERT INTO scep_challenge SELECT 'full' || i, 'hash' || i, 'default', NULL, NULL, '[]', '', ?, ?, ?, NULL, '', NULL FROM n",
        MAX_UNUSED - 1,
        by,
        now,
        now + 60_000_000,
    )
    site.challenge(user="full")
    reply = site.ask(user="full")
    assert reply.status == 200  # tools read the text of nothing else
    assert "The password cache is full." in reply.text
    assert f"{MAX_UNUSED} challenge passwords" in reply.text
    assert "enrollment challenge password is" not in reply.text
    site.rows("UPDATE scep_challenge SET used_at = ? WHERE id = 'full1'", now)
    site.challenge(user="full")


# ---------------------------------------------------------------- the commands


def test_a_user_is_added_listed_and_ended_with_their_challenges(site: Site) -> None:
    site.passwords["portal"] = site.command("add", "portal").strip()
    unused = site.challenge(user="portal")
    listed = site.command("list", "-o", "json")
    assert '"user": "portal"' in listed or '"user":"portal"' in listed
    assert site.passwords["portal"] not in listed
    assert site.command("disable", "portal") == "'portal' gets no challenges at the SCEP endpoint default any more\n"
    assert site.ask(user="portal").status == 401
    assert site.enrol(unused, "too-late") == "2"


@pytest.mark.parametrize(
    ("endpoint", "why"), [("plain", "has no challenge page"), ("nosuch", "there is no SCEP endpoint 'nosuch'")]
)
def test_a_user_of_no_page_is_not_added(site: Site, endpoint: str, why: str) -> None:
    done = run("scep", "user", "add", "x", "--endpoint", endpoint, "--config", site.server.config_file, check=False)
    assert done.returncode != 0
    assert why in done.stderr


def test_no_device_is_asked_for_a_client_certificate(site: Site) -> None:
    """macOS and Windows give up when it is. EST's listener beside it asks, and shows that it would be seen here."""
    for port, asks in ((site.server.https_port, False), (site.server.mtls_port, True)):
        for version in ("-tls1_2", "-tls1_3"):
            command = ["openssl", "s_client", "-connect", f"localhost:{port}", version, "-msg"]
            told = subprocess.run(command, input=b"", capture_output=True, check=False, timeout=20).stdout
            assert b"Handshake" in told
            assert (b"CertificateRequest" in told) is asks, (port, version)


# ---------------------------------------------------------------- the log

MARK = "Xyzzy0Plugh"


def requests_with(mark: str) -> list[bytes]:
    """Each has the mark in a query, a body or a header, and most are wrong."""
    head = "HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    text = base64.b64encode(f"{mark} {mark} {mark}".encode()).decode()
    lines = [
        f"GET /scep?operation=PKIOperation&message={mark} {head}\r\n",
        f"GET /scep?operation=PKIOperation&message={text} {head}\r\n",
        f"GET /scep?operation={mark} {head}\r\n",
        f"GET /scep?operation=GetCACert&message={mark} {head}\r\n",
        f"GET /scep?operation=GetCACert&message=my {mark} {head}\r\n",  # a raw space
        f"GET /scep?operation=PKIOperation&message=\xe4{mark} {head}\r\n",
        f"GET /scep?operation=PKIOperation&message=\0{mark} {head}\r\n",
        f"GET /scep?operation=PKIOperation&message={mark * 7000} {head}\r\n",  # longer than a line may be
        f"GET /scep/nosuch?operation=PKIOperation&message={mark} {head}\r\n",
        f"GET /nothing?{mark} {head}\r\n",
        f"HEAD /scep?operation=PKIOperation&message={mark} {head}\r\n",
        f"DELETE /scep?operation=PKIOperation&message={mark} {head}\r\n",
        f"GET /scep?operation=GetCACaps {head}Cookie: {mark}\r\nAuthorization: {mark}\r\nReferer: http://a/?{mark}\r\n\r\n",
        f"GET {PAGE}?{mark} {head}Authorization: Basic {mark}\r\n\r\n",
        f"GET {PAGE}?{mark} {head}Authorization: Basic {base64.b64encode(f'ndes:{mark}'.encode()).decode()}\r\n\r\n",
        f"POST /scep?operation=PKIOperation&x={mark} {head}Content-Length: {len(mark)}\r\n\r\n{mark}",
        f"POST /scep?operation=PKIOperation {head}Content-Length: 100\r\n\r\n{mark}",  # ends early
        f"POST /scep?operation=PKIOperation {head}Transfer-Encoding: chunked\r\n\r\n{mark}\r\n",  # no chunk
        f"POST /scep?operation=PKIOperation {head}{mark} {mark}\r\n\r\n",  # no header
        f"{mark} {mark}\r\n\r\n",
    ]
    return [line.encode("latin-1") for line in lines]


def said_to(port: int, request: bytes, context: ssl.SSLContext | None) -> bytes:
    received = b""
    with socket.create_connection(("localhost", port), timeout=20) as plain:
        connection = plain if context is None else context.wrap_socket(plain, server_hostname="localhost")
        try:
            connection.sendall(request)
            if context is None:
                connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except OSError:
            pass  # the server had heard enough
        finally:
            connection.close()
    return received


def test_no_secret_no_body_and_no_query_is_in_the_log(site: Site) -> None:
    context = ssl.create_default_context(cafile=str(site.server.ca_file))
    answers = []
    for request in requests_with(MARK):
        answers.append(said_to(site.server.http_port, request, None))
        if b"Content-Length: 100" not in request:  # it would be waited for
            answers.append(said_to(site.server.https_port, request, context))
    assert not [answer for answer in answers if answer[9:12] not in {b"", b"200", b"400", b"401", b"403", b"404", b"405"}]
    one_time = site.challenge()
    assert site.enrol(one_time, "logged") == "0"
    assert site.enrol(MARK, "refused") == "2"
    assert site.ask(user=None, headers={"Authorization": "Basic x"}).status == 401  # the last line

    site.server.wait_until(lambda: '"status":401' in site.server.log_text().splitlines()[-1], "the last line of the log")
    log = site.server.log_text()
    for secret in (MARK, base64.b64encode(MARK.encode()).decode()[:12], one_time, *site.passwords.values(), "Traceback"):
        assert secret not in log, secret
    assert "operation=" not in log
    assert "transaction refused of 127.0.0.1 refused: BAD_REQUEST: " in log
    stored = b"".join(file.read_bytes() for file in site.server.directory.glob("*.db*"))
    assert b"scep_challenge" in stored
    assert one_time.encode() not in stored
    assert MARK.encode() not in stored


# ---------------------------------------------------------------- parsing


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
def test_user_and_password_are_read_in_any_spelling_of_basic(scheme: str) -> None:
    token = base64.b64encode("Jörg:a:b".encode()).decode()
    assert parse_basic([f"{scheme} {token}"]) == ("Jörg", "a:b")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["Basic"],
        ["Basic Yg=="],
        ["Basic YTpi", "Basic YTpi"],
        ["Digest YTpi"],
        ["Basic YTpiCg=="],  # a line end
        ["Basic YT pi"],
        ["Basic ä"],
        ["Basic /w=="],
    ],
)
def test_anything_else_is_nobody(headers: list[str]) -> None:
    with pytest.raises(Rejection) as refused:
        parse_basic(headers)
    assert refused.value.reason is Reason.UNAUTHENTICATED
