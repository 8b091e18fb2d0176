"""Every way in to a real server.

with Neighbourhood() as around, Server(resolver=around.dns.address, http01_port=around.http.port) as server:
    doors = Doors(server, around)
    reply = doors.ask(Door.EST, Wanted())
    doors.certificate(Door.EST, reply)

Requests are written with other code than ours: by hand, with http.client and raw sockets.
"""

from __future__ import annotations

import base64
import enum
import itertools
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    pkcs7,
)

from tests.helpers import cmc, scep
from tests.helpers.acme_client import AccountKey, to_json
from tests.helpers.keygen import delivered, spki_in, spki_of
from tests.helpers.neighbourhood import ACME_PROBLEM, Account, Neighbourhood
from tests.helpers.scep import Message, enveloped
from tests.helpers.server import PATIENCE, Server
from tests.helpers.wanted import PrivateKey, Wanted, pem_csr
from tests.helpers.wire import Reply, Wire

REST_PROBLEM = "urn:certwright:problem:"


class Door(enum.Enum):
    """What can end in a certificate."""

    ACME = "ACME finalize"
    EST = "EST simpleenroll"
    EST_KEYGEN = "EST serverkeygen"
    EST_RENEWAL = "EST simplereenroll by an agent"  # the one kind of renewal whose names are the requester's own
    EST_CMC = (
        "EST fullcmc by password"  # signed with the request's own key: every other signer is somebody by it, test_est_cmc.py
    )
    SCEP_POST = "SCEP PKCSReq by POST"
    SCEP_GET = "SCEP PKCSReq by GET"
    SCEP_ONCE = "SCEP PKCSReq by a challenge that opens once"
    SCEP_RENEWAL = "SCEP RenewalReq"  # signed with a certificate that may change its names; by PKCSReq: test_scep_renewal.py
    REST_JSON = "REST with JSON"
    REST_PEM = "REST with a bare CSR"


EST_OPERATIONS = {
    Door.EST: "simpleenroll",
    Door.EST_KEYGEN: "serverkeygen",
    Door.EST_RENEWAL: "simplereenroll",
    Door.EST_CMC: "fullcmc",
}

SCEP_DOORS = (Door.SCEP_POST, Door.SCEP_GET, Door.SCEP_ONCE, Door.SCEP_RENEWAL)
# They need something that was made beforehand for each request: a challenge, a certificate.
PREPARED = frozenset({Door.SCEP_ONCE, Door.SCEP_RENEWAL})


# ---------------------------------------------------------------------- the doors


@dataclass(frozen=True, slots=True)
class Secrets:
    """What somebody has. None: nothing is sent at all."""

    api_key: str | None
    est: tuple[str, str] | None
    challenge: str | None
    account: Account
    est_label: str = ""
    scep_endpoint: str = "default"
    certificate: Path | None = None  # with its key, for renewals
    renewal_label: str = ""
    once: Callable[[], str] | None = None  # makes a SCEP challenge that opens once
    held: Path | None = None  # a certificate of SCEP's, with its key


class Doors:
    """A client of every protocol, with the credentials that `init` made unless others are given."""

    def __init__(self, server: Server, around: Neighbourhood, *, timeout: float = PATIENCE) -> None:
        context = ssl.create_default_context(cafile=str(server.ca_file))
        self.server = server
        self.around = around
        self.https = Wire(server.https_port, context, timeout=timeout)
        self.mtls = Wire(server.mtls_port, context, timeout=timeout)
        self.http = Wire(server.http_port, timeout=timeout)
        self.ra = x509.load_pem_x509_certificate((server.directory / "ca" / "scep-ra.pem").read_bytes())
        given = server.environment
        self.secrets = Secrets(
            api_key=given["CERTWRIGHT_API_KEY"],
            est=(given["CERTWRIGHT_EST_USER"], given["CERTWRIGHT_EST_PASSWORD"]),
            challenge=given["CERTWRIGHT_SCEP_CHALLENGE"],
            account=self.account(),
            certificate=around.agent,
        )
        self._certified: dict[Path | None, Wire] = {None: self.mtls}
        self._transactions = (f"TX-{number}" for number in itertools.count(1))
        self._signers: dict[bytes, x509.Certificate] = {}

    def account(self, endpoint: str = "default", *, key: AccountKey | None = None) -> Account:
        """Not registered yet."""
        return Account(self.https, self.server.base_url, self.around, endpoint=endpoint, key=key)

    def close(self) -> None:
        for wire in (self.https, self.http, *self._certified.values()):
            wire.close()

    def _shows(self, certificate: Path | None) -> Wire:
        """The mtls listener, in a connection with this certificate."""
        if certificate not in self._certified:
            context = ssl.create_default_context(cafile=str(self.server.ca_file))
            assert certificate is not None
            context.load_cert_chain(certificate)
            self._certified[certificate] = Wire(self.server.mtls_port, context, timeout=self.mtls.timeout)
        return self._certified[certificate]

    def ask(self, door: Door, wanted: Wanted, secrets: Secrets | None = None, **members: Any) -> Reply:
        """One request for a certificate. `members` go into ACME's newOrder or REST's JSON."""
        own = secrets or self.secrets
        match door:
            case Door.ACME:
                return self._by_acme(own.account, wanted, members)
            case Door.EST | Door.EST_KEYGEN:
                return self.simple_enroll(wanted.csr(), own.est, label=own.est_label, operation=EST_OPERATIONS[door])
            case Door.EST_RENEWAL:
                return self.renew(wanted.csr(), own)
            case Door.EST_CMC:
                return self.full_cmc(self.pki_data(wanted), own.est, label=own.est_label)
            case Door.SCEP_POST | Door.SCEP_GET | Door.SCEP_ONCE | Door.SCEP_RENEWAL:
                return self.scep(door, self.scep_message(door, wanted, own), own)
            case Door.REST_JSON:
                return self.rest(to_json({"csr": pem_csr(wanted.csr()), **members}), own.api_key)
            case Door.REST_PEM:
                return self.rest(pem_csr(wanted.csr()).encode(), own.api_key, content_type="application/x-pem-file", **members)
            case _:
                assert_never(door)

    def _by_acme(self, account: Account, wanted: Wanted, members: Mapping[str, Any]) -> Reply:
        order = account.order(*wanted.names, **members)
        if order.status != 201:
            return order
        account.authorize(order)
        return account.finalize(order, wanted.csr())

    def renew(self, csr: bytes, secrets: Secrets) -> Reply:
        label = f"{secrets.renewal_label}/" if secrets.renewal_label else ""
        path = f"/.well-known/est/{label}{EST_OPERATIONS[Door.EST_RENEWAL]}"
        headers = {"Content-Type": "application/pkcs10"}
        return self._shows(secrets.certificate).send("POST", path, base64.b64encode(csr), headers)

    def simple_enroll(
        self, csr: bytes, user: tuple[str, str] | None, *, label: str = "", operation: str = "simpleenroll", **headers: str
    ) -> Reply:
        path = f"/.well-known/est/{label}/{operation}" if label else f"/.well-known/est/{operation}"
        sent = {"Content-Type": "application/pkcs10", **(basic(*user) if user else {}), **headers}
        return self.mtls.send("POST", path, base64.b64encode(csr), sent)

    def pki_data(self, wanted: Wanted, *, by: PrivateKey | None = None, signs_for: PrivateKey | None = None) -> bytes:
        """A CMC message with this request in a transaction of its own, for the same message is the same request. Signed with its
        key, or with the key of somebody else; or `signs_for` it.
        """
        key = by or wanted.key()
        signer = cmc.SignerOf(key, self._signer(key), signs_for=signs_for)
        transaction = cmc.control(2, cmc.TRANSACTION_ID, scep.integer(int.from_bytes(os.urandom(8), "big")))
        return cmc.signed(cmc.pki_data([transaction], [cmc.tcr(1, wanted.csr())]), signer)

    def full_cmc(self, message: bytes, user: tuple[str, str] | None, *, label: str = "", **headers: str) -> Reply:
        sent = {"Content-Type": "application/pkcs7-mime; smime-type=CMC-request", **headers}
        return self.simple_enroll(message, user, label=label, operation=EST_OPERATIONS[Door.EST_CMC], **sent)

    def pkcs_req(self, wanted: Wanted, *, challenge: str | None, **changes: Any) -> Message:
        content = enveloped(wanted.csr(challenge=challenge), self.ra)
        message = Message(key=wanted.key(), content=content, transaction_id=next(self._transactions), **changes)
        message.signer = self._signer(message.key)
        return message

    def scep_message(self, door: Door, wanted: Wanted, own: Secrets, **changes: Any) -> Message:
        """What asks for a certificate at this door of SCEP."""
        match door:
            case Door.SCEP_ONCE:
                return self.pkcs_req(wanted, challenge=own.once() if own.once else None, **changes)
            case Door.SCEP_RENEWAL:
                message = self.pkcs_req(wanted, challenge=own.challenge, message_type="17", **changes)
                if own.held is not None:
                    message.key, message.signer = holder_of(own.held)
                return message
            case _:
                return self.pkcs_req(wanted, challenge=own.challenge, **changes)

    def scep(self, door: Door, message: Message, own: Secrets) -> Reply:
        return self.pki_operation(message.encode(), get=door is Door.SCEP_GET, endpoint=own.scep_endpoint)

    def _signer(self, key: PrivateKey) -> x509.Certificate:
        """One self-signed certificate for each key: answers are encrypted to its issuer and serial."""
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if spki not in self._signers:
            self._signers[spki] = scep.self_signed(key)
        return self._signers[spki]

    def pki_operation(self, message: bytes, *, get: bool = False, endpoint: str = "default") -> Reply:
        path = f"/scep/{endpoint}?operation=PKIOperation"
        if get:
            return self.http.send("GET", f"{path}&message={quote(base64.b64encode(message), safe='')}")
        return self.http.send("POST", path, message, {"Content-Type": "application/x-pki-message"})

    def rest(
        self,
        body: bytes,
        api_key: str | None,
        *,
        content_type: str = "application/json",
        profile: str | None = None,
        **headers: str,
    ) -> Reply:
        sent = {"Content-Type": content_type, **({"X-API-Key": api_key} if api_key is not None else {}), **headers}
        query = f"?profile={quote(profile)}" if profile is not None else ""
        return self.https.send("POST", f"/api/v1/certificates{query}", body, sent)

    # ------------------------------------------------------------------ what came back

    def certificate(self, door: Door, reply: Reply, wanted: Wanted, folder: Path) -> x509.Certificate:
        """The certificate in a reply that grants."""
        match door:
            case Door.ACME:
                assert reply.status == 200, reply.body
                chain = self.secrets.account.post(reply.json["certificate"])
                return x509.load_pem_x509_certificates(chain.body)[0]
            case Door.EST | Door.EST_RENEWAL:
                assert reply.status == 200, reply.body
                [leaf] = pkcs7.load_der_pkcs7_certificates(base64.b64decode(reply.body))
                return leaf
            case Door.EST_CMC:
                assert reply.status == 200, reply.body
                return cmc.read_reply(reply.body).certificate_of(wanted.key())
            case Door.EST_KEYGEN:
                assert reply.status == 200, reply.body
                given = delivered(reply.headers["Content-Type"], reply.body)
                assert spki_of(given.key) == spki_in(given.certificate)
                return given.certificate
            case Door.SCEP_POST | Door.SCEP_GET | Door.SCEP_ONCE | Door.SCEP_RENEWAL:
                assert reply.status == 200, reply.body
                answer = scep.parse_answer(reply.body)
                assert answer.status == "0", answer.text
                if door is Door.SCEP_RENEWAL:
                    assert self.secrets.held is not None
                    key, signer = holder_of(self.secrets.held)
                else:
                    key, signer = wanted.key(), self._signer(wanted.key())
                [leaf] = scep.opened_certificates(answer, Message(key=key, signer=signer), folder)
                return leaf
            case Door.REST_JSON | Door.REST_PEM:
                assert reply.status == 201, reply.body
                return x509.load_pem_x509_certificate(reply.json["certificate"].encode())
            case _:
                assert_never(door)


def refusal(door: Door, reply: Reply) -> str:
    """What the protocol's own error says. Fails for anything that is not one: a certificate, a 500, an HTML page."""
    assert reply.status < 500, (reply.status, reply.body)
    match door:
        case Door.ACME:
            assert reply.status >= 400, reply.body
            assert reply.media_type == "application/problem+json"
            content = reply.json
            assert content["status"] == reply.status
            assert content["type"].startswith(ACME_PROBLEM)
            return f"{content['type'].removeprefix(ACME_PROBLEM)}: {content['detail']}"
        case Door.EST | Door.EST_KEYGEN | Door.EST_RENEWAL:
            assert reply.status >= 400, reply.body
            if reply.status == 401:
                assert reply.headers["WWW-Authenticate"].startswith(("Basic realm=", "Digest realm=", "Bearer realm="))
                assert reply.body == b""
                return "unauthenticated"
            assert reply.media_type == "text/plain"
            assert reply.body.endswith(b"\n")
            return reply.body.decode()
        case Door.EST_CMC:
            if reply.media_type != "application/pkcs7-mime":  # not to be read, or HTTP has to say who it is
                return refusal(Door.EST, reply)
            assert reply.status >= 400, reply.body
            said = cmc.read_reply(reply.body).said
            assert all(each.fail_info is not None for each in said)
            return "\n".join(each.text for each in said)
        case Door.SCEP_POST | Door.SCEP_GET | Door.SCEP_ONCE | Door.SCEP_RENEWAL:
            if reply.status == 200:
                assert reply.media_type == "application/x-pki-message"
                answer = scep.parse_answer(reply.body)
                assert (answer.status, answer.message_type, answer.content) == ("2", "3", b"")
                assert answer.fail_info is not None
                return answer.text or ""
            assert reply.status >= 400, reply.body  # nobody could be found to address a CertRep to
            assert reply.media_type == "text/plain"
            return reply.body.decode()
        case Door.REST_JSON | Door.REST_PEM:
            assert reply.status >= 400, reply.body
            assert reply.media_type == "application/problem+json"
            content = reply.json
            assert content["type"].startswith(REST_PROBLEM)
            assert content["detail"] == content["error"]
            return f"{content['type'].removeprefix(REST_PROBLEM)}: {content['detail']}"
        case _:
            assert_never(door)


def pending(door: Door, reply: Reply) -> int:
    """In how many seconds to ask again, as the protocol says that a request waits; 60 where it says no time (SCEP)."""
    match door:
        case Door.ACME:
            raise AssertionError("no ACME order waits for a person")
        case Door.SCEP_POST | Door.SCEP_GET | Door.SCEP_ONCE | Door.SCEP_RENEWAL:
            assert (reply.status, reply.media_type) == (200, "application/x-pki-message"), reply.body
            answer = scep.parse_answer(reply.body)
            assert (answer.status, answer.message_type, answer.fail_info, answer.content) == ("3", "3", None, b"")
            return 60
        case Door.REST_JSON | Door.REST_PEM:
            assert (reply.status, reply.json["status"]) == (202, "pending"), reply.body
            assert reply.json["id"]
            assert reply.headers["Retry-After"] == str(reply.json["retry_after"])
        case Door.EST | Door.EST_KEYGEN | Door.EST_RENEWAL:  # RFC 7030 §4.2.3, and no body, which BouncyCastle would fail on
            assert (reply.status, reply.body, reply.headers["Content-Length"]) == (202, b"", "0")
        case Door.EST_CMC:  # the body has the token to ask with (RFC 5272 §6.13)
            [said] = cmc.read_reply(reply.body).said
            assert (reply.status, said.status) == (202, 3)
            assert said.token
    return int(reply.headers["Retry-After"])


def holder_of(file: Path) -> tuple[PrivateKey, x509.Certificate]:
    """The key and the certificate in it."""
    content = file.read_bytes()
    key = load_pem_private_key(content, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key, x509.load_pem_x509_certificate(content)


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
