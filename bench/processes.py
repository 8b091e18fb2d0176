"""What a server costs: CPU and memory of its whole process tree, read from /proc (Linux)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Stat:
    parent: int
    ticks: int  # user and system, of the process and of the children that it has reaped


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None  # gone in the meantime
    fields = text.rpartition(")")[2].split()  # the name in parentheses may hold anything
    return _Stat(int(fields[1]), sum(map(int, fields[11:15])))


def _tree(root: int) -> dict[int, _Stat]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    every = {pid: stat for pid in pids if (stat := _stat(pid))}
    if root not in every:
        raise ProcessLookupError(f"no process {root}")
    found = {root: every[root]}
    while more := {pid: stat for pid, stat in every.items() if stat.parent in found and pid not in found}:
        found |= more
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of the tree since its start. Right as long as children that end are reaped by the tree."""
    return sum(stat.ticks for stat in _tree(root).values()) / _TICK


def pss_mib(root: int) -> float:
    """Proportional set size: shared pages are counted once, split among those who share them."""
    kib = 0
    for pid in _tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        kib += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return kib / 1024


@dataclass(frozen=True, slots=True)
class Cost:
    """What one tree used between two looks."""

    cpu: float  # seconds
    pss_before: float  # MiB
    pss_after: float


class Meter:
    """Looks at a tree when it is made, and again when asked. Without a pid it knows nothing."""

    def __init__(self, root: int | None) -> None:
        self._root = root
        self._pss = 0.0 if root is None else pss_mib(root)
        self._cpu = 0.0 if root is None else cpu_seconds(root)

    def read(self) -> Cost | None:
        if self._root is None:
            return None
        cpu = cpu_seconds(self._root) - self._cpu
        return Cost(cpu, self._pss, pss_mib(self._root))
