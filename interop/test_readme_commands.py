"""The newcomer's way: `certwright up`, then the command lines that it prints, and the README's, pasted as they are."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from interop.support import SEARCH_PATH, Site, hold, needs, openssl, run, running, shell, verify, within_a_minute
from interop.system_trust import needs_a_namespace, trusting
from tests.helpers.server import Server, free_ports
from tests.helpers.server import run as certwright


@dataclass(frozen=True, slots=True)
class FirstTime:
    """A server that `up` has made and started, and what it printed."""

    site: Site
    config: Path
    printed: str

    @property
    def commands(self) -> Mapping[str, str]:
        """Title -> command line, as printed: a comment, then one line."""
        return dict(re.findall(r"^# (.+)\n(.+)$", self.printed, re.MULTILINE))

    def command(self, client: str) -> str:
        found = [line for title, line in self.commands.items() if title.lower().startswith(f"{client},")]
        assert len(found) == 1, f"no line for {client} in\n{self.printed}"
        return found[0]


def nothing(_name: str, _addresses: object) -> None:
    """This server asks the machine's own resolver; nobody tells it anything."""


@pytest.fixture(scope="module")
def first_time() -> Iterator[FirstTime]:
    with Server(up=True) as server:
        site = Site(root=server.ca_file, bootstrap=server.environment, http01_port=server.http01_port, zone=nothing)
        yield FirstTime(site, server.config_file, server.printed)


NO_LEAF = re.compile(r"chain|issuer|^(ca|ra)(-\d+)?\.pem$")  # what clients call the certificates of CAs


def certificates(home: Path) -> list[Path]:
    """Leaf certificates in PEM that a command has left behind."""
    found = [path for path in home.rglob("*") if path.is_file() and path.suffix in {".pem", ".crt"}]
    texts = {path: path.read_text(errors="replace") for path in found}
    return [path for path, text in texts.items() if "BEGIN CERTIFICATE-----" in text and not NO_LEAF.search(path.name)]


def check(first_time: FirstTime, home: Path, program: str, command: str, purpose: str) -> None:
    """Paste the line; a certificate of ours must lie in the directory."""
    needed = subprocess.run(["which", program], env={"PATH": SEARCH_PATH}, capture_output=True, check=False)
    if needed.returncode != 0:
        pytest.skip(f"client not installed: {program}")
    shell(command, home=home)
    leaves = certificates(home)
    assert leaves, f"no certificate in {sorted(home.rglob('*'))}"
    for leaf in leaves:
        verify(hold(first_time.site, leaf, home=home), purpose=purpose)


@pytest.mark.parametrize(
    ("client", "program", "purpose"),
    [
        ("acme", "certbot", "sslserver"),
        ("est", "curl", "sslclient"),
        ("scep", "pki", "sslclient"),
        ("rest", "curl", "sslserver"),
    ],
)
def test_each_line_that_up_prints_works_as_it_is(
    first_time: FirstTime, home: Path, client: str, program: str, purpose: str
) -> None:
    check(first_time, home, program, first_time.command(client), purpose)


@pytest.mark.parametrize(
    ("client", "program", "purpose"),
    [
        ("certbot", "certbot", "sslserver"),
        ("lego", "lego", "sslserver"),
        ("acme-tiny", "acme-tiny", "sslserver"),
        ("dehydrated", "dehydrated", "sslserver"),
        ("curl-est", "curl", "sslclient"),
        ("strongswan-est", "pki", "sslclient"),
        ("scep", "pki", "sslclient"),
        ("rest", "curl", "sslserver"),
    ],
)
def test_each_line_of_client_config_works_as_it_is(
    first_time: FirstTime, home: Path, client: str, program: str, purpose: str
) -> None:
    check(first_time, home, program, config_for(first_time, client), purpose)


@needs("curl", package="curl")
def test_what_the_line_for_est_has_got_renews_itself_by_the_next_one(first_time: FirstTime, home: Path) -> None:
    shell(config_for(first_time, "curl-est"), home=home)
    shell(config_for(first_time, "curl-est-renew"), home=home)
    verify(hold(first_time.site, home / "renewed.pem", home=home), purpose="sslclient")
    assert (home / "device.pem").read_text() != (home / "renewed.pem").read_text()


@needs("pki", package="strongswan-pki, libstrongswan-extra-plugins")
def test_what_the_line_for_scep_has_got_renews_itself_by_the_next_one(first_time: FirstTime, home: Path) -> None:
    shell(config_for(first_time, "scep"), home=home)
    shell(config_for(first_time, "scep-renew"), home=home)
    verify(hold(first_time.site, home / "renewed.pem", home=home), purpose="sslclient")
    assert (home / "router.pem").read_text() != (home / "renewed.pem").read_text()


@needs("certmonger", "getcert", "dbus-run-session", package="certmonger, dbus")
def test_the_line_for_certmonger_works_where_it_runs(first_time: FirstTime, home: Path) -> None:
    """On a bus of its own, hence `-s`; as root on a machine with systemd it is the system's."""
    script = config_for(first_time, "certmonger").replace("getcert add-scep-ca", "getcert add-scep-ca -s")
    script = script.replace("getcert request", "getcert request -s")
    run(["dbus-run-session", "--", "bash", "-euc", script], home=home)
    verify(hold(first_time.site, home / "router.pem", home=home), purpose="sslclient")


def config_for(first_time: FirstTime, client: str) -> str:
    return certwright("client-config", client, "--config", first_time.config).stdout.strip()


@needs_a_namespace
@needs("uacme", package="uacme")
def test_the_line_for_uacme_works_where_the_system_trusts_our_root(site: Site, home: Path) -> None:
    """At the server that has a DNS: uacme takes no name without a dot, so not localhost."""
    name = site.name("printed.uacme")
    script = certwright("client-config", "uacme", "--config", site.config).stdout.strip()
    assert "update-ca-certificates" in script
    run([*trusting(site.root), "bash", "-euc", script.replace("www.example.com", name)], home=home)
    leaf = home / "uacme" / name / "cert.pem"
    verify(hold(site, leaf, home=home, chain=leaf), names=[name])


@needs("node", "npm", package="nodejs, npm")
def test_the_lines_for_a_node_program_work_where_acme_client_is_installed(
    first_time: FirstTime, home: Path, modules: Path
) -> None:
    shell(config_for(first_time, "node"), home=home, env={"NODE_PATH": str(modules)})
    verify(hold(first_time.site, home / "localhost.pem", home=home), names=["localhost"])


@needs("caddy", package="caddy")
def test_the_lines_for_caddy_serve_the_name(first_time: FirstTime, home: Path) -> None:
    """Its https port is a fixed one, which somebody may have; so it is another one here."""
    (port,) = free_ports(1)
    script = config_for(first_time, "caddy").replace("https_port 5001", f"https_port {port}")
    assert str(port) in script
    with running(["bash", "-c", script.replace("&& caddy", "&& exec caddy")], home=home):
        within_a_minute("Caddy has its certificate", lambda: any(home.glob("caddy/certificates/*/localhost/localhost.crt")))
        visit: list[str | Path] = ["curl", "-sS", "--fail", "--cacert", first_time.site.root, f"https://localhost:{port}/"]
        assert run(visit, home=home).stdout == b"served by localhost"


def test_the_issuer_for_cert_manager_names_our_directory_and_trusts_our_root(first_time: FirstTime) -> None:
    """There is no cluster here; the field names are those of cert-manager's ACME issuer."""
    issuer = YAML(typ="safe").load(config_for(first_time, "cert-manager"))
    acme = issuer["spec"]["acme"]
    assert (issuer["kind"], issuer["apiVersion"]) == ("ClusterIssuer", "cert-manager.io/v1")
    assert acme["server"] == first_time.site["ACME_DIRECTORY"]
    assert base64.b64decode(acme["caBundle"]) == first_time.site.root.read_bytes()
    assert acme["privateKeySecretRef"]["name"]
    assert acme["solvers"][0]["http01"]["ingress"]


@pytest.mark.parametrize("client", ["acme.sh", "traefik", "mod_md"])
def test_the_other_lines_name_our_directory_and_our_root(first_time: FirstTime, client: str) -> None:
    """What mod_md is told is run by test_mod_md.py; acme.sh and Traefik are in no registry of Debian, PyPI or npm."""
    said = config_for(first_time, client)
    assert "CERTWRIGHT_ACME_DIRECTORY" in said or first_time.site["ACME_DIRECTORY"] in said
    assert "CERTWRIGHT_CA_FILE" in said or str(first_time.site.root) in said


README = Path(__file__).parent.parent / "README.md"
CLIENTS = dict(re.findall(r"^(\*\*[^\n]+)\n```\n(.+?)```$", README.read_text(), re.MULTILINE | re.DOTALL))
PROGRAMS = ("certbot", "lego", "pki", "curl")


@pytest.mark.parametrize("title", CLIENTS)
def test_each_line_of_the_readme_works_as_it_is(first_time: FirstTime, home: Path, title: str) -> None:
    """In a shell that has read bootstrap.env; only the http-01 port is another one here."""
    script = CLIENTS[title].replace("5002", str(first_time.site.http01_port))
    program = next(name for name in PROGRAMS if re.search(rf"^(?:\w+=\S+ )?{name}\b", script, re.MULTILINE))
    script = f'set -a; . "{first_time.config.parent}/bootstrap.env"; set +a\n{script}'
    check(
        first_time, home, program, script, "sslserver" if title.startswith(("**certbot", "**lego", "**REST")) else "sslclient"
    )


def test_the_readme_has_a_line_for_every_kind_of_client() -> None:
    assert [re.sub(r"\W.*", "", title.strip("*")) for title in CLIENTS] == ["certbot", "lego", "EST", "EST", "SCEP", "REST"]


def test_up_prints_the_fingerprint_of_the_root_and_every_url(first_time: FirstTime, home: Path) -> None:
    printed = first_time.printed
    fingerprint = openssl("x509", "-in", first_time.site.root, "-noout", "-fingerprint", "-sha256", home=home)
    assert fingerprint.strip().partition("=")[2] in printed
    site = first_time.site
    for url in (site["ACME_DIRECTORY"], f"{site['EST_URL']}/.well-known/est", site["SCEP_URL"], f"{site['BASE_URL']}/api/v1"):
        assert url in printed


def test_up_prints_no_secret(first_time: FirstTime) -> None:
    for secret in ("API_KEY", "EST_PASSWORD", "SCEP_CHALLENGE"):
        assert first_time.site[secret] not in first_time.printed
