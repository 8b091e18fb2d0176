"""An ordinary client at a profile that wants each name proved in two ways: certbot does what each authorization offers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from interop.conftest import dns_server
from interop.dns_hook import dns_provider
from interop.support import needs, run
from interop.webroot import webroot
from tests.helpers.dns import DnsServer
from tests.helpers.server import Server

pytestmark = needs("certbot", package="certbot from PyPI")

# A token is there for http-01 only.
HOOK = """\
#!/bin/sh
if [ -n "$CERTBOT_TOKEN" ]; then
    printf %s "$CERTBOT_VALIDATION" > "$CHALLENGES/$CERTBOT_TOKEN"
else
    curl -sf -d "_acme-challenge.$CERTBOT_DOMAIN $CERTBOT_VALIDATION" "$PROVIDER"
fi
"""


def edited(text: str) -> str:
    for old, new in (
        ("\n  est:\n    default:", "\n    twice: {profiles: [precious], challenges: [http-01, dns-01]}\n  est:\n    default:"),
        ("\n  tls-server:", "\n  precious: {issuer: issuing, validity: 1d, methods_required: 2}\n  tls-server:"),
        ("allowed_profiles: [tls-server, short-lived]\n", "allowed_profiles: [tls-server, short-lived, precious]\n"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with dns_server() as dns:
        yield dns


def test_certbot_proves_a_name_by_http_and_in_the_dns_for_one_certificate(dns: DnsServer, home: Path) -> None:
    name = "twice.interop.example.com"
    dns[name] = ["127.0.0.1"]
    hook = home / "hook.sh"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    with (
        Server(resolver=dns.address, edit=edited) as server,
        dns_provider(dns.txt) as provider,
        webroot(home / "www", server.http01_port) as challenges,
    ):
        run(
            [
                *("certbot", "certonly", "-n", "--server", f"{server.base_url}/acme/twice/directory", "-d", name),
                *("--manual", "--manual-auth-hook", hook, "--preferred-challenges", "http,dns"),
                *("--agree-tos", "--register-unsafely-without-email"),
                *(f"--{kind}-dir={home / kind}" for kind in ("config", "work", "logs")),
            ],
            home=home,
            env={
                "REQUESTS_CA_BUNDLE": str(server.ca_file),
                "PROVIDER": provider,
                "CHALLENGES": str(challenges),
            },
        )
    leaf = x509.load_pem_x509_certificate((home / "config" / "live" / name / "cert.pem").read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name]
