"""Keys, passphrases and PINs in files that nobody else may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from signer.configuration import ConfigurationError

_LONGEST = 64 * 1024  # octets


def read_secret(path: Path) -> bytes:
    """The content. Raises ConfigurationError when others could read it too, or when it cannot be read.

    The owner is this user or root. Reading by the group is accepted in files that root owns, for that is how systemd
    credentials and Kubernetes secrets reach a service: the administrator chose the group, the service cannot widen it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if (wrong := _too_open(status)) is not None:
                raise ConfigurationError(f"{path}: {wrong}")
            content = file.read(_LONGEST + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > _LONGEST:
        raise ConfigurationError(f"{path}: is longer than {_LONGEST} octets, which is no key, passphrase or PIN")
    return content


def read_phrase(path: Path) -> bytes:
    """A passphrase or PIN: the content without one newline at its end."""
    return read_secret(path).removesuffix(b"\n").removesuffix(b"\r")


def _too_open(status: os.stat_result) -> str | None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_uid not in {0, os.geteuid()}:
        return f"belongs to user {status.st_uid}, who could change it; chown it to the signer's user"
    forbidden = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP | (0 if status.st_uid == 0 else stat.S_IRGRP)
    if mode & forbidden:
        return f"has mode {mode:04o}, so that others can read or change it; chmod it to 0600"
    return None
