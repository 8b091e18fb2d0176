"""deploy/systemd/ without systemd: the steps of its README, and the socket handed over as descriptor 3, as systemd would."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interop.support import Site, hold, make_csr, run, shell, verify
from interop.test_curl_rest import post, rest_environment
from tests.helpers.server import Server

SEPARATE = Path(__file__).parents[1] / "deploy" / "systemd" / "separate-signer"


@contextmanager
def signer_on_descriptor_3(listening: socket.socket, configuration: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """What certwright-signer.service starts, with the socket of certwright-signer.socket."""
    program = [sys.executable, "-m", "signer.process", "--config", str(configuration)]
    with log.open("wb") as output:
        signer = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{listening.fileno()}', "systemd", *program],
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield signer
    finally:
        signer.terminate()
        assert signer.wait(timeout=20) == 0, log.read_text()


def issue(site: Site, home: Path, name: str) -> None:
    make_csr(home, "server", cn=name, names=[name])
    script = post("--data-binary @server.csr").replace("application/json", "application/pem-certificate-chain")
    leaf = home / "server.crt"
    leaf.write_bytes(shell(script, home=home, env=rest_environment(site)))
    verify(hold(site, leaf, home=home), names=[name])


def test_the_server_issues_with_a_signer_that_it_did_not_start_and_whose_keys_it_does_not_have(home: Path) -> None:
    keys = home / "keys"
    keys.mkdir(mode=0o700)
    server = Server(directory=home / "ca")
    server.init()
    user = getpass.getuser()
    run(
        [SEPARATE, server.directory, keys, home / "signer.sock"],
        home=home,
        env={"PYTHON": sys.executable, "SERVER_USER": user, "SIGNER_USER": user},
    )
    left = {path.name for path in server.directory.rglob("*") if path.is_file() and path.suffix in {".key", ""}}
    assert left == {"root.key", "server.key", "secrets.key"}  # the last seals what is in the database, and is the server's
    moved = {"devices.key", "issuing.key", "scep-ra.key", "est-ra.key"}
    assert {path.name for path in keys.iterdir()} == {*moved, "passphrase", "signer.json"}
    assert {path.stat().st_mode & 0o777 for path in keys.iterdir()} == {0o600}

    with socket.socket(socket.AF_UNIX) as listening:
        before = os.umask(0o177)
        listening.bind(str(home / "signer.sock"))
        os.umask(before)
        listening.listen()
        with signer_on_descriptor_3(listening, keys / "signer.json", home / "signer.log"):
            server.start()
            try:
                assert server.children()["signer"] == []
                site = Site(root=server.ca_file, bootstrap=server.environment, http01_port=0, zone=lambda _name, _to: None)
                issue(site, home, "separate.interop.example.com")
            finally:
                assert server.stop() == 0
