"""Stand-ins for servers that SCEP asks: real HTTPS on loopback, in threads of their own, written with other code than ours.

with StandIn(pki.agent("127.0.0.1"), WebhookService(key)) as server:
    ... server.url ...

A service looks at what it is sent and says what is wrong with it, by its status; a test takes over with `scripted`. Microsoft's
service is known to us by its documentation and its published library alone.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import hmac
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import parse_qs

from cryptography import x509
from cryptography.x509.oid import AttributeOID


@dataclass(frozen=True, slots=True)
class Heard:
    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Said:
    """`delay`: seconds before the first octet; the stand-in's end cuts it short. `raw` is sent instead of everything else."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0
    raw: bytes | None = None


def as_json(content: object, status: int = 200) -> Said:
    return Said(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


class Service(Protocol):
    def answer(self, heard: Heard) -> Said: ...


class StandIn:
    """`certificate`: its certificate and key files; None for plain HTTP."""

    def __init__(self, certificate: tuple[Path, Path] | None, service: Service, *, address: str = "127.0.0.1") -> None:
        self.heard: list[Heard] = []
        self.script: list[Said] = []  # for the next ones, whatever they are
        self._service = service
        self._ended = threading.Event()
        self._server = ThreadingHTTPServer((address, 0), self._handler())
        self._server.daemon_threads = True
        self._address = address
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            # Handshakes are the handlers' business: one that is refused ends its own thread, not the listener.
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self._address}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @contextlib.contextmanager
    def scripted(self, said: Said, *, times: int = 1) -> Iterator[list[Heard]]:
        """What is said to the next ones; gives what is heard meanwhile."""
        before = len(self.heard)
        found: list[Heard] = []
        self.script[:] = [said] * times
        try:
            yield found
        finally:
            self.script.clear()
            found.extend(self.heard[before:])

    def _answer(self, heard: Heard) -> Said:
        self.heard.append(heard)
        return self.script.pop(0) if self.script else self._service.answer(heard)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # whoever does not trust us, or does not wait, hangs up
                    super().handle()

            def finish(self) -> None:
                with contextlib.suppress(OSError):
                    super().finish()

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                said = stand_in._answer(Heard(self.command, self.path, headers, body))
                if said.delay:
                    stand_in._ended.wait(said.delay)
                if said.raw is not None:
                    self.wfile.write(said.raw)
                    self.close_connection = True
                    return
                self.send_response(said.status)
                for name, value in {"Content-Length": str(len(said.body)), **said.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(said.body)

            do_GET = do_POST = _serve  # noqa: N815  # as http.server spells them

            def log_message(self, *arguments: object) -> None: ...

        return Handler


# ---------------------------------------------------------------- a webhook


@dataclass(slots=True)
class WebhookService:
    """Knows challenges, and whom each is for: by common name. It takes nothing unsigned, nothing old and nothing twice."""

    key: bytes
    known: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def answer(self, heard: Heard) -> Said:
        if why := self.objection(heard):
            return as_json({"error": why}, 401)
        content = heard.json()
        request = x509.load_der_x509_csr(base64.b64decode(content["x509CertificateRequest"]["raw"], validate=True))
        (name,) = request.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        assert content["x509CertificateRequest"]["subject"]["commonName"] == name.value
        return as_json({"allow": self.known.get(content["scepChallenge"]) == name.value, "data": {}})

    def objection(self, heard: Heard) -> str:
        expected = hmac.new(self.key, heard.body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(heard.headers.get("x-smallstep-signature", ""), expected):
            return "signature"
        content = heard.json()
        made = dt.datetime.fromisoformat(content["timestamp"])
        if abs(dt.datetime.now(dt.UTC) - made) > dt.timedelta(minutes=5):
            return "timestamp"
        if content["id"] in self.seen:
            return "replay"
        self.seen.add(content["id"])
        return ""


# ---------------------------------------------------------------- Microsoft


GRAPH_PATH = "/v1.0/servicePrincipals/appId=0000000a-0000-0000-c000-000000000000/endpoints"
NOTIFICATION = {"transactionId", "certificateRequest", "callerInfo"}


@dataclass(slots=True)
class MicrosoftService:
    """Login, Graph and Intune at one address. `url` is what Graph names; `known`: challenge -> common name it was made for."""

    tenant: str = "contoso.onmicrosoft.com"
    client_id: str = "5d1e3c0a-0000-4000-8000-000000000001"
    client_secret: str = "T0p~Secret.value-of-the-application"
    url: str = ""
    known: dict[str, str] = field(default_factory=dict)
    codes: dict[str, list[str]] = field(default_factory=dict)  # action -> what is said next
    tokens: dict[str, str] = field(default_factory=dict)  # that are good -> for which resource
    notified: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    lifetime: int = 3599

    def answer(self, heard: Heard) -> Said:
        if heard.path == f"/{self.tenant}/oauth2/v2.0/token":
            return self._token(heard)
        if heard.path == GRAPH_PATH:
            return self._graph(heard)
        _, _, action = heard.path.partition("/intune/ScepActions/")
        return self._act(action, heard) if action else Said(404)

    def _token(self, heard: Heard) -> Said:
        form = {name: values[0] for name, values in parse_qs(heard.body.decode()).items()}
        if heard.headers["content-type"] != "application/x-www-form-urlencoded" or form["grant_type"] != "client_credentials":
            return as_json({"error": "unsupported_grant_type"}, 400)
        if (form["client_id"], form["client_secret"]) != (self.client_id, self.client_secret):
            said = f"AADSTS7000215: Invalid client secret provided: {form['client_secret']}"
            return as_json({"error": "invalid_client", "error_description": said}, 401)
        resource = form["scope"].removesuffix("/.default")
        if resource not in {self.url, "https://api.manage.microsoft.com/"}:
            return as_json({"error": "invalid_scope"}, 400)
        token = f"eyJ0.{len(self.tokens)}.{base64.urlsafe_b64encode(resource.encode()).decode().rstrip('=')}"
        self.tokens[token] = resource
        return as_json({"token_type": "Bearer", "expires_in": self.lifetime, "access_token": token})

    def _may(self, heard: Heard, resource: str) -> bool:
        kind, _, token = heard.headers.get("authorization", "").partition(" ")
        return kind == "Bearer" and self.tokens.get(token) == resource

    def _graph(self, heard: Heard) -> Said:
        if heard.method != "GET" or not self._may(heard, self.url):
            return as_json({"error": {"code": "InvalidAuthenticationToken"}}, 401)
        others = [
            {"providerName": f"Service{number}FEService", "uri": f"https://fef.invalid/{number}"} for number in range(200)
        ]
        ours = {"capability": "x", "providerName": "ScepRequestValidationFEService", "uri": f"{self.url}/intune/"}
        return as_json({"value": [*others, ours]})

    def _act(self, action: str, heard: Heard) -> Said:
        if heard.method != "POST" or not self._may(heard, "https://api.manage.microsoft.com/"):
            return Said(401)
        if heard.headers.get("api-version") != "2018-02-20" or "client-request-id" not in heard.headers:
            return Said(400)
        (kind, content), *more = heard.json().items()
        if more or kind != ("request" if action == "validateRequest" else "notification"):
            return Said(400)
        if scripted := self.codes.get(action):
            return as_json({"code": scripted.pop(0), "errorDescription": f"of {content['certificateRequest']}"})
        code = self._code(action, content)
        if code == "Success" and action != "validateRequest":
            self.notified.append((action, content))
        return as_json({"code": code, "errorDescription": ""})

    def _code(self, action: str, content: dict[str, Any]) -> str:
        try:
            request = x509.load_der_x509_csr(base64.b64decode(content["certificateRequest"], validate=True))
            challenge = request.attributes.get_attribute_for_oid(AttributeOID.CHALLENGE_PASSWORD).value.decode()
        except ValueError:
            return "CertificateRequestDecodingFailed"
        except x509.AttributeNotFound:
            return "ChallengePasswordMissing"
        if challenge not in self.known:
            return "ChallengeDecryptionError"
        (name,) = request.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        if self.known[challenge] != name.value:
            return "SubjectNameMismatch"
        wanted = {
            "validateRequest": NOTIFICATION,
            "successNotification": NOTIFICATION
            | {
                "certificateThumbprint",
                "certificateSerialNumber",
                "certificateExpirationDateUtc",
                "issuingCertificateAuthority",
            },
            "failureNotification": NOTIFICATION | {"hResult", "errorDescription"},
        }
        return "Success" if set(content) == wanted.get(action, set()) else "Unknown"
