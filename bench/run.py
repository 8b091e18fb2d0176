"""Measures our own server: init, serve, load, one table; on SQLite and on PostgreSQL, in a temporary directory, on loopback.

Bounded in time: every step has a limit, and whatever is started here is stopped here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bench.acme_load import printed
from bench.est_scep_rest import WAITING, WINDOWS, read_environment
from bench.figures import WHOLE, table
from bench.processes import Meter
from signer.software import load_key
from tests.helpers.postgres import NO_POSTGRESQL, binaries, running_server
from tests.helpers.softhsm import MODULES, SoftHsm

DOMAIN = "bench.example"
READY_WITHIN = 30.0  # seconds
STOP_WITHIN = 20.0
STEP_LIMIT = 300.0
MORE_NONCES = 10  # they are cheap, and the clock of /proc ticks every 10 ms


@dataclass(frozen=True, slots=True)
class Database:
    engine: str
    url: str | None  # None: an SQLite file in the directory
    pid: int | None  # of a server of its own, whose CPU is counted apart
    workers: int


@dataclass(frozen=True, slots=True)
class Ports:
    https: int
    mtls: int
    http: int
    metrics: int
    http01: int
    dns: int


@dataclass(frozen=True, slots=True)
class Keys:
    """Which issuer devices get their certificates from: `devices` (RSA-2048) or `issuing` (EC P-256); and where its key is, and the
    registration authority's, unless in files.
    """

    device_issuer: str
    token: SoftHsm | None

    @property
    def environment(self) -> Mapping[str, str]:
        return {} if self.token is None else self.token.environment


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to measure on each engine."""

    workers: int
    count: int  # items in each window
    clients: int
    acme: bool
    windows: Sequence[str]
    device_issuer: str
    hsm: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One window of one engine."""

    engine: str
    work: str
    clients: int
    figures: Mapping[str, Any]


def free_ports() -> Ports:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(6)]
        return Ports(*(each.getsockname()[1] for each in sockets))


@contextlib.contextmanager
def databases(engine: str, workers: int) -> Iterator[Database]:
    if engine == "sqlite":
        yield Database(engine, None, None, 1)  # SQLite has one writer
        return
    if binaries() is None:
        raise SystemExit(NO_POSTGRESQL)
    with running_server() as server:
        assert server._process is not None
        yield Database(engine, server.empty_database(), server._process.pid, workers)


def initialise(directory: Path, ports: Ports, database: Database, keys: Keys) -> None:
    command = [_certwright(), "init", "--dir", str(directory), "--base-url", f"https://localhost:{ports.https}"]
    for option in ("https", "mtls", "http", "metrics", "http01"):
        command += [f"--{option}-port", str(getattr(ports, option))]
    if database.url is not None:
        command += ["--database", database.url]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=STEP_LIMIT)
    file, yaml = directory / "certwright.yaml", YAML()
    config = yaml.load(file)
    config["validation"]["resolver"] = [f"127.0.0.1:{ports.dns}"]
    config["validation"]["allow_networks"] = ["127.0.0.0/8", "::1/128"]
    # One client makes what a thousand would: the limits are kept, and high.
    config["endpoints"]["acme"]["default"]["limits"] = {"orders_per_account": "1000000/3h", "accounts_per_address": "10000/3h"}
    config["endpoints"]["scep"][WAITING] = {"profile": "device", "registration_authority": "scep", "require_approval": True}
    config["profiles"]["device"]["issuer"] = keys.device_issuer
    if keys.token is not None:
        _into(keys.token, directory, config)
    with file.open("w", encoding="utf-8") as out:
        yaml.dump(config, out)
    set_waiting_challenge(_certwright(), file, read_environment(directory / "bootstrap.env")["CERTWRIGHT_SCEP_CHALLENGE"])


def set_waiting_challenge(command: str, config_file: Path, challenge: str) -> None:
    """That of the endpoint whose requests wait, for the window `scep-polls`."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(challenge)
        file.flush()
        arguments = [command, "scep", "challenge", "set", "--config", str(config_file), "--endpoint", WAITING]
        subprocess.run([*arguments, "--challenge-file", file.name], check=True, stdout=subprocess.DEVNULL, timeout=STEP_LIMIT)


def _into(token: SoftHsm, directory: Path, config: Any) -> None:
    """The keys of the CA that devices have, and of the registration authority that they talk to."""
    passphrase = (directory / "ca" / "passphrase").read_bytes().strip()
    places = {"issuing": config["issuers"], "devices": config["issuers"], "scep-ra": config["registration_authorities"]}
    for number, (name, section) in enumerate(places.items(), start=1):
        key = token.put(name, load_key(directory / "ca" / f"{name}.key", passphrase), number)
        found = {"module": str(key.module), "token": key.token, "label": key.label, "pin_file": str(key.pin_file)}
        section[name.removesuffix("-ra")]["key"] = {"pkcs11": found}


def softhsm_is_there() -> bool:
    if any(module.exists() for module in MODULES) and shutil.which("softhsm2-util") is not None:
        return True
    print("softhsm2 is not installed: SCEP is measured with keys in files only", file=sys.stderr)
    return False


def _certwright() -> str:
    """The command of the environment that this runs in."""
    return str(Path(sys.executable).with_name("certwright"))


@contextlib.contextmanager
def serving(directory: Path, ports: Ports, workers: int, keys: Keys) -> Iterator[tuple[int, float]]:
    """The process id of the running server, and the milliseconds until it was ready."""
    command = [_certwright(), "serve", "--config", str(directory / "certwright.yaml"), "--workers", str(workers)]
    log = directory / "bench.log"
    with log.open("wb") as out:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **keys.environment})
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{ports.http}/readyz", started, log)
            yield process.pid, (time.monotonic() - started) * 1000
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, started: float, log: Path) -> None:
    while time.monotonic() < started + READY_WITHIN and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.02)
    raise SystemExit(f"the server is not ready; its last words:\n{log.read_text(errors='replace')[-3000:]}")


def generate(module: str, *arguments: str) -> Any:
    """Runs a generator in a process of its own; its figures."""
    command = [sys.executable, "-m", module, "-o", "json", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=STEP_LIMIT)
    if not done.stdout.startswith("{"):
        raise SystemExit(f"{' '.join(command[1:3])} failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def measure(engine: str, wanted: Wanted) -> Iterator[Row]:
    """The windows of one engine, each as soon as it is done."""
    with tempfile.TemporaryDirectory(prefix="certwright-bench-") as name, databases(engine, wanted.workers) as database:
        directory, ports = Path(name) / "ca", free_ports()
        keys = Keys(wanted.device_issuer, SoftHsm.create(Path(name) / "hsm") if wanted.hsm else None)
        initialise(directory, ports, database, keys)
        environment = read_environment(directory / "bootstrap.env")
        pids = [] if database.pid is None else ["--database-pid", str(database.pid)]
        acme = ["--directory", environment["CERTWRIGHT_ACME_DIRECTORY"], "--ca", environment["CERTWRIGHT_CA_FILE"]]
        acme += ["--http01-port", str(ports.http01), "--dns-port", str(ports.dns), "--domain", DOMAIN]
        label = f"{engine}, {database.workers} worker{'s' if database.workers > 1 else ''}{', HSM' if wanted.hsm else ''}"
        with serving(directory, ports, database.workers, keys) as (pid, ready):
            pids += ["--pid", str(pid)]
            idle = Meter(pid).read()
            assert idle is not None
            print(f"{label}: ready after {ready:.0f} ms, idle PSS {idle.pss_after:.0f} MiB", file=sys.stderr)
            count, clients = wanted.count, wanted.clients
            for each, share in ((1, max(count // 4, 1)), (clients, count)) if wanted.acme else ():
                figures = generate("bench.acme_load", *acme, *pids, "--clients", str(each), "--count", str(share))
                yield Row(label, "ACME", each, figures | {"ready_ms": round(ready), "idle_pss_mib": round(idle.pss_after, 1)})
            for window in wanted.windows:
                number = count * MORE_NONCES if window == "newNonce" else count
                others = ["--env", str(directory / "bootstrap.env"), "--window", window, "--domain", DOMAIN]
                figures = generate("bench.est_scep_rest", *others, *pids, "--clients", str(clients), "--count", str(number))
                yield Row(label, window, clients, figures[window])


def overview(rows: Sequence[Row]) -> str:
    """One table. `CPU/s`: what one core of the server would do, were it never kept waiting."""
    heading = [
        "engine",
        "work",
        "clients",
        "done",
        "per s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "CPU ms",
        "DB ms",
        "CPU/s",
        "requests",
    ]
    lines: list[list[object]] = [[*heading, "PSS MiB", "KiB each", "errors"]]
    for row in rows:
        figures = row.figures
        whole, server, database = figures["steps"].get(WHOLE, {}), figures["server"], figures["database"]
        cpu = server["cpu_ms_per_item"]
        lines.append(
            [
                *(row.engine, row.work, row.clients, figures["done"], figures["per_second"]),
                *(whole.get(f"p{percent}", 0.0) for percent in (50, 95, 99)),
                cpu,
                database["cpu_ms_per_item"] if database else "",
                round(1000 / cpu) if cpu else "",
                figures["requests_per_item"],
                server["pss_mib_after"],
                server["pss_kib_per_item"],
                sum(figures["errors"].values()) + figures.get("wrong_certificates", 0),
            ]
        )
    return table(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", action="append", choices=["sqlite", "postgresql"], help="default: both")
    parser.add_argument("--workers", type=int, default=2, help="on PostgreSQL; SQLite always has one")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--count", type=int, default=1000, help="items in each window; a quarter with one client")
    parser.add_argument("--window", action="append", choices=[*WINDOWS, "none"], help="beside ACME; default: all")
    parser.add_argument("--no-acme", dest="acme", action="store_false", help="the other windows only")
    parser.add_argument(
        "--device-issuer", choices=["devices", "issuing"], default="devices", help="RSA-2048, or EC P-256; for EST and SCEP"
    )
    parser.add_argument(
        "--hsm",
        action="store_true",
        help="the keys of the CAs and of SCEP's RA in a SoftHSM2 token; without --window, SCEP is measured so as well",
    )
    parser.add_argument("--json", type=Path, help="also write every figure into this file")
    parser.add_argument("-v", "--verbose", action="store_true", help="every step of every window, as it is done")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is stopped then, too
    wanted = Wanted(
        workers=given.workers,
        count=given.count,
        clients=given.clients,
        acme=given.acme,
        windows=[window for window in given.window or WINDOWS if window != "none"],
        device_issuer=given.device_issuer,
        hsm=given.hsm,
    )
    everything = [wanted]
    if given.window is None and not given.hsm and softhsm_is_there():  # three private keys work for each certificate of SCEP
        everything.append(replace(wanted, acme=False, windows=["scep"], hsm=True))
    rows: list[Row] = []
    for engine in given.engine or ["sqlite", "postgresql"]:
        for row in chain.from_iterable(measure(engine, each) for each in everything):
            rows.append(row)
            if given.verbose or row.figures["errors"]:
                print(f"{row.engine}, {row.work}, {row.clients} clients: {printed(row.figures)}\n", file=sys.stderr, flush=True)
    print(overview(rows))
    if given.json is not None:
        given.json.write_text(
            json.dumps(
                [{"engine": row.engine, "work": row.work, "clients": row.clients} | dict(row.figures) for row in rows], indent=2
            )
        )
    print(f"{os.cpu_count()} cores, shared by server, database and generator; Python {sys.version.split()[0]}")
    return 1 if any(row.figures["errors"] or row.figures.get("wrong_certificates") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
