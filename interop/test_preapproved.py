"""Clients that are given a name without a challenge: an authorization that is valid from the start, and has none to show.

certbot's story is in test_certbot.py. No DNS server knows these names, so whoever tried to prove one would fail.
"""

from pathlib import Path

import orjson

from interop.support import Site, needs, openssl, run
from tests.helpers.server import run as certwright

pytestmark = needs("lego", package="lego")


def external_key(site: Site, names: str) -> tuple[str, str]:
    options = ("--endpoint", "bound", "--names", names, "--reusable", "-o", "json", "--config", site.config)
    made = orjson.loads(certwright("eab", "create", *options).stdout)
    return made["kid"], made["hmac_key"]


def names_of(certificate: Path, home: Path) -> str:
    return openssl("x509", "-in", certificate, "-noout", "-ext", "subjectAltName", home=home)


def test_lego_takes_a_valid_authorization_for_done(site: Site, home: Path) -> None:
    name = "db.lego.owned.example.com"
    kid, hmac_key = external_key(site, "*.lego.owned.example.com")
    run(
        [
            *("lego", "--server", site.directory("bound"), "--accept-tos", "--email", "admin@example.com"),
            *("--eab", "--kid", kid, "--hmac", hmac_key, "--path", home / "lego"),
            *("--http", "--http.port", f"127.0.0.1:{site.http01_port}", "-d", name, "run"),
        ],
        home=home,
        env={"LEGO_CA_CERTIFICATES": str(site.root)},
    )
    assert f"DNS:{name}" in names_of(home / "lego" / "certificates" / f"{name}.crt", home)
