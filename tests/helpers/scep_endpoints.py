"""SCEP of a whole server: certwright.yaml of `init` with more endpoints, and a client that asks by HTTP.

with scep_server() as scep:
    answer = scep.ask(scep.pkcs_req("router"), "careful")
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import quote

from cryptography import x509

from certwright.config import load
from issuance.credentials import Credentials
from pki.clock import SystemClock
from storage.open import open_database
from tests.helpers.scep import SECRET, Answer, Message, csr, enveloped, parse_answer, rsa_key
from tests.helpers.scep_site import the_certificate
from tests.helpers.server import Server
from tests.helpers.wire import Wire

CHALLENGE = SECRET * 3
# A certificate is made as of five minutes ago: two seconds are left.
BRIEF = """\
  brief: {issuer: devices, validity: 302s, key_usage: [digital_signature], extended_key_usage: [clientAuth], common_name: device,
    require_san: false}"""
ENDPOINTS = """\
    careful: {profile: device, registration_authority: scep, require_approval: true, renewal: {roles: [device]}}
    other: {profile: device, registration_authority: scep, require_approval: true, renewal: {roles: [device]}}
    brief: {profile: brief, registration_authority: scep, renewal: {roles: [device]}}
    patient: {profile: brief, registration_authority: scep, renewal: {roles: [device], grace: 1h}}
    plain: {profile: device, registration_authority: scep}
"""
NAMES = ("default", "careful", "other", "brief", "patient", "plain")


def _edited(text: str) -> str:
    text = text.replace("allowed_profiles: [device]", "allowed_profiles: [device, brief]")
    text, found = re.subn(r"(?m)^(profiles:.*)$", rf"\1\n{BRIEF}", text)
    assert found == 1
    before, validation, after = text.partition("\nvalidation:")
    return before.rstrip("\n") + "\n" + ENDPOINTS + validation + after


class ServedScep:
    """A client of all endpoints, which have one challenge password."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.http = Wire(server.http_port)
        folder = server.directory / "ca"
        self.ra = x509.load_pem_x509_certificate((folder / "scep-ra.pem").read_bytes())
        self.ca = x509.load_pem_x509_certificate((folder / "devices.pem").read_bytes())

    def ask(self, message: Message, endpoint: str = "default", *, get: bool = False) -> Answer:
        path, octets = f"/scep/{endpoint}?operation=PKIOperation", message.encode()
        if get:
            reply = self.http.send("GET", f"{path}&message={quote(base64.b64encode(octets), safe='')}")
        else:
            reply = self.http.send("POST", path, octets)
        assert (reply.status, reply.media_type) == (200, "application/x-pki-message"), reply.body
        return parse_answer(reply.body)

    def certificate(self, message: Message, endpoint: str = "default", *, get: bool = False) -> x509.Certificate:
        return the_certificate(self.ask(message, endpoint, get=get), message)

    def pkcs_req(
        self, label: str, *, names: Sequence[str] | None = None, challenge: str | None = CHALLENGE, transaction: str = "TX-1"
    ) -> Message:
        """From `rsa_key(label)`, with the names CN=label and label.example.com. The same one each time, but for the encryption."""
        sans = (f"{label}.example.com",) if names is None else names
        request = csr(rsa_key(label), common_name=label, sans=sans, challenge=challenge)
        return Message(key=rsa_key(label), content=enveloped(request, self.ra), transaction_id=transaction)

    def restart(self) -> None:
        assert self.server.stop() == 0
        self.server.start()
        self.http.close()


@contextmanager
def scep_server() -> Iterator[ServedScep]:
    with Server(edit=_edited) as server:
        asyncio.run(_set_challenges(server))
        served = ServedScep(server)
        yield served
        served.http.close()


async def _set_challenges(server: Server) -> None:
    database = await open_database(load(server.config_file).database, migrate=False)
    credentials = Credentials(database=database, clock=SystemClock())
    for endpoint in NAMES:
        await credentials.set_scep_challenge(endpoint=endpoint, challenge=CHALLENGE, roles=["device"], profile="")
    await database.close()
