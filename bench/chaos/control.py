"""`python -m bench.chaos.control PID`: what the machine itself does to timers while PID runs.

A process that sleeps for 5 ms at a time, and each time looks how long the kernel has let PID's main
thread wait for a core. SIGTERM ends it; its last line has two durations in seconds:

- the worst delay of a sleep of its own;
- the most that PID waited for a core within one second.

The first alone would be unfair to PID: who sleeps most of the time is preferred when it wakes.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_INTERVAL = 0.005  # s
_WINDOW = 1.0  # s


class _Ended(Exception):
    pass


def _end(number: int, frame: FrameType | None) -> None:
    raise _Ended


def _waited(schedstat: Path) -> float:
    """Seconds on a run queue so far (proc_pid_schedstat: time on the CPU, time waiting, slices)."""
    try:
        return int(schedstat.read_text().split()[1]) / 1e9
    except (OSError, IndexError):  # it has ended, or this kernel does not count
        return 0.0


def main(pid: str) -> None:
    signal.signal(signal.SIGTERM, _end)
    schedstat = Path(f"/proc/{pid}/schedstat")
    late = waited = 0.0
    window: deque[tuple[float, float]] = deque()  # (when, waited until then)
    try:
        while True:
            due = time.monotonic() + _INTERVAL
            time.sleep(_INTERVAL)
            now = time.monotonic()
            late = max(late, now - due)
            window.append((now, _waited(schedstat)))
            while window[0][0] < now - _WINDOW:
                window.popleft()
            waited = max(waited, window[-1][1] - window[0][1])
    except _Ended:
        print(f"{late:.6f} {waited:.6f}")


if __name__ == "__main__":
    main(sys.argv[1])
