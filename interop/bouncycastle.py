"""The programs in interop/java: BouncyCastle's EST client, and its CMC messages, written and read by nobody of ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from interop.support import needs, refused, run

SOURCES = Path(__file__).parent / "java"
JARS = tuple(Path("/usr/share/java") / f"{name}.jar" for name in ("bcpkix", "bcprov", "bcutil"))
PACKAGE = "libbcpkix-java, default-jdk-headless"
# One short run each: what makes a long one quick only makes these start later.
QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")


def needs_bouncycastle() -> list[pytest.MarkDecorator]:
    missing = [jar.name for jar in JARS if not jar.exists()]
    reason = f"client not installed: {', '.join(missing)} (package {PACKAGE})"
    return [needs("java", "javac", package=PACKAGE), pytest.mark.skipif(bool(missing), reason=reason)]


def _classpath(*more: Path) -> str:
    return os.pathsep.join(str(path) for path in (*more, *JARS))


def compiled(into: Path) -> Path:
    command: list[str | Path] = [
        "javac",
        "-Xlint:all,-path",
        "-Werror",
        "-d",
        into,
        "-cp",
        _classpath(),
        *sorted(SOURCES.glob("*.java")),
    ]
    run(command, home=into)
    return into


def java(
    classes: Path, program: str, *arguments: str | Path, home: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return run(java_command(classes, program, *arguments), home=home, env=env)


def java_refused(classes: Path, program: str, *arguments: str | Path, home: Path, env: Mapping[str, str] | None = None) -> str:
    return refused(java_command(classes, program, *arguments), home=home, env=env)


def java_command(classes: Path, program: str, *arguments: str | Path) -> list[str | Path]:
    return ["java", *QUICK, "-cp", _classpath(classes), program, *arguments]
