"""Caddy 2.6 (Debian) as an ACME client: a web server that gets its certificates by itself (acmez and certmagic)."""

from __future__ import annotations

from pathlib import Path

from interop.support import Site, hold, needs, run, running, verify, within_a_minute
from tests.helpers.server import free_ports

pytestmark = needs("caddy", package="caddy")

# Caddy proves by whatever the server offers, unless one way is shut.
CADDYFILE = """\
{{
    admin off
    email admin@example.com
    storage file_system {home}/caddy
    skip_install_trust
    default_bind 127.0.0.1
    http_port {http}
    https_port {https}
}}
{name} {{
    tls {{
        issuer acme {{
            dir {directory}
            trusted_roots {root}
            {shut}
        }}
    }}
    respond "served by {name}"
}}
"""


def serve_and_fetch(site: Site, home: Path, *, name: str, directory: str, https: int, shut: str) -> None:
    """Until a visitor who trusts our root gets the page; then the certificate is judged like all others."""
    config = home / "Caddyfile"
    config.write_text(
        CADDYFILE.format(
            home=home, http=site.http01_port, https=https, name=name, directory=directory, root=site.root, shut=shut
        )
    )
    page = home / "page"
    visit: list[str | Path] = [
        "curl",
        "-sS",
        "--fail",
        "--cacert",
        site.root,
        "--resolve",
        f"{name}:{https}:127.0.0.1",
        "-o",
        page,
    ]
    with running(["caddy", "run", "--config", config, "--adapter", "caddyfile"], home=home) as caddy:

        def certificates() -> list[Path]:
            assert caddy.poll() is None, "caddy has ended"
            return list((home / "caddy" / "certificates").glob(f"*/{name}/{name}.crt"))

        within_a_minute("Caddy has its certificate", lambda: bool(certificates()))
        (leaf,) = certificates()
        run([*visit, f"https://{name}:{https}/"], home=home)
    assert page.read_text() == f"served by {name}"
    verify(hold(site, leaf, home=home, chain=leaf), names=[name])


def test_caddy_serves_with_a_certificate_that_it_got_by_http_01(site: Site, home: Path) -> None:
    serve_and_fetch(
        site,
        home,
        name=site.name("caddy"),
        directory=site["ACME_DIRECTORY"],
        https=free_ports(1)[0],
        shut="disable_tlsalpn_challenge",
    )


def test_caddy_serves_with_a_certificate_that_it_got_by_tls_alpn_01_at_the_port_that_it_serves(site: Site, home: Path) -> None:
    serve_and_fetch(
        site,
        home,
        name=site.name("alpn.caddy"),
        directory=site.directory("alpn"),
        https=site.tlsalpn01_port,
        shut="disable_http_challenge",
    )
