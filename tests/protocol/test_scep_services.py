"""Webhook and Intune at a real server, with stand-ins over HTTPS behind a private CA: who gets in, and whatever can go wrong outside.

The stand-in of Intune knows what Microsoft documents and its published library does; it is not the real service.
"""

from __future__ import annotations

import base64
import gzip
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from certwright.errors import Refused
from certwright.outbound import Outbound, tls_context
from scep.authorization import REFUSED
from scep.services import NOT_CHECKED, HttpRequest, ServiceFailure
from tests.helpers.perspectives import Pki
from tests.helpers.scep import Answer, Message, csr, enveloped, opened_certificates, parse_answer, rsa_key
from tests.helpers.scep_services import Heard, MicrosoftService, Said, StandIn, WebhookService, as_json
from tests.helpers.server import PATIENCE, Server, reserved_ports

CHALLENGE = "known to the webhook alone"
INTUNE_CHALLENGE = "MIIGintune+" + "challenge/" * 60 + "=="
KEY = bytes(range(32))
MARK = "octets-of-an-answer"  # in what the stand-ins say when something is wrong with it


@dataclass(slots=True)
class Site:
    server: Server
    hook: StandIn
    elsewhere: StandIn
    microsoft: StandIn
    service: MicrosoftService
    ra: x509.Certificate

    def message(self, challenge: str = CHALLENGE, *, common_name: str = "dev1", transaction_id: str = "TX-1") -> Message:
        request = csr(rsa_key("device"), common_name=common_name, challenge=challenge)
        return Message(content=enveloped(request, self.ra), transaction_id=transaction_id)

    def post(self, endpoint: str, message: Message) -> bytes:
        url = f"{self.server.http_url}/scep/{endpoint}?operation=PKIOperation"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, message.encode()), timeout=PATIENCE) as response:
            return bytes(response.read())

    def ask(self, endpoint: str, message: Message) -> Answer:
        return parse_answer(self.post(endpoint, message))

    def said(self) -> str:
        """What the operator reads of requests that were refused, or of what is away."""
        lines = [line["event"] for line in self.server.log_lines() if str(line.get("logger", "")).startswith("scep.")]
        return "\n".join(lines)

    def logs(self, text: str) -> None:
        """Until it has."""
        self.server.wait_until(lambda: text in self.said(), f"a log line with {text!r}")

    def certificate(self, endpoint: str, message: Message, folder: Path) -> x509.Certificate:
        answer = self.ask(endpoint, message)
        assert (answer.status, answer.text) == ("0", None)
        (found,) = opened_certificates(answer, message, folder)
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("services")
    pki, other = Pki(folder, "private"), Pki(folder, "other")
    certificate = pki.agent("127.0.0.1")
    secret, client_secret = folder / "hook.secret", folder / "intune.secret"
    service = MicrosoftService(known={INTUNE_CHALLENGE: "dev1"})
    for path, text in ((secret, base64.b64encode(KEY).decode()), (client_secret, service.client_secret)):
        path.touch(mode=0o600)
        path.write_text(f"{text}\n")
    with (
        StandIn(certificate, WebhookService(KEY, known={CHALLENGE: "dev1"})) as hook,
        StandIn(pki.agent("127.0.0.2"), WebhookService(KEY)) as misnamed,
        StandIn(None, WebhookService(KEY)) as plain,
        StandIn(certificate, WebhookService(KEY)) as elsewhere,
        StandIn(certificate, service) as microsoft,
    ):
        service.url = microsoft.url
        (closed,) = reserved_ports(hook, 1)

        def webhook(name: str, url: str, challenge: str = "[webhook]", ca_file: Path = pki.ca_file) -> str:
            block = f"url: {url}, secret_file: {secret}, ca_file: {ca_file}, timeout: 1s, roles: [device]"
            return (
                f"    {name}: {{profile: device, registration_authority: scep, challenge: {challenge}, webhook: {{{block}}}}}\n"
            )

        intune = (
            f"tenant: {service.tenant}, client_id: {service.client_id}, client_secret_file: {client_secret}, roles: [device], "
            f"timeout: 2s, login_url: '{service.url}', graph_url: '{service.url}', ca_file: {pki.ca_file}"
        )
        endpoints = (
            webhook("hook", f"{hook.url}/scep"),
            webhook("mixed", f"{hook.url}/scep", "[webhook, static]"),
            webhook("unknown-ca", f"{hook.url}/scep", ca_file=other.ca_file),
            webhook("misnamed", misnamed.url),
            webhook("plain", plain.url.replace("http://", "https://")),
            webhook("closed", f"https://127.0.0.1:{closed}"),
            webhook("nowhere", "https://nowhere.invalid"),
            f"    intune: {{profile: device, registration_authority: scep, challenge: [intune], intune: {{{intune}}}}}\n",
        )
        mark = "\n  scep:\n    default:\n"

        def edit(text: str) -> str:
            assert text.count(mark) == 1
            return text.replace(mark, "\n  scep:\n" + "".join(endpoints) + "    default:\n")

        with Server(edit=edit, workers=1) as server:
            ra = x509.load_pem_x509_certificate((server.directory / "ca" / "scep-ra.pem").read_bytes())
            yield Site(server, hook, elsewhere, microsoft, service, ra)
            log = server.log_text()
            for secret_text in (CHALLENGE, INTUNE_CHALLENGE[:30], service.client_secret, *service.tokens, MARK):
                assert secret_text not in log
            assert base64.b64encode(KEY).decode() not in log
            assert "Traceback" not in log


# ---------------------------------------------------------------- webhook


def test_a_webhook_lets_its_devices_in_and_is_asked_once(site: Site, tmp_path: Path) -> None:
    """The stand-in has checked signature, time and id, and has found the device's name in the request itself."""
    before = len(site.hook.heard)
    message = site.message(transaction_id="first")
    certificate = site.certificate("hook", message, tmp_path)
    assert certificate.public_key() == rsa_key("device").public_key()
    assert site.certificate("hook", message, tmp_path) == certificate
    assert len(site.hook.heard) == before + 1


def test_a_webhook_keeps_everybody_else_out(site: Site) -> None:
    for message in (site.message("guessed"), site.message(common_name="dev2")):
        answer = site.ask("hook", message)
        assert (answer.status, answer.fail_info, answer.text) == ("2", "2", REFUSED)


def test_the_next_way_is_asked_after_a_no(site: Site) -> None:
    challenge = site.server.environment["CERTWRIGHT_SCEP_CHALLENGE"]
    assert site.ask("default", site.message(challenge)).status == "0"
    # The same password belongs to the endpoint `default` alone.
    assert site.ask("mixed", site.message(challenge)).text == REFUSED


ALLOWING = b'{"allow": true, "data": "' + MARK.encode() + b'"}'
WRONG = {
    "status 500": (Said(500, ALLOWING), "it answered with status 500"),
    "status 429": (Said(429, ALLOWING), "it answered with status 429"),
    "no body": (Said(200), "its answer is not JSON"),
    "no JSON": (Said(200, f"<b>{MARK}</b>".encode()), "its answer is not JSON"),
    "no object": (Said(200, b"true"), "its answer is not a JSON object"),
    "a string": (as_json({"allow": "true", "data": MARK}), "its answer has no `allow` that is true or false"),
    "no allow": (as_json({"data": MARK}), "its answer has no `allow` that is true or false"),
    "too slow": (Said(200, ALLOWING, delay=5), "it did not answer within 1 s"),
    "half of it": (Said(200, ALLOWING, {"Content-Length": "1000"}), "it did not answer within 1 s"),
    "too long": (Said(200, ALLOWING + b" " * 65536), "its answer is longer than 65536 octets"),
    "without end": (
        Said(raw=b"HTTP/1.1 200 OK\r\n\r\n" + ALLOWING + b" " * 8_000_000),
        "its answer is longer than 65536 octets",
    ),
    "long headers": (Said(200, ALLOWING, {"X-Long": MARK * 2000}), "does not speak HTTP"),
    "compressed": (Said(200, gzip.compress(ALLOWING), {"Content-Encoding": "gzip"}), "its answer is not JSON"),
    "no HTTP": (Said(raw=f"SSH-2.0-{MARK}\r\n".encode()), "does not speak HTTP"),
    "hangs up": (Said(raw=b""), "it broke off"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_answer_that_is_no_answer_lets_nobody_in(site: Site, name: str) -> None:
    said, logged = WRONG[name]
    with site.hook.scripted(said) as heard:
        answer = site.ask("hook", site.message(transaction_id=name))
    assert (answer.status, answer.fail_info, answer.text) == ("2", "2", NOT_CHECKED)
    assert len(heard) == 1
    site.logs(f"; transaction {name}")
    (line,) = [line for line in site.said().splitlines() if line.endswith(f"; transaction {name}")]
    assert logged in line


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(site: Site, status: int) -> None:
    with site.hook.scripted(Said(status, ALLOWING, {"Location": site.elsewhere.url})):
        assert site.ask("hook", site.message(transaction_id=f"R{status}")).text == NOT_CHECKED
    assert site.elsewhere.heard == []
    site.logs(f"webhook: it answered with status {status}; transaction R{status}")


@pytest.mark.parametrize(
    ("endpoint", "logged"),
    [
        ("unknown-ca", "its TLS certificate is not accepted: "),
        ("misnamed", "its TLS certificate is not accepted: "),
        ("plain", "no TLS connection"),
        ("closed", "no connection: "),
        ("nowhere", "its host name has no address"),
    ],
)
def test_a_server_that_is_not_the_one_is_told_nothing(site: Site, endpoint: str, logged: str) -> None:
    before = len(site.hook.heard)
    assert site.ask(endpoint, site.message(transaction_id="TLS")).text == NOT_CHECKED
    site.logs(f"SCEP endpoint {endpoint}: webhook: {logged}")
    assert len(site.hook.heard) == before


def test_a_status_that_refuses_is_a_no_and_named_in_the_log(site: Site) -> None:
    with site.hook.scripted(Said(401, ALLOWING)):
        assert site.ask("hook", site.message(transaction_id="no-401")).text == REFUSED
    site.logs("webhook: it answered with status 401, which is a no; does it know our secret?; transaction no-401")


# ---------------------------------------------------------------- Intune


def notifications(site: Site) -> list[tuple[str, str]]:
    return [(action, content.get("certificateThumbprint", "")) for action, content in site.service.notified]


def thumbprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303  # Microsoft's


def test_intune_lets_its_devices_in_and_hears_of_their_certificates(site: Site, tmp_path: Path) -> None:
    site.service.notified.clear()
    certificate = site.certificate("intune", site.message(INTUNE_CHALLENGE, transaction_id="i1"), tmp_path)
    assert notifications(site) == [("successNotification", thumbprint(certificate))]


def test_intune_keeps_everybody_else_out(site: Site) -> None:
    site.service.notified.clear()
    for challenge, name in (("x" * 600, "dev1"), (INTUNE_CHALLENGE, "dev2"), ("short", "dev1")):
        answer = site.ask("intune", site.message(challenge, common_name=name, transaction_id="i2"))
        assert (answer.status, answer.fail_info, answer.text) == ("2", "2", REFUSED)
    assert site.service.notified == []
    site.logs("Intune: validateRequest: SubjectNameMismatch; transaction i2")


def test_a_certificate_that_intune_has_not_heard_of_is_kept_back(site: Site, tmp_path: Path) -> None:
    """503 for the device; when it asks again it gets the certificate that was issued the first time."""
    site.service.notified.clear()
    message = site.message(INTUNE_CHALLENGE, transaction_id="i3")
    site.service.codes["successNotification"] = ["ChallengeExpired"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        site.post("intune", message)
    with refused.value as answer:
        assert (answer.code, answer.headers["Retry-After"]) == (503, "5")
        assert b"Intune" not in answer.read()
    assert site.service.notified == []
    certificate = site.certificate("intune", message, tmp_path)
    assert notifications(site) == [("successNotification", thumbprint(certificate))]
    site.logs(f"Intune: successNotification of certificate {certificate.serial_number:x}: ChallengeExpired; transaction i3")


def test_intune_is_told_when_policy_refuses(site: Site) -> None:
    """The profile makes certificates for RSA keys of a size that this one does not have."""
    site.service.notified.clear()
    request = csr(rsa_key("small", 1024), common_name="dev1", challenge=INTUNE_CHALLENGE)
    message = Message(key=rsa_key("small", 1024), content=enveloped(request, site.ra), transaction_id="i4")
    assert site.ask("intune", message).status == "2"
    ((action, content),) = site.service.notified
    assert action == "failureNotification"
    assert (content["transactionId"], content["hResult"]) == ("i4", 0x80094014 - 2**32)
    assert 0 < len(content["errorDescription"]) <= 255


def test_an_intune_that_is_away_lets_nobody_in(site: Site) -> None:
    for name, said, logged in (
        ("a1", Said(503), "Intune answered with status 503"),
        ("a2", Said(200, MARK.encode()), "its answer is not JSON"),
        ("a3", Said(302, b"", {"Location": site.elsewhere.url}), "Intune answered with status 302"),
        ("a4", Said(200, b'{"code": "Success"}', delay=5), "it did not answer within 2 s"),
    ):
        # What comes before, tokens and the address, is known by now or looked for anew: only the question itself is answered so.
        site.ask("intune", site.message(INTUNE_CHALLENGE, transaction_id="i1"))
        with site.microsoft.scripted(said):
            answer = site.ask("intune", site.message(INTUNE_CHALLENGE, transaction_id=name))
        assert (answer.status, answer.text) == ("2", NOT_CHECKED)
        site.logs(f"Intune: {logged}; transaction {name}")
    assert site.elsewhere.heard == []


def test_results_are_counted_per_way(site: Site) -> None:
    for challenge in (CHALLENGE, "wrong"):
        site.ask("hook", site.message(challenge, transaction_id="m"))
    site.ask("closed", site.message(transaction_id="m"))
    with urllib.request.urlopen(site.server.metrics_url, timeout=PATIENCE) as response:
        text = response.read().decode()
    for endpoint, result in (("hook", "allowed"), ("hook", "denied"), ("closed", "failed")):
        assert f'certwright_scep_authorizations_total{{endpoint="{endpoint}",result="{result}",way="webhook"}}' in text


# ---------------------------------------------------------------- the client alone


async def test_no_proxy_of_the_environment_hears_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    with StandIn(None, Echo()) as proxy, StandIn(pki.agent("127.0.0.1"), Echo()) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        client = Outbound(tls_context(pki.ca_file), timeout=timedelta(seconds=5))
        reply = await client.send(HttpRequest("GET", server.url, {}))
        await client.close()
    assert (reply.status, reply.body) == (200, b"GET")
    assert proxy.heard == []


class Echo:
    def answer(self, heard: Heard) -> Said:
        return Said(200, heard.method.encode(), {"Set-Cookie": "a=b"})


async def test_requests_carry_no_cookies_and_ask_for_no_compression(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    with StandIn(pki.agent("127.0.0.1"), Echo()) as server:
        client = Outbound(tls_context(pki.ca_file), timeout=timedelta(seconds=5))
        for _ in range(2):
            await client.send(HttpRequest("POST", server.url, {"Content-Type": "application/json"}, b"{}"))
        await client.close()
    assert len(server.heard) == 2
    for heard in server.heard:
        assert "cookie" not in heard.headers
        assert (heard.headers["accept-encoding"], heard.headers["user-agent"]) == ("identity", "certwright")


async def test_one_request_is_bounded_in_time_by_itself(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    with StandIn(pki.agent("127.0.0.1"), Echo()) as server, server.scripted(Said(delay=30)):
        client = Outbound(tls_context(pki.ca_file), timeout=timedelta(seconds=0.2))
        with pytest.raises(ServiceFailure, match="it did not answer in time"):
            await client.send(HttpRequest("GET", server.url, {}))
        await client.close()


def test_a_ca_file_that_holds_none_any_more_is_named(tmp_path: Path) -> None:
    gone, empty = tmp_path / "gone.pem", tmp_path / "empty.pem"
    empty.touch()
    for path in (gone, empty):
        with pytest.raises(Refused, match=rf"{path} cannot be used as CA certificates: "):
            tls_context(path)


def test_old_tls_is_not_spoken() -> None:
    context = tls_context(None)
    assert (context.minimum_version, context.check_hostname, context.verify_mode) == (
        ssl.TLSVersion.TLSv1_2,
        True,
        ssl.CERT_REQUIRED,
    )
