"""For clients that trust the system's CAs and nothing that they are told: a mount namespace of their own, with another file there.

Nothing outside the namespace changes.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")
# As root, or as a user who may be root in a namespace of his own.
NAMESPACE = ("unshare", "--mount", "--map-root-user")


def trusting(root: Path) -> list[str]:
    """What to put before a command whose programs shall trust `root`, and nobody else."""
    return [*NAMESPACE, "sh", "-c", f'mount --bind "{root}" {TRUSTED} && exec "$@"', "sh"]


def _works() -> bool:
    if not TRUSTED.exists():
        return False
    try:
        tried = subprocess.run([*trusting(TRUSTED), "true"], capture_output=True, timeout=10, check=False)
    except OSError:
        return False
    return tried.returncode == 0


needs_a_namespace = pytest.mark.skipif(
    not _works(), reason="uacme: no mount namespace may be made here, and it trusts /etc/ssl only"
)
