"""Apache's mod_md (Debian apache2-bin): a web server that gets its certificates by itself, and parses headers in C."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from interop.support import Site, hold, needs, run, running, verify, within_a_minute
from tests.helpers.server import free_ports
from tests.helpers.server import run as certwright

MODULES = Path("/usr/lib/apache2/modules")

pytestmark = needs("apache2", package="apache2-bin")

# The ports are those that a visitor and our validation use; mod_md believes in 80 and 443 unless it is told.
HTTPD_CONF = """\
ServerRoot {home}
ServerName localhost
User {user}
Group {group}
PidFile {home}/httpd.pid
DefaultRuntimeDir {home}
ErrorLog {home}/error.log
LogLevel warn md:debug
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule socache_shmcb_module {modules}/mod_socache_shmcb.so
LoadModule ssl_module {modules}/mod_ssl.so
LoadModule md_module {modules}/mod_md.so
Listen 127.0.0.1:{http}
Listen 127.0.0.1:{https} https

MDStoreDir {home}/md
{md}

<VirtualHost 127.0.0.1:{http}>
    ServerName {first}
    ServerAlias {second}
</VirtualHost>
<VirtualHost 127.0.0.1:{https}>
    ServerName {first}
    ServerAlias {second}
    Protocols http/1.1 acme-tls/1
    SSLEngine on
    DocumentRoot {home}/htdocs
</VirtualHost>
"""


def printed(site: Site, root: Path, names: list[str], directory: str, https: int, challenge: str) -> str:
    """What client-config says, for these names, this endpoint and these ports; children of Apache must be able to read the root."""
    said = certwright("client-config", "mod_md", "--config", site.config).stdout
    for old, new in (
        (site["ACME_DIRECTORY"], directory),
        (str(site.root), str(root)),
        (f"https:{site.tlsalpn01_port}", f"https:{https}"),
        ("MDCAChallenges http-01", f"MDCAChallenges {challenge}"),
        ("MDomain localhost", f"MDomain {' '.join(names)}"),
    ):
        assert said.count(old) == 1, said
        said = said.replace(old, new)
    return said


def serve_and_fetch(site: Site, home: Path, *, names: list[str], directory: str, https: int, challenge: str) -> None:
    """mod_md fetches beside the serving; a graceful restart takes what it got into use, as its manual says."""
    home.chmod(0o755)  # its children are another user when we are root
    root = Path(shutil.copy(site.root, home))
    (home / "htdocs").mkdir()
    (home / "htdocs" / "page").write_text("served by Apache")
    config = home / "httpd.conf"
    config.write_text(
        HTTPD_CONF.format(
            home=home,
            user="www-data",
            group="www-data",
            modules=MODULES,
            http=site.http01_port,
            https=https,
            md=printed(site, root, names, directory, https, challenge),
            first=names[0],
            second=names[1],
        )
    )
    visit: list[str | Path] = [
        "curl",
        "-sS",
        "--fail",
        "--cacert",
        site.root,
        "--resolve",
        f"{names[1]}:{https}:127.0.0.1",
        "-o",
        home / "page",
    ]
    staged, leaf = (home / "md" / where / names[0] / "pubcert.pem" for where in ("staging", "domains"))
    with running(["apache2", "-D", "FOREGROUND", "-f", config], home=home) as apache:
        try:
            within_a_minute("mod_md has its certificate", lambda: apache.poll() is not None or staged.exists())
            assert apache.poll() is None, "apache has ended"
            apache.send_signal(signal.SIGUSR1)
            within_a_minute("Apache uses it", leaf.exists)
            run([*visit, f"https://{names[1]}:{https}/page"], home=home)
        except BaseException:
            print((home / "error.log").read_text(errors="replace"))
            raise
    assert (home / "page").read_text() == "served by Apache"
    verify(hold(site, leaf, home=home, chain=leaf), names=names)


def test_apache_serves_two_names_with_a_certificate_that_it_got_by_http_01(site: Site, home: Path) -> None:
    serve_and_fetch(
        site,
        home,
        names=[site.name("mod-md"), site.name("www.mod-md")],
        directory=site["ACME_DIRECTORY"],
        https=free_ports(1)[0],
        challenge="http-01",
    )


def test_apache_serves_two_names_with_a_certificate_that_it_got_by_tls_alpn_01(site: Site, home: Path) -> None:
    serve_and_fetch(
        site,
        home,
        names=[site.name("alpn.mod-md"), site.name("www.alpn.mod-md")],
        directory=site.directory("alpn"),
        https=site.tlsalpn01_port,
        challenge="tls-alpn-01",
    )
