"""The newcomer's way: `certwright up`, then the command lines that it prints, and the README's, pasted as they are."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from interop.support import SEARCH_PATH, Site, hold, openssl, shell, verify
from tests.helpers.server import Server
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


def certificates(home: Path) -> list[Path]:
    """Leaf certificates in PEM that a command has left behind."""
    found = [path for path in home.rglob("*") if path.is_file() and path.suffix in {".pem", ".crt"}]
    texts = {path: path.read_text(errors="replace") for path in found}
    return [path for path, text in texts.items() if "BEGIN CERTIFICATE-----" in text and "chain" not in path.name]


def check(first_time: FirstTime, home: Path, program: str, command: str, purpose: str) -> None:
    """Paste the line; a certificate of ours must lie in the directory."""
    needed = subprocess.run(["which", program], env={"PATH": SEARCH_PATH}, capture_output=True, check=False)
    if needed.returncode != 0:
        pytest.skip(f"client not installed: {program}")
    shell(command, home=home)
    leaves = [path for path in certificates(home) if "issuer" not in path.name]
    assert leaves, f"no certificate in {sorted(home.rglob('*'))}"
    for leaf in leaves:
        verify(hold(first_time.site, leaf, home=home), purpose=purpose)


@pytest.mark.parametrize(
    ("client", "program", "purpose"),
    [
        ("acme", "certbot", "sslserver"),
        ("est", "curl", "sslclient"),
        ("scep", "scepclient", "sslclient"),
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
        ("curl-est", "curl", "sslclient"),
        ("scep", "scepclient", "sslclient"),
        ("rest", "curl", "sslserver"),
    ],
)
def test_each_line_of_client_config_works_as_it_is(
    first_time: FirstTime, home: Path, client: str, program: str, purpose: str
) -> None:
    line = certwright("client-config", client, "--config", first_time.config).stdout.strip()
    check(first_time, home, program, line, purpose)


README = Path(__file__).parent.parent / "README.md"
CLIENTS = dict(re.findall(r"^(\*\*[^\n]+)\n```\n(.+?)```$", README.read_text(), re.MULTILINE | re.DOTALL))
PROGRAMS = ("certbot", "lego", "pki", "scepclient", "curl")


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
