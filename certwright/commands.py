"""What the commands do. Each gives its exit code, or raises what failures.py knows."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from certwright import clients, output
from certwright import serve as serving
from certwright.cli_options import Output
from certwright.config import Config, load
from certwright.errors import Refused
from certwright.failures import DONE
from certwright.init import Options, root_fingerprint
from certwright.init import init as make
from pki.clock import SystemClock
from storage.database import Database
from storage.open import open_database

T = TypeVar("T")

CONFIG_PLACES = (Path("certwright.yaml"), Path("var/certwright/certwright.yaml"), Path("/etc/certwright/certwright.yaml"))


def find_config(given: Path | None) -> Path:
    named = given or (Path(os.environ["CERTWRIGHT_CONFIG"]) if os.environ.get("CERTWRIGHT_CONFIG") else None)
    if named is not None:
        return named.absolute()
    for place in CONFIG_PLACES:
        if place.exists():
            return place.absolute()
    raise Refused("there is no configuration here; make one with: certwright init   or say where it is: --config FILE")


def say(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    sys.stdout.flush()


def with_database(config: Config, use: Callable[[Database], Awaitable[T]]) -> T:
    """Opens the server's database for one use, beside the server or without it."""

    async def inside() -> T:
        database = await open_database(config.database, migrate=False)
        try:
            return await use(database)
        finally:
            await database.close()

    return asyncio.run(inside())


# ---------------------------------------------------------------------- making and serving


def init(options: Options) -> int:
    config = asyncio.run(make(options, clock=SystemClock()))
    directory = config.file.parent
    root = directory / "ca" / "root.pem"
    say(f"made {directory}: configuration, CA, database and first credentials (bootstrap.env)")
    say(f"root SHA-256  {root_fingerprint(root)}")
    say(
        f"Move ca/root.key and ca/root.passphrase to a safe place; the server does not need them.\nStart it: certwright serve --config {config.file}"
    )
    return DONE


def up(options: Options) -> int:
    file = options.directory.absolute() / "certwright.yaml"
    if not file.exists():
        asyncio.run(make(options, clock=SystemClock()))
    elif ignored := _given(options):
        sys.stderr.write(
            f"certwright: note: {options.directory} is there already, so {', '.join(ignored)} changes nothing; edit {file}\n"
        )

    def welcome(config: Config) -> None:
        root = file.parent / "ca" / "root.pem"
        say(clients.welcome(config, root_fingerprint(root) if root.exists() else "-", root))
        say("ready")

    return serving.serve(file, on_ready=welcome)


def _given(options: Options) -> list[str]:
    """The options of `init` that differ from their defaults."""
    usual = Options(options.directory)
    spelled = {"names": "--name"}
    return [
        spelled.get(one.name, "--" + one.name.replace("_", "-"))
        for one in fields(options)
        if getattr(options, one.name) != getattr(usual, one.name)
    ]


def serve(config: Path | None, workers: int | None) -> int:
    return serving.serve(find_config(config), workers=workers)


def check(config: Path | None) -> int:
    from certwright import doctor

    return doctor.check(find_config(config), SystemClock())


def client_config(config: Path | None, client: str) -> int:
    say(clients.command_for(client, load(find_config(config))))
    return DONE


# ---------------------------------------------------------------------- the database


def db_status(config: Path | None, form: Output) -> int:
    from storage.migrate import status

    found = asyncio.run(status(load(find_config(config)).database))
    rows = [{"migration": name, "state": "applied"} for name in found.applied]
    rows += [{"migration": name, "state": "pending"} for name in found.pending]
    output.show(rows, form.value)
    return DONE


def db_upgrade(config: Path | None) -> int:
    from storage.migrate import upgrade

    done = asyncio.run(upgrade(load(find_config(config)).database))
    say("\n".join(f"applied {name}" for name in done) or "nothing to do")
    return DONE
