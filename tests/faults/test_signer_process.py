"""How the signer process starts, guards itself and says why it cannot start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from signer.api import KeyConfig, KeyUse, SoftwareKey
from signer.configuration import ProcessConfig, dump
from tests.helpers.signing import PASSPHRASE, SignerProcess, authority, software_keys


def run(data: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "signer.process", *arguments], input=data, capture_output=True, timeout=60, check=False
    )


def test_it_dumps_no_core_and_shows_no_secret_in_the_process_list(tmp_path: Path) -> None:
    process = SignerProcess(
        ProcessConfig(listen=tmp_path / "s", keys=software_keys(tmp_path, authority())), errors=tmp_path / "log"
    )
    status = Path(f"/proc/{process.pid}")
    core = next(line for line in (status / "limits").read_text().splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    assert (status / "cmdline").read_bytes().split(b"\0")[1:-1] == [b"-m", b"signer.process"]
    assert process.ready["keys"] == {"issuing": "issuer", "ra": "ra"}
    assert process.end() == 0
    assert PASSPHRASE.decode() not in process.errors.read_text()


def test_a_configuration_file_does_as_well_as_stdin(tmp_path: Path) -> None:
    missing = KeyConfig(name="ra", use=KeyUse.RA, source=SoftwareKey(tmp_path / "absent.key", None), envelope=None)
    (tmp_path / "config").write_bytes(dump(ProcessConfig(listen=tmp_path / "s", keys=(missing,))))
    done = run(b"", "--config", str(tmp_path / "config"))
    assert done.returncode == 78
    assert "absent.key: cannot be read" in json.loads(done.stderr)["error"]


@pytest.mark.parametrize(("data", "complaint"), [(b"", "no JSON"), (b"{}", "is missing")])
def test_a_broken_configuration_is_one_line_and_exit_code_78(data: bytes, complaint: str) -> None:
    done = run(data)
    assert done.returncode == 78
    line = json.loads(done.stderr)
    assert line["event"] == "cannot-start"
    assert complaint in line["error"]
    assert done.stdout == b""


def test_a_missing_configuration_file_is_named(tmp_path: Path) -> None:
    done = run(b"", "--config", str(tmp_path / "absent"))
    assert done.returncode == 78
    assert "absent: cannot be read" in json.loads(done.stderr)["error"]


def test_a_passphrase_file_that_others_can_read_stops_the_start_and_is_named(tmp_path: Path) -> None:
    keys = software_keys(tmp_path, authority())
    (tmp_path / "ra.passphrase").chmod(0o644)
    done = run(dump(ProcessConfig(listen=tmp_path / "s", keys=keys)))
    assert done.returncode == 78
    assert "ra.passphrase: has mode 0644" in json.loads(done.stderr)["error"]


def test_a_parent_that_is_already_gone_stops_the_start(tmp_path: Path) -> None:
    done = run(dump(ProcessConfig(listen=tmp_path / "s", keys=software_keys(tmp_path, authority()), parent=os.getppid())))
    assert done.returncode == 78
    assert "is gone" in json.loads(done.stderr)["error"]


def test_a_descriptor_that_is_no_socket_stops_the_start(tmp_path: Path) -> None:
    done = run(dump(ProcessConfig(listen=0, keys=software_keys(tmp_path, authority()))))
    assert done.returncode == 78
    assert "descriptor 0 is no socket" in json.loads(done.stderr)["error"]
