"""SCEP as devices come to it, with messages that are kept: who asks again sends the same octets.

    site = ScepAsking(server)
    ask = site.enroll("host.example.test")
    serial = ask.serial(site.send(ask))

The endpoint `default` is the one that `init` made; `asked` is the same with an approval before every certificate.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs7

from certwright.commands import with_database
from certwright.compose import make_approvals
from certwright.config import load
from issuance.approval_requests import State
from issuance.approvals import Approvals, Verdict
from issuance.scep_challenges import DEFAULT_LIFETIME, ScepChallenges, Terms
from pki.clock import SystemClock
from policy.principal import COMMAND_LINE
from storage.database import Database
from tests.helpers import scep
from tests.helpers.scep import Message, der_of, enveloped, rsa_key, self_signed
from tests.helpers.server import PATIENCE, Server, run
from tests.helpers.wire import Reply, Wire

KEYS = 8  # one has so many transactions at a time, and no more
INSISTENCE = 60.0  # seconds; what was being signed when its worker died waits for the sweeper, which comes every 15
SUCCESS, FAILURE, PENDING = "0", "2", "3"
RENEWAL_REQ, CERT_POLL = "17", "20"
ASKED = (
    "    asked: {profile: device, challenge: [static, one-time], registration_authority: scep, renewal: {roles: [device]}, "
    "require_approval: true}\n"
)


def with_asked(text: str) -> str:
    """The configuration that `init` wrote, and the endpoint `asked`."""
    changed, found = re.subn(r"(?m)^  scep:\n(    default:\n)", rf"  scep:\n{ASKED}\1", text)
    assert found == 1
    return changed


@dataclass(frozen=True, slots=True)
class Device:
    """Who signs, with this certificate: answers are encrypted to it."""

    key: rsa.RSAPrivateKey = field(repr=False)
    signer: x509.Certificate = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ask:
    """One message. `host` is in no other one's names."""

    host: str
    endpoint: str
    body: bytes = field(repr=False)
    device: Device
    transaction_id: str

    def status(self, reply: Reply) -> str:
        """pkiStatus, of an answer to this message."""
        assert (reply.status, reply.media_type) == (200, "application/x-pki-message"), (reply.status, reply.body)
        answer = scep.parse_answer(reply.body)
        assert answer.transaction_id == self.transaction_id
        return answer.status

    def refused(self, reply: Reply) -> tuple[str, str]:
        """failInfo and its text."""
        assert self.status(reply) == FAILURE
        answer = scep.parse_answer(reply.body)
        return answer.fail_info or "", answer.text or ""

    def certificate(self, reply: Reply) -> x509.Certificate:
        status, answer = self.status(reply), scep.parse_answer(reply.body)
        assert status == SUCCESS, (answer.fail_info, answer.text)
        [leaf] = pkcs7.load_der_pkcs7_certificates(
            pkcs7.pkcs7_decrypt_der(answer.content, self.device.signer, self.device.key, [])
        )
        return leaf

    def serial(self, reply: Reply) -> str:
        return f"{self.certificate(reply).serial_number:x}"


class ScepAsking:
    """Each message in a connection of its own. A few keys do for all devices: transactions and names tell them apart."""

    def __init__(self, server: Server) -> None:
        self.server = server
        keys = [rsa_key(f"device {number}") for number in range(KEYS)]
        self._devices = itertools.cycle([Device(key, self_signed(key)) for key in keys])
        self.ra = x509.load_pem_x509_certificate((server.directory / "ca" / "scep-ra.pem").read_bytes())
        self._transactions = (f"TX-{os.getpid()}-{number}" for number in itertools.count(1))
        self.made = 0  # one-time challenges
        self._challenges = {"default": server.environment["CERTWRIGHT_SCEP_CHALLENGE"]}

    # ------------------------------------------------------------------ messages

    def enroll(
        self,
        host: str,
        *,
        endpoint: str = "default",
        challenge: str | None = None,
        cipher: str = "aes-128-cbc",
        digest: str = "sha256",
    ) -> Ask:
        """With the endpoint's static challenge, or another one."""
        device = next(self._devices)
        request = scep.csr(device.key, common_name=host, challenge=challenge or self.static(endpoint), sans=(host,))
        return self._ask(host, endpoint, Message(content=enveloped(request, self.ra, cipher=cipher), digest=digest), device)

    def renew(self, host: str, *, endpoint: str = "default") -> Ask:
        """RenewalReq, by the certificate that its holder gets now."""
        first = self.enroll(host, endpoint=endpoint)
        return self.renew_as(host, Device(first.device.key, first.certificate(self.send(first))), endpoint=endpoint)

    def renew_as(self, host: str, device: Device, *, endpoint: str = "default") -> Ask:
        request = scep.csr(device.key, common_name=host, challenge=None, sans=(host,))
        return self._ask(host, endpoint, Message(content=enveloped(request, self.ra), message_type=RENEWAL_REQ), device)

    def poll(self, ask: Ask) -> Ask:
        """CertPoll for the same transaction, by the same key."""
        subject = ask.device.signer.subject.public_bytes()
        names = scep.seq(subject, subject)
        message = Message(content=enveloped(names, self.ra), message_type=CERT_POLL)
        return self._ask(ask.host, ask.endpoint, message, ask.device, ask.transaction_id)

    def _ask(self, host: str, endpoint: str, message: Message, device: Device, transaction_id: str | None = None) -> Ask:
        message.key, message.signer, message.bag = device.key, device.signer, [der_of(device.signer)]
        message.transaction_id = transaction_id or next(self._transactions)
        return Ask(host, endpoint, message.encode(), device, message.transaction_id)

    # ------------------------------------------------------------------ challenges

    def static(self, endpoint: str) -> str:
        if endpoint not in self._challenges:
            done = run("scep", "challenge", "set", "--endpoint", endpoint, "--config", self.server.config_file)
            [self._challenges[endpoint]] = re.findall(r"\bcws_[\w-]{43}", done.stdout)
        return self._challenges[endpoint]

    def one_time(self, count: int, *, endpoint: str = "default") -> list[str]:
        """Challenges for any name, made as the command line makes them."""
        self.made += count
        terms = Terms(endpoint, frozenset({"device"}))

        async def made(database: Database) -> list[str]:
            challenges = ScepChallenges(database=database, clock=SystemClock())
            found = [await challenges.create(terms, lifetime=DEFAULT_LIFETIME, made_by=COMMAND_LINE) for _ in range(count)]
            return [one.challenge for one in found]

        return with_database(load(self.server.config_file), made)

    # ------------------------------------------------------------------ sending

    def wire(self, *, timeout: float = PATIENCE) -> Wire:
        return Wire(self.server.http_port, timeout=timeout)

    def target(self, ask: Ask) -> str:
        return f"/scep/{ask.endpoint}?operation=PKIOperation"

    def send(self, ask: Ask) -> Reply:
        wire = self.wire()
        try:
            return wire.send("POST", self.target(ask), ask.body)
        finally:
            wire.close()

    def insist(self, ask: Ask) -> Reply:
        """As a device does that has to get its certificate: after a 503, PENDING or a lost connection the same again, for a bounded time."""
        deadline = time.monotonic() + INSISTENCE
        while True:
            reply = None
            with contextlib.suppress(OSError, http.client.HTTPException):
                reply = self.send(ask)
            if reply is not None and reply.status != 503 and ask.status(reply) != PENDING:
                return reply
            assert time.monotonic() < deadline, (ask.endpoint, ask.host, reply)
            time.sleep(0.3)

    def octets(self, ask: Ask) -> bytes:
        """The whole request as it goes over the wire."""
        head = f"POST {self.target(ask)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(ask.body)}\r\n\r\n"
        return head.encode() + ask.body

    # ------------------------------------------------------------------ approvals

    def approve(self, asks: Iterable[Ask]) -> None:
        """Each of them waits, and is approved."""
        for ask in asks:
            assert ask.status(self.send(ask)) == PENDING, ask
        config = load(self.server.config_file)
        with_database(config, lambda database: _approve_all(make_approvals(config, database=database, clock=SystemClock())))


async def _approve_all(approvals: Approvals) -> None:
    for waits in await approvals.newest(state=State.PENDING, limit=1000):
        await approvals.decide(waits.id, Verdict.APPROVE, approver=COMMAND_LINE, by="tester", comment="")
