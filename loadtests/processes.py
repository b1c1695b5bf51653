"""What a process and its children use of the machine, as Linux counts it."""

from __future__ import annotations

import os
from pathlib import Path

USER, SYSTEM, PARENT = 11, 12, 1
"""Fields of ``/proc/PID/stat`` behind the name, as proc(5) counts them, less three."""


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_seconds(pid: int) -> float:
    """What a process has computed so far, in the user's and in the system's name; 0 once it has ended."""
    fields = _stat(pid)
    return (int(fields[USER]) + int(fields[SYSTEM])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def descendants(pid: int) -> set[int]:
    """The children of a process, and theirs."""
    parents = {
        int(entry.name): int(fields[PARENT])
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (fields := _stat(int(entry.name)))
    }
    found = {pid}
    while below := {child for child, parent in parents.items() if parent in found} - found:
        found |= below
    return found - {pid}


def _stat(pid: int) -> list[str]:
    """The fields behind the name, which may hold spaces; none of a process that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
