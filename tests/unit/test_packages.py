"""What we install: eleven top-level packages, so what else claims these names matters; and a wheel that is complete."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OURS = frozenset(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
# Next to the packages in the tree, and so importable in a development installation.
BESIDE = frozenset({"tests", "interop", "bench"})


def top_level_names(distribution: importlib.metadata.Distribution) -> frozenset[str]:
    """What a distribution puts at the top of site-packages: packages, and modules without their suffixes."""
    return frozenset(file.parts[0].split(".")[0] for file in distribution.files or () if file.suffix in {".py", ".so", ".pyd"})


def test_no_dependency_ships_one_of_our_names() -> None:
    others = [found for found in importlib.metadata.distributions() if found.name != PROJECT["project"]["name"]]
    assert len(others) > 10
    taken = {found.name: sorted(top_level_names(found) & (OURS | BESIDE)) for found in others}
    assert {name: names for name, names in taken.items() if names} == {}


def test_none_of_our_names_hides_a_module_of_the_standard_library() -> None:
    assert (OURS | BESIDE) & sys.stdlib_module_names == set()


def test_import_linter_and_the_wheel_know_every_package_of_the_tree() -> None:
    in_tree = {path.parent.name for path in ROOT.glob("*/__init__.py")} - BESIDE
    assert in_tree == OURS
    assert frozenset(PROJECT["tool"]["importlinter"]["root_packages"]) == OURS


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """The names in the wheel, built as `pip install` would; without the network where hatchling is here."""
    directory = tmp_path_factory.mktemp("wheel")
    isolation = [] if importlib.util.find_spec("hatchling") is None else ["--no-build-isolation"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "wheel", "--quiet", "--no-deps"]
    done = subprocess.run([*pip, *isolation, "-w", directory, ROOT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = directory.glob("*.whl")
    with ZipFile(built) as archive:
        return frozenset(archive.namelist())


def files_in_tree(package: str) -> frozenset[str]:
    """Everything below a package that is not a by-product."""
    found = (path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return frozenset(path.relative_to(ROOT).as_posix() for path in found)


def test_the_wheel_holds_every_file_of_every_package(wheel: frozenset[str]) -> None:
    for package in sorted(OURS):
        assert files_in_tree(package) - wheel == frozenset()


def test_the_wheel_holds_types_and_migrations_and_the_command(wheel: frozenset[str]) -> None:
    assert {f"{package}/py.typed" for package in OURS} <= wheel
    assert any(name.startswith("storage/migrations/") and name.endswith(".sql") for name in wheel)
    assert any(name.endswith(".dist-info/entry_points.txt") for name in wheel)
    assert any(name.endswith("LICENSE") for name in wheel)


def test_the_wheel_holds_nothing_else(wheel: frozenset[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == OURS
