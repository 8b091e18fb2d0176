"""A real PostgreSQL for tests: the machine's binaries, a folder of its own, one private Unix socket, no TCP."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from storage.migrate import upgrade

NO_POSTGRESQL = "no PostgreSQL server binaries (initdb, postgres) on PATH or under /usr/lib/postgresql: apt install postgresql"

_TEMPLATE = "certwright_template"
_START_TIMEOUT = 60.0  # seconds
_MAX_SOCKET_FOLDER = 80  # octets: sun_path is 108 with "/.s.PGSQL.5432" and its lock file's suffix
_T = TypeVar("_T")


def binaries() -> Path | None:
    """The folder of the newest server binaries on this machine."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda folder: int(folder.parent.name) if folder.parent.name.isdigit() else 0,
        reverse=True,
    )
    on_path = [Path(folder) for folder in os.get_exec_path()]
    candidates = [*installed, *on_path]
    return next((folder for folder in candidates if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


def _user() -> pwd.struct_passwd | None:
    """Whom the server runs as: PostgreSQL refuses root. None: ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


def run_apart(work: Coroutine[Any, Any, _T]) -> _T:
    """Runs `work` to its end in a loop of another thread: for fixtures, whether or not a loop runs in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def _schema(connection: asyncpg.Connection[asyncpg.Record]) -> list[tuple[str, str]]:
    """Every table with its columns, and the migrations with their checksums."""
    tables = await connection.fetch(
        "SELECT CAST(table_name AS TEXT), string_agg(column_name || ' ' || data_type, ',' ORDER BY ordinal_position) AS columns"
        " FROM information_schema.columns WHERE table_schema = 'public' GROUP BY table_name"
    )
    migrations = await connection.fetch("SELECT name, checksum FROM schema_migration")
    stamp = ";".join(sorted(f"{row['name']}={row['checksum']}" for row in migrations))
    return sorted(
        (row["table_name"], row["columns"] + (stamp if row["table_name"] == "schema_migration" else "")) for row in tables
    )


class PostgresServer:
    """One server process. Its parent's death ends it too, where setpriv(1) can see to that."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._programs = programs
        self._user = _user()
        self._data = folder / "data"
        self._sockets = folder / "s"
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._clean: list[str] = []  # databases that an earlier test has left and that are empty again
        self._tables: list[tuple[str, str]] = []

    def create(self) -> None:
        self._sockets.mkdir(mode=0o700)
        if self._user is not None:
            for path in (self._sockets.parent, self._sockets):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        self._call("initdb", "-D", str(self._data), "-U", "certwright", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync")

    def url(self, database: str) -> str:
        return f"postgresql://certwright@/{database}?host={self._sockets}"

    def start(self) -> None:
        arguments = [str(self._programs / "postgres"), "-D", str(self._data)]
        for setting in (
            "listen_addresses=",
            f"unix_socket_directories={self._sockets}",
            "unix_socket_permissions=0700",
            "max_connections=40",
            "shared_buffers=32MB",
            "fsync=on",
        ):
            arguments += ["-c", setting]
        if shutil.which("setpriv"):
            arguments = ["setpriv", "--pdeathsig", "INT", *arguments]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log, cwd="/", **self._as_user())
        self._wait_until_ready()

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT: at once, as in a crash. SIGINT: ends connections, then stops in order."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=_START_TIMEOUT)
            self._process = None

    def create_template(self) -> None:
        """An empty database with our schema, from which `database` makes copies."""
        self._execute(f"CREATE DATABASE {_TEMPLATE}")
        run_apart(upgrade(self.url(_TEMPLATE)))

        async def look() -> list[tuple[str, str]]:
            connection = await asyncpg.connect(self.url(_TEMPLATE))
            try:
                return await _schema(connection)
            finally:
                await connection.close()

        self._tables = run_apart(look())

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a database with our schema and nothing in it."""
        url = self._clean.pop() if self._clean else self._create(_TEMPLATE)
        try:
            yield url
        finally:
            # Emptying one takes a tenth of the time that copying the template does.
            if run_apart(self._emptied(url)):
                self._clean.append(url)

    def empty_database(self) -> str:
        """The URL of a new database without anything in it."""
        return self._create("template0")

    def _create(self, template: str) -> str:
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    async def _emptied(self, url: str) -> bool:
        """False when a test has changed the schema: then it is no more to be used."""
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            tables = await _schema(connection)
            if tables != self._tables:
                return False
            await connection.execute(";".join(f'DELETE FROM "{name}"' for name, _ in tables if name != "schema_migration"))  # noqa: S608  # our own tables' names
        finally:
            await connection.close()
        return True

    def _execute(self, sql: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.url("postgres"))
            try:
                await connection.execute(sql)
            finally:
                await connection.close()

        run_apart(run())

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT
        while self._process.poll() is None and time.monotonic() < deadline:
            ready = subprocess.run(
                [self._programs / "pg_isready", "-q", "-h", self._sockets], check=False, cwd="/", **self._as_user()
            )
            if ready.returncode == 0:
                return
            time.sleep(0.02)
        raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text()}")

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments], check=False, capture_output=True, text=True, cwd="/", **self._as_user()
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed:\n{done.stdout}{done.stderr}")

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def running_server() -> Iterator[PostgresServer]:
    """A started server with our template; stopped and removed at the end. Only where `binaries()` finds some."""
    programs = binaries()
    assert programs is not None, NO_POSTGRESQL
    parent = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="cw-pg-", dir=parent if len(parent) < _MAX_SOCKET_FOLDER - 20 else "/tmp"))
    server = PostgresServer(folder, programs)
    try:
        server.create()
        server.start()
        server.create_template()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
