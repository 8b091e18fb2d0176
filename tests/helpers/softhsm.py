"""A SoftHSM2 token of one's own: a directory that can be moved away and back, as if somebody pulled the HSM out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from signer.api import Pkcs11Key
from signer.software import PrivateKey

MODULES = tuple(
    Path(directory) / "softhsm" / "libsofthsm2.so"
    for directory in ("/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/local/lib")
)
PIN = "482916"


def softhsm_module() -> Path:
    """The module's path; without SoftHSM2 the test is skipped, and says so."""
    found = next((module for module in MODULES if module.exists()), None)
    if found is None or shutil.which("softhsm2-util") is None:
        pytest.skip("softhsm2 is not installed")
    return found


@dataclass(frozen=True, slots=True)
class SoftHsm:
    """One token. `environment` must reach whatever loads the module."""

    directory: Path
    label: str
    module: Path
    pin_file: Path

    @classmethod
    def create(cls, directory: Path, label: str = "certwright-test", *, mechanisms: str = "ALL") -> SoftHsm:
        """`mechanisms`: those that it does, with a comma between (softhsm2.conf(5); 2.6.1 does not heed a minus)."""
        module = softhsm_module()
        tokens = directory / "tokens"
        tokens.mkdir(parents=True)
        (directory / "softhsm2.conf").write_text(
            f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\nslots.mechanisms = {mechanisms}\n"
        )
        pin_file = directory / "pin"
        pin_file.touch(mode=0o600)
        pin_file.write_text(PIN + "\n")
        token = cls(directory=directory, label=label, module=module, pin_file=pin_file)
        token.util("--init-token", "--free", "--label", label, "--so-pin", "91827364", "--pin", PIN)
        return token

    @property
    def environment(self) -> Mapping[str, str]:
        return {"SOFTHSM2_CONF": str(self.directory / "softhsm2.conf")}

    def util(self, *arguments: str) -> None:
        subprocess.run(
            ["softhsm2-util", *arguments], check=True, capture_output=True, env={**os.environ, **self.environment}, timeout=60
        )

    def put(self, label: str, key: PrivateKey, identifier: int) -> Pkcs11Key:
        """The key as an object of the token, sensitive and not extractable."""
        file = self.directory / f"{label}.pem"
        file.touch(mode=0o600)
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.util("--import", str(file), "--token", self.label, "--pin", PIN, "--label", label, "--id", f"{identifier:02x}")
        file.unlink()
        return self.key(label)

    def key(self, label: str) -> Pkcs11Key:
        return Pkcs11Key(module=self.module, token=self.label, label=label, pin_file=self.pin_file)

    def pull_out(self) -> None:
        (self.directory / "tokens").rename(self.directory / "away")

    def put_back(self) -> None:
        (self.directory / "away").rename(self.directory / "tokens")
