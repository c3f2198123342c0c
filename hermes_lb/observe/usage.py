"""What a process uses of the machine, as Linux tells it in /proc (proc(5))."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from functools import cache

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

# Fields of /proc/PID/stat, counted from the one behind the program's name, which may have spaces.
_USER_TICKS, _SYSTEM_TICKS, _START_TICKS, _VIRTUAL_BYTES, _RESIDENT_PAGES = 11, 12, 19, 20, 21


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process. All 0: not known."""

    open_files: int = 0
    max_files: int = 0  # the soft limit, `ulimit -n`
    cpu_seconds: float = 0.0  # user and system, since its start
    resident_bytes: int = 0
    virtual_bytes: int = 0
    started_at: float = 0.0  # seconds since 1970


def usage_of(pid: int) -> Usage | None:
    """Of any process of this user; None if there is no such process, or no /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return Usage(
            _open_files(pid),
            resource.prlimit(pid, resource.RLIMIT_NOFILE)[0],
            (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) / _TICKS,
            int(fields[_RESIDENT_PAGES]) * _PAGE,
            int(fields[_VIRTUAL_BYTES]),
            _booted_at() + int(fields[_START_TICKS]) / _TICKS,
        )
    except (OSError, AttributeError):  # no `prlimit`: not Linux
        return None


@cache
def _booted_at() -> float:
    with open("/proc/stat", "rb") as file:
        return float(next(line for line in file if line.startswith(b"btime")).split()[1])


def _open_files(pid: int) -> int:
    """Since Linux 6.2 the directory's size is their number; before, they have to be listed."""
    directory = f"/proc/{pid}/fd"
    return os.stat(directory).st_size or len(os.listdir(directory))
