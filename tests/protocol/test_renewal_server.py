"""Renewals on a whole server, as it is started by a command: its jobs renew, its commands pull forward, ARI tells of it at once."""

from __future__ import annotations

import ssl
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

from cryptography import x509

from acmeserver.renewal import CertId, render_cert_id
from tests.helpers.neighbourhood import Account, Neighbourhood
from tests.helpers.server import PATIENCE, Server, run
from tests.helpers.wanted import Wanted
from tests.helpers.wire import Reply, Wire

ACME = "\n  acme:\n"
RENEWING = (
    f"{ACME}    renewing:\n"
    "      profiles: [tls-server]\n"
    "      renewal_info: {}\n"
    "      auto_renewal: {min_lifetime: 1h, max_duration: 5d, allow_certificate_get: true}\n"
)
NAME = "host.example.test"
LOOK = 30  # seconds between two looks of the job


def edit(text: str) -> str:
    assert text.count(ACME) == 1
    return text.replace(ACME, RENEWING)


def leaf(body: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificates(body)[0]


def window(reply: Reply) -> tuple[datetime, datetime]:
    assert reply.status == 200, reply.body
    suggested = reply.json["suggestedWindow"]
    return datetime.fromisoformat(suggested["start"]), datetime.fromisoformat(suggested["end"])


def test_the_server_renews_by_itself_and_renewals_can_be_pulled_forward() -> None:
    with (
        Neighbourhood() as around,
        Server(resolver=around.dns.address, http01_port=around.http.port, edit=edit) as server,
        closing(Wire(server.https_port, ssl.create_default_context(cafile=str(server.ca_file)))) as wire,
    ):
        account = Account(wire, server.base_url, around, endpoint="renewing").register()
        now = datetime.now(UTC)

        # An adjustment of a whole lifetime (RFC 8739 §3.5) makes the second certificate due as soon as the first is there.
        terms = {
            "end-date": (now + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lifetime": 3600,
            "lifetime-adjust": 3600,
            "allow-certificate-get": True,
        }
        final = account.finalize(account.ready(NAME, **{"auto-renewal": terms}), Wanted(names=(NAME,)).csr())
        assert final.status == 200, final.body
        url = final.json["star-certificate"].removeprefix(server.base_url)
        first = leaf(wire.send("GET", url).body)
        deadline, second = time.monotonic() + LOOK + PATIENCE, first
        while second == first and time.monotonic() < deadline:
            time.sleep(0.5)
            second = leaf(wire.send("GET", url).body)
        assert second.serial_number != first.serial_number
        assert second.public_key() == first.public_key()
        assert second.not_valid_after_utc - first.not_valid_after_utc == timedelta(hours=1)

        order = account.ready(NAME)
        plain = account.finalize(order, Wanted(names=(NAME,)).csr()).json
        one = leaf(account.post(plain["certificate"]).body)
        key_identifier = one.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        assert key_identifier is not None
        cert_id = render_cert_id(CertId(key_identifier, f"{one.serial_number:x}"))
        path = f"/acme/renewing/renewal-info/{cert_id}"
        start, end = window(wire.send("GET", path))
        assert now + timedelta(days=30) < start < end < now + timedelta(days=47)

        config = ("--config", server.config_file)
        said = run(
            "renewal", "pull", "--issuer", "issuing", "--within", "2h", "--reason-url", "https://ca.example/why", *config
        )
        pulled = wire.send("GET", path)
        start, end = window(pulled)
        assert (end - start, pulled.json["explanationURL"]) == (timedelta(hours=2), "https://ca.example/why")
        assert start < now + timedelta(minutes=10)
        replacing = account.order(NAME, replaces=cert_id)
        assert (replacing.status, replacing.json["replaces"]) == (201, cert_id)
        assert account.order(NAME, replaces=cert_id).status == 409

        run("renewal", "withdraw", said.stdout.partition(":")[0], *config)
        assert window(wire.send("GET", path))[0] > now + timedelta(days=30)
